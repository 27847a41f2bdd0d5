"""Anthropic answers: whole ones read strictly, and the messages and events that we build. Pure.

Only what is read here can reach a client; the provider's ids and model names are replaced by ours.
Citations are left out: they repeat text in places where it is not held back. Blocks of the provider's
own tools were never asked for, so an answer with one is refused.

All text of an answer stands together: text that resumes after another kind of block is refused, since
a match could be pulled apart by what stands between. Neighbouring text blocks become one.

Source: Anthropic Messages as of anthropic 2.12.0; llm-routing reference §6.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from firewall.core.errors import UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject, Path
from llm_router.answer import TOKENS, Head, Usage
from llm_router.assemble import ANSWER_CHARS, ToolCall
from llm_router.shape import CALLS, ID_CHARS, write_arguments

STOPS: Final = frozenset(
    {"end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "model_context_window_exceeded"}
)
CUT: Final = frozenset({"max_tokens", "refusal", "model_context_window_exceeded"})  # the last call may be half a call
BLOCKS: Final = 1024
TEXT_AT: Final[Path] = ("delta", "text")
THINKING_AT: Final[Path] = ("delta", "thinking")
INPUT_AT: Final[Path] = ("delta", "partial_json")


@dataclass(frozen=True, slots=True)
class Text:
    """Text for the reader."""

    text: str

    def document(self) -> JSONObject:
        """Return the block."""
        return {"type": "text", "text": self.text}


@dataclass(frozen=True, slots=True)
class Thinking:
    """What the model thought, signed: any edit breaks the turn that comes back with it."""

    thinking: str
    signature: str

    def document(self) -> JSONObject:
        """Return the block."""
        return {"type": "thinking", "thinking": self.thinking, "signature": self.signature}


@dataclass(frozen=True, slots=True)
class Redacted:
    """Thinking that the provider encrypted."""

    data: str

    def document(self) -> JSONObject:
        """Return the block."""
        return {"type": "redacted_thinking", "data": self.data}


Block: TypeAlias = "Text | Thinking | Redacted | ToolCall"


@dataclass(frozen=True, slots=True)
class Message:
    """What a whole answer says. stop: of `STOPS`."""

    blocks: tuple[Block, ...]
    stop: str
    stop_sequence: str = ""
    usage: Usage | None = None

    @property
    def size(self) -> int:
        """UTF-8 bytes of its text, thinking and calls: what our own count of tokens is made from."""
        return sum(size(block) for block in self.blocks)


def parse_answer(value: JSON) -> Message:
    """Return what a whole answer says. Raises UpstreamFault: malformed, too_large."""
    if not isinstance(value, dict) or value.get("type", "message") != "message":
        raise wrong("not a message")
    content = value.get("content")
    if value.get("role", "assistant") != "assistant" or not isinstance(content, list):
        raise wrong("a message of another shape")
    if len(content) > BLOCKS:
        raise UpstreamFault("too_large", "too many blocks")
    blocks: list[Block] = []
    for item in content:
        block = _block(item, len(blocks))
        if isinstance(block, Text):
            if blocks and isinstance(blocks[-1], Text):
                blocks[-1] = Text(blocks[-1].text + block.text)
                continue
            if block.text and any(isinstance(before, Text) and before.text for before in blocks):
                raise wrong("text that resumes after another block")
        blocks.append(block)
    if sum(_chars(block) for block in blocks) > ANSWER_CHARS:
        raise UpstreamFault("too_large", "the answer is too long")
    stop = parse_stop(value.get("stop_reason")) or "end_turn"
    if stop in CUT and blocks and isinstance(blocks[-1], ToolCall):
        blocks.pop()  # nobody can tell whether it is whole
    return Message(tuple(blocks), stop, optional(value, "stop_sequence"), parse_usage(value.get("usage")))


def parse_stop(value: JSON) -> str:
    """Return a reason to stop, "" where none is given; an unknown one is told as ``end_turn``."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise wrong("a reason to stop of another type")
    return value if value in STOPS else "end_turn"


def parse_usage(value: JSON, before: Usage | None = None) -> Usage | None:
    """Return the token counts, or None when there are none that can be believed.

    Tokens written to or read from the provider's cache are part of the input. before: what the start
    of a stream said, for its end, which may name the output alone.
    """
    if not isinstance(value, dict):
        return None
    made = _count(value, "output_tokens")
    given = _count(value, "input_tokens")
    if made is None or (given is None and before is None):
        return None
    details = value.get("output_tokens_details")
    thought = min(made, (_count(details, "thinking_tokens") or 0) if isinstance(details, dict) else 0)
    if given is None and before is not None:
        return Usage(before.input, made, before.cached, thought)
    read = _count(value, "cache_read_input_tokens") or 0
    written = _count(value, "cache_creation_input_tokens") or 0
    return Usage((given or 0) + read + written, made, read, thought)


