"""The ladder of received messages: every probe of the MCP reference §3.1 with its exact code."""

import pytest

from firewall.core.errors import FAULTS
from mcp_gateway.message import Call, Notice, Rejected, is_reserved, parse
from tests.support.mcp import MODERN_META

V = (b"mcp-protocol-version", b"2026-07-28")
CALL = (b"mcp-method", b"tools/call")
NAME = (b"mcp-name", b"echo")


def modern(**changes):
    params = {"name": "echo", "arguments": {"a": 1}, "_meta": dict(MODERN_META)}
    params.update(changes.pop("params", {}))
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params, **changes}


def meta(**changes):
    given = {**MODERN_META, **changes}
    return {"_meta": {k: v for k, v in given.items() if v is not None}}


PV, CC = "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"

# (what is wrong, body, headers, code of the fault, JSON-RPC code, HTTP status)
PROBES = [
    ("an array", [modern()], [V, CALL, NAME], "rpc_batch", -32600, 400),
    ("a string", "hello", [V, CALL, NAME], "rpc_shape", -32600, 400),
    ("no jsonrpc member", {"id": 1, "method": "ping"}, [], "rpc_shape", -32600, 400),
    ("jsonrpc 1.0", modern(jsonrpc="1.0"), [V, CALL, NAME], "rpc_shape", -32600, 400),
    ("a posted response", {"jsonrpc": "2.0", "id": 1, "result": {}}, [V], "rpc_shape", -32600, 400),
    ("request and response at once", modern(result={}), [V, CALL, NAME], "rpc_shape", -32600, 400),
    ("a null id", modern(id=None), [V, CALL, NAME], "rpc_id", -32600, 400),
    ("a boolean id", modern(id=True), [V, CALL, NAME], "rpc_id", -32600, 400),
    ("a fractional id", modern(id=1.5), [V, CALL, NAME], "rpc_id", -32600, 400),
    ("an id of 257 characters", modern(id="x" * 257), [V, CALL, NAME], "rpc_id", -32600, 400),
    ("an id beyond 2**53", modern(id=2**53), [V, CALL, NAME], "rpc_id", -32600, 400),
    ("an empty method", modern(method=""), [V, CALL, NAME], "rpc_shape", -32600, 400),
    ("params that are a list", modern(params={}) | {"params": []}, [V, CALL, NAME], "params_invalid", -32602, 400),
    ("no _meta", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}}, [V, CALL, NAME],
     "params_invalid", -32602, 400),
    ("_meta without a version", modern(params=meta(**{PV: None})), [V, CALL, NAME], "params_invalid", -32602, 400),
    ("_meta without capabilities", modern(params=meta(**{CC: None})), [V, CALL, NAME], "params_invalid", -32602, 400),
    ("capabilities that are a list", modern(params=meta(**{CC: []})), [V, CALL, NAME], "params_invalid", -32602, 400),
    ("Mcp-Name that differs", modern(), [V, CALL, (b"mcp-name", b"other")], "header_mismatch", -32020, 400),
    ("Mcp-Name that is missing", modern(), [V, CALL], "header_mismatch", -32020, 400),
    ("Mcp-Name twice", modern(), [V, CALL, NAME, NAME], "header_mismatch", -32020, 400),
    ("Mcp-Name in another case", modern(), [V, CALL, (b"mcp-name", b"Echo")], "header_mismatch", -32020, 400),
    ("Mcp-Name as broken base64", modern(), [V, CALL, (b"mcp-name", b"=?base64?ZWNobw?=")], "header_mismatch", -32020, 400),
    ("Mcp-Method that differs", modern(), [V, (b"mcp-method", b"tools/list"), NAME], "header_mismatch", -32020, 400),
    ("Mcp-Method that is missing", modern(), [V, NAME], "header_mismatch", -32020, 400),
    ("a version header that differs", modern(params=meta(**{PV: "2099-01-01"})), [V, CALL, NAME],
     "header_mismatch", -32020, 400),
    ("a modern body without a version header", modern(), [CALL, NAME], "era_mixed", -32020, 400),
    ("a modern body with a legacy header", modern(), [(b"mcp-protocol-version", b"2025-11-25"), CALL, NAME],
     "era_mixed", -32020, 400),
    ("an unknown version in both", modern(params=meta(**{PV: "2099-01-01"})),
     [(b"mcp-protocol-version", b"2099-01-01"), CALL, NAME], "version_unsupported", -32022, 400),
    ("an unknown version in the header alone", {"jsonrpc": "2.0", "id": 1, "method": "ping"},
     [(b"mcp-protocol-version", b"1999-01-01")], "version_unsupported", -32022, 400),
    ("an unknown log level", modern(params=meta(**{"io.modelcontextprotocol/logLevel": "loud"})), [V, CALL, NAME],
     "params_invalid", -32602, 400),
    ("a progress token that is a list", modern(params=meta(progressToken=[])), [V, CALL, NAME],
     "params_invalid", -32602, 400),
    ("a tool name that is a number", modern(params={"name": 5}), [V, CALL, (b"mcp-name", b"5")],
     "header_mismatch", -32020, 400),
    ("arguments that are a list", modern(params={"arguments": []}), [V, CALL, NAME], "params_invalid", -32602, 400),
]  # fmt: skip


