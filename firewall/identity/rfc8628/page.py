"""``/device``: a person types the code that a device shows, and decides about it (RFC 8628 §3.3).

The code is never taken from the address: whoever sends a link cannot fill it in. It is asked for in a
session of the person's own, counted per person and address, and what is agreed here is never remembered:
every device is another question.
"""

from __future__ import annotations

from dataclasses import dataclass

from firewall.core.errors import Malformed
from firewall.core.permit import FixedReply
from firewall.core.ports import Ids
from firewall.core.tool_details import ToolDetail
from firewall.identity.clients.registry import Client, Clients
from firewall.identity.oauth21.codes import CodeFacts
from firewall.identity.people.consent_page import ConsentView, chosen, consent_page
from firewall.identity.people.messages import message, read_post
from firewall.identity.people.offers import offered_scopes
from firewall.identity.people.pages import Pages, clean_name
from firewall.identity.people.sessions import LoginSession, LoginSessions
from firewall.identity.people.sign_in import SignIn
from firewall.identity.people.transactions import Transactions, check_form_token
from firewall.identity.resources import Resources
from firewall.identity.rfc8628.codes import DeviceCodes, DeviceRequest, shown
from firewall.identity.rfc9396.requested import details_json, read_details
from firewall.identity.rfc9470 import levels
from firewall.identity.settings import IdentitySettings, Record
from firewall.identity.standing import Standing
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, page_reply

_UNKNOWN = "This code is not known, or is no longer valid. Look at your device again."


@dataclass(frozen=True, slots=True)
class DeviceParts:
    """What the pages work with."""

    settings: IdentitySettings
    resources: Resources
    clients: Clients
    sign_in: SignIn
    sessions: LoginSessions
    transactions: Transactions
    devices: DeviceCodes
    standing: Standing
    throttle: Throttle
    pages: Pages
    ids: Ids
    record: Record


