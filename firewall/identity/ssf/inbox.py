"""Events that were taken and are still to be done: durable, each once, bounded. Shared by the node's workers.

A SET is kept before it is acknowledged. Its ``jti`` is burnt when it was done: doing is idempotent, so that a
worker that dies in between loses nothing, and what comes a second time is acknowledged and left alone.

An unverified SET stands for itself alone, and burns no ``jti`` before its signature held: whoever can push but not
sign could otherwise take the place of an event that is still to come, and it would be acknowledged and forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from firewall.core.errors import Conflict, StateUnavailable
from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US

WAITING: Final = 10_000
KEPT_S: Final = 24 * 3600
CLAIM_S: Final = 20
AT_ONCE: Final = 256
COUNT: Final = "count"
UNVERIFIED: Final = "unverified"
_SETS: Final = "set/"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One SET that waits. verified: its signature held when it was taken. kept_us: since when, Unix microseconds."""

    tenant: str
    key: str
    transmitter: str
    token: bytes
    verified: bool
    kept_us: int


class Inbox:
    """Keeps, claims and burns. Raises StateUnavailable."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._sets = store.collection("ssf_inbox")
        self._done = store.collection("ssf_jti")
        self._claims = store.collection("ssf_claims")
        self._clock = clock

    def keep(self, tenant: str, transmitter: str, jti: str, token: bytes, *, verified: bool) -> bool:
        """Keep a SET durably; return False for one that was taken before. Raises StateUnavailable when full."""
        key = key_of(transmitter, jti)
        if self.is_done(tenant, key):
            return False
        if not verified:
            key = key_of(transmitter, jti, token)
            if self.is_done(tenant, key):
                return False
        counts = (COUNT,) if verified else (COUNT, UNVERIFIED)
        for at, count in enumerate(counts):
            if not self._sets.add(tenant, count, 1, ceiling=_ceiling(count)):
                self._count_down(tenant, counts[:at])
                raise StateUnavailable("too many events wait")
        kept_us = self._clock.now_us()
        value = records.encode(
            {"by": transmitter, "set": token.decode("ascii"), "verified": verified, "kept_us": kept_us}
        )
        try:
            # Without an end: one that vanished by itself would stay in the count for ever.
            self._sets.put(tenant, _SETS + key, value, if_version=0)
        except Conflict:
            self._count_down(tenant, counts)
            return False
        return True

    def is_done(self, tenant: str, key: str) -> bool:
        """Return whether a SET was burnt."""
        return self._done.get(tenant, key) is not None

    def is_old(self, one: Waiting) -> bool:
        """Return whether a SET has waited for longer than anything should."""
        return self._clock.now_us() >= one.kept_us + KEPT_S * SECOND_US

    def waiting(self, tenant: str) -> Iterator[Waiting]:
        """Yield what waits, as many as one look takes."""
        for entry in list(islice(self._sets.scan(tenant, _SETS), AT_ONCE)):
            value = records.decode(entry.value)
            yield Waiting(
                tenant,
                entry.key.removeprefix(_SETS),
                records.text(value, "by"),
                records.text(value, "set").encode(),
                value.get("verified") is True,
                records.number(value, "kept_us"),
            )

    def claim(self, tenant: str, key: str) -> bool:
        """Return whether this worker is the one to do it now; a claim that nobody finishes ends by itself."""
        try:
            expires_us = self._clock.now_us() + CLAIM_S * SECOND_US
            self._claims.put(tenant, key, b"", expires_us=expires_us, if_version=0)
        except Conflict:
            return False
        return True

    def finish(self, tenant: str, key: str, *, remember_s: int, held: str = "") -> None:
        """Burn a SET that was done, and drop it. remember_s: for as long as it could be sent again.

        held: the key of its ``jti``, where that is another one and its signature held in the end.
        """
        for burnt in dict.fromkeys((held or key, key)):
            self._done.put(tenant, burnt, b"", expires_us=self._clock.now_us() + remember_s * SECOND_US)
        entry = self._sets.get(tenant, _SETS + key)
        if entry is not None and self._sets.delete(tenant, _SETS + key):
            verified = records.decode(entry.value).get("verified") is True
            self._count_down(tenant, (COUNT,) if verified else (COUNT, UNVERIFIED))
        self._claims.delete(tenant, key)

    def release(self, tenant: str, key: str) -> None:
        """Let it be tried again."""
        self._claims.delete(tenant, key)

    def _count_down(self, tenant: str, counts: tuple[str, ...]) -> None:
        for count in counts:
            self._sets.add(tenant, count, -1, ceiling=_ceiling(count))


def _ceiling(count: str) -> int:
    """Return how many may wait. Those that wait for a key never fill a whole look: the others are always reached."""
    return WAITING if count == COUNT else AT_ONCE // 2


def key_of(transmitter: str, jti: str, token: bytes = b"") -> str:
    """Return the key of a SET: ids are unique to their issuer only (RFC 8417 §2.2). token: of an unverified one."""
    named = f"{transmitter}\0{jti}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(named + (b"\0" + token if token else b"")).hexdigest()
