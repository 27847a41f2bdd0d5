"""Streams end with the token that opened them: at its expiry, or within seconds of its revocation (RS-19).

A look costs a microsecond while the token stands in the cache. It is a timer, not a task: a thousand held
streams need none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final

CHECK_S: Final = 2.0


class TokenWatch:
    """Asks every two seconds whether a token is still good, and says once when it is not.

    every_s: 0 means `CHECK_S`. still: synchronous; what it raises is a no. over: called once, from the loop; afterwards
    nothing is asked any more. A watch that was stopped is done with, and holds nothing.
    """

    __slots__ = ("_every_s", "_over", "_still", "_timer")

    def __init__(self, still: Callable[[], bool], over: Callable[[], None], *, every_s: float = 0) -> None:
        self._still: Callable[[], bool] | None = still
        self._over: Callable[[], None] | None = over
        self._every_s = every_s or CHECK_S
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to ask. A second call does nothing."""
        if self._timer is None and self._still is not None:
            self._arm()

    def stop(self) -> None:
        """Ask no more, ever."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # What is asked mostly holds whoever asks: without this every request would leave a ring of objects.
        self._still = self._over = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._look)

    def _look(self) -> None:
        still, over = self._still, self._over
        if still is None or over is None:
            return
        try:
            good = still()
        except Exception:  # noqa: BLE001  in a timer it would go nowhere: the stream would live on, and nobody ask again
            good = False
        if good:
            self._arm()
        else:
            self._timer = None
            over()


class Tenure:
    """A block that ends when a token does: ``async with Tenure(still) as tenure: …``, then ask ``tenure.over``.

    The block is cancelled at its next wait and left without an exception.
    """

    __slots__ = ("_limit", "_watch", "over")

    def __init__(self, still: Callable[[], bool], *, every_s: float = 0) -> None:
        self.over = False
        self._watch = TokenWatch(still, self._end, every_s=every_s)
        self._limit: asyncio.Timeout | None = None

    async def __aenter__(self) -> Tenure:
        self._limit = asyncio.timeout(None)
        await self._limit.__aenter__()
        self._watch.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        self._watch.stop()
        assert self._limit is not None
        try:
            await self._limit.__aexit__(kind, error, where)
        except TimeoutError:
            if self.over:
                return True
            raise
        return False

    def _end(self) -> None:
        self.over = True
        assert self._limit is not None
        self._limit.reschedule(asyncio.get_running_loop().time())
