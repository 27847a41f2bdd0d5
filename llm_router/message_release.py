"""Anthropic answers on their way out: whole ones, and streams event by event.

From the first tool call of a stream on everything waits for its end: all calls are decided, then the
blocks follow in their order, each call's input as one event. Thinking is inspected like text, as a
text of its own; where something in it would have to be changed, the answer is refused instead: it is
signed, and an edited block would break the next turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from firewall.core.errors import FAULTS, UpstreamFault
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared, Refusal
from llm_router import message_answer as msg
from llm_router.answer import Usage
from llm_router.assemble import ToolCall
from llm_router.message_answer import Block, Redacted, Text, Thinking
from llm_router.message_events import Begun, Closed, Ended, Events, Opened, Said, Step
from llm_router.messages import Request
from llm_router.release import Answer, Outflow, clear_seen
from llm_router.shape import write_arguments


class MessageAnswer(Answer):
    """One message's answer."""

    async def whole(self, value: JSON) -> Cleared | Refusal:
        """Return the whole answer, or the refusal; see `Answer.whole`."""
        read = msg.parse_answer(value)
        self.tally.usage = read.usage
        self.tally.output_bytes += read.size
        content = await self.decided(read.blocks, stream=False)
        if isinstance(content, Refusal):
            return content
        stop = msg.ended(read.stop, calls=any(block["type"] == "tool_use" for block in content))
        body = msg.message(self.head, content, self.tally.actual(), stop, self.own_stop(read.stop_sequence))
        action = self.action(body, stream=False)
        # Inputs were inspected at their own point; here they would be judged as text for a reader.
        findings = [f for f in await self.guard.inspect(action, body) if not _in_input(f, content)]
        cleared = await clear_seen(self.guard, action, self.exchange, findings)
        if isinstance(cleared, Cleared) and not _kept(content, cleared.body):
            return Refusal(FAULTS["denied"], cleared.decision_id)
        return cleared

    async def open(self) -> MessageStream | Refusal:
        """Decide whether the answer may begin to stream."""
        flow = await self.outflow()
        return flow if isinstance(flow, Refusal) else MessageStream(self, flow)

    async def decided(self, blocks: Sequence[Block], *, stream: bool) -> list[JSONObject] | Refusal:
        """Return blocks in wire form, every tool call decided; the first refusal refuses all of them."""
        out: list[JSONObject] = []
        answer_id = self.head.id.removeprefix("msg_")
        for block in msg.check_calls(blocks, answer_id, self.offered):
            if isinstance(block, ToolCall):
                decided = await self.decide(block, msg.call_document(block), stream=stream)
                if isinstance(decided, Refusal):
                    return decided
                out.append(_call_shape(decided))
            else:
                out.append(block.document())
        return out

    def own_stop(self, sequence: str) -> str:
        """Return a stop sequence where the request named it, "" otherwise: it is no place for other text."""
        request = self.request
        return sequence if isinstance(request, Request) and sequence in request.stops else ""


