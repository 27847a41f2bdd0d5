"""``POST /token``: the ASGI side. Throttle, strict parse, client authentication, then the engine's grant.

What is given is an intersection, computed again each time: what is asked, what the person may give,
what the client may have, what the resource knows (DESIGN §6b-6). A role that was taken away is gone
with the next token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.identity.clients.registry import Client
from firewall.identity.clients.stranger import caller, detail_of, is_proved
from firewall.identity.engine import registered
from firewall.identity.engine.parts import TokenParts, with_nonce
from firewall.identity.web import WebRequest, error_reply
from firewall.wire import oauth
from firewall.wire.oauth import Form, OAuthError

if TYPE_CHECKING:
    from firewall.identity.engine.server import TokenServer


class TokenEndpoint:
    """Answers token requests; always JSON, also for what is wrong."""

    def __init__(self, parts: TokenParts) -> None:
        self._parts = parts
        self._grant_types = frozenset(registered.grant_types(parts.settings))
        self._server: TokenServer | None = None

    async def serve(self, request: WebRequest) -> FixedReply:
        """Return the reply to one token request."""
        parts = self._parts
        read = _read(request)
        form = read if isinstance(read, Form) else None
        if not parts.limits.admits("token", form, request.client_ip, per_minute=parts.per_minute):
            return error_reply("slow_down", 429, headers=((b"retry-after", b"60"),))
        authorization = request.headers.get(b"authorization")
        grant_type = ""
        client: Client | None = None  # what a stranger calls itself is no fact
        try:
            if isinstance(read, OAuthError):
                raise read
            form = read
            oauth.refuse_repeated(form)
            if form.get("grant_type") not in self._grant_types:
                error = "unsupported_grant_type" if form.get("grant_type") else "invalid_request"
                raise OAuthError(error, "grant_type")
            grant_type = form.get("grant_type")
            # Before the client: one that is told to use a nonce comes again, and an assertion serves once.
            proof = (
                parts.proofs.thumbprint(request.headers, path=request.path, address=request.client_ip)
                if parts.proofs
                else ""
            )
            client = parts.limits.checked(
                await parts.clients.authenticate(form, authorization, address=request.client_ip)
            )
            reply = await self._engine().answer(request, form, client, proof)
        except OAuthError as error:
            told: JSONObject = {**error.about, "error": error.error, "code": error.code, "grant_type": grant_type}
            told |= detail_of(error)
            told |= caller(client.client_id if client else "", form, authorization)
            if error.about or is_proved(client):
                parts.record("identity.token.refused", told)
            else:
                parts.noted("identity.token.refused", request.client_ip, told)
            reply = refusal(error, basic=authorization is not None)
        return with_nonce(reply, parts.proofs, request)

    def _engine(self) -> TokenServer:
        """Return the core; authlib is loaded for the first token request of a process (about 30 ms)."""
        if self._server is None:
            from firewall.identity.engine.server import TokenServer

            self._server = TokenServer(self._parts)
        return self._server


def _read(request: WebRequest) -> Form | OAuthError:
    try:
        return request.form()
    except OAuthError as error:
        return error


def refusal(error: OAuthError, *, basic: bool) -> FixedReply:
    """Return the JSON form of an OAuth error (RFC 6749 §5.2)."""
    if error.error == "invalid_client":
        challenge = ((b"www-authenticate", b'Basic realm="token"'),) if basic else ()
        return error_reply("invalid_client", 401, headers=challenge)
    if error.error == "temporarily_unavailable":
        return error_reply(error.error, 503, headers=((b"retry-after", b"1"),))
    if error.code in ("client_delayed", "client_busy"):
        return error_reply(error.error, 429, headers=((b"retry-after", b"60"),))
    return error_reply(error.error, 400, why=error.why or error.code)
