"""The machine's clocks, and one that moves only when told. Apart from `runtime`, which a small process need not load."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's clocks (core.ports.Clock)."""

    __slots__ = ()

    def now_us(self) -> int:
        """Return wall time, microseconds since the Unix epoch, UTC."""
        return time.time_ns() // 1000

    # A monotonic clock, nanoseconds. The function itself: it is asked on every request.
    monotonic_ns = staticmethod(time.monotonic_ns)


class FakeClock:
    """A clock that moves only when told (core.ports.Clock); for tests and replays."""

    __slots__ = ("_monotonic_ns", "_now_us")

    def __init__(self, now_us: int = 1_790_000_000_000_000) -> None:
        self._now_us = now_us
        self._monotonic_ns = 1_000_000_000

    def now_us(self) -> int:
        """Return the set wall time."""
        return self._now_us

    def monotonic_ns(self) -> int:
        """Return the set monotonic time."""
        return self._monotonic_ns

    def advance(self, seconds: float) -> None:
        """Move both clocks forward."""
        self._now_us += round(seconds * 1_000_000)
        self._monotonic_ns += round(seconds * 1_000_000_000)

    def step(self, seconds: float) -> None:
        """Set the wall clock alone, backwards by a negative number, as an operator or a time server does."""
        self._now_us += round(seconds * 1_000_000)
