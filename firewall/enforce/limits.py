"""Rate limits: calls per minute of a caller, leased from one pool per node (LIM-01, DESIGN §6b-2).

Each worker spends a local lease; when it is empty it asks the node's pool for the next one, so
that N workers together never pass the ceiling and the store is touched once per lease, not once
per call. When the pool cannot be asked the call is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from firewall.core.errors import StateUnavailable
from firewall.core.ports import Clock, Collection
from firewall.core.principal import Principal

MINUTE_US = 60_000_000


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """calls_per_minute: per (tenant, subject, client), node-wide. 0 refuses everything."""

    calls_per_minute: int = 6_000
    lease_fraction: int = 20


class Limits:
    """Counts calls; `take` answers 0 or the seconds to wait."""

    def __init__(self, pool: Collection, clock: Clock, settings: LimitSettings) -> None:
        self._pool = pool
        self._clock = clock
        self._ceiling = settings.calls_per_minute
        self._lease = max(1, settings.calls_per_minute // max(1, settings.lease_fraction))
        self._minute = -1
        self._left: dict[tuple[str, str, str], int] = {}

    def take(self, principal: Principal) -> int:
        """Spend one call; return 0, or how many seconds (1–60) to wait."""
        now = self._clock.now_us()
        minute = now // MINUTE_US
        if minute != self._minute:
            self._minute = minute
            self._left.clear()
        left = self._left.get(principal.key, 0)
        if left <= 0:
            left = self._more(principal, minute)
            if left <= 0:
                return max(1, 60 - (now % MINUTE_US) // 1_000_000)
        self._left[principal.key] = left - 1
        return 0

    def _more(self, principal: Principal, minute: int) -> int:
        try:
            return self._pool.add(
                principal.tenant,
                f"{minute}/{len(principal.subject)}:{principal.subject}/{principal.client_id}",
                self._lease,
                ceiling=self._ceiling,
                expires_us=(minute + 2) * MINUTE_US,
            )
        except StateUnavailable:
            return 0
