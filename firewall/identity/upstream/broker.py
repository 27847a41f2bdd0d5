"""The one place that says what we present to an upstream, for every method of every protocol.

    exchange ─▶ ID-JAG ─▶ the person's own grant ─▶ client credentials ─▶ static secret

The order is fixed; the first way that is configured and fits the caller decides, and its failure is final:
an upstream is never tried with somebody else's credential because the caller's own did not work (CL-09).
The inbound token is not within reach here: a Principal does not carry it (RS-16). Only people have grants
and can be spoken for; a service is served by client credentials or a static secret.

Hot path: one dictionary look-up per request. Tokens are kept for four fifths of their life (`presented`);
what is asked of others is single-flight.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Final

from firewall.core.action import Headers
from firewall.core.errors import BartizanError, ConsentNeeded, UpstreamFault
from firewall.core.ports import Clock
from firewall.core.principal import Principal
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9449.signer import DPoPSigner
from firewall.identity.settings import Record
from firewall.identity.upstream.credentials import CredentialSettings, StaticUpstreamCredentials
from firewall.identity.upstream.discovery import Discovery
from firewall.identity.upstream.grants import UpstreamGrant, UpstreamGrants
from firewall.identity.upstream.minting import Minted, Minting
from firewall.identity.upstream.personal import AGAIN_S, Caller, Personal, more_scopes
from firewall.identity.upstream.presented import Presented, PresentedTokens, Slot, header_of
from firewall.identity.upstream.settings import WAYS, UpstreamAuth, Way
from firewall.net.renewing import LiveHeader

TOLD_S: Final = 60  # between two records of one problem of one upstream
TOLD: Final = 256


@dataclass(frozen=True, slots=True)
class BrokerParts:
    """What the broker works with. auths: upstreams with a sign-in; the others are served by ``static`` alone.

    stopped: whether the kill switch covers a caller at an upstream. A link is opened before its first call is
    decided, and nobody is asked for a credential in the name of somebody who was stopped.
    """

    public_url: str
    auths: Mapping[str, UpstreamAuth]
    static: StaticUpstreamCredentials
    discovery: Discovery
    minting: Minting
    personal: Personal
    presented: PresentedTokens
    grants: UpstreamGrants
    signer: DPoPSigner
    clock: Clock
    record: Record
    stopped: Callable[[Principal, str], bool]


class UpstreamBroker:
    """Implements `core.ports.UpstreamCredentials`. One per worker."""

    def __init__(self, parts: BrokerParts) -> None:
        for name, auth in parts.auths.items():
            auth.check(name)
        self._parts = parts
        # Which way a person is served, and which anybody else: looked up on every request.
        self._person = {name: _first(auth, person=True) for name, auth in parts.auths.items()}
        self._service = {name: _first(auth, person=False) for name, auth in parts.auths.items()}
        self._told: dict[tuple[str, str, str], int] = {}

    @property
    def providers(self) -> frozenset[str]:
        """The identity providers that are asked for ID-JAGs, by issuer."""
        return frozenset(auth.idp for auth in self._parts.auths.values() if "id_jag" in auth.ways)

    def add(self, upstream: str, credential: CredentialSettings) -> None:
        """Configure one more upstream (a registration); those sign in by static secret only."""
        self._parts.static.add(upstream, credential)

    def headers_for(self, principal: Principal, upstream: str) -> Coroutine[None, None, Headers]:
        """Return the credential headers; see the port. Raises ConsentNeeded, UpstreamFault("credentials")."""
        auth = self._parts.auths.get(upstream)
        if auth is None:
            return self._parts.static.headers_for(principal, upstream)
        return self._signed_in(principal, upstream, auth)

    async def _signed_in(self, principal: Principal, upstream: str, auth: UpstreamAuth) -> Headers:
        parts = self._parts
        if parts.stopped(principal, upstream):
            raise UpstreamFault("credentials", f"{upstream}: an operator has stopped this caller or server")
        way = self._way(principal, upstream)
        if way is None:
            if not parts.static.has(upstream):
                raise ConsentNeeded(upstream)  # nothing fits: there is nobody to ask either
            return await parts.static.headers_for(principal, upstream)
        if way in ("user", "id_jag") and principal.issuer != parts.public_url:
            principal = self._linked(principal, upstream)  # what a provider or an upstream gave is kept by account
        slot = _slot(principal, upstream, way)
        kept = parts.presented.live(slot)
        if kept is None:
            async with parts.presented.alone(slot):
                kept = parts.presented.live(slot) or await self._obtain(Caller(principal, upstream, auth, slot), way)
        return (kept.header,)

    def key_for(self, principal: Principal, upstream: str) -> str:
        """Return the pool key: a session opened with one person's credential is nobody else's."""
        parts, tenant = self._parts, principal.tenant
        auth = parts.auths.get(upstream)
        if auth is None:
            return parts.static.key_for(principal, upstream)
        way = self._way(principal, upstream)
        if way is None or way == "client":
            return f"{tenant}/{way or 'static'}"
        if way != "user":
            return f"{tenant}/{way}/{principal.issuer}/{principal.subject}"
        subject = parts.personal.account(principal)
        kept = parts.presented.live((tenant, upstream, way, subject))
        newest: UpstreamGrant | None
        if kept is not None:
            newest = kept.grant
        else:
            found = parts.grants.of_person(tenant, subject, upstream) if subject else []
            newest = max(found, key=lambda grant: grant.linked_us, default=None)
        # An account that was linked anew is another account: its sessions are not the old one's.
        return f"{tenant}/user/{subject or principal.subject}/{newest.grant_id if newest else ''}"

    def _linked(self, principal: Principal, upstream: str) -> Principal:
        """Return a caller of another issuer as the account here that is linked. Raises ConsentNeeded."""
        subject = self._parts.personal.account(principal)
        if not subject:
            raise self._parts.personal.stranger(upstream)
        return replace(principal, subject=subject)

    def _way(self, principal: Principal, upstream: str) -> Way | None:
        """Return the way that fits a caller, None for the static secret."""
        return (self._person if principal.kind == "user" else self._service)[upstream]

    async def _obtain(self, caller: Caller, way: Way) -> Presented:
        parts = self._parts
        try:
            found = await parts.discovery.find(caller.upstream, caller.auth)
            if way == "user":
                return parts.presented.keep(caller.slot, await parts.personal.obtain(caller, found))
            epoch = parts.presented.epoch()
            minted = await parts.minting.mint(way, caller.principal, caller.upstream, caller.auth, found)
            return parts.presented.keep(caller.slot, self._minted(caller, way, minted, epoch))
        except ConsentNeeded:
            raise
        except UpstreamFault as error:
            self._tell(caller.upstream, error)
            down = error.code in ("unreachable", "timeout")
            if down and (last := parts.presented.outlive(caller.slot, AGAIN_S * SECOND_US)) is not None:
                return last  # what has not expired is still good (OP-08)
            raise

    def _minted(self, caller: Caller, way: Way, minted: Minted, epoch: int) -> Presented:
        parts = self._parts

        async def renew(status: int, challenge: str) -> LiveHeader | None:
            more = more_scopes(minted.scopes, challenge) if status == 403 else ()
            if status == 403 and set(more) <= set(minted.scopes):
                return None
            young = parts.clock.now_us() < minted.obtained_us + AGAIN_S * SECOND_US
            if status == 401 and young and minted.renewed:
                return None  # it was made anew a moment ago: age is not what is wrong with it
            async with parts.presented.alone(caller.slot):
                now = parts.presented.live(caller.slot)
                if now is not None and now.header is not header and status == 401:
                    return now.header  # another request of the same moment has renewed it
                parts.presented.drop(caller.slot)
                found = await parts.discovery.find(caller.upstream, caller.auth, challenge=challenge)
                here = parts.presented.epoch()
                fresh = await parts.minting.mint(
                    way, caller.principal, caller.upstream, caller.auth, found, scopes=more
                )
                again = self._minted(caller, way, replace(fresh, renewed=True), here)
                return parts.presented.keep(caller.slot, again).header

        tenant = caller.principal.tenant
        header = header_of(parts.signer, tenant, caller.upstream, minted.token_type, minted.token, renew)
        return Presented(header, minted.until_us, epoch, ends_us=minted.ends_us)

    def _tell(self, upstream: str, error: UpstreamFault) -> None:
        """Record why an upstream's credential cannot be had, and the mend: once a minute, not once a call."""
        slot = (upstream, error.code, error.detail)
        now_us = self._parts.clock.now_us()
        if now_us < self._told.get(slot, 0):
            return
        if len(self._told) >= TOLD:
            self._told.clear()
        self._told[slot] = now_us + TOLD_S * SECOND_US
        facts = {"upstream": upstream, "code": error.code, "detail": error.detail, "fix": error.fix}
        try:
            self._parts.record("identity.upstream.failed", {k: v for k, v in facts.items() if v})
        except BartizanError:
            pass  # the exchange that needs the credential is recorded by itself, or refused


def _first(auth: UpstreamAuth, *, person: bool) -> Way | None:
    return next((way for way in WAYS if way in auth.ways and (person or way == "client")), None)


def _slot(principal: Principal, upstream: str, way: Way) -> Slot:
    """Return the key of a cached token (oauth reference §6.4); resource and scopes are settings of the upstream."""
    if way == "client":
        return (principal.tenant, upstream, way)
    if way == "user":
        return (principal.tenant, upstream, way, principal.subject)
    return (principal.tenant, upstream, way, principal.subject, principal.issuer, principal.client_id, principal.acr)
