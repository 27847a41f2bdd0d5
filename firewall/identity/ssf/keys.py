"""Keys of transmitters: given, or fetched from the one address that configuration names (RS-02, RS-03, RS-05, RS-06)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import BartizanError, Malformed
from firewall.core.ports import Clock
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.records import SECOND_US
from firewall.identity.ssf.event import InvalidSet
from firewall.identity.ssf.settings import Transmitter
from firewall.net.dial import Purpose
from firewall.wire import jwt

FETCH_S: Final = 5.0
FRESH_S: Final = 600
KEPT_S: Final = 24 * 3600
AGAIN_S: Final = 30


@dataclass(slots=True)
class _Good:
    keys: Mapping[str, jwt.Key]
    fetched_us: int


class TransmitterKeys:
    """The JWK Set of one transmitter; an outage of its host is bridged for a day, and nothing bad replaces it."""

    def __init__(self, transmitter: Transmitter, fetcher: ProviderFetcher, clock: Clock) -> None:
        self._transmitter = transmitter
        self._fetcher = fetcher
        self._clock = clock
        self._given = jwt.keys_of(transmitter.jwks) if transmitter.jwks is not None else None
        self._good: _Good | None = None
        self._tried_us = -AGAIN_S * SECOND_US
        self._flight = asyncio.Lock()

    def at_hand(self, kid: str) -> jwt.Key | None:
        """Return a key that is known and fresh, without waiting; None asks for `find`."""
        if self._given is not None:
            return _pick(self._given, kid)
        good = self._good
        if good is None or self._clock.now_us() >= good.fetched_us + FRESH_S * SECOND_US:
            return None
        return _pick(good.keys, kid)

    async def find(self, kid: str) -> jwt.Key:
        """Return the key. Raises InvalidSet("invalid_key"): there is none under this id."""
        key = self.at_hand(kid)
        if key is None and self._given is None:
            async with self._flight:
                key = self.at_hand(kid) or _pick(await self._refreshed(), kid)
        if key is None:
            raise InvalidSet("invalid_key", "kid")
        return key

    async def _refreshed(self) -> Mapping[str, jwt.Key]:
        now_us, good = self._clock.now_us(), self._good
        kept = good.keys if good and now_us < good.fetched_us + KEPT_S * SECOND_US else {}
        if now_us < self._tried_us + AGAIN_S * SECOND_US:
            return kept
        self._tried_us = now_us
        given = self._transmitter
        try:
            fetched = await self._fetcher.fetch(
                Purpose.JWKS, given.jwks_uri, network=given.network, max_bytes=jwt.JWKS_BYTES, timeout_s=FETCH_S
            )
            if fetched.status != 200:
                raise Malformed("jwks_invalid", "status")
            keys = jwt.parse_jwks(fetched.body)
        except BartizanError:
            return kept
        self._good = _Good(keys, now_us)
        return keys


def _pick(keys: Mapping[str, jwt.Key], kid: str) -> jwt.Key | None:
    """Return the key under an id; without one only a lone key will do."""
    if not kid:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(kid)
