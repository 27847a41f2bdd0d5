"""How long a caller waits for SQLite's write lock while another program holds it.

The lock has one holder at a time. Between our workers it moves on within a commit, however slow the disk; a
foreign program (a shell left inside ``BEGIN``, a maintenance job) may hold it for minutes. The two are told apart by
a turn, a locked file (flock(2)) that each of ours holds while it writes: who has the turn and meets SQLite's lock
has met a stranger.

Who waits on an event loop stops every other exchange of the worker. So the wait for a stranger is short there, and
happens once: while the lock does not move, each further call looks a single time and is refused at once
(StateUnavailable, answered 503). Threads and commands stop nobody, and wait as long as people expect, as all do for
one of ours. Nobody sleeps with a lock of ours in hand.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from firewall.core.errors import StateUnavailable

LOOP_S: Final = 0.5  # below what a caller takes for a stall
THREAD_S: Final = 5.0
# Then the last one again and again: whoever looks more often is served first, and a loop should be.
_LOOP_STEPS_S: Final = (0.0005, 0.001)
_THREAD_STEPS_S: Final = (0.001, 0.002, 0.005)


class Turn:
    """Ours to write. One per connection; a connection is used by one thread at a time."""

    def __init__(self, path: str) -> None:
        """path: of the locked file, made where missing. Raises StateUnavailable."""
        try:
            self._handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateUnavailable(type(error).__name__) from error

    def take(self) -> bool:
        """Return whether it is ours now; False while another of our connections writes. Raises StateUnavailable."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise StateUnavailable(type(error).__name__) from error
        return True

    def give_back(self) -> None:
        """Let the next one write."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._handle)


class Patience:
    """One store's patience. sleep and monotonic (s) are the machine's, a test's otherwise."""

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self.monotonic = monotonic
        self.sleep = sleep
        self.held = False

    def wait(self) -> Wait:
        """Return the wait of one call."""
        return Wait(self)


class Wait:
    """The wait of one call: `again` after each refusal, `done` when it was let in."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._on_loop = False
        self._tries = 0
        self._since_s = 0.0
        self._moved_s = 0.0

    def again(self, *, ours: bool = False) -> bool:
        """Sleep for a moment and return True, or return False when the call has waited long enough.

        ours: it is one of our own connections that writes.
        """
        patience = self._patience
        now_s = patience.monotonic()
        if not self._tries:
            self._since_s = self._moved_s = now_s
            self._on_loop = _on_loop()
        if ours:
            self._moved_s = now_s
        left_s = self._since_s + THREAD_S - now_s
        if self._on_loop and not ours:
            left_s = min(left_s, self._moved_s + (0.0 if patience.held else LOOP_S) - now_s)
        if left_s <= 0:
            # What a thread could not have in its long time is as little to be had on the loop.
            patience.held = patience.held or not ours
            return False
        steps = _LOOP_STEPS_S if self._on_loop else _THREAD_STEPS_S
        step_s = steps[min(self._tries, len(steps) - 1)]
        self._tries += 1
        patience.sleep(min(step_s, left_s))
        return True

    def done(self) -> None:
        """Note that the lock moves."""
        self._patience.held = False


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether another connection's lock is the reason; the statement then did nothing (sqlite.org/rescode)."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_BUSY


@contextmanager
def guarded() -> Iterator[None]:
    """Turn SQLite's errors into StateUnavailable."""
    try:
        yield
    except sqlite3.Error as error:
        # The type alone: SQLite's texts may quote a value.
        raise StateUnavailable(type(error).__name__) from error


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
