"""How long a caller waits for SQLite's write lock while another program holds it.

The lock has one holder at a time. Between our workers it moves on within a commit; a foreign program (a shell
left inside ``BEGIN``, a maintenance job) may hold it for minutes. Who waits on an event loop stops every other
exchange of the worker, so there the wait is short, and happens once: while the lock does not move, each
further call looks a single time and is refused at once (StateUnavailable, answered 503). Threads and commands
stop nobody, and wait as long as people expect. Nobody sleeps with a lock of ours in hand.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from firewall.core.errors import StateUnavailable

LOOP_S: Final = 0.5  # many commits of every worker, and below what a caller takes for a stall
THREAD_S: Final = 5.0
_STEPS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02)  # then the last one again and again


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
        return Wait(self, THREAD_S if not _on_loop() else 0.0 if self.held else LOOP_S)


class Wait:
    """The wait of one call: `again` after each refusal by the lock, `done` when the lock let it in."""

    def __init__(self, patience: Patience, budget_s: float) -> None:
        self._patience = patience
        self._budget_s = budget_s
        self._tries = 0
        self._until_s = 0.0

    def again(self) -> bool:
        """Sleep for a moment and return True, or return False when the call has waited long enough."""
        now_s = self._patience.monotonic()
        if not self._tries:
            self._until_s = now_s + self._budget_s
        if now_s >= self._until_s:
            # What a thread could not have in its long time is as little to be had on the loop.
            self._patience.held = True
            return False
        step_s = _STEPS_S[min(self._tries, len(_STEPS_S) - 1)]
        self._tries += 1
        self._patience.sleep(min(step_s, self._until_s - now_s))
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
