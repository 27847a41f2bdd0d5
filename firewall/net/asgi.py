"""ASGI helpers of every shell: read a bounded body, read headers once, write what was cleared, see a client leave.

The writers accept `Cleared` and `FixedReply` and nothing else (DESIGN §3); the check is made at run
time as well, since an untyped caller must not be a way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, MutableMapping
from functools import partial
from types import coroutine
from typing import Any, Final, TypeAlias, TypeVar

from firewall.core.action import Headers
from firewall.core.errors import Malformed
from firewall.core.permit import Cleared, FixedReply
from firewall.net.runtime import Tasks
from firewall.wire import sse

T = TypeVar("T")

Scope: TypeAlias = "MutableMapping[str, Any]"
Message: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# Fields that route, authenticate or frame: a second one is read by somebody else (MCP reference 11-3).
_SINGLE: Final = frozenset(
    {
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"dpop",
        b"expect",
        b"host",
        b"last-event-id",
        b"origin",
        b"proxy-authorization",
        b"signature",
        b"traceparent",
        b"transfer-encoding",
        b"x-api-key",
        b"api-key",
        b"a2a-version",
    }
)
_SINGLE_PREFIXES: Final = (b"mcp-", b"x-bartizan-")
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
_JSON: Final = (b"content-type", b"application/json")
_NO_STORE: Final = (b"cache-control", b"no-store")
_STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),  # a transforming proxy would hold events back
    (b"x-accel-buffering", b"no"),
    _NOSNIFF,
)


def header_map(scope: Scope) -> dict[bytes, bytes]:
    """Return lower-case names → values without edge white space; list-valued repeats joined by ", ".

    Raises Malformed http_desync: a repeat of a field that routes, authenticates or frames (all
    ``mcp-*`` included). ``cookie`` repeats are joined by "; " (RFC 9113 8.2.3).
    """
    out: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        value = value.strip(b" \t")
        before = out.get(name)
        if before is not None:
            if name in _SINGLE or name.startswith(_SINGLE_PREFIXES):
                raise Malformed("http_desync")
            value = before + (b"; " if name == b"cookie" else b", ") + value
        out[name] = value
    return out


def client_ip(scope: Scope) -> str:
    """Return the caller's address as the edge found it, "" where there is none (a unix socket)."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def read_body(scope: Scope, receive: Receive, max_bytes: int, timeout_s: float) -> Coroutine[object, None, bytes]:
    """Return the whole request body.

    max_bytes: inclusive; a larger Content-Length is refused before a byte is read. timeout_s: seconds
    for the whole body, so that a drip of bytes gains nothing.
    Raises Malformed: body_too_large (413), timeout_request (408), client_gone (nobody to answer).
    """
    for name, value in scope["headers"]:
        if name == b"content-length":
            check_length(value, max_bytes)
    return body_of(receive, max_bytes, timeout_s)


def check_length(value: bytes, max_bytes: int) -> None:
    """Raise Malformed("body_too_large") for a Content-Length that is too large, or no number."""
    if len(value) > 19 or not value.isdigit() or int(value) > max_bytes:
        raise Malformed("body_too_large")


async def body_of(receive: Receive, max_bytes: int, timeout_s: float) -> bytes:
    """As `read_body`, for whoever has looked at the Content-Length."""
    message, rest = _begin(receive())
    if rest is None and not message.get("more_body", False):
        whole = _part(message)  # nearly always: it came with its head, and needs no timer
        if len(whole) > max_bytes:
            raise Malformed("body_too_large")
        return whole
    try:
        async with asyncio.timeout(timeout_s):
            if rest is not None:
                message = await rest
            parts = [_part(message)]
            total = len(parts[0])
            while message.get("more_body", False):
                if total > max_bytes:
                    raise Malformed("body_too_large")
                message = await receive()
                parts.append(_part(message))
                total += len(parts[-1])
    except TimeoutError:
        raise Malformed("timeout_request") from None
    if total > max_bytes:
        raise Malformed("body_too_large")
    return b"".join(parts)


def _part(message: Message) -> bytes:
    if message["type"] != "http.request":
        raise Malformed("client_gone")
    data: bytes = message.get("body", b"")
    return data


def _begin(coming: Awaitable[Message]) -> tuple[Message, Awaitable[Message] | None]:
    """Take the first step of what would be awaited; return its message, or an empty one and what is left to await."""
    if not isinstance(coming, Coroutine):
        return {}, coming
    try:
        waits_for = coming.send(None)
    except StopIteration as end:
        return end.value, None
    return {}, _go_on(coming, waits_for)


@coroutine
def _go_on(begun: Coroutine[object, object, Message], waits_for: object) -> Generator[object, object, Message]:
    """Await a coroutine whose first step was taken: what ``yield from`` does, from its second step on."""
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:  # noqa: BLE001  a cancellation goes where it is waited
            take = partial(begun.throw, error)
        else:
            take = partial(begun.send, sent)
        try:
            waits_for = take()
        except StopIteration as end:
            message: Message = end.value
            return message


