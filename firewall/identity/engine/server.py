"""TokenServer: authlib's AuthorizationServer for the token endpoint, with every hook that could let go held shut.

    token_endpoint: throttle, parse, authenticate ──▶ answer: open the grant ──▶ await prepare
        ──▶ authlib's create_token_response: validate_token_request, create_token_response ──▶ handle_response

The core is synchronous: what must be awaited is awaited before it runs (oauth reference §8, pitfall 1), and
it does no I/O but the store's. Errors leave it as `OAuthError`, without authlib's texts, which repeat input.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from authlib.oauth2.rfc6749 import AuthorizationServer, OAuth2Error

from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.identity.clients.registry import Client
from firewall.identity.engine import registered
from firewall.identity.engine.grant import TokenGrant
from firewall.identity.engine.parts import TokenParts
from firewall.identity.engine.requests import KnownClient, TokenRequest
from firewall.identity.web import ERRORS, WebRequest, json_reply
from firewall.wire.oauth import Form, OAuthError

_OURS: Final = ("content-type", "cache-control", "pragma")


class TokenServer(AuthorizationServer):  # type: ignore[misc] # authlib is published without types
    """Answers token requests of authenticated clients."""

    def __init__(self, parts: TokenParts) -> None:
        super().__init__()
        self.parts = parts
        self._url = f"{parts.settings.public_url}/token"
        for entry in registered.offered(parts.settings):
            grant = entry.load()
            self.register_grant(grant, grant.EXTENSIONS)

    async def answer(self, http: WebRequest, form: Form, client: Client, proof: str) -> FixedReply:
        """Return the reply to one request. proof: a verified proof's key, or "". Raises OAuthError."""
        if client.dpop and not proof:
            raise OAuthError("invalid_dpop_proof", "dpop_missing")
        request = TokenRequest(self._url, http, form, client, proof)
        try:
            grant = self._open(request)
            await grant.prepare()
            request.grant = grant
            reply: FixedReply = self.create_token_response(request)
        except OAuthError as error:
            error.about |= request.about
            raise
        return reply

    def _open(self, request: TokenRequest) -> TokenGrant:
        try:
            grant: TokenGrant = super().get_token_grant(request)
        except OAuth2Error as error:
            raise _translated(error) from None
        request.client = self.authenticate_client(request, grant.TOKEN_ENDPOINT_AUTH_METHODS)
        if not request.resolved.check_grant_type(grant.GRANT_TYPE):
            raise OAuthError("unauthorized_client", "grant_type")
        return grant

    # -- what authlib asks of a framework ---------------------------------------------------------------

    def get_token_grant(self, request: TokenRequest) -> TokenGrant:
        """Return the grant that was prepared for this request. Raises OAuthError: one that was not never runs."""
        if request.grant is None:
            raise OAuthError("unsupported_grant_type", "engine")
        return request.grant

    def get_authorization_grant(self, request: object) -> NoReturn:
        """Raise OAuthError: `/authorize` is `oauth21.authorize`, and nothing leads from here to a redirect."""
        raise OAuthError("unsupported_response_type", "engine")

    def create_authorization_response(
        self, request: object = None, grant_user: object = None, grant: object = None
    ) -> NoReturn:
        """Raise OAuthError; see `get_authorization_grant`."""
        self.get_authorization_grant(request)

    def create_endpoint_response(self, name: str, request: object = None) -> NoReturn:
        """Raise OAuthError: the other endpoints are our own (`rfc7009`, `rfc7662`)."""
        raise OAuthError("invalid_request", "engine")

    def create_oauth2_request(self, request: TokenRequest) -> TokenRequest:
        """Return the request as it is: only `answer` makes one."""
        return request

    def query_client(self, client_id: str) -> None:
        """Return None: clients are resolved beforehand, and the core finds nobody by itself."""
        return

    def authenticate_client(self, request: TokenRequest, methods: list[str], endpoint: str = "token") -> KnownClient:
        """Return the client that has authenticated, when its method is among those of the grant (AS-21)."""
        client = request.resolved
        if client.facts.auth_method not in methods:
            raise OAuthError("unauthorized_client", "client_method")
        request.auth_method = client.facts.auth_method
        return client

    def save_token(self, token: dict[str, Any], request: TokenRequest) -> None:
        """Do nothing: grants write before they sign, so that nothing leaves unrecorded."""

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Do nothing: events are recorded where they happen."""

    def handle_response(self, status: int, body: JSONObject, headers: list[tuple[str, str]]) -> FixedReply:
        """Return the reply with the strict headers of every JSON answer; a grant's further ones are added."""
        more = tuple((k.lower().encode(), v.encode()) for k, v in headers if k.lower() not in _OURS)
        return json_reply(dict(body), status, headers=more)

    def handle_error_response(self, request: TokenRequest, error: OAuth2Error) -> FixedReply:
        """Raise the OAuthError that stands for an error of authlib's own."""
        raise _translated(error) from None


def _translated(error: OAuth2Error) -> OAuthError:
    return OAuthError(error.error if error.error in ERRORS else "server_error", "engine")
