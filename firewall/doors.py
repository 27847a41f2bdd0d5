"""The doors of local programs: one unix socket per child, its only way out of its namespace (DESIGN §6b-7)."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from firewall.net.egress_proxy import Decide, Door, EgressProxy

__all__ = ["ChildDoors", "Decide"]


class ChildDoors:
    """One unix socket per local program: its only way out of its namespace leads to our proxy.

    directory: where the sockets stand; no child is given it. children: names of the programs. mark: part of
    the sockets' names, where several processes have doors in one directory.
    """

    def __init__(self, directory: Path, children: Iterable[str], proxy: EgressProxy, *, mark: str = "") -> None:
        self._directory = directory
        self._mark = mark
        self._children = tuple(children)
        self._proxy = proxy
        self._open: list[Door] = []

    @property
    def pattern(self) -> str:
        """The sockets' path with ``{name}`` for the child."""
        return str(self._directory / f"{{name}}{self._mark}.sock")

    async def start(self) -> None:
        """Bind every socket, owner only."""
        for child in self._children:
            path = self._directory / f"{child}{self._mark}.sock"
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.bind(str(path))
            path.chmod(0o600)
            self._open.append(await self._proxy.open(child, sock))

    async def stop(self) -> None:
        """Close them with everything that goes through."""
        for door in self._open:
            await door.close()
        for child in self._children:
            (self._directory / f"{child}{self._mark}.sock").unlink(missing_ok=True)
