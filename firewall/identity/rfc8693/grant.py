"""``grant_type=urn:ietf:params:oauth:grant-type:token-exchange``: a client goes on with a token it was given.

    subject token (user u, client A, /a2a/planner) ── planner exchanges ──▶ token (user u, client planner, /mcp/time)

What is given is narrower in every direction (`narrowing`: TX-01, TX-02), ends with the person's grant to the
first client (same ``gid``), and carries the whole chain. There is no refresh token: whoever needs more time
presents a token that still lives. The caller's flow labels come along: a chain cannot be used to shed them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from firewall.core.principal import Principal, act_of_chain
from firewall.identity.clients.registry import Client
from firewall.identity.engine.grant import Response, TokenGrant
from firewall.identity.people.users import User
from firewall.identity.rfc8693 import narrowing
from firewall.identity.rfc8693.narrowing import Presented
from firewall.identity.rfc8693.request import ACCESS_TOKEN, GRANT_TYPE, ExchangeRequest, parse_request
from firewall.identity.rfc9068.tokens import Kind, TokenFacts
from firewall.identity.rfc9396.requested import requested_details
from firewall.identity.settings import ProtectedResource
from firewall.identity.web import SUBJECT_REFUSED
from firewall.wire.oauth import OAuthError

_KINDS: dict[str, Kind] = {"user": "user", "service": "service"}


class ExchangeGrant(TokenGrant):
    """Exchanges access tokens of ours for narrower ones. Confidential clients only."""

    GRANT_TYPE: ClassVar[str] = GRANT_TYPE

    asked: ExchangeRequest
    given: Presented
    chain: tuple[Client, ...]
    until_s: int

    async def prepare(self) -> None:
        """Check what was presented, and find every client of its chain. Raises OAuthError."""
        self.asked = parse_request(self.form)
        try:
            await self._read_subject()
        except OAuthError as error:
            # One sentence for whatever is the matter: who may not exchange a token learns nothing about it.
            error.why = SUBJECT_REFUSED if error.error == "invalid_request" else ""
            raise

    async def _read_subject(self) -> None:
        delegation, client = self.parts.delegation, self.client
        self.given = delegation.presented.read(self.asked.subject_token)
        who = self.given.principal
        self.concerns(who.tenant, who.subject, who.grant_id)
        own = self.parts.resources.uri(client.resource) if client.resource else ""
        narrowing.check_may_exchange(self.given, client.client_id, own)
        if client.tenant not in ("", who.tenant):
            raise OAuthError("invalid_request", "exchange_tenant")
        self._check_proved(who)
        self.until_s = min(who.expires_at, self._actor_until(who.tenant))
        behind = {who.client_id, *(actor.sub for actor in narrowing.actors_behind(self.given))} - {client.client_id}
        self.chain = tuple([await delegation.client(name, who.tenant) for name in sorted(behind)])

    def validate_token_request(self) -> None:
        """Check the request against the operator's rules. Raises OAuthError: invalid_scope, invalid_target."""
        if self.asked.run and not self.client.orchestrator:
            raise OAuthError("invalid_scope", "run_not_allowed")
        # What was agreed in detail was agreed for one resource; another one would not find itself in it.
        if self.given.details and self._target_uri() != self.given.principal.audience:
            raise OAuthError("invalid_target", "details_elsewhere")

    def create_token_response(self) -> Response:
        """Return the narrower token. Raises OAuthError, StateUnavailable."""
        parts, given, who = self.parts, self.given, self.given.principal
        user = self._subject(who)
        uri, target = self._target_uri(), self._target(who.tenant)
        scopes = self._scopes(target, user)
        details = requested_details(self.form, given.details, uri)
        actors = narrowing.actors_after(given, self.client.client_id)
        # Read first: an ending from here on leaves what is issued behind it (`presented` asked before).
        standing = parts.grants.standing.of(who.tenant, who.subject, uri, scopes)
        parts.delegation.presented.read(self.asked.subject_token)
        run = self._run(who)
        self._hand_on_labels(who, run)
        txn, hop = who.txn or parts.ids.new("txn"), who.hop + 1
        issued = self.issue(
            TokenFacts(
                tenant=who.tenant,
                subject=who.subject,
                client_id=self.client.client_id,
                resource=uri,
                scopes=scopes,
                grant_id=who.grant_id,
                session_id=who.session_id,
                auth_time=who.auth_time,
                acr=who.acr,
                roles=user.roles if user else (),
                kind=_KINDS[who.kind],
                standing=standing,
                amr=given.amr,
                act=act_of_chain(actors),
                cnf_jkt=self.proof,
                authorization_details=details,
                run=run,
                txn=txn,
                hop=hop,
            ),
            until_s=self.until_s,
            told={"txn": txn, "hop": hop, "of": who.token_id, "chain": [actor.sub for actor in actors]},
        )
        return 200, self.body(issued, issued_token_type=ACCESS_TOKEN, details=details), []

    # -- the checks, one by one ---------------------------------------------------------------------------

    def _check_proved(self, who: Principal) -> None:
        """Raise OAuthError unless a token that is bound to a key came with that key's proof (RS-13)."""
        if who.cnf and who.cnf != self.proof:
            raise OAuthError("invalid_request", "subject_proof")

    def _actor_until(self, tenant: str) -> int:
        """Return when the actor token ends; a far time where none was sent: then the client itself is the actor.

        An actor token must be the client's own, of itself: a client cannot act as somebody else.
        """
        if not self.asked.actor_token:
            return 2**53
        actor = self.parts.delegation.presented.read(self.asked.actor_token).principal
        mine = self.client.client_id
        if (actor.client_id, actor.subject, actor.tenant) != (mine, mine, tenant) or len(actor.chain) > 1:
            raise OAuthError("invalid_request", "actor_foreign")
        self._check_proved(actor)
        return actor.expires_at

    def _subject(self, who: Principal) -> User | None:
        """Return the person as the account stands now, None for a service. Raises OAuthError invalid_request."""
        if who.kind not in _KINDS:
            raise OAuthError("invalid_request", "subject_kind")
        if who.kind == "service":
            return None
        user = self.parts.users.get(who.tenant, who.subject)
        if user is None:
            raise OAuthError("invalid_request", "subject_gone")
        return user

    def _target_uri(self) -> str:
        return self.asked.target or self.given.principal.audience

    def _target(self, tenant: str) -> ProtectedResource:
        target = self.parts.resources.by_uri.get(self._target_uri())
        if target is None or (target.tenants and tenant not in target.tenants):
            raise OAuthError("invalid_target", "resource_unknown")
        return target

    def _scopes(self, target: ProtectedResource, user: User | None) -> tuple[str, ...]:
        """Return person ∧ every client of the chain ∧ what was held ∧ what there is (DESIGN §6b-6)."""
        wanted, given = self.asked.scopes, self.given
        allowed = [client.scopes for client in (self.client, *self.chain)]
        if user is not None:
            allowed.append(user.scopes)
        scopes = narrowing.narrowed(given, wanted, target.scopes, allowed)
        who = given.principal
        return (*scopes, *self.steps(wanted or sorted(who.scopes), target, who.acr, who.auth_time))

    def _run(self, who: Principal) -> str:
        """Return the run of the new token: a new one, the same client's own, or none.

        Another client does not come into a run by exchange: it has a memory of its own, which nobody vouched for.
        """
        client_id = self.client.client_id
        if self.asked.run:
            return self.parts.delegation.runs.begin(who.tenant, who.subject, client_id, by="orchestrator")
        return who.run if client_id == who.client_id else ""

    def _hand_on_labels(self, who: Principal, run: str) -> None:
        """Join the labels of the context that the token comes from into the one that it goes to. A new run is clean."""
        if self.asked.run:
            return
        labels = self.parts.delegation.labels
        label = labels.current(who)
        if label:
            labels.raise_(replace(who, client_id=self.client.client_id, run=run), label)
