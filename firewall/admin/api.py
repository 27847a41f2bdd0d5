"""The JSON API, ``/api/v1``: the desk's verbs over HTTP, for the console's script, other scripts and the command line.

Bodies are parsed once and strictly (`wire.strict_json`), then held against a model; every route names the
role it needs, which a test enumerates.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from firewall.admin.access import Access
from firewall.admin.caller import Caller
from firewall.admin.decisions import MOST, PAGE, Decisions, Wanted, named
from firewall.admin.desk import Desk, entry_json, pin_json
from firewall.admin.office import Done, Office, Parked, approval_json
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.enforce.pins import Kind as PinKind
from firewall.enforce.registry import Kind, Verb
from firewall.wire import strict_json

M = TypeVar("M", bound=BaseModel)
LATEST_US = 2**62


class Need:
    """A dependency: the request's caller, who may do an act of the matrix and may name a tenant as ``?tenant=``."""

    def __init__(self, act: str) -> None:
        self.act = act

    async def __call__(self, request: Request) -> Caller:
        """Raise Refused: sign_in, csrf, role, fresh."""
        access: Access = request.app.state.access
        desk: Desk = request.app.state.desk
        caller = access.require(request.scope, self.act)
        return desk.for_tenant(caller, request.query_params.get("tenant", ""))


def desk_of(request: Request) -> Desk:
    """Return the desk of the application."""
    desk: Desk = request.app.state.desk
    return desk


def office_of(request: Request) -> Office:
    """Return the office of the application."""
    office: Office = request.app.state.office
    return office


Verbs = Annotated[Desk, Depends(desk_of)]
Acts = Annotated[Office, Depends(office_of)]


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


def told(outcome: Done | Parked, status: int = 200) -> Response:
    """Return what came of an act: its value, or 202 with the request that waits for a second person."""
    if isinstance(outcome, Parked):
        return reply({"parked": approval_json(outcome.approval)}, 202)
    return reply(outcome.value, status)


router = APIRouter(prefix="/api/v1")


# -- reading -------------------------------------------------------------------------------------------------


@router.get("/status")
async def status(caller: Annotated[Caller, Depends(Need("status.read"))], desk: Verbs) -> Response:
    """Return what this node is and how it does."""
    return reply(desk.status(caller))


@router.get("/doctor")
async def doctor(
    caller: Annotated[Caller, Depends(Need("doctor.run"))], request: Request, reach: bool = False
) -> Response:
    """Return the checks of `bartizan doctor`, made from inside the running node: its file, its environment."""
    return reply(await request.app.state.examine(reach))


@router.get("/decisions")
async def decisions(
    request: Request,
    caller: Annotated[Caller, Depends(Need("decisions.read"))],
    desk: Verbs,
    effect: str = "",
    upstream: str = "",
    subject: str = "",
    rule: str = "",
    since: Annotated[int, Query(ge=0, le=LATEST_US)] = 0,
    until: Annotated[int, Query(ge=0, le=LATEST_US)] = LATEST_US,
    limit: Annotated[int, Query(ge=1, le=MOST)] = PAGE,
) -> Response:
    """Return decisions, newest first. subject: as records have it, or somebody's name."""
    reader: Decisions = request.app.state.decisions
    wanted = Wanted(effect, upstream, desk.meant(caller, subject), rule, since, until, limit)
    rows = await reader.latest(caller.tenant, wanted)
    shown: list[JSON] = [*named(rows, desk.called(caller, (str(row["subject"]) for row in rows)))]
    return reply({"decisions": shown})


@router.get("/decisions/{some_id}")
async def decision(
    request: Request, caller: Annotated[Caller, Depends(Need("decisions.read"))], some_id: str
) -> Response:
    """Return the story of an exchange, by the id of the exchange, of a decision or of a record."""
    reader: Decisions = request.app.state.decisions
    story, text = await reader.story(caller.tenant, some_id)
    return reply({**story, "text": text})


@router.get("/budgets")
async def budgets(caller: Annotated[Caller, Depends(Need("budgets.read"))], desk: Verbs) -> Response:
    """Return today's spending by caller."""
    return reply(desk.budgets(caller))


# -- registry ------------------------------------------------------------------------------------------------


