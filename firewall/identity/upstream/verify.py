"""Exchanged tokens are looked at before they are used: signature, issuer, audience, time (CL-10).

Only tokens that a server made for *our* request are judged here, and only where they are JWTs; an opaque
one says nothing. The audience is the upstream's resource, or what an operator wrote down: it is never
learned from the token itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import BartizanError, Malformed, UpstreamFault
from firewall.core.ports import Clock
from firewall.identity.records import SECOND_US
from firewall.identity.upstream.discovery import Fetcher
from firewall.identity.upstream.metadata import ServerMetadata
from firewall.net.address import Network
from firewall.net.dial import Purpose
from firewall.wire import jwt

FETCH_S: Final = 5.0
FRESH_S: Final = 600
AGAIN_S: Final = 30
SETS: Final = 256
MAX_AGE_S: Final = 24 * 3600
TOKEN_BYTES: Final = 64 * 1024


@dataclass(slots=True)
class _Keys:
    keys: Mapping[str, jwt.Key]
    fetched_us: int


class TokenVerifier:
    """Verifies what other servers issued to us."""

    def __init__(self, fetcher: Fetcher, clock: Clock) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._sets: dict[str, _Keys] = {}

    async def check(
        self, token: str, server: ServerMetadata, audience: str, *, network: Network, ca_file: str = ""
    ) -> None:
        """Raise UpstreamFault("credentials") for a JWT that is not for this audience, from this issuer, now."""
        if token.count(".") != 2:
            return
        try:
            unchecked = jwt.parse_compact(token.encode("ascii"), max_bytes=TOKEN_BYTES)
            claims = jwt.verify(unchecked, await self._key(server.jwks_uri, unchecked.kid, network, ca_file))
            rules = jwt.ClaimRules(
                server.issuer, audience, MAX_AGE_S, leeway_s=30, audience_list=True, iat_required=False
            )
            jwt.check_claims(claims, rules, self._clock.now_us() // SECOND_US)
        except BartizanError as error:
            why = f"an exchanged token is not what was asked for ({error.code} {error.detail})"
            raise UpstreamFault("credentials", why.strip(), fix="see auth.expected_audience") from None

    async def _key(self, uri: str, kid: str, network: Network, ca_file: str) -> jwt.Key:
        keys = await self._set(uri, kid, network, ca_file)
        if not kid and len(keys) == 1:
            return next(iter(keys.values()))
        if kid not in keys:
            raise Malformed("jwt_key", "kid")
        return keys[kid]

    async def _set(self, uri: str, kid: str, network: Network, ca_file: str) -> Mapping[str, jwt.Key]:
        if not uri:
            raise Malformed("jwt_key", "its issuer publishes no keys")
        now_us = self._clock.now_us()
        known = self._sets.get(uri)
        if known is not None:
            age_us = now_us - known.fetched_us
            if age_us < AGAIN_S * SECOND_US or (kid in known.keys and age_us < FRESH_S * SECOND_US):
                return known.keys
        fetched = await self._fetcher.fetch(
            Purpose.JWKS, uri, network=network, max_bytes=jwt.JWKS_BYTES, timeout_s=FETCH_S, ca_file=ca_file
        )
        if fetched.status != 200:
            raise Malformed("jwt_key", "status")
        keys = jwt.parse_jwks(fetched.body)
        if len(self._sets) >= SETS:
            self._sets.pop(next(iter(self._sets)))
        self._sets[uri] = _Keys(keys, now_us)
        return keys
