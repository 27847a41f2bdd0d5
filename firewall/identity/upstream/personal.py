"""A person's own grant at an upstream: found, renewed in time, renewed once when it is refused, or asked for.

    kept, young ─▶ present        kept, old ─▶ renew, then present        none, ended or another issuer's ─▶ ask

An outage of the authorization server is no reason to ask a person anything: what has not expired is
presented, what has expired fails. Only a server's own word (``invalid_grant``) ends a grant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from firewall.core.errors import BartizanError, ConsentNeeded, Malformed, UpstreamFault
from firewall.core.ports import Clock
from firewall.core.principal import Principal
from firewall.identity.people.links import Links
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9449.signer import DPoPSigner
from firewall.identity.settings import Record
from firewall.identity.upstream.asks import Asks
from firewall.identity.upstream.discovery import Discovery, Found
from firewall.identity.upstream.grants import Place, UpstreamGrant, UpstreamGrants
from firewall.identity.upstream.metadata import parse_challenge
from firewall.identity.upstream.our_client import OurClient
from firewall.identity.upstream.presented import Presented, PresentedTokens, Slot, header_of
from firewall.identity.upstream.registration import Registrations
from firewall.identity.upstream.settings import UpstreamAuth
from firewall.identity.upstream.token_client import TokenClient, TokenRefused
from firewall.net.renewing import LiveHeader
from firewall.wire import oauth

AGAIN_S: Final = 30  # a credential as young as this was not refused for its age
CONNECT: Final = "/upstream/connect/"


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom, at which upstream, under which slot a token is presented."""

    principal: Principal
    upstream: str
    auth: UpstreamAuth
    slot: Slot


@dataclass(frozen=True, slots=True)
class PersonalParts:
    """What this works with."""

    public_url: str
    discovery: Discovery
    registrations: Registrations
    tokens: TokenClient
    grants: UpstreamGrants
    presented: PresentedTokens
    asks: Asks
    signer: DPoPSigner
    clock: Clock
    record: Record
    links: Links


