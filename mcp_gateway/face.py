"""The face towards a legacy client: questions to it, as real requests on its own streams.

A question carries an id of our own that nobody can guess, and waits in the session of one client: an
answer from another caller cannot reach it, since the session does not open for that caller. It goes
out on the stream of the request that made the server ask; without one, on the standalone stream, and
where none is open yet it waits a bounded time for the client to open one (MCP 2025-11-25, transports).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from firewall.core.action import Action
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Refusal
from firewall.core.points import Point
from firewall.core.ports import Ids
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc
from mcp_gateway import forms
from mcp_gateway.action import response
from mcp_gateway.house import Refused
from mcp_gateway.message import Answer
from mcp_gateway.session import Session
from mcp_gateway.versions import HANDSHAKE_VERSIONS

if TYPE_CHECKING:
    from mcp_gateway.relay import Turn

PENDING: Final = 32  # questions of one session at the same time
METHOD_NOT_FOUND: Final = -32601
INTERNAL: Final = -32603
WITHDRAWN: Final = "Nobody waits for the answer any more."

# Method → the capability that a client declares for it, and the revision that brought it.
_NEEDS: Final[Mapping[str, tuple[str, str]]] = {
    "sampling/createMessage": ("sampling", "2025-03-26"),
    "elicitation/create": ("elicitation", "2025-06-18"),
    "roots/list": ("roots", "2025-03-26"),
}


class Gone(Exception):
    """The session ended while a question was open: nobody will answer it."""


class Declined(Exception):
    """The client does not answer this question. code: a JSON-RPC code; of its words nothing is kept."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Face(Protocol):
    """A client that can be asked while its request runs. asked: how many questions this request has brought."""

    asked: int

    @property
    def capabilities(self) -> JSONObject:
        """What the client declared at ``initialize``: a closed list of members."""

    async def ask(
        self,
        method: str,
        params: JSONObject,
        *,
        turn: Turn | None,
        wait_s: float,
        act: Callable[[JSONObject], Action],
    ) -> JSONObject:
        """Ask, and return the ``result`` of the client's answer, strictly parsed but not yet decided about.

        turn: the request whose stream carries the question; None for the standalone stream. wait_s: for
        the answer, seconds, a wait for a stream included. act: makes the Action of the whole message, so
        that the guard decides about exactly what is sent.
        Raises Refused (the guard), Declined (not declared, too many, or the client's own error),
        TimeoutError, Gone.
        """


class LegacyFace:
    """A Face over one session, for one request."""

    def __init__(self, session: Session, guard: Guard, ids: Ids) -> None:
        self._session = session
        self._guard = guard
        self._ids = ids
        self.asked = 0

    @property
    def capabilities(self) -> JSONObject:
        """See Face.capabilities."""
        return self._session.capabilities

    async def ask(
        self,
        method: str,
        params: JSONObject,
        *,
        turn: Turn | None,
        wait_s: float,
        act: Callable[[JSONObject], Action],
    ) -> JSONObject:
        """See Face.ask."""
        session = self._session
        if not declared(session, method, params):
            raise Declined(METHOD_NOT_FOUND)
        told = forms.readable(params, session.version)
        if told is None:
            raise Declined(INTERNAL)
        if len(session.questions) >= PENDING:
            raise Declined(INTERNAL)
        question_id = self._ids.new("q")
        body = jsonrpc.build_request(question_id, method, told)
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        session.questions[question_id] = waiting
        asked: Action | None = None
        try:
            async with asyncio.timeout(wait_s):
                action = act(body)
                await self._send(action, turn)
                asked = action
                answer = await waiting
        except (asyncio.CancelledError, TimeoutError) as error:
            if waiting.cancelled() and session.ended and isinstance(error, asyncio.CancelledError):
                raise Gone from None
            if asked is not None:
                await self._withdraw(question_id, asked, turn)
            raise
        finally:
            session.questions.pop(question_id, None)
        if answer.result is None:
            raise Declined(answer.code)
        return answer.result

    async def _withdraw(self, question_id: str, asked: Action, turn: Turn | None) -> None:
        """Tell the client that its answer is not waited for any more (MCP 2025-11-25, cancellation)."""
        method, session = "notifications/cancelled", self._session
        body = jsonrpc.build_notification(method, {"requestId": question_id, "reason": WITHDRAWN})
        note = response(
            Point.MCP_NOTIFY_SERVER,
            asked.principal,
            method,
            asked.resource,
            body,
            version=session.version,
            transport="sse",
        )
        exchange = turn.exchange if turn is not None else self._guard.new_exchange(asked.principal, "mcp")
        cleared = await self._guard.clear(note, exchange)
        if turn is None:
            exchange.verb = method
            self._guard.close(exchange, outcome="refused" if isinstance(cleared, Refusal) else "ok")
        if isinstance(cleared, Refusal) or session.ended:
            return
        if turn is not None and not turn.out.done:
            await turn.out.notice(cleared)
        else:
            session.push(cleared)

    async def _send(self, action: Action, turn: Turn | None) -> None:
        session = self._session
        inside = turn is not None and not turn.out.done
        while not inside and not session.listening:
            if session.ended:
                raise Gone
            if session.opened is None:
                session.opened = asyncio.Event()
            await session.opened.wait()
        if turn is not None:
            cleared = await self._guard.clear(action, turn.exchange)
        else:
            exchange = self._guard.new_exchange(action.principal, "mcp")
            exchange.verb = action.verb
            cleared = await self._guard.clear(action, exchange)
            self._guard.close(exchange, outcome="refused" if isinstance(cleared, Refusal) else "ok")
        if isinstance(cleared, Refusal):
            raise Refused(cleared)
        if session.ended:
            raise Gone
        if turn is not None and not turn.out.done:
            await turn.out.notice(cleared)
        else:
            session.push(cleared)


def declared(session: Session, method: str, params: JSONObject) -> bool:
    """Return whether a client of this revision said that it answers such a question."""
    if method == "ping":
        return True
    need = _NEEDS.get(method)
    if need is None or HANDSHAKE_VERSIONS.index(session.version) < HANDSHAKE_VERSIONS.index(need[1]):
        return False
    given = session.capabilities.get(need[0])
    if not isinstance(given, dict):
        return False
    if method == "elicitation/create":
        mode = params.get("mode", "form")
        return (not given and mode == "form") or (isinstance(mode, str) and mode in given)
    return method != "sampling/createMessage" or "tools" not in params or "tools" in given
