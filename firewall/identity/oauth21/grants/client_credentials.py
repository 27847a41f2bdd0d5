"""``grant_type=client_credentials`` (OAuth 2.1 §4.2): a token of the client's own, without a refresh token."""

from __future__ import annotations

from typing import ClassVar

from authlib.oauth2.rfc6749 import ClientCredentialsGrant

from firewall.identity.engine.grant import CONFIDENTIAL, TokenBody, TokenGrant
from firewall.identity.rfc9068.tokens import TokenFacts
from firewall.identity.rfc9396.requested import requested_details
from firewall.wire import oauth


class ClientCredentials(TokenGrant, ClientCredentialsGrant):  # type: ignore[misc] # authlib is published without types
    """Gives a service a token for one resource of its own tenant."""

    GRANT_TYPE = "client_credentials"
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar[list[str]] = list(CONFIDENTIAL)

    def generate_token(
        self,
        user: None = None,
        scope: str | None = None,
        grant_type: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = False,
    ) -> TokenBody:
        """Return the token response. Raises OAuthError: invalid_target, invalid_scope."""
        parts, client = self.parts, self.client
        resource = oauth.check_resource(self.form.get("resource"), parts.resources.by_uri)
        wanted = oauth.parse_scope(self.form.get("scope")) or parts.resources.by_uri[resource].default_scopes
        scopes = self.entitled(wanted, resource, None)
        details = requested_details(self.form, (), resource)
        facts = TokenFacts(
            tenant=client.tenant,
            subject=client.client_id,
            client_id=client.client_id,
            resource=resource,
            scopes=scopes,
            grant_id=parts.ids.new("g"),
            kind="service",
            standing=parts.grants.standing.of(client.tenant, client.client_id, resource, scopes),
            cnf_jkt=self.proof,
            authorization_details=details,
        )
        return self.body(self.issue(facts), details=details)
