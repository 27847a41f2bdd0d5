"""TokenGrant: what every way to obtain a token shares, on authlib's grant classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

from authlib.oauth2.rfc6749 import BaseGrant, TokenEndpointMixin

from firewall.core.jsonvalue import JSONObject
from firewall.identity.clients.registry import Client
from firewall.identity.engine.parts import TokenParts
from firewall.identity.engine.requests import TokenRequest
from firewall.identity.people.users import User
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9068.tokens import IssuedToken, TokenFacts
from firewall.identity.rfc9470.levels import attained, in_time
from firewall.identity.settings import ProtectedResource
from firewall.identity.web import WebRequest
from firewall.wire import oauth
from firewall.wire.oauth import Form, OAuthError

CONFIDENTIAL = ("private_key_jwt", "client_secret_basic", "workload")
ANY_CLIENT = ("none", *CONFIDENTIAL)

# Status, JSON body and further headers of a token response.
Response = tuple[int, JSONObject, list[tuple[str, str]]]


class TokenBody(dict[str, Any]):
    """The members of a token response (RFC 6749 §5.1). authlib logs what it issues: this shows nothing (OP-05)."""

    def __repr__(self) -> str:
        return f"<token response: {', '.join(sorted(self))}>"

    __str__ = __repr__


class TokenGrant(BaseGrant, TokenEndpointMixin):  # type: ignore[misc] # authlib is published without types
    """One grant type at the token endpoint; one object for each request.

    A subclass names ``GRANT_TYPE`` and ``TOKEN_ENDPOINT_AUTH_METHODS`` (default: confidential clients) and
    writes `prepare`, ``validate_token_request`` and ``create_token_response``; register it in
    `engine.registered`. Whoever gets here is authenticated and registered for the grant type.
    """

    GRANT_TYPE: ClassVar[str] = ""
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar[list[str]] = list(CONFIDENTIAL)
    TOKEN_RESPONSE_HEADER: ClassVar[list[tuple[str, str]]] = []  # the shell's own are stricter
    EXTENSIONS: ClassVar[tuple[Any, ...]] = ()

    request: TokenRequest

    def __init__(self, request: TokenRequest, server: Any) -> None:
        super().__init__(request, server)
        self.parts: TokenParts = server.parts
        self.form: Form = request.form
        self.http: WebRequest = request.http
        self.proof: str = request.proof

    @property
    def client(self) -> Client:
        """The authenticated client."""
        return self.request.resolved.facts

    async def prepare(self) -> None:
        """Do what must be awaited, before the synchronous core runs. Raises OAuthError."""

    # -- for subclasses -------------------------------------------------------------------------------

    def user(self, tenant: str, subject: str) -> User:
        """Return a person who may still get tokens. Raises OAuthError invalid_grant: user_gone."""
        user = self.parts.users.get(tenant, subject)
        if user is None:
            raise OAuthError("invalid_grant", "user_gone")
        return user

    def concerns(self, tenant: str, subject: str, grant_id: str) -> None:
        """Note whose grant this request showed to be about: the record of a refusal from here on names it."""
        self.request.about = {"tenant": tenant, "sub": subject, "gid": grant_id}

    def check_same_resource(self, resource: str) -> None:
        """Raise OAuthError invalid_target: resource_mismatch, when another resource than the given one is asked for."""
        asked = self.form.get("resource")
        if asked not in ("", resource) and oauth.canonical_resource(asked) != resource:
            raise OAuthError("invalid_target", "resource_mismatch")

    def entitled(
        self, wanted: tuple[str, ...], resource: str, user: User | None, *, acr: str = "", auth_time: int = 0
    ) -> tuple[str, ...]:
        """Return the scopes that may be given now: what is asked ∩ resource ∩ client ∩ person (DESIGN §6b-6).

        user: None for a token of the client's own. acr, auth_time: how and when the person signed in; ``stepup:``
        scopes that this fulfils are kept beside the permissions (`rfc9470.levels`). Raises OAuthError:
        invalid_target, invalid_scope.
        """
        known = self.parts.resources.by_uri.get(resource)
        if known is None:
            raise OAuthError("invalid_target", "resource_gone")
        tenant = user.tenant if user else self.client.tenant
        if known.tenants and tenant not in known.tenants:
            raise OAuthError("invalid_target", "resource_tenant")
        scopes = oauth.intersect(wanted, known.scopes, self.client.scopes, user.scopes if user else ("*",))
        if not scopes:
            raise OAuthError("invalid_scope", "scope_empty")
        return (*scopes, *self.steps(wanted, known, acr, auth_time)) if user else scopes

    def steps(self, wanted: Iterable[str], resource: ProtectedResource, acr: str, auth_time: int) -> tuple[str, ...]:
        """Return the wanted ``stepup:`` scopes that a sign-in fulfils now."""
        now_s = self.parts.clock.now_us() // SECOND_US
        return in_time(attained(wanted, acr), auth_time, now_s, resource)

    def issue(
        self, facts: TokenFacts, *, lifetime_s: int = 0, until_s: int = 0, told: JSONObject | None = None
    ) -> IssuedToken:
        """Return a new access token after its issue was recorded (OP-06): without a record there is none.

        Who may exchange it is the operator's word on the client (RFC 8693 §4.4).
        lifetime_s, until_s: see `TokenIssuer.issue`. told: further facts of the record.
        """
        if self.client.may_act and self.parts.delegation.is_there(self.client.may_act, self.client.tenant):
            facts = replace(facts, may_act={"sub": self.client.may_act})
        issued = self.parts.tokens.issue(facts, lifetime_s=lifetime_s, until_s=until_s)
        self.parts.record(
            "identity.token.issued",
            {
                **(told or {}),
                **({"run": facts.run} if facts.run else {}),
                **({"jkt": facts.cnf_jkt} if facts.cnf_jkt else {}),
                "tenant": facts.tenant,
                "sub": facts.subject,
                "client_id": facts.client_id,
                "resource": facts.resource,
                "scope": " ".join(issued.scopes),
                "gid": facts.grant_id,
                "jti": issued.token_id,
                "grant_type": self.GRANT_TYPE,
            },
        )
        return issued

    def body(
        self, issued: IssuedToken, *, refresh_token: str = "", details: tuple[JSONObject, ...] = (), **more: Any
    ) -> TokenBody:
        """Return the members of the response.

        details: the token's ``authorization_details`` (RFC 9396 §7). more: further members, such as
        ``issued_token_type``.
        """
        body = TokenBody(
            access_token=issued.token,
            token_type="DPoP" if self.proof else "Bearer",
            expires_in=issued.expires_in,
            scope=" ".join(issued.scopes),
            **more,
        )
        if refresh_token:
            body["refresh_token"] = refresh_token
        if details:
            body["authorization_details"] = list(details)
        return body
