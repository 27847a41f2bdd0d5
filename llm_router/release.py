"""What may leave of an answer, and in which order: the guard's verdicts over pieces, calls and wholes.

No I/O here: values of the provider go in, Cleared events come out, in order, or the Refusal that ends
the answer. Every tool call is decided at ``llm.tool_call`` on its parsed arguments, before any piece of
it leaves; the text around it is decided at ``llm.response``.

    stream:  text waits in one stream guard; tool calls wait until the answer ends, are all decided,
             then follow the text as one event each; then the finish reason, then the usage
    whole:   tool calls are decided first, then the answer that holds them in their decided form
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from firewall.core.action import Action
from firewall.core.errors import FAULTS, AuditUnavailable, UpstreamFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject, Path, get
from firewall.core.permit import Cleared, Refusal
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.enforce.stream_guard import StreamGuard, open_stream
from llm_router import action as act
from llm_router import answer as ans
from llm_router.answer import Head, Piece
from llm_router.assemble import Text, ToolCall, ToolCalls, wire_form
from llm_router.choose import Model
from llm_router.meter import Tally
from llm_router.turns import without_images

_CALLS_PREFIX: Final = "/choices/0/message/tool_calls/"
_ARGUMENTS_SUFFIX: Final = "/function/arguments"
_DELTA_CALLS: Final[Path] = ("choices", 0, "delta", "tool_calls", 0)


class Answer:
    """One exchange's answer on its way to the client; makes the decisions of both forms."""

    def __init__(
        self,
        guard: Guard,
        exchange: Exchange,
        principal: Principal,
        model: Model,
        head: Head,
        *,
        offered: frozenset[str],
        tally: Tally,
    ) -> None:
        self.guard = guard
        self.exchange = exchange
        self.principal = principal
        self.model = model
        self.head = head
        self.offered = offered
        self.tally = tally

    async def whole(self, value: JSON) -> Cleared | Refusal:
        """Return the whole answer, or the refusal of it or of one of its tool calls.

        Raises UpstreamFault: malformed, too_large.
        """
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
        action = act.response_action(self.principal, self.model, body, stream=False)
        # Arguments were inspected parsed, at their own point; as a string they would be judged twice.
        findings = [
            f
            for f in await self.guard.inspect(action, body)
            if not (f.pointer.startswith(_CALLS_PREFIX) and f.pointer.endswith(_ARGUMENTS_SUFFIX))
        ]
        return await clear_seen(self.guard, action, self.exchange, findings)

    async def decide_calls(self, calls: ToolCalls, finish: str, *, stream: bool) -> list[JSONObject] | Refusal:
        """Return the whole tool calls in wire form, each decided; the first refusal refuses all of them."""
        out: list[JSONObject] = []
        answer_id = self.head.id.removeprefix("chatcmpl-")
        for call in calls.finish(answer_id, self.offered, cut=finish in ans.CUT):
            verdict = await self._decide_call(call, stream=stream)
            if isinstance(verdict, Refusal):
                return verdict
            out.append(verdict)
        return out

    async def _decide_call(self, call: ToolCall, *, stream: bool) -> JSONObject | Refusal:
        action: Action = act.call_action(self.principal, self.model, call, stream=stream)
        verdict = await self.guard.clear(action, self.exchange)
        if isinstance(verdict, Refusal):
            return verdict
        if not isinstance(verdict.body, dict):
            raise UpstreamFault("malformed", "a tool call lost its shape")
        return wire_form(verdict.body)


