"""Anthropic Messages requests: a strictly parsed body in, a checked Request out. Pure.

Everything that goes on is rebuilt from the members named here; nothing else of the body survives.

- What is not named is refused (``params_invalid``): ``mcp_servers`` and ``container`` let the provider
  act behind our back, ``inference_geo`` and ``speed`` change where and at which price it works.
- Tools are the caller's own alone (``type: custom``): a server tool (web search, web fetch, code
  execution, …) runs at the provider, and its traffic never crosses us.
- A few members that change neither content nor effect are dropped.

Source: Anthropic Messages as of anthropic 2.12.0; llm-routing reference §6.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from firewall.core.bounds import JSON_INTEGER
from firewall.core.jsonvalue import JSON, JSONObject
from llm_router import request as checked
from llm_router.blocks import NAME_CHARS, parse_system, signed, without_images
from llm_router.blocks import parse as parse_turns
from llm_router.shape import Rejected, integer, is_name, number, short, text, whole
from llm_router.turns import Counts

TOOLS: Final = 512
MODEL_CHARS: Final = 256
EXAMPLES: Final = 32
STOPS: Final = 64
# The names of a stream's events that we send.
EVENTS: Final = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    }
)
# Hints to a provider's cache or billing: no meaning is lost without them.
DROPPED: Final = frozenset({"cache_control", "service_tier"})
# Known and refused: named in the error, so that the caller learns which member it was.
REFUSED: Final = frozenset(
    {
        "container",
        "context_management",
        "diagnostics",
        "inference_geo",
        "mcp_servers",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
_TOOL: Final = frozenset({"type", "name", "description", "input_schema", "strict", "input_examples"})
# How a tool's input is cut into events, and its place in a cache: we assemble it whole, and cache nothing.
_TOOL_DROPPED: Final = frozenset({"cache_control", "eager_input_streaming"})


@dataclass(frozen=True, slots=True)
class Request(checked.Request):
    """A checked request; see `llm_router.request`. stops: the caller's own stop sequences."""

    stops: frozenset[str] = frozenset()

    def outgoing(self, *, model: str, limit: int, limit_member: str) -> JSONObject:
        """Return the body for the provider. limit_member: not used, the protocol has one spelling."""
        body: JSONObject = {"model": model, "max_tokens": limit, **self.members}
        thinking = body.get("thinking")
        if isinstance(thinking, dict) and isinstance(budget := thinking.get("budget_tokens"), int):
            # Must stay below the limit, which may be lower than what the caller asked for.
            body["thinking"] = {**thinking, "budget_tokens": max(1, min(budget, limit - 1))}
        if self.stream:
            body["stream"] = True
        return body

    def readable(self, body: JSONObject) -> JSONObject:
        """Return an outgoing body without the bytes of its pictures."""
        return {**body, "messages": without_images(body.get("messages"))}

    def intact(self, sent: JSON) -> bool:
        """Return whether every signed block is still as it came: an edited one would be refused, or believed."""
        now = sent.get("messages") if isinstance(sent, dict) else None
        return signed(now) == signed(self.members.get("messages"))


def parse(value: JSON) -> Request:
    """Return the checked request. value: the strictly parsed body. Raises Rejected("params_invalid")."""
    if not isinstance(value, dict):
        raise Rejected
    # null, false and an empty list ask for nothing, whatever they stand at.
    given = {
        name: member
        for name, member in value.items()
        if member is not None and not (name in REFUSED and (member is False or member == []))
    }
    for name in given:
        if name not in _KNOWN:
            raise Rejected(name if name in REFUSED else "")
    counts = Counts()
    members: JSONObject = {"messages": [*parse_turns(given.get("messages"), counts)]}
    if "system" in given:
        members["system"] = parse_system(given["system"])
    names: tuple[str, ...] = ()
    if given.get("tools"):
        tools = _tools(given["tools"])
        names = tuple(str(tool["name"]) for tool in tools)
        members["tools"] = [*tools]
    for name, check in _MEMBERS.items():
        if name in given:
            if not check(given[name]):
                raise Rejected(name)
            members[name] = given[name]
    stream = given.get("stream", False)
    if not isinstance(stream, bool):
        raise Rejected("stream")
    stops = members.get("stop_sequences", [])
    return Request(
        model=text(given.get("model"), MODEL_CHARS, "model"),
        members=members,
        stream=stream,
        limit=integer(given.get("max_tokens"), 1, JSON_INTEGER, "max_tokens"),
        tools=names,
        messages=len(members["messages"]),  # type: ignore[arg-type]
        tool_outputs=counts.tool_outputs,
        images=counts.images,
        image_chars=counts.image_chars,
        stops=frozenset(str(stop) for stop in stops) if isinstance(stops, list) else frozenset(),
    )


