"""The one place that says what we present to an upstream, for every method of every protocol.

    exchange ─▶ ID-JAG ─▶ the person's own grant ─▶ client credentials ─▶ static secret

The order is fixed; the first way that is configured and fits the caller decides, and its failure is final:
an upstream is never tried with somebody else's credential because the caller's own did not work (CL-09).
The inbound token is not within reach here: a Principal does not carry it (RS-16). Only people have grants
and can be spoken for; a service is served by client credentials or a static secret.

Hot path: one dictionary look-up per request. Tokens are kept in memory for four fifths of their life, per
worker, and looked at again whenever the node's epoch moved; what is asked of others is single-flight.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from firewall.core.action import Headers
from firewall.core.errors import BartizanError, ConsentNeeded, Malformed, UpstreamFault
from firewall.core.ports import Clock, SharedMarks
from firewall.core.principal import Principal
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9449.signer import DPoPSigner
from firewall.identity.settings import Record
from firewall.identity.upstream.asks import Asks
from firewall.identity.upstream.credentials import CredentialSettings, StaticUpstreamCredentials
from firewall.identity.upstream.discovery import Discovery, Found
from firewall.identity.upstream.grants import Place, UpstreamGrant, UpstreamGrants
from firewall.identity.upstream.metadata import parse_challenge
from firewall.identity.upstream.minting import Minted, Minting
from firewall.identity.upstream.our_client import OurClient
from firewall.identity.upstream.registration import Registrations
from firewall.identity.upstream.settings import WAYS, UpstreamAuth, Way
from firewall.identity.upstream.token_client import TokenClient, TokenRefused
from firewall.net.renewing import LiveHeader, Renew
from firewall.wire import oauth

KEPT: Final = 20_000
AGAIN_S: Final = 30  # a credential as young as this was not refused for its age
CONNECT: Final = "/upstream/connect/"

Slot = tuple[str, ...]


@dataclass(slots=True)
class _Kept:
    """A header that may be presented. until_us: 0 without end. version: of a grant's row, 0 for a minted token."""

    header: LiveHeader
    until_us: int
    epoch: int
    place: Place | None = None
    grant_id: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class BrokerParts:
    """What the broker works with."""

    public_url: str
    auths: Mapping[str, UpstreamAuth]
    static: StaticUpstreamCredentials
    discovery: Discovery
    registrations: Registrations
    tokens: TokenClient
    minting: Minting
    grants: UpstreamGrants
    asks: Asks
    signer: DPoPSigner
    marks: SharedMarks
    clock: Clock
    record: Record


