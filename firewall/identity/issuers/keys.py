"""The keys of one issuer: fetched beside the requests, kept through an outage, never asked for by a flood.

    age < 300 s     used
    age < 600 s     used; fetched anew in the background
    older           used only while the issuer fails to answer, for a day; else fetched first (RS-06, RS-05)
    unknown kid     one fetch, at most every 30 s, whoever asks (RS-03)

Ages are of the monotonic clock: a wall clock that is set back keeps no key that its issuer took away.
Nothing here waits: `find` is synchronous and returns at once or says what to wait for (`Wanted`). So an
issuer that hangs holds up requests with its own tokens and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import BartizanError, Malformed
from firewall.core.ports import Clock
from firewall.identity.issuers.discovery import keys_url
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.records import SECOND_US
from firewall.net.dial import Purpose
from firewall.wire import jwt

REFRESH_S: Final = 300
FRESH_S: Final = 600
KEPT_S: Final = 24 * 3600
ASK_AGAIN_S: Final = 30
FETCH_S: Final = 5.0
FOUND_S: Final = 3600


class Wanted(Malformed):
    """Something must be fetched before a token can be judged.

    ready: wait for it, for a caller's address, then judge again; raises StateUnavailable when others' turns come first.
    """

    def __init__(self, ready: Callable[[str], Awaitable[None]]) -> None:
        super().__init__("jwt_key", "fetch")
        self.ready = ready


@dataclass(frozen=True, slots=True)
class _Good:
    keys: Mapping[str, jwt.Key]
    fetched_us: int


class IssuerKeys:
    """One issuer's JWK Set. on_removed: told when a key is gone or another one stands under its id."""

    def __init__(
        self, profile: IssuerProfile, fetcher: ProviderFetcher, clock: Clock, on_removed: Callable[[], None]
    ) -> None:
        self._profile = profile
        self._fetcher = fetcher
        self._clock = clock
        self._on_removed = on_removed
        self._good: _Good | None = None
        self._tried_us: int | None = None
        self._failing = False
        self._flight: asyncio.Task[None] | None = None
        self._found = ("", 0)  # where metadata says that the keys are, and until when that counts

    def find(self, kid: str) -> jwt.Key:
        """Return the key; without ``kid`` only a lone one will do. Raises Malformed("jwt_key"), Wanted."""
        now_us = self._now_us()
        good = self._good
        if good is None or now_us >= good.fetched_us + KEPT_S * SECOND_US:
            raise self._wanted(now_us)
        key = good.keys.get(kid) if kid else next(iter(good.keys.values())) if len(good.keys) == 1 else None
        if key is None:
            raise self._wanted(now_us)
        age_us = now_us - good.fetched_us
        if age_us >= FRESH_S * SECOND_US and not self._failing:
            raise self._wanted(now_us)
        if age_us >= REFRESH_S * SECOND_US and self._may_try(now_us):
            self._start(now_us)
        return key

    def same_work(self, unchecked: jwt.UncheckedJWT) -> None:
        """Verify with some key: an unknown one must not be told sooner than a bad signature (RS-17)."""
        for key in self._good.keys.values() if self._good is not None else ():
            try:
                jwt.check_key(key, unchecked.alg)
                jwt.verify(unchecked, key)
            except Malformed as error:
                if error.code == "jwt_key":
                    continue
            return

    async def refresh(self, _address: str = "") -> None:
        """Fetch the keys, or wait for whoever does; at most one fetch in 30 s. Never raises for the issuer's faults."""
        if self._flight is None:
            now_us = self._now_us()
            if not self._may_try(now_us):
                return
            self._start(now_us)
        flight = self._flight
        if flight is not None:
            await asyncio.shield(flight)

    def _wanted(self, now_us: int) -> Malformed:
        if self._flight is not None or self._may_try(now_us):
            return Wanted(self.refresh)
        return Malformed("jwt_key", "kid")

    def _now_us(self) -> int:
        return self._clock.monotonic_ns() // 1_000

    def _may_try(self, now_us: int) -> bool:
        return self._tried_us is None or now_us >= self._tried_us + ASK_AGAIN_S * SECOND_US

    def _start(self, now_us: int) -> None:
        if self._flight is None:
            self._tried_us = now_us
            self._flight = asyncio.get_running_loop().create_task(self._fetch(), name="identity.jwks")

    async def _where(self) -> str:
        if self._profile.jwks_uri:
            return self._profile.jwks_uri
        url, until_us = self._found
        now_us = self._now_us()
        if not url or now_us >= until_us:
            url = await keys_url(self._profile, self._fetcher, timeout_s=FETCH_S)
            self._found = (url, now_us + FOUND_S * SECOND_US)
        return url

    async def _fetch(self) -> None:
        profile = self._profile
        try:
            async with asyncio.timeout(FETCH_S):
                fetched = await self._fetcher.fetch(
                    Purpose.JWKS,
                    await self._where(),
                    network=profile.network,
                    max_bytes=jwt.JWKS_BYTES,
                    timeout_s=FETCH_S,
                    headers=((b"accept", b"application/json"),),
                )
            if fetched.status != 200:
                raise Malformed("jwks_invalid", "status")
            keys = jwt.parse_jwks(fetched.body)
        except (BartizanError, TimeoutError):
            self._failing = True  # nothing bad ever replaces what was good
            self._found = ("", 0)  # they may have moved
            return
        finally:
            self._flight = None
        before, self._good, self._failing = self._good, _Good(keys, self._now_us()), False
        if before is not None and any(_other(key, keys.get(kid)) for kid, key in before.keys.items()):
            self._on_removed()


def _other(key: jwt.Key, now: jwt.Key | None) -> bool:
    return now is None or now.thumbprint() != key.thumbprint()
