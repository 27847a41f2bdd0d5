"""One A2A request on its way: ids owned, guard, agent, guard per object, reply or stream.

- What an agent shows is read strictly, checked to be in order and about what was asked, put under
  our ids, and cleared by the guard, one Action per object or stream event.
- A message that waits for its caller to connect an account becomes a task of ours (`waiting`), and is sent
  by `Relay.resume` when there is a credential: once, and decided anew.
- A blocked or impossible event ends its stream with a JSON-RPC error, and the agent's task is
  cancelled before the caller is told (GW-40), so that nothing is left to do after the reply.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from a2a_gateway import message
from a2a_gateway.action import STREAMED, error_action, event_action, request_action
from a2a_gateway.call import Call, Outcome, clear_seen, refused, tell
from a2a_gateway.chunks import Chunks
from a2a_gateway.message import Event, Send, TaskQuery
from a2a_gateway.parked import INTERRUPTED, Asked, Parked, Parking
from a2a_gateway.tasks import TaskBook
from a2a_gateway.upstream import Answer, Upstream
from a2a_gateway.waiting import Waiting
from firewall.core.action import Action
from firewall.core.errors import (
    BartizanError,
    ConsentNeeded,
    Malformed,
    StateUnavailable,
    Unauthenticated,
    UpstreamFault,
    fault_of,
)
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.core.ports import ResourceServer
from firewall.enforce.guard import Guard
from firewall.net import asgi
from firewall.net.tenure import Tenure
from firewall.wire import jsonrpc

# Faults of a call that never reached the agent: its message id may come again.
NOT_SENT: Final = frozenset({"unreachable", "blocked_address", "credentials", "consent"})
CALL_OFF_S: Final = 2.0


class Relay:
    """Carries requests to agents and their answers back. One per worker."""

    def __init__(
        self,
        guard: Guard,
        resource_server: ResourceServer,
        book: TaskBook,
        parking: Parking,
        upstream: Upstream,
        public_url: str,
    ) -> None:
        self._guard = guard
        self._resource_server = resource_server
        self._book = book
        self._parking = parking
        self._upstream = upstream
        self._waiting = Waiting(guard, resource_server, parking, upstream, public_url, self.resume)

    async def forward(self, call: Call, read: Send | TaskQuery, headers: dict[bytes, bytes]) -> Outcome:
        """Send one request on and its answer back; raises BartizanError where the caller is told a fault.

        headers: the request's own; only the extensions it activates are read from them.
        """
        agent = call.agent
        if agent.problem == "unreachable":
            raise UpstreamFault("unreachable")
        asked = headers.get(b"a2a-extensions", b"").decode("latin-1").split(",")
        extensions = tuple(uri.strip() for uri in asked if uri.strip() in call.allowed)
        try:
            params = self._outgoing(call, read)
        except Malformed as error:
            parked = self._waiting.named(call, read) if error.code == "task_unknown" else None
            if parked is None:
                raise
            return await self._waiting.asked_about(call, read, parked)
        verdict = await self._decide(call, read, params, extensions)
        if isinstance(verdict, Refusal):
            return await self._refuse(call, verdict)
        if agent.card is None:  # policy let a card without a pin pass: it still names no place to call
            raise Malformed("quarantined")
        if not isinstance(read, Send):
            return await self._carry(call, verdict)
        try:
            once = self._book.first(call.caller, read.message_id)
        except Malformed:
            parked = None if read.task_id else self._parking.holding(call.caller, read)
            if parked is None:
                raise
            return await self._waiting.continued(call, parked)
        try:
            return await self._carry(call, verdict)
        except UpstreamFault as fault:
            # In a task of the agent's own nothing waits: what is said there belongs to the moment (docs/a2a.md).
            if isinstance(fault, ConsentNeeded) and not read.task_id:
                parked = self._waiting.park(call, fault, Asked(read.params, extensions), read)
                if parked is not None:
                    return await self._waiting.say(call, parked, fault.link)
            if fault.code in NOT_SENT:
                self._book.undo(call.caller, once)
            raise

    async def _decide(
        self, call: Call, read: Send | TaskQuery, params: JSONObject, extensions: tuple[str, ...]
    ) -> Cleared | Refusal:
        trace = call.exchange.traceparent.encode()
        action = request_action(
            call.method, call.principal, call.agent.resource, read, params, trace=trace, extensions=extensions
        )
        return await self._guard.clear(action, call.exchange)

    async def _carry(self, call: Call, cleared: Cleared) -> Outcome:
        return await (self._stream(call, cleared) if call.method == STREAMED else self._unary(call, cleared))

    async def resume(self, call: Call, started: Parked, history: JSON) -> Outcome:
        """Send what waits in a task that this very call started, as if it had come now (DESIGN §6b-4).

        Decided anew, for the caller as they are now: principal, label, policy, pin. history: of a GetTask.
        Raises BartizanError; the task then waits on where nothing was sent, and has failed otherwise.
        """
        call.resumed = started
        try:
            asked = self._parking.asked(call.caller, started)
            read = message.parse_send(asked.params, call.allowed)
            if call.method == "GetTask":  # who asks how a task is doing does not wait for its end
                read, call.method, call.bare = read.at_once(history), "SendMessage", True
            params = self._outgoing(call, read)
        except (Malformed, StateUnavailable) as error:  # an id it mentions is over, or it cannot be read
            return await self._waiting.failed(call, started, fault_of(error).code, left=False)
        extensions = tuple(uri for uri in asked.extensions if uri in call.allowed)
        try:
            verdict = await self._decide(call, read, params, extensions)
        except BaseException:
            self._parking.release(call.caller, started)
            raise
        if isinstance(verdict, Refusal):
            if verdict.fault.code == "denied":
                return await self._waiting.failed(call, started, verdict.fault.code, left=False)
            self._parking.release(call.caller, started)  # another scope, another moment may cure it
            return await self._refuse(call, verdict)
        if call.agent.card is None:
            self._parking.release(call.caller, started)
            raise Malformed("quarantined")
        try:
            outcome = await self._carry(call, verdict)
        except UpstreamFault as fault:
            if fault.code in NOT_SENT and call.resumed is not None:
                released = self._parking.release(call.caller, started)
                if isinstance(fault, ConsentNeeded) and self._waiting.leads(call, fault):
                    return await self._waiting.say(call, released, fault.link)
                raise
            self._lost(call, fault_of(fault).code)
            raise
        except Malformed as error:
            self._lost(call, fault_of(error).code)
            raise
        except BaseException:
            self._lost(call, INTERRUPTED)
            raise
        self._lost(call, "upstream_failed" if outcome[0] == "ok" else "agent_response")
        return outcome

    def _lost(self, call: Call, why: str) -> None:
        """End a task of ours that no task of the agent's and no answer has taken the place of."""
        if call.resumed is not None:
            self._parking.fail(call.caller, call.resumed, why)

    def _outgoing(self, call: Call, read: Send | TaskQuery) -> JSONObject:
        """Return the params with the agent's ids; raises Malformed("task_unknown") for ids not the caller's."""
        book, caller, progress = self._book, call.caller, call.progress
        tenant = call.agent.card.tenant if call.agent.card is not None else ""
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
        self._answer(call, verdict)
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
        resumed = call.resumed
        if resumed is not None:
            call.named |= self._parking.adopt(call.caller, resumed, event)
            if event.kind == "task":
                call.resumed = None
        for kind, theirs in (("task", event.task_id), ("context", event.context_id)):
            if theirs and (kind, theirs) not in call.named:
                claimed = self._book.claim(call.caller, "task" if kind == "task" else "context", theirs)
                call.named[kind, theirs] = claimed
        shown = message.remapped(event, lambda kind, theirs: self._shown(call, kind, theirs))
        if resumed is not None and event.kind == "message":
            # Its caller has a task, and is answered with it.
            shown = message.as_task(shown, resumed.task_id, resumed.context_id)
            call.answered = True
        return replace(shown, bare=True) if call.bare else shown

    def _shown(self, call: Call, kind: str, theirs: str) -> str:
        key = (kind, theirs)
        if key in call.named:
            return call.named[key]
        if key not in call.known:
            call.known[key] = self._book.shown(call.caller, "task" if kind == "task" else "context", theirs)
        return call.known[key]

    def _answer(self, call: Call, cleared: Cleared) -> None:
        """Keep what an agent's message answers a task of ours with, as its caller is about to see it."""
        if call.resumed is None or not call.answered:
            return
        body = cleared.body
        result = body.get("result") if isinstance(body, dict) else None
        task = result.get("task", result) if isinstance(result, dict) else None
        told = task.get("status") if isinstance(task, dict) else None
        said = told.get("message") if isinstance(told, dict) else None
        context = task.get("contextId") if isinstance(task, dict) else None
        kept = said if isinstance(said, dict) else None
        self._parking.answer(call.caller, call.resumed, kept, str(context or call.resumed.context_id))
        call.resumed = None

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
                        self._answer(call, verdict)
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
