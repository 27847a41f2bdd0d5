"""The events of a streamed message: a machine that reads them strictly, block by block. Pure.

    start ─▶ ( block: start ─▶ delta* ─▶ stop )* ─▶ delta with the reason to stop ─▶ stop

Blocks come one after the other, their index counts up; ``ping`` may stand anywhere and says nothing;
events of an unknown type are passed over, as the protocol asks, and never leave. Any other order, a
block or a delta that was not asked for, or text that resumes after another kind of block ends the
stream as malformed. Bounds: 1,024 blocks, 8 MiB of text, 1 MiB of input per tool call.

Source: Anthropic Messages streaming as of anthropic 2.12.0; llm-routing reference §6.5.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from llm_router.answer import Usage
from llm_router.assemble import ANSWER_CHARS, ARGUMENT_CHARS, ToolCall
from llm_router.message_answer import (
    BLOCKS,
    Block,
    Redacted,
    Text,
    Thinking,
    optional,
    parse_stop,
    parse_usage,
    wrong,
)
from llm_router.shape import read_arguments, write_arguments


@dataclass(frozen=True, slots=True)
class Begun:
    """The message began; usage: what the provider counted of the input, where it said so."""

    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Opened:
    """A block of text or thinking began. kind: ``text`` or ``thinking``."""

    kind: str


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the open block of text or thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """A block is whole.

    torn: a tool call whose input is not JSON. bare: one that came without any input. size: UTF-8 bytes
    of a tool call's input, as it came.
    """

    block: Block
    torn: bool = False
    bare: bool = False
    size: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The reason to stop; usage: of the whole answer."""

    stop: str
    stop_sequence: str
    usage: Usage | None


Step: TypeAlias = "Begun | Opened | Said | Closed | Ended"

_MEMBER: Final = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
}


@dataclass(slots=True)
class _Open:
    kind: str
    start: JSONObject
    parts: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)
    chars: int = 0


