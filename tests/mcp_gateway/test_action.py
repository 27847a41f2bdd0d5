"""Facts and Actions: what policy reads, and the headers made from a final body."""

import pytest

from firewall.core.points import Point
from firewall.decide.question import encode_input
from mcp_gateway import action, entries, lists
from mcp_gateway.settings import UpstreamSpec
from tests.support.kit import kit, principal

FACTS = action.ServerFacts("demo", tenants=("default",), effects={"r": "read", "p": "pay"})


@pytest.mark.parametrize(
    ("name", "hints", "effect"),
    [
        ("unnamed", {}, "write"),
        ("unnamed", {"readOnlyHint": True}, "write"),
        ("unnamed", {"destructiveHint": True}, "destroy"),
        ("unnamed", {"destructiveHint": True, "readOnlyHint": True}, "write"),
        ("r", {}, "read"),
        ("r", {"readOnlyHint": False}, "write"),
        ("r", {"destructiveHint": True}, "destroy"),
        ("p", {"readOnlyHint": True}, "pay"),
        ("p", {"destructiveHint": True}, "pay"),
        ("r", "not an object", "read"),
    ],
)
def test_a_servers_hints_only_make_us_stricter(name, hints, effect):
    assert action.effect_class(FACTS, name, hints) == effect


def test_scopes_follow_the_effect_class():
    assert action.scope_of("demo", "read") == "demo:read"
    assert action.scope_of("demo", "pay") == "demo:write"


def test_every_resource_and_action_fits_the_decision_contract():
    k = kit()
    tool = action.tool_resource(
        FACTS, "t", state="approved", effect="read", pin="approved", digest="sha256:0", schema="ok"
    )
    server = action.server_resource(FACTS, "approved")
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {"a": 1}}}
    answer = {"jsonrpc": "2.0", "id": 1, "result": {"content": [], "structuredContent": {}}}
    made = [
        action.request(
            Point.MCP_TOOL_CALL, principal(), "tools/call", tool, body, version="2026-07-28", transport="http"
        ),
        action.response(Point.MCP_TOOL_RESULT, principal(), "tools/call", tool, answer, version="2026-07-28"),
        action.response(Point.MCP_PONG, principal(), "ping", server, {"result": {}}, version="2025-11-25"),
    ]
    for one in made:
        exchange = k.guard.new_exchange(principal(), "mcp")
        assert encode_input(one, (), label=0, exchange=exchange, now_us=1, revision="r")


def test_arguments_are_the_very_object_of_the_body():
    arguments = {"a": 1}
    body = {"params": {"name": "t", "arguments": arguments}}
    server = action.server_resource(FACTS, "approved")
    made = action.request(
        Point.MCP_TOOL_CALL,
        principal(),
        "tools/call",
        server,
        body,
        version="2026-07-28",
        transport="stdio",
        arguments=arguments,
    )
    assert made.arguments is arguments
    assert made.headers(body) == ()


def test_content_and_structured_content_are_coupled():
    server = action.server_resource(FACTS, "approved")
    both = {"result": {"content": [], "structuredContent": 1}}
    made = action.response(Point.MCP_TOOL_RESULT, principal(), "tools/call", server, both, version="2026-07-28")
    assert made.coupled == (("result", "content"), ("result", "structuredContent"))
    assert made.arguments == {"is_error": False, "structured": True}


def test_headers_are_made_from_the_final_body():
    params = {("region",): ("Region", "string")}
    make = action.UpstreamHeaders("tools/call", "2026-07-28", params)
    body = {"params": {"name": "wörk", "arguments": {"region": "eu"}}}
    made = dict(make(body))
    assert made[b"mcp-method"] == b"tools/call"
    assert made[b"mcp-name"].startswith(b"=?base64?")
    assert made[b"mcp-param-region"] == b"eu"
    body["params"]["arguments"]["region"] = "changed by an obligation"
    assert dict(make(body))[b"mcp-param-region"] == b"changed by an obligation"
    legacy = dict(action.UpstreamHeaders("tools/call", "2025-11-25")(body))
    assert legacy[b"mcp-protocol-version"] == b"2025-11-25"
    assert b"mcp-name" not in legacy
    assert b"mcp-protocol-version" not in dict(action.UpstreamHeaders("initialize", "2025-11-25")({}))


def test_a_kept_maker_of_headers_follows_the_name_in_the_body():
    make = action.UpstreamHeaders("tools/call", "2026-07-28")
    named = [dict(make({"params": {"name": name}}))[b"mcp-name"] for name in ("a", "a", "b", "", "a")]
    assert named == [b"a", b"a", b"b", b"", b"a"]
    assert dict(make({"params": {"name": 5}}))[b"mcp-name"] == b""
    assert b"mcp-name" not in dict(make({}))


def test_a_tool_keeps_one_maker_per_revision_and_makes_another_for_other_mirrored_arguments():
    def definition(header):
        region = {"type": "string", "x-mcp-header": header}
        return lists.definition({"name": "t", "inputSchema": {"type": "object", "properties": {"region": region}}})

    one = entries.entry(UpstreamSpec("s", url="https://s.example/mcp"), definition("Region"), ())
    modern, legacy = one.headers("2026-07-28"), one.headers("2025-11-25")
    body = {"params": {"name": "t", "arguments": {"region": "eu"}}}
    assert one.headers("2026-07-28") is modern
    assert dict(modern(body))[b"mcp-param-region"] == b"eu"
    assert b"mcp-param-region" not in dict(legacy(body))
    one.definition = definition("Place")
    made = dict(one.headers("2026-07-28")(body))
    assert made[b"mcp-param-place"] == b"eu"
    assert b"mcp-param-region" not in made
