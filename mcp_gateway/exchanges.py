"""Reading what answers one request of an upstream, message by message.

An exchange is an asynchronous context and its own iterator: entering sends, iterating yields messages
with the response last, leaving stops listening. It is a plain object, so that an exchange that waits for
a person can outlive the request that began it (`conversation`).

- `HTTPExchange`: one POST, answered as JSON or as a stream. A legacy stream that was cut after an event
  with an id goes on by GET with Last-Event-ID (MCP 2025-11-25 transports, SEP-1699 polling).
- `PumpedExchange`: the same, read by a task of its own into a bounded `Inbox`; for upstreams that may ask.
- `Inbox`: notifications are lost first when nobody reads, a response or a question never.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final, Protocol

from firewall.core.action import Headers
from firewall.core.bounds import SSE_EVENT_BYTES, UPSTREAM_BODY_BYTES
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared
from firewall.net.runtime import Tasks
from firewall.net.upstream import UpstreamStream
from firewall.wire import sse, strict_json

EVENT_ID_CHARS: Final = 1024
RESUMES: Final = 50  # of one exchange: a server that polls its client by closing gets that many rounds
RETRY_S: Final = 1.0  # where a server names none
RETRY_MAX_S: Final = 15.0
INBOX_MESSAGES: Final = 256
QUESTIONS: Final = 16  # that wait at once in one inbox

Messages = AsyncIterator[JSONObject]


class Context(Protocol):
    """One HTTP exchange of the upstream client."""

    async def __aenter__(self) -> UpstreamStream: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> bool | None: ...


class Opener(Protocol):
    """The part of a link that an HTTP exchange needs."""

    @property
    def session(self) -> bytes:
        """The session that requests belong to, b"" without one."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it belongs to."""

    @property
    def resumable(self) -> bool:
        """Whether a cut stream can be taken up again: legacy revisions only."""

    def post(self, cleared: Cleared, credentials: Headers, session: bytes) -> Context:
        """Return the context of one POST."""

    async def take_up(self, credentials: Headers, last_id: str, remaining_s: float) -> Context:
        """Return the context of a GET that goes on after an event. Raises UpstreamFault, Refused."""

    async def reopen(self, lost: bytes, credentials: Headers) -> None:
        """Open a session again that the server has forgotten. Raises UpstreamFault, Refused."""

    async def asked(self, value: JSONObject, credentials: Headers) -> bool:
        """Answer a server's request if it is ours to answer; return whether it was."""


class Exchange(Protocol):
    """What answers one request. Raises UpstreamFault while it is entered and read."""

    @property
    def messages(self) -> Messages:
        """What entering returns, for whoever goes on with an exchange that somebody else entered."""

    def more(self) -> JSONObject | None:
        """Return the next message if it is a notification that is here already, else None. Never waits, never raises."""

    async def aclose(self) -> None:
        """Leave: stop listening. Idempotent."""

    async def __aenter__(self) -> Messages: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None, /
    ) -> None: ...


