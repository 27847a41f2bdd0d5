"""Kill switch: asked before everything else; works when the engine does not (AUD-03).

Stops are entries of a collection, by scope; each worker keeps a snapshot and reads it again when
the node's epoch moved. An epoch that cannot be read counts as "stopped" (DESIGN §7).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson

from firewall.core.errors import StateUnavailable
from firewall.core.ports import Clock, Collection, SharedMarks
from firewall.core.principal import Principal

Scope = Literal["all", "upstream", "subject", "client"]
GLOBAL = "*"


@dataclass(frozen=True, slots=True)
class Stop:
    """One stop: what it covers, who pulled it, when (Unix microseconds) and why, in their words."""

    tenant: str
    scope: Scope
    name: str
    by: str
    since_us: int
    reason: str = ""


class KillSwitch:
    """Pull, release, list and test stops."""

    def __init__(self, stops: Collection, marks: SharedMarks, clock: Clock) -> None:
        self._stops = stops
        self._marks = marks
        self._clock = clock
        self._epoch = -1
        self._snapshot: frozenset[tuple[str, str, str]] = frozenset()

    def pull(self, tenant: str, scope: Scope, name: str, *, by: str, reason: str = "") -> Stop:
        """Stop everything in a scope; seen by every worker when this returns.

        tenant ``*`` with scope ``all`` stops the node.
        """
        stop = Stop(tenant, scope, name, by, self._clock.now_us(), reason)
        value = orjson.dumps({"by": by, "since_us": stop.since_us, "reason": reason})
        self._stops.put(tenant, f"{scope}/{name}", value)
        self._remember(tenant)
        self._marks.bump()
        return stop

    def release(self, tenant: str, scope: Scope, name: str) -> bool:
        """End a stop; return whether it stood."""
        gone = self._stops.delete(tenant, f"{scope}/{name}")
        self._marks.bump()
        return gone

    def stops(self) -> list[Stop]:
        """Return every stop of the node."""
        found: list[Stop] = []
        for tenant in self._tenants():
            for entry in self._stops.scan(tenant):
                scope, _, name = entry.key.partition("/")
                raw = orjson.loads(entry.value)
                stop = Stop(tenant, scope, name, raw["by"], raw["since_us"], raw.get("reason", ""))  # type: ignore[arg-type]
                found.append(stop)
        return found

    def stopped(self, principal: Principal, *upstreams: str) -> bool:
        """Return whether a stop covers this caller or any of these upstreams or rooms. Unknown counts as stopped.

        A stop of a client covers what others do on its behalf: every client of the actor chain counts.
        """
        try:
            epoch = self._marks.epoch()
            if epoch != self._epoch:
                self._snapshot = frozenset((s.tenant, s.scope, s.name) for s in self.stops())
                self._epoch = epoch
        except StateUnavailable:
            return True
        if not self._snapshot:
            return False
        tenant = principal.tenant
        return not self._snapshot.isdisjoint(
            (
                (GLOBAL, "all", GLOBAL),
                (tenant, "all", GLOBAL),
                *((owner, "upstream", name) for name in upstreams for owner in (tenant, GLOBAL)),
                (tenant, "subject", principal.subject),
                (tenant, "client", principal.client_id),
                *((tenant, "client", actor.sub) for actor in principal.chain[1:]),
            )
        )

    # The store has no list of tenants; stops keep their own.
    def _tenants(self) -> list[str]:
        return [entry.key for entry in self._stops.scan("\x00tenants")]

    def _remember(self, tenant: str) -> None:
        self._stops.put("\x00tenants", tenant, b"1")
