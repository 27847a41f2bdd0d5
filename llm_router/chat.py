"""Chat Completions requests: a strictly parsed body in, a checked Request out. Pure.

Everything that goes on is rebuilt from the members named here; nothing else of the body survives.

- What is not named is refused (``params_invalid``), since an unknown member may make the provider act
  behind our back: ``web_search_options`` sends the prompt out, ``functions`` offers tools that nobody
  inspects, ``logprobs`` repeats the text beside the text (llm-routing reference §6.4, §6.6).
- A few members that change neither content nor effect are dropped, and ``store`` is forced to false.

Source: OpenAI Chat Completions as of openai 2.54.0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from firewall.core.bounds import JSON_INTEGER
from firewall.core.jsonvalue import JSON, JSONObject
from llm_router import request as checked
from llm_router.shape import Rejected, integer, is_name, number, short, text, whole
from llm_router.turns import Counts, without_images
from llm_router.turns import parse as parse_messages

TOOLS: Final = 512
MODEL_CHARS: Final = 256

LIMITS: Final = ("max_completion_tokens", "max_tokens")
# Hints to a provider's cache or billing: they change no answer, and no meaning is lost without them.
DROPPED: Final = frozenset(
    {"prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier", "service_tier"}
)
# Known and refused: named in the error, so that the caller learns which member it was.
REFUSED: Final = frozenset(
    {
        "audio",
        "function_call",
        "functions",
        "logprobs",
        "moderation",
        "prediction",
        "top_logprobs",
        "web_search_options",
    }
)


@dataclass(frozen=True, slots=True)
class Request(checked.Request):
    """A checked request; see `llm_router.request`.

    limit_member: which of `LIMITS` it used, or "". include_usage: whether it asked for a usage event.
    """

    include_usage: bool = False
    limit_member: str = ""

    def outgoing(self, *, model: str, limit: int, limit_member: str) -> JSONObject:
        """Return the body for the provider; usage is always asked for. limit_member: used where the caller said none."""
        body: JSONObject = {"model": model, **self.members, self.limit_member or limit_member: limit}
        if self.stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return body

    def readable(self, body: JSONObject) -> JSONObject:
        """Return an outgoing body without the bytes of its pictures."""
        return {**body, "messages": without_images(body.get("messages"))}


def parse(value: JSON) -> Request:
    """Return the checked request. value: the strictly parsed body. Raises Rejected("params_invalid")."""
    if not isinstance(value, dict):
        raise Rejected
    # null and false ask for nothing, whatever they stand at.
    given = {
        name: member
        for name, member in value.items()
        if member is not None and not (member is False and name in REFUSED)
    }
    for name in given:
        if name not in _KNOWN:
            raise Rejected(name if name in REFUSED else "")
    counts = Counts()
    members: JSONObject = {"messages": parse_messages(given.get("messages"), counts)}
    names: tuple[str, ...] = ()
    if "tools" in given:
        tools = _tools(given["tools"])
        names = tuple(str(tool["function"]["name"]) for tool in tools)  # type: ignore[call-overload,index]
        members["tools"] = [*tools]
    for name, check in _MEMBERS.items():
        if name in given:
            members[name] = _checked(name, check, given[name])
    if "store" in given:
        members["store"] = False
    asked = [name for name in LIMITS if name in given]
    limits = {integer(given[name], 1, JSON_INTEGER, name) for name in asked}
    if len(limits) > 1:
        raise Rejected("max_tokens")
    stream = given.get("stream", False)
    if not isinstance(stream, bool) or given.get("n", 1) != 1 or isinstance(given.get("n"), bool):
        raise Rejected("n" if isinstance(stream, bool) else "stream")
    if given.get("modalities", ["text"]) != ["text"]:
        raise Rejected("modalities")
    return Request(
        model=text(given.get("model"), MODEL_CHARS, "model"),
        members=members,
        stream=stream,
        include_usage=_include_usage(given.get("stream_options", {}), stream),
        limit=limits.pop() if limits else 0,
        limit_member=asked[0] if asked else "",
        tools=names,
        messages=len(members["messages"]),  # type: ignore[arg-type]
        tool_outputs=counts.tool_outputs,
        images=counts.images,
        image_chars=counts.image_chars,
    )


# -- tools and other members --------------------------------------------------------------------------


def _tools(value: JSON) -> list[JSONObject]:
    if not isinstance(value, list) or not 0 < len(value) <= TOOLS:
        raise Rejected("tools")
    tools = [_tool(item) for item in value]
    names = {str(tool["function"]["name"]) for tool in tools}  # type: ignore[call-overload,index]
    if len(names) != len(tools):  # two definitions under one name: nobody knows which one a call means
        raise Rejected("tools")
    return tools


def _tool(value: JSON) -> JSONObject:
    if not isinstance(value, dict) or value.keys() != {"type", "function"} or value["type"] != "function":
        raise Rejected("tools")
    function = value["function"]
    if not isinstance(function, dict) or not function.keys() <= {"name", "description", "parameters", "strict"}:
        raise Rejected("tools")
    out: JSONObject = {}
    for name, kind in (("name", str), ("description", str), ("parameters", dict), ("strict", bool)):
        member = function.get(name)
        if member is not None:
            if not isinstance(member, kind):
                raise Rejected("tools")
            out[name] = member
    if not is_name(out.get("name")):
        raise Rejected("tools")
    return {"type": "function", "function": out}


def _checked(name: str, check: Callable[[JSON], bool], value: JSON) -> JSON:
    if not check(value):
        raise Rejected(name)
    return value


def _stop(value: JSON) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= 16 and all(short(item, 1024) for item in value)
    return short(value, 1024)


def _tool_choice(value: JSON) -> bool:
    if isinstance(value, str):
        return value in ("none", "auto", "required")
    if not isinstance(value, dict) or value.keys() != {"type", "function"} or value["type"] != "function":
        return False
    function = value["function"]
    return isinstance(function, dict) and function.keys() == {"name"} and is_name(function["name"])


def _response_format(value: JSON) -> bool:
    if not isinstance(value, dict):
        return False
    if value.get("type") in ("text", "json_object"):
        return value.keys() == {"type"}
    schema = value.get("json_schema")
    return (
        value.get("type") == "json_schema"
        and value.keys() == {"type", "json_schema"}
        and isinstance(schema, dict)
        and schema.keys() <= {"name", "description", "schema", "strict"}
        and is_name(schema.get("name"))
    )


def _metadata(value: JSON) -> bool:
    return isinstance(value, dict) and len(value) <= 16 and all(short(item, 512) for item in value.values())


def _logit_bias(value: JSON) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 1024
        and all(key.isascii() and key.isdigit() and number(bias, -100, 100) for key, bias in value.items())
    )


def _include_usage(value: JSON, stream: bool) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {"include_usage", "include_obfuscation"}:
        raise Rejected("stream_options")
    if (value and not stream) or not all(isinstance(member, bool) for member in value.values()):
        raise Rejected("stream_options")
    return value.get("include_usage") is True


_MEMBERS: Final[dict[str, Callable[[JSON], bool]]] = {
    "tool_choice": _tool_choice,
    "parallel_tool_calls": lambda value: isinstance(value, bool),
    "temperature": partial(number, low=0, high=2),
    "top_p": partial(number, low=0, high=1),
    "frequency_penalty": partial(number, low=-2, high=2),
    "presence_penalty": partial(number, low=-2, high=2),
    "stop": _stop,
    "seed": partial(whole, low=-JSON_INTEGER, high=JSON_INTEGER),
    "response_format": _response_format,
    "reasoning_effort": lambda value: value in ("none", "minimal", "low", "medium", "high", "xhigh"),
    "verbosity": lambda value: value in ("low", "medium", "high"),
    "logit_bias": _logit_bias,
    "user": partial(short, chars=256),
    "metadata": _metadata,
}
_KNOWN: Final = frozenset(
    {"model", "messages", "tools", "stream", "stream_options", "n", "modalities", "store", *LIMITS, *DROPPED, *_MEMBERS}
)