class HTTPExchange:
    """One POST and everything that answers it."""

    __slots__ = (
        "_chunks",
        "_cleared",
        "_context",
        "_credentials",
        "_done",
        "_ends_at",
        "_events",
        "_held",
        "_last_id",
        "_link",
        "_on_pause",
        "_parser",
        "_resumes",
        "_retry_ms",
        "_rpc_id",
        "_sse",
        "_stream",
    )

    def __init__(self, link: Opener, rpc_id: int, cleared: Cleared, credentials: Headers, deadline_s: float) -> None:
        self._link = link
        self._rpc_id = rpc_id
        self._cleared = cleared
        self._credentials = credentials
        self._ends_at = link.loop.time() + deadline_s
        self._context: Context | None = None
        self._stream: UpstreamStream | None = None
        self._done = self._sse = False
        self._held: JSONObject | UpstreamFault | None = None  # what `more` found and was not its to return
        self._last_id = ""
        self._retry_ms: int | None = None
        self._resumes = 0
        self._on_pause: Callable[[], None] | None = None

    def pausing(self, call: Callable[[], None]) -> None:
        """Call this when the server ends its stream and has named the time to come back (SEP-1699)."""
        self._on_pause = call

    async def __aenter__(self) -> HTTPExchange:
        link = self._link
        session = link.session
        context = link.post(self._cleared, self._credentials, session)
        stream = await context.__aenter__()
        if stream.status == 404 and session:
            # Forgotten there, so the request was not executed: open again, and send once more.
            await context.__aexit__(None, None, None)
            await link.reopen(session, self._credentials)
            context = link.post(self._cleared, self._credentials, link.session)
            stream = await context.__aenter__()
        self._context, self._stream = context, stream
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening; in the modern era this cancels. Idempotent."""
        context, self._context = self._context, None
        if context is not None:
            await context.__aexit__(None, None, None)

    def __aiter__(self) -> HTTPExchange:
        return self

    @property
    def messages(self) -> HTTPExchange:
        """See Exchange.messages."""
        return self

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return self._stream.status if self._stream is not None else 0

    @property
    def headers(self) -> dict[str, str]:
        """The header fields of the answer."""
        return self._stream.headers if self._stream is not None else {}

    async def __anext__(self) -> JSONObject:
        """Return the next message. Raises UpstreamFault: credentials, malformed, too_large, cut_stream, timeout."""
        if self._done:
            raise StopAsyncIteration
        if not self._sse:
            stream = self._stream
            assert stream is not None
            kind = kind_of(stream)
            if kind == "application/json":
                value = parsed(await stream.whole(UPSTREAM_BODY_BYTES))
                if not answers(value, self._rpc_id, stream.status):
                    raise UpstreamFault("malformed", "the answer is not the answer to the request")
                self._done = True
                return value
            if kind != "text/event-stream" or stream.status != 200:
                raise UpstreamFault("malformed", "the answer has no known form")
            self._listen(stream)
        while True:
            held, self._held = self._held, None
            if isinstance(held, UpstreamFault):
                raise held
            value = held if held is not None else await self._event()
            if "method" not in value:
                if answers(value, self._rpc_id, 200):
                    self._done = True
                    return value
            elif "id" not in value or not await self._link.asked(value, self._credentials):
                return value

    def more(self) -> JSONObject | None:
        """See Exchange.more."""
        if not self._sse or self._done or self._held is not None:
            return None
        try:
            value = self._arrived()
        except UpstreamFault as fault:
            self._held = fault
            return None
        if value is None or ("method" in value and "id" not in value):
            return value
        self._held = value
        return None

    def _listen(self, stream: UpstreamStream) -> None:
        self._sse = True
        self._parser = sse.Parser(SSE_EVENT_BYTES)
        self._events: deque[sse.Event | Malformed] = deque()
        self._chunks = stream.chunks()

    async def _event(self) -> JSONObject:
        """Return the next message of the stream; priming events carry none, but an id to go on from."""
        while True:
            value = self._arrived()
            if value is not None:
                return value
            try:
                chunk = await anext(self._chunks)
            except StopAsyncIteration:
                if self._on_pause is not None and self._retry_ms is not None and is_event_id(self._last_id):
                    self._on_pause()
                await self._resume()
                continue
            except UpstreamFault as fault:
                if fault.code != "cut_stream":
                    raise
                await self._resume()
                continue
            self._events.extend(self._parser.feed(chunk))

    def _arrived(self) -> JSONObject | None:
        """Return the next message that is here. Raises UpstreamFault."""
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Malformed):
                raise UpstreamFault("too_large" if event.code == "sse_event_too_large" else "malformed")
            self._last_id = event.id
            if event.retry_ms is not None:
                self._retry_ms = event.retry_ms
            if event.data:
                return parsed(event.data)
        return None

    async def _resume(self) -> None:
        """Take the stream up after its last event, or end: without an id nobody knows where it broke."""
        remaining_s = self._ends_at - self._link.loop.time()
        able = self._link.resumable and self._resumes < RESUMES and remaining_s > 0
        if not able or not is_event_id(self._last_id):
            raise UpstreamFault("cut_stream", "the stream ended without a response")
        self._resumes += 1
        await self.aclose()
        await asyncio.sleep(min(pause_s(self._retry_ms), remaining_s))
        context = await self._link.take_up(self._credentials, self._last_id, remaining_s)
        stream = await context.__aenter__()
        self._context, self._stream = context, stream
        if kind_of(stream) != "text/event-stream" or stream.status != 200:
            raise UpstreamFault("cut_stream", "the stream could not be taken up")
        self._listen(stream)


class Inbox:
    """What a task reads for somebody who may be away. One reader; bounded."""

    __slots__ = ("_ended", "_fault", "_items", "_questions", "_waiter")

    def __init__(self) -> None:
        self._items: deque[JSONObject] = deque()
        self._waiter: asyncio.Future[bool] | None = None
        self._fault: BaseException | None = None
        self._ended = False
        self._questions = 0

    def put(self, value: JSONObject) -> bool:
        """Keep a message; return whether there was room. A response always has, and a few questions."""
        if self._ended:
            return False
        if "method" in value and "id" in value:
            if self._questions >= QUESTIONS:
                return False
            self._questions += 1
        elif "method" in value and len(self._items) >= INBOX_MESSAGES:
            return False
        self._items.append(value)
        self._wake(True)
        return True

    def end(self, fault: BaseException | None = None) -> None:
        """Say that nothing follows, or what went wrong; the first end counts."""
        if not self._ended:
            self._ended, self._fault = True, fault
            self._wake(True)

    @property
    def waiting(self) -> bool:
        """Whether something is there to be read without waiting."""
        return bool(self._items)

    async def get(self, until: float) -> JSONObject:
        """Return the next message; until: loop time. Raises UpstreamFault: timeout, cut_stream, or how it ended."""
        while not self._items:
            if self._ended:
                raise self._fault or UpstreamFault("cut_stream", "the upstream ended without a response")
            loop = asyncio.get_running_loop()
            waiter = self._waiter = loop.create_future()
            timer = loop.call_at(until, self._wake, False)
            try:
                if not await waiter:
                    raise UpstreamFault("timeout")
            finally:
                timer.cancel()
                self._waiter = None
        value = self._items.popleft()
        if "method" in value and "id" in value:
            self._questions -= 1
        return value

    def more(self) -> JSONObject | None:
        """See Exchange.more."""
        if self._items and "method" in self._items[0] and "id" not in self._items[0]:
            return self._items.popleft()
        return None

    def _wake(self, there: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(there)


class PumpedExchange:
    """An exchange that a task reads on while its reader is away. drop: leaves the link's table of open exchanges."""

    __slots__ = ("_drop", "_ends_at", "_inner", "_pump", "_tasks", "inbox", "rpc_id")

    def __init__(
        self, inner: HTTPExchange, rpc_id: int, tasks: Tasks, deadline_s: float, drop: Callable[[int], None]
    ) -> None:
        self._inner = inner
        self._tasks = tasks
        self._drop = drop
        self._ends_at = asyncio.get_running_loop().time() + deadline_s
        self._pump: asyncio.Task[None] | None = None
        self.inbox = Inbox()
        self.rpc_id = rpc_id

    def pausing(self, call: Callable[[], None]) -> None:
        """See HTTPExchange.pausing."""
        self._inner.pausing(call)

    async def __aenter__(self) -> PumpedExchange:
        try:
            await self._inner.__aenter__()
        except BaseException:
            self._drop(self.rpc_id)
            raise
        self._pump = self._tasks.spawn(self._read(), "mcp.pump")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening. Idempotent."""
        self._drop(self.rpc_id)
        self.inbox.end()
        if self._pump is not None and not self._pump.done():
            self._pump.cancel()
            await asyncio.wait((self._pump,))
        await self._inner.aclose()

    def __aiter__(self) -> PumpedExchange:
        return self

    @property
    def messages(self) -> PumpedExchange:
        """See Exchange.messages."""
        return self

    def more(self) -> JSONObject | None:
        """See Exchange.more."""
        return self.inbox.more()

    async def __anext__(self) -> JSONObject:
        """Return the next message; the response is the last one."""
        try:
            return await self.inbox.get(self._ends_at)
        except EOFError:
            raise StopAsyncIteration from None

    async def _read(self) -> None:
        fault: BaseException | None = None
        try:
            async for value in self._inner:
                self.inbox.put(value)
                if "method" not in value:
                    fault = EOFError()
        except Exception as error:  # noqa: BLE001  whatever it was, its reader is told
            fault = error
        finally:
            self.inbox.end(fault)
            await self._inner.aclose()


# -- small readings -------------------------------------------------------------------------------------


def kind_of(stream: UpstreamStream) -> str:
    """Return the media type of an answer. Raises UpstreamFault: credentials (401, 403), malformed (5xx)."""
    if stream.status in (401, 403):
        raise UpstreamFault("credentials", "the upstream refused our credential")
    if stream.status >= 500:
        raise UpstreamFault("malformed", "the upstream answered with a server error")
    told = stream.headers.get("content-type", "")
    return told if told == "application/json" else told.partition(";")[0].strip().lower()


def lasts(cleared: Cleared) -> bool:
    """Return whether a request is answered by a stream without an end of its own: ``subscriptions/listen``."""
    return isinstance(cleared.body, dict) and cleared.body.get("method") == "subscriptions/listen"


def is_event_id(text: str) -> bool:
    """Return whether an event's id can travel in a header field."""
    return 0 < len(text) <= EVENT_ID_CHARS and all("\x21" <= c <= "\x7e" for c in text)


def pause_s(retry_ms: int | None) -> float:
    """Return how long to wait before a stream is taken up again, seconds."""
    return RETRY_S if retry_ms is None else min(retry_ms / 1000, RETRY_MAX_S)


def answers(value: JSON, rpc_id: int, status: int) -> bool:
    """Return whether a message is the response to our request; an error may lack the id on a 4xx."""
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        return False
    if "result" in value:
        return value.get("id") == rpc_id and "error" not in value and status == 200
    return "error" in value and (value.get("id") == rpc_id or (status >= 400 and value.get("id") is None))


def parsed(data: bytes) -> JSONObject:
    """Return one strictly parsed message of an upstream. Raises UpstreamFault("malformed")."""
    try:
        value = strict_json.loads(data)
    except Malformed as error:
        raise UpstreamFault("malformed", error.code) from None
    if not isinstance(value, dict):
        raise UpstreamFault("malformed", "not an object")
    return value
