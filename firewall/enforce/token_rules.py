"""What a caller's token and sign-in limit by themselves, before policy is asked: named calls, and step-up. Pure.

- A token with details (RFC 9396) reaches the calls that they name, whatever its scopes say beside them. Of
  the rest only what carries the protocol stays open: sessions, lists, notices, answers, tasks of those calls.
- An operation for which an upstream asks a stronger or fresher sign-in (RFC 9470) is refused without one. A
  caller who never signed in, such as a service, has none.

Both refusals say what would cure them; neither can be lifted by a rule of policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from firewall.core.action import Action
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Refusal
from firewall.core.points import INFO, Point
from firewall.core.ports import ResourceServer
from firewall.core.scopes import opened
from firewall.core.step_up import FRESH, PREFIX, StepUp
from firewall.core.tool_details import ToolDetail, is_name

AGGREGATE: Final = "/mcp"
_TASKS: Final = (Point.MCP_TASK_GET, Point.MCP_TASK_CANCEL)
_CARRIES: Final = frozenset(
    {
        Point.MCP_SESSION_OPEN,
        Point.MCP_NOTIFY_CLIENT,
        Point.MCP_TOOL_LIST,
        Point.MCP_RESOURCE_LIST,
        Point.MCP_PROMPT_LIST,
        Point.MCP_SAMPLING_ANSWER,
        Point.MCP_ELICITATION_ANSWER,
        Point.MCP_ROOTS_ANSWER,
    }
)


@dataclass(frozen=True, slots=True)
class Unmet:
    """What a token or sign-in is short of. rule, lacks: for the record and operators, never told to the caller.

    fault, challenge, step_up, detail: as in `core.permit.Refusal`. lacks: one text for each thing that falls short.
    """

    fault: str
    rule: str
    lacks: tuple[str, ...]
    challenge: tuple[str, ...] = ()
    step_up: StepUp | None = None
    detail: ToolDetail | None = None

    @property
    def because(self) -> JSONObject:
        """What the record says of it."""
        return {"rule": self.rule, "lacks": list[JSON](self.lacks)}


def unmet(action: Action, rules: Mapping[str, StepUp], now_s: int) -> Unmet | None:
    """Return what the caller's token and sign-in do not reach, None where they do. rules: step-up by upstream.

    A challenge for details names a scope only where the token lacks that as well: asked for one that it holds, a
    client comes back with the same token, for ever.
    """
    scope = needed_scope(action)
    rule = unmet_step_up(action, rules, now_s)
    if rule is not None:
        cure = tuple(s for s in (scope, rule.asks) if s)
        return Unmet("step_up_required", "core.step_up_required", _short_of(rule), cure, step_up=rule)
    lacks = beyond_details(action)
    if not lacks:
        return None
    missing = (scope,) if scope and scope not in opened(action.principal.scopes) else ()
    return Unmet("details_missing", "core.details", lacks, missing, detail=_wanted(action))


def beyond_details(action: Action) -> tuple[str, ...]:
    """Return why an Action is outside what its caller's details permit: for each detail what it lacks; () for nothing."""
    principal = action.principal
    if not principal.details or INFO[action.point].direction != "request" or action.point in _CARRIES:
        return ()
    arguments: Mapping[str, JSON] | None
    if action.point is Point.MCP_TOOL_CALL:
        arguments = action.arguments
    elif action.point in _TASKS and action.resource.type == "mcp_tool":
        arguments = None  # what became of a call: its arguments were judged when it was made
    else:
        return ("details name calls of tools alone",)
    tool, lacks = _tool(action), []
    for number, detail in enumerate(principal.details, 1):
        short = detail.lacks(principal.audience, tool, arguments)
        if not short:
            return ()
        lacks.append(f"detail {number}: {short}")
    return tuple(lacks)


def _tool(action: Action) -> str:
    # At the aggregate a tool is named with its server: two servers may have tools of one name.
    whole = urlsplit(action.principal.audience).path == AGGREGATE
    return action.resource.id if whole else action.resource.id.removeprefix(f"{action.resource.upstream}/")


def _wanted(action: Action) -> ToolDetail | None:
    """Return the detail that would permit a call; None where no detail would, or nobody listed such a tool."""
    tool = _tool(action)
    if action.point is not Point.MCP_TOOL_CALL or not is_name(tool) or action.resource.properties.get("pin") == "none":
        return None  # what is unknown here is what the caller typed: nothing of that goes into an error
    return ToolDetail((action.principal.audience,), (tool,))


def _short_of(rule: StepUp) -> tuple[str, ...]:
    """Return what a sign-in had to be."""
    level = (f"sign-in of level {rule.acr}",) if rule.acr else ()
    return level + ((f"sign-in of the last {rule.max_age_s} s",) if rule.max_age_s >= 0 else ())


def unmet_step_up(action: Action, rules: Mapping[str, StepUp], now_s: int) -> StepUp | None:
    """Return the rule of the Action's upstream that its caller's sign-in does not fulfil, else None."""
    rule = rules.get(action.resource.upstream)
    if rule is None or INFO[action.point].direction != "request" or not rule.applies(needed_scope(action)):
        return None
    principal = action.principal
    return None if rule.fulfilled(principal.acr, principal.auth_time, now_s) else rule


def asked_of_sign_in(scopes: Iterable[str]) -> StepUp | None:
    """Return what ``stepup:`` scopes ask, with which policy says that another sign-in would cure its denial."""
    levels = [s.removeprefix(PREFIX) for s in scopes if s.startswith(PREFIX)]
    if not levels:
        return None
    return StepUp(max_age_s=0) if levels[0] == FRESH else StepUp(acr=levels[0])


def needed_scope(action: Action) -> str:
    """Return the scope that an operation needs, "" where its resource names none."""
    scope = action.resource.properties.get("scope")
    return scope if isinstance(scope, str) else ""


def cure(auth: ResourceServer, resource: str, refusal: Refusal) -> bytes:
    """Return the WWW-Authenticate value that says what would cure a refusal, b"" where nothing would.

    Its scopes are all that the operation needs, and the ``stepup:`` scope beside them: clients that know
    nothing of RFC 9470 ask for what a challenge names.
    """
    scope = " ".join(sorted(refusal.challenge))
    if refusal.fault.code == "details_missing":
        return auth.challenge(resource, "details_missing", scope)
    if not scope:
        return b""
    if refusal.step_up is None:
        return auth.challenge(resource, "scope_missing", scope)
    return auth.challenge(resource, "step_up_required", scope) + refusal.step_up.parameters.encode("ascii")
