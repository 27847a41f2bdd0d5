"""Strict reading of A2A 1.0 JSON (a2a reference §5.2, §5.3 GW-02…04, GW-45)."""

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import given
from hypothesis import strategies as st

from a2a_gateway import message
from firewall.core.errors import Malformed

HI = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "hi"}]}


def send(**members):
    return {"message": {**HI, **members}}


def told(value, parse=message.parse_send):
    with pytest.raises(Malformed) as caught:
        parse(value)
    return caught.value.code


def test_a_plain_message_is_read_and_rebuilt_equal():
    read = message.parse_send(send())
    assert read.params == {"message": HI}
    assert (read.message_id, read.task_id, read.context_id, read.references) == ("m-1", "", "", ())
    assert read.kinds() == ["text"]


def test_what_the_sdk_writes_is_read_and_what_we_write_the_sdk_reads():
    from a2a.types import a2a_pb2

    full = {
        "message": {
            **HI,
            "contextId": "c",
            "taskId": "t",
            "parts": [
                {"text": "a", "mediaType": "text/plain"},
                {"raw": "aGk=", "filename": "x.bin"},
                {"url": "https://files.example/x"},
                {"data": {"n": [1, None, True]}, "metadata": {"k": "v"}},
            ],
            "referenceTaskIds": ["r1", "r2"],
        },
        "configuration": {"historyLength": 0, "returnImmediately": True, "acceptedOutputModes": ["text/plain"]},
    }
    wire = MessageToDict(ParseDict(full, a2a_pb2.SendMessageRequest()))
    ours = message.parse_send(wire).params
    assert MessageToDict(ParseDict(ours, a2a_pb2.SendMessageRequest())) == wire


@pytest.mark.parametrize(
    "members",
    [
        {"task_id": "t"},
        {"taskId": "a", "task_id": "b"},
        {"context_id": "c"},
        {"message_id": "m"},
        {"reference_task_ids": []},
        {"kind": "message"},
        {"role": 1},
        {"role": "user"},
        {"role": "ROLE_UNSPECIFIED"},
        {"role": "ROLE_AGENT"},
        {"parts": []},
        {"parts": [{"text": "x", "url": "https://a.example/"}]},
        {"parts": [{"text": "x", "data": None}]},
        {"parts": [{"text": None}]},
        {"parts": [{"kind": "text", "text": "x"}]},
        {"parts": [{"file": {"uri": "https://a.example/"}}]},
        {"parts": [{"filename": "only"}]},
        {"parts": [{"media_type": "a/b", "text": "x"}]},
        {"parts": [{"raw": "not base64"}]},
        {"parts": [{"raw": "aGl="}]},  # a second spelling of "hi"
        {"parts": [{"url": "file:///etc/passwd"}]},
        {"parts": [{"url": "https://user@a.example/"}]},
        {"parts": [{"url": "https://A.example/x/../y"}]},
        {"parts": "hi"},
        {"messageId": ""},
        {"messageId": "a b"},
        {"messageId": "x" * 257},
        {"messageId": 7},
        {"referenceTaskIds": ["a", "a"]},
        {"metadata": []},
    ],
)
def test_a_message_that_two_peers_would_read_differently_is_refused(members):
    assert told(send(**members)) == "params_invalid"


def test_unknown_members_are_dropped_and_free_json_is_kept():
    read = message.parse_send(
        {**send(x=1, parts=[{"text": "a", "y": 2}], metadata={"z": {"deep": [1]}}), "extra": {"task_id": "t"}}
    )
    assert read.params == {"message": {**HI, "parts": [{"text": "a"}], "metadata": {"z": {"deep": [1]}}}}


def test_a_message_without_the_strict_reading_would_name_another_task_to_the_sdk():
    # The twin with the control off: the parser of the official agent takes the last spelling.
    from a2a.types import a2a_pb2

    raw = send(taskId="mine")
    raw["message"]["task_id"] = "another's"
    assert ParseDict(raw, a2a_pb2.SendMessageRequest()).message.task_id == "another's"
    assert told(raw) == "params_invalid"


def test_extension_traffic_passes_only_where_it_is_allowed():
    uri = "https://ext.example/v1"
    given_ = send(extensions=[uri], metadata={uri: {"a": 1}, "actorChain": ["root"], "note": "n"})
    assert message.parse_send(given_).message.get("extensions") is None
    assert message.parse_send(given_).message["metadata"] == {"note": "n"}
    kept = message.parse_send(given_, frozenset({uri})).message
    assert kept["extensions"] == [uri]
    assert kept["metadata"] == {uri: {"a": 1}, "note": "n"}


