"""Many requests on one stream of messages: who gets what. For pipes and for HTTP+SSE of 2024-11-05.

- Requests are told apart by ids of our own, which nobody else sees (mcp reference §5.5).
- A notification goes to the request whose progress token it names. A log line names none, so it is
  relayed only while exactly one request is open: with two it could be another principal's. What belongs
  to no request goes to whoever listens.
- A question goes to the youngest open request: where a server may ask at all, its link has one caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final

from firewall.core.bounds import STREAM_TOTAL_S
from firewall.core.errors import UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared
from mcp_gateway.exchanges import Inbox, Messages
from mcp_gateway.message import SUBSCRIPTION_ID
from mcp_gateway.upstream import covers, token_of

LISTENERS: Final = 16


class Mux:
    """The open requests of one link, and its listeners.

    answer: replies to a server's request that nobody here can be asked (ping, method-not-found).
    """

    def __init__(self, declared: JSONObject, answer: Callable[[JSONObject], Awaitable[None]]) -> None:
        self._declared = declared
        self._answer = answer
        self._open: dict[int, Inbox] = {}
        self._listeners: list[Inbox] = []
        self._ended: UpstreamFault | None = None

    def open(self, rpc_id: int) -> Inbox:
        """Return where the messages of a request arrive."""
        inbox = self._open[rpc_id] = Inbox()
        if self._ended is not None:
            inbox.end(self._ended)
        return inbox

    def close(self, rpc_id: int) -> None:
        """Forget a request; what still comes for it is dropped."""
        self._open.pop(rpc_id, None)

    def end(self, fault: UpstreamFault) -> None:
        """Wake everyone who waits: nothing follows."""
        self._ended = fault
        for inbox in (*self._open.values(), *self._listeners):
            inbox.end(fault)

    async def route(self, value: JSONObject) -> None:
        """Bring a message to whom it belongs."""
        if "method" in value and "id" in value:
            youngest = next(reversed(self._open.values()), None)
            if youngest is None or not covers(self._declared, value) or not youngest.put(value):
                await self._answer(value)
            return
        rpc_id = value.get("id") if "method" not in value else self._owner(value)
        inbox = self._open.get(rpc_id) if isinstance(rpc_id, int) and not isinstance(rpc_id, bool) else None
        if inbox is not None:
            inbox.put(value)
        elif "method" in value:
            for listener in self._listeners:
                listener.put(value)
        # Else an answer to nothing we asked.

    @asynccontextmanager
    async def listen(self) -> AsyncGenerator[Messages]:
        """Yield what belongs to no request. Raises UpstreamFault: too_large (listeners), and how the link ended."""
        if len(self._listeners) >= LISTENERS:
            raise UpstreamFault("too_large", "too many listeners")
        inbox = Inbox()
        self._listeners.append(inbox)
        if self._ended is not None:
            inbox.end(self._ended)
        try:
            yield _unasked(inbox)
        finally:
            self._listeners.remove(inbox)

    def _owner(self, value: JSONObject) -> int:
        token = token_of(value)
        if token < 0 and value.get("method") == "notifications/message" and len(self._open) == 1:
            return next(iter(self._open))
        return token if token >= 0 else subscription_of(value)


def subscription_of(value: JSONObject) -> int:
    """Return the id of the listen that a notification names (MCP 2026-07-28, subscriptions), or -1."""
    params = value.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    told = meta.get(SUBSCRIPTION_ID) if isinstance(meta, dict) else None
    return told if isinstance(told, int) and not isinstance(told, bool) else -1


class MuxExchange:
    """One request of a mux. Its messages arrive whoever reads them, so it can be left to another task.

    send: writes the request. late: told the loop time since which a deadline ran out.
    """

    __slots__ = ("_began", "_cleared", "_done", "_ends_at", "_inbox", "_late", "_mux", "_rpc_id", "_send")

    def __init__(
        self,
        mux: Mux,
        rpc_id: int,
        cleared: Cleared,
        deadline_s: float,
        send: Callable[[Cleared], Awaitable[None]],
        late: Callable[[float], None] = lambda _began: None,
    ) -> None:
        self._mux = mux
        self._rpc_id = rpc_id
        self._cleared = cleared
        self._send = send
        self._late = late
        self._began = asyncio.get_running_loop().time()
        self._ends_at = self._began + deadline_s
        self._inbox: Inbox | None = None
        self._done = False

    async def __aenter__(self) -> MuxExchange:
        self._inbox = self._mux.open(self._rpc_id)
        try:
            await self._send(self._cleared)
        except BaseException:
            self._mux.close(self._rpc_id)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening. Idempotent."""
        self._mux.close(self._rpc_id)

    def __aiter__(self) -> MuxExchange:
        return self

    @property
    def messages(self) -> MuxExchange:
        """See Exchange.messages."""
        return self

    def more(self) -> JSONObject | None:
        """See Exchange.more."""
        return self._inbox.more() if self._inbox is not None and not self._done else None

    async def __anext__(self) -> JSONObject:
        """Return the next message. Raises UpstreamFault: timeout, cut_stream."""
        if self._done or self._inbox is None:
            raise StopAsyncIteration
        try:
            value = await self._inbox.get(self._ends_at)
        except UpstreamFault as fault:
            self._done = True
            if fault.code == "timeout":
                self._late(self._began)
            raise
        self._done = "method" not in value
        return value


async def _unasked(inbox: Inbox) -> AsyncGenerator[JSONObject]:
    while True:
        try:
            value = await inbox.get(asyncio.get_running_loop().time() + STREAM_TOTAL_S)
        except UpstreamFault as fault:
            if fault.code == "timeout":
                continue  # an upstream may be silent for as long as it likes
            raise
        yield value
