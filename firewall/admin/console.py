"""The console: server-rendered pages for people, and the JSON API, as one FastAPI application.

Pages read without a script; the one script only refreshes the list of decisions. Every form posts,
carries the session's token and is accepted from our own page alone. This module is loaded at first use
(`serve`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from firewall.admin import account_links, doctor, elsewhere, oauth_clients, signing_keys
from firewall.admin.access import Access, from_own_page, session_of
from firewall.admin.api import LATEST_US, Need, router
from firewall.admin.caller import Caller, Refused
from firewall.admin.decisions import EFFECTS, PAGE, Decisions, Wanted
from firewall.admin.desk import Desk, pin_json
from firewall.admin.office import Office, Parked, approval_json
from firewall.admin.pages import TEXTS, Pages
from firewall.admin.parts import AdminParts
from firewall.admin.people import Typed, proved
from firewall.admin.serve import LEADS_AWAY, error_reply, status_of
from firewall.admin.sessions import cookie_name
from firewall.core.errors import AuditUnavailable, BartizanError, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.identity.people.sign_in import Offer
from firewall.identity.people.users import User
from firewall.identity.throttle import Throttle
from firewall.net.asgi import App, header_map
from firewall.wire import oauth

HOME: Final = "/"
SIGN_IN: Final = "/sign-in"
CONFIRM: Final = "/confirm"
THEN_CHARS: Final = 200


def make(parts: AdminParts, access: Access) -> App:
    """Return the application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, title="Bartizan")
    app.state.parts = parts
    app.state.access = access
    app.state.desk = Desk(parts, access)
    app.state.office = Office(parts, access, app.state.desk)
    app.state.decisions = Decisions(parts.config.audit_dir)
    app.state.pages = Pages()
    app.state.throttle = Throttle(parts.store, parts.clock)

    async def examine(reach: bool) -> JSONObject:
        checks = await asyncio.to_thread(doctor.examine, parts.config, clock=parts.clock, running=True, reach=reach)
        return doctor.as_json(checks)

    app.state.examine = examine
    app.include_router(router)
    app.include_router(account_links.router)
    app.include_router(oauth_clients.router)
    app.include_router(signing_keys.router)
    for path, page in PAGES:
        app.add_api_route(path, page, methods=["GET"])
    for path, act in FORMS:
        app.add_api_route(path, act, methods=["POST"])
    app.add_exception_handler(BartizanError, _failed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unrouted)
    return app


# -- errors --------------------------------------------------------------------------------------------------


def _wants_page(request: Request) -> bool:
    return not request.url.path.startswith("/api/")


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, BartizanError)
    if _wants_page(request):
        if isinstance(error, Refused) and error.code == "sign_in":
            return RedirectResponse(SIGN_IN, 303)
        if isinstance(error, Refused) and error.code == "fresh":
            return page(request, "unproved", 403, then=_back(request))
        return page(request, "message", status_of(error), title="That did not work", text=_text(error))
    said = error_reply(error)
    return Response(said.body, said.status, {k.decode(): v.decode() for k, v in said.headers})


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
    return await _failed(request, Malformed("params_invalid", told))


