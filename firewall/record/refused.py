"""Records what was refused before anybody was known: at the edge, and a token that is not good here.

A refusal of this kind costs its sender nothing, so its records are bounded: in each minute and worker 60, 10 of them
for one network. Each has an id like a decision's, which the caller is told and `bartizan explain` takes. What is
beyond is counted by fault alone, has no id, and stands as one record of the next minute that has a refusal, or of
the end. Nothing of a message is kept: a record says which of our own faults was told, and what its giver adds, of a
checked form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from firewall.core.errors import AuditUnavailable
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import AuditLog, Clock, Ids
from firewall.record.record import EDGE

PER_MINUTE: Final = 60
PER_NETWORK: Final = 10
_MINUTE_US: Final = 60_000_000


class RefusalLog:
    """Implements `core.ports.Refusals`, for one worker. network_of: what counts as one address."""

    def __init__(self, audit: AuditLog, clock: Clock, ids: Ids, network_of: Callable[[str], str]) -> None:
        self._audit = audit
        self._clock = clock
        self._ids = ids
        self._network_of = network_of
        self._minute = 0
        self._recorded = 0
        self._networks: Counter[str] = Counter()  # of this minute, at most as many as were recorded
        self._beyond: Counter[str] = Counter()  # by fault; our own names

    def note(self, fault: str, address: str, facts: JSONObject) -> str:
        """Return the id under which a refusal was recorded, "" where it was only counted; see the port."""
        minute = self._clock.now_us() // _MINUTE_US
        if minute != self._minute:
            self.settle()
            self._minute, self._recorded = minute, 0
            self._networks.clear()
        network = self._network_of(address)
        if self._recorded >= PER_MINUTE or self._networks.get(network, 0) >= PER_NETWORK:
            self._beyond[fault] += 1
            return ""
        decision_id = self._ids.new("d")
        try:
            self._audit.append({"kind": EDGE, "phase": "refused", "decision_id": decision_id, "fault": fault, **facts})
        except AuditUnavailable:
            return ""  # it is refused all the same: nothing was to be forwarded
        self._recorded += 1
        self._networks[network] += 1
        return decision_id

    def settle(self) -> None:
        """Record how many refusals had no record of their own, and begin to count anew."""
        if not self._beyond:
            return
        counts: dict[str, JSON] = dict(sorted(self._beyond.items()))
        self._beyond.clear()
        try:
            self._audit.append({"kind": EDGE, "phase": "note", "counts": counts})
        except AuditUnavailable:
            pass  # the fault itself was told by the log
