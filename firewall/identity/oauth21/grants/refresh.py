"""``grant_type=refresh_token`` (OAuth 2.1 §4.3), on authlib's grant; rotation and reuse detection are ours (AS-11)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from authlib.oauth2.rfc6749 import RefreshTokenGrant

from firewall.core.jsonvalue import JSONObject
from firewall.identity.engine.grant import ANY_CLIENT, TokenBody, TokenGrant
from firewall.identity.oauth21.grants.person import person_token
from firewall.identity.oauth21.refresh import RefreshFacts
from firewall.identity.people.users import User
from firewall.identity.rfc9396.requested import requested_details
from firewall.wire import oauth
from firewall.wire.oauth import OAuthError


class Presented:
    """A refresh token that was found, as authlib asks about it (its ``TokenMixin``)."""

    __slots__ = ("details", "facts", "wanted")

    def __init__(self, facts: RefreshFacts, wanted: tuple[str, ...], details: tuple[JSONObject, ...]) -> None:
        self.facts = facts
        self.wanted = wanted
        self.details = details

    def check_client(self, client: object) -> bool:
        """Return True: `RefreshTokens.find` gave it to its own client only."""
        return True


class RefreshGrant(TokenGrant, RefreshTokenGrant):  # type: ignore[misc] # authlib is published without types
    """Rotates refresh tokens. What is given is computed again: a role that was taken away is gone with the next one."""

    GRANT_TYPE = "refresh_token"
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar[list[str]] = list(ANY_CLIENT)
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> Presented:
        """Return what the token may renew, without using it. Raises OAuthError: invalid_grant, invalid_target, invalid_scope."""
        facts = self.parts.refresh.find(refresh_token, self.client.client_id)
        self.concerns(facts.tenant, facts.subject, facts.grant_id)
        if facts.jkt not in ("", self.proof):
            raise OAuthError("invalid_grant", "refresh_proof")
        self.check_same_resource(facts.resource)
        asked = oauth.parse_scope(self.form.get("scope"))
        wanted = tuple(s for s in asked if s != "offline_access") or facts.scopes
        oauth.check_not_wider(wanted, facts.scopes)
        details = requested_details(self.form, facts.authorization_details, facts.resource)
        return Presented(facts, wanted, details)

    def _validate_token_scope(self, token: Presented) -> None:
        """Do nothing: checked with the token. authlib's own would refuse ``offline_access``, which clients repeat."""

    def authenticate_user(self, refresh_token: Presented) -> User:
        """Return the person, as the account stands now. Raises OAuthError invalid_grant."""
        return self.user(refresh_token.facts.tenant, refresh_token.facts.subject)

    def issue_token(self, user: User, refresh_token: Presented) -> TokenBody:
        """Use the token and return its successor with a new access token. Raises OAuthError."""
        parts, facts = self.parts, refresh_token.facts
        scopes = self.entitled(refresh_token.wanted, facts.resource, user, acr=facts.acr, auth_time=facts.auth_time)
        standing = parts.grants.standing.of(facts.tenant, facts.subject, facts.resource, scopes)
        successor = parts.refresh.rotate(self.form.get("refresh_token"))
        # Asked again: an ending since `find` would otherwise be outrun by the standing that was just read.
        parts.refresh.find(successor, self.client.client_id)
        # This token may be narrower; the next one may be as wide as the grant again (RFC 9396 §6).
        now = replace(facts, authorization_details=refresh_token.details)
        issued = self.issue(person_token(now, user, scopes, standing, self.proof))
        return self.body(issued, refresh_token=successor, details=refresh_token.details)

    def revoke_old_credential(self, refresh_token: Presented) -> None:
        """Do nothing: `rotate` has claimed it before its successor existed."""
