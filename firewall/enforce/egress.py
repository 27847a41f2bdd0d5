"""Egress of local programs: each connection that a stdio child asks our proxy for is one Action.

The child speaks for itself, not for the agent that called it: its principal is local, its scope is
its own network, and its connections are decided, recorded and killable like everything else.
The proxy connects only after ``permits`` said yes, and to the address that was classified.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from firewall.core.action import Action, Protocol, Resource
from firewall.core.permit import Cleared
from firewall.core.points import Point
from firewall.core.ports import Clock
from firewall.core.principal import Actor, Principal
from firewall.enforce.guard import Guard

Hosts = frozenset[tuple[str, int]]


class EgressGate:
    """Decides connections of the children of one tenant's upstreams."""

    def __init__(
        self,
        guard: Guard,
        clock: Clock,
        tenant: str,
        networks: dict[str, str],
        hosts: Mapping[str, Hosts] = MappingProxyType({}),
    ) -> None:
        """networks: upstream name → the one network it may use besides public addresses.

        hosts: upstream name → the only hosts it may name, as (host, port) in lower case, port 0 for any. An
        upstream that is not named there may name every host.
        """
        self._guard = guard
        self._clock = clock
        self._tenant = tenant
        self._networks = networks
        self._hosts = hosts

    async def permits(self, child: str, host: str, port: int, address_class: str) -> bool:
        """Return whether a child may connect.

        child: the upstream's name; host: what it asked for; address_class: `net.dial.classify` of
        the address that would be used. Unknown children are refused.
        """
        network = self._networks.get(child)
        if network is None:
            return False
        scope = f"{child}:egress"
        given = self._hosts.get(child)
        name = host.lower().rstrip(".")
        listed = given is None or (name, port) in given or (name, 0) in given
        principal = Principal(
            tenant=self._tenant,
            issuer="local",
            subject=f"child:{child}",
            client_id=child,
            scopes=frozenset({scope}),
            audience="egress",
            chain=(Actor(f"child:{child}", "service"),),
            expires_at=self._clock.now_us() // 1_000_000 + 60,
            kind="local",
            auth_method="child",
        )
        resource = Resource(
            "host",
            f"{child}/{host}:{port}",
            child,
            {
                "server": child,
                "state": "approved",
                "tenants": [self._tenant] if listed else [],  # a host that was not given serves nobody
                "network": network,
                "scope": scope,
                "host": host,
                "port": port,
                "address_class": address_class,
            },
        )
        action = Action(
            Point.EGRESS_CONNECT,
            principal,
            "CONNECT",
            resource,
            Protocol("egress", "1.1", "http"),
            {"host": host, "port": port},
        )
        exchange = self._guard.new_exchange(principal, "egress")
        verdict = await self._guard.clear(action, exchange)
        permitted = isinstance(verdict, Cleared)
        self._guard.close(exchange, outcome="ok" if permitted else "refused")
        return permitted
