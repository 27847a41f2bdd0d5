"""One request on its way to an upstream: request out, notifications and result back, each through the guard.

The first notification turns the answer into a stream; an answer without one stays plain JSON and
keeps its HTTP status. Leaving means different things (mcp reference §3.1, §3.2): a modern client that
closes its stream cancels, a legacy one does not and must say ``notifications/cancelled``. Cancelling
upstream is closing the stream (modern HTTP) or that notification (legacy, and every pipe).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Final

from firewall.core.action import Action, Resource
from firewall.core.errors import Malformed, UpstreamFault, fault_of
from firewall.core.exchange import Exchange
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.net import asgi
from firewall.net.runtime import Tasks
from firewall.net.tenure import TokenWatch
from firewall.wire import jsonrpc
from mcp_gateway import bridge, reply
from mcp_gateway.action import request, response
from mcp_gateway.asking import URL_REQUIRED, Asking, Retry, declared
from mcp_gateway.conversation import end
from mcp_gateway.exchanges import Exchange as UpstreamExchange
from mcp_gateway.exchanges import HTTPExchange, PumpedExchange
from mcp_gateway.face import Face
from mcp_gateway.house import House, Refused
from mcp_gateway.inventory import Inventory
from mcp_gateway.leash import Leash
from mcp_gateway.leaving import Leaving
from mcp_gateway.message import Call
from mcp_gateway.out import Out
from mcp_gateway.pending import Pending
from mcp_gateway.session import Session
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.state_seal import carried
from mcp_gateway.targets import Target
from mcp_gateway.upstream import Credentials, Link
from mcp_gateway.versions import ERROR, MODERN, point_of

CAPABILITY_MISSING: Final = -32021
TOGETHER: Final = 64  # notifications that are there already and are decided in one go
_PROGRESS: Final = "notifications/progress"
_RELAYED: Final = (_PROGRESS, "notifications/message")
NOTICES_PER_CALL: Final = 1_000  # each is decided and recorded: an upstream must not buy that by the million


@dataclass(slots=True)
class Turn:
    """One request that is being served. session, face: of a legacy client; a modern one has neither.

    still: whether the caller's token is good now; asked where an answer outlives a moment. watch: asks it while an
    answer streams.
    """

    principal: Principal
    exchange: Exchange
    call: Call
    out: Out
    receive: asgi.Receive
    leash: Leash
    resource_url: str
    challenge: Callable[[Refusal], bytes]
    session: Session | None = None
    face: Face | None = None
    still: Callable[[], bool] | None = None
    watch: TokenWatch | None = None
    notices: int = 0
    waited: bool = False  # for a person who went to connect an account
    progress: float = float("-inf")

    async def refuse(self, refusal: Refusal, *, tool_call: bool = False) -> str:
        """Tell a refusal; return the exchange's outcome."""
        told = reply.refused(
            refusal, self.call.id, era=self.call.era, tool_call=tool_call, challenge=self.challenge(refusal)
        )
        await self.out.final(told)
        return "refused"

    async def fail(self, fault: UpstreamFault) -> str:
        """Tell an upstream's failure; return the exchange's outcome."""
        told = fault_of(fault)
        self.exchange.outcome = told.code
        await self.out.final(reply.failed(told.code, self.call.id, self.exchange.id))
        return "upstream_fault"