class UpstreamBroker:
    """Implements `core.ports.UpstreamCredentials`. One per worker."""

    def __init__(self, parts: BrokerParts) -> None:
        for name, auth in parts.auths.items():
            auth.check(name)
        self._parts = parts
        self._kept: OrderedDict[Slot, _Kept] = OrderedDict()
        self._locks: dict[Slot, asyncio.Lock] = {}

    @property
    def providers(self) -> frozenset[str]:
        """The identity providers that are asked for ID-JAGs, by issuer."""
        return frozenset(auth.idp for auth in self._parts.auths.values() if "id_jag" in auth.ways)

    def add(self, upstream: str, credential: CredentialSettings) -> None:
        """Configure one more upstream (a registration); those sign in by static secret only."""
        self._parts.static.add(upstream, credential)

    async def headers_for(self, principal: Principal, upstream: str) -> Headers:
        """Return the credential headers; see the port. Raises ConsentNeeded, UpstreamFault("credentials")."""
        auth = self._parts.auths.get(upstream)
        if auth is None:
            return await self._parts.static.headers_for(principal, upstream)
        way = self._way(principal, upstream, auth)
        if way == "":
            return await self._parts.static.headers_for(principal, upstream)
        slot = _slot(principal, upstream, way)
        kept = self._live(slot)
        if kept is not None:
            return (kept.header,)
        lock = self._locks.setdefault(slot, asyncio.Lock())
        try:
            async with lock:
                kept = self._live(slot) or await self._obtain(slot, principal, upstream, auth, way)
        finally:
            if not lock.locked():
                self._locks.pop(slot, None)
        return (kept.header,)

    def key_for(self, principal: Principal, upstream: str) -> str:
        """Return the pool key: a session opened with one person's credential is nobody else's."""
        auth = self._parts.auths.get(upstream)
        if auth is None:
            return self._parts.static.key_for(principal, upstream)
        way = next((w for w in WAYS if w in auth.ways and (w == "client" or _is_person(principal))), "")
        if way in ("", "client"):
            return f"{principal.tenant}/{way or 'static'}"
        if way != "user":
            return f"{principal.tenant}/{way}/{principal.issuer}/{principal.subject}"
        kept = self._live(_slot(principal, upstream, "user"))
        if kept is not None:
            return f"{principal.tenant}/user/{principal.subject}/{kept.grant_id}"
        # An account that was linked anew is another account: its sessions are not the old one's.
        newest = max(
            self._parts.grants.of_person(principal.tenant, principal.subject, upstream), key=_linked, default=None
        )
        return f"{principal.tenant}/user/{principal.subject}/{newest.grant_id if newest else ''}"

    def forget(self, tenant: str, subject: str, upstream: str) -> None:
        """Drop what this worker remembers of a person's grant; others see it by the epoch."""
        self._kept.pop((tenant, upstream, "user", subject), None)

    # -- choosing ------------------------------------------------------------------------------------------

    def _way(self, principal: Principal, upstream: str, auth: UpstreamAuth) -> Way | str:
        person = _is_person(principal)
        for way in WAYS:
            if way in auth.ways and (person or way == "client"):
                return way
        if self._parts.static.has(upstream):
            return ""
        raise ConsentNeeded(upstream)

    def _live(self, slot: Slot) -> _Kept | None:
        """Return what is kept for a slot if it may still be presented."""
        kept = self._kept.get(slot)
        if kept is None or (kept.until_us and self._parts.clock.now_us() >= kept.until_us):
            return None
        epoch = self._parts.marks.epoch()
        if kept.epoch != epoch:
            if kept.place is not None:
                grant = self._parts.grants.find(kept.place)
                if grant is None or (grant.grant_id, grant.version) != (kept.grant_id, kept.version):
                    del self._kept[slot]
                    return None
                auth = self._parts.auths[kept.place.upstream]
                if self._parts.discovery.issuer(kept.place.upstream, auth) != kept.place.issuer:
                    del self._kept[slot]
                    return None
            kept.epoch = epoch
        return kept

    async def _obtain(self, slot: Slot, principal: Principal, upstream: str, auth: UpstreamAuth, way: str) -> _Kept:
        epoch = self._parts.marks.epoch()
        found = await self._parts.discovery.find(upstream, auth)
        if way == "user":
            kept = await self._granted(slot, principal, upstream, auth, found, epoch)
        else:
            minted = await self._parts.minting.mint(way, principal, upstream, auth, found)
            kept = self._minted(slot, principal, upstream, auth, way, minted, epoch)
        return self._keep(slot, kept)

    def _keep(self, slot: Slot, kept: _Kept) -> _Kept:
        self._kept[slot] = kept
        self._kept.move_to_end(slot)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return kept

    # -- a person's own grant ----------------------------------------------------------------------------

    async def _granted(
        self, slot: Slot, principal: Principal, upstream: str, auth: UpstreamAuth, found: Found, epoch: int
    ) -> _Kept:
        client = self._parts.registrations.known(upstream, auth, found.server)
        grant = self._parts.grants.find(place_of(principal, upstream, found, client)) if client else None
        if grant is None or client is None:
            raise self._ask(principal, upstream)
        if grant.renew_us and self._parts.clock.now_us() >= grant.renew_us:
            grant = await self._renewed(principal, upstream, auth, found, client, grant)
        return self._present(slot, principal, upstream, auth, grant, epoch)

    def _present(
        self, slot: Slot, principal: Principal, upstream: str, auth: UpstreamAuth, grant: UpstreamGrant, epoch: int
    ) -> _Kept:
        async def renew(status: int, challenge: str) -> LiveHeader | None:
            return await self._refused(slot, principal, upstream, auth, grant, status, challenge)

        header = self._header(principal.tenant, upstream, grant.token_type, grant.access_token, renew)
        # A token that could not be renewed a moment ago is used to its end, and renewal tried again meanwhile.
        until_us = grant.renew_us
        now_us = self._parts.clock.now_us()
        if until_us and until_us <= now_us:
            until_us = min(grant.expires_us, now_us + AGAIN_S * SECOND_US)
        return _Kept(header, until_us, epoch, grant.place, grant.grant_id, grant.version)

    async def _renewed(
        self,
        principal: Principal,
        upstream: str,
        auth: UpstreamAuth,
        found: Found,
        client: OurClient,
        grant: UpstreamGrant,
        *,
        refused: bool = False,
    ) -> UpstreamGrant:
        """Return the grant with a fresh access token. refused: the present one is of no use any more.

        Raises ConsentNeeded when its server has ended the grant, UpstreamFault when it cannot be asked.
        """
        if not grant.refresh_token:
            self._parts.grants.drop(grant.place)
            raise self._ask(principal, upstream)

        async def renew(now: UpstreamGrant) -> UpstreamGrant:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": now.refresh_token,
                "resource": found.resource if auth.send_resource else "",
            }
            bound = (principal.tenant, upstream) if now.token_type == "dpop" else None  # noqa: S105  a type
            reply = await self._parts.tokens.ask(found.server, client, form, network=auth.network, bound=bound)
            now_us = self._parts.clock.now_us()
            return replace(
                now,
                access_token=reply.access_token,
                refresh_token=reply.refresh_token or now.refresh_token,
                obtained_us=now_us,
                expires_us=now_us + reply.expires_in * SECOND_US if reply.expires_in else 0,
                scopes=reply.scopes or now.scopes,
                token_type=reply.token_type,
            )

        try:
            fresh = await self._parts.grants.renewed(grant, renew)
        except TokenRefused as error:
            self._note("identity.upstream.refresh_refused", principal, upstream, code=error.code)
            if error.code != "invalid_grant":
                raise UpstreamFault("credentials", f"{upstream}: its token endpoint refused a renewal") from None
            self._parts.grants.drop(grant.place)
            raise self._ask(principal, upstream) from None
        except UpstreamFault:
            # Its server is down: what has not expired is still good (OP-08).
            if refused or (grant.expires_us and self._parts.clock.now_us() >= grant.expires_us):
                raise
            return grant
        if fresh is None:
            raise self._ask(principal, upstream)
        self._note("identity.upstream.refreshed", principal, upstream)
        return fresh

    async def _refused(
        self,
        slot: Slot,
        principal: Principal,
        upstream: str,
        auth: UpstreamAuth,
        grant: UpstreamGrant,
        status: int,
        challenge: str,
    ) -> LiveHeader | None:
        """The upstream refused a person's token: look for its server again, renew once, or ask the person."""
        if status == 403:
            raise self._ask(principal, upstream, _more(grant.scopes, challenge))
        found = await self._parts.discovery.find(upstream, auth, challenge=challenge)
        if found.server.issuer != grant.place.issuer or found.resource != grant.place.resource:
            self._kept.pop(slot, None)
            raise self._ask(principal, upstream)
        client = self._parts.registrations.known(upstream, auth, found.server)
        if client is None or client.client_id != grant.place.client_id:
            self._kept.pop(slot, None)
            raise self._ask(principal, upstream)
        now = self._parts.grants.find(grant.place)
        if now is None:
            self._kept.pop(slot, None)
            raise self._ask(principal, upstream)
        epoch = self._parts.marks.epoch()
        async with self._locks.setdefault(slot, asyncio.Lock()):
            if (now.grant_id, now.version) == (grant.grant_id, grant.version):
                if self._parts.clock.now_us() < now.obtained_us + AGAIN_S * SECOND_US and now.version > 1:
                    return None  # it was renewed a moment ago: age is not what is wrong with it
                self._kept.pop(slot, None)
                now = await self._renewed(principal, upstream, auth, found, client, now, refused=True)
            return self._keep(slot, self._present(slot, principal, upstream, auth, now, epoch)).header

    # -- tokens that are made for us ---------------------------------------------------------------------

    def _minted(
        self,
        slot: Slot,
        principal: Principal,
        upstream: str,
        auth: UpstreamAuth,
        way: str,
        minted: Minted,
        epoch: int,
    ) -> _Kept:
        async def renew(status: int, challenge: str) -> LiveHeader | None:
            now_us = self._parts.clock.now_us()
            more = _more(minted.scopes, challenge) if status == 403 else ()
            if status == 403 and set(more) <= set(minted.scopes):
                return None
            if status == 401 and now_us < minted.obtained_us + AGAIN_S * SECOND_US and minted.renewed:
                return None
            self._kept.pop(slot, None)
            found = await self._parts.discovery.find(upstream, auth, challenge=challenge)
            fresh = await self._parts.minting.mint(way, principal, upstream, auth, found, scopes=more)
            again = replace(fresh, renewed=True)
            here = self._parts.marks.epoch()
            return self._keep(slot, self._minted(slot, principal, upstream, auth, way, again, here)).header

        header = self._header(principal.tenant, upstream, minted.token_type, minted.token, renew)
        return _Kept(header, minted.until_us, epoch)

    def _header(self, tenant: str, upstream: str, token_type: str, token: str, renew: Renew) -> LiveHeader:
        if token_type != "dpop":  # noqa: S105  a type
            return LiveHeader(b"authorization", f"Bearer {token}".encode("ascii"), renew)
        proofs = Proofs(self._parts.signer, tenant, upstream, token)
        return LiveHeader(b"authorization", f"DPoP {token}".encode("ascii"), renew, proofs)

    # -- asking ------------------------------------------------------------------------------------------

    def _ask(self, principal: Principal, upstream: str, scopes: tuple[str, ...] = ()) -> ConsentNeeded:
        ask = self._parts.asks.begin(principal, upstream, scopes)
        link = f"{self._parts.public_url}{CONNECT}{upstream}?ask={ask.ask_id}"
        return ConsentNeeded(upstream, link, ask.ask_id)

    def _note(self, event: str, principal: Principal, upstream: str, *, code: str = "") -> None:
        facts = {"tenant": principal.tenant, "sub": principal.subject, "client_id": principal.client_id}
        try:
            self._parts.record(event, {**facts, "upstream": upstream, **({"code": code} if code else {})})
        except BartizanError:
            pass  # the exchange that needs the credential is recorded by itself, or refused


