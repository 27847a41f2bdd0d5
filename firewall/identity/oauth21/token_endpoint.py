"""``POST /token``: code, refresh and client credentials, each for exactly one resource.

What is given is an intersection, computed again each time: what is asked, what the person may give,
what the client may have, what the resource knows (DESIGN §6b-6). A role that was taken away is gone
with the next token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Ids
from firewall.identity.clients.registry import Client
from firewall.identity.grants import OAuthGrant, OAuthGrants
from firewall.identity.oauth21.codes import Codes
from firewall.identity.oauth21.refresh import RefreshFacts, RefreshTokens
from firewall.identity.people.users import User, Users
from firewall.identity.records import SECOND_US
from firewall.identity.resources import Resources
from firewall.identity.rfc7523.client_auth import ClientAuthenticator
from firewall.identity.rfc9068.tokens import IssuedToken, TokenFacts, TokenIssuer
from firewall.identity.settings import Record
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, error_reply, json_reply
from firewall.wire import oauth
from firewall.wire.oauth import Form, OAuthError

GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")


@dataclass(frozen=True, slots=True)
class TokenParts:
    """What the endpoint works with."""

    resources: Resources
    clients: ClientAuthenticator
    users: Users
    codes: Codes
    refresh: RefreshTokens
    grants: OAuthGrants
    tokens: TokenIssuer
    throttle: Throttle
    clock: Clock
    ids: Ids
    record: Record
    per_minute: int


class TokenEndpoint:
    """Answers token requests; always JSON, also for what is wrong."""

    def __init__(self, parts: TokenParts) -> None:
        self._parts = parts
        self._grants: dict[str, Callable[[Client, Form], FixedReply]] = {
            "authorization_code": self._code,
            "refresh_token": self._refresh,
            "client_credentials": self._client_credentials,
        }

    async def serve(self, request: WebRequest) -> FixedReply:
        """Return the reply to one token request."""
        parts = self._parts
        if not parts.throttle.allow("token", request.client_ip, per_minute=parts.per_minute):
            return error_reply("slow_down", 429, headers=((b"retry-after", b"60"),))
        authorization = request.headers.get(b"authorization")
        grant_type = ""
        try:
            form = request.form()
            oauth.refuse_repeated(form)
            grant_type = form.get("grant_type")
            grant = self._grants.get(grant_type)
            if grant is None:
                error = "unsupported_grant_type" if grant_type else "invalid_request"
                grant_type = ""
                raise OAuthError(error, "grant_type")
            client = await parts.clients.authenticate(form, authorization)
            if grant_type not in client.grant_types:
                raise OAuthError("unauthorized_client", "grant_type")
            return grant(client, form)
        except OAuthError as error:
            parts.record("identity.token.refused", {"error": error.error, "code": error.code, "grant_type": grant_type})
            return refusal(error, basic=authorization is not None)

    # -- the three grants ---------------------------------------------------------------------------

    def _code(self, client: Client, form: Form) -> FixedReply:
        parts = self._parts
        facts = parts.codes.redeem(form.get("code"))
        if facts.client_id != client.client_id:
            raise OAuthError("invalid_grant", "code_foreign")
        # OAuth 2.1 dropped redirect_uri here; where it is sent it must be the same.
        if form.get("redirect_uri") not in ("", facts.redirect_uri):
            raise OAuthError("invalid_grant", "redirect_mismatch")
        oauth.check_verifier(form.get("code_verifier"), facts.code_challenge)
        if form.get("resource") not in ("", facts.resource):
            raise OAuthError("invalid_target", "resource_mismatch")
        user = self._user(facts.tenant, facts.subject)
        scopes = self._entitled(facts.scopes, facts.resource, client, user)
        if parts.grants.is_revoked(facts.tenant, facts.grant_id):
            raise OAuthError("invalid_grant", "grant_revoked")
        # Read before what the code says is compared: an ending in between leaves what is issued here behind it.
        standing = parts.grants.standing.of(facts.tenant, facts.subject, facts.resource, scopes)
        if not parts.grants.stands(facts.tenant, facts.subject, facts.resource, facts.scopes, facts.standing):
            raise OAuthError("invalid_grant", "grant_ended")
        now_s = parts.clock.now_us() // SECOND_US
        parts.grants.save(
            OAuthGrant(
                facts.tenant,
                facts.subject,
                facts.grant_id,
                client.client_id,
                facts.client_name,
                facts.resource,
                scopes,
                now_s,
                standing,
            )
        )
        refresh = RefreshFacts(
            tenant=facts.tenant,
            subject=facts.subject,
            client_id=client.client_id,
            resource=facts.resource,
            scopes=scopes,
            grant_id=facts.grant_id,
            session_id=facts.session_id,
            auth_time=facts.auth_time,
            acr=facts.acr,
            created_s=now_s,
            standing=standing,
        )
        successor = parts.refresh.issue(refresh) if "refresh_token" in client.grant_types else ""
        return self._reply(self._user_token(refresh, user, scopes, standing), refresh, "authorization_code", successor)

    def _refresh(self, client: Client, form: Form) -> FixedReply:
        parts = self._parts
        facts = parts.refresh.find(form.get("refresh_token"), client.client_id)
        if form.get("resource") not in ("", facts.resource):
            raise OAuthError("invalid_target", "resource_mismatch")
        wanted = oauth.parse_scope(form.get("scope")) or facts.scopes
        wanted = tuple(s for s in wanted if s != "offline_access") or facts.scopes
        oauth.check_not_wider(wanted, facts.scopes)
        user = self._user(facts.tenant, facts.subject)
        scopes = self._entitled(wanted, facts.resource, client, user)
        standing = parts.grants.standing.of(facts.tenant, facts.subject, facts.resource, scopes)
        successor = parts.refresh.rotate(form.get("refresh_token"))
        # Asked again: an ending since `find` would otherwise be outrun by the standing that was just read.
        parts.refresh.find(successor, client.client_id)
        return self._reply(self._user_token(facts, user, scopes, standing), facts, "refresh_token", successor)

    def _client_credentials(self, client: Client, form: Form) -> FixedReply:
        parts = self._parts
        resource = oauth.check_resource(form.get("resource"), parts.resources.by_uri)
        wanted = oauth.parse_scope(form.get("scope")) or parts.resources.by_uri[resource].default_scopes
        scopes = self._entitled(wanted, resource, client, None)
        facts = TokenFacts(
            tenant=client.tenant,
            subject=client.client_id,
            client_id=client.client_id,
            resource=resource,
            scopes=scopes,
            grant_id=parts.ids.new("g"),
            kind="service",
            standing=parts.grants.standing.of(client.tenant, client.client_id, resource, scopes),
        )
        issued = parts.tokens.issue(facts)
        self._recorded(
            issued, facts.tenant, facts.subject, client.client_id, resource, facts.grant_id, "client_credentials"
        )
        return json_reply(_body(issued, ""))

    # -- shared -----------------------------------------------------------------------------------------

    def _user(self, tenant: str, subject: str) -> User:
        user = self._parts.users.get(tenant, subject)
        if user is None:
            raise OAuthError("invalid_grant", "user_gone")
        return user

    def _entitled(self, wanted: tuple[str, ...], resource: str, client: Client, user: User | None) -> tuple[str, ...]:
        known = self._parts.resources.by_uri.get(resource)
        if known is None:
            raise OAuthError("invalid_target", "resource_gone")
        tenant = user.tenant if user else client.tenant
        if known.tenants and tenant not in known.tenants:
            raise OAuthError("invalid_target", "resource_tenant")
        scopes = oauth.intersect(wanted, known.scopes, client.scopes, user.scopes if user else ("*",))
        if not scopes:
            raise OAuthError("invalid_scope", "scope_empty")
        return scopes

    def _user_token(self, facts: RefreshFacts, user: User, scopes: tuple[str, ...], standing: int) -> IssuedToken:
        return self._parts.tokens.issue(
            TokenFacts(
                tenant=facts.tenant,
                subject=facts.subject,
                client_id=facts.client_id,
                resource=facts.resource,
                scopes=scopes,
                grant_id=facts.grant_id,
                session_id=facts.session_id,
                auth_time=facts.auth_time,
                acr=facts.acr,
                roles=user.roles,
                standing=standing,
            )
        )

    def _reply(self, issued: IssuedToken, facts: RefreshFacts, grant_type: str, successor: str) -> FixedReply:
        self._recorded(issued, facts.tenant, facts.subject, facts.client_id, facts.resource, facts.grant_id, grant_type)
        return json_reply(_body(issued, successor))

    def _recorded(
        self, issued: IssuedToken, tenant: str, sub: str, client_id: str, resource: str, gid: str, grant_type: str
    ) -> None:
        self._parts.record(
            "identity.token.issued",
            {
                "tenant": tenant,
                "sub": sub,
                "client_id": client_id,
                "resource": resource,
                "scope": " ".join(issued.scopes),
                "gid": gid,
                "jti": issued.token_id,
                "grant_type": grant_type,
            },
        )


def refusal(error: OAuthError, *, basic: bool) -> FixedReply:
    """Return the JSON form of an OAuth error (RFC 6749 §5.2)."""
    if error.error == "invalid_client":
        challenge = ((b"www-authenticate", b'Basic realm="token"'),) if basic else ()
        return error_reply("invalid_client", 401, headers=challenge)
    if error.error == "temporarily_unavailable":
        return error_reply(error.error, 503, headers=((b"retry-after", b"1"),))
    return error_reply(error.error, 400)


def _body(issued: IssuedToken, successor: str) -> JSONObject:
    body: JSONObject = {
        "access_token": issued.token,
        "token_type": "Bearer",
        "expires_in": issued.expires_in,
        "scope": " ".join(issued.scopes),
    }
    if successor:
        body["refresh_token"] = successor
    return body
