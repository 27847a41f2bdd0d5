"""Questions about tokens that somebody made up: bounded at the issuer, and shared out by network."""

from __future__ import annotations

import asyncio

import pytest

from firewall.core.errors import StateUnavailable, Unauthenticated
from firewall.identity.issuers import introspection
from firewall.identity.issuers.turns import (
    AT_ONCE,
    KEPT_AT_ONCE,
    KEPT_PER_S,
    PER_S,
    QUIET_S,
    Turns,
)
from firewall.identity.throttle import network_of
from firewall.net.runtime import FakeClock
from tests.identity.test_issuers import Direct, opaque

FLOOD = "198.51.100.1"


async def made_up(direct: Direct, n: int, *, address: str = FLOOD) -> bool:
    """Return whether the issuer was asked about a token that nobody issued."""
    try:
        await direct.admit(f"made-up-{address}-{n}", address=address)
    except StateUnavailable:
        return False  # come again; a good token is not thrown away as invalid
    except Unauthenticated:
        return True
    raise AssertionError


@pytest.mark.parametrize("shared_out", [True, False])
async def test_a_flood_from_one_address_leaves_newcomers_of_others_their_turn(
    shared_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shared_out:  # the twin: one bound for all
        monkeypatch.setattr(Turns, "_has_share", lambda *_: True)
    direct = opaque()
    asked = sum([await made_up(direct, n) for n in range(200)])
    assert asked == (PER_S - KEPT_PER_S if shared_out else PER_S)
    if shared_out:
        assert (await direct.admit("good", address="203.0.113.1")).subject == "corp|00u1"
    else:
        with pytest.raises(StateUnavailable):
            await direct.admit("good", address="203.0.113.1")


@pytest.mark.parametrize("by_customer", [True, False])
async def test_one_customer_with_many_networks_is_one_newcomer(
    by_customer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has a /48 of IPv6 has 65,536 networks of their own to come from."""
    if not by_customer:  # the twin
        monkeypatch.setattr("firewall.identity.issuers.turns.wide_network_of", network_of)
    direct = opaque()
    asked = sum([await made_up(direct, n, address=f"2001:db8:7:{n:x}::1") for n in range(200)])
    assert asked == (PER_S - KEPT_PER_S if by_customer else PER_S)
    if by_customer:
        assert (await direct.admit("good", address="203.0.113.1")).subject == "corp|00u1"
    else:
        with pytest.raises(StateUnavailable):
            await direct.admit("good", address="203.0.113.1")


async def test_an_issuer_that_hangs_is_asked_few_questions_at_once_and_some_are_kept_for_others() -> None:
    direct = opaque()
    direct.provider.hangs = True
    waiting = [asyncio.create_task(made_up(direct, n)) for n in range(40)]
    await asyncio.sleep(0.01)
    assert len(direct.provider.asked) == AT_ONCE - KEPT_AT_ONCE
    waiting += [asyncio.create_task(made_up(direct, 0, address=f"203.0.113.{n}")) for n in range(9)]
    await asyncio.sleep(0.01)
    assert len(direct.provider.asked) == AT_ONCE
    for one in waiting:
        one.cancel()


async def test_an_issuer_that_is_away_lets_nobody_in_and_is_not_asked_again_at_once() -> None:
    direct = opaque()
    direct.provider.status = 0
    for _ in range(2):
        assert await direct.refused("good") == "jwt_claims inactive"
    assert len(direct.provider.asked) == 1


async def test_made_up_tokens_put_nobody_out_who_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(introspection, "ENTRIES", 50)
    direct = opaque()
    assert await direct.admit("good")
    for second in range(4):
        direct.door.clock.advance(10)
        for n in range(100):
            await made_up(direct, 100 * second + n)
    # More was made up than is remembered, and this second is spent: what was good is asked about all the same.
    assert not await made_up(direct, 9_999)
    before = len(direct.provider.forms)
    assert await direct.admit("good", address=FLOOD)
    assert len(direct.provider.forms) == before + 1


async def test_what_was_good_is_asked_about_first_when_its_issuer_is_back() -> None:
    direct = opaque()
    assert await direct.admit("good")
    direct.door.clock.advance(31)
    direct.provider.status = 0
    assert await direct.refused("good") == "jwt_claims inactive"
    direct.provider.status = 200
    direct.door.clock.advance(6)
    for n in range(100):
        await made_up(direct, n)
    assert await direct.admit("good", address=FLOOD)


def turns() -> tuple[FakeClock, Turns]:
    clock = FakeClock()
    return clock, Turns(clock)


def asked(made: Turns, address: str, tries: int = 100) -> int:
    """Return how many turns an address gets in a row; each question is answered at once."""
    got = 0
    for _ in range(tries):
        turn = made.take(address)
        if turn:
            made.give_back(turn)
            got += 1
    return got


def test_those_who_ask_share_equally_and_the_quiet_find_a_turn() -> None:
    clock, made = turns()
    for _ in range(2):
        for n in range(8):
            made.give_back(made.take(f"198.51.100.{n}") or "none")
        clock.advance(1)
    made.take("quiet")
    # From the second moment on that they are all known, none has more than its part.
    assert [asked(made, f"198.51.100.{n}") for n in range(8)] == [4] * 8
    assert asked(made, "newcomer") >= 1


def test_a_network_that_was_quiet_is_a_newcomer_again() -> None:
    clock, made = turns()
    assert asked(made, FLOOD) == PER_S - KEPT_PER_S
    assert asked(made, FLOOD) == 0
    clock.advance(QUIET_S)
    assert asked(made, "203.0.113.1", tries=1) == 1
    assert asked(made, FLOOD, tries=1) == 1
    assert asked(made, FLOOD) == (PER_S - KEPT_PER_S) // 2 - 1


def test_the_memory_of_who_asked_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("firewall.identity.issuers.turns.NETWORKS", 5)
    clock, made = turns()
    assert sum(asked(made, f"198.51.100.{n}", tries=1) for n in range(9)) == 5
    clock.advance(QUIET_S)
    assert asked(made, "203.0.113.1", tries=1) == 1


def test_the_addresses_of_one_network_have_one_part() -> None:
    _, made = turns()
    got = sum(asked(made, f"2001:db8::{n:x}", tries=1) for n in range(100))
    assert got == PER_S - KEPT_PER_S
