"""A listener on a unix socket that only its owner reaches: the directory's rights and the socket's own, 0600."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from firewall.core.errors import ConfigFault
from firewall.net.asgi import App
from firewall.net.egress_proxy import unix_door
from firewall.net.protocol import ListenerState, ProtocolSettings, StrictProtocol

PATH_BYTES: Final = 107  # sun_path holds 108, the last is NUL


class UnixServer:
    """Serves an application that stands behind its Edge. A socket that is there and answers is never taken away."""

    def __init__(self, path: Path, app: App, settings: ProtocolSettings | None = None) -> None:
        self._path = path
        self._app = app
        self._settings = settings or ProtocolSettings()
        self._state = ListenerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Bind and listen. Raises ConfigFault("listen")."""
        if len(str(self._path).encode()) > PATH_BYTES:
            raise ConfigFault("listen", "the path is too long for a unix socket", fix="use a shorter path")
        try:
            await self._remove_dead()
            sock = unix_door(str(self._path))
        except OSError as error:
            raise ConfigFault(
                "listen", f"{self._path}: {error.strerror}", fix="name a path in a directory of yours"
            ) from None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: StrictProtocol(self._app, self._state, self._settings, loop=loop), sock=sock
        )

    async def stop(self) -> None:
        """Unbind and drop every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        self._path.unlink(missing_ok=True)
        self._server = None

    async def _remove_dead(self) -> None:
        """Remove a socket that nobody serves any more; anything else stays, and binding then fails."""
        if not self._path.is_socket():
            return
        try:
            _, writer = await asyncio.open_unix_connection(str(self._path))
        except ConnectionRefusedError:
            self._path.unlink(missing_ok=True)
        else:
            writer.close()
