"""Chat Completions answers: whole ones and stream chunks, read strictly and built anew. Pure.

Only what is read here can reach a client; ids, times and model names of the provider are replaced by
ours. A provider may leave out what it should not (id, role, index), but what it says must have the
right type. One choice: a request never asks for more. ``logprobs`` and ``annotations`` are left out:
they repeat the text in places where it is not held back.

Source: OpenAI Chat Completions as of openai 2.54.0; llm-routing reference §1.1, §6.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from firewall.core.errors import UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject, Path

FINISH: Final = frozenset({"stop", "length", "tool_calls", "content_filter"})
CUT: Final = frozenset({"length", "content_filter"})  # the last tool call may be half a call
TOKENS: Final = 2**32  # more than this in one answer is not a count
CONTENT_AT: Final[Path] = ("choices", 0, "delta", "content")
REFUSAL_AT: Final[Path] = ("choices", 0, "delta", "refusal")
ARGUMENTS_AT: Final[Path] = ("choices", 0, "delta", "tool_calls", 0, "function", "arguments")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the provider counted; cached are part of input, reasoning of output."""

    input: int
    output: int
    cached: int = 0
    reasoning: int = 0

    def document(self) -> JSONObject:
        """Return the ``usage`` object."""
        return {
            "prompt_tokens": self.input,
            "completion_tokens": self.output,
            "total_tokens": self.input + self.output,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of one tool call; index -1 where the provider gave none, "" where a member is absent."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What one chunk says, or a whole answer in one piece. finish: of `FINISH`, or "" while it goes on."""

    content: str = ""
    refusal: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish: str = ""
    usage: Usage | None = None
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Head:
    """What every chunk of an answer repeats, in our own words. created: Unix seconds."""

    id: str
    created: int
    model: str


def parse_chunk(value: JSON) -> Piece:
    """Return what one stream chunk says. Raises UpstreamFault("malformed")."""
    return _parse(value, "delta")


def parse_answer(value: JSON) -> Piece:
    """Return what a whole answer says; it always ends. Raises UpstreamFault("malformed")."""
    piece = _parse(value, "message")
    if piece.empty:
        raise _wrong("an answer without a choice")
    return piece


def parse_usage(value: JSON) -> Usage | None:
    """Return the token counts, or None when there are none that can be believed."""
    if not isinstance(value, dict):
        return None
    given = _count(value, "prompt_tokens", TOKENS)
    made = _count(value, "completion_tokens", TOKENS)
    if given is None or made is None:
        return None
    cached = _detail(value, "prompt_tokens_details", "cached_tokens", given)
    return Usage(given, made, cached, _detail(value, "completion_tokens_details", "reasoning_tokens", made))


def is_error(value: JSON) -> bool:
    """Return whether a chunk or a body is an error object."""
    return isinstance(value, dict) and isinstance(value.get("error"), dict | str)


def error_text(value: JSON) -> tuple[str, str]:
    """Return the provider's message (up to 2,000 characters, else "") and its code where that is a plain word."""
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, str):
        return (error if len(error) <= 2000 else "", "")
    if not isinstance(error, dict):
        return ("", "")
    message, code = error.get("message"), error.get("code")
    plain = isinstance(code, str) and 0 < len(code) <= 64 and code.isascii() and code.isidentifier()
    return (
        message if isinstance(message, str) and len(message) <= 2000 else "",
        code if plain and isinstance(code, str) else "",
    )


# -- building ----------------------------------------------------------------------------------------


def chunk(head: Head, delta: JSONObject, finish: str = "") -> JSONObject:
    """Return one stream chunk."""
    return {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish or None}],
    }


def usage_chunk(head: Head, usage: Usage) -> JSONObject:
    """Return the chunk that carries the usage: it has no choice."""
    return {
        "id": head.id,
        "object": "chat.completion.chunk",
        "created": head.created,
        "model": head.model,
        "choices": [],
        "usage": usage.document(),
    }


def completion(head: Head, piece: Piece, calls: list[JSONObject], usage: Usage) -> JSONObject:
    """Return a whole answer. calls: tool calls in wire form, already decided."""
    message: JSONObject = {
        "role": "assistant",
        "content": piece.content if piece.content or not (calls or piece.refusal) else None,
        "refusal": piece.refusal or None,
    }
    if calls:
        message["tool_calls"] = [*calls]
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "choices": [{"index": 0, "message": message, "finish_reason": ended(piece.finish, calls)}],
        "usage": usage.document(),
    }


def ended(finish: str, calls: list[JSONObject]) -> str:
    """Return the finish reason to tell: calls end an answer with ``tool_calls`` unless it was cut."""
    return "tool_calls" if calls and finish not in CUT else finish


# -- reading -------------------------------------------------------------------------------------------


def _wrong(detail: str) -> UpstreamFault:
    return UpstreamFault("malformed", detail)


def _parse(value: JSON, member: str) -> Piece:
    if not isinstance(value, dict):
        raise _wrong("not an object")
    usage = parse_usage(value.get("usage"))
    choices = value.get("choices")
    if choices == [] or (choices is None and usage is not None):
        return Piece(usage=usage, empty=True)
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise _wrong("not one choice")
    choice = choices[0]
    inner = choice.get(member, {})
    if choice.get("index", 0) != 0 or not isinstance(inner, dict):
        raise _wrong("a choice that was not asked for")
    if inner.get("role", "assistant") not in ("assistant", "", None) or inner.get("function_call") is not None:
        raise _wrong("a role or call that was not asked for")
    calls = inner.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise _wrong("tool calls of another type")
    return Piece(
        _optional(inner, "content"),
        _optional(inner, "refusal"),
        tuple(_call(item) for item in calls or ()),
        _finish(choice.get("finish_reason"), whole=member == "message"),
        usage,
    )


def _finish(value: JSON, *, whole: bool) -> str:
    if value is None or value == "":
        return "stop" if whole else ""
    if not isinstance(value, str) or value == "function_call":
        raise _wrong("an unknown finish reason")
    return value if value in FINISH else "stop"


def _optional(value: JSONObject, name: str) -> str:
    text = value.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise _wrong("text of another type")
    return text


def _call(value: JSON) -> CallPiece:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict):
        raise _wrong("a tool call of another type")
    index = value.get("index")
    if value.get("type") not in (None, "", "function") or isinstance(index, bool):
        raise _wrong("a tool call of another type")
    if index is not None and (not isinstance(index, int) or index < 0):
        raise _wrong("a tool call's index")
    return CallPiece(
        -1 if index is None else index,
        _optional(value, "id"),
        _optional(function, "name"),
        _optional(function, "arguments"),
    )


def _detail(value: JSONObject, group: str, name: str, most: int) -> int:
    details = value.get(group)
    return (_count(details, name, most) if isinstance(details, dict) else None) or 0


def _count(value: JSONObject, name: str, most: int) -> int | None:
    count = value.get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= most else None
