"""Tokens for the local operator: what ``bartizan token --resource … [--watch]`` asks for.

The caller is whoever can reach the admin unix socket; the admin room checks that and says who it
was. Such a token is as bound as any other: one resource, scopes that exist there, a short life.
"""

from __future__ import annotations

from collections.abc import Sequence

from firewall.core.errors import Malformed
from firewall.core.ports import Ids
from firewall.identity.grants import OAuthGrants
from firewall.identity.resources import Resources
from firewall.identity.rfc9068.tokens import IssuedToken, TokenFacts, TokenIssuer
from firewall.identity.settings import IdentitySettings, Record

CLIENT_ID = "bartizan-cli"
LEAST_S = 30


class OperatorTokens:
    """Mints and ends operator tokens; each is recorded."""

    def __init__(
        self,
        settings: IdentitySettings,
        resources: Resources,
        tokens: TokenIssuer,
        grants: OAuthGrants,
        ids: Ids,
        record: Record,
    ) -> None:
        self._settings = settings
        self._resources = resources
        self._tokens = tokens
        self._grants = grants
        self._ids = ids
        self._record = record

    def mint_for_operator(
        self, resource: str, scopes: Sequence[str] = (), ttl_s: int = 0, *, by: str = "operator", tenant: str = ""
    ) -> IssuedToken:
        """Return a token for one resource, given as URI or as path (``/mcp/time``).

        scopes: () means the resource's default ones. ttl_s: 0 means the usual lifetime; at most
        ``operator_token_lifetime_s``. by: who asked, as the socket knows it (``uid:1000``).
        Raises Malformed: operator_resource, operator_scope, operator_ttl.
        """
        uri = self._resources.uri(resource) if resource.startswith("/") else resource
        known = self._resources.by_uri.get(uri)
        tenant = tenant or self._settings.default_tenant
        if known is None or (known.tenants and tenant not in known.tenants):
            raise Malformed("operator_resource", fix="name a resource that `bartizan token --list` shows")
        wanted = tuple(dict.fromkeys(scopes)) or known.default_scopes
        if not wanted or not set(wanted) <= set(known.scopes):
            raise Malformed("operator_scope", fix=f"choose from: {' '.join(known.scopes)}")
        ttl_s = ttl_s or self._settings.token_lifetime_s
        if not LEAST_S <= ttl_s <= self._settings.operator_token_lifetime_s:
            raise Malformed(
                "operator_ttl", fix=f"choose {LEAST_S} to {self._settings.operator_token_lifetime_s} seconds"
            )
        subject = f"local:{by}"
        grant_id = self._ids.new("g")
        issued = self._tokens.issue(
            TokenFacts(
                tenant,
                subject,
                CLIENT_ID,
                uri,
                wanted,
                grant_id,
                acr="local",
                kind="local",
                standing=self._grants.standing.of(tenant, subject, uri, wanted),
            ),
            lifetime_s=ttl_s,
        )
        self._record(
            "identity.token.issued",
            {
                "tenant": tenant,
                "sub": subject,
                "client_id": CLIENT_ID,
                "resource": uri,
                "scope": " ".join(wanted),
                "gid": grant_id,
                "jti": issued.token_id,
                "grant_type": "operator",
                "ttl_s": ttl_s,
            },
        )
        return issued
