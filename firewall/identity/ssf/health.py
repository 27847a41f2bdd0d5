"""When each transmitter was last heard of: a stream that falls silent protects nobody, and nobody would notice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.identity.ssf.settings import Transmitter


@dataclass(frozen=True, slots=True)
class Heard:
    """How a stream does. last_s: Unix seconds of its last word, 0 for never; status: as it last said; silent: too long."""

    name: str
    last_s: int
    status: str
    silent: bool


class StreamHealth:
    """Notes and tells. The first word that counts is that we began to listen."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._streams = store.collection("ssf_streams")
        self._clock = clock

    def begin(self, transmitter: Transmitter) -> None:
        """Note that we listen, if nothing was noted before."""
        if self._streams.get(transmitter.tenant, transmitter.name) is None:
            self._put(transmitter, 0, "")

    def heard(self, transmitter: Transmitter, status: str = "enabled") -> None:
        """Note a word of a transmitter: an event, a verification, an empty poll that was answered."""
        self._put(transmitter, self._clock.now_us() // SECOND_US, status)

    def of(self, transmitters: Iterable[Transmitter]) -> list[Heard]:
        """Return how each stream does now."""
        now_s = self._clock.now_us() // SECOND_US
        found = []
        for one in transmitters:
            entry = self._streams.get(one.tenant, one.name)
            value = records.decode(entry.value) if entry else {}
            last_s, since_s = records.number(value, "last_s"), records.number(value, "since_s")
            known = max(last_s, since_s)
            silent = bool(one.silent_s) and bool(known) and now_s - known > one.silent_s
            found.append(Heard(one.name, last_s, records.text(value, "status"), silent))
        return found

    def _put(self, transmitter: Transmitter, last_s: int, status: str) -> None:
        now_s = self._clock.now_us() // SECOND_US
        value = records.encode({"last_s": last_s, "since_s": now_s, "status": status})
        self._streams.put(transmitter.tenant, transmitter.name, value)
