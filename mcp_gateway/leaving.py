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


class Watch:
    """One call whose client is watched from ``due_s`` (loop time) on, until it is stopped."""

    __slots__ = ("_leash", "_receive", "_task", "_waiting", "due_s")

    def __init__(self, waiting: dict[Watch, None], receive: asgi.Receive, leash: Leash, due_s: float) -> None:
        self._waiting = waiting
        self._receive = receive
        self._leash = leash
        self._task: asyncio.Task[None] | None = None
        self.due_s = due_s
        waiting[self] = None

    def stop(self) -> None:
        """The call is over."""
        if self._task is None:
            self._waiting.pop(self, None)
        else:
            self._task.cancel()

    def start(self, tasks: Tasks) -> None:
        """Wait for the client to leave, from now on."""
        del self._waiting[self]
        self._task = tasks.spawn(self._pull(), "mcp.watch")

    async def _pull(self) -> None:
        await asgi.disconnected(self._receive)
        self._leash.pull()


class Leaving:
    """Watches the clients of a worker's calls."""

    __slots__ = ("_tasks", "_timer", "_waiting")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._waiting: dict[Watch, None] = {}  # by their time: each waits equally long
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, receive: asgi.Receive, leash: Leash) -> Watch:
        """Return the watch over a call that begins now; stop it when the call is over."""
        loop = asyncio.get_running_loop()
        one = Watch(self._waiting, receive, leash, loop.time() + WATCH_AFTER_S)
        if self._timer is None:
            self._timer = loop.call_at(one.due_s, self._look)
        return one

    def _look(self) -> None:
        """Start the watches whose time has come; the next look is when it comes for another."""
        self._timer = None
        loop = asyncio.get_running_loop()
        until = loop.time() + _TICK_S
        for one in list(self._waiting):
            if one.due_s > until:
                self._timer = loop.call_at(one.due_s, self._look)
                return
            one.start(self._tasks)
