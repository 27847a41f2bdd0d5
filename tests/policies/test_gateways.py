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
ITEM: JSON = {"id": "git_status", "effect_class": "read", "scope": "git:read", "pin": "approved", "state": "approved"}
TOOL_POINTS = (Point.MCP_TOOL_CALL, Point.MCP_TOOL_RESULT)
MCP = [point for point in Point if INFO[point].protocol == "mcp"]


def decide(bundle: Bundle, action: Action) -> tuple[str, list[str]]:
    answer = orjson.loads(RegorusEngine(bundle).decide(action.point, encoded(action)))
    return answer["effect"], [r["rule"] for r in answer["reasons"]]


def action(point: Point, resource: Resource) -> Action:
    arguments: dict[str, JSON] = {"items": [ITEM]} if point is Point.MCP_TOOL_LISTED else {}
    return replace(call(), point=point, resource=resource, arguments=arguments)


@pytest.mark.parametrize("point", MCP)
def test_an_mcp_server_s_traffic_passes(shipped: Bundle, point: Point) -> None:
    assert decide(shipped, action(point, TOOL if point in TOOL_POINTS else SERVER)) == ("allow", [])


@pytest.mark.parametrize("point", [p for p in MCP if p not in TOOL_POINTS])
def test_the_aggregated_endpoint_s_traffic_passes(shipped: Bundle, point: Point) -> None:
    who = replace(ALICE, audience="https://fw.example/mcp")
    assert decide(shipped, replace(action(point, AGGREGATE), principal=who)) == ("allow", [])


@pytest.mark.parametrize("point", MCP)
def test_a_stranger_s_does_not(shipped: Bundle, point: Point) -> None:
    """The twin: the same traffic without any scope of the server."""
    stranger = replace(ALICE, scopes=frozenset({"time:read"}))
    resource = TOOL if point in TOOL_POINTS else SERVER
    effect, rules = decide(shipped, replace(action(point, resource), principal=stranger))
    assert effect == "deny"
    assert set(rules) <= {"identity.scope_missing", "core.default_deny", "tools.visibility"}
