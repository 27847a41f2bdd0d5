"""``grant_type=authorization_code`` (OAuth 2.1 §4.1.3), on authlib's grant with what it leaves open closed."""

from __future__ import annotations

from typing import Any, ClassVar

from authlib.oauth2.rfc6749 import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge

from firewall.identity.engine.grant import ANY_CLIENT, TokenBody, TokenGrant
from firewall.identity.oauth21.codes import CodeFacts
from firewall.identity.oauth21.grants.person import first_tokens
from firewall.identity.people.users import User
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
        self.concerns(facts.tenant, facts.subject, facts.grant_id)
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
        return first_tokens(self, self.request.authorization_code.facts, user, renewable=include_refresh_token)