class DevicePage:
    """The pages of the device grant."""

    def __init__(self, parts: DeviceParts) -> None:
        self._parts = parts
        self._issuer = parts.settings.public_url

    async def show(self, request: WebRequest) -> FixedReply:
        """Ask for the code, after sign-in."""
        session = self._parts.sessions.read(request)
        if session is None:
            return self._parts.sign_in.page(None, to="device")
        return self._code_page(session)

    async def enter(self, request: WebRequest) -> FixedReply:
        """Take a typed code and show what its device asks for."""
        parts = self._parts
        found = await self._found(request, "device")
        if isinstance(found, FixedReply):
            return found
        session, asked, client, scopes, details = found
        view = ConsentView(
            client=client,
            user=session.user.shown,
            resource=asked.resource,
            resource_title=parts.resources.by_uri[asked.resource].title,
            lasts_s=parts.settings.refresh_lifetime_s,
            idle_s=parts.settings.refresh_idle_s,
            scopes=scopes,
            details=details,
            action="/device/decide",
            csrf=parts.transactions.form_token(session.form_secret, f"device\0{asked.key}"),
            hidden={"user_code": asked.user_code},
            user_code=shown(asked.user_code),
        )
        return consent_page(parts.pages, view)

    async def decide(self, request: WebRequest) -> FixedReply:
        """Take the person's decision, once."""
        parts = self._parts
        found = await self._found(request, "")
        if isinstance(found, FixedReply):
            return found
        session, asked, client, scopes, details = found
        form = request.form()
        user = session.user
        if form.get("decision") != "approve":
            if not parts.devices.decide(asked, None):
                return message(parts.pages, "ended", 403)
            self._recorded("identity.device.denied", session, asked, (), "")
            return self._done("Denied", "Nothing was given. The device is told so.")
        choice = chosen(form, scopes, details)
        if choice is None:
            return message(parts.pages, "nothing", 400)
        given = (*choice[0], *levels.attained(asked.scope, session.acr))
        facts = CodeFacts(
            tenant=user.tenant,
            subject=user.subject,
            client_id=client.client_id,
            client_name=client.host or clean_name(client.name),
            redirect_uri="",
            code_challenge="",
            resource=asked.resource,
            scopes=given,
            grant_id=parts.ids.new("g"),
            session_id=session.session_id,
            auth_time=session.auth_time,
            acr=session.acr,
            standing=parts.standing.of(user.tenant, user.subject, asked.resource, given),
            amr=session.amr,
            authorization_details=details_json(choice[1]),
        )
        if not parts.devices.decide(asked, facts):
            return message(parts.pages, "ended", 403)
        self._recorded("identity.device.approved", session, asked, given, facts.grant_id)
        return self._done("Connected", "The device goes on by itself. You can close this page.")

    async def _found(
        self, request: WebRequest, purpose: str
    ) -> tuple[LoginSession, DeviceRequest, Client, tuple[str, ...], tuple[ToolDetail, ...]] | FixedReply:
        """Return all that a posted code leads to, or the page that says why not.

        purpose: what the form's token was made for; "" for the code's own record.
        """
        parts = self._parts
        form = read_post(request, self._issuer, parts.pages)
        if isinstance(form, FixedReply):
            return form
        session = parts.sessions.read(request)
        if session is None:
            return message(parts.pages, "signed_out", 403)
        account, address = f"device\0{session.user.tenant}\0{session.user.subject}", request.client_ip
        within = parts.throttle.allow("device_code", account, per_minute=parts.settings.login_per_minute)
        if not within or parts.throttle.wait_s(account, address):
            return message(parts.pages, "busy", 429)
        if purpose and not check_form_token(session.form_secret, purpose, form.get("csrf")):
            return message(parts.pages, "signed_out", 403)
        asked = parts.devices.find(form.get("user_code"))
        if asked is None:
            parts.throttle.failed(account, address)
            return self._code_page(session, _UNKNOWN, 403)
        if not purpose and not check_form_token(session.form_secret, f"device\0{asked.key}", form.get("csrf")):
            return message(parts.pages, "signed_out", 403)
        parts.throttle.succeeded(account, address)
        try:
            client = await parts.clients.find(asked.client_id, allow_stale=True)
        except Malformed:
            client = None
        if client is None:
            return message(parts.pages, "client", 403)
        # Read again after the wait, which a client's host may draw out: who was ended meanwhile decides nothing.
        now = parts.sessions.read(request)
        if now is None or now.session_id != session.session_id:
            return message(parts.pages, "signed_out", 403)
        session = now
        weak = self._weak(session, asked)
        if weak is not None:
            return weak
        scopes = offered_scopes(asked.scope, parts.resources.by_uri.get(asked.resource), client, session.user)
        if not scopes:
            return message(parts.pages, "no_permission", 403)
        return session, asked, client, scopes, read_details(asked.details, asked.resource)

    def _weak(self, session: LoginSession, asked: DeviceRequest) -> FixedReply | None:
        """Ask for another sign-in where this one is too weak or too old; say so when another would be no stronger.

        A sign-in is as old as it was when the device asked: one that came after it is fresh.
        """
        known = self._parts.resources.by_uri.get(asked.resource)
        allowed_s = levels.allowed_age_s(asked.scope, known) if known is not None else -1
        asked_s = asked.expires_s - self._parts.settings.device_lifetime_s
        steps = levels.steps(asked.scope)
        stale = 0 <= allowed_s < asked_s - session.auth_time
        strong = set(steps) <= set(levels.attained(steps, session.acr))
        if strong and not stale:
            return None
        if not strong and session.auth_time >= asked_s:
            return message(self._parts.pages, "weak", 403)
        return self._parts.sign_in.page(None, to="device", status=403)

    def _code_page(self, session: LoginSession, error: str = "", status: int = 200) -> FixedReply:
        csrf = self._parts.transactions.form_token(session.form_secret, "device")
        html = self._parts.pages.render("device", user=session.user.shown, csrf=csrf, error=error)
        return page_reply(html, status)

    def _done(self, title: str, text: str) -> FixedReply:
        return page_reply(self._parts.pages.render("message", title=title, text=text))

    def _recorded(
        self, event: str, session: LoginSession, asked: DeviceRequest, scopes: tuple[str, ...], grant_id: str
    ) -> None:
        self._parts.record(
            event,
            {
                "tenant": session.user.tenant,
                "sub": session.user.subject,
                "client_id": asked.client_id,
                "resource": asked.resource,
                "scope": " ".join(scopes),
                "sid": session.session_id,
                **({"gid": grant_id} if grant_id else {}),
            },
        )
