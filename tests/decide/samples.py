"""Values that the tests of this room start from."""

from __future__ import annotations

from firewall.core.action import Action, Protocol, Resource
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON
from firewall.core.label import CLEAN, Label
from firewall.core.points import Point
from firewall.core.principal import Actor, Principal
from firewall.decide.question import encode_input

ALICE = Principal(
    tenant="acme",
    issuer="https://as.example",
    subject="alice",
    client_id="https://agent.example/client.json",
    scopes=frozenset({"git:read", "git:write"}),
    audience="https://fw.example/mcp/git",
    chain=(Actor("alice"), Actor("agent", "agent")),
    expires_at=2_000_000_000,
)


def tool(**changed: JSON) -> Resource:
    """Return an approved read tool; a keyword replaces a property, None removes it."""
    facts: dict[str, JSON] = {
        "server": "git",
        "trust": "trusted",
        "network": "loopback",
        "state": "approved",
        "tenants": ["acme"],
        "effect_class": "read",
        "pin": "approved",
        "scope": "git:read",
        "schema": "ok",
        **changed,
    }
    return Resource("mcp_tool", "git/git_status", "git", {k: v for k, v in facts.items() if v is not None})


def call(
    arguments: dict[str, JSON] | None = None, *, resource: Resource | None = None, who: Principal = ALICE
) -> Action:
    """Return a tools/call action whose arguments stand in its body."""
    given = {"repo_path": "/srv/project"} if arguments is None else arguments
    body: JSON = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "git_status", "arguments": given},
    }
    return Action(
        Point.MCP_TOOL_CALL,
        who,
        "tools/call",
        resource if resource is not None else tool(),
        Protocol("mcp", "2026-07-28", "http"),
        body,
        given,
    )


def encoded(
    action: Action, findings: list[Finding] | None = None, *, label: Label = CLEAN, approval: JSON = None
) -> bytes:
    """Return the policy input of an action."""
    return encode_input(
        action,
        findings or [],
        label=label,
        exchange=Exchange("req_1", action.principal, action.protocol.name, 0),
        now_us=1_795_000_000_000_000,
        revision="sha256:00",
        approval=approval,
    )


def found(category: str, severity: int = 90, pointer: str = "/params/arguments/repo_path") -> Finding:
    """Return a finding of a category."""
    return Finding("SCAN-00", f"{category}.example", category, severity, pointer, "patterns")  # type: ignore[arg-type]