@dataclass(frozen=True, slots=True)
class Proofs:
    """Makes the proof of each request that carries one bound token; implements `net.renewing.Signs`."""

    signer: DPoPSigner
    tenant: str
    upstream: str
    token: str = field(repr=False)

    def proof(self, method: str, url: str) -> tuple[bytes, bytes]:
        """Return the header."""
        made = self.signer.proof(self.tenant, self.upstream, method=method, url=url, token=self.token)
        return b"dpop", made.encode("ascii")

    def again(self, url: str, status: int, headers: Mapping[str, str]) -> bool:
        """Return whether an answer asks for the same request with a nonce that it told."""
        return self.signer.wants_retry(self.tenant, self.upstream, url, status, headers)


def place_of(principal: Principal, upstream: str, found: Found, client: OurClient) -> Place:
    """Return where a caller's grant stands (CL-06)."""
    return Place(principal.tenant, principal.subject, upstream, found.resource, found.server.issuer, client.client_id)


def _is_person(principal: Principal) -> bool:
    return principal.kind == "user"


def _slot(principal: Principal, upstream: str, way: str) -> Slot:
    """Return the key of a cached token (oauth reference §6.4). The resource is the upstream's; scopes are its setting's."""
    if way == "client":
        return (principal.tenant, upstream, way)
    if way == "user":
        return (principal.tenant, upstream, way, principal.subject)
    return (principal.tenant, upstream, way, principal.subject, principal.issuer, principal.client_id, principal.acr)


def _linked(grant: UpstreamGrant) -> int:
    return grant.linked_us


def _more(scopes: tuple[str, ...], challenge: str) -> tuple[str, ...]:
    """Return the union of what was given and what a challenge asks for (MCP 2026-07-28, step-up)."""
    try:
        asked = oauth.parse_scope(parse_challenge(challenge).scope)
    except Malformed:
        asked = ()
    return tuple(dict.fromkeys((*scopes, *asked)))[: oauth.SCOPES]
