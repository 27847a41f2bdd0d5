"""Pieces of an answer put together: tool calls by index, text in one order, both bounded. Pure.

A tool call means nothing until it is whole, so its pieces are kept here and leave as one decided call.
Providers differ (llm-routing reference §1.1): some repeat id and name on every piece, some send the
whole call once more at the end, some give no index or no id.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from firewall.core.bounds import MIB
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from llm_router.answer import CallPiece
from llm_router.shape import CALLS, ID_CHARS, is_name, read_arguments, write_arguments

ARGUMENT_CHARS: Final = 1 * MIB
ANSWER_CHARS: Final = 8 * MIB


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A whole tool call with its arguments read."""

    index: int
    id: str
    name: str
    arguments: JSONObject

    def document(self) -> JSONObject:
        """Return the call with its arguments as JSON: what is inspected and decided."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def wire_form(document: JSONObject) -> JSONObject:
    """Return a decided call as the protocol has it: arguments are JSON in a string.

    Raises UpstreamFault("malformed") when an obligation made something else of it.
    """
    function = document.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        raise UpstreamFault("malformed", "a tool call lost its shape")
    return {**document, "function": {**function, "arguments": write_arguments(function["arguments"])}}


@dataclass(slots=True)
class _Open:
    id: str = ""
    name: str = ""
    parts: list[str] = field(default_factory=list)
    chars: int = 0


class ToolCalls:
    """Collects the pieces of one answer's tool calls. Bounds: 128 calls, 1 MiB of arguments each."""

    __slots__ = ("_calls", "_last")

    def __init__(self) -> None:
        self._calls: dict[int, _Open] = {}
        self._last = -1

    def __len__(self) -> int:
        return len(self._calls)

    def feed(self, piece: CallPiece) -> None:
        """Take one piece. Raises UpstreamFault: malformed, too_large."""
        index = piece.index if piece.index >= 0 else self._place(piece)
        call = self._calls.get(index)
        if call is None:
            if len(self._calls) >= CALLS or index >= CALLS:
                raise UpstreamFault("too_large", "too many tool calls")
            call = self._calls[index] = _Open()
        self._last = index
        if piece.id and call.id and piece.id != call.id:
            raise UpstreamFault("malformed", "two ids for one tool call")
        if piece.name and call.name and piece.name != call.name:
            raise UpstreamFault("malformed", "two names for one tool call")
        call.id = call.id or piece.id
        call.name = call.name or piece.name
        if not piece.arguments or self._is_summary(call, piece.arguments):
            return
        call.chars += len(piece.arguments)
        if call.chars > ARGUMENT_CHARS:
            raise UpstreamFault("too_large", "the arguments of a tool call are too long")
        call.parts.append(piece.arguments)

    def finish(self, answer_id: str, offered: frozenset[str], *, cut: bool = False) -> list[ToolCall]:
        """Return the whole calls by index.

        answer_id: what an id is made from where the provider gave none. offered: the names of the
        tools that the request had; a call to any other was never possible. cut: the answer ended at its
        limit, so that a call which is not whole is left out instead of being an error.
        Raises UpstreamFault("malformed").
        """
        out: list[ToolCall] = []
        for _, call in sorted(self._calls.items()):
            place = len(out)
            if not is_name(call.name) or call.name not in offered or len(call.id) > ID_CHARS:
                if cut:
                    continue
                raise UpstreamFault("malformed", "a call to a tool that was not offered")
            try:
                arguments = read_arguments("".join(call.parts))
            except Malformed:
                if cut:
                    continue
                raise UpstreamFault("malformed", "arguments that are not a JSON object") from None
            out.append(ToolCall(place, call.id or f"call_{answer_id}_{place}", call.name, arguments))
        if len({call.id for call in out}) != len(out):
            raise UpstreamFault("malformed", "two tool calls with one id")
        return out

    def _place(self, piece: CallPiece) -> int:
        """Where a piece without an index belongs: a new id opens a call, anything else goes on."""
        for index, call in self._calls.items():
            if piece.id and call.id == piece.id:
                return index
        return self._last + 1 if piece.id or self._last < 0 else self._last

    @staticmethod
    def _is_summary(call: _Open, text: str) -> bool:
        """Whether a piece is the whole call once more: nothing may follow a complete object."""
        if len(text) != call.chars or "".join(call.parts) != text:
            return False
        try:
            read_arguments(text)
        except Malformed:
            return False
        return bool(text.strip())


class Text:
    """The order and the bound of an answer's text: content, then refusal, never back.

    One inspector reads both as one text; if they could alternate, a match could be pulled apart.
    """

    __slots__ = ("_chars", "_refusing")

    def __init__(self) -> None:
        self._chars = 0
        self._refusing = False

    def feed(self, content: str, refusal: str) -> None:
        """Take one chunk's text. Raises UpstreamFault: malformed (alternating), too_large (8 MiB)."""
        if content and self._refusing:
            raise UpstreamFault("malformed", "content after a refusal")
        self._refusing = self._refusing or bool(refusal)
        self._chars += len(content) + len(refusal)
        if self._chars > ANSWER_CHARS:
            raise UpstreamFault("too_large", "the answer is too long")