@pytest.mark.parametrize(("what", "body", "headers", "code", "rpc", "status"), PROBES, ids=[p[0] for p in PROBES])
def test_a_message_with_a_fault_gets_exactly_its_code(what, body, headers, code, rpc, status):
    with pytest.raises(Rejected) as caught:
        parse(body, headers)
    assert caught.value.code == code
    assert (FAULTS[code].rpc_code, FAULTS[code].status) == (rpc, status)


def test_the_same_message_without_a_fault_is_accepted():
    """The twin of the whole table."""
    call = parse(modern(), [V, CALL, NAME])
    assert isinstance(call, Call)
    assert (call.era, call.name, call.params) == ("modern", "echo", {"name": "echo", "arguments": {"a": 1}})


def test_an_error_carries_the_id_of_its_request():
    with pytest.raises(Rejected) as caught:
        parse(modern(id="abc"), [V, CALL])
    assert caught.value.rpc_id == "abc"


def test_an_unsupported_version_is_told_what_is_supported_and_echoed_only_if_it_looks_like_one():
    for asked, shown in (("2099-01-01", "2099-01-01"), ("<script>", ""), ("x" * 40, "")):
        with pytest.raises(Rejected) as caught:
            parse(modern(params=meta(**{PV: asked})), [(b"mcp-protocol-version", asked.encode()), CALL, NAME])
        assert caught.value.data == {"supported": ["2026-07-28"], "requested": shown}


def test_white_space_around_a_header_value_is_trimmed_and_base64_is_decoded():
    assert isinstance(parse(modern(), [V, CALL, (b"mcp-name", b"  echo\t")]), Call)
    assert isinstance(parse(modern(), [V, CALL, (b"mcp-name", b"=?base64?ZWNobw==?=")]), Call)


def test_a_message_without_an_envelope_and_header_is_legacy_of_the_assumed_revision():
    call = parse({"jsonrpc": "2.0", "id": 1, "method": "ping"}, [])
    assert isinstance(call, Call)
    assert (call.era, call.version) == ("legacy", "2025-03-26")


def test_a_notification_is_told_from_a_request_by_its_missing_id():
    notice = parse({"jsonrpc": "2.0", "method": "notifications/initialized"}, [])
    assert isinstance(notice, Notice)
    assert notice.method == "notifications/initialized"


def test_reserved_members_of_meta_are_read_and_never_kept():
    extra = {
        "io.modelcontextprotocol/unknown": 1, "com.example/keep": 3,
        "progressToken": "p", "traceparent": "t", "baggage": "b",
    }  # fmt: skip
    call = parse(modern(params=meta(**extra)), [V, CALL, NAME])
    assert isinstance(call, Call)
    assert call.meta == {"com.example/keep": 3}
    assert (call.progress_token, call.traceparent) == ("p", "t")


@pytest.mark.parametrize(
    ("key", "reserved"),
    [
        ("io.modelcontextprotocol/x", True),
        ("dev.mcp/x", True),
        ("org.modelcontextprotocol.api/x", True),
        ("com.example.mcp/x", False),
        ("com.example/x", False),
        ("plain", False),
        ("mcp/x", False),
    ],
)
def test_a_prefix_is_reserved_by_its_second_label(key: str, reserved: bool):
    assert is_reserved(key) is reserved