class AnswerStream:
    """A streamed answer. Make it with `open_answer`; feed every chunk in order; finish it."""

    def __init__(self, answer: Answer, guard: StreamGuard, *, include_usage: bool) -> None:
        self._answer = answer
        self._guard = guard
        self._include_usage = include_usage
        self._calls = ToolCalls()
        self._text = Text()
        self._decided: list[JSONObject] = []
        self._opened = False
        self._finish = ""
        self._begin_body = ans.chunk(answer.head, {"role": "assistant", "content": ""})

    @property
    def finished(self) -> bool:
        """Whether the provider said that its answer is complete."""
        return bool(self._finish)

    async def feed(self, value: JSON) -> list[Cleared] | Refusal:
        """Take one chunk; return the events that may leave now. Raises UpstreamFault."""
        piece = ans.parse_chunk(value)
        tally = self._answer.tally
        if piece.usage is not None:
            tally.usage = piece.usage
        if piece.empty:
            return []
        if self._finish and (piece.content or piece.refusal or piece.calls):
            raise UpstreamFault("malformed", "an answer that goes on after its end")
        tally.output_bytes += _size(piece)
        self._text.feed(piece.content, piece.refusal)
        for call in piece.calls:
            self._calls.feed(call)
        out: list[Cleared] = []
        refusal = await self._events(piece, out)
        return out if refusal is None else refusal

    async def finish(self) -> list[Cleared] | Refusal:
        """Take the end of the stream. Raises UpstreamFault("cut_stream") when the answer had none."""
        if not self._finish:
            raise UpstreamFault("cut_stream", "no finish reason")
        out: list[Cleared] = []
        usage = self._answer.tally.actual()
        if self._include_usage and (refusal := await self._put(out, ans.usage_chunk(self._answer.head, usage))):
            return refusal
        rest = await self._guard.finish()
        if isinstance(rest, Refusal):
            return rest
        return self._verified([*out, *rest])

    async def _events(self, piece: Piece, out: list[Cleared]) -> Refusal | None:
        head = self._answer.head
        if not self._opened:
            # The role goes alone: it is safe at once, and tells the client that the answer began.
            self._opened = True
            if refusal := await self._put(out, self._begin_body):
                return refusal
        if piece.content:
            body = ans.chunk(head, {"content": piece.content})
            if refusal := await self._put(out, body, ans.CONTENT_AT, piece.content):
                return refusal
        if piece.refusal:
            body = ans.chunk(head, {"refusal": piece.refusal})
            if refusal := await self._put(out, body, ans.REFUSAL_AT, piece.refusal):
                return refusal
        if not piece.finish or self._finish:
            return None
        self._finish = piece.finish
        decided = await self._answer.decide_calls(self._calls, piece.finish, stream=True)
        if isinstance(decided, Refusal):
            return decided
        self._decided = decided
        self._finish = ans.ended(piece.finish, decided)
        for index, call in enumerate(decided):
            # The arguments had their own decision, parsed: here they stand as text that is already judged.
            body = ans.chunk(head, {"tool_calls": [{"index": index, **call}]})
            if refusal := await self._put(out, body, ans.ARGUMENTS_AT, ""):
                return refusal
        return await self._put(out, ans.chunk(head, {}, self._finish))

    async def _put(self, out: list[Cleared], body: JSONObject, at: Path = (), text: str = "") -> Refusal | None:
        released = await self._guard.feed(body, at, text)
        if isinstance(released, Refusal):
            return released
        verified = self._verified(released)
        if isinstance(verified, Refusal):
            return verified
        out.extend(verified)
        return None

    def _verified(self, released: list[Cleared]) -> list[Cleared] | Refusal:
        """Return what was released, or a refusal when a decided tool call is no longer what was decided."""
        if not self._decided:
            return released
        for cleared in released:
            try:
                call = get(cleared.body, _DELTA_CALLS)
            except KeyError:
                continue
            if not isinstance(call, dict) or not any(
                call == {"index": index, **decided} for index, decided in enumerate(self._decided)
            ):
                return Refusal(FAULTS["denied"], cleared.decision_id)
        return released


async def clear_request(guard: Guard, action: Action, exchange: Exchange, images: int) -> Cleared | Refusal:
    """Clear a request; pictures in it are opaque: counted for policy, not read as text."""
    if not images or not isinstance(action.body, dict):
        return await guard.clear(action, exchange)
    readable: JSONObject = {**action.body, "messages": without_images(action.body.get("messages"))}
    findings = await guard.inspect(action, readable)
    return await clear_seen(guard, action, exchange, findings)


async def clear_seen(
    guard: Guard, action: Action, exchange: Exchange, findings: Sequence[Finding]
) -> Cleared | Refusal:
    """As `Guard.clear`, with the findings of a scan that knew what of the body is text."""
    permit = await guard.check_remote(action, exchange, findings)
    if isinstance(permit, Refusal):
        return permit
    cleared = guard.commit_or_refuse(permit, exchange)
    if isinstance(cleared, Refusal):
        return cleared
    try:
        await guard.settle(cleared)
    except AuditUnavailable:
        return Refusal(FAULTS["audit_unavailable"], permit.decision_id)
    return cleared


async def open_answer(answer: Answer, *, include_usage: bool) -> AnswerStream | Refusal:
    """Decide whether the answer may begin to stream; include_usage: whether the client asked for it."""
    action = act.response_action(answer.principal, answer.model, {}, stream=True)
    guard = await open_stream(answer.guard, action, answer.exchange)
    return guard if isinstance(guard, Refusal) else AnswerStream(answer, guard, include_usage=include_usage)


def _size(piece: Piece) -> int:
    size = len(piece.content.encode()) + len(piece.refusal.encode())
    return size + sum(len(call.arguments.encode()) + len(call.name) for call in piece.calls)
