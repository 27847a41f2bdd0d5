"""Tokens that only their issuer can read: asked about at its introspection endpoint (RFC 7662), never per request.

An answer counts for 30 s or until ``exp``. One question per token at a time, and of tokens that were never good a
bounded number at once and per second, by network (`turns`): what strangers make up must not become a flood at the
issuer, nor stand before its other newcomers. Tokens that were good before are asked about past that bound and are
remembered apart, so that a flood does not put out who is in.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Final
from urllib.parse import quote_plus, urlencode

from firewall.core.errors import BartizanError, Malformed, StateUnavailable
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock
from firewall.identity.issuers.keys import Wanted
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.issuers.turns import Turns
from firewall.identity.oidc.provider import ProviderFetcher
from firewall.identity.records import SECOND_US
from firewall.identity.rfc6750.known import keep_bounded
from firewall.net.dial import Purpose
from firewall.wire import strict_json

ACTIVE_S: Final = 30
INACTIVE_S: Final = 5
ANSWER_BYTES: Final = 64 * 1024
ENTRIES: Final = 10_000
QUESTIONS: Final = 64
ASK_S: Final = 5.0


class Introspection:
    """Asks one issuer. secret: returns its client secret now; never kept longer than a request."""

    def __init__(
        self, profile: IssuerProfile, fetcher: ProviderFetcher, clock: Clock, secret: Callable[[], str]
    ) -> None:
        self._profile = profile
        self._fetcher = fetcher
        self._clock = clock
        self._secret = secret
        # Until when they count, µs of the monotonic clock: a wall clock that is set back makes no answer last longer.
        self._good: dict[bytes, tuple[JSONObject, int]] = {}
        self._bad: dict[bytes, int] = {}
        self._flights: dict[bytes, asyncio.Task[None]] = {}
        self._turns = Turns(clock)

    def find(self, token: bytes, digest: bytes) -> tuple[JSONObject, int]:
        """Return the claims of an active token and until when they count (µs).

        Raises Malformed, Wanted, StateUnavailable (too many questions: come again).
        """
        now_us = self._now_us()
        known = self._good.get(digest)
        if known is not None and now_us < known[1]:
            return known[0], self._clock.now_us() + known[1] - now_us
        if now_us < self._bad.get(digest, 0):
            raise Malformed("jwt_claims", "inactive")
        if digest not in self._flights and not (self._turns.any() if known is None else len(self._flights) < QUESTIONS):
            # Nothing is known of it: told as invalid, a client would throw a good token away.
            raise StateUnavailable("too many questions")

        async def ready(address: str) -> None:
            await asyncio.shield(self._flights.get(digest) or self._start(token, digest, address))

        raise Wanted(ready)

    def _start(self, token: bytes, digest: bytes, address: str) -> asyncio.Task[None]:
        turn = ""
        if digest not in self._good:
            turn = self._turns.take(address)
            if not turn:
                raise StateUnavailable("too many questions")
        task = asyncio.get_running_loop().create_task(self._ask(token, digest, turn), name="identity.introspect")
        self._flights[digest] = task
        return task

    async def _ask(self, token: bytes, digest: bytes, turn: str) -> None:
        try:
            claims = await self._answer(token)
        except (BartizanError, TimeoutError, OSError, ValueError):
            claims = None  # an issuer that does not answer lets nobody in (deny by default)
        finally:
            self._flights.pop(digest, None)
            if turn:
                self._turns.give_back(turn)
        now_us = self._now_us()
        until_us = now_us + (ACTIVE_S if claims else INACTIVE_S) * SECOND_US
        expires = claims.get("exp") if claims else None
        if isinstance(expires, int) and not isinstance(expires, bool):
            until_us = min(until_us, now_us + expires * SECOND_US - self._clock.now_us())
        self._bad.pop(digest, None)
        if claims is not None:
            keep_bounded(self._good, digest, (claims, until_us), ENTRIES)
            return
        # What was good stays known as such while its issuer is away, so that it is asked about first of all.
        if digest in self._good:
            self._good[digest] = (self._good[digest][0], 0)
        keep_bounded(self._bad, digest, until_us, ENTRIES)

    def _now_us(self) -> int:
        return self._clock.monotonic_ns() // 1_000

    async def _answer(self, token: bytes) -> JSONObject | None:
        profile = self._profile
        pair = f"{quote_plus(profile.client_id)}:{quote_plus(self._secret())}"
        body = urlencode({"token": token.decode("ascii"), "token_type_hint": "access_token"}).encode()
        async with asyncio.timeout(ASK_S):
            fetched = await self._fetcher.fetch(
                Purpose.TOKEN,
                profile.introspection_url,
                network=profile.network,
                max_bytes=ANSWER_BYTES,
                timeout_s=ASK_S,
                headers=(
                    (b"authorization", b"Basic " + base64.b64encode(pair.encode())),
                    (b"content-type", b"application/x-www-form-urlencoded"),
                    (b"accept", b"application/json"),
                ),
                body=body,
            )
        value = strict_json.loads(fetched.body, max_depth=16) if fetched.status == 200 else None
        if not isinstance(value, dict) or value.get("active") is not True:
            return None
        if value.get("iss", profile.issuer) != profile.issuer:
            return None
        return value
