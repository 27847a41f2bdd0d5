"""Client ID Metadata Documents: pinned, cached, or fetched through the dialler (oauth reference §3).

The order is the defence: URL syntax, then trust policy, then cache, and only then the network. A
failing host never removes what was good (CL-03), a bad answer is never kept as a client. A stranger who
names URLs costs at most ten fetches a minute, four at a time, 5 s and 5 KiB each, one per URL.
Source: draft-ietf-oauth-client-id-metadata-document-02 (§4 fetching, §5 caching), RFC 9111.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import urlsplit

from firewall.core.action import Headers
from firewall.core.bounds import METADATA_BYTES
from firewall.core.errors import BartizanError, Malformed
from firewall.core.ports import ClientTrust, Clock
from firewall.identity.cimd import pinned
from firewall.identity.cimd.trust import HostTrust
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings
from firewall.identity.throttle import Throttle, network_of
from firewall.net.dial import Fetched, Network, Purpose
from firewall.wire import cimd

ENTRIES = 1000
FETCHES_AT_ONCE = 4
WAITING = 64
FETCHES_PER_MINUTE = 10
FETCH_S = 5.0
FAILURE_MEMO_S = 30
STALE_S = 24 * 3600
ETAG_CHARS = 128


class DocumentFetcher(Protocol):
    """Our way out for documents that strangers name; `net.dial.Dialler` is one."""

    async def fetch(
        self,
        purpose: Purpose,
        url: str,
        *,
        network: Network = "public",
        max_bytes: int,
        timeout_s: float,
        headers: Headers = (),
        ca_file: str = "",
    ) -> Fetched:
        """Return the answer of a GET, without following redirects; raises UpstreamFault when there is none.

        network, ca_file: another network than the public, other roots than the system's, only where an operator
        wrote them down.
        """


@dataclass(frozen=True, slots=True)
class _Kept:
    document: cimd.ClientDocument
    etag: str
    fresh_until_us: int
    stale_until_us: int


@dataclass(slots=True)
class _Flight:
    """One fetch of a URL under way, and how many callers wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    callers: int = 0


