"""JSON-RPC envelopes: what is one, what is not, and that building and parsing agree."""

import pytest

from firewall.core.errors import FAULTS, Malformed
from firewall.core.jsonvalue import JSON
from firewall.wire import jsonrpc as rpc


def test_the_four_kinds_are_told_apart() -> None:
    assert rpc.parse(rpc.build_request(1, "tools/call", {"name": "x"})) == rpc.Request(1, "tools/call", {"name": "x"})
    assert rpc.parse(rpc.build_request("a", "ping")) == rpc.Request("a", "ping", {})
    assert rpc.parse(rpc.build_notification("notifications/initialized")) == rpc.Notification(
        "notifications/initialized", {}
    )
    assert rpc.parse(rpc.build_response(0, None)) == rpc.Response(0, None)
    assert rpc.parse(rpc.build_error(None, -32700, "no", {"x": 1})) == rpc.ErrorResponse(None, -32700, "no", {"x": 1})
    assert rpc.parse(rpc.build_error("i", 1, "")) == rpc.ErrorResponse("i", 1, "")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([], "rpc_batch"),
        ([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], "rpc_batch"),
        ("ping", "rpc_shape"),
        (None, "rpc_shape"),
        ({}, "rpc_shape"),
        ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, "rpc_shape"),
        ({"jsonrpc": 2.0, "id": 1, "method": "ping"}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "method": ""}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "method": 5}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "method": "m" * 257}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "result": {}}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "error": {}}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "result": {}, "error": {"code": 1, "message": ""}}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "result": {}, "params": {}}, "rpc_shape"),
        ({"jsonrpc": "2.0", "result": {}}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "error": "no"}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "error": {"code": "1", "message": ""}}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "error": {"code": True, "message": ""}}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": 1, "error": {"code": 1}}, "rpc_shape"),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, "rpc_id"),
        ({"jsonrpc": "2.0", "id": None, "result": {}}, "rpc_id"),
        ({"jsonrpc": "2.0", "id": True, "method": "ping"}, "rpc_id"),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}, "rpc_id"),
        ({"jsonrpc": "2.0", "id": {}, "method": "ping"}, "rpc_id"),
        ({"jsonrpc": "2.0", "id": "x" * 257, "method": "ping"}, "rpc_id"),
        ({"jsonrpc": "2.0", "id": 2**53, "method": "ping"}, "rpc_id"),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, "params_invalid"),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": None}, "params_invalid"),
    ],
)
def test_everything_else_is_refused_with_a_listed_code(value: JSON, code: str) -> None:
    with pytest.raises(Malformed) as caught:
        rpc.parse(value)
    assert caught.value.code == code
    assert code in FAULTS


def test_the_bounds_of_an_id_are_inclusive() -> None:
    assert rpc.parse({"jsonrpc": "2.0", "id": "x" * 256, "method": "m" * 256}) == rpc.Request("x" * 256, "m" * 256)
    assert rpc.parse({"jsonrpc": "2.0", "id": -(2**53) + 1, "method": "m"}) == rpc.Request(-(2**53) + 1, "m")


def test_unknown_members_do_not_survive() -> None:
    assert rpc.parse({"jsonrpc": "2.0", "id": 1, "method": "ping", "x-extra": "evil"}) == rpc.Request(1, "ping")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"result": None},
        {"id": "a"},
        {"id": True},
        {"id": None},
        {"id": 1.0},
        {"id": 2**60},
        {"jsonrpc": "1.0"},
        {"error": {"code": 1, "message": ""}},
        {"method": "ping"},
        {"params": {}},
    ],
)
def test_a_result_is_judged_as_the_response_that_holds_it(changes: dict[str, JSON]) -> None:
    value: dict[str, JSON] = {"jsonrpc": "2.0", "id": 1, "result": {"x": 1}, **changes}
    told: list[JSON] = []
    for read in (lambda: rpc.result_of(value), lambda: _result(rpc.parse(value))):
        try:
            told.append(read())
        except Malformed as error:
            told.append(error.code)
    assert told[0] == told[1]


@pytest.mark.parametrize("lacking", ["jsonrpc", "id", "result"])
def test_what_lacks_a_member_of_a_response_has_no_result(lacking: str) -> None:
    value: dict[str, JSON] = {"jsonrpc": "2.0", "id": 1, "result": {}}
    del value[lacking]
    with pytest.raises(Malformed, match="rpc_shape"):
        rpc.result_of(value)


def _result(message: rpc.Message) -> JSON:
    if not isinstance(message, rpc.Response):
        raise Malformed("rpc_shape")
    return message.result
