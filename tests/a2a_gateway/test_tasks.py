"""Whose an id is, and the order of events (a2a reference §5.2, GW-20, GW-24; threats A2A-03)."""

import pytest

from a2a_gateway.message import Event
from a2a_gateway.tasks import COLLECTION, Caller, Progress, TaskBook
from firewall.core.errors import Malformed
from firewall.state.memory import MemoryStore
from firewall.state.sqlite import SQLiteStore
from tests.support.kit import FixedClock

ALICE = Caller("default", "alice", "app", "echo")


@pytest.fixture
def clock():
    return FixedClock()


@pytest.fixture
def store(clock):
    return MemoryStore(clock)


@pytest.fixture
def book(store, clock):
    return TaskBook(store.collection(COLLECTION), b"k" * 32, clock, lifetime_s=3600)


def others():
    return [
        Caller("other", "alice", "app", "echo"),
        Caller("default", "bob", "app", "echo"),
        Caller("default", "alice", "app2", "echo"),
        Caller("default", "alice", "app", "echo2"),
        Caller("default", "alic", "eapp", "echo"),
    ]


def code_of(call):
    with pytest.raises(Malformed) as caught:
        call()
    return caught.value.code


def test_an_id_leads_back_for_its_owner_and_is_the_same_each_time(book):
    ours = book.claim(ALICE, "task", "up-1")
    assert ours != "up-1"
    assert len(ours) == 36
    assert book.claim(ALICE, "task", "up-1") == ours
    assert book.theirs(ALICE, "task", ours) == "up-1"


@pytest.mark.parametrize("who", others())
def test_an_id_means_nothing_for_anyone_else_and_nothing_tells_it_from_an_unknown_one(book, who):
    ours = book.claim(ALICE, "task", "up-1")
    assert code_of(lambda: book.theirs(who, "task", ours)) == "task_unknown"
    assert code_of(lambda: book.theirs(who, "task", "0" * 8 + ours[8:])) == "task_unknown"
    assert book.ours(who, "task", "up-1") != ours


def test_without_the_owner_in_the_digest_the_row_alone_would_lead_a_stranger_to_the_task(book, store):
    # The twin with the control off: the row is found by anyone of the tenant; the remade id refuses them.
    ours = book.claim(ALICE, "task", "up-1")
    bob = Caller("default", "bob", "app", "echo")
    assert store.collection(COLLECTION).get("default", f"echo/task/is/{ours}").value == b"up-1"
    assert code_of(lambda: book.theirs(bob, "task", ours)) == "task_unknown"


@pytest.mark.parametrize("bad", ["", "x", "up-1", "../" * 12, "0" * 36, "G" * 36, "٠" * 36])
def test_a_tampered_id_is_unknown(book, bad):
    book.claim(ALICE, "task", "up-1")
    assert code_of(lambda: book.theirs(ALICE, "task", bad)) == "task_unknown"


def test_a_task_id_is_not_a_context_id(book):
    ours = book.claim(ALICE, "task", "same")
    assert book.claim(ALICE, "context", "same") != ours
    assert code_of(lambda: book.theirs(ALICE, "context", ours)) == "task_unknown"


@pytest.mark.parametrize("who", [o for o in others() if o.agent == "echo"])
def test_an_agent_that_shows_one_callers_task_to_another_is_in_error(book, who):
    book.claim(ALICE, "task", "up-1")
    assert code_of(lambda: book.claim(who, "task", "up-1")) == "agent_response"


def test_an_upstream_id_cannot_be_guessed_from_ours_nor_ours_without_the_key(book, store, clock):
    another = TaskBook(store.collection(COLLECTION), b"j" * 32, clock)
    assert another.ours(ALICE, "task", "up-1") != book.ours(ALICE, "task", "up-1")


