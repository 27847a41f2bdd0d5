"""Clients that leave: a modern client that closes its stream cancels its call (MCP 2026-07-28, transports).

Most calls are over in milliseconds and need nobody who waits for that. The others get a task each, which one
timer starts for all calls of a worker.
"""

from __future__ import annotations

import asyncio
from typing import Final

from firewall.net import asgi
from firewall.net.runtime import Tasks
from mcp_gateway.leash import Leash

WATCH_AFTER_S: Final = 0.05  # most calls are over by then
_TICK_S: Final = 0.001  # of the loop's clock: a timer may ring so much too early


class Leaving:
    """Watches the clients of a worker's calls; a call is known by its leash, which is pulled when its client left."""

    __slots__ = ("_loop", "_tasks", "_timer", "_waiting", "_watched")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._loop: asyncio.AbstractEventLoop | None = None  # of all its calls, from the first on
        self._timer: asyncio.TimerHandle | None = None
        # By their time, which is the loop's: each waits equally long.
        self._waiting: dict[Leash, tuple[float, asgi.Receive]] = {}
        self._watched: dict[Leash, asyncio.Task[None]] = {}

    def watch(self, receive: asgi.Receive, leash: Leash) -> None:
        """Watch the client of a call that begins now; `stop` when the call is over."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        leash.loop = loop
        due_s = loop.time() + WATCH_AFTER_S
        self._waiting[leash] = (due_s, receive)
        if self._timer is None:
            self._timer = loop.call_at(due_s, self._look)

    def stop(self, leash: Leash) -> None:
        """The call is over."""
        if self._waiting.pop(leash, None) is None:
            task = self._watched.pop(leash, None)
            if task is not None:
                task.cancel()

    def _look(self) -> None:
        """Start the watches whose time has come; the next look is when it comes for another."""
        self._timer = None
        loop = asyncio.get_running_loop()
        until = loop.time() + _TICK_S
        for leash, (due_s, receive) in list(self._waiting.items()):
            if due_s > until:
                self._timer = loop.call_at(due_s, self._look)
                return
            del self._waiting[leash]
            self._watched[leash] = self._tasks.spawn(_pull(receive, leash), "mcp.watch")


async def _pull(receive: asgi.Receive, leash: Leash) -> None:
    await asgi.disconnected(receive)
    leash.pull()
