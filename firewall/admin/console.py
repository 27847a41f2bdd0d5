"""The console: server-rendered pages for people, and the JSON API, as one FastAPI application.

Pages read without a script; the one script only refreshes the list of decisions. Every form posts,
carries the session's token and is accepted from our own page alone. This module is loaded at first use
(`serve`).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException

from firewall.admin import (
    account_links,
    accounts,
    approving,
    doctor,
    elsewhere,
    envelope_keys,
    oauth_clients,
    people_pages,
    signing_keys,
)
from firewall.admin.access import Access
from firewall.admin.api import LATEST_US, Need, router
from firewall.admin.caller import Caller, Refused
from firewall.admin.decisions import EFFECTS, PAGE, Decisions, Wanted, named, subjects_of
from firewall.admin.desk import Desk, pin_json
from firewall.admin.forms import FORMS, Handler
from firewall.admin.office import Office, approval_json
from firewall.admin.pages import TEXTS, Pages
from firewall.admin.parts import AdminParts
from firewall.admin.serve import error_reply, status_of
from firewall.admin.web import (
    CONFIRM,
    HOME,
    SIGN_IN,
    back_of,
    desk_of,
    has_admin,
    least_of,
    local_path,
    offer_of,
    office_of,
    page,
)
from firewall.config import fingerprints
from firewall.core.errors import AuditUnavailable, BartizanError, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.identity.throttle import Throttle
from firewall.net.asgi import App

# Every part of /api/v1; docs/api.md is made from them.
ROUTERS: Final = (
    router,
    approving.router,
    accounts.router,
    account_links.router,
    oauth_clients.router,
    signing_keys.router,
    envelope_keys.router,
)


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
        return {**doctor.as_json(checks), "configuration": {**fingerprints(parts.config)}}

    app.state.examine = examine
    for one in ROUTERS:
        app.include_router(one)
    for path, shown in (*PAGES, *people_pages.PAGES):
        app.add_api_route(path, shown, methods=["GET"])
    for path, act in (*FORMS, *people_pages.FORMS):
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
            return page(request, "unproved", 403, then=back_of(request))
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


# -- pages --------------------------------------------------------------------------------------------------------


async def live(
    request: Request,
    caller: Annotated[Caller, Depends(Need("decisions.read"))],
    effect: str = "",
    upstream: str = "",
    subject: str = "",
    rule: str = "",
    until: Annotated[int, Query(ge=0, le=LATEST_US)] = LATEST_US,
) -> Response:
    """Show decisions, newest first; the script keeps the list fresh, the page works without it."""
    reader: Decisions = request.app.state.decisions
    wanted = Wanted(effect, upstream, desk_of(request).meant(caller, subject), rule, 0, until, PAGE)
    rows = await reader.latest(caller.tenant, wanted)
    desk = desk_of(request)
    rows = named(rows, desk.called(caller, (str(row["subject"]) for row in rows)))
    waiting = desk.pins(caller)
    return page(
        request,
        "live",
        caller=caller,
        rows=rows,
        wanted=wanted,
        asked=subject,
        effects=EFFECTS,
        newest=until == LATEST_US,
        more=len(rows) == PAGE,
        node=desk.status(caller),
        waiting=sum(p.status != "approved" for p in waiting),
        asking=sum(p.asks for p in waiting),
        parked=len(office_of(request).listed(caller, "pending")),
        upstreams=sorted({e.name for e in desk.registry(caller)} | {"llm"}),
    )


async def story(request: Request, caller: Annotated[Caller, Depends(Need("decisions.read"))], some_id: str) -> Response:
    """Show everything recorded about one exchange."""
    reader: Decisions = request.app.state.decisions
    told, text = await reader.story(caller.tenant, some_id)
    names = desk_of(request).called(caller, subjects_of(told))
    return page(request, "story", caller=caller, story=told, text=text, names=names)


async def servers(request: Request, caller: Annotated[Caller, Depends(Need("registry.read"))]) -> Response:
    """Show servers and agents, with their verbs."""
    return page(request, "servers", caller=caller, entries=desk_of(request).registry(caller))


async def pins(
    request: Request, caller: Annotated[Caller, Depends(Need("pins.read"))], upstream: str = "", status: str = ""
) -> Response:
    """Show pins, those that wait first."""
    found = [pin_json(p) for p in desk_of(request).pins(caller, upstream, status)]
    return page(request, "pins", caller=caller, pins=found[:200], count=len(found), upstream=upstream)


async def pin(
    request: Request, caller: Annotated[Caller, Depends(Need("pins.read"))], upstream: str, kind: str, name: str
) -> Response:
    """Show what is approved beside what is offered, and offer to approve exactly that."""
    return page(request, "pin", caller=caller, pin=desk_of(request).pin(caller, upstream, kind, name))


async def stops(request: Request, caller: Annotated[Caller, Depends(Need("kill.read"))]) -> Response:
    """Show the kill switch."""
    desk = desk_of(request)
    found = desk.stops(caller)
    names = desk.called(caller, (stop.name for stop in found if stop.scope == "subject"))
    return page(request, "stops", caller=caller, stops=found, names=names)


async def approvals(request: Request, caller: Annotated[Caller, Depends(Need("approvals.read"))]) -> Response:
    """Show what waits for a second person, and what became of the rest."""
    rows = [approval_json(a) for a in office_of(request).listed(caller)]
    return page(request, "approvals", caller=caller, rows=rows)


async def approval(
    request: Request, caller: Annotated[Caller, Depends(Need("approvals.read"))], approval_id: str
) -> Response:
    """Show one request exactly as it would be done."""
    found = office_of(request).approvals.get(caller.tenant, approval_id)
    own = found.by == caller.identity
    return page(request, "approval", caller=caller, approval=approval_json(found), own=own)


async def confirm_page(
    request: Request, caller: Annotated[Caller, Depends(Need("session.confirm"))], then: str = HOME
) -> Response:
    """Show the form by which a person proves anew who they are."""
    return page(request, "confirm", caller=caller, then=local_path(then), error="", offer=offer_of(request))


async def sign_in_page(request: Request) -> Response:
    """Show the sign-in form, or the way to the first user."""
    parts: AdminParts = request.app.state.parts
    return page(request, "sign_in", first=not parts.identity.users.exists_admin(), error="", offer=offer_of(request))


async def first_page(request: Request) -> Response:
    """Show the form that takes the one-time code."""
    return page(request, "first", error="", least=least_of(request), done=has_admin(request))


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