async def _unrouted(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "method_not_allowed" if error.status_code == 405 else "path_unknown"
    return await _failed(request, Malformed(code))


def _text(error: BartizanError) -> str:
    known = TEXTS.get("audit_unavailable" if isinstance(error, AuditUnavailable) else error.code)
    if known is None:
        known = f"{error.detail or error.code}. {error.fix}".strip()
    return known


# -- helpers ----------------------------------------------------------------------------------------------------


def page(request: Request, name: str, status: int = 200, *, caller: Caller | None = None, **values: Any) -> Response:
    """Return a rendered page; ``caller`` decides which buttons it shows."""
    pages: Pages = request.app.state.pages
    html = pages.render(name, caller=caller, path=request.url.path, **values)
    offer = values.get("offer")
    leads_away = isinstance(offer, Offer) and offer.choices
    headers = {"content-security-policy": LEADS_AWAY.decode()} if leads_away else None
    return Response(html, status, headers, media_type="text/html")


def _caller(request: Request, act: str, form: oauth.Form) -> Caller:
    """Return who posted a form, if the session, its token and the page it came from fit, and who may do the act."""
    access: Access = request.app.state.access
    return access.require(request.scope, act, form_token=form.get("csrf"))


async def _form(request: Request) -> oauth.Form:
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


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _office(request: Request) -> Office:
    office: Office = request.app.state.office
    return office


async def _do(request: Request, caller: Caller, act: str, wish: JSONObject, back: str) -> Response:
    """Do an act and go back to its page, or show the request that waits for a second person."""
    outcome = await _office(request).do(caller, act, wish)
    return RedirectResponse(f"/approvals/{outcome.approval.approval_id}" if isinstance(outcome, Parked) else back, 303)


def _back(request: Request) -> str:
    """Return the page on which a form stood, as far as it is one of ours; the front page otherwise."""
    path = request.url.path
    for prefix, there in (("/pins", "/pins"), ("/stops", "/stops"), ("/servers", "/servers")):
        if path.startswith(prefix):
            return there
    return path.removesuffix("/approve").removesuffix("/deny") if path.startswith("/approvals/") else HOME


def local_path(text: str) -> str:
    """Return a path of our own to go on to, the front page for anything else: no open redirect."""
    plain = text.isascii() and text.isprintable() and len(text) <= THEN_CHARS
    return text if plain and text.startswith("/") and not text.startswith("//") and "\\" not in text else HOME


# -- pages --------------------------------------------------------------------------------------------------------


async def live(
    request: Request,
    caller: Annotated[Caller, Depends(Need("decisions.read"))],
    effect: str = "",
    upstream: str = "",
    subject: str = "",
    rule: str = "",
    until: Annotated[int, Query(ge=0)] = LATEST_US,
) -> Response:
    """Show decisions, newest first; the script keeps the list fresh, the page works without it."""
    reader: Decisions = request.app.state.decisions
    wanted = Wanted(effect, upstream, subject, rule, 0, until, PAGE)
    rows = await reader.latest(caller.tenant, wanted)
    desk = _desk(request)
    waiting = desk.pins(caller)
    return page(
        request,
        "live",
        caller=caller,
        rows=rows,
        wanted=wanted,
        effects=EFFECTS,
        newest=until == LATEST_US,
        more=len(rows) == PAGE,
        node=desk.status(caller),
        waiting=sum(p.status != "approved" for p in waiting),
        asking=sum(p.asks for p in waiting),
        upstreams=sorted({e.name for e in desk.registry(caller)} | {"llm"}),
    )


async def story(request: Request, caller: Annotated[Caller, Depends(Need("decisions.read"))], some_id: str) -> Response:
    """Show everything recorded about one exchange."""
    reader: Decisions = request.app.state.decisions
    told, text = await reader.story(caller.tenant, some_id)
    return page(request, "story", caller=caller, story=told, text=text)


async def servers(request: Request, caller: Annotated[Caller, Depends(Need("registry.read"))]) -> Response:
    """Show servers and agents, with their verbs."""
    return page(request, "servers", caller=caller, entries=_desk(request).registry(caller))


async def pins(
    request: Request, caller: Annotated[Caller, Depends(Need("pins.read"))], upstream: str = "", status: str = ""
) -> Response:
    """Show pins, those that wait first."""
    found = [pin_json(p) for p in _desk(request).pins(caller, upstream, status)]
    return page(request, "pins", caller=caller, pins=found[:200], count=len(found), upstream=upstream)


async def pin(
    request: Request, caller: Annotated[Caller, Depends(Need("pins.read"))], upstream: str, kind: str, name: str
) -> Response:
    """Show what is approved beside what is offered, and offer to approve exactly that."""
    return page(request, "pin", caller=caller, pin=_desk(request).pin(caller, upstream, kind, name))


async def stops(request: Request, caller: Annotated[Caller, Depends(Need("kill.read"))]) -> Response:
    """Show the kill switch."""
    return page(request, "stops", caller=caller, stops=_desk(request).stops(caller))


async def approvals(request: Request, caller: Annotated[Caller, Depends(Need("approvals.read"))]) -> Response:
    """Show what waits for a second person, and what became of the rest."""
    rows = [approval_json(a) for a in _office(request).listed(caller)]
    return page(request, "approvals", caller=caller, rows=rows)


async def approval(
    request: Request, caller: Annotated[Caller, Depends(Need("approvals.read"))], approval_id: str
) -> Response:
    """Show one request exactly as it would be done."""
    found = _office(request).approvals.get(caller.tenant, approval_id)
    own = found.by == caller.identity
    return page(request, "approval", caller=caller, approval=approval_json(found), own=own)


async def confirm_page(
    request: Request, caller: Annotated[Caller, Depends(Need("session.confirm"))], then: str = HOME
) -> Response:
    """Show the form by which a person proves anew who they are."""
    return page(request, "confirm", caller=caller, then=local_path(then), error="", offer=_offer(request))


async def sign_in_page(request: Request) -> Response:
    """Show the sign-in form, or the way to the first user."""
    parts: AdminParts = request.app.state.parts
    return page(request, "sign_in", first=not parts.identity.users.exists_admin(), error="", offer=_offer(request))


async def first_page(request: Request) -> Response:
    """Show the form that takes the one-time code."""
    return page(request, "first", error="", least=_least(request), done=_has_admin(request))


# -- forms --------------------------------------------------------------------------------------------------------


async def sign_in(request: Request) -> Response:
    """Check name and password; open a session. A session the browser had before ends."""
    form = await _form(request)
    if not from_own_page(request.scope, header_map(request.scope)):
        raise Refused("csrf")
    parts: AdminParts = request.app.state.parts
    try:
        user = await proved(parts, request.app.state.throttle, _typed(form), _address(request))
    except Malformed as error:
        return page(
            request, "sign_in", _proof_status(error), first=False, error=TEXTS[error.code], offer=_offer(request)
        )
    return _signed_in(request, user)


async def confirm(request: Request) -> Response:
    """Take the password of whoever is signed in already; what is dangerous is open to them for five minutes."""
    form = await _form(request)
    caller = _caller(request, "session.confirm", form)
    parts: AdminParts = request.app.state.parts
    access: Access = request.app.state.access
    then = local_path(form.get("then"))
    try:
        typed = _typed(form, caller.name)
        await proved(parts, request.app.state.throttle, typed, _address(request), subject=caller.subject)
    except Malformed as error:
        return page(
            request,
            "confirm",
            _proof_status(error),
            caller=caller,
            then=then,
            error=TEXTS[error.code],
            offer=_offer(request),
        )
    parts.audit.append({"kind": "auth", "event": "admin.confirmed", "tenant": caller.tenant, "by": caller.name})
    answer = RedirectResponse(then, 303)
    secret = access.sessions.prove(session_of(request.scope, header_map(request.scope)))
    _set_cookie(request, answer, secret, parts.settings.session_s)
    return answer


def _typed(form: oauth.Form, name: str = "") -> Typed:
    return Typed(name or form.get("username"), form.get("password"), form.get("code"))


def _offer(request: Request) -> Offer:
    """Return which ways to sign in a page of ours offers."""
    parts: AdminParts = request.app.state.parts
    ways = parts.identity.sign_in.ways
    return ways.of(None) if ways else Offer()


def _proof_status(error: Malformed) -> int:
    return 429 if error.code == "sign_in_busy" else 403


async def first(request: Request) -> Response:
    """Take the one-time code: make the first user and sign it in."""
    form = await _form(request)
    if not from_own_page(request.scope, header_map(request.scope)):
        raise Refused("csrf")
    parts: AdminParts = request.app.state.parts
    try:
        user = await parts.identity.first_contact.redeem(
            form.get("code"), form.get("username"), form.get("password"), address=_address(request)
        )
    except Malformed as error:
        text = TEXTS.get(error.code, TEXTS["first_contact_code"])
        return page(request, "first", 403, error=text, least=_least(request), done=_has_admin(request))
    return _signed_in(request, user)


async def sign_out(request: Request) -> Response:
    """End the session."""
    form = await _form(request)
    caller = _caller(request, "session.end", form)
    request.app.state.access.sessions.close(session_of(request.scope, header_map(request.scope)))
    parts: AdminParts = request.app.state.parts
    parts.audit.append({"kind": "auth", "event": "admin.signed_out", "tenant": caller.tenant, "by": caller.name})
    answer = RedirectResponse(SIGN_IN, 303)
    _set_cookie(request, answer, "", 0)
    return answer


async def approve_pin(request: Request) -> Response:
    """Approve the digest that stands in the form, which is the one that was shown."""
    form = await _form(request)
    caller = _caller(request, "pins.approve", form)
    wish: JSONObject = {name: form.get(name) for name in ("upstream", "kind", "name", "digest")}
    return await _do(request, caller, "pins.approve", wish, "/pins")


async def move(request: Request) -> Response:
    """Approve, suspend or revoke a server or agent."""
    form = await _form(request)
    caller = _caller(request, "registry.move", form)
    kind, verb = form.get("kind"), form.get("verb")
    if kind not in ("mcp", "a2a") or verb not in ("approve", "suspend", "revoke"):
        raise Malformed("params_invalid", "kind or verb")
    if verb == "approve":
        wish: JSONObject = {"kind": kind, "name": form.get("name")}
        return await _do(request, caller, "registry.approve", wish, "/servers")
    _desk(request).move(caller, kind, form.get("name"), verb)  # type: ignore[arg-type]  # narrowed above
    return RedirectResponse("/servers", 303)


async def pull(request: Request) -> Response:
    """Pull a stop; the scope is typed, so that nobody stops the house by a slip."""
    form = await _form(request)
    caller = _caller(request, "kill.pull", form)
    _desk(request).pull(caller, form.get("scope"), form.get("name"), reason=form.get("reason"))
    return RedirectResponse("/stops", 303)


async def release(request: Request) -> Response:
    """Release a stop."""
    form = await _form(request)
    caller = _caller(request, "kill.lift", form)
    wish: JSONObject = {name: form.get(name) for name in ("scope", "name", "reason")}
    return await _do(request, caller, "kill.lift", wish, "/stops")


async def agree(request: Request, approval_id: str) -> Response:
    """Agree to, or refuse, exactly the request that was shown; as its asker, withdraw it."""
    form = await _form(request)
    decision = form.get("decision")
    caller = _caller(request, "approvals.withdraw" if decision == "withdraw" else "approvals.decide", form)
    office = _office(request)
    if decision == "withdraw":
        office.withdraw(caller, approval_id)
    elif decision == "approve":
        await office.approve(caller, approval_id, form.get("digest"))
    elif decision == "deny":
        office.deny(caller, approval_id, form.get("digest"))
    else:
        raise Malformed("params_invalid", "decision")
    return RedirectResponse(f"/approvals/{approval_id}", 303)


def _signed_in(request: Request, user: User) -> Response:
    parts: AdminParts = request.app.state.parts
    access: Access = request.app.state.access
    parts.audit.append({"kind": "auth", "event": "admin.signed_in", "tenant": user.tenant, "by": user.name})
    access.sessions.close(session_of(request.scope, header_map(request.scope)))
    answer = RedirectResponse(HOME, 303)
    _set_cookie(request, answer, access.sessions.open(user), parts.settings.session_s)
    return answer


def _set_cookie(request: Request, answer: Response, value: str, max_age: int) -> None:
    secure = request.scope["scheme"] == "https"
    answer.set_cookie(
        cookie_name(secure=secure), value, max_age=max_age, path="/", secure=secure, httponly=True, samesite="strict"
    )


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _least(request: Request) -> int:
    parts: AdminParts = request.app.state.parts
    return parts.identity.settings.min_password_chars


def _has_admin(request: Request) -> bool:
    parts: AdminParts = request.app.state.parts
    return parts.identity.users.exists_admin()


Handler = Callable[..., Awaitable[Response]]
PAGES: Final[tuple[tuple[str, Handler], ...]] = (
    ("/", live),
    ("/decisions/{some_id}", story),
    ("/servers", servers),
    ("/pins", pins),
    ("/pins/one", pin),
    ("/stops", stops),
    ("/approvals", approvals),
    ("/approvals/{approval_id}", approval),
    (CONFIRM, confirm_page),
    (SIGN_IN, sign_in_page),
    ("/callback/{provider}", elsewhere.callback),
    ("/first", first_page),
)
FORMS: Final[tuple[tuple[str, Handler], ...]] = (
    (SIGN_IN, sign_in),
    (SIGN_IN + "/{provider}", elsewhere.begin),
    (CONFIRM + "/{provider}", elsewhere.confirm),
    ("/first", first),
    ("/sign-out", sign_out),
    ("/pins/approve", approve_pin),
    ("/servers/move", move),
    ("/stops/pull", pull),
    ("/stops/release", release),
    ("/approvals/{approval_id}", agree),
    (CONFIRM, confirm),
)
