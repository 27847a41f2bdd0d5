"""A2A messages → Actions. Pure.

`METHODS` is literal: every operation we carry and every object that may come back has exactly one
point, and what is not in the table has no way in or out. ``Action.body`` is the whole JSON-RPC
message as it will leave us, ids already replaced (DESIGN §3).
"""

from __future__ import annotations

from typing import Final

from a2a_gateway.message import Event, Send, TaskQuery
from a2a_gateway.versions import HEADER, VERSION, Method
from firewall.core.action import Action, Headers, Protocol, Resource
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Direction, Point
from firewall.core.principal import Principal
from firewall.wire import jsonrpc

METHODS: Final[dict[tuple[str, Direction], Point]] = {
    ("SendMessage", "request"): Point.A2A_MESSAGE_SEND,
    ("SendStreamingMessage", "request"): Point.A2A_MESSAGE_SEND,
    ("GetTask", "request"): Point.A2A_TASK_GET,
    ("CancelTask", "request"): Point.A2A_TASK_CANCEL,
    ("message", "response"): Point.A2A_MESSAGE_RECEIVE,
    ("task", "response"): Point.A2A_TASK_UPDATE,
    ("statusUpdate", "response"): Point.A2A_TASK_UPDATE,
    ("artifactUpdate", "response"): Point.A2A_TASK_UPDATE,
    ("error", "response"): Point.A2A_ERROR,
    ("card", "response"): Point.A2A_CARD_SERVE,
}
STREAMED: Final = "SendStreamingMessage"
# One request per HTTP exchange: the upstream's answer must carry this id and nothing can be confused.
UPSTREAM_ID: Final = 1

HTTP: Final = Protocol("a2a", VERSION, "http")
SSE: Final = Protocol("a2a", VERSION, "sse")

ERROR_CHARS: Final = 1024
# What a standard error says; an agent's own words for it could carry its ids or anything else.
STANDARD: Final[dict[int, tuple[str, str]]] = {
    -32700: ("Invalid JSON payload", ""),
    -32600: ("Request payload validation error", ""),
    -32601: ("Method not found", ""),
    -32602: ("Invalid parameters", ""),
    -32603: ("Internal error", ""),
    -32001: ("Task not found", "TASK_NOT_FOUND"),
    -32002: ("Task cannot be canceled", "TASK_NOT_CANCELABLE"),
    -32003: ("Push Notification is not supported", "PUSH_NOTIFICATION_NOT_SUPPORTED"),
    -32004: ("This operation is not supported", "UNSUPPORTED_OPERATION"),
    -32005: ("Incompatible content types", "CONTENT_TYPE_NOT_SUPPORTED"),
    -32006: ("Invalid agent response", "INVALID_AGENT_RESPONSE"),
    -32008: ("Extension support required", "EXTENSION_SUPPORT_REQUIRED"),
    -32009: ("Version not supported", "VERSION_NOT_SUPPORTED"),
}
DOMAIN: Final = "a2a-protocol.org"
ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"


def request_action(
    method: Method,
    principal: Principal,
    agent: Resource,
    read: Send | TaskQuery,
    params: JSONObject,
    *,
    trace: bytes = b"",
    extensions: tuple[str, ...] = (),
) -> Action:
    """Return the Action of a request that goes to an agent.

    params: as they leave (`Send.outgoing`, `TaskQuery.outgoing`); trace: a ``traceparent`` or b"".
    extensions: the allow-listed URIs that the caller activates (spec §4.6).
    """
    arguments: JSONObject = {}
    if isinstance(read, Send):
        kinds = read.kinds()
        arguments = {"parts": len(kinds), "kinds": kinds}
    headers: Headers = ((HEADER, VERSION.encode()),)
    if trace:
        headers += ((b"traceparent", trace),)
    if extensions:
        headers += ((b"a2a-extensions", ", ".join(extensions).encode("ascii")),)
    return Action(
        METHODS[method, "request"],
        principal,
        method,
        agent,
        SSE if method == STREAMED else HTTP,
        jsonrpc.build_request(UPSTREAM_ID, method, params),
        arguments,
        headers=lambda _body: headers,
        side_effect=method != "GetTask",
    )


def event_action(method: Method, principal: Principal, agent: Resource, event: Event, rpc_id: jsonrpc.ID) -> Action:
    """Return the Action of one object that goes back to the caller, under the caller's request id."""
    arguments: JSONObject = {"kind": event.kind}
    if event.state:
        arguments["state"] = event.state
    return Action(
        METHODS[event.kind, "response"],
        principal,
        method,
        agent,
        SSE if method == STREAMED else HTTP,
        jsonrpc.build_response(rpc_id, event.wire()),
        arguments,
        side_effect=False,
    )


def error_action(
    method: Method, principal: Principal, agent: Resource, error: jsonrpc.ErrorResponse, rpc_id: jsonrpc.ID
) -> Action:
    """Return the Action of an agent's error.

    A standard code is told in the standard's words. Another one keeps its text up to 1,024
    characters, to be inspected like any text of the agent; its ``data`` is dropped.
    """
    standard = STANDARD.get(error.code)
    data: JSON = None
    if standard is not None and standard[1]:
        data = [{"@type": ERROR_INFO, "reason": standard[1], "domain": DOMAIN, "metadata": {}}]
    text = standard[0] if standard is not None else error.message[:ERROR_CHARS]
    return Action(
        METHODS["error", "response"],
        principal,
        method,
        agent,
        SSE if method == STREAMED else HTTP,
        jsonrpc.build_error(rpc_id, error.code, text, data),
        {"code": error.code},
        side_effect=False,
    )


def card_action(principal: Principal, card: Resource, served: JSONObject) -> Action:
    """Return the Action of serving our card of an agent."""
    return Action(
        METHODS["card", "response"], principal, "GetAgentCard", card, HTTP, served, {"items": []}, side_effect=False
    )