class Events:
    """Reads one stream. ``done``: whether its last event came."""

    __slots__ = ("_begun", "_blocks", "_chars", "_open", "_stop", "_text_over", "_texted", "_usage", "done")

    def __init__(self) -> None:
        self._begun = False
        self._blocks = 0
        self._open: _Open | None = None
        self._chars = 0
        self._texted = False
        self._text_over = False
        self._usage: Usage | None = None
        self._stop = ""
        self.done = False

    def feed(self, value: JSON) -> list[Step]:
        """Return what one event says. Raises UpstreamFault: malformed, too_large."""
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(kind, str):
            raise wrong("not an event")
        if kind == "error":
            raise wrong("an error that says nothing")
        if kind == "message_start":
            return self._start(value)
        if kind not in ("content_block_start", "content_block_delta", "content_block_stop", *_LAST):
            return []
        if not self._begun or self.done:
            raise wrong("an event out of order")
        if kind == "content_block_start":
            return self._open_block(value)
        if kind == "content_block_delta":
            return self._delta(value)
        if kind == "content_block_stop":
            return [self._close_block(value)]
        if self._open is not None:
            raise wrong("an end inside a block")
        return self._end(value) if kind == "message_delta" else self._last()

    def _start(self, value: JSONObject) -> list[Step]:
        message = value.get("message")
        if self._begun or not isinstance(message, dict) or message.get("role", "assistant") != "assistant":
            raise wrong("a message that begins twice, or as no message")
        if message.get("content") not in (None, []):
            raise wrong("a message that begins with content")
        self._begun = True
        usage = message.get("usage")
        # Some name the input alone here.
        self._usage = parse_usage({"output_tokens": 0, **usage} if isinstance(usage, dict) else None)
        return [Begun(self._usage)]

    def _open_block(self, value: JSONObject) -> list[Step]:
        block = value.get("content_block")
        if self._open is not None or self._stop or not isinstance(block, dict) or not self._is_at(value):
            raise wrong("a block out of order")
        kind = block.get("type")
        if not isinstance(kind, str) or kind not in ("text", "thinking", "redacted_thinking", "tool_use"):
            raise wrong("a block that was not asked for")
        if self._blocks >= BLOCKS:
            raise UpstreamFault("too_large", "too many blocks")
        self._open = _Open(kind, block)
        self._text_over = self._text_over or (self._texted and kind != "text")
        if kind == "thinking":
            self._sign(self._open, optional(block, "signature"))
        if kind not in ("text", "thinking"):
            return []
        return [Opened(kind), *self._say(self._open, optional(block, kind))]

    def _delta(self, value: JSONObject) -> list[Step]:
        delta, block = value.get("delta"), self._open
        if block is None or not isinstance(delta, dict) or not self._is_at(value):
            raise wrong("a piece of no block")
        kind = delta.get("type")
        if kind == "citations_delta" and block.kind == "text":
            return []
        belongs, member = _MEMBER.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
        if belongs != block.kind:
            raise wrong("a piece of another kind of block")
        text = optional(delta, member)
        if kind == "signature_delta":
            self._sign(block, text)
            return []
        return self._say(block, text)

    def _say(self, block: _Open, text: str) -> list[Step]:
        if not text:
            return []
        self._count(block, text)
        if block.kind == "text":
            if self._text_over:
                raise wrong("text that resumes after another block")
            self._texted = True
        block.parts.append(text)
        return [Said(text)] if block.kind != "tool_use" else []

    def _sign(self, block: _Open, text: str) -> None:
        self._count(block, text)
        if text:
            block.signature.append(text)

    def _count(self, block: _Open, text: str) -> None:
        block.chars += len(text)
        self._chars += len(text)
        if self._chars > ANSWER_CHARS or (block.kind == "tool_use" and block.chars > ARGUMENT_CHARS):
            raise UpstreamFault("too_large", "the answer is too long")

    def _close_block(self, value: JSONObject) -> Step:
        block = self._open
        if block is None or not self._is_at(value):
            raise wrong("an end of no block")
        self._open = None
        place = self._blocks
        self._blocks += 1
        if block.kind == "text":
            return Closed(Text("".join(block.parts)))
        if block.kind == "thinking":
            return Closed(Thinking("".join(block.parts), "".join(block.signature)))
        if block.kind == "redacted_thinking":
            data = optional(block.start, "data")
            self._count(block, data)
            return Closed(Redacted(data))
        return _call(block, place)

    def _end(self, value: JSONObject) -> list[Step]:
        delta = value.get("delta")
        if self._stop or not isinstance(delta, dict):
            raise wrong("a message that ends twice, or without a reason")
        self._stop = parse_stop(delta.get("stop_reason"))
        if not self._stop:
            return []  # says something of the message while it goes on: nothing that we tell
        return [Ended(self._stop, optional(delta, "stop_sequence"), parse_usage(value.get("usage"), self._usage))]

    def _last(self) -> list[Step]:
        if not self._stop:
            raise wrong("a last event before any reason to stop")
        self.done = True
        return []

    def _is_at(self, value: JSONObject) -> bool:
        index = value.get("index")
        return isinstance(index, int) and not isinstance(index, bool) and index == self._blocks


_LAST: Final = ("message_delta", "message_stop")


def _call(block: _Open, place: int) -> Closed:
    """Return a whole tool call; its input comes in the start of its block, or in pieces, never both."""
    start, text = block.start, "".join(block.parts)
    given = start.get("input", {})
    if not isinstance(given, dict) or (given and text):
        raise wrong("a call with two inputs")
    call_id, name = optional(start, "id"), optional(start, "name")
    bare = not given and not text
    size = len((text or write_arguments(given)).encode())
    try:
        arguments = given or read_arguments(text)
    except Malformed:
        return Closed(ToolCall(place, call_id, name, {}), torn=True, size=size)
    return Closed(ToolCall(place, call_id, name, arguments), bare=bare, size=size)
