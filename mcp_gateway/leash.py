"""A block that can be ended from outside: what cancels a call, or frees whoever waits for a client to leave."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Leash:
    """A block that can be ended from outside, without a task of its own: ``with leash``, ``leash.pull()``.

    What `asyncio.timeout` does with a deadline, at the price of a request that never needs it: the task
    is cancelled and the cancellation is taken back at the block's end. One from elsewhere goes through.
    """

    __slots__ = ("_before", "_sent", "_soon", "_task", "loop", "pulled")

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None  # who knows it says it: looking it up is a system call
        self._task: asyncio.Task[object] | None = None
        self._before = 0
        self._sent = False
        self._soon: asyncio.Handle | None = None
        self.pulled = False

    def __enter__(self) -> None:
        task = self._task = asyncio.current_task(self.loop)
        if task is None:
            raise RuntimeError("a leash is held by a task")
        self._before = task.cancelling()
        if self.pulled:
            self.pull()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if not self._sent or task is None:
            return False
        self._sent = False
        # Somebody else may want the task to end as well: then it ends.
        return task.uncancel() <= self._before and (kind is None or issubclass(kind, asyncio.CancelledError))

    def pull(self) -> None:
        """End the block at its next wait; the block then ends without an exception."""
        self.pulled = True
        if self._task is None or self._sent or self._soon is not None:
            return
        if asyncio.current_task() is self._task:
            # A task that cancels itself keeps the cancellation for later if it waits for nothing any more.
            self._soon = asyncio.get_running_loop().call_soon(self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None and not self._sent:
            self._sent = True
            self._task.cancel()
