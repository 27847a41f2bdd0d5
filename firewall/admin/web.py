"""What pages and forms of the console have in common: rendering, reading a form, whose it is, and where to go next."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from firewall.admin.access import Access
from firewall.admin.caller import Caller
from firewall.admin.desk import Desk
from firewall.admin.office import Office, Parked
from firewall.admin.pages import Pages
from firewall.admin.parts import AdminParts
from firewall.admin.serve import LEADS_AWAY
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.identity.people.sign_in import Offer
from firewall.wire import oauth

HOME: Final = "/"
SIGN_IN: Final = "/sign-in"
CONFIRM: Final = "/confirm"
THEN_CHARS: Final = 200


def page(request: Request, name: str, status: int = 200, *, caller: Caller | None = None, **values: Any) -> Response:
    """Return a rendered page; ``caller`` decides which buttons it shows."""
    pages: Pages = request.app.state.pages
    html = pages.render(name, caller=caller, path=request.url.path, **values)
    offer = values.get("offer")
    leads_away = isinstance(offer, Offer) and offer.choices
    headers = {"content-security-policy": LEADS_AWAY.decode()} if leads_away else None
    return Response(html, status, headers, media_type="text/html")


def caller_of(request: Request, act: str, form: oauth.Form) -> Caller:
    """Return who posted a form, if the session, its token and the page it came from fit, and who may do the act."""
    access: Access = request.app.state.access
    return access.require(request.scope, act, form_token=form.get("csrf"))


async def form_of(request: Request) -> oauth.Form:
    """Return a posted form. Raises Malformed("media_type"), Malformed("params_invalid")."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise Malformed("media_type")
    try:
        form = oauth.parse_form(await request.body())
    except oauth.OAuthError:
        raise Malformed("params_invalid", "the form") from None
    if form.repeated:
        raise Malformed("params_invalid", "a field stands there twice")
    return form


def desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def office_of(request: Request) -> Office:
    office: Office = request.app.state.office
    return office


async def do(request: Request, caller: Caller, act: str, wish: JSONObject, back: str) -> Response:
    """Do an act and go back to its page, or show the request that waits for a second person."""
    outcome = await office_of(request).do(caller, act, wish)
    return RedirectResponse(f"/approvals/{outcome.approval.approval_id}" if isinstance(outcome, Parked) else back, 303)


def back_of(request: Request) -> str:
    """Return the page on which a form stood, as far as it is one of ours; the front page otherwise."""
    path = request.url.path
    for prefix, there in (("/pins", "/pins"), ("/stops", "/stops"), ("/servers", "/servers"), ("/people", "/people")):
        if path.startswith(prefix):
            return there
    return path.removesuffix("/approve").removesuffix("/deny") if path.startswith("/approvals/") else HOME


def local_path(text: str) -> str:
    """Return a path of our own to go on to, the front page for anything else: no open redirect."""
    plain = text.isascii() and text.isprintable() and len(text) <= THEN_CHARS
    return text if plain and text.startswith("/") and not text.startswith("//") and "\\" not in text else HOME


def offer_of(request: Request) -> Offer:
    """Return which ways to sign in a page of ours offers."""
    parts: AdminParts = request.app.state.parts
    ways = parts.identity.sign_in.ways
    return ways.of(None) if ways else Offer()


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""


def least_of(request: Request) -> int:
    parts: AdminParts = request.app.state.parts
    return parts.identity.settings.min_password_chars


def has_admin(request: Request) -> bool:
    parts: AdminParts = request.app.state.parts
    return parts.identity.users.exists_admin()
