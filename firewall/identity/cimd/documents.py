"""Client ID Metadata Documents: pinned, cached, or fetched through the dialler (oauth reference §3).

The order is the defence: URL syntax, then trust policy, then cache, and only then the network. A
failing host never removes what was good (CL-03), a bad answer is never kept as a client.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from firewall.core.action import Headers
from firewall.core.bounds import METADATA_BYTES
from firewall.core.errors import BartizanError, Malformed
from firewall.core.ports import Clock
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings
from firewall.net.dial import Fetched, Purpose
from firewall.wire import cimd

ENTRIES = 1000
FETCHES_AT_ONCE = 4
FETCH_S = 5.0
FAILURE_MEMO_S = 30
STALE_S = 24 * 3600


class DocumentFetcher(Protocol):
    """Our way out for documents that strangers name; `net.dial.Dialler` is one."""

    async def fetch(
        self, purpose: Purpose, url: str, *, max_bytes: int, timeout_s: float, headers: Headers = ()
    ) -> Fetched:
        """Return the answer of a GET, without following redirects; raises UpstreamFault when there is none."""


@dataclass(frozen=True, slots=True)
class _Kept:
    document: cimd.ClientDocument
    fresh_until_us: int
    stale_until_us: int


class ClientDocuments:
    """Finds the checked document of a client id URL."""

    def __init__(self, settings: IdentitySettings, fetcher: DocumentFetcher, clock: Clock) -> None:
        self._settings = settings
        self._fetcher = fetcher
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._failed: OrderedDict[str, int] = OrderedDict()
        self._flights: dict[str, asyncio.Lock] = {}
        self._turn = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._pinned = {
            url: cimd.check_document(url, document)
            for url, document in settings.cimd_pinned.items()
            if cimd.check_client_url(url, ports=settings.cimd_ports)
        }

    async def get(self, url: str, *, allow_stale: bool = False) -> cimd.ClientDocument:
        """Return the document; allow_stale lets one that was good within 24 h stand in for a failing host.

        Raises Malformed: cimd_off, cimd_url, cimd_host, cimd_fetch, cimd_document.
        """
        if self._settings.cimd_policy == "off":
            raise Malformed("cimd_off")
        host = cimd.check_client_url(url, ports=self._settings.cimd_ports)
        pinned = self._pinned.get(url)
        if pinned is not None:
            return pinned
        if self._settings.cimd_policy == "allowlist" and host not in self._settings.cimd_hosts:
            raise Malformed("cimd_host")
        fresh = self._fresh(url)
        if fresh is not None:
            return fresh
        lock = self._flights.setdefault(url, asyncio.Lock())
        try:
            async with lock:
                return self._fresh(url) or await self._refresh(url, allow_stale=allow_stale)
        finally:
            if not lock.locked():
                self._flights.pop(url, None)

    def _fresh(self, url: str) -> cimd.ClientDocument | None:
        kept = self._kept.get(url)
        if kept is None or kept.fresh_until_us <= self._clock.now_us():
            return None
        self._kept.move_to_end(url)
        return kept.document

    async def _refresh(self, url: str, *, allow_stale: bool) -> cimd.ClientDocument:
        now_us = self._clock.now_us()
        kept = self._kept.get(url)
        stale = kept.document if kept and allow_stale and now_us < kept.stale_until_us else None
        if self._failed.get(url, 0) > now_us:
            if stale:
                return stale
            raise Malformed("cimd_fetch", "failed a moment ago")
        try:
            async with self._turn:
                document, seconds = await self._load(url)
        except BartizanError as error:
            self._failed[url] = now_us + FAILURE_MEMO_S * SECOND_US
            if len(self._failed) > ENTRIES:
                self._failed.popitem(last=False)
            if stale:
                return stale
            if isinstance(error, Malformed):
                raise
            raise Malformed("cimd_fetch", error.code) from None
        now_us = self._clock.now_us()
        self._kept[url] = _Kept(document, now_us + seconds * SECOND_US, now_us + (seconds + STALE_S) * SECOND_US)
        self._kept.move_to_end(url)
        if len(self._kept) > ENTRIES:
            self._kept.popitem(last=False)
        return document

    async def _load(self, url: str) -> tuple[cimd.ClientDocument, int]:
        fetched = await self._fetcher.fetch(
            Purpose.CIMD, url, max_bytes=METADATA_BYTES, timeout_s=FETCH_S, headers=((b"accept", b"application/json"),)
        )
        kind = fetched.headers.get("content-type", "").partition(";")[0].strip().lower()
        if fetched.status != 200:
            raise Malformed("cimd_fetch", "status")
        if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
            raise Malformed("cimd_fetch", "media type")
        document = cimd.parse_document(url, fetched.body)
        return document, cimd.cache_seconds(fetched.headers.get("cache-control", ""))