def check_calls(blocks: Sequence[Block], answer_id: str, offered: frozenset[str]) -> list[Block]:
    """Return the blocks with an id in every tool call. Raises UpstreamFault("malformed").

    offered: the names of the tools that the request had; a call to any other was never possible.
    """
    out: list[Block] = []
    ids: set[str] = set()
    for block in blocks:
        if isinstance(block, ToolCall):
            if block.name not in offered or len(block.id) > ID_CHARS:
                raise wrong("a call to a tool that was not offered")
            block = ToolCall(len(ids), block.id or f"toolu_{answer_id}_{len(ids)}", block.name, block.arguments)
            if block.id in ids:
                raise wrong("two tool calls with one id")
            ids.add(block.id)
            if len(ids) > CALLS:
                raise UpstreamFault("too_large", "too many tool calls")
        out.append(block)
    return out


# -- building ----------------------------------------------------------------------------------------


def call_document(call: ToolCall) -> JSONObject:
    """Return a tool call as its block: what is inspected and decided, and what leaves."""
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}


def usage_document(usage: Usage) -> JSONObject:
    """Return the ``usage`` object; what was written to a cache counts as plain input."""
    return {
        "input_tokens": usage.input - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
    }


def message(head: Head, content: list[JSONObject], usage: Usage, stop: str = "", stop_sequence: str = "") -> JSONObject:
    """Return a message: a whole answer, or the empty one that a stream begins with."""
    return {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": [*content],
        "stop_reason": stop or None,
        "stop_sequence": stop_sequence or None,
        "usage": usage_document(usage),
    }


def start_event(head: Head, usage: Usage) -> JSONObject:
    """Return the event that opens a stream."""
    return {"type": "message_start", "message": message(head, [], usage)}


def block_start(index: int, block: JSONObject) -> JSONObject:
    """Return the event that opens a block; what streams later stands in ``block`` as empty."""
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, member: str, text: str) -> JSONObject:
    """Return an event with a piece of a block."""
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, member: text}}


def block_stop(index: int) -> JSONObject:
    """Return the event that ends a block."""
    return {"type": "content_block_stop", "index": index}


def message_delta(stop: str, stop_sequence: str, usage: Usage) -> JSONObject:
    """Return the event with the reason to stop and the whole usage."""
    return {
        "type": "message_delta",
        "delta": {"stop_reason": stop, "stop_sequence": stop_sequence or None},
        "usage": usage_document(usage),
    }


MESSAGE_STOP: Final[JSONObject] = {"type": "message_stop"}


def ended(stop: str, *, calls: bool) -> str:
    """Return the reason to tell: calls end an answer with ``tool_use`` unless it was cut; without any it is none."""
    if calls:
        return stop if stop in CUT else "tool_use"
    return "end_turn" if stop == "tool_use" else stop


# -- reading -------------------------------------------------------------------------------------------


def wrong(detail: str) -> UpstreamFault:
    """Return the fault of an answer that breaks the protocol."""
    return UpstreamFault("malformed", detail)


def optional(value: JSONObject, name: str) -> str:
    """Return a member that is text, "" where it is absent or null. Raises UpstreamFault("malformed")."""
    text = value.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise wrong("text of another type")
    return text


def size(block: Block) -> int:
    """Return the UTF-8 bytes of what a block says."""
    if isinstance(block, Text):
        return len(block.text.encode())
    if isinstance(block, Thinking):
        return len(block.thinking.encode())
    if isinstance(block, Redacted):
        return len(block.data)
    return len(block.name) + len(write_arguments(block.arguments).encode())


def _chars(block: Block) -> int:
    if isinstance(block, Thinking):
        return len(block.thinking) + len(block.signature)
    return len(block.text) if isinstance(block, Text) else len(block.data) if isinstance(block, Redacted) else 0


def _block(value: JSON, place: int) -> Block:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(kind, str):
        raise wrong("a block of another shape")
    if kind == "text":
        return Text(optional(value, "text"))
    if kind == "thinking":
        return Thinking(optional(value, "thinking"), optional(value, "signature"))
    if kind == "redacted_thinking":
        return Redacted(optional(value, "data"))
    arguments = value.get("input")
    if kind != "tool_use" or not isinstance(arguments, dict):
        raise wrong("a block that was not asked for")
    return ToolCall(place, optional(value, "id"), optional(value, "name"), arguments)


def _count(value: JSONObject, name: str) -> int | None:
    count = value.get(name)
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= TOKENS else None
