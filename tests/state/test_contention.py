"""Another program holds SQLite's write lock: an event loop is not made to wait for it, and nothing half-done is told."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from firewall.core.errors import StateUnavailable
from firewall.state import contention
from firewall.state.backup import check_backup
from firewall.state.contention import LOOP_S, THREAD_S, Patience
from firewall.state.sqlite import PURGE_EVERY, SQLiteStore
from tests.support import door as doors
from tests.support.door import Browser, make_door, redeem


class Nap:
    """Time that passes by sleeping alone; ``during`` happens at each nap."""

    def __init__(self) -> None:
        self.slept_s = 0.0
        self.during: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
        self.during()

    def patience(self) -> Patience:
        return Patience(monotonic=lambda: self.slept_s, sleep=self.sleep)


@contextmanager
def foreign_writer(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program that began to write, and has not ended."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield db


@pytest.fixture
def nap() -> Nap:
    return Nap()


@pytest.fixture
def store(tmp_path: Path, nap: Nap) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(tmp_path / "s.sqlite", durable=False, patience=nap.patience())) as made:
        yield made


async def test_a_loop_waits_shortly_and_once_while_the_lock_does_not_move(store: SQLiteStore, nap: Nap) -> None:
    """Chosen by us: who waits on a loop stops every exchange of its worker."""
    things = store.collection("c")
    things.put("t", "k", b"before")
    with foreign_writer(store.path):
        with pytest.raises(StateUnavailable):
            things.put("t", "k", b"during")
        assert nap.slept_s == pytest.approx(LOOP_S)
        for write in (lambda: things.add("t", "n", 1, ceiling=9), lambda: things.take("t", "k"), store.purge):
            with pytest.raises(StateUnavailable):
                write()
        assert nap.slept_s == pytest.approx(LOOP_S), "a known holder is not waited for again"
        read = things.get("t", "k")
        assert read is not None
        assert read.value == b"before"
    assert things.put("t", "k", b"after") == 2
    assert things.add("t", "n", 1, ceiling=9) == 1
    with foreign_writer(store.path), pytest.raises(StateUnavailable):
        things.delete("t", "k")
    assert nap.slept_s == pytest.approx(2 * LOOP_S), "the lock had moved, so it was worth a wait"


async def test_a_loop_that_does_not_know_itself_stands_still_for_seconds(
    store: SQLiteStore, nap: Nap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the test above: without the look for a loop, every write stops the worker for seconds."""
    monkeypatch.setattr(contention, "_on_loop", lambda: False)
    with foreign_writer(store.path):
        for n in (1, 2):
            with pytest.raises(StateUnavailable):
                store.collection("c").put("t", "k", b"v")
            assert nap.slept_s == pytest.approx(n * THREAD_S)


async def test_a_lock_that_moves_in_time_refuses_nobody(store: SQLiteStore, nap: Nap) -> None:
    with foreign_writer(store.path) as foreign:
        nap.during = lambda: foreign.rollback()
        assert store.collection("c").put("t", "k", b"v") == 1
    assert 0 < nap.slept_s < LOOP_S


@pytest.mark.parametrize("known", [True, False])
async def test_a_loop_waits_longer_for_one_of_ours_which_moves_on_however_slow_the_disk(
    known: bool, store: SQLiteStore, nap: Nap, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:  # the twin: nobody tells our own writers from strangers
        monkeypatch.setattr(contention.Turn, "take", lambda _self: True)
    with closing(SQLiteStore(store.path, durable=False)) as other, ExitStack() as writing:
        writing.enter_context(other.transaction())
        nap.during = lambda: writing.close() if nap.slept_s > 2 * LOOP_S else None
        if known:
            assert store.collection("c").put("t", "k", b"v") == 1
            assert 2 * LOOP_S < nap.slept_s < 3 * LOOP_S
        else:
            with pytest.raises(StateUnavailable):
                store.collection("c").put("t", "k", b"v")


async def test_one_of_ours_that_is_stuck_is_waited_for_to_an_end_and_is_no_stranger(
    store: SQLiteStore, nap: Nap
) -> None:
    with closing(SQLiteStore(store.path, durable=False)) as other:
        with other.transaction(), pytest.raises(StateUnavailable):
            store.collection("c").put("t", "k", b"v")
        assert nap.slept_s == pytest.approx(THREAD_S)
        with foreign_writer(store.path), pytest.raises(StateUnavailable):
            store.collection("c").put("t", "k", b"v")
        assert nap.slept_s == pytest.approx(THREAD_S + LOOP_S)


def test_a_thread_is_patient_and_stops_nobody_meanwhile(store: SQLiteStore, nap: Nap) -> None:
    """While one thread waits for another program, the others read, and find out for themselves that they cannot write."""
    things = store.collection("c")
    things.put("t", "k", b"v")
    seen: list[object] = []
    with foreign_writer(store.path) as foreign:

        def meanwhile() -> None:
            if nap.slept_s < 2 * LOOP_S:
                return
            reader = threading.Thread(target=lambda: seen.append(things.get("t", "k")), daemon=True)
            reader.start()
            reader.join(5)
            if foreign.in_transaction:
                foreign.execute("ROLLBACK")

        nap.during = meanwhile
        assert things.add("t", "n", 1, ceiling=9) == 1
    assert seen
    assert seen[0] is not None


def test_a_sweep_that_fails_does_not_undo_what_was_told_done(store: SQLiteStore) -> None:
    """A one-time code is taken by one statement; what is tidied after it may not make that an error."""
    things = store.collection("c")
    things.put("t", "code", b"v")
    store._writes = PURGE_EVERY - 1
    store._connection().set_authorizer(
        lambda action, *_: sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_SELECT else sqlite3.SQLITE_OK
    )
    assert things.take("t", "code") is not None
    assert store._writes == PURGE_EVERY
    store._connection().set_authorizer(None)
    things.put("t", "k", b"v")
    assert store._writes == 0


def test_a_backup_needs_no_write_lock(tmp_path: Path, store: SQLiteStore, nap: Nap) -> None:
    store.collection("c").put("t", "k", b"v")
    with foreign_writer(store.path):
        with closing(SQLiteStore(store.path, patience=nap.patience())) as second:
            second.backup(tmp_path / "copy.sqlite")
    assert nap.slept_s == 0
    assert check_backup(tmp_path / "copy.sqlite").entries == 1


async def test_the_front_door_answers_503_at_once_and_cached_tokens_go_on(
    tmp_path: Path, nap: Nap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Durable before answered: a code that could not be spent durably is not spent, and works when the lock is free."""
    path = tmp_path / "state.db"
    monkeypatch.setattr(
        doors, "MemoryStore", lambda clock: SQLiteStore(path, clock=clock, durable=False, patience=nap.patience())
    )
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        access = (await redeem(http, (await browser.code())["code"])).json()["access_token"]
        assert door.verified(access).subject
        code = (await browser.code())["code"]
        with foreign_writer(path):
            refused = await redeem(http, code)
            assert (refused.status_code, refused.json()["error"]) == (503, "temporarily_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            assert (await browser.open({"client_id": doors.CIMD_URL})).status_code == 503
            assert nap.slept_s == pytest.approx(LOOP_S)
            assert door.verified(access).subject
        assert (await redeem(http, code)).status_code == 200
