"""Keys of transmitters: given, or fetched from the one address that configuration names (RS-02, RS-03, RS-05, RS-06)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import BartizanError, StateUnavailable
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


class KeysAway(StateUnavailable):
    """The keys cannot be had now, so nothing is known of a signature: its event waits, it is not refused."""


class TransmitterKeys:
    """The JWK Set of one transmitter; an outage of its host is bridged for a day, and nothing bad replaces it."""

    def __init__(self, transmitter: Transmitter, fetcher: ProviderFetcher, clock: Clock) -> None:
        self._transmitter = transmitter
        self._fetcher = fetcher
        self._clock = clock
        self._given = jwt.keys_of(transmitter.jwks) if transmitter.jwks is not None else None
        self._good: _Good | None = None
        self._tried_us = -AGAIN_S * SECOND_US
        self._away = False  # whether the newest question was not answered, or not yet
        self._flight: asyncio.Task[None] | None = None

    def at_hand(self, kid: str) -> jwt.Key | None:
        """Return a key that is known and fresh, without waiting; None asks for `find`."""
        if self._given is not None:
            return _pick(self._given, kid)
        good = self._good
        if good is None or self._clock.monotonic_ns() // 1_000 >= good.fetched_us + FRESH_S * SECOND_US:
            return None
        return _pick(good.keys, kid)

    async def find(self, kid: str) -> jwt.Key:
        """Return the key. Whoever waits no longer leaves the question standing; its answer serves the next one.

        Raises InvalidSet("invalid_key"): there is none under this id; KeysAway: nobody can tell now.
        """
        key = self.at_hand(kid)
        if key is None and self._given is None:
            await self._refresh()
            good = self._good
            if good is not None and self._clock.monotonic_ns() // 1_000 < good.fetched_us + KEPT_S * SECOND_US:
                key = _pick(good.keys, kid)
            if key is None and self._away:
                raise KeysAway("keys of a transmitter")
        if key is None:
            raise InvalidSet("invalid_key", "kid")
        return key

    async def _refresh(self) -> None:
        if self._flight is None:
            now_us = self._clock.monotonic_ns() // 1_000
            if now_us < self._tried_us + AGAIN_S * SECOND_US:
                return
            self._tried_us, self._away = now_us, True
            self._flight = asyncio.get_running_loop().create_task(self._fetch(now_us), name="identity.ssf_keys")
        await asyncio.shield(self._flight)

    async def _fetch(self, now_us: int) -> None:
        given = self._transmitter
        try:
            async with asyncio.timeout(FETCH_S):
                fetched = await self._fetcher.fetch(
                    Purpose.JWKS, given.jwks_uri, network=given.network, max_bytes=jwt.JWKS_BYTES, timeout_s=FETCH_S
                )
            if fetched.status != 200:
                return
            keys = jwt.parse_jwks(fetched.body)
        except (BartizanError, TimeoutError):
            return
        finally:
            self._flight = None
        self._good, self._away = _Good(keys, now_us), False


def _pick(keys: Mapping[str, jwt.Key], kid: str) -> jwt.Key | None:
    """Return the key under an id; without one only a lone key will do."""
    if not kid:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(kid)
