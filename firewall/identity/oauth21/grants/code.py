"""``grant_type=authorization_code`` (OAuth 2.1 §4.1.3), on authlib's grant with what it leaves open closed."""

from __future__ import annotations

from typing import Any, ClassVar

from authlib.oauth2.rfc6749 import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge

from firewall.identity.engine.grant import ANY_CLIENT, TokenBody, TokenGrant
from firewall.identity.grants import OAuthGrant
from firewall.identity.oauth21.codes import CodeFacts
from firewall.identity.oauth21.grants.person import person_token
from firewall.identity.oauth21.refresh import RefreshFacts
from firewall.identity.people.users import User
from firewall.identity.records import SECOND_US
from firewall.wire import oauth
from firewall.wire.oauth import OAuthError


class S256(CodeChallenge):  # type: ignore[misc] # authlib is published without types
    """RFC 7636 with S256 alone, demanded of every client, compared in constant time (AS-04, AS-05).

    authlib's own defaults to ``plain``, compares with ``==``, and demands a verifier of public clients only.
    """

    DEFAULT_CODE_CHALLENGE_METHOD = "S256"
    SUPPORTED_CODE_CHALLENGE_METHOD: ClassVar[list[str]] = ["S256"]

    def validate_code_verifier(self, grant: CodeGrant, result: object) -> None:
        """Raise OAuthError invalid_grant: pkce_verifier, unless the verifier hashes to the challenge."""
        oauth.check_verifier(grant.form.get("code_verifier"), grant.request.authorization_code.facts.code_challenge)


class Redeemed:
    """A code that was taken, as authlib asks about it (its ``AuthorizationCodeMixin``)."""

    __slots__ = ("_redirect_uri", "facts")

    def __init__(self, facts: CodeFacts, redirect_uri: str) -> None:
        self.facts = facts
        self._redirect_uri = redirect_uri

    def get_redirect_uri(self) -> str:
        """Return what a ``redirect_uri`` in the request must equal; "" where none was sent (OAuth 2.1 §10.2)."""
        return self._redirect_uri

    def get_scope(self) -> str:
        """Return the agreed scopes."""
        return " ".join(self.facts.scopes)


class CodeGrant(TokenGrant, AuthorizationCodeGrant):  # type: ignore[misc] # authlib is published without types
    """Redeems codes. authlib saves a token before it deletes the code; here the code is taken first (AS-09)."""

    GRANT_TYPE = "authorization_code"
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar[list[str]] = list(ANY_CLIENT)
    EXTENSIONS: ClassVar[tuple[Any, ...]] = (S256(),)

    def query_authorization_code(self, code: str, client: object) -> Redeemed:
        """Take the code: whoever is second ends the grant. Raises OAuthError invalid_grant."""
        facts = self.parts.codes.redeem(code)
        if facts.client_id != self.client.client_id:
            raise OAuthError("invalid_grant", "code_foreign")
        sent = self.form.get("redirect_uri")
        if sent not in ("", facts.redirect_uri):
            raise OAuthError("invalid_grant", "redirect_mismatch")
        if facts.dpop_jkt not in ("", self.proof):
            raise OAuthError("invalid_grant", "code_proof")
        return Redeemed(facts, facts.redirect_uri if sent else "")

    def delete_authorization_code(self, authorization_code: Redeemed) -> None:
        """Do nothing: it is gone since `query_authorization_code`."""

    def authenticate_user(self, authorization_code: Redeemed) -> User:
        """Return the person who agreed, as the account stands now. Raises OAuthError: invalid_target, invalid_grant."""
        facts = authorization_code.facts
        self.check_same_resource(facts.resource)
        return self.user(facts.tenant, facts.subject)

    def generate_token(
        self,
        user: User,
        scope: str | None = None,
        grant_type: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = True,
    ) -> TokenBody:
        """Save the grant and return its first tokens, both for the code's one resource. Raises OAuthError."""
        parts, facts = self.parts, self.request.authorization_code.facts
        scopes = self.entitled(facts.scopes, facts.resource, user)
        if parts.grants.is_revoked(facts.tenant, facts.grant_id):
            raise OAuthError("invalid_grant", "grant_revoked")
        # Read before what the code says is compared: an ending in between leaves what is issued here behind it.
        standing = parts.grants.standing.of(facts.tenant, facts.subject, facts.resource, scopes)
        if not parts.grants.stands(facts.tenant, facts.subject, facts.resource, facts.scopes, facts.standing):
            raise OAuthError("invalid_grant", "grant_ended")
        now_s = parts.clock.now_us() // SECOND_US
        client = self.client
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
        renewable = RefreshFacts(
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
            amr=facts.amr,
            # A confidential client proves itself anyway (RFC 9449 §5).
            jkt=self.proof if client.auth_method == "none" else "",
            authorization_details=facts.authorization_details,
        )
        refresh_token = parts.refresh.issue(renewable) if include_refresh_token else ""
        issued = self.issue(person_token(renewable, user, scopes, standing, self.proof))
        return self.body(issued, refresh_token=refresh_token)
