"""What strangers may leave with us before anybody is known: bounded in all, and a flood turns out itself."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import Conflict, StateUnavailable
from firewall.identity import places
from firewall.identity.places import BUCKET_BYTES, BUCKET_ROWS, NETWORK_BYTES, NETWORK_ROWS, Places, Row, settle
from firewall.net.runtime import FakeClock
from firewall.state.memory import MemoryCollection, MemoryStore
from tests.identity.test_device import device_door, poll
from tests.support.door import ORIGIN, TIME, Browser, Door, authorize_query, make_door


def row(network: str, n: int, size: int = 1) -> Row:
    return Row(network, f"{network}{n}", size, 10**9)


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, NETWORK_BYTES // 2)), max_size=60))
def test_no_bound_is_passed_whatever_comes_and_in_whatever_order(asked: list[tuple[str, int]]) -> None:
    kept: list[Row] = []
    for n, (network, size) in enumerate(asked):
        before = [*kept, row(network, n, size)]
        kept, out = settle(kept, before[-1])
        assert kept[-1] is before[-1], "who asks now gets a place"
        assert sorted(map(id, kept + out)) == sorted(map(id, before))
        assert [known for known in before if known in kept] == kept, "oldest first"
    assert sum(known.size for known in kept) <= BUCKET_BYTES
    for name in "abcdefgh":
        assert sum(known.size for known in kept if known.network == name) <= NETWORK_BYTES


def test_a_network_turns_out_its_own_oldest_and_nobody_else() -> None:
    kept = [row("other", 0)]
    for n in range(NETWORK_ROWS + 5):
        kept, out = settle(kept, row("flood", n))
        assert out == ([row("flood", n - NETWORK_ROWS)] if n >= NETWORK_ROWS else [])
    assert row("other", 0) in kept


def test_a_full_bucket_takes_from_who_holds_most() -> None:
    """One request can be turned out only from as many networks as there are rows."""
    kept = [row("quiet", 0), *(row(f"n{n % 5}", n) for n in range(BUCKET_ROWS - 1))]
    for n in range(300):
        kept, out = settle(kept, row(f"new{n}", 0))
        assert [gone.network for gone in out] != ["quiet"] or n > BUCKET_ROWS - 10
        assert len(kept) == BUCKET_ROWS


def test_a_few_large_records_are_turned_out_before_many_small_ones() -> None:
    kept = [*(row("small", n) for n in range(50)), row("large", 0, NETWORK_BYTES), row("wide", 0, NETWORK_BYTES - 50)]
    kept, out = settle(kept, row("new", 0, 100))
    assert [gone.network for gone in out] == ["large"]


def at(door: Door, address: str) -> Browser:
    transport = httpx2.ASGITransport(app=door.identity.front_door, client=(address, 4000))
    return Browser(httpx2.AsyncClient(transport=transport, base_url=ORIGIN))


def waiting(door: Door, name: str) -> int:
    return len(list(door.store.collection(name).scan("_node")))


@pytest.mark.parametrize("fair", [True, False])
async def test_as_19_a_flood_of_requests_is_bounded_and_leaves_others_their_place(
    fair: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "BUCKETS", 1)
    monkeypatch.setattr(places, "BUCKET_ROWS", 8)
    monkeypatch.setattr(places, "NETWORK_ROWS", 4)
    if not fair:  # the twin: the oldest goes, whoever's it is
        monkeypatch.setattr(places, "_fullest", lambda rows: rows[0].network)
        monkeypatch.setattr(places, "NETWORK_ROWS", 8)
    door = make_door(authorize_per_minute=1000)
    await door.user()
    ada = at(door, "203.0.113.1")
    page = await ada.open(authorize_query())
    for n in range(12):
        assert (await at(door, f"198.51.100.{n % 3}").open(authorize_query())).status_code == 200
    assert waiting(door, "oauth_transactions") == 8
    assert (await ada.sign_in(page)).status_code == (200 if fair else 403)


@pytest.mark.parametrize("bounded", [True, False])
async def test_rfc9126_pushed_requests_of_one_network_are_bounded(
    bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bounded:  # the twin
        monkeypatch.setattr(Places, "take", lambda *_, **__: None)
    door = make_door(token_per_minute=1000)
    form = authorize_query(client_id="tool", redirect_uri="https://tool.example/cb", padding="x" * 8000)
    for n in range(NETWORK_ROWS + 20):
        # The addresses of one customer's /48 are one network, whatever /64 they are of.
        assert (await at(door, f"2001:db8:1:{n:x}::1").http.post("/par", data=form)).status_code == 201
    assert waiting(door, "pushed_requests") == (NETWORK_ROWS if bounded else NETWORK_ROWS + 20)
    assert all(b"padding" not in entry.value for entry in door.store.collection("pushed_requests").scan("_node"))


async def test_as_19_device_codes_of_many_addresses_lock_no_device_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of so many a minute for all together was one that strangers could use up."""
    monkeypatch.setattr(places, "BUCKETS", 1)
    monkeypatch.setattr(places, "BUCKET_ROWS", 16)
    monkeypatch.setattr(places, "NETWORK_ROWS", 4)
    door = device_door(authorize_per_minute=1000)
    form = {"client_id": "tv", "resource": TIME}
    first = await at(door, "203.0.113.1").http.post("/device_authorization", data=form)
    for n in range(700):
        assert (await at(door, f"198.51.100.{n % 5}").http.post("/device_authorization", data=form)).status_code == 200
    assert waiting(door, "device_codes") == waiting(door, "device_user_codes") == 16
    assert (await poll(at(door, "203.0.113.1").http, first.json()["device_code"])).json()[
        "error"
    ] == "authorization_pending"


