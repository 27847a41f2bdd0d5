"""The rate of a caller: never passed by all workers together, and counted without the store."""

from __future__ import annotations

import pytest

from firewall.core.errors import StateUnavailable
from firewall.core.permit import Refusal
from firewall.enforce.limits import MINUTE_US, Limits, LimitSettings
from firewall.state.allowances import SharedAllowances
from tests.support.kit import FixedClock, call, kit, principal

START_US = 1_795_000_000_000_000 // MINUTE_US * MINUTE_US


class Pool:
    """The node's allowances, counting who asks."""

    def __init__(self) -> None:
        self.inner = SharedAllowances(None)
        self.asked = 0

    def take(self, key: bytes, window: int, wanted: int, *, ceiling: int) -> int:
        self.asked += 1
        return self.inner.take(key, window, wanted, ceiling=ceiling)


def workers(count: int = 1, *, per_minute: int = 1000) -> tuple[Pool, list[Limits]]:
    pool = Pool()
    return pool, [Limits(pool, LimitSettings(per_minute)) for _ in range(count)]


def spent(one: Limits, calls: int, clock: FixedClock) -> int:
    """Return how many of so many calls are within the limit."""
    return sum(one.take(principal(), clock.now_us()) == 0 for _ in range(calls))


@pytest.mark.parametrize("per_minute", [7, 1000])
def test_lim_01_all_workers_together_never_pass_the_ceiling(per_minute: int) -> None:
    clock = FixedClock(START_US)
    _, made = workers(4, per_minute=per_minute)
    for second in range(180):
        if second % 60 == 0:
            got = 0
        got += sum(spent(one, per_minute // 20 + 1, clock) for one in made)
        assert got <= per_minute
        if second % 60 == 59:
            assert got > per_minute * 3 // 4
        clock.advance(1)


def test_lim_01_without_a_common_count_every_worker_would_spend_the_whole() -> None:
    """The twin."""
    clock = FixedClock(START_US)
    apart = [one for _ in range(4) for one in workers()[1]]
    assert sum(spent(one, 1001, clock) for one in apart) == 4000


def test_the_node_is_asked_once_per_lease() -> None:
    clock = FixedClock(START_US)
    pool, (one,) = workers()
    assert spent(one, 900, clock) == 900
    assert pool.asked <= 20
    assert spent(one, 500, clock) == 100
    clock.advance(2)
    asked = pool.asked
    assert one.take(principal(), clock.now_us()) == 58
    assert pool.asked == asked + 1


async def test_a_limit_that_cannot_be_counted_is_told_as_state_and_not_as_too_much() -> None:
    """Failure closes, under its own name: a caller that waits a minute would wait for nothing."""
    k = kit(calls_per_minute=5)

    def away(*_: object, **__: object) -> int:
        raise StateUnavailable("closed")

    k.guard._limits._pool.take = away  # type: ignore[method-assign]
    refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert (refusal.fault.status, refusal.rules) == (503, ("core.state_unavailable",))
