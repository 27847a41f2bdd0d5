"""The operator's unix socket: the admin API for whoever runs the node, without a password.

``admin.sock`` lies in the state directory (0700), is 0600 itself, and the kernel says who is at the
other end (SO_PEERCRED, unix(7)): our own user or root, nobody else. Of several workers one holds it, by a
lock; when that one ends, another takes it over.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Final

from firewall.admin.serve import AdminApp
from firewall.core.errors import ConfigFault
from firewall.net.asgi import App, Receive, Scope, Send
from firewall.net.edge import Edge, EdgeSettings
from firewall.net.egress_proxy import unix_door
from firewall.net.protocol import ListenerState, ProtocolSettings, StrictProtocol
from firewall.net.runtime import Tasks

HOST: Final = "localhost"  # what the command line writes into Host
CONNECTIONS: Final = 32
TAKE_OVER_S: Final = 1.0
PATH_BYTES: Final = 107  # sun_path holds 108, the last is NUL
_UCRED: Final = struct.Struct("3i")


class OperatorSocket:
    """Binds, serves and unbinds. background: coroutine functions that run between start and stop."""

    def __init__(
        self,
        path: Path,
        app: AdminApp,
        tasks: Tasks,
        *,
        allowed: frozenset[int] | None = None,
        background: Sequence[Callable[[], Coroutine[object, None, None]]] = (),
    ) -> None:
        self._path = path
        self._app = app
        self._tasks = tasks
        self._allowed = frozenset({os.geteuid(), 0}) if allowed is None else allowed
        self._background = tuple(background)
        self._lock = -1
        self._server: asyncio.Server | None = None
        self._state = ListenerState()
        self._waiting: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether this worker is the one that serves the socket."""
        return self._server is not None

    async def start(self) -> None:
        """Serve the socket, or wait until its present holder ends. Raises ConfigFault("admin_socket")."""
        if len(os.fsencode(self._path)) > PATH_BYTES:
            raise ConfigFault(
                "admin_socket", "the path of admin.sock is too long for a unix socket", fix="use a shorter state_dir"
            )
        for run in self._background:
            self._tasks.spawn(run(), "admin.background")
        if not await self._take():
            self._waiting = self._tasks.spawn(self._take_over(), "admin.socket")

    async def stop(self) -> None:
        """Unbind and drop every connection."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._server is not None:
            self._server.close()
            for connection in list(self._state.connections):
                connection.transport.abort()
            self._path.unlink(missing_ok=True)
            self._server = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def _take_over(self) -> None:
        while True:
            await asyncio.sleep(TAKE_OVER_S)  # another process's lock: there is nothing to wait on
            if await self._take():
                return

    async def _take(self) -> bool:
        """Bind if nobody else holds the lock; what a dead holder left behind is replaced."""
        try:
            lock = os.open(
                self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
            self._path.unlink(missing_ok=True)
            sock = unix_door(str(self._path))
        except OSError as error:
            raise ConfigFault(
                "admin_socket", f"{self._path}: {error.strerror}", fix="set state_dir to a directory that you may write"
            ) from None
        await self._listen(sock)
        return True

    async def _listen(self, sock: socket.socket) -> None:
        app, loop = Edge(self._serve, EdgeSettings(frozenset({HOST}))), asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _OperatorConnection(self._allowed, app, self._state, loop), sock=sock
        )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        if client and str(client[0]).startswith("uid:"):
            await self._app.as_operator(str(client[0]), scope, receive, send)


def peer_uid(sock: socket.socket) -> int:
    """Return the user at the other end of a connected unix socket; −1 when the kernel does not say."""
    try:
        _pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except (OSError, AttributeError, struct.error):
        return -1
    return int(uid)


class _OperatorConnection(StrictProtocol):
    """One connection, of a peer who may."""

    def __init__(
        self, allowed: frozenset[int], app: App, state: ListenerState, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(app, state, ProtocolSettings(connections=CONNECTIONS), loop=loop)
        self._allowed = allowed

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        uid = peer_uid(transport.get_extra_info("socket"))
        super().connection_made(transport)
        if uid not in self._allowed:
            transport.abort()
            return
        self.client = (f"uid:{uid}", 0)
