"""Rate limits: calls per minute of a caller, leased from what the node may spend (LIM-01, DESIGN §6b-2).

Each worker spends a local lease; when it is empty it asks the node's shared memory for the next one, so
that N workers together never pass the ceiling, and wait for each other once per lease, not once per call.
The store has no part in it: a limit holds, and lets through, while the store cannot be written.
"""

from __future__ import annotations

from dataclasses import dataclass

from firewall.core.ports import Allowances
from firewall.core.principal import Principal
from firewall.enforce.labels import shared_key

MINUTE_US = 60_000_000


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """calls_per_minute: per (tenant, subject, client), node-wide. 0 refuses everything."""

    calls_per_minute: int = 6_000
    lease_fraction: int = 20


class Limits:
    """Counts calls; `take` answers 0 or the seconds to wait."""

    def __init__(self, pool: Allowances, settings: LimitSettings) -> None:
        self._pool = pool
        self._ceiling = settings.calls_per_minute
        self._lease = max(1, settings.calls_per_minute // max(1, settings.lease_fraction))
        self._minute = -1
        self._left: dict[tuple[str, str, str], int] = {}

    def take(self, principal: Principal, now_us: int) -> int:
        """Spend one call at a time (Unix microseconds); return 0, or how many seconds (1–60) to wait.

        Raises StateUnavailable: the lease is spent and the next one cannot be counted.
        """
        minute = now_us // MINUTE_US
        if minute != self._minute:
            self._minute = minute
            self._left.clear()
        key = principal.key
        left = self._left.get(key, 0)
        if left <= 0:
            left = self._pool.take(shared_key(b"calls", *key), minute, self._lease, ceiling=self._ceiling)
            if left <= 0:
                return max(1, 60 - (now_us % MINUTE_US) // 1_000_000)
        self._left[key] = left - 1
        return 0
