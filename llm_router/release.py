"""What may leave of an answer, and in which order: the guard's verdicts over pieces, calls and wholes.

No I/O here: values of the provider go in, Cleared events come out, in order, or the Refusal that ends
the answer. Every tool call is decided at ``llm.tool_call`` on its parsed arguments, before any piece of
it leaves; the text around it is decided at ``llm.response``. How each protocol's answers are read and
built stands in ``chat_release.py`` and ``message_release.py``; what both share is here.

    stream:  text waits in one stream guard; tool calls wait until the answer ends, are all decided,
             then follow the text; then the reason to stop, then the usage
    whole:   tool calls are decided first, then the answer that holds them in their decided form
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from firewall.core.action import Action
from firewall.core.errors import FAULTS, AuditUnavailable, UpstreamFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject, Path
from firewall.core.permit import Cleared, Refusal
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.enforce.stream_guard import StreamGuard, open_stream
from llm_router import action as act
from llm_router.action import Route
from llm_router.answer import Head
from llm_router.assemble import ToolCall
from llm_router.choose import Model
from llm_router.meter import Tally
from llm_router.request import Request


class AnswerStream(Protocol):
    """A streamed answer: take every chunk in order, flush where nothing more is there yet; finish it."""

    async def take(self, value: JSON) -> Refusal | None:
        """Take one chunk. Raises UpstreamFault."""

    async def flush(self) -> Refusal | None:
        """Decide about all that was taken."""

    def taken(self) -> list[Cleared]:
        """Return the events that may leave now, once; after a refusal, those that were released before it."""

    async def finish(self) -> list[Cleared] | Refusal:
        """Take the end of the stream. Raises UpstreamFault("cut_stream") when the answer had none."""


class Answer(ABC):
    """One exchange's answer on its way to the client; makes the decisions of both forms."""

    def __init__(
        self,
        guard: Guard,
        exchange: Exchange,
        principal: Principal,
        model: Model,
        head: Head,
        request: Request,
        tally: Tally,
        route: Route,
    ) -> None:
        self.guard = guard
        self.exchange = exchange
        self.principal = principal
        self.model = model
        self.head = head
        self.request = request
        self.offered = frozenset(request.tools)
        self.tally = tally
        self.route = route

    @abstractmethod
    async def whole(self, value: JSON) -> Cleared | Refusal:
        """Return the whole answer, or the refusal of it or of one of its tool calls.

        Raises UpstreamFault: malformed, too_large.
        """

    @abstractmethod
    async def open(self) -> AnswerStream | Refusal:
        """Decide whether the answer may begin to stream."""

    async def decide(self, call: ToolCall, body: JSONObject, *, stream: bool) -> JSONObject | Refusal:
        """Return a tool call as it was decided. body: the call with its arguments as JSON.

        Raises UpstreamFault("malformed") when an obligation made something else of it.
        """
        action = act.call_action(self.route, self.principal, self.model, call, body, stream=stream)
        verdict = await self.guard.clear(action, self.exchange)
        if isinstance(verdict, Refusal):
            return verdict
        if not isinstance(verdict.body, dict):
            raise UpstreamFault("malformed", "a tool call lost its shape")
        return verdict.body

    def action(self, body: JSONObject, *, stream: bool) -> Action:
        """Return the Action of this answer, whole, or as a stream's text (body {})."""
        return act.response_action(self.route, self.principal, self.model, body, stream=stream)

    async def outflow(self) -> Outflow | Refusal:
        """Return the way out of a stream that may begin."""
        guard = await open_stream(self.guard, self.action({}, stream=True), self.exchange)
        return guard if isinstance(guard, Refusal) else Outflow(guard)


class Outflow:
    """Events of one streamed answer on their way through the stream guard, in order.

    A sealed event leaves as it went in or not at all: a tool call was decided with these arguments,
    a thinking block is signed as it stands. After a refusal every call returns one.
    """

    __slots__ = ("_guard", "_kept", "_out", "_put")

    def __init__(self, guard: StreamGuard) -> None:
        self._guard = guard
        self._kept: deque[JSON] = deque()  # of every event that waits: the body where it is sealed, else None
        self._out: list[Cleared] = []
        self._put: list[tuple[JSON, Path, str]] = []

    def put(self, body: JSONObject, at: Path = (), text: str = "", *, sealed: bool = False) -> None:
        """Take one event; see `StreamGuard.feed`. Nothing is decided before `flush`."""
        self._kept.append(body if sealed else None)
        self._put.append((body, at, text))

    async def flush(self) -> Refusal | None:
        """Give the stream guard what was put: together where it is calm, else one by one."""
        put, self._put = self._put, []
        together = self._guard.feed_calm(put) if len(put) > 1 else None
        if together is not None:
            return self._released(together)
        for piece in put:
            refusal = self._released(await self._guard.feed(*piece))
            if refusal is not None:
                return refusal
        return None

    async def turn(self) -> Refusal | None:
        """End one text and begin another: what waits leaves, and nothing is read across the joint."""
        refusal = await self.finish()
        if refusal is None:
            self._guard = self._guard.follow()
        return refusal

    async def finish(self) -> Refusal | None:
        """Take the end of the text."""
        return await self.flush() or self._released(await self._guard.finish())

    def taken(self) -> list[Cleared]:
        """Return what may leave and was not taken yet."""
        out, self._out = self._out, []
        return out

    def _released(self, released: list[Cleared] | Refusal) -> Refusal | None:
        if isinstance(released, Refusal):
            return released
        for cleared in released:
            kept = self._kept.popleft()
            if kept is not None and cleared.body != kept:
                return Refusal(FAULTS["denied"], cleared.decision_id)
            self._out.append(cleared)
        return None


async def clear_request(guard: Guard, action: Action, exchange: Exchange, request: Request) -> Cleared | Refusal:
    """Clear a request; pictures in it are opaque: counted for policy, not read as text.

    What may not be edited is refused where an obligation did.
    """
    if not request.images or not isinstance(action.body, dict):
        cleared = await guard.clear(action, exchange)
    else:
        findings = await guard.inspect(action, request.readable(action.body))
        cleared = await clear_seen(guard, action, exchange, findings)
    if isinstance(cleared, Cleared) and not request.intact(cleared.body):
        return Refusal(FAULTS["denied"], cleared.decision_id)
    return cleared


async def clear_seen(
    guard: Guard, action: Action, exchange: Exchange, findings: Sequence[Finding]
) -> Cleared | Refusal:
    """As `Guard.clear`, with the findings of a scan that knew what of the body is text."""
    permit = await guard.check_remote(action, exchange, findings)
    if isinstance(permit, Refusal):
        return permit
    cleared = guard.commit(permit, exchange)
    if isinstance(cleared, Refusal):
        return cleared
    try:
        await guard.settle(cleared)
    except AuditUnavailable:
        return Refusal(FAULTS["audit_unavailable"], permit.decision_id)
    return cleared
