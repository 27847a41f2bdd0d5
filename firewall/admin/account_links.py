"""Who people are at identity providers: ``/api/v1/users/{name}/links``. A link lets somebody in, so it is made like a right."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from firewall.admin.api import Acts, Need, Verbs, _Body, body_of, reply, told
from firewall.admin.caller import Caller
from firewall.core.jsonvalue import JSON

router = APIRouter(prefix="/api/v1")

IDENTITY_CHARS = 2048


class Outside(_Body):
    """Somebody at an issuer. realm: the issuer's own tenant, where it has several."""

    issuer: str = Field(min_length=1, max_length=IDENTITY_CHARS)
    subject: str = Field(min_length=1, max_length=IDENTITY_CHARS)
    realm: str = Field(default="", max_length=IDENTITY_CHARS)


@router.get("/users/{name}/links")
async def links(caller: Annotated[Caller, Depends(Need("users.read"))], desk: Verbs, name: str) -> Response:
    """Return the outside accounts that lead to a person's."""
    found: list[JSON] = [asdict(link) for link in desk.account_links(caller, name)]
    return reply({"links": found})


@router.post("/users/{name}/links")
async def link(
    request: Request, caller: Annotated[Caller, Depends(Need("users.admin"))], office: Acts, name: str
) -> Response:
    """Let somebody at an issuer in as this person."""
    wish = await body_of(request, Outside)
    change: dict[str, JSON] = {"verb": "link", "name": name, **wish.model_dump()}
    return told(await office.do(caller, "users.admin", change))


@router.post("/users/{name}/links/end")
async def unlink(
    request: Request, caller: Annotated[Caller, Depends(Need("users.disable"))], desk: Verbs, name: str
) -> Response:
    """End a link, and with it what the person had given."""
    wish = await body_of(request, Outside)
    return reply({"ended": desk.unlink_account(caller, name, wish.issuer, wish.subject, wish.realm)})
