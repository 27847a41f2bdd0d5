"""``POST /introspect`` (RFC 7662): what a token says and whether it is worth anything now.

Only an authenticated, confidential client is answered, and only about a token that was given to itself or is
meant for the resource that it stands behind (`ClientSettings.resource`). About everything else, whatever is wrong
with it, the answer is the same: ``{"active": false}`` (RFC 7662 §2.2, §4).
"""

from __future__ import annotations

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock
from firewall.identity.clients.registry import Client
from firewall.identity.engine.parts import ClientAuthentication
from firewall.identity.grants import OAuthGrants
from firewall.identity.oauth21.refresh import RefreshTokens
from firewall.identity.oauth21.token_endpoint import refusal
from firewall.identity.records import SECOND_US, text
from firewall.identity.resources import Resources
from firewall.identity.rfc6750.own_tokens import OwnTokens
from firewall.identity.rfc9068.tokens import ALGORITHM, SigningKeys
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, error_reply, json_reply
from firewall.wire import jwt, oauth
from firewall.wire.oauth import OAuthError

INACTIVE: JSONObject = {"active": False}
# Ours alone: who holds the token could read it, and nobody needs it.
_INTERNAL = frozenset({"standing"})


class IntrospectionEndpoint:
    """Answers about access and refresh tokens of this authorization server."""

    def __init__(
        self,
        clients: ClientAuthentication,
        resources: Resources,
        refresh: RefreshTokens,
        grants: OAuthGrants,
        keys: SigningKeys,
        throttle: Throttle,
        clock: Clock,
        *,
        per_minute: int,
    ) -> None:
        self._clients = clients
        self._resources = resources
        self._refresh = refresh
        self._grants = grants
        self._tokens = OwnTokens(resources.public_url, keys)
        self._throttle = throttle
        self._clock = clock
        self._per_minute = per_minute

    async def serve(self, request: WebRequest) -> FixedReply:
        """Return the reply to one introspection request."""
        if not self._throttle.allow("introspect", request.client_ip, per_minute=self._per_minute):
            return error_reply("slow_down", 429, headers=((b"retry-after", b"60"),))
        authorization = request.headers.get(b"authorization")
        try:
            form = request.form()
            oauth.refuse_repeated(form)
            client = await self._clients.authenticate(form, authorization, address=request.client_ip)
            if client.auth_method == "none":
                # A name is no proof: anybody could ask about any token (RFC 7662 §2.1).
                raise OAuthError("invalid_client", "client_method")
            if not form.get("token"):
                raise OAuthError("invalid_request", "token_missing")
        except OAuthError as error:
            return refusal(error, basic=authorization is not None)
        return json_reply(self.describe(client, form.get("token")), cors=False)

    def describe(self, client: Client, token: str) -> JSONObject:
        """Return what this client may know of a token (RFC 7662 §2.2); never raises for a bad one."""
        try:
            return self._access_token(client, token)
        except Malformed:
            pass
        try:
            return self._refresh_token(client, token)
        except Malformed:
            return INACTIVE

    def _access_token(self, client: Client, token: str) -> JSONObject:
        unchecked = jwt.parse_compact(token.encode("utf-8", "surrogatepass"), algorithms=(ALGORITHM,))
        claims = unchecked.claims
        audience = text(claims, "aud")
        # For its own audience, whichever it is: whether that is the caller's is asked next.
        verified = self._tokens.verify(unchecked, audience, self._clock.now_us() // SECOND_US)
        who = verified.principal
        own = bool(client.resource) and audience == self._resources.uri(client.resource)
        if client.tenant not in ("", who.tenant) or not (own or who.client_id == client.client_id):
            raise Malformed("token_foreign")
        if self._grants.is_revoked(who.tenant, who.grant_id):
            raise Malformed("grant_revoked")
        if not self._grants.stands(who.tenant, who.subject, audience, tuple(who.scopes), verified.standing or 0):
            raise Malformed("grant_ended")
        if self._grants.standing.ended(who.tenant, verified.names, verified.issued_s):
            raise Malformed("grant_ended")
        told = {name: value for name, value in claims.items() if name not in _INTERNAL}
        return {**told, "active": True, "token_type": "DPoP" if who.cnf else "Bearer"}

    def _refresh_token(self, client: Client, token: str) -> JSONObject:
        facts, expires_s = self._refresh.live(token, client.client_id)
        return {
            "active": True,
            "iss": self._resources.public_url,
            "client_id": facts.client_id,
            "sub": facts.subject,
            "aud": facts.resource,
            "scope": " ".join(facts.scopes),
            "tenant": facts.tenant,
            "exp": expires_s,
        }
