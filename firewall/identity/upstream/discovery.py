"""Finding an upstream's authorization server: asked once an hour, remembered through its outages.

    challenge (401) ─▶ its resource_metadata ─┐
    nothing told ─▶ well-known of the path ─▶ well-known of the root ─▶ issuer ─▶ its metadata

What was found is kept in the store, so that a worker that starts while a server is down still knows whose
credentials are whose. A change of issuer is believed only from a fresh and valid answer; what was kept for
the old issuer is then worth nothing any more (SEP-2352, CVE-2026-115563: CL-06).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from firewall.core.action import Headers
from firewall.core.errors import BartizanError, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.identity.throttle import NODE
from firewall.identity.upstream import metadata
from firewall.identity.upstream.metadata import Challenge, ServerMetadata
from firewall.identity.upstream.settings import UpstreamAuth
from firewall.net.address import Network
from firewall.net.dial import Fetched, Purpose
from firewall.wire import oauth, strict_json
from firewall.wire.http import parse_url

FETCH_S: Final = 5.0
FRESH_S: Final = 3600
KEPT_S: Final = 24 * 3600  # through an outage, or a time of invalid answers
AGAIN_S: Final = 30  # between two tries of one upstream, whoever asks
SERVERS: Final = 256
PROOFS: Final = "ES256"  # what our proofs are signed with (`rfc9449.signer`)
PROBE_BYTES: Final = metadata.DOCUMENT_BYTES
_JSON: Final[Headers] = ((b"accept", b"application/json"),)
# Asks for nothing and says nothing of a caller: only its 401 is of use.
_PING: Final = strict_json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
_PROBE: Final[Headers] = (
    (b"accept", b"application/json, text/event-stream"),
    (b"content-type", b"application/json"),
)


class Fetcher(Protocol):
    """Our way out; `net.dial.Dialler` is one."""

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
        ca_file: str = "",
    ) -> Fetched:
        """Return the answer of a GET, or of a POST with a body, without redirects. Raises UpstreamFault."""


@dataclass(frozen=True, slots=True)
class Found:
    """An upstream's resource identifier and its authorization server.

    scopes: what the upstream says is minimally useful. dpop: which proofs it says it takes.
    """

    resource: str
    server: ServerMetadata
    scopes: tuple[str, ...] = ()
    dpop: tuple[str, ...] = ()

    def binds(self, auth: UpstreamAuth) -> bool:
        """Return whether tokens are to be bound to a key of ours."""
        if auth.dpop == "off" or PROOFS not in self.server.dpop:
            return False
        return auth.dpop == "on" or PROOFS in self.dpop


@dataclass(slots=True)
class _Kept:
    found: Found
    fetched_us: int
    tried_us: int


class Discovery:
    """Finds and remembers. One per worker; what it keeps is the node's."""

    def __init__(self, fetcher: Fetcher, clock: Clock, store: Store, changed: Callable[[str, str], None]) -> None:
        """changed: told (upstream, new issuer) whenever an issuer was replaced by another."""
        self._fetcher = fetcher
        self._clock = clock
        self._rows = store.collection("upstream_discovery")
        self._changed = changed
        self._kept: dict[str, _Kept] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def find(self, name: str, auth: UpstreamAuth, *, challenge: str | None = None) -> Found:
        """Return an upstream's authorization server.

        challenge: the WWW-Authenticate of a 401 that just came: look again, unless that was done within 30 s.
        Raises UpstreamFault("credentials") when nothing valid was ever found.
        """
        slot = _slot(name, auth)
        known = self._known(slot)
        if known is not None and not self._due(known, challenge):
            return known.found
        async with self._locks.setdefault(slot, asyncio.Lock()):
            known = self._known(slot)
            if known is not None and not self._due(known, challenge):
                return known.found
            return await self._look(slot, name, auth, known, metadata.parse_challenge(challenge or ""))

    def issuer(self, name: str, auth: UpstreamAuth) -> str:
        """Return the issuer that the node knows for an upstream, "" when nobody has looked yet."""
        known = self._known(_slot(name, auth), now=True)
        return known.found.server.issuer if known is not None else ""

    def _due(self, known: _Kept, challenge: str | None) -> bool:
        now_us = self._clock.now_us()
        if now_us < known.tried_us + AGAIN_S * SECOND_US:
            return False
        return challenge is not None or now_us >= known.fetched_us + FRESH_S * SECOND_US

    async def _look(self, slot: str, name: str, auth: UpstreamAuth, known: _Kept | None, told: Challenge) -> Found:
        now_us = self._clock.now_us()
        try:
            found = await self._discover(auth, told, known.found.server.issuer if known is not None else "")
        except BartizanError as error:
            if known is not None and now_us < known.fetched_us + KEPT_S * SECOND_US:
                known.tried_us = now_us
                return known.found
            why = f"{name}: its authorization server was not found ({error.code} {error.detail})".strip()
            raise UpstreamFault("credentials", why, fix=f"set auth.issuer of {name}") from None
        if known is not None and known.found.server.issuer != found.server.issuer:
            self._changed(name, found.server.issuer)
        if len(self._kept) >= SERVERS:
            self._kept.pop(next(iter(self._kept)))
        self._kept[slot] = _Kept(found, now_us, now_us)
        row: JSONObject = {
            "resource": found.resource,
            "scopes": list(found.scopes),
            "dpop": list(found.dpop),
            "server": found.server.to_json(),
            "fetched_us": now_us,
        }
        self._rows.put(NODE, slot, records.encode(row), expires_us=now_us + KEPT_S * SECOND_US)
        return found

    def _known(self, slot: str, *, now: bool = False) -> _Kept | None:
        """Return what this worker or another one of the node found. now: look whether another one found something."""
        known = self._kept.get(slot)
        if not now and known is not None and self._clock.now_us() < known.fetched_us + FRESH_S * SECOND_US:
            return known
        entry = self._rows.get(NODE, slot)
        if entry is None:
            return known
        row = records.decode(entry.value)
        fetched_us = records.number(row, "fetched_us")
        if known is not None and known.fetched_us >= fetched_us:
            return known
        server = row.get("server")
        issuer = records.text(server, "issuer") if isinstance(server, dict) else ""
        data = strict_json.dumps(server)
        # It was checked when it was fetched, with the origins that were allowed then: they are part of the slot.
        allowed = {parse_url(url).origin for url in _endpoints(server)}
        checked = metadata.parse_server_metadata(data, issuer, clear=True, origins=allowed)
        found = Found(records.text(row, "resource"), checked, records.texts(row, "scopes"), records.texts(row, "dpop"))
        known = self._kept[slot] = _Kept(found, fetched_us, known.tried_us if known else 0)
        return known

    # -- asking ------------------------------------------------------------------------------------------

    async def _discover(self, auth: UpstreamAuth, told: Challenge, known: str) -> Found:
        """Return what can be found out now. known: the issuer so far, which stays one as long as it is named."""
        if auth.issuer and auth.resource:
            return Found(auth.resource, await self._server(auth.issuer, auth), auth.scopes)
        if not told.metadata_url:
            told = await self._probe(auth)
        described = await self._resource(auth, told)
        if auth.issuer:  # whatever the upstream says about that: an operator's word is not its to change
            server = await self._server(auth.issuer, auth)
            if described is None:
                return Found(auth.url, server, _told(told))
            return Found(described.resource, server, _told(told) or described.scopes, described.dpop)
        if described is None:
            # Before 2025-06-18 an upstream was its own authorization server (MCP 2025-03-26, authorization).
            origin = parse_url(auth.url).origin
            return Found(auth.resource or auth.url, await self._server(origin, auth, old=True), _told(told))
        server = await self._first((known,) if known in described.issuers else described.issuers, auth)
        resource = auth.resource or described.resource
        return Found(resource, server, _told(told) or described.scopes, described.dpop)

    async def _probe(self, auth: UpstreamAuth) -> Challenge:
        try:
            fetched = await self._fetcher.fetch(
                Purpose.RESOURCE_METADATA,
                auth.url,
                network=auth.network,
                max_bytes=PROBE_BYTES,
                timeout_s=FETCH_S,
                headers=_PROBE if auth.kind == "mcp" else _JSON,
                body=_PING if auth.kind == "mcp" else None,
                ca_file=auth.ca_file,
            )
        except UpstreamFault:
            return Challenge()
        return (
            metadata.parse_challenge(fetched.headers.get("www-authenticate", ""))
            if fetched.status == 401
            else Challenge()
        )

    async def _resource(self, auth: UpstreamAuth, told: Challenge) -> metadata.ResourceMetadata | None:
        """Return the upstream's metadata, None where it has none anywhere. Raises UpstreamFault, Malformed."""
        places = metadata.resource_metadata_urls(auth.url)
        if told.metadata_url:
            # A challenge may name its own origin only: else it could have us ask anybody (CL-01).
            if parse_url(told.metadata_url).origin != parse_url(auth.url).origin:
                raise Malformed("resource_metadata", "origin")
            places = (told.metadata_url, *places)
        for place in places:
            fetched = await self._get(Purpose.RESOURCE_METADATA, place, auth)
            if fetched.status == 200:
                return metadata.parse_resource_metadata(fetched.body, auth.url)
            if fetched.status >= 500 or fetched.status == 429:
                raise UpstreamFault("unreachable", "its metadata cannot be had now")
        return None

    async def _first(self, issuers: tuple[str, ...], auth: UpstreamAuth) -> ServerMetadata:
        """Return the first authorization server that answers validly; the upstream gave their order."""
        problem: BartizanError = Malformed("resource_metadata", "authorization_servers")
        for issuer in issuers:
            try:
                return await self._server(issuer, auth)
            except BartizanError as error:
                problem = error
        raise problem

    async def _server(self, issuer: str, auth: UpstreamAuth, *, old: bool = False) -> ServerMetadata:
        clear = auth.network != "public"
        metadata.check_clear(issuer, clear=clear)
        for place in metadata.server_metadata_urls(issuer):
            fetched = await self._get(Purpose.IDP_METADATA, place, auth)
            if fetched.status == 200:
                return metadata.parse_server_metadata(fetched.body, issuer, clear=clear, origins=auth.origins)
            if fetched.status >= 500 or fetched.status == 429:
                raise UpstreamFault("unreachable", "the authorization server's metadata cannot be had now")
        if old and auth.s256_assumed:
            return ServerMetadata(
                issuer,
                f"{issuer}/token",
                f"{issuer}/authorize",
                f"{issuer}/register",
                methods=("none", "client_secret_basic", "client_secret_post"),
                s256=False,
            )
        raise Malformed("server_metadata", "missing")

    async def _get(self, purpose: Purpose, url: str, auth: UpstreamAuth) -> Fetched:
        return await self._fetcher.fetch(
            purpose,
            url,
            network=auth.network,
            max_bytes=metadata.DOCUMENT_BYTES,
            timeout_s=FETCH_S,
            headers=_JSON,
            ca_file=auth.ca_file,
        )


def _told(challenge: Challenge) -> tuple[str, ...]:
    try:
        return oauth.parse_scope(challenge.scope)
    except Malformed:
        return ()


def _endpoints(server: object) -> list[str]:
    if not isinstance(server, dict):
        return []
    return [url for name, url in server.items() if name.endswith("_endpoint") and isinstance(url, str)]


def _slot(name: str, auth: UpstreamAuth) -> str:
    """Return the key of what is kept: with everything that the answer depends on, so that a new setting asks anew."""
    facts = "\0".join((auth.url, auth.issuer, auth.resource, auth.network, *auth.origins))
    return f"{name}/{hashlib.sha256(facts.encode()).hexdigest()[:32]}"
