"""Whose turn it is to have an unknown token asked about: a bounded number at the issuer, shared out by network.

    all         16 at once, 50 a second
    of these    4 at once and 10 a second are kept for networks that asked for nothing in the last ten seconds
    the rest    in equal parts for the networks that did

So a flood from one address leaves an issuer's other newcomers their turn, and one address alone, a proxy's say, has
the rest to itself. Who may not ask now comes again (503): nothing is said of the token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from firewall.core.ports import Clock
from firewall.identity.throttle import wide_network_of

AT_ONCE: Final = 16
PER_S: Final = 50
KEPT_AT_ONCE: Final = 4
KEPT_PER_S: Final = 10
QUIET_S: Final = 10
NETWORKS: Final = 4_096


@dataclass(slots=True)
class _Asker:
    second: int = 0
    asked: int = 0  # in that second
    flying: int = 0


class Turns:
    """The turns at one issuer, of one worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._askers: dict[str, _Asker] = {}
        self._second = 0
        self._asked = 0
        self._flying = 0

    def any(self) -> bool:
        """Return whether anybody at all may ask now."""
        return self._flying < AT_ONCE and self._spent() < PER_S

    def take(self, address: str) -> str:
        """Take a turn and return whose it is, for `give_back`; "" when this address must come again."""
        second = self._tidy()
        network = wide_network_of(address) or "-"  # what one customer has, not one of its 65,536 networks
        asker = self._askers.get(network)
        if not self.any() or (asker is not None and not self._has_share(asker, second)):
            return ""
        if asker is None:
            if len(self._askers) >= NETWORKS:
                return ""
            asker = self._askers[network] = _Asker()
        asker.asked = asker.asked + 1 if asker.second == second else 1
        asker.second = second
        asker.flying += 1
        self._asked += 1
        self._flying += 1
        return network

    def give_back(self, network: str) -> None:
        """End a turn that `take` gave."""
        asker = self._askers.get(network)
        if asker is not None:
            asker.flying -= 1
        self._flying -= 1

    def _has_share(self, asker: _Asker, second: int) -> bool:
        shares = len(self._askers)
        mine = asker.asked if asker.second == second else 0
        return (
            self._flying < AT_ONCE - KEPT_AT_ONCE
            and self._asked < PER_S - KEPT_PER_S
            and asker.flying < max(1, (AT_ONCE - KEPT_AT_ONCE) // shares)
            and mine < max(1, (PER_S - KEPT_PER_S) // shares)
        )

    def _spent(self) -> int:
        return self._asked if self._second == self._now_s() else 0

    def _tidy(self) -> int:
        """Begin a new second: who was quiet for long enough is a newcomer again."""
        second = self._now_s()
        if second != self._second:
            self._second, self._asked = second, 0
            for network, asker in list(self._askers.items()):
                if not asker.flying and second - asker.second >= QUIET_S:
                    del self._askers[network]
        return second

    def _now_s(self) -> int:
        return self._clock.monotonic_ns() // 1_000_000_000
