"""The JSON API, ``/api/v1``: the desk's verbs over HTTP, for the console's script, other scripts and the command line.

Bodies are parsed once and strictly (`wire.strict_json`), then held against a model; every route names the
role it needs, which a test enumerates.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from firewall.admin.access import Access
from firewall.admin.caller import TELLS, Caller, Refused, Role
from firewall.admin.decisions import MOST, PAGE, Decisions, Wanted
from firewall.admin.desk import Desk, entry_json, pin_json, user_json
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.enforce.pins import Kind as PinKind
from firewall.enforce.registry import Kind, Verb
from firewall.wire import strict_json

M = TypeVar("M", bound=BaseModel)
LATEST_US = 2**62


class Need:
    """A dependency: the request's caller, who has at least a role and may name a tenant as ``?tenant=``."""

    def __init__(self, role: Role) -> None:
        self.role = role

    def __call__(self, request: Request) -> Caller:
        """Raise Refused: sign_in, csrf, role."""
        access: Access = request.app.state.access
        desk: Desk = request.app.state.desk
        caller = access.require(request.scope, self.role)
        return desk.for_tenant(caller, request.query_params.get("tenant", ""))


Viewer = Annotated[Caller, Depends(Need("viewer"))]
Operator = Annotated[Caller, Depends(Need("operator"))]
Admin = Annotated[Caller, Depends(Need("admin"))]
Owner = Annotated[Caller, Depends(Need("owner"))]


def desk_of(request: Request) -> Desk:
    """Return the desk of the application."""
    desk: Desk = request.app.state.desk
    return desk


