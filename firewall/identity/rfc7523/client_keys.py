"""Public keys that others publish: by value, or by ``jwks_uri`` through the guarded way out (RS-03, RS-05, RS-06).

A key set is used for ten minutes. An unknown ``kid`` asks for it again at most once in 30 s, however many
strangers invent kids; one fetch per address at a time, four in all. A failing or poisoned host never replaces
what was good, which serves for a day. Sizes and counts are bounded in `wire.jwt.parse_jwks`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from firewall.core.errors import BartizanError, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock
from firewall.identity.cimd.documents import DocumentFetcher
from firewall.identity.clients.registry import Client
from firewall.identity.records import SECOND_US
from firewall.net.dial import Network, Purpose
from firewall.wire import jwt, strict_json

FETCH_S: Final = 5.0
FETCHES_AT_ONCE: Final = 4
SETS: Final = 1000
FRESH_S: Final = 600
KEPT_S: Final = 24 * 3600
REFETCH_S: Final = 30
UNNAMED_KEYS: Final = 4
NETWORKS: Final[tuple[Network, ...]] = ("public", "private", "loopback")

Keys = Mapping[str, jwt.Key]


class KeySource(Protocol):
    """Where a key set comes from."""

    async def read(self, uri: str) -> bytes:
        """Return the JWK Set document, unchecked. Raises BartizanError."""


class FetchedKeys:
    """Key sets at addresses: public ones, but where an operator wrote down that they are elsewhere."""

    def __init__(self, fetcher: DocumentFetcher, network: Network = "public") -> None:
        self._fetcher = fetcher
        self._network = network

    async def read(self, uri: str) -> bytes:
        """Return the document at a URL. Raises UpstreamFault, Malformed("jwks_invalid")."""
        fetched = await self._fetcher.fetch(
            Purpose.JWKS, uri, network=self._network, max_bytes=jwt.JWKS_BYTES, timeout_s=FETCH_S
        )
        if fetched.status != 200:
            raise Malformed("jwks_invalid", "status")
        return fetched.body


@dataclass(slots=True)
class _KeySet:
    keys: Keys = field(default_factory=dict)
    good_us: int = 0  # when they were last read well; 0 is never
    tried_us: int = 0
    failed: str = ""  # why they could not be read the last time: a code of ours
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class KeySets:
    """Key sets by where they come from, bounded; the least recently used one is forgotten."""

    def __init__(self, source: KeySource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._sets: OrderedDict[str, _KeySet] = OrderedDict()
        self._turn = asyncio.Semaphore(FETCHES_AT_ONCE)

    async def get(self, uri: str, kid: str, *, spiffe: bool = False) -> Keys:
        """Return the keys of a set; a ``kid`` that is not among them has it read again if that may be.

        spiffe: the set is a SPIFFE bundle (`wire.jwt` reads JWK Sets). Raises Malformed("jwt_key"), with why there are none.
        """
        known = self._sets.get(uri)
        if known is None:
            known = self._sets[uri] = _KeySet()
            if len(self._sets) > SETS:
                self._sets.popitem(last=False)
        self._sets.move_to_end(uri)
        if not self._suffices(known, kid):
            async with known.lock:
                if not self._suffices(known, kid):
                    await self._read(uri, known, spiffe=spiffe)
        if not known.good_us or self._clock.now_us() >= known.good_us + KEPT_S * SECOND_US:
            raise Malformed("jwt_key", f"no keys: {known.failed}")
        return known.keys

    def _suffices(self, known: _KeySet, kid: str) -> bool:
        now_us = self._clock.now_us()
        if known.tried_us and now_us < known.tried_us + REFETCH_S * SECOND_US:
            return True
        fresh = known.good_us and now_us < known.good_us + FRESH_S * SECOND_US
        return bool(fresh) and (not kid or kid in known.keys)

    async def _read(self, uri: str, known: _KeySet, *, spiffe: bool) -> None:
        try:
            async with asyncio.timeout(FETCH_S), self._turn:
                data = await self._source.read(uri)
            known.keys = parse_set(data, spiffe=spiffe)
            known.good_us = self._clock.now_us()
        except (BartizanError, TimeoutError) as error:  # what was good stays good; nothing bad ever replaces it
            known.failed = error.code if isinstance(error, BartizanError) else "timeout"
        finally:
            # Not before: whoever comes while the answer is under way waits for it.
            known.tried_us = self._clock.now_us()


class ClientKeys:
    """Keys that clients sign their assertions with.

    Addresses that strangers chose have turns and room of their own: slow ones hold up no client that an operator
    registered.
    """

    def __init__(self, fetcher: DocumentFetcher, clock: Clock) -> None:
        self._sets = {network: KeySets(FetchedKeys(fetcher, network), clock) for network in NETWORKS}
        self._strangers = KeySets(FetchedKeys(fetcher), clock)

    async def verify(self, client: Client, unchecked: jwt.UncheckedJWT) -> None:
        """Return when a key of the client verifies the signature. Raises Malformed: jwt_key, jwt_signature."""
        if client.jwks is not None:
            keys: Keys = jwt.keys_of(client.jwks)
        else:
            sets = self._strangers if client.claimed else self._sets[client.network]
            keys = await sets.get(client.jwks_uri, unchecked.kid)
        verify_with(keys, unchecked)


def verify_with(keys: Keys, unchecked: jwt.UncheckedJWT) -> None:
    """Return when one of the keys verifies the signature. Raises Malformed: jwt_key, jwt_signature.

    With a ``kid`` that key only. Without one (RFC 7523 asks for none, and clients leave it out) those that fit
    the algorithm are tried, if they are at most four.
    """
    if unchecked.kid:
        key = keys.get(unchecked.kid)
        if key is None:
            raise Malformed("jwt_key", "kid")
        jwt.verify(unchecked, key)
        return
    fitting = [key for key in keys.values() if _fits(key, unchecked.alg)]
    if not 0 < len(fitting) <= UNNAMED_KEYS:
        raise Malformed("jwt_key", "no kid")
    for key in fitting[:-1]:
        try:
            jwt.verify(unchecked, key)
        except Malformed:
            continue
        return
    jwt.verify(unchecked, fitting[-1])


def spiffe_keys(value: JSON) -> JSONObject:
    """Return the JWT authorities of a SPIFFE bundle as a JWK Set; entries of other uses (x509-svid) are left out.

    A plain JWK Set, as SPIRE's OIDC discovery serves it, passes as it is. Source: SPIFFE Trust Domain and
    Bundle §4.2. Raises Malformed("jwks_invalid").
    """
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise Malformed("jwks_invalid", "keys")
    usable: list[JSON] = [
        {**entry, "use": "sig"}
        for entry in entries
        if isinstance(entry, dict) and entry.get("use", "jwt-svid") in ("jwt-svid", "sig")
    ]
    return {"keys": usable}


def parse_set(data: bytes, *, spiffe: bool = False) -> Keys:
    """Return the keys of a JWK Set, or of a SPIFFE bundle. Raises Malformed("jwks_invalid")."""
    if not spiffe:
        return jwt.parse_jwks(data)
    if len(data) > jwt.JWKS_BYTES:
        raise Malformed("jwks_invalid", "too large")
    try:
        value = strict_json.loads(data, max_depth=8)
    except Malformed as error:
        raise Malformed("jwks_invalid", error.code) from None
    return jwt.keys_of(spiffe_keys(value))


def _fits(key: jwt.Key, alg: str) -> bool:
    try:
        jwt.check_key(key, alg)
    except Malformed:
        return False
    return True
