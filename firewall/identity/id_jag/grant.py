"""``grant_type=urn:ietf:params:oauth:grant-type:jwt-bearer`` with an ID-JAG: somebody's identity provider decided.

    client ── assertion of idp.acme.example, and its own authentication ──▶ access token, nothing else

There is no consent page, since the enterprise consents for its people, and no refresh token: whoever needs
another access token asks the identity provider again, which may have changed its mind. authlib's IDJAGGrant is
not the base: it verifies within the synchronous core, where no key can be fetched, and what oauth reference §8
(pitfall 12) demands besides leaves nothing of it.
"""

from __future__ import annotations

from typing import ClassVar

from firewall.core.errors import Conflict
from firewall.identity.engine.grant import Response, TokenGrant
from firewall.identity.grants import OAuthGrant
from firewall.identity.id_jag.assertion import Assertion, chosen_resource, wanted_scopes
from firewall.identity.people.users import User
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9068.tokens import TokenFacts
from firewall.identity.rfc9396.requested import details_json, read_details, requested_details
from firewall.identity.rfc9470.levels import permissions, steps
from firewall.identity.run_tokens.runs import RUN_SCOPE
from firewall.identity.settings import TrustedIssuer
from firewall.wire import oauth
from firewall.wire.oauth import OAuthError

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class IdentityAssertionGrant(TokenGrant):
    """Takes ID-JAGs of configured issuers from confidential clients."""

    GRANT_TYPE: ClassVar[str] = GRANT_TYPE

    assertion: Assertion
    trusted: TrustedIssuer

    async def prepare(self) -> None:
        """Verify the assertion. Raises OAuthError: invalid_request, invalid_grant."""
        text = self.form.get("assertion")
        if not text:
            raise OAuthError("invalid_request", "assertion_missing")
        self.assertion, self.trusted = await self.parts.assertions.read(text, self.client.client_id)

    def validate_token_request(self) -> None:
        """Check what may be asked with it. Raises OAuthError: invalid_grant, invalid_scope, invalid_target."""
        if self.client.tenant not in ("", self.trusted.tenant):
            raise OAuthError("invalid_grant", "assertion_tenant")
        # Nobody signed in here just now: that is what begins a run (DESIGN §6b-1).
        if RUN_SCOPE in oauth.parse_scope(self.form.get("scope")):
            raise OAuthError("invalid_scope", "run_not_allowed")

    def create_token_response(self) -> Response:
        """Return an access token for one resource, within what was asserted. Raises OAuthError."""
        parts, assertion, client = self.parts, self.assertion, self.client
        resource = chosen_resource(assertion, self.form.get("resource"), parts.resources.by_uri)
        default = parts.resources.by_uri[resource].default_scopes
        asserted = wanted_scopes(assertion, self.form.get("scope"), default)
        wanted = (*oauth.intersect(permissions(asserted), self.trusted.scopes), *steps(asserted))
        agreed = details_json(read_details(assertion.details, resource))
        details = requested_details(self.form, agreed, resource)
        # Used up by the first request that could have had a token, and before an account is made.
        parts.assertions.use_up(assertion, self.trusted)
        user = self._person()
        scopes = self.entitled(wanted, resource, user, acr=assertion.acr, auth_time=assertion.auth_time)
        tenant, subject = user.tenant, user.subject
        standing = parts.grants.standing.of(tenant, subject, resource, scopes)
        if parts.users.get(tenant, subject) is None:
            raise OAuthError("invalid_grant", "user_gone")
        now_s = parts.clock.now_us() // SECOND_US
        grant_id = parts.ids.new("g")
        grant = OAuthGrant(
            tenant, subject, grant_id, client.client_id, client.name, resource, scopes, now_s, standing, details
        )
        parts.grants.save(grant, for_s=parts.settings.token_lifetime_s)
        issued = self.issue(
            TokenFacts(
                tenant=tenant,
                subject=subject,
                client_id=client.client_id,
                resource=resource,
                scopes=scopes,
                grant_id=grant_id,
                auth_time=assertion.auth_time,
                acr=assertion.acr,
                roles=user.roles,
                standing=standing,
                cnf_jkt=self.proof,
                authorization_details=details,
            ),
            told={"issuer": assertion.issuer},
        )
        return 200, self.body(issued, details=details), []

    def _person(self) -> User:
        try:
            return self.parts.assertions.person(self.assertion, self.trusted)
        except Conflict:
            raise OAuthError("temporarily_unavailable", "assertion_race") from None
