"""``POST /device_authorization``: a program without a browser asks for a pair of codes (RFC 8628 §3.1, §3.2).

``verification_uri_complete`` is not sent: a link that carries the code is what phishing needs, and a person who
types what the device shows has seen the device (RFC 8628 §5.4; oauth reference §2).
"""

from __future__ import annotations

from typing import Final

from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.identity.client_limits import ClientLimits
from firewall.identity.clients.registry import Client
from firewall.identity.clients.stranger import caller, detail_of, is_proved
from firewall.identity.engine.parts import ClientAuthentication
from firewall.identity.oauth21.token_endpoint import refusal
from firewall.identity.resources import Resources
from firewall.identity.rfc8628.codes import INTERVAL_S, DeviceCodes, shown
from firewall.identity.rfc9396.requested import details_text, read_details
from firewall.identity.rfc9470 import levels
from firewall.identity.settings import IdentitySettings, Noted, Record
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, error_reply, json_reply
from firewall.wire import oauth
from firewall.wire.oauth import Form, OAuthError

GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:device_code"


class DeviceAuthorizationEndpoint:
    """Answers devices; always JSON."""

    def __init__(
        self,
        settings: IdentitySettings,
        resources: Resources,
        clients: ClientAuthentication,
        devices: DeviceCodes,
        throttle: Throttle,
        limits: ClientLimits,
        record: Record,
        noted: Noted,
    ) -> None:
        self._settings = settings
        self._resources = resources
        self._clients = clients
        self._devices = devices
        self._throttle = throttle
        self._limits = limits
        self._record = record
        self._noted = noted

    async def serve(self, request: WebRequest) -> FixedReply:
        """Return a device code and a user code, or what is wrong."""
        per_minute = self._settings.authorize_per_minute
        if not self._throttle.allow("device", request.client_ip, per_minute=per_minute):
            return error_reply("slow_down", 429, headers=((b"retry-after", b"60"),))
        authorization = request.headers.get(b"authorization")
        form: Form | None = None
        client: Client | None = None
        try:
            form = request.form()
            oauth.refuse_repeated(form)
            client = self._limits.checked(
                await self._clients.authenticate(form, authorization, address=request.client_ip)
            )
            if GRANT_TYPE not in client.grant_types:
                raise OAuthError("unauthorized_client", "grant_type")
            resource = oauth.check_resource(form.get("resource"), self._resources.by_uri)
            known = self._resources.by_uri[resource]
            asked = oauth.parse_scope(form.get("scope"))
            wanted = tuple(s for s in levels.permissions(asked) if s != "offline_access") or known.default_scopes
            scopes = oauth.intersect(wanted, known.scopes, client.scopes)
            if not scopes:
                raise OAuthError("invalid_scope", "scope_empty")
            details = details_text(read_details(form.get("authorization_details"), resource))
            issued = self._devices.issue(
                client.client_id, resource, (*scopes, *levels.steps(asked)), details, address=request.client_ip
            )
        except OAuthError as error:
            told: JSONObject = {"error": error.error, "code": error.code, **detail_of(error)}
            told |= caller(client.client_id if client else "", form, authorization)
            if is_proved(client):
                self._record("identity.device.refused", told)
            else:
                self._noted("identity.device.refused", request.client_ip, told)
            return refusal(error, basic=authorization is not None)
        facts: JSONObject = {"client_id": client.client_id, "resource": resource, "scope": " ".join(scopes)}
        if is_proved(client):
            self._record("identity.device.asked", facts)
        else:
            self._noted("identity.device.asked", request.client_ip, facts)
        return json_reply(
            {
                "device_code": issued.device_code,
                "user_code": shown(issued.user_code),
                "verification_uri": f"{self._settings.public_url}/device",
                "expires_in": issued.expires_in,
                "interval": INTERVAL_S,
            },
            cors=False,
        )
