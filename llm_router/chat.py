"""Chat Completions requests: a strictly parsed body in, a checked Request out. Pure.

Everything that goes on is rebuilt from the members named here; nothing else of the body survives.

- What is not named is refused (``params_invalid``), since an unknown member may make the provider act
  behind our back: ``web_search_options`` sends the prompt out, ``functions`` offers tools that nobody
  inspects, ``logprobs`` repeats the text beside the text (llm-routing reference §6.4, §6.6).
- A few members that change neither content nor effect are dropped, and ``store`` is forced to false.
- Images travel as ``data:`` URLs only: any other address is a beacon that the provider would fetch.
- Arguments of earlier tool calls are parsed and written again, so that no escape sequence hides from
  the scanner what the model will read.

Source: OpenAI Chat Completions as of openai 2.54.0.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from firewall.core.bounds import JSON_INTEGER
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import strict_json

MESSAGES: Final = 4096
PARTS: Final = 1024
TOOLS: Final = 512
CALLS: Final = 128
NAME_CHARS: Final = 64
ID_CHARS: Final = 256
MODEL_CHARS: Final = 256
IMAGE_TYPES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")

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


class Rejected(Malformed):
    """A request that breaks a rule; ``param`` names a member of our own lists, never the caller's text."""

    def __init__(self, param: str = "", code: str = "params_invalid") -> None:
        super().__init__(code)
        self.param = param


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request.

    model: the alias as the caller wrote it. limit: tokens of output asked for, 0 when it named none;
    limit_member: which of `LIMITS` it used, or "". include_usage: whether it asked for a usage event.
    image_chars: characters of all data URLs. members: what goes on, without model, stream and limit.
    """

    model: str
    members: JSONObject
    stream: bool = False
    include_usage: bool = False
    limit: int = 0
    limit_member: str = ""
    tools: tuple[str, ...] = ()
    messages: int = 0
    tool_outputs: int = 0
    images: int = 0
    image_chars: int = 0

    def outgoing(self, *, model: str, limit: int, limit_member: str) -> JSONObject:
        """Return the body for the provider: its own model name, a limit always, usage always asked for.

        limit: tokens. limit_member: how this provider spells the limit, used where the caller said none.
        """
        body: JSONObject = {"model": model, **self.members, self.limit_member or limit_member: limit}
        if self.stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return body


@dataclass(slots=True)
class _Counts:
    tool_outputs: int = 0
    images: int = 0
    image_chars: int = 0


def parse(value: JSON) -> Request:
    """Return the checked request. value: the strictly parsed body. Raises Rejected("params_invalid")."""
    if not isinstance(value, dict):
        raise Rejected
    given = {name: member for name, member in value.items() if member is not None}
    for name in given:
        if name not in _KNOWN:
            raise Rejected(name if name in REFUSED and given[name] is not False else "")
    counts = _Counts()
    members: JSONObject = {"messages": _messages(given.get("messages"), counts)}
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
    limits = {_integer(given[name], 1, JSON_INTEGER, name) for name in asked}
    if len(limits) > 1:
        raise Rejected("max_tokens")
    stream = given.get("stream", False)
    if not isinstance(stream, bool) or given.get("n", 1) != 1 or isinstance(given.get("n"), bool):
        raise Rejected("n" if isinstance(stream, bool) else "stream")
    if given.get("modalities", ["text"]) != ["text"]:
        raise Rejected("modalities")
    return Request(
        model=_text(given.get("model"), MODEL_CHARS, "model"),
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


def is_name(value: object) -> bool:
    """Return whether a value can be a function's name: 1–64 of ``A-Z a-z 0-9 _ -``."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= NAME_CHARS
        and value.isascii()
        and value.replace("_", "a").replace("-", "a").isalnum()
    )


def read_arguments(text: str) -> JSONObject:
    """Return a tool call's arguments; providers write "" for none. Raises Malformed when it is no object."""
    if not text.strip():
        return {}
    arguments = strict_json.loads(text.encode())
    if not isinstance(arguments, dict):
        raise Malformed("json_invalid")
    return arguments


def write_arguments(arguments: JSON) -> str:
    """Return the wire form of arguments: JSON inside a string."""
    return strict_json.dumps(arguments).decode()


# -- messages --------------------------------------------------------------------------------------


def _messages(value: JSON, counts: _Counts) -> list[JSON]:
    if not isinstance(value, list) or not 0 < len(value) <= MESSAGES:
        raise Rejected("messages")
    return [_message(item, counts) for item in value]


def _message(value: JSON, counts: _Counts) -> JSONObject:
    role = value.get("role") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(role, str) or role not in _ROLES:
        raise Rejected("messages")
    given = {name: member for name, member in value.items() if member is not None}
    if not given.keys() <= _ROLES[role]:
        raise Rejected("messages")
    out: JSONObject = {"role": role}
    if "name" in given:
        out["name"] = _text(given["name"], 256, "messages")
    if role == "assistant":
        return _assistant(given, out)
    kinds = ("text", "image_url") if role == "user" else ("text",)
    out["content"] = _content(given.get("content"), kinds, counts)
    if role == "tool":
        out["tool_call_id"] = _text(given.get("tool_call_id"), ID_CHARS, "messages")
        counts.tool_outputs += 1
    return out


