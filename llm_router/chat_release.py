"""Chat Completions answers on their way out: whole ones, and streams chunk by chunk.

Tool calls of a stream follow its text as one event each, then the finish reason, then the usage.
"""

from __future__ import annotations

from typing import Final

from firewall.core.errors import UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared, Refusal
from llm_router import answer as ans
from llm_router.answer import Piece
from llm_router.assemble import Text, ToolCalls, wire_form
from llm_router.chat import Request
from llm_router.release import Answer, Outflow, clear_seen

_CALLS_PREFIX: Final = "/choices/0/message/tool_calls/"
_ARGUMENTS_SUFFIX: Final = "/function/arguments"


class ChatAnswer(Answer):
    """One chat's answer."""

    async def whole(self, value: JSON) -> Cleared | Refusal:
        """Return the whole answer, or the refusal; see `Answer.whole`."""
        piece = ans.parse_answer(value)
        self.tally.usage = piece.usage
        self.tally.output_bytes += _size(piece)
        # Both texts together: `whole` may have content and a refusal side by side, each read on its own.
        Text().feed(piece.content, piece.refusal)
        calls = ToolCalls()
        for call in piece.calls:
            calls.feed(call)
        decided = await self.decide_calls(calls, piece.finish, stream=False)
        if isinstance(decided, Refusal):
            return decided
        body = ans.completion(self.head, piece, decided, self.tally.actual())
        action = self.action(body, stream=False)
        # Arguments were inspected parsed, at their own point; as a string they would be judged twice.
        findings = [
            f
            for f in await self.guard.inspect(action, body)
            if not (f.pointer.startswith(_CALLS_PREFIX) and f.pointer.endswith(_ARGUMENTS_SUFFIX))
        ]
        return await clear_seen(self.guard, action, self.exchange, findings)

    async def open(self) -> ChatStream | Refusal:
        """Decide whether the answer may begin to stream."""
        flow = await self.outflow()
        return flow if isinstance(flow, Refusal) else ChatStream(self, flow)

    async def decide_calls(self, calls: ToolCalls, finish: str, *, stream: bool) -> list[JSONObject] | Refusal:
        """Return the whole tool calls in wire form, each decided; the first refusal refuses all of them."""
        out: list[JSONObject] = []
        answer_id = self.head.id.removeprefix("chatcmpl-")
        for call in calls.finish(answer_id, self.offered, cut=finish in ans.CUT):
            decided = await self.decide(call, call.document(), stream=stream)
            if isinstance(decided, Refusal):
                return decided
            out.append(wire_form(decided))
        return out


class ChatStream:
    """A streamed answer. Make it with `ChatAnswer.open`; take every chunk in order; flush; finish it."""

    def __init__(self, answer: ChatAnswer, flow: Outflow) -> None:
        self._answer = answer
        self._flow = flow
        self._calls = ToolCalls()
        self._text = Text()
        self._opened = False
        self._finish = ""
        self._begin_body = ans.chunk(answer.head, {"role": "assistant", "content": ""})

    async def take(self, value: JSON) -> Refusal | None:
        """Take one chunk. Raises UpstreamFault."""
        piece = ans.parse_chunk(value)
        tally = self._answer.tally
        if piece.usage is not None:
            tally.usage = piece.usage
        if piece.empty:
            return None
        if self._finish and (piece.content or piece.refusal or piece.calls):
            raise UpstreamFault("malformed", "an answer that goes on after its end")
        tally.output_bytes += _size(piece)
        self._text.feed(piece.content, piece.refusal)
        for call in piece.calls:
            self._calls.feed(call)
        return await self._events(piece)

    async def flush(self) -> Refusal | None:
        """See `AnswerStream.flush`."""
        return await self._flow.flush()

    def taken(self) -> list[Cleared]:
        """See `AnswerStream.taken`."""
        return self._flow.taken()

    async def finish(self) -> list[Cleared] | Refusal:
        """Take the end of the stream. Raises UpstreamFault("cut_stream") when the answer had none."""
        if not self._finish:
            raise UpstreamFault("cut_stream", "no finish reason")
        request = self._answer.request
        if isinstance(request, Request) and request.include_usage:
            usage = ans.usage_chunk(self._answer.head, self._answer.tally.actual())
            self._flow.put(usage)
        return await self._flow.finish() or self._flow.taken()

    async def _events(self, piece: Piece) -> Refusal | None:
        head, put = self._answer.head, self._flow.put
        if not self._opened:
            # The role goes alone: it is safe at once, and tells the client that the answer began.
            self._opened = True
            put(self._begin_body)
        if piece.content:
            body = ans.chunk(head, {"content": piece.content})
            put(body, ans.CONTENT_AT, piece.content)
        if piece.refusal:
            body = ans.chunk(head, {"refusal": piece.refusal})
            put(body, ans.REFUSAL_AT, piece.refusal)
        if not piece.finish or self._finish:
            return None
        self._finish = piece.finish
        if refusal := await self._flow.flush():  # the text before them is decided before its calls
            return refusal
        decided = await self._answer.decide_calls(self._calls, piece.finish, stream=True)
        if isinstance(decided, Refusal):
            return decided
        self._finish = ans.ended(piece.finish, decided)
        for index, call in enumerate(decided):
            # The arguments had their own decision, parsed: here they stand as text that is already judged.
            body = ans.chunk(head, {"tool_calls": [{"index": index, **call}]})
            put(body, ans.ARGUMENTS_AT, "", sealed=True)
        put(ans.chunk(head, {}, self._finish))
        return None


def _size(piece: Piece) -> int:
    size = len(piece.content.encode()) + len(piece.refusal.encode())
    return size + sum(len(call.arguments.encode()) + len(call.name) for call in piece.calls)