class MessageStream:
    """A streamed answer. Make it with `MessageAnswer.open`; take every event in order; flush; finish it."""

    def __init__(self, answer: MessageAnswer, flow: Outflow) -> None:
        self._answer = answer
        self._flow = flow
        self._events = Events()
        self._index = 0  # of the block that is sent now
        self._kind = ""  # of the text that the flow reads now
        self._held: list[Closed] = []

    async def take(self, value: JSON) -> Refusal | None:
        """Take one event. Raises UpstreamFault."""
        for step in self._events.feed(value):
            if refusal := await self._step(step):
                return refusal
        return None

    async def flush(self) -> Refusal | None:
        """See `AnswerStream.flush`."""
        return await self._flow.flush()

    def taken(self) -> list[Cleared]:
        """See `AnswerStream.taken`."""
        return self._flow.taken()

    async def finish(self) -> list[Cleared] | Refusal:
        """Take the end of the stream. Raises UpstreamFault("cut_stream") when its last event never came."""
        if not self._events.done:
            raise UpstreamFault("cut_stream", "no message_stop")
        self._flow.put(msg.MESSAGE_STOP)
        return await self._flow.finish() or self._flow.taken()

    async def _step(self, step: Step) -> Refusal | None:
        tally = self._answer.tally
        match step:
            case Begun(usage):
                if usage is not None:
                    tally.input_tokens = usage.input
                counted = usage or Usage(tally.input_tokens, 0)
                self._flow.put(msg.start_event(self._answer.head, counted))
            case Opened(kind):
                return None if self._held else await self._open(kind)
            case Said(text):
                tally.output_bytes += len(text.encode())
                if not self._held:
                    self._say(text)
            case Closed(block):
                if isinstance(block, ToolCall):
                    tally.output_bytes += step.size + len(block.name)
                if self._held or isinstance(block, ToolCall):
                    self._held.append(step)
                else:
                    self._close(block)
            case Ended(stop, sequence, usage):
                tally.usage = usage
                return await self._end(stop, self._answer.own_stop(sequence))
        return None

    async def _open(self, kind: str) -> Refusal | None:
        if self._kind and kind != self._kind and (refusal := await self._flow.turn()):
            return refusal
        self._kind = kind
        empty = Text("") if kind == "text" else Thinking("", "")
        self._flow.put(msg.block_start(self._index, empty.document()))
        return None

    def _say(self, text: str) -> None:
        if self._kind == "text":
            self._flow.put(msg.delta(self._index, "text_delta", "text", text), msg.TEXT_AT, text)
        else:
            body = msg.delta(self._index, "thinking_delta", "thinking", text)
            self._flow.put(body, msg.THINKING_AT, text, sealed=True)

    def _close(self, block: Block) -> None:
        put = self._flow.put
        if isinstance(block, Thinking) and block.signature:
            put(msg.delta(self._index, "signature_delta", "signature", block.signature), sealed=True)
        if isinstance(block, Redacted):
            put(msg.block_start(self._index, block.document()), sealed=True)
        self._index += 1
        put(msg.block_stop(self._index - 1))

    async def _end(self, stop: str, sequence: str) -> Refusal | None:
        """Decide all tool calls, send what waited for them, then the reason to stop."""
        # Of an answer that was cut, a call that is not whole is left out; nobody knows what it would have said.
        whole = [c for c in self._held if not (stop in msg.CUT and (c.torn or c.bare))]
        if any(closed.torn for closed in whole):
            raise msg.wrong("a tool call whose input is no JSON object")
        held = [closed.block for closed in whole]
        if refusal := await self._flow.flush():  # the text before them is decided before its calls
            return refusal
        decided = await self._answer.decided(held, stream=True)
        if isinstance(decided, Refusal):
            return decided
        self._held = []
        calls = False
        for block, document in zip(held, decided, strict=True):
            calls = calls or isinstance(block, ToolCall)
            if refusal := await self._late(block, document):
                return refusal
        usage = self._answer.tally.actual()
        self._flow.put(msg.message_delta(msg.ended(stop, calls=calls), sequence, usage))
        return None

    async def _late(self, block: Block, document: JSONObject) -> Refusal | None:
        """Send one block that waited."""
        if isinstance(block, ToolCall):
            start = msg.block_start(self._index, {**document, "input": {}})
            self._flow.put(start, sealed=True)
            # The input had its own decision: here it stands as text that is already judged.
            body = msg.delta(self._index, "input_json_delta", "partial_json", write_arguments(document["input"]))
            self._flow.put(body, msg.INPUT_AT, "", sealed=True)
        elif not isinstance(block, Redacted):
            kind, said = ("text", block.text) if isinstance(block, Text) else ("thinking", block.thinking)
            if refusal := await self._open(kind):
                return refusal
            if said:
                self._say(said)
        self._close(block)
        return None


def _call_shape(decided: JSONObject) -> JSONObject:
    """Return a decided call. Raises UpstreamFault("malformed") when an obligation made something else of it."""
    if decided.get("type") != "tool_use" or not isinstance(decided.get("input"), dict):
        raise UpstreamFault("malformed", "a tool call lost its shape")
    return decided


def _in_input(found: Finding, content: list[JSONObject]) -> bool:
    """Return whether a finding stands in the input of a tool call."""
    _, _, rest = found.pointer.partition("/content/")
    place, _, member = rest.partition("/")
    if not found.pointer.startswith("/content/") or not place.isdigit() or int(place) >= len(content):
        return False
    return content[int(place)]["type"] == "tool_use" and member.partition("/")[0] == "input"


def _kept(content: list[JSONObject], sent: JSON) -> bool:
    """Return whether every block but text is still what was put in: decided, or signed."""
    now = sent.get("content") if isinstance(sent, dict) else None
    if not isinstance(now, list) or len(now) != len(content):
        return False
    return all(was["type"] == "text" or was == is_ for was, is_ in zip(content, now, strict=True))
