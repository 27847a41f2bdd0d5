"""How soon an ending takes effect, seen from outside: callers that never pause, and what the last one was told.

What is measured is when calls are *begun*: however slow the machine, a call that is begun after the ending and
served is one too many, and one that is begun before and answered late is none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

CALLERS: Final = 4
EACH: Final = 8  # calls of each caller before the ending, and refusals after its answer


@dataclass(frozen=True, slots=True)
class Ending:
    """What the callers saw. Times in seconds.

    late_s: how long after the ending was asked for the last call was begun that was served; 0.0 where none was.
    told_late_s: the same after the ending had been answered: 0.0 where whoever was told may rely on it.
    after: the statuses of the calls that were begun after the answer.
    pace_s: how long a call takes here and now (median): the yardstick for the machine.
    """

    late_s: float
    told_late_s: float
    after: frozenset[int]
    pace_s: float


async def watch(call: Callable[[], Awaitable[int]], end: Callable[[], Awaitable[object]]) -> Ending:
    """Call without a pause on several connections, end what they live on meanwhile, and return what they saw.

    call: makes one call on a connection of its own and returns its status; 200 before the ending.
    """
    calls: list[tuple[float, float, int]] = []  # begun, answered, status
    asked = told = float("inf")

    async def caller() -> None:
        early = late = 0
        while late < EACH:
            begun = time.monotonic()
            status = await call()
            calls.append((begun, time.monotonic(), status))
            early += 1
            late += begun > told and status != 200
            if early == EACH:
                ready.release()

    ready = asyncio.Semaphore(0)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
        for _ in range(CALLERS):
            await ready.acquire()
        asked = time.monotonic()
        await end()
        told = time.monotonic()  # callers end when they have been refused often enough since
    assert {status for begun, answered, status in calls if answered < asked} == {200}
    served = [begun for begun, _, status in calls if status == 200]
    return Ending(
        late_s=max(0.0, max(served) - asked),
        told_late_s=max(0.0, max(served) - told),
        after=frozenset(status for begun, _, status in calls if begun > told),
        pace_s=median(answered - begun for begun, answered, _ in calls),
    )


def in_time(late_s: Sequence[float], within_s: float, *, pace_s: float) -> bool:
    """Return whether the median of several endings was in time; on a machine that is out of breath, in its pace.

    A call takes some milliseconds: where it takes a hundred times as long, a second of ours is not a second.
    """
    return median(late_s) < max(within_s, 10 * pace_s)
