"""Flow labels of callers: read from the node's shared memory, kept in the store.

INVARIANT (DESIGN §6b-1): the key is (tenant, subject, client), never a session or a context id; under a run
token it is (tenant, subject, client, run), which begins clean (docs/adr/0026). What is raised in a run is
raised in the caller's plain context too: nothing that a run learned is forgotten by leaving it.
INVARIANT (DESIGN §6b-2): `raise_` returns after every worker of the node can read the new label,
so a raise done before release is seen by whoever decides next.
"""

from __future__ import annotations

import heapq
from hashlib import blake2b

from firewall.core.errors import Conflict, StateUnavailable
from firewall.core.label import MOST_RESTRICTIVE, Label
from firewall.core.ports import Clock, Collection, SharedMarks
from firewall.core.principal import Principal
from firewall.core.run import run_ends_s


def shared_key(kind: bytes, *parts: str) -> bytes:
    """Return the 16-byte shared-memory key of a tuple; parts are length-prefixed, so they cannot blend."""
    digest = blake2b(digest_size=16, person=kind)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return digest.digest()


# The store has no list of tenants; labels keep their own, under a name that no tenant can have.
TENANTS = "\x00tenants"
# Kept names of runs begin with this, so that a start knows which slots to give back one day.
RUN = "run/"
# A call that a run began may be answered after the run's end: its label stands for so long.
AFTER_RUN_S = 3600
_SECOND_US = 1_000_000


class FlowLabels:
    """Implements `core.ports.Labels`.

    clock: without one, slots of runs that ended are never given back.
    """

    def __init__(self, marks: SharedMarks, kept: Collection, clock: Clock | None = None) -> None:
        self._marks = marks
        self._kept = kept
        self._clock = clock
        self._keys: dict[tuple[str, ...], bytes] = {}
        self._runs: list[tuple[int, bytes]] = []  # heap: when a run's slot is given back, and its key

    def restore(self) -> int:
        """Load every tenant's kept labels into shared memory at start; return how many."""
        count = 0
        for tenant in [entry.key for entry in self._kept.scan(TENANTS)]:
            for entry in self._kept.scan(tenant):
                key = bytes.fromhex(entry.key.removeprefix(RUN))
                if entry.key.startswith(RUN):
                    heapq.heappush(self._runs, (entry.expires_us, key))
                self._marks.raise_(key, int(entry.value))
                count += 1
        return count

    def current(self, principal: Principal) -> Label:
        """Return the caller's label; MOST_RESTRICTIVE when shared memory cannot be read."""
        key = None if principal.run else self._keys.get(principal.key)  # nearly always: found at once
        try:
            marks: Label = self._marks.read(key or self._key(principal)) & MOST_RESTRICTIVE  # type: ignore[assignment]
            return marks
        except StateUnavailable:
            return MOST_RESTRICTIVE

    def raise_(self, principal: Principal, label: Label) -> None:
        """Join a label into the caller's. Raises StateUnavailable: the caller must not release."""
        if principal.run:
            self._give_back()
            until_us = (run_ends_s(principal.run) + AFTER_RUN_S) * _SECOND_US
            if self._join(principal.tenant, self._key(principal), label, until_us):
                heapq.heappush(self._runs, (until_us, self._key(principal)))
        self._join(principal.tenant, self._plain(principal), label, 0)

    def _join(self, tenant: str, key: bytes, label: Label, expires_us: int) -> bool:
        """Join a label into one key, in the store and in shared memory; return whether this worker wrote."""
        known = self._marks.read(key)
        if known & label == label:
            return False
        # Durable first: a crash between the two leaves the label too high, never too low.
        name = RUN + key.hex() if expires_us else key.hex()
        while True:
            entry = self._kept.get(tenant, name)
            kept, version = (int(entry.value), entry.version) if entry else (0, 0)
            try:
                self._kept.put(tenant, name, str(kept | label).encode(), expires_us=expires_us, if_version=version)
                if not version:
                    self._kept.put(TENANTS, tenant, b"1")
                break
            except Conflict:
                continue  # another worker raised it meanwhile: join with what it wrote
        self._marks.raise_(key, label)
        return True

    def _give_back(self) -> None:
        """Drop this worker's slots of runs that ended an hour ago: a table that only grows would be full one day."""
        if self._clock is None:
            return
        now_us = self._clock.now_us()
        while self._runs and self._runs[0][0] <= now_us:
            self._marks.drop(heapq.heappop(self._runs)[1])

    def _key(self, principal: Principal) -> bytes:
        if not principal.run:
            return self._plain(principal)
        return self._cached((*principal.key, principal.run), b"label-run")

    def _plain(self, principal: Principal) -> bytes:
        return self._cached(principal.key, b"label")

    def _cached(self, parts: tuple[str, ...], kind: bytes) -> bytes:
        key = self._keys.get(parts)
        if key is None:
            if len(self._keys) >= 65_536:
                self._keys.clear()
            key = self._keys[parts] = shared_key(kind, *parts)
        return key
