"""Rate limits: calls per minute of a caller, leased from one pool per node (LIM-01, DESIGN §6b-2).

Each worker spends a local lease; when it is empty it asks the node's pool for the next one, so
that N workers together never pass the ceiling and the store is touched once per lease, not once
per call. A large lease is renewed before it is empty, and the next minute's is taken in the last half
of this one: while the pool cannot be asked, callers go on with what was leased, then are refused (503).
"""

from __future__ import annotations

from dataclasses import dataclass

from firewall.core.errors import StateUnavailable
from firewall.core.ports import Clock, Collection
from firewall.core.principal import Principal

MINUTE_US = 60_000_000
AHEAD_FROM = 10  # smaller leases are not taken ahead: what one worker holds of them, another would miss
ASK_AGAIN_US = 1_000_000  # when the pool had nothing, or did not answer: a call that has a lease can wait


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
        self._next: dict[tuple[str, str, str], int] = {}  # of the minute that follows
        self._again_us = 0

    def take(self, principal: Principal) -> int:
        """Spend one call; return 0, or how many seconds (1–60) to wait.

        Raises StateUnavailable: the lease is spent and the pool cannot be asked.
        """
        now = self._clock.now_us()
        minute = now // MINUTE_US
        if minute != self._minute:
            self._left = self._next if minute == self._minute + 1 else {}
            self._minute, self._next = minute, {}
        key = principal.key
        left = self._left.get(key, 0)
        if left <= 0:
            left = self._more(principal, minute)
            if left <= 0:
                return max(1, 60 - (now % MINUTE_US) // 1_000_000)
        self._left[key] = left - 1
        if self._lease >= AHEAD_FROM and now >= self._again_us:
            self._renew(principal, now, left - 1)
        return 0

    def _renew(self, principal: Principal, now: int, left: int) -> None:
        """Lease ahead, where a lease runs out or its minute does."""
        key, minute = principal.key, now // MINUTE_US
        try:
            if left <= self._lease // 4:
                more = self._more(principal, minute)
                self._left[key] += more
                if not more:  # the pool is empty: what is left is all there is
                    self._again_us = now + ASK_AGAIN_US
            elif now % MINUTE_US >= MINUTE_US // 2 and key not in self._next:
                self._next[key] = self._more(principal, minute + 1)
        except StateUnavailable:
            self._again_us = now + ASK_AGAIN_US

    def _more(self, principal: Principal, minute: int) -> int:
        return self._pool.add(
            principal.tenant,
            f"{minute}/{len(principal.subject)}:{principal.subject}/{principal.client_id}",
            self._lease,
            ceiling=self._ceiling,
            expires_us=(minute + 2) * MINUTE_US,
        )
