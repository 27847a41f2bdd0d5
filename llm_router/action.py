"""LLM traffic as Actions. Pure.

`METHODS` is the whole of what this room moves: a message without a row has no way through.
"""

from __future__ import annotations

from typing import Final

from firewall.core.action import Action, Headers, Protocol, Resource, no_headers
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.core.principal import Principal
from llm_router.assemble import ToolCall
from llm_router.chat import Request
from llm_router.choose import UPSTREAM, Model

CHAT: Final = "chat/completions"
MODELS: Final = "models"

# (verb, what moves) → its point.
METHODS: Final[dict[tuple[str, str], Point]] = {
    (CHAT, "request"): Point.LLM_REQUEST,
    (CHAT, "response"): Point.LLM_RESPONSE,
    (CHAT, "tool_call"): Point.LLM_TOOL_CALL,
    (CHAT, "error"): Point.LLM_ERROR,
    (MODELS, "response"): Point.LLM_MODELS,
}

_VERSION: Final = "openai-chat-1"
HTTP: Final = Protocol("llm", _VERSION, "http")
SSE: Final = Protocol("llm", _VERSION, "sse")
_WHOLE: Final[Headers] = ((b"content-type", b"application/json"), (b"accept", b"application/json"))
_STREAMED: Final[Headers] = ((b"content-type", b"application/json"), (b"accept", b"text/event-stream"))
# What a provider's refusal is called towards the client: HTTP status → error type.
ERROR_TYPES: Final = {400: "invalid_request_error", 429: "rate_limit_error", 502: "server_error"}


def request_action(principal: Principal, model: Model, request: Request, body: JSONObject, limit: int) -> Action:
    """Return the Action of a request on its way to a provider. limit: tokens of output that it may use."""
    return Action(
        point=METHODS[(CHAT, "request")],
        principal=principal,
        verb=CHAT,
        resource=model.resource,
        protocol=SSE if request.stream else HTTP,
        body=body,
        arguments={
            "model": model.alias,
            "max_tokens": limit,
            "stream": request.stream,
            "tools": [*request.tools],
            "messages": request.messages,
            # Replayed history can only add labels (DESIGN §6b-1): how much of it came from tools.
            "tool_outputs": request.tool_outputs,
            "images": request.images,
        },
        headers=_streamed if request.stream else _whole,
    )


def response_action(principal: Principal, model: Model, body: JSONObject, *, stream: bool) -> Action:
    """Return the Action of a whole answer, or of one stream's text (body {})."""
    return _inwards("response", principal, model.resource, body, SSE if stream else HTTP, {})


def call_action(principal: Principal, model: Model, call: ToolCall, *, stream: bool) -> Action:
    """Return the Action of one whole tool call; policy reads the very arguments that are in the body."""
    arguments: JSONObject = {"name": call.name, "arguments": call.arguments}
    return _inwards("tool_call", principal, model.resource, call.document(), SSE if stream else HTTP, arguments)


def error_action(principal: Principal, model: Model, status: int, message: str, code: str, *, stream: bool) -> Action:
    """Return the Action of a provider's error text. status: of `ERROR_TYPES`."""
    body: JSONObject = {"error": {"message": message, "type": ERROR_TYPES[status], "code": code or None, "param": None}}
    return _inwards("error", principal, model.resource, body, SSE if stream else HTTP, {"status": status})


def models_action(principal: Principal, models: list[Model]) -> Action:
    """Return the Action of the list of models that a caller may name."""
    entries: list[JSON] = [
        {"id": m.alias, "object": "model", "created": 0, "owned_by": m.provider.name} for m in models
    ]
    items: list[JSON] = [
        {"id": m.alias, "effect_class": "read", "scope": "llm:invoke", "pin": "approved", "state": "approved"}
        for m in models
    ]
    return Action(
        point=METHODS[(MODELS, "response")],
        principal=principal,
        verb=MODELS,
        resource=Resource(
            "llm_provider",
            UPSTREAM,
            UPSTREAM,
            {"tenants": [principal.tenant], "state": "approved", "scope": "llm:invoke", "trust": "trusted"},
        ),
        protocol=HTTP,
        body={"object": "list", "data": entries},
        arguments={"items": items},
        items_at=("data",),
        item_key="id",
        side_effect=False,
    )


def _inwards(
    what: str, principal: Principal, resource: Resource, body: JSONObject, protocol: Protocol, arguments: JSONObject
) -> Action:
    return Action(
        point=METHODS[(CHAT, what)],
        principal=principal,
        verb=CHAT,
        resource=resource,
        protocol=protocol,
        body=body,
        arguments=arguments,
        headers=no_headers,
        side_effect=what == "tool_call",
    )


def _whole(_body: JSON) -> Headers:
    return _WHOLE


def _streamed(_body: JSON) -> Headers:
    return _STREAMED
