"""What an upstream agent is handed, so that it can go on in a person's name: a token of ours for itself.

    client ── token for /a2a/planner, scope "planner:send time:read" ──▶ us ── another token ──▶ planner
    planner ── exchanges it (`rfc8693.grant`) for /mcp/time ──▶ us: the chain reads person, client, planner

Never the token that came in (RS-16): a new one, for the agent's own resource, with nothing but the scopes that
the person gave along with it (`ProtectedResource.along`). With it the agent can call nobody; only the client
that the operator registered for that resource can exchange it (TX-01). It ends with the token it came with.

With every call the caller's flow labels go to the clients behind the agent, token or not: what a context has
read reaches them in the message, and an exchange that lies behind them must not have been in time (DESIGN §6b-1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from firewall.core.action import Headers
from firewall.core.errors import StateUnavailable, UpstreamFault
from firewall.core.label import CLEAN
from firewall.core.ports import Clock, Ids, Labels
from firewall.core.ports import UpstreamCredentials as Credentials
from firewall.core.principal import Principal, act_of_chain
from firewall.identity.grants import OAuthGrants
from firewall.identity.records import SECOND_US
from firewall.identity.resources import Resources
from firewall.identity.rfc9068.tokens import Kind, TokenFacts, TokenIssuer
from firewall.identity.settings import ClientSettings, ProtectedResource, Record
from firewall.identity.upstream.credentials import CredentialSettings

KEPT: Final = 10_000
ROADS: Final = ("a2a", "mcp")
_KINDS: Final[dict[str, Kind]] = {"user": "user", "service": "service"}


class Behind(Credentials, Protocol):
    """Every other source of credentials."""

    def add(self, upstream: str, credential: CredentialSettings) -> None:
        """Configure one more upstream (a registration)."""


@dataclass(frozen=True, slots=True)
class _Handed:
    header: tuple[bytes, bytes]
    until_us: int


class HandedTokens:
    """Implements `core.ports.UpstreamCredentials` in front of the others. One per worker."""

    def __init__(
        self,
        behind: Behind,
        tokens: TokenIssuer,
        resources: Resources,
        grants: OAuthGrants,
        clock: Clock,
        ids: Ids,
        record: Record,
        labels: Labels,
        clients: Iterable[ClientSettings],
    ) -> None:
        """clients: all that the operator registered; those with a ``resource`` stand behind an upstream."""
        self._behind = behind
        self._labels = labels
        self._clients: dict[str, tuple[str, ...]] = {}
        for client in clients:
            if client.resource:
                self._clients[client.resource] = (*self._clients.get(client.resource, ()), client.client_id)
        self._tokens = tokens
        self._resources = resources
        self._grants = grants
        self._clock = clock
        self._ids = ids
        self._record = record
        self._kept: OrderedDict[tuple[str, str, str], _Handed] = OrderedDict()

    def add(self, upstream: str, credential: CredentialSettings) -> None:
        """Configure one more upstream (a registration)."""
        self._behind.add(upstream, credential)

    def headers_for(self, principal: Principal, upstream: str) -> Coroutine[None, None, Headers]:
        """Return the credential headers; see the port. A handed token stands beside a secret in another header.

        Raises UpstreamFault("credentials") also where a label cannot be handed on: the message is held back.
        """
        if not self._clients and not self._resources.gives_along:
            return self._behind.headers_for(principal, upstream)  # nothing is handed to anybody on this node
        return self._handed_to(principal, upstream)

    async def _handed_to(self, principal: Principal, upstream: str) -> Headers:
        if self._clients:
            self._hand_on_labels(principal, upstream)
        scopes = self._along(principal, upstream)
        standing = self._standing(principal, scopes) if scopes else 0
        # The others may have to ask somebody, who takes their time: whoever is ended meanwhile is ended in what is
        # handed over too, since that carries how things stood before.
        others = await self._behind.headers_for(principal, upstream)
        if not scopes:
            return others
        slot = (principal.tenant, upstream, principal.token_id)
        kept = self._kept.get(slot)
        if kept is None or self._clock.now_us() >= kept.until_us:
            kept = self._kept[slot] = self._minted(principal, upstream, scopes, standing)
            self._kept.move_to_end(slot)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return (kept.header, *others)

    def key_for(self, principal: Principal, upstream: str) -> str:
        """Return the pool key: a session in which a person's token was handed over is nobody else's."""
        if not self._resources.gives_along or not self._along(principal, upstream):
            return self._behind.key_for(principal, upstream)
        parts = (principal.tenant, "handed", *principal.key[1:], principal.grant_id, principal.run)
        return "/".join(f"{len(part)}:{part}" for part in parts)

    def _along(self, principal: Principal, upstream: str) -> tuple[str, ...]:
        """Return the scopes to hand over: () unless this very resource was entered with scopes given along with it.

        A token of the aggregate, or one that is limited to named calls, was agreed to for something else.
        """
        if (
            not self._resources.gives_along
            or principal.auth_method != "oauth"
            or principal.kind not in _KINDS
            or principal.details
        ):
            return ()
        known = self._resource(upstream)
        if known is None or not known.along or principal.audience != self._resources.uri(known.path):
            return ()
        if principal.issuer != self._resources.public_url:
            return ()
        return tuple(scope for scope in known.along if scope in principal.scopes)

    def _hand_on_labels(self, principal: Principal, upstream: str) -> None:
        """Join the caller's label into the plain contexts, for the same subject, of the clients behind an upstream."""
        known = self._resource(upstream)
        behind = self._clients.get(known.path, ()) if known else ()
        label = self._labels.current(principal) if behind else CLEAN
        try:
            for client_id in behind if label else ():
                self._labels.raise_(replace(principal, client_id=client_id, run=""), label)
        except StateUnavailable:
            raise UpstreamFault("credentials", f"{upstream}: labels cannot be handed on") from None

    def _resource(self, upstream: str) -> ProtectedResource | None:
        for road in ROADS:
            known = self._resources.at(f"/{road}/{upstream}")
            if known is not None:
                return known
        return None

    def _standing(self, who: Principal, scopes: tuple[str, ...]) -> int:
        return self._grants.standing.of(who.tenant, who.subject, who.audience, scopes)

    def _minted(self, principal: Principal, upstream: str, scopes: tuple[str, ...], standing: int) -> _Handed:
        who = principal
        issued = self._tokens.issue(
            TokenFacts(
                tenant=who.tenant,
                subject=who.subject,
                client_id=who.client_id,
                resource=who.audience,
                scopes=scopes,
                grant_id=who.grant_id,
                session_id=who.session_id,
                auth_time=who.auth_time,
                acr=who.acr,
                roles=who.roles,
                kind=_KINDS[who.kind],
                standing=standing,
                act=act_of_chain(who.chain[1:]),
                run=who.run,
                txn=who.txn or self._ids.new("txn"),
                hop=who.hop,
            ),
            until_s=who.expires_at,
        )
        self._record(
            "identity.token.issued",
            {
                "tenant": who.tenant,
                "sub": who.subject,
                "client_id": who.client_id,
                "resource": who.audience,
                "scope": " ".join(scopes),
                "gid": who.grant_id,
                "jti": issued.token_id,
                "grant_type": "handed",
                "upstream": upstream,
                "of": who.token_id,
            },
        )
        # To the agent with most of its life left: it has yet to exchange it.
        until_us = self._clock.now_us() + issued.expires_in * SECOND_US // 2
        return _Handed((b"authorization", b"Bearer " + issued.token.encode("ascii")), until_us)