class Personal:
    """The grants of people, as they are presented."""

    def __init__(self, parts: PersonalParts) -> None:
        self._parts = parts

    async def obtain(self, caller: Caller, found: Found) -> Presented:
        """Return what to present for a person. Raises ConsentNeeded, UpstreamFault."""
        parts = self._parts
        epoch = parts.presented.epoch()
        client = parts.registrations.known(caller.upstream, caller.auth, found.server)
        grant = parts.grants.find(place_of(caller.principal, caller.upstream, found, client)) if client else None
        if grant is None or client is None:
            raise self.ask(caller)
        if grant.renew_us and parts.clock.now_us() >= grant.renew_us:
            grant = await self._renewed(caller, found, client, grant)
        return self._present(caller, grant, epoch)

    def account(self, principal: Principal) -> str:
        """Return the subject of the account here whose grants a caller uses, "" where there is none.

        Somebody who comes with another issuer's own token (direct mode) is who that issuer's sign-in here is
        linked with, by issuer and subject and nothing else; unlinked, it is nobody yet.
        """
        if principal.issuer == self._parts.public_url:
            return principal.subject
        _, bar, theirs = principal.subject.partition("|")
        return self._parts.links.account(principal.tenant, principal.issuer, theirs) if bar else ""

    def stranger(self, upstream: str) -> ConsentNeeded:
        """Return what leads somebody without an account here to our page, where their first sign-in makes one."""
        return ConsentNeeded(upstream, f"{self._parts.public_url}{CONNECT}{upstream}", self._parts.asks.new_id())

    def ask(self, caller: Caller, scopes: tuple[str, ...] = (), *, more: bool = False) -> ConsentNeeded:
        """Return what leads the person to our page. scopes: that a call lacked; more: of an account that is connected."""
        ask = self._parts.asks.begin(caller.principal, caller.upstream, scopes)
        link = f"{self._parts.public_url}{CONNECT}{caller.upstream}?ask={ask.ask_id}"
        return ConsentNeeded(caller.upstream, link, ask.ask_id, more=more)

    def _present(self, caller: Caller, grant: UpstreamGrant, epoch: int) -> Presented:
        async def renew(status: int, challenge: str) -> LiveHeader | None:
            return await self._refused(caller, grant, status, challenge)

        tenant = caller.principal.tenant
        signer = self._parts.signer
        header = header_of(signer, tenant, caller.upstream, grant.token_type, grant.access_token, renew)
        # A token that could not be renewed a moment ago is used to its end, and renewal tried again meanwhile.
        until_us, now_us = grant.renew_us, self._parts.clock.now_us()
        if until_us and until_us <= now_us:
            until_us = min(grant.expires_us, now_us + AGAIN_S * SECOND_US)
        return Presented(header, until_us, epoch, grant)

    async def _renewed(
        self, caller: Caller, found: Found, client: OurClient, grant: UpstreamGrant, *, refused: bool = False
    ) -> UpstreamGrant:
        """Return the grant with a fresh access token. refused: the present one is of no use any more.

        Raises ConsentNeeded when its server has ended the grant, UpstreamFault when it cannot be asked.
        """
        parts, upstream = self._parts, caller.upstream
        if not grant.refresh_token:
            parts.grants.drop(grant.place)
            raise self.ask(caller)

        async def renew(now: UpstreamGrant) -> UpstreamGrant:
            return await self._refresh(caller, found, client, now)

        try:
            fresh = await parts.grants.renewed(grant, renew)
        except TokenRefused as error:
            self._note("identity.upstream.refresh_refused", caller, code=error.code)
            forgotten = error.code in ("invalid_client", "unauthorized_client") and not caller.auth.client_id
            if error.code != "invalid_grant" and not forgotten:
                raise UpstreamFault("credentials", f"{upstream}: its token endpoint refused a renewal") from None
            if forgotten:  # a registration of ours that its server does not know any more
                parts.registrations.forget(upstream, found.server)
            parts.grants.drop(grant.place)
            raise self.ask(caller) from None
        except UpstreamFault:
            # Its server is down: what has not expired is still good (OP-08).
            if refused or (grant.expires_us and parts.clock.now_us() >= grant.expires_us):
                raise
            return grant
        if fresh is None:
            raise self.ask(caller)
        self._note("identity.upstream.refreshed", caller)
        return fresh

    async def _refresh(self, caller: Caller, found: Found, client: OurClient, now: UpstreamGrant) -> UpstreamGrant:
        """Return a grant with the tokens of one refresh (RFC 6749 §6; OAuth 2.1 §4.3.1: the old one is discarded)."""
        form = {
            "grant_type": "refresh_token",
            "refresh_token": now.refresh_token,
            "resource": found.resource if caller.auth.send_resource else "",
        }
        bound = (caller.principal.tenant, caller.upstream) if now.token_type == "dpop" else None  # noqa: S105  a type
        reply = await self._parts.tokens.ask(
            found.server, client, form, network=caller.auth.network, ca_file=caller.auth.ca_file, bound=bound
        )
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

    async def _refused(self, caller: Caller, grant: UpstreamGrant, status: int, challenge: str) -> LiveHeader | None:
        """The upstream refused a person's token: look for its server again, renew once, or ask the person."""
        parts = self._parts
        if status == 403:
            raise self.ask(caller, more_scopes(grant.scopes, challenge), more=True)
        found = await parts.discovery.find(caller.upstream, caller.auth, challenge=challenge)
        client = parts.registrations.known(caller.upstream, caller.auth, found.server)
        same = client is not None and place_of(caller.principal, caller.upstream, found, client) == grant.place
        now = parts.grants.find(grant.place) if same else None
        if client is None or now is None:  # another issuer gets nothing of what this one gave (CL-06)
            parts.presented.drop(caller.slot)
            raise self.ask(caller)
        epoch = parts.presented.epoch()
        async with parts.presented.alone(caller.slot):
            if (now.grant_id, now.version) == (grant.grant_id, grant.version):
                if parts.clock.now_us() < now.obtained_us + AGAIN_S * SECOND_US and now.version > 1:
                    return None  # it was renewed a moment ago: age is not what is wrong with it
                parts.presented.drop(caller.slot)
                now = await self._renewed(caller, found, client, now, refused=True)
            return parts.presented.keep(caller.slot, self._present(caller, now, epoch)).header

    def _note(self, event: str, caller: Caller, *, code: str = "") -> None:
        who = caller.principal
        facts = {"tenant": who.tenant, "sub": who.subject, "client_id": who.client_id, "upstream": caller.upstream}
        try:
            self._parts.record(event, {**facts, **({"code": code} if code else {})})
        except BartizanError:
            pass  # the exchange that needs the credential is recorded by itself, or refused


def place_of(principal: Principal, upstream: str, found: Found, client: OurClient) -> Place:
    """Return where a caller's grant stands (CL-06)."""
    return Place(principal.tenant, principal.subject, upstream, found.resource, found.server.issuer, client.client_id)


def more_scopes(scopes: tuple[str, ...], challenge: str) -> tuple[str, ...]:
    """Return the union of what was given and what a challenge asks for (MCP 2026-07-28, step-up)."""
    try:
        asked = oauth.parse_scope(parse_challenge(challenge).scope)
    except Malformed:
        asked = ()
    return tuple(dict.fromkeys((*scopes, *asked)))[: oauth.SCOPES]
