"""``POST /register``: a client describes itself and gets an id (RFC 7591 §3). Open to everybody, so it is small."""

from __future__ import annotations

from typing import Final

from firewall.core.bounds import KIB
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import FixedReply
from firewall.identity.rfc7591.metadata import answer, parse_registration
from firewall.identity.rfc7591.registrations import Registrations
from firewall.identity.settings import Noted
from firewall.identity.throttle import Throttle, network_of
from firewall.identity.web import WebRequest, error_reply, json_reply
from firewall.wire import strict_json
from firewall.wire.oauth import OAuthError

BODY_BYTES: Final = 16 * KIB
DEPTH: Final = 8
PER_HOUR: Final = 10


class RegistrationEndpoint:
    """Answers registration requests, at most ten an hour from one address."""

    def __init__(self, registrations: Registrations, throttle: Throttle, noted: Noted) -> None:
        self._registrations = registrations
        self._throttle = throttle
        self._noted = noted

    async def serve(self, request: WebRequest) -> FixedReply:
        """Return 201 with what was registered, or an error of RFC 7591 §3.2.2."""
        address = network_of(request.client_ip)
        if not self._throttle.allow_within("register", address, limit=PER_HOUR, window_s=3600):
            return error_reply("slow_down", 429, headers=((b"retry-after", b"3600"),))
        try:
            made = parse_registration(_body(request))
        except OAuthError as error:
            self._noted("identity.client.refused", request.client_ip, {"code": error.code, "detail": "registration"})
            return error_reply(error.error, 400)
        client_id, secret, issued_s = self._registrations.add(made)
        facts: JSONObject = {"client_id": client_id, "method": made.auth_method}
        self._noted("identity.client.registered", request.client_ip, facts)
        return json_reply(answer(made, client_id, issued_s, secret), 201)


def _body(request: WebRequest) -> JSON:
    kind = request.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json" or len(request.body) > BODY_BYTES:
        raise OAuthError("invalid_client_metadata", "registration_shape")
    try:
        return strict_json.loads(request.body, max_depth=DEPTH)
    except Malformed:
        raise OAuthError("invalid_client_metadata", "registration_shape") from None
