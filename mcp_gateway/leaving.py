"""Clients that leave: a modern client that closes its stream cancels its call (MCP 2026-07-28, transports).

Most calls are over in milliseconds and need nobody who waits for that. The others get a task each, which one
timer starts for all calls of a worker.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from firewall.net import asgi
from firewall.net.runtime import Tasks
from mcp_gateway.leash import Leash

WATCH_AFTER_S: Final = 0.05  # most calls are over by then
_TICK_S: Final = 0.001  # of the loop's clock: a timer may ring so much too early


class Watch:
    """One call that is watched from ``due_s`` (loop time) on, until it is stopped."""

    __slots__ = ("_leash", "_receive", "_task", "due_s")

    def __init__(self, receive: asgi.Receive, leash: Leash, due_s: float) -> None:
        self._receive: asgi.Receive | None = receive
        self._leash: Leash | None = leash
        self._task: asyncio.Task[None] | None = None
        self.due_s = due_s

    @property
    def over(self) -> bool:
        """Whether it was stopped."""
        return self._leash is None

    def stop(self) -> None:
        """The call is over. What waits for its time holds nothing of it."""
        self._receive = self._leash = None
        if self._task is not None:
            self._task.cancel()

    def start(self, tasks: Tasks) -> None:
        """Pull the leash as soon as the client leaves."""
        if self._receive is not None and self._leash is not None:
            self._task = tasks.spawn(_pull(self._receive, self._leash), "mcp.watch")


class Leaving:
    """Watches the clients of a worker's calls."""

    __slots__ = ("_tasks", "_timer", "_waiting")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._waiting: deque[Watch] = deque()  # by their time: each waits equally long
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, receive: asgi.Receive, leash: Leash) -> Watch:
        """Return the watch over a call that begins now; stop it when the call is over."""
        loop = asyncio.get_running_loop()
        one = Watch(receive, leash, loop.time() + WATCH_AFTER_S)
        self._waiting.append(one)
        if self._timer is None:
            self._timer = loop.call_at(one.due_s, self._look)
        return one

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        until = loop.time() + _TICK_S
        waiting = self._waiting
        while waiting and (waiting[0].over or waiting[0].due_s <= until):
            waiting.popleft().start(self._tasks)
        if waiting:
            self._timer = loop.call_at(waiting[0].due_s, self._look)


async def _pull(receive: asgi.Receive, leash: Leash) -> None:
    await asgi.disconnected(receive)
    leash.pull()
