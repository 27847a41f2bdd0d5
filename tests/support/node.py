"""Several workers of one node in a test's own process, and an endpoint that sends each request to another one."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from firewall.net.asgi import App, Receive, Scope, Send
from firewall.net.channel import Peers, Seat
from firewall.net.handover import Handover
from firewall.net.runtime import Tasks
from firewall.state.lease import Leases
from mcp_gateway.owner import Neighbours

SECRET = b"n" * 32


@contextlib.asynccontextmanager
async def neighbours(count: int, tasks: Tasks) -> AsyncIterator[list[Neighbours]]:
    """Yield each worker's view of the others; sockets are open once `begin` was called."""
    run = Path(tempfile.mkdtemp(prefix="bz-"))
    made = []
    for index in range(count):
        peers = Peers(Seat(index, count, run, SECRET), tasks)
        made.append(Neighbours(peers, Handover(peers, tasks), Leases(run / "leases", index)))
    try:
        yield made
    finally:
        for one in made:
            await one.peers.stop()
            one.leases.close()
        shutil.rmtree(run, ignore_errors=True)


async def begin(near: Sequence[Neighbours], applications: Sequence[App]) -> None:
    """Open every worker's socket; what is handed over goes to its application."""
    for one, application in zip(near, applications, strict=True):
        one.handover.use(application)
        await one.peers.start()


class Spread:
    """An ASGI application over several: sessions begin at the first, every other request goes to another worker.

    So whatever needs the live part of a session arrives where it is not, and what needs none is spread.
    """

    def __init__(self, applications: Sequence[App]) -> None:
        self._applications = list(applications)
        self._turn = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on; its first part of the body is looked at, and given along."""
        if scope["type"] != "http":
            await self._applications[0](scope, receive, send)
            return
        first: Any = await receive() if scope["method"] == "POST" else None
        if first is not None and _method(first.get("body", b"")) == "initialize":
            application = self._applications[0]
        else:
            self._turn = self._turn % (len(self._applications) - 1) + 1
            application = self._applications[self._turn]
        pending = [first] if first is not None else []

        async def again() -> Any:
            return pending.pop() if pending else await receive()

        await application(scope, again, send)


def _method(body: bytes) -> str:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return str(value.get("method", "")) if isinstance(value, dict) else ""