def _assistant(given: Mapping[str, JSON], out: JSONObject) -> JSONObject:
    if "content" in given:
        out["content"] = _content(given["content"], ("text", "refusal"), _Counts())
    if "refusal" in given:
        if not isinstance(given["refusal"], str):
            raise Rejected("messages")
        out["refusal"] = given["refusal"]
    calls = given.get("tool_calls", [])
    if not isinstance(calls, list) or len(calls) > CALLS:
        raise Rejected("messages")
    if calls:
        out.setdefault("content", None)
        out["tool_calls"] = [_past_call(call) for call in calls]
    elif len(out) == 1:
        raise Rejected("messages")
    return out


def _past_call(value: JSON) -> JSONObject:
    # "index" comes from clients that keep the deltas of a stream; it says nothing in a request.
    if not isinstance(value, dict) or not value.keys() <= {"id", "type", "function", "index"}:
        raise Rejected("messages")
    function = value.get("function")
    if value.get("type", "function") != "function" or not isinstance(function, dict):
        raise Rejected("messages")
    name, arguments = function.get("name"), function.get("arguments", "")
    if not function.keys() <= {"name", "arguments"} or not is_name(name) or not isinstance(arguments, str):
        raise Rejected("messages")
    try:
        again = write_arguments(read_arguments(arguments))
    except Malformed:
        raise Rejected("messages") from None
    call_id = _text(value.get("id"), ID_CHARS, "messages")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": again}}


def _content(value: JSON, kinds: tuple[str, ...], counts: _Counts) -> JSON:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not 0 < len(value) <= PARTS:
        raise Rejected("messages")
    return [_part(part, kinds, counts) for part in value]


def _part(value: JSON, kinds: tuple[str, ...], counts: _Counts) -> JSONObject:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in kinds:
        raise Rejected("messages")
    inner = value.get(kind)
    if value.keys() != {"type", kind}:
        raise Rejected("messages")
    if kind != "image_url":
        if not isinstance(inner, str):
            raise Rejected("messages")
        return {"type": kind, kind: inner}
    if not isinstance(inner, dict) or not inner.keys() <= {"url", "detail"}:
        raise Rejected("messages")
    url, detail = inner.get("url"), inner.get("detail", "auto")
    if not isinstance(url, str) or detail not in ("auto", "low", "high") or not _is_image(url):
        raise Rejected("messages")
    counts.images += 1
    counts.image_chars += len(url)
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def _is_image(url: str) -> bool:
    head, comma, data = url.partition(",")
    if not comma or head not in {f"data:{kind};base64" for kind in IMAGE_TYPES}:
        return False
    try:
        return len(binascii.a2b_base64(data, strict_mode=True)) > 0
    except (binascii.Error, ValueError):
        return False


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


def _number(value: JSON, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _whole(value: JSON, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _integer(value: JSON, low: int, high: int, param: str) -> int:
    if not isinstance(value, int) or not _whole(value, low, high):
        raise Rejected(param)
    return value


def _text(value: JSON, chars: int, param: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= chars:
        raise Rejected(param)
    return value


def _short(value: JSON, chars: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= chars


def _stop(value: JSON) -> bool:
    if isinstance(value, list):
        return 0 < len(value) <= 16 and all(_short(item, 1024) for item in value)
    return _short(value, 1024)


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
    return isinstance(value, dict) and len(value) <= 16 and all(_short(item, 512) for item in value.values())


def _logit_bias(value: JSON) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= 1024
        and all(key.isascii() and key.isdigit() and _number(bias, -100, 100) for key, bias in value.items())
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
    "temperature": partial(_number, low=0, high=2),
    "top_p": partial(_number, low=0, high=1),
    "frequency_penalty": partial(_number, low=-2, high=2),
    "presence_penalty": partial(_number, low=-2, high=2),
    "stop": _stop,
    "seed": partial(_whole, low=-JSON_INTEGER, high=JSON_INTEGER),
    "response_format": _response_format,
    "reasoning_effort": lambda value: value in ("none", "minimal", "low", "medium", "high", "xhigh"),
    "verbosity": lambda value: value in ("low", "medium", "high"),
    "logit_bias": _logit_bias,
    "user": partial(_short, chars=256),
    "metadata": _metadata,
}
_KNOWN: Final = frozenset(
    {"model", "messages", "tools", "stream", "stream_options", "n", "modalities", "store", *LIMITS, *DROPPED, *_MEMBERS}
)
# Members that a message may have, by role. What an answer carried as null comes back as null.
_ROLES: Final[dict[str, frozenset[str]]] = {
    "system": frozenset({"role", "name", "content"}),
    "developer": frozenset({"role", "name", "content"}),
    "user": frozenset({"role", "name", "content"}),
    "assistant": frozenset({"role", "name", "content", "refusal", "tool_calls", "annotations"}),
    "tool": frozenset({"role", "content", "tool_call_id"}),
}
