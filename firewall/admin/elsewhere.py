"""Sign-in to the console at an identity provider: its own way there and back, on its own origin (DESIGN §6b-12).

    POST /sign-in/<idp>  ──▶ provider ──▶  GET /callback/<idp>  ──▶ a session of the console
    POST /confirm/<idp>  ──▶ provider, which asks anew ──▶ the same ──▶ the same session, proved a moment ago

State, PKCE, nonce and the cookie that ties them to this browser are the relying party's (`identity.oidc.party`);
nothing of the front door's sessions counts here, and nothing here counts there.
"""

from __future__ import annotations

from typing import Final

from fastapi import Request, Response

from firewall.admin.access import Access, from_own_page, session_of
from firewall.admin.caller import Refused
from firewall.admin.pages import Pages
from firewall.admin.parts import AdminParts
from firewall.admin.rights import known
from firewall.admin.sessions import SESSION_PREFIX, cookie_name
from firewall.core.errors import BartizanError, Conflict, Malformed, UpstreamFault
from firewall.identity import opaque
from firewall.identity.oidc.party import RelyingParty, SignedIn, Wish
from firewall.identity.oidc.provider import Provider
from firewall.identity.oidc.refusals import about, refusal, words
from firewall.identity.records import SECOND_US
from firewall.identity.throttle import Throttle
from firewall.identity.web import WebRequest, parse_cookies
from firewall.net.asgi import header_map
from firewall.wire import oauth

SIGN_IN: Final = "sign-in"
CONFIRM: Final = "confirm/"


async def begin(request: Request, provider: str) -> Response:
    """Send the person who pressed the button on our page to the provider."""
    if not from_own_page(request.scope, header_map(request.scope)):
        raise Refused("csrf")
    parts: AdminParts = request.app.state.parts
    found = _provider(parts, provider)
    if not _allowed(request):
        raise Malformed("sign_in_busy")
    return await _away(request, found, Wish(), SIGN_IN)


async def confirm(request: Request, provider: str) -> Response:
    """Send whoever is signed in to the provider to prove anew who they are."""
    form = oauth.parse_form(await request.body())
    access: Access = request.app.state.access
    caller = access.require(request.scope, "session.confirm", form_token=form.get("csrf"))
    parts: AdminParts = request.app.state.parts
    found = _provider(parts, provider)
    session = opaque.locate(SESSION_PREFIX, session_of(request.scope, header_map(request.scope)))
    if session is None or caller.via != "session" or not _allowed(request):
        raise Malformed("sign_in_busy")
    return await _away(request, found, Wish(prompt=frozenset({"login"})), CONFIRM + session.key)


async def callback(request: Request, provider: str) -> Response:
    """Take the provider's answer, once, from the browser that was sent there."""
    parts: AdminParts = request.app.state.parts
    found = _provider(parts, provider)
    party = _party(parts)
    web = _web(request)
    try:
        form = oauth.parse_form(web.query)
        oauth.refuse_repeated(form)
    except oauth.OAuthError:
        raise Malformed("params_invalid") from None
    leg = party.take(web, found, _origin(request), form.get("state")) if _allowed(request) else None
    if leg is None:
        return _page(request, "message", 403, title="You are not signed in", text=ENDED)
    gone = party.expired_cookie(leg)
    try:
        who = await party.finish(found, leg, form)
    except (UpstreamFault, Malformed, Conflict) as error:
        answer = _failed(request, found, error)
    else:
        answer = _arrived(request, found, who, leg.to)
    answer.raw_headers.append(gone)
    return answer


ENDED: Final = "This sign-in has ended, or was begun in another browser. Start again."
STRANGER: Final = "You are signed in there, but have no role in this console. Ask an administrator."


def _arrived(request: Request, provider: Provider, who: SignedIn, to: str) -> Response:
    """Open the session of a person who came back, or prove the one they had."""
    parts: AdminParts = request.app.state.parts
    access: Access = request.app.state.access
    user, name = who.user, provider.settings.name
    if not known(user.roles):
        parts.audit.append({"kind": "auth", "event": "admin.sign_in.refused", "tenant": user.tenant, "idp": name})
        return _page(request, "message", 403, title="You are not signed in", text=STRANGER)
    proved_us = min(who.auth_time * SECOND_US, parts.clock.now_us())
    if to.startswith(CONFIRM):
        secret = access.sessions.prove_key(user.tenant, to.removeprefix(CONFIRM), user.subject, proved_us)
        if not secret:  # another person came back, or the session has ended meanwhile
            return _page(request, "message", 403, title="That was not confirmed", text=ENDED)
        event = "admin.confirmed"
    else:
        secret, event = access.sessions.open(user, how=name, proved_us=proved_us), "admin.signed_in"
    parts.audit.append({"kind": "auth", "event": event, "tenant": user.tenant, "by": user.shown, "idp": name})
    # A page and no redirect: on the way from another site a browser does not send a SameSite=Strict cookie on.
    answer = _page(request, "arrived", 200)
    answer.headers["refresh"] = "0; url=/"
    secure = request.scope["scheme"] == "https"
    answer.set_cookie(
        cookie_name(secure=secure),
        secret,
        max_age=parts.settings.session_s,
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )
    return answer


async def _away(request: Request, provider: Provider, wish: Wish, to: str) -> Response:
    parts: AdminParts = request.app.state.parts
    try:
        location, cookie = await _party(parts).begin(
            provider, _origin(request), wish, address=request.client.host if request.client else "", to=to
        )
    except UpstreamFault as error:
        return _failed(request, provider, error)
    answer = Response(status_code=303, headers={"location": location})
    answer.raw_headers.append(cookie)
    return answer


def _failed(request: Request, provider: Provider, error: BartizanError) -> Response:
    parts: AdminParts = request.app.state.parts
    address = request.client.host if request.client else ""
    _party(parts).failed(provider.settings, error.code, error.detail, address=address, about=about(error))
    reason, status = refusal(error)
    text = words(reason, provider.settings, error)
    return _page(request, "message", status, title="You are not signed in", text=text)


def _party(parts: AdminParts) -> RelyingParty:
    party = parts.identity.party
    if party is None:
        raise Malformed("path_unknown")
    return party


def _provider(parts: AdminParts, name: str) -> Provider:
    found = _party(parts).providers.get(name)
    if found is None:
        raise Malformed("path_unknown")
    return found


def _allowed(request: Request) -> bool:
    parts: AdminParts = request.app.state.parts
    throttle: Throttle = request.app.state.throttle
    address = request.client.host if request.client else ""
    return throttle.allow("admin_idp", address, per_minute=parts.settings.sign_in_per_minute)


def _origin(request: Request) -> str:
    """Return the origin of this listener: the edge lets none but its own names through."""
    return f"{request.scope['scheme']}://{header_map(request.scope).get(b'host', b'').decode('latin-1')}"


def _web(request: Request) -> WebRequest:
    headers = header_map(request.scope)
    return WebRequest(
        method="GET",
        path=request.scope["path"],
        query=request.scope["query_string"],
        headers=headers,
        client_ip=request.client.host if request.client else "",
        cookies=parse_cookies(headers.get(b"cookie", b"")),
    )


def _page(request: Request, name: str, status: int, **values: object) -> Response:
    pages: Pages = request.app.state.pages
    html = pages.render(name, caller=None, path=request.url.path, **values)
    return Response(html, status, media_type="text/html")
