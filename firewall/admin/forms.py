"""What people do in the console: one handler per form. Each posts, carries the session's token and comes from our own page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from firewall.admin import elsewhere
from firewall.admin.access import Access, from_own_page, session_of
from firewall.admin.caller import Refused
from firewall.admin.pages import TEXTS
from firewall.admin.parts import AdminParts
from firewall.admin.people import Typed, proved
from firewall.admin.sessions import cookie_name
from firewall.admin.web import (
    CONFIRM,
    HOME,
    SIGN_IN,
    address_of,
    caller_of,
    desk_of,
    do,
    form_of,
    has_admin,
    least_of,
    local_path,
    offer_of,
    office_of,
    page,
)
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.identity.people.users import User
from firewall.net.asgi import header_map
from firewall.wire import oauth

Handler = Callable[..., Awaitable[Response]]


async def sign_in(request: Request) -> Response:
    """Check name and password; open a session. A session the browser had before ends."""
    form = await form_of(request)
    if not from_own_page(request.scope, header_map(request.scope)):
        raise Refused("csrf")
    parts: AdminParts = request.app.state.parts
    try:
        user = await proved(parts, request.app.state.throttle, _typed(form), address_of(request))
    except Malformed as error:
        return page(
            request, "sign_in", _proof_status(error), first=False, error=TEXTS[error.code], offer=offer_of(request)
        )
    return _signed_in(request, user)


async def confirm(request: Request) -> Response:
    """Take the password of whoever is signed in already; what is dangerous is open to them for five minutes."""
    form = await form_of(request)
    caller = caller_of(request, "session.confirm", form)
    parts: AdminParts = request.app.state.parts
    access: Access = request.app.state.access
    then = local_path(form.get("then"))
    try:
        typed = _typed(form, caller.name)
        await proved(parts, request.app.state.throttle, typed, address_of(request), subject=caller.subject)
    except Malformed as error:
        return page(
            request,
            "confirm",
            _proof_status(error),
            caller=caller,
            then=then,
            error=TEXTS[error.code],
            offer=offer_of(request),
        )
    parts.audit.append({"kind": "auth", "event": "admin.confirmed", "tenant": caller.tenant, "by": caller.name})
    answer = RedirectResponse(then, 303)
    secret = access.sessions.prove(session_of(request.scope, header_map(request.scope)))
    _set_cookie(request, answer, secret, parts.settings.session_s)
    return answer


def _proof_status(error: Malformed) -> int:
    return 429 if error.code == "sign_in_busy" else 403


async def first(request: Request) -> Response:
    """Take the one-time code: make the first user and sign it in."""
    form = await form_of(request)
    if not from_own_page(request.scope, header_map(request.scope)):
        raise Refused("csrf")
    parts: AdminParts = request.app.state.parts
    try:
        user = await parts.identity.first_contact.redeem(
            form.get("code"), form.get("username"), form.get("password"), address=address_of(request)
        )
    except Malformed as error:
        text = TEXTS.get(error.code, TEXTS["first_contact_code"])
        return page(request, "first", 403, error=text, least=least_of(request), done=has_admin(request))
    return _signed_in(request, user)


async def sign_out(request: Request) -> Response:
    """End the session."""
    form = await form_of(request)
    caller = caller_of(request, "session.end", form)
    request.app.state.access.sessions.close(session_of(request.scope, header_map(request.scope)))
    parts: AdminParts = request.app.state.parts
    parts.audit.append({"kind": "auth", "event": "admin.signed_out", "tenant": caller.tenant, "by": caller.name})
    answer = RedirectResponse(SIGN_IN, 303)
    _set_cookie(request, answer, "", 0)
    return answer


async def approve_pin(request: Request) -> Response:
    """Approve the digest that stands in the form, which is the one that was shown."""
    form = await form_of(request)
    caller = caller_of(request, "pins.approve", form)
    wish: JSONObject = {name: form.get(name) for name in ("upstream", "kind", "name", "digest")}
    return await do(request, caller, "pins.approve", wish, "/pins")


async def move(request: Request) -> Response:
    """Approve, suspend or revoke a server or agent."""
    form = await form_of(request)
    caller = caller_of(request, "registry.move", form)
    kind, verb = form.get("kind"), form.get("verb")
    if kind not in ("mcp", "a2a") or verb not in ("approve", "suspend", "revoke"):
        raise Malformed("params_invalid", "kind or verb")
    if verb == "approve":
        wish: JSONObject = {"kind": kind, "name": form.get("name")}
        return await do(request, caller, "registry.approve", wish, "/servers")
    desk_of(request).move(caller, kind, form.get("name"), verb)  # type: ignore[arg-type]  # narrowed above
    return RedirectResponse("/servers", 303)


async def pull(request: Request) -> Response:
    """Pull a stop; the scope is typed, so that nobody stops the house by a slip."""
    form = await form_of(request)
    caller = caller_of(request, "kill.pull", form)
    desk_of(request).pull(caller, form.get("scope"), form.get("name"), reason=form.get("reason"))
    return RedirectResponse("/stops", 303)


async def release(request: Request) -> Response:
    """Release a stop."""
    form = await form_of(request)
    caller = caller_of(request, "kill.lift", form)
    wish: JSONObject = {name: form.get(name) for name in ("scope", "name", "reason")}
    return await do(request, caller, "kill.lift", wish, "/stops")


async def agree(request: Request, approval_id: str) -> Response:
    """Agree to, or refuse, exactly the request that was shown; as its asker, withdraw it."""
    form = await form_of(request)
    decision = form.get("decision")
    caller = caller_of(request, "approvals.withdraw" if decision == "withdraw" else "approvals.decide", form)
    office = office_of(request)
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


def _typed(form: oauth.Form, name: str = "") -> Typed:
    return Typed(name or form.get("username"), form.get("password"), form.get("code"))


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
