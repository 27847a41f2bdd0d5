"""The console's pages of people: who there is, who is signed in here, and what an administrator does about it.

Everybody with a role sees names, roles and sessions, as they see whose decisions they read. Acts are those of
`accounts`, with the same rows of the matrix; removing somebody takes the name typed once more.
"""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse

from firewall.admin.api import Need
from firewall.admin.caller import Caller
from firewall.admin.forms import Handler
from firewall.admin.web import caller_of, desk_of, do, form_of, page
from firewall.core.errors import Malformed

PATH: Final = "/people"
SHOWN: Final = 500  # rows of a page; the command line lists them all


async def people(request: Request, caller: Annotated[Caller, Depends(Need("people.read"))], q: str = "") -> Response:
    """Show people and the console's sessions. q: part of a name."""
    desk = desk_of(request)
    wanted = q.strip().lower()
    found = sorted(desk.users(caller), key=lambda user: user.name)
    found = [user for user in found if wanted in user.name or wanted in user.label.lower()]
    sessions = desk.sessions(caller)
    return page(
        request,
        "people",
        caller=caller,
        people=found[:SHOWN],
        count=len(found),
        q=q[:64],
        sessions=sessions[:SHOWN],
        at=sorted({str(s["name"]) for s in sessions}),
    )


async def leaving(request: Request, caller: Annotated[Caller, Depends(Need("users.read"))], name: str) -> Response:
    """Show what removing a person means, and take the name typed once more."""
    desk = desk_of(request)
    user, links = desk.user(caller, name), desk.account_links(caller, name)
    return page(request, "leaving", caller=caller, person=user, issuers=sorted({link.issuer for link in links}))


async def disable(request: Request) -> Response:
    """Disable a person: everything of theirs ends at once."""
    form = await form_of(request)
    caller = caller_of(request, "users.disable", form)
    desk_of(request).enable_user(caller, form.get("name"), enabled=False)
    return RedirectResponse(PATH, 303)


async def enable(request: Request) -> Response:
    """Let a person in again."""
    form = await form_of(request)
    caller = caller_of(request, "users.admin", form)
    return await do(request, caller, "users.admin", {"verb": "enable", "name": form.get("name")}, PATH)


async def remove(request: Request) -> Response:
    """Remove a person for good, where the name was typed once more."""
    form = await form_of(request)
    caller = caller_of(request, "users.admin", form)
    name = form.get("name")
    if not name or form.get("sure").strip().lower() != name:
        raise Malformed("user_sure")
    return await do(request, caller, "users.admin", {"verb": "remove", "name": name}, PATH)


async def end_sessions(request: Request) -> Response:
    """End every session of the console that a person has."""
    form = await form_of(request)
    caller = caller_of(request, "sessions.admin", form)
    desk_of(request).end_sessions(caller, form.get("name"))
    return RedirectResponse(PATH, 303)


PAGES: Final[tuple[tuple[str, Handler], ...]] = ((PATH, people), (PATH + "/leaving", leaving))
FORMS: Final[tuple[tuple[str, Handler], ...]] = (
    (PATH + "/disable", disable),
    (PATH + "/enable", enable),
    (PATH + "/remove", remove),
    (PATH + "/end-sessions", end_sessions),
)