Verbs = Annotated[Desk, Depends(desk_of)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Registration(_Body):
    """A new server or agent, by address."""

    kind: Kind
    name: str
    spec: dict[str, JsonValue]


class PinApproval(_Body):
    """digest: exactly what was shown."""

    upstream: str
    kind: PinKind
    name: str
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")


class StopBody(_Body):
    """everywhere: for every tenant of the node."""

    scope: Literal["all", "upstream", "subject", "client"]
    name: str = ""
    reason: str = Field(default="", max_length=200)
    everywhere: bool = False


class TokenWish(_Body):
    """ttl_s 0 means the usual lifetime."""

    resource: str
    scopes: list[str] = []
    ttl_s: int = 0


class BearerWish(_Body):
    """ttl_s 0 means a day."""

    role: str
    ttl_s: int = 0


class NewUser(_Body):
    """A person. roles: of the console; scopes: the most that the person may ever give to an agent."""

    name: str
    password: str = Field(repr=False)
    roles: list[str] = []
    scopes: list[str] = ["*"]


def reply(value: object, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(strict_json.dumps(value), status, media_type="application/json")  # type: ignore[arg-type]


async def body_of(request: Request, model: type[M]) -> M:
    """Return the strictly parsed and validated body. Raises Malformed: media_type, json_*, params_invalid."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Malformed("media_type")
    value: JSON = strict_json.loads(await request.body())
    try:
        return model.model_validate(value)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, p['loc'])) or 'body'}: {p['msg']}" for p in error.errors(include_input=False)]
        raise Malformed("params_invalid", "; ".join(told)) from None


router = APIRouter(prefix="/api/v1")


# -- reading -------------------------------------------------------------------------------------------------


@router.get("/status")
async def status(caller: Viewer, desk: Verbs) -> Response:
    """Return what this node is and how it does."""
    return reply(desk.status(caller))


@router.get("/doctor")
async def doctor(caller: Operator, request: Request, reach: bool = False) -> Response:
    """Return the checks of `bartizan doctor`, made from inside the running node: its file, its environment."""
    return reply(await request.app.state.examine(reach))


@router.get("/decisions")
async def decisions(
    request: Request,
    caller: Viewer,
    effect: str = "",
    upstream: str = "",
    subject: str = "",
    rule: str = "",
    since: Annotated[int, Query(ge=0)] = 0,
    until: Annotated[int, Query(ge=0)] = LATEST_US,
    limit: Annotated[int, Query(ge=1, le=MOST)] = PAGE,
) -> Response:
    """Return decisions, newest first."""
    reader: Decisions = request.app.state.decisions
    wanted = Wanted(effect, upstream, subject, rule, since, until, limit)
    return reply({"decisions": await reader.latest(caller.tenant, wanted)})


@router.get("/decisions/{some_id}")
async def decision(request: Request, caller: Viewer, some_id: str) -> Response:
    """Return the story of an exchange, by the id of the exchange, of a decision or of a record."""
    reader: Decisions = request.app.state.decisions
    story, text = await reader.story(caller.tenant, some_id)
    return reply({**story, "text": text})


@router.get("/budgets")
async def budgets(caller: Viewer, desk: Verbs) -> Response:
    """Return today's spending by caller."""
    return reply(desk.budgets(caller))


# -- registry ------------------------------------------------------------------------------------------------


@router.get("/registry")
async def registry(caller: Viewer, desk: Verbs, kind: Kind | None = None) -> Response:
    """Return servers and agents with their states."""
    return reply({"entries": [entry_json(e) for e in desk.registry(caller, kind)]})


@router.post("/registry")
async def register(request: Request, caller: Operator, desk: Verbs) -> Response:
    """Add a pending server or agent."""
    wish = await body_of(request, Registration)
    spec: dict[str, JSON] = dict(wish.spec)
    return reply(entry_json(desk.register(caller, wish.kind, wish.name, spec)), 201)


@router.post("/registry/{kind}/{name}/{verb}")
async def move(caller: Operator, desk: Verbs, kind: Kind, name: str, verb: Verb) -> Response:
    """Approve, suspend or revoke."""
    return reply(entry_json(desk.move(caller, kind, name, verb)))


# -- pins ----------------------------------------------------------------------------------------------------


@router.get("/pins")
async def pins(caller: Viewer, desk: Verbs, upstream: str = "", status: str = "") -> Response:
    """Return pins; those that wait come first."""
    return reply({"pins": [pin_json(p) for p in desk.pins(caller, upstream, status)]})


@router.get("/pins/one")
async def pin(caller: Viewer, desk: Verbs, upstream: str, kind: str, name: str) -> Response:
    """Return one pin with what its digests stand for."""
    return reply(desk.pin(caller, upstream, kind, name))


@router.get("/pins/lock")
async def lock(caller: Viewer, desk: Verbs) -> Response:
    """Return the text of a lock file with everything that is approved now."""
    return reply({"lock": desk.lock(caller)})


@router.post("/pins/approve")
async def approve_pin(request: Request, caller: Operator, desk: Verbs) -> Response:
    """Approve exactly the digest that was shown."""
    wish = await body_of(request, PinApproval)
    return reply(pin_json(desk.approve_pin(caller, wish.upstream, wish.kind, wish.name, wish.digest)))


# -- kill switch ----------------------------------------------------------------------------------------------


@router.get("/kill")
async def stops(caller: Viewer, desk: Verbs) -> Response:
    """Return the stops in force."""
    return reply({"stops": [stop_json(s) for s in desk.stops(caller)]})


@router.post("/kill")
async def pull(request: Request, caller: Operator, desk: Verbs) -> Response:
    """Stop a scope at once."""
    wish = await body_of(request, StopBody)
    made = desk.pull(caller, wish.scope, wish.name, reason=wish.reason, everywhere=wish.everywhere)
    return reply(stop_json(made), 201)


@router.post("/kill/release")
async def release(request: Request, caller: Operator, desk: Verbs) -> Response:
    """End a stop."""
    wish = await body_of(request, StopBody)
    stood = desk.release(caller, wish.scope, wish.name, reason=wish.reason, everywhere=wish.everywhere)
    return reply({"released": stood})


def stop_json(stop: object) -> dict[str, JSON]:
    """Return a stop as the API shows it."""
    return {name: getattr(stop, name) for name in ("tenant", "scope", "name", "by", "since_us")}


# -- tokens, bearers, people ------------------------------------------------------------------------------------


@router.get("/tokens")
async def resources(caller: Operator, desk: Verbs) -> Response:
    """Return the resources that a token can be minted for."""
    rows: list[JSON] = list(desk.resources(caller))
    return reply({"resources": rows})


@router.post("/tokens")
async def token(request: Request, caller: Owner, desk: Verbs) -> Response:
    """Mint a short-lived token for one resource."""
    wish = await body_of(request, TokenWish)
    return reply(desk.token(caller, wish.resource, tuple(wish.scopes), wish.ttl_s), 201)


@router.get("/bearers")
async def bearers(caller: Owner, desk: Verbs) -> Response:
    """Return what is known of bearers."""
    rows: list[JSON] = list(desk.bearers(caller))
    return reply({"bearers": rows})


@router.post("/bearers")
async def bearer(request: Request, caller: Owner, desk: Verbs) -> Response:
    """Mint a bearer for this API."""
    wish = await body_of(request, BearerWish)
    return reply(desk.bearer(caller, wish.role, wish.ttl_s), 201)


@router.post("/bearers/{bearer_id}/end")
async def end_bearer(caller: Owner, desk: Verbs, bearer_id: str) -> Response:
    """End a bearer."""
    return reply({"ended": desk.end_bearer(caller, bearer_id)})


@router.get("/users")
async def users(caller: Admin, desk: Verbs) -> Response:
    """Return the people of the tenant, and what each role may do."""
    people: list[JSON] = [user_json(u) for u in desk.users(caller)]
    return reply({"users": people, "roles": {str(k): v for k, v in TELLS.items()}})


@router.post("/users")
async def add_user(request: Request, caller: Admin, desk: Verbs) -> Response:
    """Add a person."""
    wish = await body_of(request, NewUser)
    if "admin" in wish.roles and caller.role != "owner":
        raise Refused("role", fix="only the node's owner makes administrators")
    made = await desk.add_user(caller, wish.name, wish.password, tuple(wish.roles), tuple(wish.scopes))
    return reply(user_json(made), 201)


@router.post("/users/{name}/{verb}")
async def enable_user(caller: Admin, desk: Verbs, name: str, verb: Literal["enable", "disable"]) -> Response:
    """Disable a person (everything of theirs ends at once), or let one in again."""
    return reply(user_json(desk.enable_user(caller, name, enabled=verb == "enable")))


@router.post("/first-contact")
async def first_contact(caller: Owner, desk: Verbs) -> Response:
    """Return a new one-time code; nothing while there is an administrator."""
    return reply(desk.first_contact(caller))
