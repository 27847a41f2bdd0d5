"""Clocks (of `clock`), identifiers and supervised tasks: the only place that reads time, makes chance and makes tasks.

Everything else gets them as arguments, so that pure code stays deterministic and no task is orphaned.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable, Coroutine
from typing import Final, TypeVar

from firewall.net.clock import FakeClock, SystemClock

__all__ = ["FakeClock", "RandomIds", "SystemClock", "Tasks", "trim"]

T = TypeVar("T")

# Five bits of a random byte choose a letter; 256 is a multiple of 32, so that each is equally likely.
_CROCKFORD: Final = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ" * 8
_ID_CHARS: Final = 26
_IDS_DRAWN: Final = 64


class RandomIds:
    """Unguessable identifiers (core.ports.Ids).

    The system's randomness is drawn for many ids at once; each byte of it is used in one id only.
    A fork would give two processes the same ids: make one after it, as every worker does.
    """

    __slots__ = ("_drawn",)

    def __init__(self) -> None:
        self._drawn: list[str] = []

    def new(self, prefix: str) -> str:
        """Return ``prefix_`` and 26 Crockford base32 characters: 130 bits of the system's randomness."""
        try:
            tail = self._drawn.pop()  # one step for the interpreter: two threads never get the same
        except IndexError:
            drawn = os.urandom(_ID_CHARS * _IDS_DRAWN).translate(_CROCKFORD).decode()
            tail, *rest = [drawn[at : at + _ID_CHARS] for at in range(0, len(drawn), _ID_CHARS)]
            self._drawn.extend(rest)
        return f"{prefix}_{tail}"


def _ignore(_name: str, _error: BaseException) -> None:
    """Take no notice: the owner awaits its tasks itself."""


class Tasks:
    """A set of supervised tasks with one end.

    on_error: told the name and the exception of every task that ended with one; cancellation is none.
    """

    __slots__ = ("_closed", "_on_error", "_tasks")

    def __init__(self, on_error: Callable[[str, BaseException], None] = _ignore) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._on_error = on_error
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, coro: Coroutine[object, None, T], name: str) -> asyncio.Task[T]:
        """Start a task that lives until it ends, is cancelled, or `close` is called.

        Raises RuntimeError after `close` (the coroutine is closed, not leaked).
        """
        if self._closed:
            coro.close()
            raise RuntimeError("these tasks are closed")
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def close(self) -> None:
        """Cancel every task and wait until all have ended; nothing can be spawned afterwards."""
        self._closed = True
        me = asyncio.current_task()
        pending = [task for task in self._tasks if task is not me]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.gather(*pending, return_exceptions=True)

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_error(task.get_name(), error)


def trim() -> None:
    """Give memory that starting took and freed back to the system, where its allocator can (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return
