"""Rows, bounds and transitions of messages that wait (A2A §7.6; DESIGN §6b-2, §6b-4)."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from a2a_gateway.message import Event, Send
from a2a_gateway.parked import INTERRUPTED, Asked, Parking, own_link
from a2a_gateway.tasks import COLLECTION, Caller, TaskBook
from firewall.core.bounds import STREAM_TOTAL_S
from firewall.core.errors import Malformed, StateUnavailable
from firewall.state.memory import MemoryStore
from firewall.state.sqlite import SQLiteStore
from firewall.state.vault import Sealer
from tests.support.kit import FixedClock

ALICE = Caller("default", "alice", "app", "echo")
OTHERS = [
    Caller("other", "alice", "app", "echo"),
    Caller("default", "bob", "app", "echo"),
    Caller("default", "alice", "app2", "echo"),
    Caller("default", "alice", "app", "echo2"),
]


def message(text="hello", message_id="m-1", **members):
    return Send({"message": {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": text}], **members}})


def parking(store, clock, **kwargs):
    rows = store.collection(COLLECTION)
    book = TaskBook(rows, b"k" * 32, clock, lifetime_s=7200)
    return Parking(rows, book, Sealer(b"e" * 32, clock), clock, os.urandom, **kwargs), book


def park(where, caller=ALICE, send=None):
    send = send or message()
    made = where.park(caller, Asked(send.params, ("urn:x",)), send)
    assert made is not None
    return made


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def store(clock):
    return MemoryStore(clock)


def test_what_waits_comes_back_as_it_was_asked_for_its_owner_alone(store, clock):
    where, _ = parking(store, clock)
    made = park(where)
    again = where.find(ALICE, made.task_id)
    assert again == made
    assert where.asked(ALICE, again) == Asked(message().params, ("urn:x",))
    assert len({made.task_id, made.context_id, park(where, send=message(message_id="m-2")).task_id}) == 3
    for who in OTHERS:
        assert where.find(who, made.task_id) is None


def test_a_row_that_was_moved_under_a_strangers_key_does_not_open(store, clock):
    # The twin with the key's digest out of the way: the seal is bound to the owner as well.
    where, _ = parking(store, clock)
    made = park(where)
    rows = store.collection(COLLECTION)
    (mine,) = [row for row in rows.scan("default") if "/parked/" in row.key]
    rows.put("default", where._key(OTHERS[1], made.task_id), mine.value)
    stolen = where.find(OTHERS[1], made.task_id)
    with pytest.raises(StateUnavailable):
        where.asked(OTHERS[1], stolen)


@pytest.mark.parametrize("value", [b"{}", b'{"state":"started"}', b"[]"])
def test_a_row_that_cannot_be_read_is_no_task(store, clock, value):
    where, _ = parking(store, clock)
    made = park(where)
    store.collection(COLLECTION).put("default", where._key(ALICE, made.task_id), value)
    with pytest.raises(StateUnavailable):
        where.find(ALICE, made.task_id)


@pytest.mark.parametrize("workers", [1, 4])
def test_of_all_workers_one_starts_a_task(tmp_path, clock, workers):
    stores = [SQLiteStore(tmp_path / "state.db", clock=clock) for _ in range(workers)]
    wheres = [parking(store, clock)[0] for store in stores]
    made = park(wheres[0])
    with ThreadPoolExecutor(workers) as pool:
        started = list(pool.map(lambda where: where.start(ALICE, where.find(ALICE, made.task_id)), wheres))
    assert sum(one is not None for one in started) == 1
    assert {where.find(ALICE, made.task_id).state for where in wheres} == {"started"}
    assert all(where.start(ALICE, where.find(ALICE, made.task_id)) is None for where in wheres)
    for store in stores:
        store.close()


def test_a_stale_view_of_a_task_moves_nothing(store, clock):
    where, _ = parking(store, clock)
    made = park(where)
    started = where.start(ALICE, made)
    assert where.cancel(ALICE, made) is None
    assert where.start(ALICE, made) is None
    assert where.find(ALICE, made.task_id) == started
    where.release(ALICE, started)
    assert where.cancel(ALICE, where.find(ALICE, made.task_id)).state == "canceled"


def test_a_worker_that_died_on_the_way_leaves_a_failed_task_and_a_spent_message(store, clock):
    where, book = parking(store, clock)
    made = park(where)
    where.start(ALICE, made)
    clock.advance(STREAM_TOTAL_S - 1)
    assert where.find(ALICE, made.task_id).state == "started"
    clock.advance(2)
    lost = where.find(ALICE, made.task_id)
    assert (lost.state, lost.why) == ("failed", INTERRUPTED)
    assert "not known" in lost.text
    assert where.holding(ALICE, message()) is None
    with pytest.raises(Malformed):
        book.first(ALICE, "m-1")


def test_a_message_is_not_sent_beside_its_task_however_late_that_was_started(store, clock):
    where, book = parking(store, clock)
    made = park(where)
    clock.advance(3599)
    assert where.start(ALICE, made) is not None
    clock.advance(30)  # the task's own hour is over, the call is not
    with pytest.raises(Malformed):
        book.first(ALICE, "m-1")
    assert where.find(ALICE, made.task_id).state == "started"


def test_what_never_left_may_come_again(store, clock):
    where, book = parking(store, clock)
    where.cancel(ALICE, park(where))
    book.first(ALICE, "m-1")
    book.undo(ALICE, book.first(ALICE, "m-2"))
    made = park(where, send=message(message_id="m-2"))
    where.fail(ALICE, where.start(ALICE, made), "denied", left=False)
    book.first(ALICE, "m-2")


def test_the_agents_ids_become_those_that_were_told(store, clock):
    where, book = parking(store, clock)
    started = where.start(ALICE, park(where))
    shown = Event("task", {"id": "T", "contextId": "C", "status": {"state": "TASK_STATE_WORKING"}})
    named = where.adopt(ALICE, started, shown)
    assert named == {("task", "T"): started.task_id, ("context", "C"): started.context_id}
    assert where.find(ALICE, started.task_id) is None
    assert book.theirs(ALICE, "task", started.task_id) == "T"
    assert book.theirs(ALICE, "context", started.context_id) == "C"
    assert book.shown(ALICE, "task", "T") == book.claim(ALICE, "task", "T") == started.task_id
    for who in OTHERS:
        with pytest.raises(Malformed) as unknown:
            book.theirs(who, "task", started.task_id)
        assert unknown.value.code == "task_unknown"
        assert book.shown(who, "task", "T") == book.ours(who, "task", "T") != started.task_id
    with pytest.raises(Malformed):
        book.theirs(ALICE, "context", started.task_id)


def test_a_context_that_was_shown_before_keeps_its_id_and_the_new_one_leads_to_it(store, clock):
    where, book = parking(store, clock)
    before = book.claim(ALICE, "context", "C")
    started = where.start(ALICE, park(where))
    shown = Event("task", {"id": "T", "contextId": "C", "status": {"state": "TASK_STATE_WORKING"}})
    assert where.adopt(ALICE, started, shown)["context", "C"] == before
    assert book.theirs(ALICE, "context", started.context_id) == book.theirs(ALICE, "context", before) == "C"


def test_an_agent_cannot_give_another_callers_task_to_a_parked_one(store, clock):
    where, book = parking(store, clock)
    book.claim(OTHERS[1], "task", "T")
    started = where.start(ALICE, park(where))
    with pytest.raises(Malformed) as caught:
        where.adopt(ALICE, started, Event("task", {"id": "T", "contextId": "C", "status": {"state": "x"}}))
    assert caught.value.code == "agent_response"
    with pytest.raises(Malformed):
        book.theirs(ALICE, "task", started.task_id)


def test_an_alias_lives_as_long_as_what_it_stands_for(store, clock):
    where, book = parking(store, clock)
    started = where.start(ALICE, park(where))
    where.adopt(ALICE, started, Event("task", {"id": "T", "contextId": "C", "status": {"state": "x"}}))
    for _ in range(3):
        clock.advance(7000)
        assert book.claim(ALICE, "task", "T") == started.task_id
    assert book.theirs(ALICE, "task", started.task_id) == "T"


@pytest.mark.parametrize(
    ("link", "ours"),
    [
        ("https://fw.example/upstream/connect/echo?ask=e_01ABC", True),
        ("https://fw.example/upstream/connect/echo", True),
        ("https://fw.example/upstream/connect/echo?ask=", False),
        ("https://fw.example/upstream/connect/echo?ask=a&b=c", False),
        ("https://fw.example/upstream/connect/echo?ask=a#x", False),
        ("https://fw.example/upstream/connect/echo2?ask=a", False),
        ("https://fw.example/upstream/connect/other", False),
        ("https://fw.example.evil/upstream/connect/echo", False),
        ("http://fw.example/upstream/connect/echo", False),
        ("https://evil.example/?https://fw.example/upstream/connect/echo?ask=a", False),
        ("", False),
    ],
)
def test_only_our_own_page_for_this_agent_is_ever_told(link, ours):
    assert own_link(link, "https://fw.example", "echo") is ours
