"""One provider as we see it now: its metadata and its keys, fetched, kept, and never stalled upon.

- Metadata is believed for an hour; keys for ten minutes (RS-06). A key id that is not there asks again, at
  most once in 30 s, whoever asks (RS-03). One flight at a time; the others wait for it or for their time-out.
- An outage is bridged for a day with what was good last (RS-05); nothing bad ever replaces it. After a
  failure nothing is asked for some seconds: a provider that hangs costs its own people a page, and no
  other request anything (OP-08).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from firewall.core.action import Headers
from firewall.core.errors import BartizanError, Malformed, UpstreamFault
from firewall.core.ports import Clock
from firewall.identity.oidc.metadata import METADATA_BYTES, ProviderMetadata, parse_metadata
from firewall.identity.oidc.settings import ProviderSettings
from firewall.identity.records import SECOND_US
from firewall.net.address import Network
from firewall.net.dial import Fetched, Purpose
from firewall.wire import jwt

T = TypeVar("T")

METADATA_FRESH_S = 3600
KEYS_FRESH_S = 600
KEPT_S = 24 * 3600
UNKNOWN_KEY_S = 30
AFTER_FAILURE_S = 10


class ProviderFetcher(Protocol):
    """Our way out to providers; `net.dial.Dialler` is one."""

    async def fetch(
        self,
        purpose: Purpose,
        url: str,
        *,
        network: Network = "public",
        max_bytes: int,
        timeout_s: float,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> Fetched:
        """Return the answer of a GET, or a POST with a body; no redirects. Raises UpstreamFault."""


@dataclass(frozen=True, slots=True)
class _Good(Generic[T]):
    value: T
    since_us: int


class _Kept(Generic[T]):
    """A fetched value: the newest good one, one flight at a time."""

    def __init__(self, fetch: Callable[[], Awaitable[T]], clock: Clock, *, fresh_s: int) -> None:
        self._fetch = fetch
        self._clock = clock
        self._fresh_us = fresh_s * SECOND_US
        self._good: _Good[T] | None = None
        self._not_before_us = 0
        self._asked_us = -UNKNOWN_KEY_S * SECOND_US
        self._flight = asyncio.Lock()

    async def get(self, *, missing: Callable[[T], bool] = lambda _value: False) -> T:
        """Return the value. missing: asks again, at most every 30 s, when what is kept lacks something."""
        good = self._good
        now_us = self._clock.now_us()
        if good is not None and not self._due(good, missing(good.value), now_us):
            return good.value
        async with self._flight:
            now_us = self._clock.now_us()
            if self._good is not good and self._good is not None:
                return self._good.value  # another request brought it while this one waited
            good = self._good
            if now_us < self._not_before_us:
                return self._bridge(good, now_us)
            self._asked_us = now_us
            try:
                value = await self._fetch()
            except BartizanError:
                self._not_before_us = self._clock.now_us() + AFTER_FAILURE_S * SECOND_US
                return self._bridge(good, now_us)
            self._good = _Good(value, now_us)
            return value

    def _due(self, good: _Good[T], lacks: bool, now_us: int) -> bool:
        if now_us >= good.since_us + self._fresh_us:
            return True
        return lacks and now_us >= self._asked_us + UNKNOWN_KEY_S * SECOND_US

    def _bridge(self, good: _Good[T] | None, now_us: int) -> T:
        if good is not None and now_us < good.since_us + KEPT_S * SECOND_US:
            return good.value
        raise UpstreamFault("unreachable", "the identity provider")


class Provider:
    """Metadata, keys and requests of one provider. Raises UpstreamFault where it cannot be had."""

    def __init__(self, settings: ProviderSettings, fetcher: ProviderFetcher, clock: Clock) -> None:
        self.settings = settings
        self._fetcher = fetcher
        self._metadata = _Kept(self._fetch_metadata, clock, fresh_s=METADATA_FRESH_S)
        self._keys = _Kept(self._fetch_keys, clock, fresh_s=KEYS_FRESH_S)

    async def metadata(self) -> ProviderMetadata:
        """Return the checked metadata. Raises UpstreamFault("unreachable"): nothing good within a day."""
        return await self._metadata.get()

    async def key(self, kid: str) -> jwt.Key:
        """Return the provider's key; without ``kid`` only a lone one will do. Raises Malformed("jwt_key")."""
        keys = await self._keys.get(missing=lambda known: bool(kid) and kid not in known)
        if not kid and len(keys) == 1:
            return next(iter(keys.values()))
        key = keys.get(kid)
        if key is None:
            raise Malformed("jwt_key", "kid")
        return key

    async def get(self, url: str, *, purpose: Purpose, max_bytes: int, headers: Headers = ()) -> Fetched:
        """Return the answer of a GET at one of the provider's endpoints."""
        return await self._ask(purpose, url, max_bytes, headers, None)

    async def post(self, url: str, body: bytes, *, max_bytes: int, headers: Headers = ()) -> Fetched:
        """Return the answer of a form POST at the provider's token endpoint."""
        form: Headers = ((b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json"))
        return await self._ask(Purpose.TOKEN, url, max_bytes, (*form, *headers), body)

    async def _ask(self, purpose: Purpose, url: str, max_bytes: int, headers: Headers, body: bytes | None) -> Fetched:
        return await self._fetcher.fetch(
            purpose,
            url,
            network=self.settings.network,
            max_bytes=max_bytes,
            timeout_s=self.settings.timeout_s,
            headers=headers,
            body=body,
        )

    async def _fetch_metadata(self) -> ProviderMetadata:
        url = self.settings.metadata_url
        found = await self.get(url, purpose=Purpose.IDP_METADATA, max_bytes=METADATA_BYTES)
        if found.status != 200:
            raise Malformed("idp_metadata", "status")
        return parse_metadata(found.body, self.settings)

    async def _fetch_keys(self) -> Mapping[str, jwt.Key]:
        url = (await self.metadata()).jwks_uri
        found = await self.get(url, purpose=Purpose.JWKS, max_bytes=jwt.JWKS_BYTES)
        if found.status != 200:
            raise Malformed("jwks_invalid", "status")
        return jwt.parse_jwks(found.body)
