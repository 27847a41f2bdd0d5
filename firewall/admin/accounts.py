"""People, their sessions, and what scripts present: ``/api/v1/users``, ``bearers``, ``keys``, ``tokens`` and their kin."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from firewall.admin.accounts_desk import user_json
from firewall.admin.api import Acts, Need, Verbs, _Body, body_of, reply, told
from firewall.admin.caller import Caller
from firewall.admin.rights import TELLS
from firewall.core.jsonvalue import JSON

router = APIRouter(prefix="/api/v1")


class TokenWish(_Body):
    """ttl_s 0 means the usual lifetime."""

    resource: str
    scopes: list[str] = Field(default_factory=list)
    ttl_s: int = 0


class BearerWish(_Body):
    """ttl_s 0 means a day."""

    role: str
    ttl_s: int = 0
    user: str = ""


class UserChange(_Body):
    """What a person may be and give from now on."""

    roles: list[str]
    scopes: list[str]


class NewUser(_Body):
    """A person. roles: of the console; scopes: the most that the person may ever give to an agent."""

    name: str
    password: str = Field(repr=False)
    roles: list[str] = Field(default_factory=list)
    scopes: list[str] = Field(default_factory=lambda: ["*"])


@router.get("/tokens")
async def resources(caller: Annotated[Caller, Depends(Need("resources.read"))], desk: Verbs) -> Response:
    """Return the resources that a token can be minted for."""
    rows: list[JSON] = list(desk.resources(caller))
    return reply({"resources": rows})


@router.post("/tokens")
async def token(request: Request, caller: Annotated[Caller, Depends(Need("tokens.mint"))], desk: Verbs) -> Response:
    """Mint a short-lived token for one resource."""
    wish = await body_of(request, TokenWish)
    return reply(desk.token(caller, wish.resource, tuple(wish.scopes), wish.ttl_s), 201)


@router.get("/bearers")
async def bearers(caller: Annotated[Caller, Depends(Need("bearers.read"))], desk: Verbs) -> Response:
    """Return what is known of bearers: all of the tenant for the owner, one's own for a person."""
    rows: list[JSON] = list(desk.bearers(caller))
    return reply({"bearers": rows})


@router.post("/bearers")
async def bearer(request: Request, caller: Annotated[Caller, Depends(Need("bearers.mint"))], desk: Verbs) -> Response:
    """Mint a bearer for this API: the node's, or a person's."""
    wish = await body_of(request, BearerWish)
    return reply(desk.bearer(caller, wish.role, wish.ttl_s, user=wish.user), 201)


@router.post("/bearers/{bearer_id}/end")
async def end_bearer(caller: Annotated[Caller, Depends(Need("bearers.mint"))], desk: Verbs, bearer_id: str) -> Response:
    """End a bearer."""
    return reply({"ended": desk.end_bearer(caller, bearer_id)})


@router.post("/bearers/own")
async def own_bearer(
    request: Request, caller: Annotated[Caller, Depends(Need("bearers.own"))], desk: Verbs
) -> Response:
    """Mint a bearer of one's own for scripts: at most what one is oneself, now and later."""
    wish = await body_of(request, BearerWish)
    return reply(desk.bearer(caller, wish.role, wish.ttl_s, user=caller.name), 201)


@router.post("/bearers/own/{bearer_id}/end")
async def end_own_bearer(
    caller: Annotated[Caller, Depends(Need("bearers.own"))], desk: Verbs, bearer_id: str
) -> Response:
    """End a bearer of one's own."""
    return reply({"ended": desk.end_bearer(caller, bearer_id)})


@router.get("/users")
async def users(caller: Annotated[Caller, Depends(Need("users.read"))], desk: Verbs) -> Response:
    """Return the people of the tenant, and what each role may do."""
    people: list[JSON] = [user_json(u) for u in desk.users(caller)]
    return reply({"users": people, "roles": {str(k): v for k, v in TELLS.items()}})


@router.post("/users")
async def add_user(request: Request, caller: Annotated[Caller, Depends(Need("users.admin"))], office: Acts) -> Response:
    """Add a person. Where that needs two, the account waits without any right for the second."""
    wish = await body_of(request, NewUser)
    made = await office.add_user(caller, wish.name, wish.password, tuple(wish.roles), tuple(wish.scopes))
    return told(made, 201)


@router.post("/users/{name}/set")
async def set_user(
    request: Request, caller: Annotated[Caller, Depends(Need("users.admin"))], office: Acts, name: str
) -> Response:
    """Give a person exactly these roles and scopes."""
    wish = await body_of(request, UserChange)
    change: dict[str, JSON] = {"verb": "set", "name": name, "roles": list(wish.roles), "scopes": list(wish.scopes)}
    return told(await office.do(caller, "users.admin", change))


@router.post("/users/{name}/enable")
async def enable_user(caller: Annotated[Caller, Depends(Need("users.admin"))], office: Acts, name: str) -> Response:
    """Let a person in again."""
    return told(await office.do(caller, "users.admin", {"verb": "enable", "name": name}))


@router.post("/users/{name}/disable")
async def disable_user(caller: Annotated[Caller, Depends(Need("users.disable"))], desk: Verbs, name: str) -> Response:
    """Disable a person: everything of theirs ends at once."""
    return reply(user_json(desk.enable_user(caller, name, enabled=False)))


@router.post("/users/{name}/remove")
async def remove_user(caller: Annotated[Caller, Depends(Need("users.admin"))], office: Acts, name: str) -> Response:
    """Remove a person for good: everything of theirs ends, and the name is free. Disabling keeps both."""
    return told(await office.do(caller, "users.admin", {"verb": "remove", "name": name}))


@router.get("/sessions")
async def sessions(caller: Annotated[Caller, Depends(Need("users.read"))], desk: Verbs) -> Response:
    """Return who is signed in, in the console and at the front door."""
    rows: list[JSON] = list(desk.sessions(caller))
    return reply({"sessions": rows})


@router.post("/sessions/{name}/end")
async def end_sessions(caller: Annotated[Caller, Depends(Need("sessions.admin"))], desk: Verbs, name: str) -> Response:
    """End every session of a person, in the console and at the front door; connected programs stay."""
    return reply({"ended": desk.end_sessions(caller, name)})


@router.post("/first-contact")
async def first_contact(caller: Annotated[Caller, Depends(Need("first_contact.open"))], desk: Verbs) -> Response:
    """Return a new one-time code; nothing while there is an administrator."""
    return reply(desk.first_contact(caller))