# -- tools and other members --------------------------------------------------------------------------


def _tools(value: JSON) -> list[JSONObject]:
    if not isinstance(value, list) or len(value) > TOOLS:
        raise Rejected("tools")
    tools = [_tool(item) for item in value]
    if len({str(tool["name"]) for tool in tools}) != len(tools):  # nobody knows which one a call means
        raise Rejected("tools")
    return tools


def _tool(value: JSON) -> JSONObject:
    if not isinstance(value, dict):
        raise Rejected("tools")
    given: JSONObject = {
        name: member for name, member in value.items() if member is not None and name not in _TOOL_DROPPED
    }
    if given.get("allowed_callers") == ["direct"]:
        del given["allowed_callers"]
    if given.get("defer_loading") is False:
        del given["defer_loading"]
    if (
        not given.keys() <= _TOOL
        or given.pop("type", "custom") != "custom"
        or not is_name(given.get("name"), NAME_CHARS)
    ):
        raise Rejected("tools")
    for name, kind in (("description", str), ("strict", bool)):
        if name in given and not isinstance(given[name], kind):
            raise Rejected("tools")
    examples = given.get("input_examples", [])
    if not isinstance(given.get("input_schema"), dict) or not isinstance(examples, list) or len(examples) > EXAMPLES:
        raise Rejected("tools")
    if not all(isinstance(example, dict) for example in examples):
        raise Rejected("tools")
    return given


def _stops(value: JSON) -> bool:
    return isinstance(value, list) and len(value) <= STOPS and all(short(item, 1024) for item in value)


def _tool_choice(value: JSON) -> bool:
    if not isinstance(value, dict):
        return False
    kind, rest = value.get("type"), value.keys() - {"type"}
    if kind == "none":
        return not rest
    if not isinstance(value.get("disable_parallel_tool_use", False), bool):
        return False
    if kind == "tool":
        return is_name(value.get("name"), NAME_CHARS) and rest <= {"name", "disable_parallel_tool_use"}
    return kind in ("auto", "any") and rest <= {"disable_parallel_tool_use"}


def _thinking(value: JSON) -> bool:
    if not isinstance(value, dict) or value.get("display", "summarized") not in ("summarized", "omitted"):
        return False
    kind, rest = value.get("type"), value.keys() - {"type"}
    if kind == "enabled":
        return whole(value.get("budget_tokens"), 1, JSON_INTEGER) and rest <= {"budget_tokens", "display"}
    if kind == "adaptive":
        return rest <= {"display"}
    return kind in ("disabled", "between_tools") and not rest


def _output_config(value: JSON) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {"effort", "format"}:
        return False
    form = value.get("format")
    if form is not None:
        if not isinstance(form, dict) or form.keys() != {"type", "schema"} or form["type"] != "json_schema":
            return False
        if not isinstance(form["schema"], dict):
            return False
    return value.get("effort") in (None, "low", "medium", "high", "xhigh", "max")


def _metadata(value: JSON) -> bool:
    return isinstance(value, dict) and value.keys() <= {"user_id"} and all(short(v, 512) for v in value.values())


_MEMBERS: Final[dict[str, Callable[[JSON], bool]]] = {
    "tool_choice": _tool_choice,
    "temperature": partial(number, low=0, high=1),
    "top_p": partial(number, low=0, high=1),
    "top_k": partial(whole, low=0, high=JSON_INTEGER),
    "stop_sequences": _stops,
    "thinking": _thinking,
    "output_config": _output_config,
    "metadata": _metadata,
}
_KNOWN: Final = frozenset({"model", "max_tokens", "messages", "system", "tools", "stream", *DROPPED, *_MEMBERS})
