"""GET: a session's standalone stream, and streams taken up again after ``Last-Event-ID`` (SH-3). Legacy only.

A held stream costs a place (`Sessions.hold`) and lives no longer than the token that opened it: the token
is looked at again before every event and every two seconds (RS-19).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from firewall.core.action import Action
from firewall.core.errors import Malformed
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.core.points import Point
from firewall.core.ports import Clock, ResourceServer
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.net import asgi
from firewall.net.runtime import Tasks
from firewall.net.tenure import Tenure, TokenWatch
from mcp_gateway import reply
from mcp_gateway.endpoints import Endpoint
from mcp_gateway.incoming import Request
from mcp_gateway.leash import Leash
from mcp_gateway.pipe import Pipe
from mcp_gateway.relay import Turn
from mcp_gateway.session import Session
from mcp_gateway.sessions import Sessions
from mcp_gateway.streams import Stream, resume
from mcp_gateway.versions import LEGACY

LAST_WORDS_S: Final = 1.0

Attach = Callable[[Session, Principal, Endpoint], object]
"""Tells whoever brings events that a session listens now."""


class Standing:
    """Serves the GETs of a worker."""

    def __init__(
        self, guard: Guard, auth: ResourceServer, sessions: Sessions, tasks: Tasks, clock: Clock, attach: Attach
    ) -> None:
        self._guard = guard
        self._auth = auth
        self._sessions = sessions
        self._tasks = tasks
        self._clock = clock
        self._attach = attach

    async def serve(self, request: Request) -> None:
        """Open a session's standalone stream, or take a stream up again after ``Last-Event-ID`` (SH-3)."""
        leash = Leash()
        still = partial(self.still, request.headers, request.endpoint, request.principal)
        pipe = Pipe(asgi.EventStream(request.send), self._tasks, still=still, on_closed=leash.pull)
        try:
            if not request.takes_stream:
                raise Malformed("not_acceptable")
            session = self._sessions.open(request.principal, request.endpoint.url, request.session_id)
            last = request.headers.get(b"last-event-id", b"")
            found = session.find(last) if last else None
            release = self._sessions.hold(request.principal)
        except Malformed as error:
            await asgi.write_fixed(request.send, reply.failed(error.code, None, ""))
            return
        try:
            if found is None:
                session.listen(pipe)
                pipe.open()
            else:
                await self._resume(request, session, pipe, *found)
            if session.listening:
                self._attach(session, request.principal, request.endpoint)
            async with Tenure(still) as tenure:
                with leash:
                    await asgi.disconnected(request.receive)
            if tenure.over:
                pipe.end()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_WORDS_S):
                        await pipe.closed()
        except Malformed as error:
            await asgi.write_fixed(request.send, reply.failed(error.code, None, ""))
        finally:
            pipe.drop()
            release()

    async def _resume(self, request: Request, session: Session, pipe: Pipe, line: Stream, after: int) -> None:
        """Replay what a stream carried, each event decided again. Raises Malformed("stream_unknown")."""
        exchange = self._guard.new_exchange(request.principal, "mcp", client_ip=request.client_ip)
        exchange.verb = "(resume)"

        async def again(action: Action) -> Cleared | Refusal:
            return await self._guard.clear(replace(action, principal=request.principal), exchange)

        def told(action: Action, refusal: Refusal) -> FixedReply:
            body = action.body
            rpc_id = body.get("id") if isinstance(body, dict) else None
            return reply.refused(
                refusal,
                rpc_id if isinstance(rpc_id, (str, int)) else None,
                era=LEGACY,
                tool_call=action.point is Point.MCP_TOOL_RESULT,
            )

        line.after(after)
        outcome = "internal"
        try:
            await resume(
                line, after, pipe, recheck=again, told=told, questions=session.questions, primed=session.primes
            )
            session.heard()
            outcome = "ok"
        finally:
            self._guard.close(exchange, outcome=outcome)

    def still(self, headers: Mapping[bytes, bytes], endpoint: Endpoint, principal: Principal) -> bool:
        """Return whether a stream's token is still good: a held stream must not outlive it."""
        return self._auth.still(headers, endpoint.url, principal)

    def watch(self, turn: Turn) -> None:
        """From now on, end the stream of an answer when its token is over. A second call does nothing."""
        if turn.watch is None:
            turn.watch = TokenWatch(partial(_good, turn), partial(self.over, turn))
            turn.watch.start()

    def over(self, turn: Turn) -> None:
        """End the stream of an answer whose token is over (RS-19).

        A legacy client that has a new token takes it up again where it was; a call of somebody who was cut off,
        and of a modern client, which cannot come back, ends upstream too.
        """
        if self._clock.now_us() >= turn.principal.expires_at * 1_000_000 and turn.session is not None:
            turn.out.let_go()
        if turn.out.streaming:
            turn.leash.pull()


def _good(turn: Turn) -> bool:
    """Return whether an answer may go on: nothing streams, or the token is still good."""
    return not turn.out.streaming or (turn.still is not None and turn.still())