async def disconnected(receive: Receive) -> None:
    """Return when the client has left. Race it against every stream: without it a vanished client leaves its task."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(tasks: Tasks, receive: Receive, work: Coroutine[object, None, T], *, gone: T, name: str) -> T:
    """Return what ``work`` returns, or cancel it and return ``gone`` when the client leaves first."""
    job = tasks.spawn(work, f"{name}-call")
    left = tasks.spawn(disconnected(receive), f"{name}-gone")
    try:
        await asyncio.wait({job, left}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            # The server also reports a finished reply this way: let the last step of the call end.
            await asyncio.sleep(0)
        return job.result() if job.done() else gone
    finally:
        for task in (job, left):
            task.cancel()
        await asyncio.gather(job, left, return_exceptions=True)


async def write_cleared(send: Send, cleared: Cleared, *, status: int = 200, extra: Headers = ()) -> None:
    """Write one JSON reply: the cleared payload, its headers, then ``extra``."""
    if not isinstance(cleared, Cleared):
        raise TypeError("only what the guard cleared may leave")
    payload = cleared.payload
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                _JSON,
                (b"content-length", b"%d" % len(payload)),
                _NOSNIFF,
                _NO_STORE,
                *cleared.headers,
                *extra,
            ],
        }
    )
    await send({"type": "http.response.body", "body": payload})


async def write_fixed(send: Send, reply: FixedReply) -> None:
    """Write our own words."""
    if not isinstance(reply, FixedReply):
        raise TypeError("only a fixed reply may be written here")
    given = {name for name, _ in reply.headers}
    ours = (header for header in (_NOSNIFF, _NO_STORE) if header[0] not in given)
    await send(
        {
            "type": "http.response.start",
            "status": reply.status,
            "headers": [(b"content-length", b"%d" % len(reply.body)), *ours, *reply.headers],
        }
    )
    await send({"type": "http.response.body", "body": reply.body})


class EventStream:
    """One SSE response. `open` once, then events in order, then `close`; a lock keeps two writers apart."""

    __slots__ = ("_closed", "_lock", "_opened", "_send", "bytes_out")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lock = asyncio.Lock()
        self._opened = False
        self._closed = False
        self.bytes_out = 0

    @property
    def opened(self) -> bool:
        """Whether the head was sent: from then on an error is an event, not a status."""
        return self._opened

    async def open(self, extra_headers: Headers = (), *, status: int = 200) -> None:
        """Send the head. A second call does nothing."""
        if not self._opened:
            self._opened = True
            await self._send(
                {"type": "http.response.start", "status": status, "headers": [*_STREAM_HEADERS, *extra_headers]}
            )

    async def event(self, cleared: Cleared, *, event: str = "", id: str = "") -> None:
        """Send one cleared event."""
        if not isinstance(cleared, Cleared):
            raise TypeError("only what the guard cleared may leave")
        await self._write(sse.encode(cleared.payload, event=event, id=id))

    async def events(self, events: Iterable[tuple[Cleared | FixedReply, str, str]]) -> None:
        """Send events that are there together, in order, in one piece; each with its event name and id, or ""."""
        parts = []
        for what, name, event_id in events:
            if isinstance(what, Cleared):
                parts.append(sse.encode(what.payload, event=name, id=event_id))
            elif isinstance(what, FixedReply):
                parts.append(sse.encode(what.body, event=name, id=event_id))
            else:
                raise TypeError("only what the guard cleared, or our own words, may leave")
        await self._write(b"".join(parts))

    async def messages(self, cleared: Iterable[Cleared]) -> None:
        """Send messages that are there together, in order, in one piece; as `events` where each is a "message"."""
        parts = []
        for one in cleared:
            if not isinstance(one, Cleared):
                raise TypeError("only what the guard cleared may leave")
            parts.append(sse.encode_message(one.payload))
        await self._write(b"".join(parts))

    async def fixed_event(self, reply: FixedReply, *, event: str = "", id: str = "") -> None:
        """Send our own words as an event."""
        if not isinstance(reply, FixedReply):
            raise TypeError("only a fixed reply may be written here")
        await self._write(sse.encode(reply.body, event=event, id=id))

    async def prime(self, id: str, retry_ms: int) -> None:
        """Send an id without data: where a client that leaves takes the stream up again, and when (SEP-1699)."""
        await self._write(sse.encode(b"", id=id, retry_ms=retry_ms))

    async def comment(self) -> None:
        """Send a keep-alive."""
        await self._write(sse.COMMENT)

    async def close(self) -> None:
        """End the response. Opens it first where nothing was sent; a second call does nothing."""
        await self.open()
        async with self._lock:
            if not self._closed:
                self._closed = True
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, data: bytes) -> None:
        async with self._lock:
            if self._closed or not self._opened:
                raise RuntimeError("the event stream is not open")
            self.bytes_out += len(data)
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
