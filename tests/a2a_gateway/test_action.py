"""Every operation and object has one point, and what leaves is the object that was inspected."""

from a2a_gateway import action, message, shapes
from a2a_gateway.action import METHODS
from a2a_gateway.versions import CARRIED
from firewall.core.action import Resource
from firewall.core.points import INFO, Point
from firewall.wire import jsonrpc
from tests.support.kit import principal

AGENT = Resource("a2a_agent", "demo", "demo", {"server": "demo"})
HI = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "a"}, {"data": 1}]}}


def test_every_a2a_point_is_used_and_every_row_goes_its_points_way():
    assert set(METHODS.values()) == {p for p in Point if p.value.startswith("a2a.")}
    assert all(INFO[point].direction == direction for (_, direction), point in METHODS.items())


def test_every_carried_operation_and_every_kind_of_answer_has_a_row():
    assert {name for name, way in METHODS if way == "request"} == set(CARRIED)
    assert {name for name, way in METHODS if way == "response"} == {*shapes.KINDS, "error", "card"}


def test_a_send_is_the_whole_message_as_it_leaves():
    read = message.parse_send(HI)
    made = action.request_action(
        "SendMessage", principal(), AGENT, read, read.params, trace=b"00-a", extensions=("urn:x",)
    )
    assert made.body == {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": HI}
    assert made.arguments == {"parts": 2, "kinds": ["text", "data"]}
    assert made.headers(made.body) == (
        (b"a2a-version", b"1.0"),
        (b"traceparent", b"00-a"),
        (b"a2a-extensions", b"urn:x"),
    )
    assert made.side_effect


def test_asking_for_a_task_is_no_side_effect_and_cancelling_it_is():
    query = message.parse_task_query("GetTask", {"id": "t"})
    made = {m: action.request_action(m, principal(), AGENT, query, query.params) for m in ("GetTask", "CancelTask")}
    assert (made["GetTask"].side_effect, made["CancelTask"].side_effect) == (False, True)


def test_a_standard_error_of_an_agent_is_told_in_the_standards_words():
    error = jsonrpc.ErrorResponse(1, -32001, "Task 0f63 of tenant x not found", {"secret": 1})
    body = action.error_action("GetTask", principal(), AGENT, error, "r").body
    assert body["error"]["message"] == "Task not found"
    assert body["error"]["data"][0]["reason"] == "TASK_NOT_FOUND"
    assert "0f63" not in str(body)
    assert "secret" not in str(body)


def test_another_error_keeps_its_text_for_inspection_but_not_its_data():
    error = jsonrpc.ErrorResponse(1, -32050, "x" * 5000, {"secret": 1})
    body = action.error_action("GetTask", principal(), AGENT, error, "r").body
    assert body["error"] == {"code": -32050, "message": "x" * 1024}
