"""What a caller's token and sign-in limit by themselves, before policy is asked: named calls, and step-up. Pure.

- A token with details (RFC 9396) reaches the calls that they name, whatever its scopes say beside them. Of
  the rest only what carries the protocol stays open: sessions, lists, notices, answers, tasks of those calls.
- An operation for which an upstream asks a stronger or fresher sign-in (RFC 9470) is refused without one. A
  caller who never signed in, such as a service, has none.

Both refusals say what would cure them; neither can be lifted by a rule of policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from firewall.core.action import Action
from firewall.core.permit import Refusal
from firewall.core.points import INFO, Point
from firewall.core.ports import ResourceServer
from firewall.core.step_up import FRESH, PREFIX, StepUp
from firewall.core.tool_details import names_tool, permit_call

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


def beyond_details(action: Action) -> bool:
    """Return whether an Action is outside what its caller's details permit; False where there are none."""
    principal = action.principal
    if not principal.details or INFO[action.point].direction != "request" or action.point in _CARRIES:
        return False
    resource = action.resource
    # At the aggregate a tool is named with its server: two servers may have tools of one name.
    whole = urlsplit(principal.audience).path == AGGREGATE
    tool = resource.id if whole else resource.id.removeprefix(f"{resource.upstream}/")
    if action.point is Point.MCP_TOOL_CALL:
        return not permit_call(principal.details, principal.audience, tool, action.arguments)
    if action.point in _TASKS:  # what became of a call: its arguments were judged when it was made
        return resource.type != "mcp_tool" or not names_tool(principal.details, principal.audience, tool)
    return True


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
    if not refusal.challenge:
        return b""
    scope = " ".join(sorted(refusal.challenge))
    if refusal.step_up is None:
        return auth.challenge(resource, "scope_missing", scope)
    return auth.challenge(resource, "step_up_required", scope) + refusal.step_up.parameters.encode("ascii")
