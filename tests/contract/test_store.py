"""One suite over every implementation of core.ports.Store; the memory store is the model."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from firewall.core.errors import Conflict, Malformed, StateUnavailable
from firewall.core.ports import Store
from firewall.state.memory import MemoryStore
from firewall.state.sqlite import SQLiteStore


class Hand:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def now_us(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return self.now * 1000


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Hand) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore(clock)
    else:
        made = SQLiteStore(tmp_path / "state.sqlite", clock=clock, durable=False)
        yield made
        made.close()


def test_a_value_comes_back_with_its_version_and_expiry(store: Store) -> None:
    things = store.collection("things")
    assert things.get("t", "k") is None
    assert things.put("t", "k", b"\x00one", expires_us=2_000_000) == 1
    assert things.put("t", "k", b"two") == 2
    entry = things.get("t", "k")
    assert entry is not None
    assert (entry.key, entry.value, entry.version, entry.expires_us) == ("k", b"two", 2, 0)


def test_namespaces_and_tenants_do_not_see_each_other(store: Store) -> None:
    store.collection("a").put("t1", "k", b"1")
    assert store.collection("b").get("t1", "k") is None
    assert store.collection("a").get("t2", "k") is None
    assert list(store.collection("a").scan("t2")) == []
    assert store.collection("a").take("t2", "k") is None
    assert store.collection("a").get("t1", "k") is not None


def test_compare_and_set_holds_only_for_the_seen_version(store: Store) -> None:
    things = store.collection("c")
    assert things.put("t", "k", b"1", if_version=0) == 1
    with pytest.raises(Conflict):
        things.put("t", "k", b"x", if_version=0)
    assert things.put("t", "k", b"2", if_version=1) == 2
    with pytest.raises(Conflict):
        things.put("t", "k", b"x", if_version=1)
    with pytest.raises(Conflict):
        things.put("t", "absent", b"x", if_version=1)
    entry = things.get("t", "k")
    assert entry is not None
    assert entry.value == b"2"


def test_an_expired_entry_does_not_exist_for_any_operation(store: Store, clock: Hand) -> None:
    things = store.collection("e")
    for key in ("get", "put", "new", "if", "take", "delete", "add"):
        things.put("t", key, b"5", expires_us=clock.now + 10)
        things.put("t", key, b"5", expires_us=clock.now + 10)
    clock.now += 9
    assert things.get("t", "get") is not None
    clock.now += 1
    assert things.get("t", "get") is None
    assert list(things.scan("t")) == []
    assert things.put("t", "put", b"n") == 1
    assert things.put("t", "new", b"n", if_version=0) == 1
    with pytest.raises(Conflict):
        things.put("t", "if", b"n", if_version=2)
    assert things.take("t", "take") is None
    assert things.delete("t", "delete") is False
    assert things.add("t", "add", 7, ceiling=7) == 7


def test_take_gives_the_entry_once(store: Store) -> None:
    things = store.collection("o")
    things.put("t", "k", b"v")
    taken = things.take("t", "k")
    assert taken is not None
    assert taken.value == b"v"
    assert things.take("t", "k") is None
    assert things.get("t", "k") is None


def test_swap_changes_the_bytes_alone_and_only_those_that_were_seen(store: Store, clock: Hand) -> None:
    things = store.collection("w")
    things.put("t", "k", b"1", expires_us=clock.now + 10)
    things.put("t", "k", b"2", expires_us=clock.now + 10)
    assert not things.swap("t", "k", b"1", b"x")
    assert not things.swap("t", "absent", b"2", b"x")
    assert not things.swap("other", "k", b"2", b"x")
    assert not store.collection("v").swap("t", "k", b"2", b"x")
    assert things.swap("t", "k", b"2", b"two")
    entry = things.get("t", "k")
    assert entry is not None
    assert (entry.value, entry.version, entry.expires_us) == (b"two", 2, clock.now + 10)
    assert things.put("t", "k", b"3", if_version=2, expires_us=clock.now + 10) == 3
    clock.now += 10
    assert not things.swap("t", "k", b"3", b"x")
    assert things.get("t", "k") is None


def test_swap_of_what_is_gone_or_began_anew_does_nothing(store: Store) -> None:
    things = store.collection("w")
    things.put("t", "k", b"old")
    things.take("t", "k")
    assert not things.swap("t", "k", b"old", b"x")
    things.put("t", "k", b"new")  # version 1 again: what counts is the bytes
    assert not things.swap("t", "k", b"old", b"x")
    entry = things.get("t", "k")
    assert entry is not None
    assert entry.value == b"new"


def test_the_tenants_of_a_collection_are_those_with_live_entries(store: Store, clock: Hand) -> None:
    things = store.collection("n")
    assert list(things.tenants()) == []
    for tenant in ("b", "", "ä", "a"):
        for key in ("1", "2"):
            things.put(tenant, key, b"v", expires_us=clock.now + 10 if tenant == "b" else 0)
    store.collection("o").put("elsewhere", "k", b"v")
    assert list(things.tenants()) == ["", "a", "b", "ä"]
    clock.now += 10
    assert list(things.tenants()) == ["", "a", "ä"]
    things.take("a", "1")
    assert list(things.tenants()) == ["", "a", "ä"]
    things.take("a", "2")
    assert list(things.tenants()) == ["", "ä"]


def test_scan_is_in_code_point_order_and_stops_at_the_prefix(store: Store) -> None:
    things = store.collection("s")
    keys = ["a/\U0010ffff", "a/\uffff", "a/1", "a/10", "a/2", "b/1", "a", "%", "a/_", "a/é"]
    for key in keys:
        things.put("t", key, key.encode())
    assert [e.key for e in things.scan("t")] == sorted(keys)
    assert [e.key for e in things.scan("t", "a/")] == sorted(k for k in keys if k.startswith("a/"))
    assert [e.key for e in things.scan("t", "a/1")] == ["a/1", "a/10"]


def test_scan_pages_over_many_entries_while_they_are_removed(store: Store) -> None:
    things = store.collection("s")
    for n in range(600):
        things.put("t", f"{n:04}", b"")
    seen = []
    for entry in things.scan("t"):
        seen.append(entry.key)
        things.delete("t", entry.key)
    assert seen == [f"{n:04}" for n in range(600)]


def test_a_counter_grants_up_to_its_ceiling_and_takes_back_down_to_zero(store: Store, clock: Hand) -> None:
    counts = store.collection("n")
    assert counts.add("t", "k", -5, ceiling=10) == 0
    assert counts.get("t", "k") is None
    assert counts.add("t", "k", 4, ceiling=10, expires_us=clock.now + 100) == 4
    assert counts.add("t", "k", 4, ceiling=10, expires_us=clock.now + 999) == 4
    assert counts.add("t", "k", 4, ceiling=10) == 2
    assert counts.add("t", "k", 1, ceiling=10) == 0
    assert counts.add("t", "k", 1, ceiling=3) == 0
    assert counts.add("t", "k", -4, ceiling=10) == -4
    assert counts.add("t", "k", -40, ceiling=10) == -6
    entry = counts.get("t", "k")
    assert entry is not None
    assert (entry.value, entry.expires_us) == (b"0", clock.now + 100)


def test_adding_to_what_is_no_counter_fails_closed(store: Store) -> None:
    things = store.collection("n")
    things.put("t", "k", b"text")
    with pytest.raises(StateUnavailable):
        things.add("t", "k", 1, ceiling=5)
    assert things.put("t", "k", b"still writable") == 2


def test_keys_that_have_no_exact_form_are_refused(store: Store) -> None:
    things = store.collection("k")
    for key in ("\ud800", "x" * 2049):
        with pytest.raises(Malformed):
            things.put("t", key, b"")
    assert things.put("t", "x" * 2048, b"") == 1
    assert things.put("t", "", b"") == 1
    assert things.put("t", "nul\x00one", b"1") == 1
    assert things.put("t", "nul\x00two", b"2") == 1
    one = things.get("t", "nul\x00one")
    assert one is not None
    assert one.value == b"1"


KEYS = st.sampled_from(["a", "b", "ab", "é", "\U0001f600"])
TENANTS = st.sampled_from(["t1", "t2"])


class StoreMatchesModel(RuleBasedStateMachine):
    """SQLite against the memory store: any order of operations gives the same answers."""

    @initialize()
    def start(self) -> None:
        self.dir = tempfile.mkdtemp()
        self.clock = Hand()
        self.model = MemoryStore(self.clock).collection("c")
        self.store = SQLiteStore(Path(self.dir) / "s.sqlite", clock=self.clock, durable=False)
        self.real = self.store.collection("c")

    def both(self, name: str, *args: Any, **kwargs: Any) -> None:
        answers = []
        for target in (self.model, self.real):
            try:
                answers.append(getattr(target, name)(*args, **kwargs))
            except (Conflict, StateUnavailable) as error:
                answers.append(error.code)
        assert answers[0] == answers[1], name

    @rule(
        tenant=TENANTS,
        key=KEYS,
        value=st.binary(max_size=3),
        life=st.integers(0, 3),
        version=st.none() | st.integers(0, 4),
    )
    def put(self, tenant: str, key: str, value: bytes, life: int, version: int | None) -> None:
        expires = self.clock.now + life if life else 0
        self.both("put", tenant, key, value, expires_us=expires, if_version=version)

    @rule(tenant=TENANTS, key=KEYS, delta=st.integers(-5, 5), ceiling=st.integers(0, 8), life=st.integers(0, 3))
    def add(self, tenant: str, key: str, delta: int, ceiling: int, life: int) -> None:
        self.both("add", tenant, key, delta, ceiling=ceiling, expires_us=self.clock.now + life if life else 0)

    @rule(tenant=TENANTS, key=KEYS, name=st.sampled_from(["get", "take", "delete"]))
    def ask(self, tenant: str, key: str, name: str) -> None:
        self.both(name, tenant, key)

    @rule(step=st.integers(0, 2))
    def wait(self, step: int) -> None:
        self.clock.now += step

    @rule()
    def purge(self) -> None:
        self.store.purge()

    @invariant()
    def scans_agree(self) -> None:
        if hasattr(self, "real"):
            for tenant in ("t1", "t2"):
                for prefix in ("", "a"):
                    assert list(self.model.scan(tenant, prefix)) == list(self.real.scan(tenant, prefix))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.dir)


TestStoreMatchesModel = StoreMatchesModel.TestCase
TestStoreMatchesModel.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


def _contend(path: str, barrier: Any, out: Any) -> None:
    things = SQLiteStore(path, durable=False).collection("shared")
    barrier.wait(20)
    taken = [n for n in range(60) if things.take("t", f"one-shot-{n}") is not None]
    granted = sum(things.add("t", "budget", 3, ceiling=200) for _ in range(40))
    wins = 0
    for n in range(40):
        try:
            things.put("t", f"race-{n}", b"", if_version=0)
            wins += 1
        except Conflict:
            pass
    out.put((taken, granted, wins))


def test_four_processes_take_once_and_never_pass_the_ceiling(tmp_path: Path) -> None:
    path = str(tmp_path / "state.sqlite")
    things = SQLiteStore(path, durable=False).collection("shared")
    for n in range(60):
        things.put("t", f"one-shot-{n}", b"")
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(4), context.Queue()
    workers = [context.Process(target=_contend, args=(path, barrier, out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    results = [out.get(timeout=40) for _ in workers]
    for worker in workers:
        worker.join(20)
    taken = [n for result in results for n in result[0]]
    assert sorted(taken) == list(range(60))
    assert sum(result[1] for result in results) == 200
    assert sum(result[2] for result in results) == 40


def _open_fresh(path: str, barrier: Any, out: Any) -> None:
    barrier.wait(20)
    try:
        SQLiteStore(path).collection("x").put("t", "k", b"")
        out.put("ok")
    except Exception as error:  # the test prints it
        out.put(repr(error))


def test_four_processes_may_open_a_fresh_file_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, out = context.Barrier(4), context.Queue()
    path = str(tmp_path / "new.sqlite")
    workers = [context.Process(target=_open_fresh, args=(path, barrier, out)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert [out.get(timeout=40) for _ in workers] == ["ok"] * 4
    for worker in workers:
        worker.join(20)
