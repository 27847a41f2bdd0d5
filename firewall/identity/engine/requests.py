"""authlib's request and client over what was parsed, checked and resolved before its synchronous core runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authlib.oauth2.rfc6749 import OAuth2Request
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload

from firewall.identity.clients.registry import Client
from firewall.identity.web import WebRequest
from firewall.wire.oauth import Form

if TYPE_CHECKING:
    from firewall.identity.engine.grant import TokenGrant


class KnownClient:
    """A client as authlib asks about it (its ``ClientMixin``); text in logs is the id alone."""

    __slots__ = ("facts",)

    def __init__(self, facts: Client) -> None:
        self.facts = facts

    def __repr__(self) -> str:
        return f"KnownClient({self.facts.client_id!r})"

    def get_client_id(self) -> str:
        """Return the client's id."""
        return self.facts.client_id

    def check_grant_type(self, grant_type: str) -> bool:
        """Return whether the client may use a grant type."""
        return grant_type in self.facts.grant_types


class TokenRequest(OAuth2Request):  # type: ignore[misc] # authlib is published without types
    """A token request whose client has authenticated.

    url: of the token endpoint, from configuration: authlib refuses what is not https, and behind a proxy
    that ends TLS the address of the request itself would be http (oauth reference §8, pitfall 2).
    proof: thumbprint of the key of a verified DPoP proof, or "".
    """

    def __init__(self, url: str, http: WebRequest, form: Form, client: Client, proof: str) -> None:
        super().__init__("POST", url)
        # Of a repeated parameter neither value is in the form (pitfall 10), and no header is handed on:
        # nothing in the core may authenticate anybody.
        self.payload = BasicOAuth2Payload(dict(form.values))
        self.http = http
        self.proof = proof
        self.resolved = KnownClient(client)
        self.grant: TokenGrant | None = None  # once it is prepared
        self.about: dict[str, str] = {}  # whose grant it is, once a code or a token has shown that
        self._strict = form

    @property
    def form(self) -> Form:
        """The parameters; an absent one reads as ""."""
        return self._strict
