"""``POST /revoke`` (RFC 7009): a token of the authenticated client ends its whole grant; others end nothing.

A token that a client got by exchange lies within another client's grant: it ends the transaction, as far as this
client takes part in it, and what further clients got from it.
"""

from __future__ import annotations

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock
from firewall.identity import standing
from firewall.identity.clients.registry import Client
from firewall.identity.engine.parts import ClientAuthentication
from firewall.identity.grants import OAuthGrants
from firewall.identity.oauth21.refresh import RefreshTokens
from firewall.identity.oauth21.token_endpoint import refusal
from firewall.identity.records import text
from firewall.identity.rfc9068.tokens import ALGORITHM, TOKEN_TYPE, SigningKeys
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, error_reply, json_reply
from firewall.wire import jwt, oauth
from firewall.wire.oauth import OAuthError


class RevocationEndpoint:
    """Answers 200 also for what it does not know: nobody learns whether a token existed."""

    def __init__(
        self,
        clients: ClientAuthentication,
        refresh: RefreshTokens,
        grants: OAuthGrants,
        keys: SigningKeys,
        throttle: Throttle,
        clock: Clock,
        *,
        per_minute: int,
    ) -> None:
        self._clients = clients
        self._refresh = refresh
        self._grants = grants
        self._keys = keys
        self._throttle = throttle
        self._clock = clock
        self._per_minute = per_minute

    async def serve(self, request: WebRequest) -> FixedReply:
        """Return the reply to one revocation request."""
        if not self._throttle.allow("revoke", request.client_ip, per_minute=self._per_minute):
            return error_reply("slow_down", 429, headers=((b"retry-after", b"60"),))
        authorization = request.headers.get(b"authorization")
        try:
            form = request.form()
            oauth.refuse_repeated(form)
            client = await self._clients.authenticate(form, authorization, address=request.client_ip)
            if not form.get("token"):
                raise OAuthError("invalid_request", "token_missing")
        except OAuthError as error:
            return refusal(error, basic=authorization is not None)
        self._revoke(client, form.get("token"))
        return json_reply({})

    def _revoke(self, client: Client, token: str) -> None:
        try:
            facts = self._refresh.find(token, client.client_id)
            tenant, subject, grant_id = facts.tenant, facts.subject, facts.grant_id
        except OAuthError:
            try:
                claims = self._of_access_token(client, token)
            except Malformed:
                return
            tenant, subject, grant_id = text(claims, "tenant"), text(claims, "sub"), text(claims, "gid")
            if claims.get("hop"):
                self._grants.standing.end(tenant, standing.exchange(text(claims, "txn"), client.client_id))
                return
        self._grants.revoke(tenant, subject, grant_id, reason="revoked_by_client")

    def _of_access_token(self, client: Client, token: str) -> JSONObject:
        unchecked = jwt.parse_compact(token.encode("utf-8", "surrogatepass"), algorithms=(ALGORITHM,))
        key = self._keys.by_kid.get(unchecked.kid)
        if key is None or unchecked.typ != TOKEN_TYPE:
            raise Malformed("jwt_key")
        claims = jwt.verify(unchecked, key)
        if claims.get("client_id") != client.client_id:
            raise Malformed("token_foreign")
        return claims
