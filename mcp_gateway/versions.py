"""Protocol revisions, their eras, and the METHODS table: which message is decided at which Point.

Pure. The revision tuples equal ``mcp_types.version`` (tested), without importing its pydantic
models on the way to the first answer. Revisions are an enumerated set: never compared as strings.

A method that has no row for its (era, direction) is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from firewall.core.points import Point

Era = Literal["legacy", "modern"]
Flow = Literal["request", "response"]  # client → server, server → client

LEGACY: Final[Era] = "legacy"
MODERN: Final[Era] = "modern"

HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS: Final = ("2026-07-28",)
KNOWN_VERSIONS: Final = (*HANDSHAKE_VERSIONS, *MODERN_VERSIONS)
# 2024-11-05 has another transport (HTTP+SSE); over Streamable HTTP a session starts at 2025-03-26.
SESSION_VERSIONS: Final = HANDSHAKE_VERSIONS[1:]
NEWEST_HANDSHAKE: Final = HANDSHAKE_VERSIONS[-1]
NEWEST_MODERN: Final = MODERN_VERSIONS[-1]
ASSUMED_VERSION: Final = "2025-03-26"  # legacy request without a version header (MCP 2025-11-25, transports)

ERROR: Final = "error"  # the row of an upstream's JSON-RPC error, whatever method it answers


def _rows() -> Mapping[tuple[str, Era, Flow], Point]:
    rows: dict[tuple[str, Era, Flow], Point] = {
        ("initialize", LEGACY, "request"): Point.MCP_SESSION_OPEN,
        ("initialize", LEGACY, "response"): Point.MCP_SESSION_OPENED,
        ("server/discover", MODERN, "request"): Point.MCP_SESSION_OPEN,
        ("server/discover", MODERN, "response"): Point.MCP_SESSION_OPENED,
        ("notifications/initialized", LEGACY, "request"): Point.MCP_NOTIFY_CLIENT,
        ("notifications/cancelled", LEGACY, "request"): Point.MCP_NOTIFY_CLIENT,
        # A question that was put to the client is not open any more (`face`).
        ("notifications/cancelled", LEGACY, "response"): Point.MCP_NOTIFY_SERVER,
        # We answer every ping ourselves, so the one decision is about our own answer.
        ("ping", LEGACY, "request"): Point.MCP_PONG,
        ("ping", LEGACY, "response"): Point.MCP_PONG,
        ("resources/subscribe", LEGACY, "request"): Point.MCP_RESOURCE_WATCH,
        ("resources/unsubscribe", LEGACY, "request"): Point.MCP_RESOURCE_WATCH,
        ("resources/subscribe", LEGACY, "response"): Point.MCP_NOTIFY_SERVER,
        ("resources/unsubscribe", LEGACY, "response"): Point.MCP_NOTIFY_SERVER,
        ("subscriptions/listen", MODERN, "request"): Point.MCP_RESOURCE_WATCH,
        ("subscriptions/listen", MODERN, "response"): Point.MCP_NOTIFY_SERVER,
        ("notifications/subscriptions/acknowledged", MODERN, "response"): Point.MCP_NOTIFY_SERVER,
        # A task's state; where it holds the result, the whole is judged as that (`tasks_view`).
        ("notifications/tasks/status", LEGACY, "response"): Point.MCP_TASK_STATUS,
        ("notifications/tasks", MODERN, "response"): Point.MCP_TASK_STATUS,
        ("tasks/result", LEGACY, "request"): Point.MCP_TASK_GET,
        ("tasks/result", LEGACY, "response"): Point.MCP_TOOL_RESULT,
        ("tasks/list", LEGACY, "request"): Point.MCP_TASK_GET,
        ("tasks/list", LEGACY, "response"): Point.MCP_TASK_STATUS,
        ("tasks/update", MODERN, "request"): Point.MCP_TASK_GET,
        ("tasks/update", MODERN, "response"): Point.MCP_TASK_STATUS,
        ("notifications/elicitation/complete", LEGACY, "response"): Point.MCP_NOTIFY_SERVER,
        # Kept by the session and answered by us: a notice from the client, and an empty answer of ours.
        ("logging/setLevel", LEGACY, "request"): Point.MCP_NOTIFY_CLIENT,
        ("logging/setLevel", LEGACY, "response"): Point.MCP_PONG,
    }
    for era in (LEGACY, MODERN):
        rows["tools/list", era, "request"] = Point.MCP_TOOL_LIST
        rows["tools/list", era, "response"] = Point.MCP_TOOL_LISTED
        rows["tools/call", era, "request"] = Point.MCP_TOOL_CALL
        rows["tools/call", era, "response"] = Point.MCP_TOOL_RESULT
        rows["prompts/list", era, "request"] = Point.MCP_PROMPT_LIST
        rows["prompts/list", era, "response"] = Point.MCP_PROMPT_LISTED
        rows["prompts/get", era, "request"] = Point.MCP_PROMPT_GET
        rows["prompts/get", era, "response"] = Point.MCP_PROMPT_RESULT
        for method in ("resources/list", "resources/templates/list"):
            rows[method, era, "request"] = Point.MCP_RESOURCE_LIST
            rows[method, era, "response"] = Point.MCP_RESOURCE_LISTED
        rows["resources/read", era, "request"] = Point.MCP_RESOURCE_READ
        rows["resources/read", era, "response"] = Point.MCP_RESOURCE_RESULT
        rows["completion/complete", era, "request"] = Point.MCP_COMPLETION_ASK
        rows["completion/complete", era, "response"] = Point.MCP_COMPLETION_RESULT
        rows["tasks/get", era, "request"] = Point.MCP_TASK_GET
        rows["tasks/get", era, "response"] = Point.MCP_TASK_STATUS
        rows["tasks/cancel", era, "request"] = Point.MCP_TASK_CANCEL
        rows["tasks/cancel", era, "response"] = Point.MCP_TASK_STATUS
        for what in ("tools", "prompts", "resources"):
            rows[f"notifications/{what}/list_changed", era, "response"] = Point.MCP_NOTIFY_SERVER
        rows["notifications/resources/updated", era, "response"] = Point.MCP_NOTIFY_SERVER
        rows["notifications/progress", era, "response"] = Point.MCP_NOTIFY_SERVER
        rows["notifications/message", era, "response"] = Point.MCP_NOTIFY_SERVER
        rows[ERROR, era, "response"] = Point.MCP_ERROR
    return MappingProxyType(rows)


METHODS: Final = _rows()
_NOTIFICATION: Final = "notifications/"
# Every request of a client, with its era.
REQUESTS: Final = frozenset(
    (method, era) for method, era, flow in METHODS if flow == "request" and not method.startswith(_NOTIFICATION)
)


def era_of(version: str) -> Era | None:
    """Return the era of a known revision, or None for an unknown one."""
    if version in MODERN_VERSIONS:
        return MODERN
    return LEGACY if version in HANDSHAKE_VERSIONS else None


def point_of(method: str, era: Era, flow: Flow) -> Point | None:
    """Return the Point of a message, or None when this era has no such message in this direction."""
    return METHODS.get((method, era, flow))


def is_notification(method: str) -> bool:
    """Return whether a method is one that has no id and no answer (MCP schema: every one has this prefix).

    With an id such a method is an unknown request, and a request's method without an id is no notification:
    which of both a message is says its name and its shape together.
    """
    return method.startswith(_NOTIFICATION)


def negotiated(requested: str) -> str:
    """Return the revision that answers a legacy ``initialize``: the asked one if served, else the newest.

    Source: MCP 2025-11-25 lifecycle, version negotiation. A legacy client never gets a modern revision.
    """
    return requested if requested in SESSION_VERSIONS else NEWEST_HANDSHAKE