def test_a_push_configuration_inside_a_send_is_refused_by_name():
    assert told({**send(), "configuration": {"taskPushNotificationConfig": {"url": "http://169.254.169.254/"}}}) == (
        "push_unsupported"
    )


def test_a_tenant_that_our_card_never_offered_is_refused():
    assert told({**send(), "tenant": "acme"}) == "params_invalid"
    assert "tenant" not in message.parse_send({**send(), "tenant": ""}).params


def test_the_lost_blocking_switch_of_the_older_version_is_refused_not_ignored():
    assert told({**send(), "configuration": {"blocking": False}}) == "params_invalid"


def test_outgoing_params_carry_the_upstream_ids_and_nothing_empty():
    read = message.parse_send(send(taskId="ours", contextId="c", referenceTaskIds=["r"]))
    out = read.outgoing(task_id="up", context_id="", references=(), tenant="acme")
    assert out == {"tenant": "acme", "message": {**HI, "taskId": "up"}}
    query = message.parse_task_query("GetTask", {"id": "ours", "historyLength": 2})
    assert query.outgoing(task_id="up", tenant="") == {"id": "up", "historyLength": 2}


TASK = {
    "id": "T",
    "contextId": "C",
    "status": {
        "state": "TASK_STATE_WORKING",
        "message": {
            "messageId": "a",
            "role": "ROLE_AGENT",
            "taskId": "T",
            "contextId": "C",
            "parts": [{"text": "w"}],
        },
        "timestamp": "2026-11-23T00:10:47.773",
    },
    "history": [{**HI, "taskId": "T", "contextId": "C", "referenceTaskIds": ["R"]}],
    "artifacts": [{"artifactId": "x", "parts": [{"text": "r"}]}],
}


def test_every_id_of_a_task_is_replaced_wherever_it_stands():
    event = message.parse_event({"task": TASK})
    shown = message.remapped(event, lambda kind, theirs: f"{kind}:{theirs}")
    body = shown.body
    assert (shown.task_id, shown.context_id, shown.state) == ("task:T", "context:C", "TASK_STATE_WORKING")
    assert body["status"]["message"]["taskId"] == "task:T"
    assert body["history"][0] == {
        **HI,
        "taskId": "task:T",
        "contextId": "context:C",
        "referenceTaskIds": ["task:R"],
    }
    assert event.body["id"] == "T"
    assert '"T"' not in str(shown.wire()).replace("'", '"')


def test_a_time_without_a_zone_is_utc():
    event = message.parse_event({"task": TASK})
    assert event.body["status"]["timestamp"] == "2026-11-23T00:10:47.773Z"


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"task": TASK, "message": HI},
        {"task": {**TASK, "kind": "task"}},
        {"task": {**TASK, "status": {"state": "TASK_STATE_UNSPECIFIED"}}},
        {"task": {**TASK, "status": {"state": 2}}},
        {"task": {**TASK, "context_id": "C2"}},
        {"task": {**TASK, "artifacts": TASK["artifacts"] * 2}},
        {"task": {**TASK, "status": {**TASK["status"], "message": {**TASK["status"]["message"], "taskId": "other"}}}},
        {"task": {**TASK, "status": {**TASK["status"], "message": {**TASK["status"]["message"], "role": "ROLE_USER"}}}},
        {"message": HI},  # a user's turn told by the agent
        {"statusUpdate": {"taskId": "T", "contextId": "C", "status": {"state": "TASK_STATE_WORKING"}, "final": True}},
        {"artifactUpdate": {"taskId": "T", "contextId": "C"}},
        {"task": None},
        [],
    ],
)
def test_an_answer_outside_the_shape_of_the_standard_is_refused(result):
    assert told(result, message.parse_event) == "params_invalid"


def test_a_bare_task_answers_get_and_cancel_and_a_wrapped_one_answers_send():
    assert message.parse_result("GetTask", TASK).wire()["id"] == "T"
    assert set(message.parse_result("SendMessage", {"task": TASK}).wire()) == {"task"}
    assert told(TASK, lambda v: message.parse_result("SendMessage", v)) == "params_invalid"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        "message", "task", "messageId", "role", "parts", "text", "data", "taskId", "task_id", "status", "state", "id",
    ]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_any_json_is_read_or_refused_with_a_listed_code(value):
    for parse in (message.parse_send, message.parse_event, lambda v: message.parse_task_query("CancelTask", v)):
        code = ""
        try:
            parse(value)
        except Malformed as error:
            code = error.code
        assert code in ("", "params_invalid", "push_unsupported")


def test_reading_twice_changes_nothing():
    once = message.parse_event({"task": TASK})
    assert message.parse_event(once.wire()) == once
