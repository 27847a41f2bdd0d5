"""Clients that describe themselves: each host that we would reach on a stranger's word is one Action.

Only where ``identity.cimd.policy`` is ``policy``. Nobody is signed in yet, so the subject is the client
itself, under the node's own tenant; what is decided is recorded and killable like everything else.
"""

from __future__ import annotations

from firewall.core.action import Action, Protocol, Resource
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared
from firewall.core.points import Point
from firewall.core.ports import ClientFacts, Clock
from firewall.core.principal import Actor, Principal
from firewall.enforce.guard import Guard


class ClientGate:
    """Implements `core.ports.ClientTrust` by a decision at ``identity.client``."""

    def __init__(self, guard: Guard, clock: Clock, tenant: str) -> None:
        self._guard = guard
        self._clock = clock
        self._tenant = tenant

    async def permits(self, facts: ClientFacts) -> bool:
        """Return whether policy allows a client's host (stage ``fetch``) or its document."""
        subject = f"client:{facts.host}"
        principal = Principal(
            tenant=self._tenant,
            issuer="local",
            subject=subject,
            client_id=facts.url,
            scopes=frozenset(),
            audience="identity",
            chain=(Actor(subject, "service"),),
            expires_at=self._clock.now_us() // 1_000_000 + 60,
            kind="local",
            auth_method="cimd",
        )
        resource = Resource(
            "host",
            facts.host,
            facts.host,
            {"host": facts.host, "state": "approved" if facts.listed else "pending", "tenants": ["*"]},
        )
        arguments: JSONObject = {"url": facts.url} if facts.stage == "fetch" else _described(facts)
        action = Action(
            Point.IDENTITY_CLIENT,
            principal,
            facts.stage,
            resource,
            Protocol("identity", "cimd", "http"),
            arguments,
            arguments,
        )
        exchange = self._guard.new_exchange(principal, "identity")
        verdict = await self._guard.clear(action, exchange)
        permitted = isinstance(verdict, Cleared)
        self._guard.close(exchange, outcome="ok" if permitted else "refused")
        return permitted


def _described(facts: ClientFacts) -> JSONObject:
    return {
        "url": facts.url,
        "redirect_hosts": list(facts.redirect_hosts),
        "foreign_hosts": list(facts.foreign_hosts),
        "keys_host": facts.keys_host,
        "loopback_only": facts.loopback_only,
        "auth_method": facts.auth_method,
        "grant_types": list(facts.grant_types),
        "scopes": list(facts.scopes),
    }
