"""Our own messages to upstreams: opening sessions and reading catalogues, decided like any other.

The house principal speaks for the gateway itself, per tenant. It is made from configuration
(``kind="local"``), holds the read scope of one upstream and nothing else, and its actions pass the
same guard and are recorded. What it learns reaches a caller only through that caller's own decision.
"""

from __future__ import annotations

from typing import Protocol

from firewall.core.action import Resource
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.core.principal import Actor, Principal
from firewall.enforce.guard import Guard
from mcp_gateway.action import request, response, server_resource
from mcp_gateway.settings import UpstreamSpec

SUBJECT = "bartizan"


class States(Protocol):
    """The registry's answer on the data path (`enforce.registry.Registry`)."""

    def state(self, tenant: str, kind: str, name: str) -> str:
        """Return approved|pending|suspended|revoked."""


class Refused(Exception):
    """The guard refused one of our own messages; the caller is told the same refusal."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.fault.code)
        self.refusal = refusal


class House:
    """Clears the gateway's own messages."""

    def __init__(self, guard: Guard, registry: States, public_url: str) -> None:
        self._guard = guard
        self._registry = registry
        self._public_url = public_url
        self._resources: dict[tuple[str, str], Resource] = {}

    def resource(self, tenant: str, spec: UpstreamSpec) -> Resource:
        """Return the Resource of an upstream with its present registry state; raises StateUnavailable."""
        state = self._registry.state(tenant, "mcp", spec.name)
        found = self._resources.get((spec.name, state))
        if found is None:
            found = self._resources[spec.name, state] = server_resource(spec.facts, state)
        return found

    def is_open(self, principal: Principal, spec: UpstreamSpec) -> bool:
        """Return whether an upstream is approved, and no stop closes it to a caller now. Raises StateUnavailable."""
        state = self._registry.state(principal.tenant, "mcp", spec.name)
        return state == "approved" and not self._guard.barred(principal, [spec.name])

    def forget(self, name: str) -> None:
        """Drop the kept facts of an upstream whose configuration changed."""
        self._resources = {slot: kept for slot, kept in self._resources.items() if slot[0] != name}

    async def clear(
        self, tenant: str, spec: UpstreamSpec, method: str, body: JSONObject, *, version: str, point: Point
    ) -> Cleared:
        """Return one of our messages, sendable. Raises Refused."""
        principal = self.principal(tenant, spec.name)
        resource = self.resource(tenant, spec)
        exchange = self._guard.new_exchange(principal, "mcp")
        exchange.verb = method
        make = response if point is Point.MCP_PONG else request
        verdict: Cleared | Refusal | None = None
        try:
            action = make(point, principal, method, resource, body, version=version, transport=spec.transport)
            verdict = await self._guard.clear(action, exchange)
        finally:
            self._guard.close(exchange, outcome="ok" if isinstance(verdict, Cleared) else "refused")
        if isinstance(verdict, Refusal):
            raise Refused(verdict)
        return verdict

    def masked(self, tenant: str, lines: tuple[str, ...]) -> tuple[str, ...]:
        """Return a child's lines for an operator; one in which inspection sees a secret is left out."""
        body: JSONObject = {"lines": list(lines)}
        found = self._guard.scanner.scan(body, Point.MCP_NOTIFY_SERVER, tenant)
        secret = {finding.pointer for finding in found if finding.category == "secret"}
        return tuple("[removed]" if f"/lines/{n}" in secret else line for n, line in enumerate(lines))

    def plain(self, tenant: str, text: str) -> bool:
        """Return whether inspection finds nothing in a server's words about itself."""
        body: JSONObject = {"result": {"instructions": text}}
        return not self._guard.scanner.scan(body, Point.MCP_SESSION_OPENED, tenant)

    def principal(self, tenant: str, name: str) -> Principal:
        """Return who we are towards one upstream for one tenant."""
        return Principal(
            tenant=tenant,
            issuer=self._public_url,
            subject=SUBJECT,
            client_id=name,  # limits and labels are per caller: one upstream must not spend those of another
            scopes=frozenset({f"{name}:read"}),
            audience=f"{self._public_url}/mcp/{name}",
            chain=(Actor(SUBJECT, "service"),),
            expires_at=0,
            kind="local",
            auth_method="local",
        )
