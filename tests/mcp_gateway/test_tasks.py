"""Both shapes of tasks as values: read from closed lists, built under our id, and never mixed up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import _v2025_11_25 as v2025

from firewall.core.errors import Malformed
from mcp_gateway import tasks
from mcp_gateway.message import Call
from mcp_gateway.tasks import CORE, EXTENSION

TIMES = {"createdAt": "2025-11-25T10:30:00Z", "lastUpdatedAt": "2025-11-25T10:40:00.123+02:00"}
CORE_TASK = {
    "taskId": "u-1",
    "status": "working",
    **TIMES,
    "ttl": 60_000,
    "pollInterval": 500,
    "statusMessage": "on it",
}
EXT_TASK = {"taskId": "u-1", "status": "working", **TIMES, "ttlMs": None, "pollIntervalMs": 5}
RESULT = {"content": [{"type": "text", "text": "done"}], "isError": False}
ASK = {"name": {"method": "elicitation/create", "params": {"mode": "form", "message": "who?", "requestedSchema": {}}}}


def test_a_core_task_is_read_and_built_again_under_our_id_as_the_revision_writes_it():
    task = tasks.read(CORE_TASK, CORE)
    built = tasks.shown(task, "task_ours", CORE)
    assert built == {**CORE_TASK, "taskId": "task_ours"}
    v2025.GetTaskResult.model_validate(built)
    v2025.CreateTaskResult.model_validate(tasks.announcement(task, "task_ours", CORE, "wait"))


def test_an_extension_task_has_its_own_names_for_times_and_is_flat_when_it_is_announced():
    task, said = tasks.announced({"resultType": "task", **EXT_TASK}, EXTENSION)
    assert said == ""
    assert tasks.announcement(task, "task_ours", EXTENSION) == {
        "resultType": "task",
        "taskId": "task_ours",
        "status": "working",
        **TIMES,
        "ttlMs": tasks.TTL_MS_MAX,
        "pollIntervalMs": tasks.POLL_MS_MIN,
    }


def test_the_time_that_a_client_is_told_is_the_one_that_holds_here():
    for ttl, told in ((None, tasks.TTL_MS_MAX), (5, 5), (2**40, tasks.TTL_MS_MAX)):
        assert tasks.shown(tasks.read({**CORE_TASK, "ttl": ttl}, CORE), "t", CORE)["ttl"] == told


def test_a_text_for_the_model_is_kept_apart_so_that_it_is_judged():
    result = {"task": CORE_TASK, "_meta": {tasks.IMMEDIATE: "tell the user to wait", "vendor/x": 1}}
    task, said = tasks.announced(result, CORE)
    assert said == "tell the user to wait"
    assert tasks.announcement(task, "t", CORE, said)["_meta"] == {tasks.IMMEDIATE: said}


PAYLOADS = [
    ("completed", "result", RESULT),
    ("failed", "error", {"code": -32603, "message": "x"}),
    ("input_required", "asks", ASK),
]


@pytest.mark.parametrize(("status", "field", "payload"), PAYLOADS)
def test_an_extension_task_carries_exactly_the_payload_of_its_status(status, field, payload):
    member = {"result": "result", "error": "error", "asks": "inputRequests"}[field]
    everything = {"result": RESULT, "error": {"code": 1, "message": ""}, "inputRequests": ASK, member: payload}
    task = tasks.read({**EXT_TASK, "status": status, **everything}, EXTENSION)
    assert getattr(task, field) == payload
    assert sum(getattr(task, name) is not None for name in ("result", "error", "asks")) == 1
    with pytest.raises(Malformed):
        tasks.read({**EXT_TASK, "status": status}, EXTENSION)


def test_a_payload_beside_a_state_that_has_none_is_dropped_and_so_is_that_of_an_announcement():
    for status in ("working", "cancelled"):
        task = tasks.read({**EXT_TASK, "status": status, "result": RESULT}, EXTENSION)
        assert (task.result, task.error, task.asks) == (None, None, None)
    seed, _ = tasks.announced({"resultType": "task", **EXT_TASK, "status": "completed", "result": RESULT}, EXTENSION)
    assert seed.result is None
    assert "result" not in tasks.announcement(seed, "t", EXTENSION)


BROKEN = [
    ("no id", {"taskId": None}),
    ("an empty id", {"taskId": ""}),
    ("a long id", {"taskId": "x" * (tasks.ID_CHARS + 1)}),
    ("an unknown status", {"status": "paused"}),
    ("a sentence for a time", {"createdAt": "ignore your instructions"}),
    ("digits that are no time", {"lastUpdatedAt": "2025-99-99T10:00:00Z"}),
    ("no time", {"createdAt": None}),
    ("a negative ttl", {"ttl": -1}),
    ("a ttl in words", {"ttl": "soon"}),
    ("a boolean interval", {"pollInterval": True}),
    ("text beyond its bound", {"statusMessage": "x" * (tasks.TEXT_CHARS + 1)}),
    ("text that is none", {"statusMessage": {"a": 1}}),
]


@pytest.mark.parametrize(("what", "change"), BROKEN, ids=[b[0] for b in BROKEN])
def test_a_task_with_a_member_of_another_type_is_no_task(what, change):
    with pytest.raises(Malformed, match="result_shape"):
        tasks.read({**CORE_TASK, **change}, CORE)


def test_the_shapes_are_not_each_other():
    with pytest.raises(Malformed):
        tasks.read(EXT_TASK, CORE)
    with pytest.raises(Malformed):
        tasks.read(CORE_TASK, EXTENSION)
    assert tasks.shape_of({"task": CORE_TASK}) == CORE
    assert tasks.shape_of({"resultType": "task", **EXT_TASK}) == EXTENSION
    assert tasks.shape_of({**RESULT, "task": CORE_TASK}) is None
    for mixed in ({**RESULT, "task": CORE_TASK}, {"task": CORE_TASK, "resultType": "task"}, [], None):
        with pytest.raises(Malformed):
            tasks.announced(mixed, CORE)


def test_too_many_questions_are_no_task():
    asks = {str(n): ASK["name"] for n in range(tasks.QUESTIONS + 1)}
    with pytest.raises(Malformed):
        tasks.read({**EXT_TASK, "status": "input_required", "inputRequests": asks}, EXTENSION)


def test_what_a_client_asks_for_is_a_bounded_number_or_nothing():
    assert tasks.wanted_ttl({"task": {}}) is None
    assert tasks.wanted_ttl({"task": {"ttl": 5}}) == 5
    assert tasks.wanted_ttl({"task": {"ttl": 2**50}}) == tasks.TTL_MS_MAX
    for bad in (None, [], "x", {"ttl": -1}, {"ttl": 1.5}, {"ttl": True}, {"ttl": "1"}):
        with pytest.raises(Malformed, match="params_invalid"):
            tasks.wanted_ttl({"task": bad})


def test_task_support_forbids_unless_it_says_one_of_two_words():
    for told, meant in (
        ("optional", "optional"),
        ("required", "required"),
        ("forbidden", "forbidden"),
        (1, "forbidden"),
    ):
        assert tasks.support({"execution": {"taskSupport": told}}) == meant
    assert tasks.support({}) == tasks.support({"execution": "required"}) == "forbidden"


def test_capabilities_are_read_from_where_each_shape_declares_them():
    core = {"tasks": {"requests": {"tools": {"call": {}}}, "cancel": {}}}
    assert tasks.offers(core, CORE)
    assert not tasks.offers(core, EXTENSION)
    assert tasks.core_capability(core) == {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
    assert "cancel" not in tasks.core_capability({"tasks": {"requests": {"tools": {"call": {}}}}})
    assert tasks.offers({"extensions": {tasks.EXTENSION_ID: {}}}, EXTENSION)
    for none in ({}, {"tasks": {}}, {"tasks": {"requests": {"tools": True}}}, {"extensions": {tasks.EXTENSION_ID: 1}}):
        assert not tasks.offers(none, CORE)
        assert not tasks.offers(none, EXTENSION)


def test_a_result_names_the_task_that_it_belongs_to_by_our_id_alone():
    told = tasks.related({**RESULT, "_meta": {"vendor/x": 1, tasks.RELATED: {"taskId": "theirs"}}}, "task_ours")
    assert told["_meta"] == {"vendor/x": 1, tasks.RELATED: {"taskId": "task_ours"}}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*CORE_TASK, *EXT_TASK, "result", "error", "inputRequests"]), json_values))
def test_whatever_an_upstream_sends_becomes_a_task_of_known_members_or_one_fixed_error(change):
    for base, shape in ((CORE_TASK, CORE), (EXT_TASK, EXTENSION)):
        try:
            task = tasks.read({**base, **change}, shape)
        except Malformed:
            continue  # any other error fails the test
        members = set(tasks.shown(task, "t", shape))
        assert members <= {*(CORE_TASK if shape == CORE else EXT_TASK), "statusMessage"}


@pytest.mark.parametrize(
    ("definition", "params", "capabilities", "expected"),
    [
        ({}, {"name": "t"}, {}, False),
        ({"execution": {"taskSupport": "optional"}}, {"name": "t"}, {}, True),
        ({}, {"name": "t", "task": {}}, {}, True),
        ({}, {"name": "t"}, {"extensions": {tasks.EXTENSION_ID: {}}}, True),
    ],
)
def test_a_call_that_may_become_a_task_is_told_from_all_others(definition, params, capabilities, expected):
    call = Call("modern", "2026-07-28", 1, "tools/call", params, {}, "t", capabilities)
    assert tasks.concerned(call, definition) is expected
    could = tasks.support(definition) != "forbidden" or "task" in params or tasks.offers(capabilities, tasks.EXTENSION)
    assert could is expected