class Relay:
    """Carries calls; no state of its own."""

    def __init__(self, guard: Guard, house: House, inventory: Inventory, tasks: Tasks, asking: Asking) -> None:
        self._guard = guard
        self._house = house
        self._inventory = inventory
        self._tasks = tasks
        self._leaving = Leaving(tasks)
        self._asking = asking
        self.heard: Callable[[str, UpstreamSpec, str, JSONObject], None] | None = None  # what belongs to no call
        self.insists: Callable[[Turn, Target, Link, JSON], Awaitable[str | None]] | None = None  # see `tasks_wait`

    def carry(
        self, turn: Turn, target: Target, link: Link, credentials: Credentials, key: str
    ) -> Coroutine[None, None, str]:
        """Decide, send, relay and answer one call; return the exchange's outcome.

        Raises UpstreamFault, Refused; Malformed (request_state, answer_invalid) for a retry.
        """
        if carried(turn.call):
            return self._go_on(turn, target, link, credentials, key)
        return self.send(turn, target, link, credentials, key)

    async def _go_on(self, turn: Turn, target: Target, link: Link, credentials: Credentials, key: str) -> str:
        step = await self.resume(turn, target, link, credentials, key)
        return step if isinstance(step, str) else await self.send(turn, target, link, credentials, key, step)

    async def send(
        self,
        turn: Turn,
        target: Target,
        link: Link,
        credentials: Credentials,
        key: str,
        retry: Retry | None = None,
    ) -> str:
        """As `carry`, for a request whose answers, if it brought any, were taken in already (``retry``)."""
        while True:
            rpc_id = link.next_id()
            action = self._request(turn, target, link, rpc_id, retry)
            cleared = await self._guard.clear(action, turn.exchange)
            if isinstance(cleared, Refusal):
                return await turn.refuse(cleared, tool_call=target.method == "tools/call")
            exchange = link.exchange(rpc_id, cleared, await credentials())
            turn.out.about = target.asking
            if turn.face is not None:
                turn.out.begin()
                if isinstance(exchange, (HTTPExchange, PumpedExchange)):
                    exchange.pausing(turn.out.let_go)
            rounds = retry.rounds if retry is not None else 1
            step = await self._follow(turn, target, link, exchange, rpc_id, credentials, key, rounds, fresh=True)
            if isinstance(step, str):
                return step
            retry = step

    def _request(self, turn: Turn, target: Target, link: Link, rpc_id: int, retry: Retry | None) -> Action:
        call, version, exchange = turn.call, link.opened.version, turn.exchange
        params = target.upstream_params(call)
        if retry is not None and retry.params:
            params = {**params, **retry.params}
        can = declared(turn, target.spec) if target.spec.asks else None
        extensions: JSONObject = getattr(target, "extensions", {})
        if extensions:
            can = {**(can or {}), "extensions": extensions}
        trace = exchange.traceparent if exchange.trace_id else ""
        body = bridge.request(call, version, rpc_id, params, method=target.method, trace=trace, declared=can)
        return request(
            target.asked,
            turn.principal,
            target.method,
            target.asking(),
            body,
            version=version,
            transport=link.transport,
            headers=target.headers(version),
            arguments=target.arguments,
        )

    async def _follow(
        self,
        turn: Turn,
        target: Target,
        link: Link,
        exchange: UpstreamExchange,
        rpc_id: int,
        credentials: Credentials,
        key: str,
        rounds: int,
        *,
        fresh: bool,
    ) -> str | Retry:
        """Read what answers a request until it is answered, parked, or nobody waits. fresh: not entered yet."""
        outcome: str | Retry = "cancelled"
        ours = True
        pending: Pending | None = None
        watched = turn.call.era == MODERN
        if watched:
            self._leaving.watch(turn.receive, turn.leash)
        try:
            with turn.leash:
                try:
                    messages = await exchange.__aenter__() if fresh else exchange.messages
                    async for value in messages:
                        if "method" not in value:
                            if pending is not None:
                                await pending.close()
                            outcome = await self._answer(turn, target, link, value, rounds)
                            break
                        if "id" not in value:
                            values = [value]
                            while len(values) < TOGETHER and (more := exchange.more()) is not None:
                                values.append(more)
                            if pending is not None:
                                for one in values:
                                    pending.note(one)
                            await self._notices(turn, target, link, values, key)
                            if len(values) == TOGETHER:
                                await asyncio.sleep(0)  # a burst leaves others their turn
                        elif turn.face is not None:
                            pending = pending or Pending(self._tasks, turn.leash)
                            await pending.add(value, partial(self._asking.put, turn, target, link, value, credentials))
                        else:
                            ours = False  # parked or ended, whatever happens in there
                            cancel = partial(self._cancel, turn.principal, target, link, rpc_id, credentials)
                            outcome = await self._asking.park(
                                turn, target, link, exchange, rpc_id, [value], cancel, rounds
                            )
                            break
                finally:
                    if pending is not None:
                        await pending.close()
                    if ours:
                        await exchange.aclose()
        finally:
            if watched:
                self._leaving.stop(turn.leash)
        if pending is not None and pending.failure is not None:
            raise pending.failure
        if turn.leash.pulled and outcome == "cancelled":
            await self._cancel(turn.principal, target, link, rpc_id, credentials)
            await turn.out.end()
        return outcome

    async def resume(self, turn: Turn, target: Target, link: Link, credentials: Credentials, key: str) -> str | Retry:
        """Go on with a request that brings answers: its state is opened once, and everything is decided anew.

        Returns the exchange's outcome, or, where no exchange waits upstream, what the request adds when it is sent.
        Raises UpstreamFault, Refused; Malformed (request_state, answer_invalid).
        """
        asking = self._asking
        sealed, parked = asking.open(turn, target)
        if parked is None:
            retry = await asking.answered(turn, target, link, sealed)
            if isinstance(retry, Refusal):
                return await turn.refuse(retry, tool_call=target.method == "tools/call")
            return retry
        try:
            # The upstream has the request already: it is decided about again all the same, and not sent.
            action = self._request(turn, target, parked.link, parked.rpc_id, None)
            verdict = await self._guard.clear(action, turn.exchange)
            refusal = verdict if isinstance(verdict, Refusal) else None
            if refusal is None:
                refusal = await asking.deliver(turn, target, parked, sealed, credentials)
        except BaseException:
            await end(parked)
            raise
        if refusal is not None:
            await end(parked)
            return await turn.refuse(refusal, tool_call=target.method == "tools/call")
        turn.out.about = target.asking
        turn.out.begin()
        return await self._follow(
            turn,
            target,
            parked.link,
            parked.exchange,
            parked.rpc_id,
            credentials,
            key,
            parked.rounds,
            fresh=False,
        )

    async def _notices(self, turn: Turn, target: Target, link: Link, values: list[JSONObject], key: str) -> None:
        """Relay notifications. One that the guard refuses is dropped; the call goes on without it."""
        bodies: list[JSONObject] = []
        for value in values:
            if value.get("method") not in _RELAYED:
                if self.heard is not None:
                    self.heard(turn.principal.tenant, target.spec, key, value)
                continue
            body = bridge.notice(value, turn.call)
            if body is not None:
                turn.notices += 1
                if turn.notices <= NOTICES_PER_CALL and (body["method"] != _PROGRESS or _moves_on(turn, body)):
                    bodies.append(body)
        for method, alike in groupby(bodies, _method):
            await self._say(turn, target, method, list(alike))

    async def _say(self, turn: Turn, target: Target, method: str, bodies: list[JSONObject]) -> None:
        """Clear and write notifications of one method: together where that will do, else one by one."""
        point = point_of(method, turn.call.era, "response")
        if point is None:
            return
        like = response(
            point,
            turn.principal,
            method,
            self._server(turn, target),
            bodies[0],
            version=turn.call.version,
            transport="sse",
        )
        together = self._guard.clear_alike(like, bodies, turn.exchange) if len(bodies) > 1 else None
        if together is not None:
            await turn.out.notice(*together)
            return
        for body in bodies:
            cleared = await self._guard.clear(like.of(body), turn.exchange)
            if isinstance(cleared, Cleared):
                await turn.out.notice(cleared)

    async def _answer(self, turn: Turn, target: Target, link: Link, value: JSONObject, rounds: int) -> str | Retry:
        call = turn.call
        status = 200
        try:
            if "result" in value:
                result = jsonrpc.result_of(value)
                if isinstance(result, dict) and result.get("resultType") == "input_required":
                    if link.opened.era != MODERN:
                        raise Malformed("result_shape")
                    if turn.face is not None:
                        return await self._asking.collect(turn, target, link, result, rounds)
                    asked = await self._asking.wrap(turn, target, link, result, rounds)
                    if isinstance(asked, Refusal):
                        return await turn.refuse(asked, tool_call=target.method == "tools/call")
                    return asked
                said = self._inventory.words(turn.principal.tenant, target.spec, link.opened)
                body, resource = target.result(call, result, said)
                point, method = target.answered, target.method
            else:
                message = jsonrpc.parse(value)
                if not isinstance(message, jsonrpc.ErrorResponse):
                    raise Malformed("rpc_shape")
                if message.code == URL_REQUIRED:
                    told = await self._asking.required(turn, target, link, message.data, rounds)
                    if told is not None:
                        return told
                if message.code == CAPABILITY_MISSING and self.insists is not None:
                    outcome = await self.insists(turn, target, link, message.data)
                    if outcome is not None:
                        return outcome
                body = bridge.error(call.id, call.era, message.code, message.data)
                status = bridge.error_status(body, call.era)
                resource, point, method = self._server(turn, target), Point.MCP_ERROR, ERROR
        except Malformed:
            raise UpstreamFault("malformed", "the result has no known shape") from None
        action = response(point, turn.principal, method, resource, body, version=call.version)
        cleared = await self._guard.clear(action, turn.exchange)
        if isinstance(cleared, Refusal):
            return await turn.refuse(cleared, tool_call=target.method == "tools/call")
        await turn.out.final(cleared, status=status)
        return "ok"

    def _server(self, turn: Turn, target: Target) -> Resource:
        return self._house.resource(turn.principal.tenant, target.spec)

    async def _cancel(
        self, principal: Principal, target: Target, link: Link, rpc_id: int, credentials: Credentials
    ) -> None:
        """Tell an upstream that listens to it; a modern HTTP one saw its stream close."""
        if link.transport == "http" and link.opened.era == MODERN:
            return
        note = jsonrpc.build_notification("notifications/cancelled", {"requestId": rpc_id})
        with contextlib.suppress(UpstreamFault, Refused):
            cleared = await self._house.clear(
                principal.tenant,
                target.spec,
                "notifications/cancelled",
                note,
                version=link.opened.version,
                point=Point.MCP_NOTIFY_CLIENT,
            )
            await link.notify(cleared, await credentials())


def _method(body: JSONObject) -> str:
    return str(body["method"])


def _moves_on(turn: Turn, body: JSONObject) -> bool:
    """Return whether a progress notification increases (MCP, progress: it MUST)."""
    params = body.get("params")
    told = params.get("progress") if isinstance(params, dict) else None
    if not isinstance(told, (int, float)):
        return True
    if told <= turn.progress:
        return False
    turn.progress = told
    return True