def make_places(clock: FakeClock, alive: set[str], gone: list[str]) -> Places:
    return Places(MemoryStore(clock), clock, lambda n: b"\x07" * n, "x", alive=alive.__contains__, remove=gone.append)


def test_what_was_used_or_has_ended_frees_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "NETWORK_ROWS", 2)
    clock, alive, gone = FakeClock(), {"a", "c"}, list[str]()
    made = make_places(clock, alive, gone)
    ends_us = clock.now_us() + 10**6
    for key in "abc":
        made.take("192.0.2.7", key, size=1, expires_us=ends_us)
    assert gone == [], "b was used"
    alive |= set("defg")
    made.take("192.0.2.7", "d", size=1, expires_us=ends_us)
    assert gone == ["a"]
    clock.advance(2)
    made.take("192.0.2.7", "e", size=1, expires_us=clock.now_us() + 10**6)
    made.take("192.0.2.7", "f", size=1, expires_us=clock.now_us() + 10**6)
    assert gone == ["a"], "the others had ended by themselves"


def test_places_that_others_take_all_the_time_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    made = make_places(clock, set(), [])
    made.take("192.0.2.7", "a", size=1, expires_us=clock.now_us() + 1)

    def lost(*_: object, **__: object) -> int:
        raise Conflict

    monkeypatch.setattr(MemoryCollection, "put", lost)
    with pytest.raises(StateUnavailable):
        made.take("192.0.2.7", "b", size=1, expires_us=clock.now_us() + 1)


def test_a_flood_into_a_full_bucket_does_not_look_for_every_record_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "BUCKETS", 1)
    monkeypatch.setattr(places, "BUCKET_ROWS", 50)
    clock, looked = FakeClock(), list[str]()
    store = MemoryStore(clock)
    made = Places(store, clock, lambda n: b"\x07" * n, "x", alive=lambda key: not looked.append(key), remove=len)  # type: ignore[func-returns-value]
    for n in range(200):
        made.take(f"198.51.100.{n}", str(n), size=1, expires_us=clock.now_us() + 10**9)
    assert len(looked) == 50
    clock.advance(10)
    made.take("203.0.113.1", "later", size=1, expires_us=clock.now_us() + 10**9)
    assert len(looked) == 100
