"""One A2A request on its way: ids owned, guard, agent, guard per object, reply or stream.

- What an agent shows is read strictly, checked to be in order and about what was asked, put under
  our ids, and cleared by the guard, one Action per object or stream event.
- A blocked or impossible event ends its stream with a JSON-RPC error, and the agent's task is
  cancelled before the caller is told (GW-40), so that nothing is left to do after the reply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from a2a_gateway import message, reply
from a2a_gateway.action import STREAMED, error_action, event_action, request_action
from a2a_gateway.chunks import Chunks
from a2a_gateway.inventory import Agent
from a2a_gateway.message import Event, Send, TaskQuery
from a2a_gateway.tasks import Caller, Progress, TaskBook
from a2a_gateway.upstream import Answer, Upstream
from a2a_gateway.versions import Method
from firewall.core.action import Action
from firewall.core.errors import FAULTS, AuditUnavailable, BartizanError, Malformed, Unauthenticated, UpstreamFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.core.points import Point
from firewall.core.ports import ResourceServer
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.enforce.token_rules import cure
from firewall.net import asgi
from firewall.net.tenure import Tenure
from firewall.wire import jsonrpc

Outcome = tuple[Literal["ok", "refused", "upstream_fault", "cancelled", "internal"], str]
# Faults of a call that never reached the agent: its message id may come again.
NOT_SENT: Final = frozenset({"unreachable", "blocked_address", "credentials", "consent"})
CALL_OFF_S: Final = 2.0


@dataclass(slots=True)
class Call:
    """One JSON-RPC request. resource: the agent's URI here; allowed: extension URIs that may pass.

    still: whether the caller's token is good now; a stream ends when it is not.

    progress: the order of what came back, in the agent's ids; named: ids claimed for the caller so far.
    """

    agent: Agent
    principal: Principal
    exchange: Exchange
    rpc_id: jsonrpc.ID
    method: Method
    caller: Caller
    out: asgi.EventStream
    send: asgi.Send
    allowed: frozenset[str]
    resource: str
    still: Callable[[], bool]
    progress: Progress = field(default_factory=Progress)
    named: set[tuple[str, str]] = field(default_factory=set)


class Relay:
    """Carries requests to agents and their answers back. One per worker."""

    def __init__(self, guard: Guard, resource_server: ResourceServer, book: TaskBook, upstream: Upstream) -> None:
        self._guard = guard
        self._resource_server = resource_server
        self._book = book
        self._upstream = upstream

    async def forward(self, call: Call, read: Send | TaskQuery, headers: dict[bytes, bytes]) -> Outcome:
        """Send one request on and its answer back; raises BartizanError where the caller is told a fault.

        headers: the request's own; only the extensions it activates are read from them.
        """
        agent = call.agent
        if agent.problem == "unreachable":
            raise UpstreamFault("unreachable")
        params = self._outgoing(call, read, agent.card.tenant if agent.card is not None else "")
        asked = headers.get(b"a2a-extensions", b"").decode("latin-1").split(",")
        action = request_action(
            call.method,
            call.principal,
            agent.resource,
            read,
            params,
            trace=call.exchange.traceparent.encode(),
            extensions=tuple(uri.strip() for uri in asked if uri.strip() in call.allowed),
        )
        verdict = await self._guard.clear(action, call.exchange)
        if isinstance(verdict, Refusal):
            return await self._refuse(call, verdict)
        if agent.card is None:  # policy let a card without a pin pass: it still names no place to call
            raise Malformed("quarantined")
        once = self._book.first(call.caller, read.message_id) if isinstance(read, Send) else ""
        try:
            return await (self._stream(call, verdict) if call.method == STREAMED else self._unary(call, verdict))
        except UpstreamFault as fault:
            if fault.code in NOT_SENT:
                self._book.undo(call.caller, once)
            raise

    def _outgoing(self, call: Call, read: Send | TaskQuery, tenant: str) -> JSONObject:
        """Return the params with the agent's ids; raises Malformed("task_unknown") for ids not the caller's."""
        book, caller, progress = self._book, call.caller, call.progress
        if isinstance(read, TaskQuery):
            progress.task_id = book.theirs(caller, "task", read.task_id)
            return read.outgoing(task_id=progress.task_id, tenant=tenant)
        if read.task_id:
            progress.task_id = book.theirs(caller, "task", read.task_id)
        if read.context_id:
            progress.context_id = book.theirs(caller, "context", read.context_id)
        references = book.all_theirs(caller, "task", read.references)
        return read.outgoing(
            task_id=progress.task_id, context_id=progress.context_id, references=references, tenant=tenant
        )

    # -- whole answers ----------------------------------------------------------------------------------

    async def _unary(self, call: Call, cleared: Cleared) -> Outcome:
        answer = await self._upstream.call(cleared, call.agent, call.principal)
        verdict = await self._guard.clear(self._answered(call, answer), call.exchange)
        if isinstance(verdict, Refusal):
            return await self._refuse(call, verdict)
        call.exchange.bytes_out = len(verdict.payload)
        await asgi.write_cleared(call.send, verdict)
        return ("ok", "")

    def _answered(self, call: Call, answer: Answer) -> Action:
        if isinstance(answer, jsonrpc.ErrorResponse):
            return error_action(call.method, call.principal, call.agent.resource, answer, call.rpc_id)
        event = self._event(call, answer)
        return event_action(call.method, call.principal, call.agent.resource, event, call.rpc_id)

    def _event(self, call: Call, answer: jsonrpc.Response) -> Event:
        """Return what an agent showed, read, in order, and under our ids; raises Malformed("agent_response")."""
        try:
            event = (
                message.parse_event(answer.result, call.allowed)
                if call.method == STREAMED
                else message.parse_result(call.method, answer.result, call.allowed)
            )
        except Malformed as error:
            raise Malformed("agent_response", error.detail) from None
        call.progress.feed(event)
        for kind, theirs in (("task", event.task_id), ("context", event.context_id)):
            if theirs and (kind, theirs) not in call.named:
                self._book.claim(call.caller, "task" if kind == "task" else "context", theirs)
                call.named.add((kind, theirs))
        return message.remapped(
            event, lambda kind, theirs: self._book.ours(call.caller, "task" if kind == "task" else "context", theirs)
        )

    # -- streams ----------------------------------------------------------------------------------------

    async def _stream(self, call: Call, cleared: Cleared) -> Outcome:
        scanner, tenant = self._guard.scanner, call.principal.tenant
        chunks = Chunks(lambda text: scanner.scan(text, Point.A2A_TASK_UPDATE, tenant))
        refusal: Refusal | None = None
        failure: BartizanError | None = None
        try:
            async with Tenure(call.still) as tenure:
                async with self._upstream.stream(cleared, call.agent, call.principal) as answers:
                    async for answer in answers:
                        verdict = await self._clear_event(call, answer, chunks)
                        if isinstance(verdict, Refusal):
                            refusal = verdict
                            break
                        await call.out.open()
                        await call.out.event(verdict)
                        if call.progress.ended or isinstance(answer, jsonrpc.ErrorResponse):
                            break
            if tenure.over:  # the agent's task goes on; whoever has a new token may come back for it
                failure = Unauthenticated("token_invalid", "over")
        except BartizanError as error:
            failure = error
        call.exchange.bytes_out = call.out.bytes_out
        if refusal is not None or (isinstance(failure, Malformed) and failure.code == "agent_response"):
            await self._call_off(call)
        if refusal is not None:
            return await self._refuse(call, refusal)
        if failure is not None:
            raise failure
        if not call.out.opened:
            raise Malformed("agent_response", "a stream without an event")
        await call.out.close()
        return ("ok", "")

    async def _clear_event(self, call: Call, answer: Answer, chunks: Chunks) -> Cleared | Refusal:
        if isinstance(answer, jsonrpc.ErrorResponse):
            return await self._guard.clear(self._answered(call, answer), call.exchange)
        event = self._event(call, answer)
        action = event_action(call.method, call.principal, call.agent.resource, event, call.rpc_id)
        across = chunks.feed(event)
        if not across:
            return await self._guard.clear(action, call.exchange)
        within = self._guard.scanner.scan(action.body, action.point, call.principal.tenant)
        return await clear_seen(self._guard, action, call.exchange, [*within, *across])

    async def _call_off(self, call: Call) -> None:
        """Cancel the agent's task after its stream was blocked; best effort, within two seconds."""
        progress = call.progress
        # Only a task that is this caller's: an agent may have shown another's to have it cancelled.
        if ("task", progress.task_id) not in call.named or progress.ended or call.agent.card is None:
            return
        query = TaskQuery({"id": progress.task_id})
        params = query.outgoing(task_id=progress.task_id, tenant=call.agent.card.tenant)
        action = request_action("CancelTask", call.principal, call.agent.resource, query, params)
        try:
            verdict = await self._guard.clear(action, call.exchange)
            if isinstance(verdict, Cleared):
                await self._upstream.call(verdict, call.agent, call.principal, deadline_s=CALL_OFF_S)
        except BartizanError:
            return

    # -- our own words ----------------------------------------------------------------------------------

    async def _refuse(self, call: Call, refusal: Refusal) -> Outcome:
        await tell(call.out, call.send, refused(self._resource_server, refusal, call.rpc_id, call.resource))
        return ("refused", refusal.fault.code)