@pytest.mark.parametrize("workers", [1, 4])
def test_every_worker_of_a_node_agrees_about_ids_and_replays(tmp_path, clock, workers):
    stores = [SQLiteStore(tmp_path / "state.db", clock=clock) for _ in range(workers)]
    books = [TaskBook(store.collection(COLLECTION), b"k" * 32, clock) for store in stores]
    ours = books[0].claim(ALICE, "task", "up-1")
    bob = Caller("default", "bob", "app", "echo")
    for book in books:
        assert book.claim(ALICE, "task", "up-1") == ours
        assert book.theirs(ALICE, "task", ours) == "up-1"
        assert code_of(lambda book=book: book.claim(bob, "task", "up-1")) == "agent_response"
    books[0].first(ALICE, "m-1")
    for book in books:
        assert code_of(lambda book=book: book.first(ALICE, "m-1")) == "message_replayed"
    for store in stores:
        store.close()


def test_an_id_ends_with_its_lifetime(book, clock):
    ours = book.claim(ALICE, "task", "up-1")
    clock.advance(3601)
    assert code_of(lambda: book.theirs(ALICE, "task", ours)) == "task_unknown"


def test_a_message_id_may_come_once_in_its_window_and_again_after_it(book, clock):
    book.first(ALICE, "m-1")
    assert code_of(lambda: book.first(ALICE, "m-1")) == "message_replayed"
    book.first(ALICE, "m-2")
    for who in others():
        book.first(who, "m-1")
    clock.advance(601)
    book.first(ALICE, "m-1")


def test_a_message_that_never_left_may_come_again(book):
    book.undo(ALICE, book.first(ALICE, "m-1"))
    book.first(ALICE, "m-1")


def test_with_the_replay_window_off_a_message_comes_twice(store, clock):
    book = TaskBook(store.collection(COLLECTION), b"k" * 32, clock, replay_s=0)
    book.first(ALICE, "m-1")
    book.first(ALICE, "m-1")


def task(state="TASK_STATE_SUBMITTED", task_id="T", context_id="C", artifacts=()):
    body = {"id": task_id, "contextId": context_id, "status": {"state": state}}
    if artifacts:
        body["artifacts"] = [{"artifactId": a} for a in artifacts]
    return Event("task", body)


def status(state="TASK_STATE_WORKING", task_id="T", context_id="C"):
    return Event("statusUpdate", {"taskId": task_id, "contextId": context_id, "status": {"state": state}})


def artifact(name="a", append=False, task_id="T"):
    return Event(
        "artifactUpdate", {"taskId": task_id, "contextId": "C", "artifact": {"artifactId": name}, "append": append}
    )


MESSAGE = Event("message", {"messageId": "m", "role": "ROLE_AGENT"})


@pytest.mark.parametrize(
    "events",
    [
        [MESSAGE],
        [task(), status(), artifact(), artifact(append=True), status("TASK_STATE_COMPLETED")],
        [task("TASK_STATE_COMPLETED")],
        [task("TASK_STATE_WORKING"), status("TASK_STATE_INPUT_REQUIRED")],
        [task(), status("TASK_STATE_AUTH_REQUIRED"), status(), status("TASK_STATE_COMPLETED")],
        [task(artifacts=["a"]), artifact(append=True)],
        [task(), task("TASK_STATE_WORKING")],
    ],
)
def test_events_in_their_order_pass(events):
    progress = Progress()
    for event in events:
        progress.feed(event)


@pytest.mark.parametrize(
    "events",
    [
        [status()],
        [artifact()],
        [task(), MESSAGE],
        [MESSAGE, MESSAGE],
        [task(), status(task_id="other")],
        [task(), status(context_id="other")],
        [task(), task(task_id="other")],
        [task("TASK_STATE_COMPLETED"), status()],
        [task(), status("TASK_STATE_CANCELED"), artifact()],
        [task(), status(), status("TASK_STATE_SUBMITTED")],
        [task(), artifact(append=True)],
        [task(), artifact("a"), artifact("b", append=True)],
    ],
)
def test_an_event_out_of_order_or_of_another_task_ends_the_answer(events):
    progress = Progress()
    for event in events[:-1]:
        progress.feed(event)
    assert code_of(lambda: progress.feed(events[-1])) == "agent_response"


def test_an_answer_about_another_task_than_the_one_asked_for_is_refused():
    assert code_of(lambda: Progress(task_id="T").feed(task(task_id="other"))) == "agent_response"
    assert code_of(lambda: Progress(context_id="C").feed(task(context_id="other"))) == "agent_response"
