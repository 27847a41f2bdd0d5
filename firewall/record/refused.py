"""Records what was refused before anybody was known: at the edge, a token that is not good here, and at the front door.

A refusal of this kind costs its sender nothing, so its records are bounded: in each minute and worker 60, 10 of them
for one network, at the edge and at the front door each. What is beyond is counted by name alone, and stands as one
record of the next minute that has a refusal, or of the end. A record of the edge has an id like a decision's, which
the caller is told and `bartizan explain` takes; one that is only counted has none. Nothing of a message is kept: a
record says which of our own faults was told, and what its giver adds, of a checked form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from firewall.core.errors import AuditUnavailable
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import AuditLog, Clock, Ids
from firewall.record.record import AUTH, EDGE

PER_MINUTE: Final = 60
PER_NETWORK: Final = 10
_MINUTE_US: Final = 60_000_000


class _Bounded:
    """So many records a minute, of one worker. network_of: what counts as one address. rest: the record of the others."""

    def __init__(self, audit: AuditLog, clock: Clock, network_of: Callable[[str], str], rest: JSONObject) -> None:
        self._audit = audit
        self._clock = clock
        self._network_of = network_of
        self._rest = rest
        self._minute = 0
        self._recorded = 0
        self._networks: Counter[str] = Counter()  # of this minute, at most as many as were recorded
        self._beyond: Counter[str] = Counter()  # by fault or event; our own names

    def write(self, name: str, address: str, record: Callable[[], JSONObject]) -> JSONObject | None:
        """Return the record, made and written, or None where it was only counted or could not be written."""
        minute = self._clock.now_us() // _MINUTE_US
        if minute != self._minute:
            self.settle()
            self._minute, self._recorded = minute, 0
            self._networks.clear()
        network = self._network_of(address)
        if self._recorded >= PER_MINUTE or self._networks.get(network, 0) >= PER_NETWORK:
            self._beyond[name] += 1
            return None
        made = record()
        try:
            self._audit.append(made)
        except AuditUnavailable:
            return None  # it is refused all the same: nothing was to be forwarded
        self._recorded += 1
        self._networks[network] += 1
        return made

    def settle(self) -> None:
        """Record how many refusals had no record of their own, and begin to count anew."""
        if not self._beyond:
            return
        counts: dict[str, JSON] = dict(sorted(self._beyond.items()))
        self._beyond.clear()
        try:
            self._audit.append({**self._rest, "counts": counts})
        except AuditUnavailable:
            pass  # the fault itself was told by the log


class RefusalLog:
    """Implements `core.ports.Refusals`, for one worker. network_of: what counts as one address."""

    def __init__(self, audit: AuditLog, clock: Clock, ids: Ids, network_of: Callable[[str], str]) -> None:
        self._ids = ids
        self._bounded = _Bounded(audit, clock, network_of, {"kind": EDGE, "phase": "note"})

    def note(self, fault: str, address: str, facts: JSONObject) -> str:
        """Return the id under which a refusal was recorded, "" where it was only counted; see the port."""
        decision_id = ""

        def record() -> JSONObject:
            nonlocal decision_id
            decision_id = self._ids.new("d")
            return {"kind": EDGE, "phase": "refused", "decision_id": decision_id, "fault": fault, **facts}

        return decision_id if self._bounded.write(fault, address, record) is not None else ""

    def settle(self) -> None:
        """Record how many refusals had no record of their own."""
        self._bounded.settle()


# What anybody may begin. Counted apart from refusals, so that a flood of the one hides nothing of the other.
BEGINNINGS: Final = frozenset({"identity.device.asked", "identity.idp.begun", "identity.client.registered"})


class StrangerLog:
    """Events of the front door that strangers cause, for one worker: bounded like refusals at the edge.

    What they were refused and what they began (`BEGINNINGS`) have bounds of their own. Not for events about a client
    or a person who proved who they are, nor for what was granted: these have records of their own, every one. An event
    has no decision's id, so that nobody is told one.
    """

    def __init__(self, audit: AuditLog, clock: Clock, network_of: Callable[[str], str]) -> None:
        self._refused = _Bounded(
            audit, clock, network_of, {"v": 1, "kind": AUTH, "event": "identity.strangers.refused"}
        )
        self._begun = _Bounded(audit, clock, network_of, {"v": 1, "kind": AUTH, "event": "identity.strangers.begun"})

    def note(self, event: str, address: str, facts: JSONObject) -> None:
        """Record or count one event. address: of whoever asked; it is not recorded. Never raises."""
        bounded = self._begun if event in BEGINNINGS else self._refused
        bounded.write(event, address, lambda: {"v": 1, "kind": AUTH, "event": event, **facts})

    def settle(self) -> None:
        """Record how many events had no record of their own."""
        self._refused.settle()
        self._begun.settle()