def refused(resource_server: ResourceServer, refusal: Refusal, rpc_id: jsonrpc.ID | None, resource: str) -> FixedReply:
    """Return the reply for a refusal, with the challenge where a scope would cure it."""
    return reply.refused(refusal, rpc_id, cure(resource_server, resource, refusal))


async def tell(out: asgi.EventStream, send: asgi.Send, told: FixedReply) -> None:
    """Say it where the caller reads: as the reply, or as the last event of an open stream.

    A plain event that is a JSON-RPC error response, as the specification has it (§9.4.2): the
    SDKs raise it; an ``error``-typed one is heard by one of them only.
    """
    if out.opened:
        await out.fixed_event(told)
        await out.close()
    else:
        await asgi.write_fixed(send, told)


async def clear_seen(guard: Guard, action: Action, exchange: Exchange, seen: list[Finding]) -> Cleared | Refusal:
    """As `Guard.clear`, with findings in place of a scan of the body."""
    verdict = await guard.check_remote(action, exchange, seen)
    if isinstance(verdict, Refusal):
        return verdict
    cleared = guard.commit_or_refuse(verdict, exchange)
    if isinstance(cleared, Cleared):
        try:
            await guard.settle(cleared)  # at once, unless records must be on disk first
        except AuditUnavailable:
            return Refusal(FAULTS["audit_unavailable"], cleared.decision_id)
    return cleared
