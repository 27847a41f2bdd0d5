"""Requests for a second person: ``/api/v1/approvals``. At the unix socket a person is named, and proves it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from firewall.admin.access import Access
from firewall.admin.api import Acts, Need, _Body, body_of, reply
from firewall.admin.approvals import State
from firewall.admin.caller import Caller, Refused
from firewall.admin.office import approval_json
from firewall.admin.people import Person, known_person

router = APIRouter(prefix="/api/v1")


class Decision(_Body):
    """A second person's word about exactly what was shown. person: who that is, at the unix socket only."""

    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")
    person: Person | None = None


class NeedPerson(Need):
    """As `Need`, for what only a person does: at the socket the body's ``person`` proves who that is."""

    async def __call__(self, request: Request) -> Caller:
        """Raise Refused: sign_in, csrf, role, fresh."""
        access: Access = request.app.state.access
        asking = access.caller(request.scope)
        if asking is None or asking.via != "socket":
            return await super().__call__(request)
        wish = await body_of(request, Decision)
        if wish.person is None:
            raise Refused("role", fix="the node's owner is nobody in particular: name a person with the role approver")
        caller = await known_person(request.app.state.parts, request.app.state.throttle, wish.person)
        access.permit(caller, self.act)
        return caller


@router.get("/approvals")
async def approvals(
    caller: Annotated[Caller, Depends(Need("approvals.read"))], office: Acts, state: State | None = None
) -> Response:
    """Return requests, those that wait first, then the newest."""
    return reply({"approvals": [approval_json(a) for a in office.listed(caller, state)]})


@router.get("/approvals/{approval_id}")
async def approval(
    caller: Annotated[Caller, Depends(Need("approvals.read"))], office: Acts, approval_id: str
) -> Response:
    """Return one request, exactly as it would be done."""
    return reply(approval_json(office.approvals.get(caller.tenant, approval_id)))


@router.post("/approvals/{approval_id}/approve")
async def approve(
    request: Request, caller: Annotated[Caller, Depends(NeedPerson("approvals.decide"))], office: Acts, approval_id: str
) -> Response:
    """Agree, as a second person, to exactly what was shown; it is done before this answers."""
    wish = await body_of(request, Decision)
    return reply(approval_json(await office.approve(caller, approval_id, wish.digest)))


@router.post("/approvals/{approval_id}/deny")
async def deny(
    request: Request, caller: Annotated[Caller, Depends(NeedPerson("approvals.decide"))], office: Acts, approval_id: str
) -> Response:
    """Refuse, as a second person; nothing is done."""
    wish = await body_of(request, Decision)
    return reply(approval_json(office.deny(caller, approval_id, wish.digest)))


@router.post("/approvals/{approval_id}/withdraw")
async def withdraw(
    caller: Annotated[Caller, Depends(Need("approvals.withdraw"))], office: Acts, approval_id: str
) -> Response:
    """End one's own request."""
    return reply(approval_json(office.withdraw(caller, approval_id)))
