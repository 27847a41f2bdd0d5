"""LLM traffic as Actions. Pure.

`METHODS` is the whole of what this room moves: a message without a row has no way through.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from firewall.core.action import Action, Headers, Protocol, Resource, no_headers
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.core.principal import Principal
from llm_router.assemble import ToolCall
from llm_router.choose import UPSTREAM, Model
from llm_router.request import Request

CHAT: Final = "chat/completions"
MESSAGES: Final = "messages"
MODELS: Final = "models"

# (verb, what moves) → its point.
METHODS: Final[dict[tuple[str, str], Point]] = {
    (CHAT, "request"): Point.LLM_REQUEST,
    (CHAT, "response"): Point.LLM_RESPONSE,
    (CHAT, "tool_call"): Point.LLM_TOOL_CALL,
    (CHAT, "error"): Point.LLM_ERROR,
    (MESSAGES, "request"): Point.LLM_REQUEST,
    (MESSAGES, "response"): Point.LLM_RESPONSE,
    (MESSAGES, "tool_call"): Point.LLM_TOOL_CALL,
    (MESSAGES, "error"): Point.LLM_ERROR,
    (MODELS, "response"): Point.LLM_MODELS,
}

# The revisions of the Messages API that are read here; a caller that names none gets the first.
ANTHROPIC_VERSIONS: Final = ("2023-06-01", "2026-10-21")
_JSON_TYPE: Final = (b"content-type", b"application/json")
_WHOLE: Final[Headers] = (_JSON_TYPE, (b"accept", b"application/json"))
_STREAMED: Final[Headers] = (_JSON_TYPE, (b"accept", b"text/event-stream"))


@dataclass(frozen=True, slots=True)
class Route:
    """What all Actions of one operation share. own: headers that its providers want beside the credential."""

    verb: str
    version: str
    own: Headers = ()
    http: Protocol = field(init=False)
    sse: Protocol = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "http", Protocol("llm", self.version, "http"))
        object.__setattr__(self, "sse", Protocol("llm", self.version, "sse"))

    def protocol(self, *, stream: bool) -> Protocol:
        """Return the protocol of a whole answer or of a stream."""
        return self.sse if stream else self.http

    def whole(self, _body: JSON) -> Headers:
        """Return the headers of a request for a whole answer."""
        return (*_WHOLE, *self.own)

    def streamed(self, _body: JSON) -> Headers:
        """Return the headers of a request for a stream."""
        return (*_STREAMED, *self.own)


CHAT_ROUTE: Final = Route(CHAT, "openai-chat-1")
MESSAGES_ROUTES: Final = {
    version.encode(): Route(MESSAGES, f"anthropic-{version}", ((b"anthropic-version", version.encode()),))
    for version in ANTHROPIC_VERSIONS
}
MESSAGES_ROUTE: Final = MESSAGES_ROUTES[ANTHROPIC_VERSIONS[0].encode()]


def request_action(
    route: Route, principal: Principal, model: Model, request: Request, body: JSONObject, limit: int
) -> Action:
    """Return the Action of a request on its way to a provider. limit: tokens of output that it may use."""
    return Action(
        point=METHODS[(route.verb, "request")],
        principal=principal,
        verb=route.verb,
        resource=model.resource,
        protocol=route.protocol(stream=request.stream),
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
        headers=route.streamed if request.stream else route.whole,
    )


def response_action(route: Route, principal: Principal, model: Model, body: JSONObject, *, stream: bool) -> Action:
    """Return the Action of a whole answer, or of one stream's text (body {})."""
    return _inwards(route, "response", principal, model.resource, body, {}, stream=stream)


def call_action(
    route: Route, principal: Principal, model: Model, call: ToolCall, body: JSONObject, *, stream: bool
) -> Action:
    """Return the Action of one whole tool call; policy reads the very arguments that are in the body."""
    arguments: JSONObject = {"name": call.name, "arguments": call.arguments}
    return _inwards(route, "tool_call", principal, model.resource, body, arguments, stream=stream)


def error_action(
    route: Route, principal: Principal, model: Model, status: int, body: JSONObject, *, stream: bool
) -> Action:
    """Return the Action of a provider's error text, already in our own shape."""
    return _inwards(route, "error", principal, model.resource, body, {"status": status}, stream=stream)


def models_action(principal: Principal, models: list[Model], *, anthropic: bool = False) -> Action:
    """Return the Action of the list of models that a caller may name. anthropic: in that protocol's shape."""
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
        protocol=(MESSAGES_ROUTE if anthropic else CHAT_ROUTE).http,
        body=_anthropic_list(models) if anthropic else _openai_list(models),
        arguments={"items": items},
        items_at=("data",),
        item_key="id",
        side_effect=False,
    )


def _openai_list(models: list[Model]) -> JSONObject:
    return {
        "object": "list",
        "data": [{"id": m.alias, "object": "model", "created": 0, "owned_by": m.provider.name} for m in models],
    }


def _anthropic_list(models: list[Model]) -> JSONObject:
    entries: list[JSON] = [
        {
            "type": "model",
            "id": m.alias,
            "display_name": m.alias,
            "created_at": "1970-01-01T00:00:00Z",
            "lifecycle": "active",
        }
        for m in models
    ]
    # One page. The ids of its ends stay out: an entry that policy drops would be named by them.
    return {"data": entries, "has_more": False, "first_id": None, "last_id": None}


def _inwards(
    route: Route,
    what: str,
    principal: Principal,
    resource: Resource,
    body: JSONObject,
    arguments: JSONObject,
    *,
    stream: bool,
) -> Action:
    return Action(
        point=METHODS[(route.verb, what)],
        principal=principal,
        verb=route.verb,
        resource=resource,
        protocol=route.protocol(stream=stream),
        body=body,
        arguments=arguments,
        headers=no_headers,
        side_effect=what == "tool_call",
    )
