"""Whose tasks are whose: foreign, expired and unknown ids are one and the same answer."""

from dataclasses import replace

import pytest

from firewall.core.errors import Malformed
from firewall.net.runtime import FakeClock, RandomIds
from firewall.state.memory import MemoryStore
from firewall.state.sqlite import SQLiteStore
from mcp_gateway import tasks
from mcp_gateway.tasks import CORE, EXTENSION, Task
from mcp_gateway.tasks_table import COLLECTION, TaskTable, owner_of
from tests.support.kit import principal

HERE, ELSEWHERE = "http://127.0.0.1:8700/mcp/demo", "http://127.0.0.1:8700/mcp"
TIME = "2025-11-25T10:30:00Z"
TASK = Task("u-1", "working", TIME, TIME, 60_000, 500, text="secret text")
ALICE = principal()
OTHERS = [
    ("another user", {"subject": "u_bob"}),
    ("another client", {"client_id": "https://other.example/c.json"}),
    ("another issuer", {"issuer": "https://evil.example"}),
    ("another tenant", {"tenant": "other"}),
]


class Tables:
    def __init__(self, **options):
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.table = TaskTable(self.store.collection(COLLECTION), self.clock, RandomIds(), **options)

    def claim(self, who=ALICE, endpoint=HERE, task=TASK, **changes):
        given = {"upstream": "demo", "key": "static", "tool": "slow", "shape": CORE, "decision": "d_1", **changes}
        return self.table.claim(who, endpoint, task, **given)


def test_a_task_is_found_by_its_owner_under_an_id_that_says_nothing_of_the_upstreams():
    t = Tables()
    entry = t.claim()
    assert entry.id.startswith("task_")
    assert "u-1" not in entry.id
    found = t.table.find(ALICE, HERE, entry.id)
    assert found == entry
    assert (found.theirs, found.tool, found.upstream, found.decision) == ("u-1", "slow", "demo", "d_1")
    assert found.task == replace(TASK, text="")


@pytest.mark.parametrize(("who", "change"), OTHERS, ids=[o[0] for o in OTHERS])
def test_for_anyone_else_a_task_is_unknown(who, change):
    t = Tables()
    entry = t.claim()
    with pytest.raises(Malformed, match="handle_invalid"):
        t.table.find(replace(ALICE, **change), HERE, entry.id)


def test_a_task_of_one_endpoint_is_unknown_at_another():
    t = Tables()
    entry = t.claim()
    with pytest.raises(Malformed, match="handle_invalid"):
        t.table.find(ALICE, ELSEWHERE, entry.id)


def test_without_the_owner_in_the_key_a_stolen_id_would_open():
    """The control off: the row is there, and only the owner's digest keeps a thief from it."""
    t = Tables()
    entry = t.claim()
    rows = t.store.collection(COLLECTION)
    assert rows.get("default", f"is/{owner_of(ALICE, HERE)}/{entry.id}") is not None
    assert rows.get("default", f"is/{owner_of(replace(ALICE, subject='u_bob'), HERE)}/{entry.id}") is None


def test_ids_that_could_not_be_ours_are_unknown_before_any_look_up():
    t = Tables()
    for bad in ("", "x" * 65, "task_é", "../is", "task/1", "u-1", "a\x00b"):
        with pytest.raises(Malformed, match="handle_invalid"):
            t.table.find(ALICE, HERE, bad)


def test_a_task_ends_with_its_own_time_and_at_the_latest_with_ours():
    for ttl, lives_s in ((60_000, 60), (None, tasks.TTL_MS_MAX / 1000), (2**45, tasks.TTL_MS_MAX / 1000)):
        t = Tables()
        entry = t.claim(task=replace(TASK, ttl_ms=ttl))
        t.clock.advance(lives_s - 1)
        t.table.find(ALICE, HERE, entry.id)
        t.table.update("default", entry, replace(TASK, ttl_ms=None, status="working"))
        t.clock.advance(1)
        with pytest.raises(Malformed, match="handle_invalid"):
            t.table.find(ALICE, HERE, entry.id)
        assert t.table.heard("default", "demo", "static", "u-1") is None
        assert list(t.store.collection(COLLECTION).scan("default")) == []


def test_an_upstream_that_shows_one_callers_task_to_another_is_in_error():
    t = Tables()
    mine = t.claim()
    for who in (ALICE, replace(ALICE, subject="u_bob")):
        with pytest.raises(Malformed, match="result_shape"):
            t.claim(who=who)
    assert t.table.find(ALICE, HERE, mine.id) == mine
    assert t.table.of(replace(ALICE, subject="u_bob"), HERE, "", 10) == ([], "")
    t.claim(key="another credential")
    t.claim(upstream="second")


def test_a_notification_finds_the_task_of_its_own_link_alone():
    t = Tables()
    entry = t.claim()
    assert t.table.heard("default", "demo", "static", "u-1") == entry
    for slot in (
        ("other", "demo", "static"),
        ("default", "second", "static"),
        ("default", "demo", "x"),
    ):
        assert t.table.heard(*slot, "u-1") is None
    assert t.table.heard("default", "demo", "static", "u-2") is None


def test_a_list_holds_the_callers_own_core_tasks_in_order_and_in_pages():
    t = Tables()
    mine = sorted(t.claim(task=replace(TASK, id=f"u-{n}")).id for n in range(5))
    t.claim(task=replace(TASK, id="ext"), shape=EXTENSION)
    t.claim(who=replace(ALICE, subject="u_bob"), task=replace(TASK, id="bob"))
    t.claim(endpoint=ELSEWHERE, task=replace(TASK, id="else"))
    seen, after = [], ""
    while True:
        page, after = t.table.of(ALICE, HERE, after, 2)
        seen += [entry.id for entry in page]
        if not after:
            break
    assert seen == mine


