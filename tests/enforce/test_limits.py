"""The rate of a caller: never passed by all workers together, and not lost when the store is busy for a while."""

from __future__ import annotations

import pytest

from firewall.core.errors import StateUnavailable
from firewall.core.permit import Refusal
from firewall.core.ports import Collection
from firewall.enforce import limits
from firewall.enforce.limits import MINUTE_US, Limits, LimitSettings
from firewall.state.memory import MemoryStore
from tests.support.kit import FixedClock, call, kit, principal

START_US = 1_795_000_000_000_000 // MINUTE_US * MINUTE_US


class Pool:
    """The node's pool, which can be out of reach, and counts who asks."""

    def __init__(self, inner: Collection) -> None:
        self.inner = inner
        self.away = False
        self.asked = 0

    def add(self, tenant: str, key: str, delta: int, *, ceiling: int, expires_us: int = 0) -> int:
        self.asked += 1
        if self.away:
            raise StateUnavailable("busy")
        return self.inner.add(tenant, key, delta, ceiling=ceiling, expires_us=expires_us)


def workers(clock: FixedClock, count: int = 1, *, per_minute: int = 1000) -> tuple[Pool, list[Limits]]:
    pool = Pool(MemoryStore(clock).collection("limits"))
    return pool, [Limits(pool, clock, LimitSettings(per_minute)) for _ in range(count)]  # type: ignore[arg-type]


def spent(one: Limits, calls: int) -> int:
    """Return how many of so many calls are within the limit."""
    return sum(one.take(principal()) == 0 for _ in range(calls))


@pytest.mark.parametrize("per_minute", [7, 1000])
def test_lim_01_all_workers_together_never_pass_the_ceiling(per_minute: int) -> None:
    clock = FixedClock(START_US)
    _, made = workers(clock, 4, per_minute=per_minute)
    for second in range(180):
        if second % 60 == 0:
            got = 0
        got += sum(spent(one, per_minute // 20 + 1) for one in made)
        assert got <= per_minute
        if second % 60 == 59:
            assert got > per_minute * 3 // 4
        clock.advance(1)


def test_the_pool_is_asked_once_per_lease() -> None:
    clock = FixedClock(START_US)
    pool, (one,) = workers(clock)
    assert spent(one, 900) == 900
    assert pool.asked <= 20
    assert spent(one, 500) == 100
    clock.advance(2)
    asked = pool.asked
    assert one.take(principal()) == 58
    assert pool.asked == asked + 1


@pytest.mark.parametrize("ahead", [True, False])
def test_a_caller_goes_on_over_the_turn_of_a_minute_while_the_pool_is_away(
    ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not ahead:  # the twin
        monkeypatch.setattr(limits, "AHEAD_FROM", 10**9)
    clock = FixedClock(START_US + MINUTE_US // 2)
    pool, (one,) = workers(clock)
    assert spent(one, 5) == 5
    pool.away = True
    clock.advance(29)
    assert spent(one, 5) == 5
    clock.advance(2)
    if not ahead:
        with pytest.raises(StateUnavailable):
            one.take(principal())
        return
    assert spent(one, 50) == 50
    asked = pool.asked
    with pytest.raises(StateUnavailable):
        one.take(principal())
    assert asked - 1 <= pool.asked <= asked + 1, "it was asked now and then, not by every call"
    pool.away = False
    assert one.take(principal()) == 0


def test_a_lease_is_renewed_before_it_is_empty() -> None:
    clock = FixedClock(START_US)
    pool, (one,) = workers(clock)
    assert spent(one, 38) == 38
    pool.away = True
    assert spent(one, 62) == 62


async def test_a_limit_that_cannot_be_counted_is_told_as_state_and_not_as_too_much() -> None:
    """Failure closes, under its own name: a caller that waits a minute would wait for nothing."""
    k = kit(calls_per_minute=5)

    def away(*_: object, **__: object) -> int:
        raise StateUnavailable("busy")

    k.guard._limits._pool.add = away  # type: ignore[method-assign]
    refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert (refusal.fault.status, refusal.rules) == (503, ("core.state_unavailable",))
