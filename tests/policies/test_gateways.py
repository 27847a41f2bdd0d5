"""The gateways' own resources, through the real encoder: ordinary traffic passes with no rule speaking."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from firewall.core.action import Action, Resource
from firewall.core.jsonvalue import JSON
from firewall.core.points import INFO, Point
from firewall.decide.bundle import Bundle
from firewall.decide.regorus import RegorusEngine
from mcp_gateway.action import ServerFacts, server_resource, tool_resource
from tests.decide.samples import ALICE, call, encoded

FACTS = ServerFacts("git", trust="trusted", network="loopback", tenants=("acme",), effects={"git_status": "read"})
SERVER = server_resource(FACTS, "approved")
TOOL = tool_resource(
    FACTS, "git_status", state="approved", effect="read", pin="approved", digest="sha256:00", schema="ok"
)
AGGREGATE = Resource(
    "mcp_server",
    "mcp",
    "",
    {
        "server": "mcp",
        "trust": "trusted",
        "network": "public",
        "state": "approved",
        "tenants": ["acme"],
        "scope": "git:read",
    },
)
ASKING = {"asks": ["elicitation", "roots", "sampling"]}
PINNED = {"pin": "approved", "hash": "sha256:00"}
RESOURCE = Resource("mcp_resource", "git/file:///srv/readme", "git", {**SERVER.properties, **PINNED})
PROMPT = Resource("mcp_prompt", "git/review", "git", {**SERVER.properties, **PINNED})
ITEM: JSON = {"id": "git_status", "effect_class": "read", "scope": "git:read", "pin": "approved", "state": "approved"}
TOOL_POINTS = (Point.MCP_TOOL_CALL, Point.MCP_TOOL_RESULT)
PROMPT_POINTS = (Point.MCP_PROMPT_GET, Point.MCP_PROMPT_RESULT, Point.MCP_COMPLETION_ASK)
RESOURCE_POINTS = (Point.MCP_RESOURCE_READ, Point.MCP_RESOURCE_RESULT)
LIST_POINTS = (Point.MCP_TOOL_LISTED, Point.MCP_RESOURCE_LISTED, Point.MCP_PROMPT_LISTED)
OWN_POINTS = (*TOOL_POINTS, *PROMPT_POINTS, *RESOURCE_POINTS)
MCP = [point for point in Point if INFO[point].protocol == "mcp"]
ARGUMENTS: dict[Point, dict[str, JSON]] = {
    **{point: {"items": [ITEM]} for point in LIST_POINTS},
    Point.MCP_SAMPLING_ASK: {"max_tokens": 100, "tools": 0, "include_context": "none", "messages": 1},
    Point.MCP_ELICITATION_ASK: {"mode": "form", "fields": ["branch"]},
    Point.MCP_ELICITATION_ANSWER: {"action": "accept", "fields": ["branch"]},
}


def decide(bundle: Bundle, action: Action) -> tuple[str, list[str]]:
    answer = orjson.loads(RegorusEngine(bundle).decide(action.point, encoded(action)))
    return answer["effect"], [r["rule"] for r in answer["reasons"]]


def action(point: Point, resource: Resource) -> Action:
    if point.value.endswith((".ask", ".answer")) and resource.type == "mcp_server":
        resource = Resource(resource.type, resource.id, resource.upstream, {**resource.properties, **ASKING})
    return replace(call(), point=point, resource=resource, arguments=ARGUMENTS.get(point, {}))


def own(point: Point) -> Resource:
    """Return the resource that a gateway names at a point."""
    if point in TOOL_POINTS:
        return TOOL
    if point in PROMPT_POINTS:
        return PROMPT
    return RESOURCE if point in RESOURCE_POINTS else SERVER


@pytest.mark.parametrize("point", MCP)
def test_an_mcp_server_s_traffic_passes(shipped: Bundle, point: Point) -> None:
    assert decide(shipped, action(point, own(point))) == ("allow", [])


@pytest.mark.parametrize("point", [p for p in MCP if p not in OWN_POINTS])
def test_the_aggregated_endpoint_s_traffic_passes(shipped: Bundle, point: Point) -> None:
    who = replace(ALICE, audience="https://fw.example/mcp")
    assert decide(shipped, replace(action(point, AGGREGATE), principal=who)) == ("allow", [])


@pytest.mark.parametrize("point", MCP)
def test_a_stranger_s_does_not(shipped: Bundle, point: Point) -> None:
    """The twin: the same traffic without any scope of the server."""
    stranger = replace(ALICE, scopes=frozenset({"time:read"}))
    effect, rules = decide(shipped, replace(action(point, own(point)), principal=stranger))
    assert effect == "deny"
    assert set(rules) <= {"identity.scope_missing", "core.default_deny", "tools.visibility"}