@router.get("/registry")
async def registry(
    caller: Annotated[Caller, Depends(Need("registry.read"))], desk: Verbs, kind: Kind | None = None
) -> Response:
    """Return servers and agents with their states."""
    return reply({"entries": [entry_json(e) for e in desk.registry(caller, kind)]})


@router.get("/registry/mcp/{name}/stderr")
async def child_stderr(caller: Annotated[Caller, Depends(Need("doctor.run"))], desk: Verbs, name: str) -> Response:
    """Return the first lines that a local program's last child wrote to stderr: untrusted text, escaped, at most 20."""
    words = desk.words(caller, name)
    lines, opened, at_us = (list(words.lines), words.opened, words.at_us) if words is not None else ([], False, 0)
    return reply({"name": name, "untrusted_lines": lines, "opened": opened, "at_us": at_us})


@router.post("/registry")
async def register(request: Request, caller: Annotated[Caller, Depends(Need("registry.add"))], desk: Verbs) -> Response:
    """Add a pending server or agent."""
    wish = await body_of(request, Registration)
    spec: dict[str, JSON] = dict(wish.spec)
    return reply(entry_json(desk.register(caller, wish.kind, wish.name, spec)), 201)


@router.post("/registry/{kind}/{name}/{verb}")
async def move(
    caller: Annotated[Caller, Depends(Need("registry.move"))],
    desk: Verbs,
    office: Acts,
    kind: Kind,
    name: str,
    verb: Verb,
) -> Response:
    """Approve, suspend or revoke."""
    if verb == "approve":
        return told(await office.do(caller, "registry.approve", {"kind": kind, "name": name}))
    return reply(entry_json(desk.move(caller, kind, name, verb)))


# -- pins ----------------------------------------------------------------------------------------------------


@router.get("/pins")
async def pins(
    caller: Annotated[Caller, Depends(Need("pins.read"))], desk: Verbs, upstream: str = "", status: str = ""
) -> Response:
    """Return pins; those that wait come first."""
    return reply({"pins": [pin_json(p) for p in desk.pins(caller, upstream, status)]})


@router.get("/pins/one")
async def pin(
    caller: Annotated[Caller, Depends(Need("pins.read"))], desk: Verbs, upstream: str, kind: str, name: str
) -> Response:
    """Return one pin with what its digests stand for."""
    return reply(desk.pin(caller, upstream, kind, name))


@router.get("/pins/lock")
async def lock(caller: Annotated[Caller, Depends(Need("pins.read"))], desk: Verbs) -> Response:
    """Return the text of a lock file with everything that is approved now."""
    return reply({"lock": desk.lock(caller)})


@router.post("/pins/approve")
async def approve_pin(
    request: Request, caller: Annotated[Caller, Depends(Need("pins.approve"))], office: Acts
) -> Response:
    """Approve exactly the digest that was shown."""
    wish = await body_of(request, PinApproval)
    return told(await office.do(caller, "pins.approve", dict(wish.model_dump())))


# -- kill switch ----------------------------------------------------------------------------------------------


@router.get("/kill")
async def stops(caller: Annotated[Caller, Depends(Need("kill.read"))], desk: Verbs) -> Response:
    """Return the stops in force."""
    return reply({"stops": [stop_json(s) for s in desk.stops(caller)]})


@router.post("/kill")
async def pull(request: Request, caller: Annotated[Caller, Depends(Need("kill.pull"))], desk: Verbs) -> Response:
    """Stop a scope at once."""
    wish = await body_of(request, StopBody)
    made = desk.pull(caller, wish.scope, wish.name, reason=wish.reason, everywhere=wish.everywhere)
    return reply(stop_json(made), 201)


@router.post("/kill/release")
async def release(request: Request, caller: Annotated[Caller, Depends(Need("kill.lift"))], office: Acts) -> Response:
    """End a stop."""
    wish = await body_of(request, StopBody)
    return told(await office.do(caller, "kill.lift", dict(wish.model_dump())))


def stop_json(stop: object) -> dict[str, JSON]:
    """Return a stop as the API shows it."""
    return {name: getattr(stop, name) for name in ("tenant", "scope", "name", "by", "since_us", "reason")}
