"""What is presented to upstreams now: tokens in memory, per worker, looked at again whenever the node's epoch moved."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from firewall.core.ports import Clock, SharedMarks
from firewall.identity.rfc9449.signer import DPoPSigner
from firewall.identity.upstream.grants import UpstreamGrant
from firewall.net.renewing import LiveHeader, Renew

KEPT: Final = 20_000

Slot: TypeAlias = tuple[str, ...]
"""(tenant, upstream, way, …): everything that a token depends on (oauth reference §6.4)."""


@dataclass(slots=True)
class Presented:
    """A header that may be presented.

    until_us: when to look for a better one; 0 never. grant: of a person; None for a token made for us, which
    ends at ``ends_us``.
    """

    header: LiveHeader
    until_us: int
    epoch: int
    grant: UpstreamGrant | None = None
    ends_us: int = 0


class PresentedTokens:
    """The tokens of a worker. stands: whether a person's grant is still what it was."""

    def __init__(self, marks: SharedMarks, clock: Clock, stands: Callable[[UpstreamGrant], bool]) -> None:
        self._marks = marks
        self._clock = clock
        self._stands = stands
        self._kept: OrderedDict[Slot, Presented] = OrderedDict()
        self._locks: dict[Slot, asyncio.Lock] = {}

    def live(self, slot: Slot) -> Presented | None:
        """Return what is kept for a slot if it may still be presented. Raises StateUnavailable."""
        kept = self._kept.get(slot)
        if kept is None or (kept.until_us and self._clock.now_us() >= kept.until_us):
            return None
        epoch = self._marks.epoch()
        if kept.epoch != epoch:
            if kept.grant is not None and not self._stands(kept.grant):
                del self._kept[slot]
                return None
            kept.epoch = epoch
        return kept

    def keep(self, slot: Slot, presented: Presented) -> Presented:
        """Keep and return it; the least recently kept makes room."""
        self._kept[slot] = presented
        self._kept.move_to_end(slot)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return presented

    def outlive(self, slot: Slot, for_us: int) -> Presented | None:
        """Return a token made for us that is due but not over, good for so long again: its server is down."""
        kept, now_us = self._kept.get(slot), self._clock.now_us()
        if kept is None or kept.grant is not None or now_us >= kept.ends_us:
            return None
        kept.until_us = min(kept.ends_us, now_us + for_us)
        return kept

    def drop(self, slot: Slot) -> None:
        """Forget what is kept for a slot."""
        self._kept.pop(slot, None)

    @asynccontextmanager
    async def alone(self, slot: Slot) -> AsyncIterator[None]:
        """Hold a slot: one task at a time obtains what is missing there."""
        lock = self._locks.setdefault(slot, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(slot, None)

    def epoch(self) -> int:
        """Return the node's epoch: read it before what it covers."""
        return self._marks.epoch()


@dataclass(frozen=True, slots=True)
class Proofs:
    """Makes the proof of each request that carries one bound token; implements `net.renewing.Signs`."""

    signer: DPoPSigner
    tenant: str
    upstream: str
    token: str = field(repr=False)

    def proof(self, method: str, url: str) -> tuple[bytes, bytes]:
        """Return the header."""
        made = self.signer.proof(self.tenant, self.upstream, method=method, url=url, token=self.token)
        return b"dpop", made.encode("ascii")

    def again(self, url: str, status: int, headers: Mapping[str, str]) -> bool:
        """Return whether an answer asks for the same request with a nonce that it told."""
        return self.signer.wants_retry(self.tenant, self.upstream, url, status, headers)


def header_of(signer: DPoPSigner, tenant: str, upstream: str, token_type: str, token: str, renew: Renew) -> LiveHeader:
    """Return the header that presents a token. token_type: ``bearer`` or ``dpop``."""
    if token_type != "dpop":  # noqa: S105  a type
        return LiveHeader(b"authorization", f"Bearer {token}".encode("ascii"), renew)
    proofs = Proofs(signer, tenant, upstream, token)
    return LiveHeader(b"authorization", f"DPoP {token}".encode("ascii"), renew, proofs)
