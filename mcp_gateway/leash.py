"""A block that can be ended from outside: what cancels a call, or frees whoever waits for a client to leave."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Leash:
    """A block that can be ended from outside, without a task of its own: ``async with leash``, ``leash.pull()``."""

    __slots__ = ("_active", "_timeout", "pulled")

    def __init__(self) -> None:
        self._timeout = asyncio.timeout(None)
        self._active = False
        self.pulled = False

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._active = True
        if self.pulled:
            self.pull()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool:
        self._active = False
        try:
            await self._timeout.__aexit__(kind, error, where)
            return False
        except TimeoutError:
            if self.pulled:
                return True
            raise

    def pull(self) -> None:
        """End the block at its next wait; the block then ends without an exception."""
        self.pulled = True
        if self._active:
            self._timeout.reschedule(asyncio.get_running_loop().time())