def test_a_caller_has_a_bounded_number_of_tasks():
    t = Tables(bound=2)
    t.claim(task=replace(TASK, id="a"))
    assert t.table.room(ALICE, HERE)
    t.claim(task=replace(TASK, id="b"))
    assert not t.table.room(ALICE, HERE)
    with pytest.raises(Malformed, match="over_limit"):
        t.claim(task=replace(TASK, id="c"))
    t.claim(who=replace(ALICE, subject="u_bob"), task=replace(TASK, id="d"))


def test_a_task_that_is_over_stays_as_it_ended_and_text_is_never_stored():
    t = Tables()
    entry = t.table.update("default", t.claim(), replace(TASK, status="completed", text="poison"))
    assert t.table.find(ALICE, HERE, entry.id).status == "completed"
    t.table.update("default", entry, replace(TASK, status="working"))
    assert t.table.find(ALICE, HERE, entry.id).status == "completed"
    assert all(b"poison" not in row.value for row in t.store.collection(COLLECTION).scan("default"))


def test_a_forgotten_task_leaves_no_row():
    t = Tables()
    t.table.forget("default", t.claim())
    assert list(t.store.collection(COLLECTION).scan("default")) == []
    t.claim()


def test_workers_agree_through_the_store(tmp_path):
    clock = FakeClock()
    first, second = (SQLiteStore(tmp_path / "state.db", clock=clock) for _ in range(2))
    try:
        one = TaskTable(first.collection(COLLECTION), clock, RandomIds())
        other = TaskTable(second.collection(COLLECTION), clock, RandomIds())
        entry = one.claim(ALICE, HERE, TASK, upstream="demo", key="k", tool="slow", shape=CORE, decision="d")
        assert other.find(ALICE, HERE, entry.id) == entry
        other.update("default", entry, replace(TASK, status="failed"))
        assert one.find(ALICE, HERE, entry.id).status == "failed"
        with pytest.raises(Malformed, match="result_shape"):
            other.claim(ALICE, HERE, TASK, upstream="demo", key="k", tool="slow", shape=CORE, decision="d")
    finally:
        first.close()
        second.close()


def test_a_question_is_closed_once_whoever_else_read_it_as_open():
    t = Tables()
    entry = t.table.update("default", t.claim(), replace(TASK, status="input_required"), asks={"a": [], "b": []})
    again = t.table.find(ALICE, HERE, entry.id)  # another request, which has read the same row
    assert t.table.close("default", entry, ["a"])
    assert not t.table.close("default", again, ["a"])
    assert not t.table.close("default", again, ["a", "b"])
    assert t.table.close("default", again, ["b"])  # the twin: this one is open still
    assert t.table.find(ALICE, HERE, entry.id).asks == {}


def test_of_two_workers_that_close_a_question_at_once_one_does():
    t = Tables()
    entry = t.table.update("default", t.claim(), replace(TASK, status="input_required"), asks={"a": []})
    rows = t.table._rows
    read = rows.get

    class Slow:
        def __getattr__(self, name):
            return getattr(rows, name)

        def get(self, tenant, key):
            found = read(tenant, key)
            assert TaskTable(rows, t.clock, RandomIds()).close("default", entry, ["a"])  # the other worker, in between
            return found

    t.table._rows = Slow()
    assert not t.table.close("default", entry, ["a"])


@pytest.mark.parametrize("told", [None, {"a": []}], ids=["without questions", "with what was read before"])
def test_a_state_that_is_noted_late_opens_no_question_again_that_was_closed_meanwhile(told):
    t = Tables()
    waiting = replace(TASK, status="input_required")
    entry = t.table.update("default", t.claim(), waiting, asks={"a": [], "b": []})
    assert t.table.close("default", entry, ["a"])  # by another request, while the upstream was asked about the state
    t.table.update("default", entry, replace(waiting, updated="2025-11-25T10:31:00Z"), asks=told)
    found = t.table.find(ALICE, HERE, entry.id)
    assert "a" not in found.asks
    assert not t.table.close("default", found, ["a"])
    assert found.updated == "2025-11-25T10:31:00Z"
    # The twin: who has read the row as it is, and is asked again, may answer again.
    t.table.update("default", found, waiting, asks={"a": []})
    assert t.table.close("default", t.table.find(ALICE, HERE, entry.id), ["a"])


def test_a_task_that_works_again_has_no_open_questions():
    t = Tables()
    entry = t.table.update("default", t.claim(), replace(TASK, status="input_required"), asks={"a": []})
    t.table.update("default", entry, TASK)  # its state was refused, so nothing of it was shown
    assert t.table.find(ALICE, HERE, entry.id).asks == {}


def test_a_task_that_was_forgotten_is_not_brought_back_by_a_late_state():
    t = Tables()
    entry = t.claim()
    t.table.forget("default", entry)
    t.table.update("default", entry, replace(TASK, status="completed"))
    with pytest.raises(Malformed, match="handle_invalid"):
        t.table.find(ALICE, HERE, entry.id)


def test_of_two_states_noted_at_once_the_end_stays():
    t = Tables()
    entry = t.claim()
    rows = t.table._rows
    put, others = rows.put, []

    class Raced:
        def __getattr__(self, name):
            return getattr(rows, name)

        def put(self, *args, **kwargs):
            if not others:  # the other worker writes between our look and our note
                others.append(1)
                TaskTable(rows, t.clock, RandomIds()).update("default", entry, replace(TASK, status="failed"))
            put(*args, **kwargs)

    t.table._rows = Raced()
    t.table.update("default", entry, replace(TASK, updated="2025-11-25T10:31:00Z"))
    assert t.table.find(ALICE, HERE, entry.id).status == "failed"