class ClientDocuments:
    """Finds the checked document of a client id URL."""

    def __init__(
        self,
        settings: IdentitySettings,
        fetcher: DocumentFetcher,
        clock: Clock,
        *,
        throttle: Throttle | None = None,
        policy: ClientTrust | None = None,
    ) -> None:
        """throttle: counts fetches by who caused them. policy: asked where ``cimd_policy`` is ``policy``."""
        self._settings = settings
        self._fetcher = fetcher
        self._clock = clock
        self._throttle = throttle
        self.trust = HostTrust(settings, policy)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._failed: OrderedDict[str, int] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._turn = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._strangers = asyncio.Semaphore(FETCHES_AT_ONCE - 1)
        self._pinned = pinned.load(settings.cimd_pinned, settings.cimd_ports)

    async def get(self, url: str, *, allow_stale: bool = False, address: str = "") -> cimd.ClientDocument:
        """Return the document; allow_stale lets one that was good within 24 h stand in for a failing host.

        address: who caused this, "" when it is one of our own.
        Raises Malformed: cimd_off, cimd_url, cimd_host, cimd_refused, cimd_busy, cimd_fetch, cimd_document,
        jwks_invalid.
        """
        if self._settings.cimd_policy == "off":
            raise Malformed("cimd_off")
        host = cimd.check_client_url(url, ports=self._settings.cimd_ports)
        known = self._pinned.get(url)
        if known is not None:
            return known
        fresh = self._fresh(url)
        if fresh is not None:
            return fresh
        await self.trust.check_host(url, host)
        try:
            async with self._flight(url):
                return self._fresh(url) or await self._refresh(url, host, address=address)
        except Malformed as error:
            kept = self._kept.get(url)
            good = kept is not None and allow_stale and self._clock.now_us() < kept.stale_until_us
            if kept is None or not good or error.code == "cimd_refused":
                raise
            return kept.document  # a failing host, or a flood of others, ends nobody's session

    def known(self, url: str) -> cimd.ClientDocument | None:
        """Return a document that is at hand and was good within 24 h; nothing is fetched."""
        if self._settings.cimd_policy == "off":
            return None
        kept = self._kept.get(url)
        good = kept is not None and self._clock.now_us() < kept.stale_until_us
        return self._pinned.get(url) or (kept.document if kept is not None and good else None)

    def listed(self, url: str) -> bool:
        """Return whether an operator listed the host of a client id URL, or wrote its document down."""
        return url in self._pinned or self.trust.lists(urlsplit(url).hostname or "")

    def _fresh(self, url: str) -> cimd.ClientDocument | None:
        kept = self._kept.get(url)
        if kept is None or kept.fresh_until_us <= self._clock.now_us():
            return None
        self._kept.move_to_end(url)
        return kept.document

    @asynccontextmanager
    async def _flight(self, url: str) -> AsyncIterator[None]:
        """Let one caller at a time fetch a URL; the others find what it brought, or its failure."""
        flight = self._flights.get(url)
        if flight is None:
            if len(self._flights) >= WAITING:
                raise Malformed("cimd_busy")
            flight = self._flights[url] = _Flight()
        flight.callers += 1
        try:
            async with flight.lock:
                yield
        finally:
            flight.callers -= 1
            if not flight.callers:
                del self._flights[url]

    async def _refresh(self, url: str, host: str, *, address: str) -> cimd.ClientDocument:
        if self._failed.get(url, 0) > self._clock.now_us():
            raise Malformed("cimd_fetch", "failed a moment ago")
        if not self._may_fetch(address):
            raise Malformed("cimd_busy", "too many fetches for one address")
        try:
            async with self._a_turn(host):
                new = await self._load(url, host, self._kept.get(url))
        except Malformed:
            raise
        except BartizanError as error:
            raise Malformed("cimd_fetch", error.code) from None
        self._kept[url] = new
        self._kept.move_to_end(url)
        if len(self._kept) > ENTRIES:
            self._kept.popitem(last=False)
        return new.document

    def _may_fetch(self, address: str) -> bool:
        if self._throttle is None or not address:
            return True
        return self._throttle.allow("cimd", network_of(address), per_minute=FETCHES_PER_MINUTE)

    @asynccontextmanager
    async def _a_turn(self, host: str) -> AsyncIterator[None]:
        """Wait for one of the turns; hosts that nobody listed never have all of them."""
        turns = (self._turn,) if self.trust.lists(host) else (self._strangers, self._turn)
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(FETCH_S):
                    for turn in turns:
                        await held.enter_async_context(turn)
            except TimeoutError:
                raise Malformed("cimd_busy", "too many fetches at once") from None
            yield

    async def _load(self, url: str, host: str, kept: _Kept | None) -> _Kept:
        """Return what the host says now; a failure is noted, so that it is not asked again at once."""
        try:
            fetched = await self._fetch(url, kept.etag if kept else "")
            if fetched.status == 304 and kept and kept.etag:
                document = kept.document
            else:
                document = _checked(url, fetched)
            await self.trust.check_document(document, host)
        except BartizanError:
            self._failed[url] = self._clock.now_us() + FAILURE_MEMO_S * SECOND_US
            if len(self._failed) > ENTRIES:
                self._failed.popitem(last=False)
            raise
        self._failed.pop(url, None)
        now_us = self._clock.now_us()
        seconds = cimd.fresh_seconds(fetched.headers, now_us // SECOND_US)
        until_us = now_us + seconds * SECOND_US
        new = _Kept(document, _etag(fetched), until_us, until_us + STALE_S * SECOND_US)
        return replace(new, etag=kept.etag) if kept and fetched.status == 304 else new

    async def _fetch(self, url: str, etag: str) -> Fetched:
        headers: Headers = ((b"accept", b"application/json"),)
        if etag:
            headers = (*headers, (b"if-none-match", etag.encode()))
        return await self._fetcher.fetch(
            Purpose.CIMD, url, max_bytes=METADATA_BYTES, timeout_s=FETCH_S, headers=headers
        )


def _checked(url: str, fetched: Fetched) -> cimd.ClientDocument:
    """Return the document of an answer: 200, JSON, and what a document must be."""
    kind = fetched.headers.get("content-type", "").partition(";")[0].strip().lower()
    if fetched.status != 200:
        raise Malformed("cimd_fetch", "status")
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Malformed("cimd_fetch", "media type")
    return cimd.parse_document(url, fetched.body)


def _etag(fetched: Fetched) -> str:
    """Return the entity tag to send back (RFC 9110 §8.8.3), "" when there is none of that form."""
    tag = fetched.headers.get("etag", "")
    quoted = tag.removeprefix("W/")
    good = len(quoted) >= 2 and quoted[0] == quoted[-1] == '"' and '"' not in quoted[1:-1]
    return tag if good and len(tag) <= ETAG_CHARS and tag.isascii() and tag.isprintable() else ""
