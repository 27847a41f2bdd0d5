"""Links to upstreams: opened once per (tenant, upstream, credential), pooled, never one per call.

Streamable HTTP in both eras stands here; `stdio` has the pipes. A link yields the messages that
answer one request: notifications first, the response last, each strictly parsed and bounded.

- Opening is single-flight. Era detection follows mcp reference §3.5 and is remembered by the link.
- A legacy session that the server has forgotten (404) is opened again once, and the request, which
  was not executed, is sent again.
- Server requests (sampling, elicitation, roots) are answered with method-not-found: we declare no
  capability for them. ``ping`` is answered.
- An upstream's redirect, WWW-Authenticate or error text never travels on.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Final, Protocol

from firewall.core.action import Headers
from firewall.core.bounds import SSE_EVENT_BYTES, UPSTREAM_BODY_BYTES
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.permit import Cleared
from firewall.core.points import Point
from firewall.net.upstream import Target, UpstreamClient, UpstreamStream
from firewall.wire import jsonrpc, sse, strict_json
from mcp_gateway import bridge
from mcp_gateway import headers as h
from mcp_gateway.bridge import Opened
from mcp_gateway.house import House
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.versions import LEGACY, MODERN, NEWEST_HANDSHAKE, NEWEST_MODERN

SESSION_ID_CHARS: Final = 1024
QUESTIONS_PER_S: Final = 10  # a server's own requests that are answered; more are dropped unanswered
MODERN_ERRORS: Final = frozenset({-32020, -32021, -32022})
Credentials = Callable[[], Awaitable[Headers]]
Messages = AsyncGenerator[JSONObject]


class Link(Protocol):
    """One pooled connection to an upstream."""

    opened: Opened
    transport: str

    def next_id(self) -> int:
        """Return a request id that no other open request of this link has."""

    def exchange(self, rpc_id: int, cleared: Cleared, credentials: Headers) -> AbstractAsyncContextManager[Messages]:
        """Send a request and yield its messages, the response last; leaving early stops listening.

        In the modern era over HTTP, leaving early also cancels (the stream is closed).
        Raises UpstreamFault.
        """

    async def notify(self, cleared: Cleared, credentials: Headers) -> None:
        """Send a message that has no answer. Raises UpstreamFault."""

    @property
    def alive(self) -> bool:
        """Whether the link can still be used."""

    async def close(self) -> None:
        """End the link and everything that belongs to it."""


class Pool:
    """All links of a worker; `get` opens what is missing."""

    def __init__(
        self,
        open_link: Callable[[str, UpstreamSpec, Credentials], Awaitable[Link]],
        *,
        bound: int,
    ) -> None:
        self._open = open_link
        self._bound = bound
        self._links: OrderedDict[tuple[str, str, str], Link] = OrderedDict()
        self._locks: dict[tuple[str, str, str], asyncio.Lock] = {}
        self._closed = False

    async def get(self, tenant: str, spec: UpstreamSpec, key: str, credentials: Credentials) -> Link:
        """Return the open link of (tenant, upstream, credential key). Raises UpstreamFault, Refused."""
        slot = (tenant, spec.name, key)
        link = self._links.get(slot)
        if link is not None and link.alive:
            self._links.move_to_end(slot)
            return link
        lock = self._locks.setdefault(slot, asyncio.Lock())
        async with lock:
            link = self._links.get(slot)
            if link is not None and link.alive:
                return link
            if self._closed:
                raise UpstreamFault("unreachable")
            if link is not None:
                del self._links[slot]
                await link.close()
            try:
                async with asyncio.timeout(spec.open_s):
                    link = await self._open(tenant, spec, credentials)
            except TimeoutError:
                raise UpstreamFault("timeout", "the upstream did not open in time") from None
            self._links[slot] = link
        await self._trim()
        return link

    async def drop(self, name: str) -> None:
        """Close the links of one upstream (it is gone, or its configuration changed)."""
        for slot in [s for s in self._links if s[1] == name]:
            await self._links.pop(slot).close()

    async def close(self) -> None:
        """Close every link; none can be opened afterwards."""
        self._closed = True
        links = list(self._links.values())
        self._links.clear()
        for link in links:
            await link.close()

    async def _trim(self) -> None:
        while len(self._links) > self._bound:
            slot, link = self._links.popitem(last=False)
            self._locks.pop(slot, None)
            await link.close()


class HTTPLink:
    """Streamable HTTP, either era."""

    transport = "http"

    def __init__(self, client: UpstreamClient, house: House, tenant: str, spec: UpstreamSpec) -> None:
        self._client = client
        self._house = house
        self._tenant = tenant
        self._spec = spec
        self._target = Target(spec.url, spec.network, spec.ca_file, spec.client_cert, spec.client_key)
        self._session = b""
        self._ids = 0
        self._reopening = asyncio.Lock()
        self._closed = False
        self._patience = Patience()
        self.opened = Opened(NEWEST_MODERN, MODERN)

    @property
    def alive(self) -> bool:
        """An HTTP link dies only by `close`."""
        return not self._closed

    def next_id(self) -> int:
        """Return the next id; never repeated within a link."""
        self._ids += 1
        return self._ids

    async def open(self, credentials: Headers) -> None:
        """Find the upstream's era and open a session where it needs one. Raises UpstreamFault, Refused."""
        if self._spec.era != LEGACY and await self._discover(credentials):
            return
        if self._spec.era == MODERN:
            raise UpstreamFault("malformed", "the upstream does not speak a modern revision")
        await self._initialize(credentials)

    @asynccontextmanager
    async def exchange(self, rpc_id: int, cleared: Cleared, credentials: Headers) -> AsyncGenerator[Messages]:
        """See Link.exchange."""
        for again in (True, False):
            session = self._session
            async with self._stream(cleared, credentials, session) as stream:
                if stream.status == 404 and session and again:
                    lost = True
                else:
                    lost = False
                    async with aclosing(self._messages(stream, rpc_id, credentials)) as messages:
                        yield messages
            if not lost:
                return
            await self._reopen(session, credentials)

    async def notify(self, cleared: Cleared, credentials: Headers) -> None:
        """See Link.notify."""
        await self._client.request(
            cleared,
            self._target,
            headers=self._extra(credentials, self._session),
            deadline_s=self._spec.open_s,
            max_bytes=SSE_EVENT_BYTES,
        )

    async def close(self) -> None:
        """Forget the session; the server ends it by its own time-out."""
        self._closed = True

    # -- opening ---------------------------------------------------------------------------------------

    async def _discover(self, credentials: Headers) -> bool:
        body = bridge.discover(self.next_id(), NEWEST_MODERN)
        answer = await self._ask("server/discover", body, NEWEST_MODERN, credentials)
        if answer is None:
            return False
        message, _ = answer
        if isinstance(message, jsonrpc.ErrorResponse):
            if message.code in MODERN_ERRORS and self._spec.era == MODERN:
                raise UpstreamFault("malformed", "the upstream speaks no modern revision of ours")
            return False
        try:
            self.opened = bridge.opened(message.result, MODERN)
        except Malformed:
            return False
        self._session = b""
        return True

    async def _initialize(self, credentials: Headers) -> None:
        self._session = b""
        body = bridge.initialize(self.next_id(), NEWEST_HANDSHAKE)
        answer = await self._ask("initialize", body, NEWEST_HANDSHAKE, credentials)
        message, session = answer or (None, "")
        if not isinstance(message, jsonrpc.Response):
            raise UpstreamFault("malformed", "the upstream refused to open a session")
        try:
            self.opened = bridge.opened(message.result, LEGACY)
        except Malformed:
            raise UpstreamFault("malformed", "the upstream opened a session in a way that no revision knows") from None
        if len(session) > SESSION_ID_CHARS or not all("\x21" <= c <= "\x7e" for c in session):
            raise UpstreamFault("malformed", "the upstream's session id is not visible ASCII")
        self._session = session.encode("ascii")
        note = jsonrpc.build_notification("notifications/initialized")
        await self.notify(await self._clear("notifications/initialized", note, Point.MCP_NOTIFY_CLIENT), credentials)

    async def _reopen(self, lost: bytes, credentials: Headers) -> None:
        async with self._reopening:
            if self._session != lost:
                return  # another request has opened it again
            version = self.opened.version
            await self._initialize(credentials)
            if self.opened.version != version:
                self._closed = True
                raise UpstreamFault("unreachable", "the upstream came back with another revision")

    async def _ask(
        self, method: str, body: JSONObject, version: str, credentials: Headers
    ) -> tuple[jsonrpc.Response | jsonrpc.ErrorResponse, str] | None:
        """Send one of our own requests; None when the answer is no JSON-RPC answer of this request."""
        cleared = await self._house.clear(
            self._tenant, self._spec, method, body, version=version, point=Point.MCP_SESSION_OPEN
        )
        rpc_id = body["id"]
        assert isinstance(rpc_id, int)
        async with self._stream(cleared, credentials, self._session) as stream:
            session = stream.headers.get("mcp-session-id", "")
            try:
                async with aclosing(self._messages(stream, rpc_id, credentials)) as messages:
                    async for value in messages:
                        message = jsonrpc.parse(value)
                        if isinstance(message, (jsonrpc.Response, jsonrpc.ErrorResponse)):
                            return message, session
            except Malformed:
                return None
            except UpstreamFault as fault:
                if fault.code in ("malformed", "cut_stream") and 400 <= stream.status < 500:
                    return None
                raise
        return None

    # -- reading -----------------------------------------------------------------------------------------

    def _stream(
        self, cleared: Cleared, credentials: Headers, session: bytes
    ) -> AbstractAsyncContextManager[UpstreamStream]:
        return self._client.stream(
            cleared,
            self._target,
            headers=self._extra(credentials, session),
            deadline_s=self._spec.deadline_s,
            idle_s=self._spec.idle_s,
        )

    @staticmethod
    def _extra(credentials: Headers, session: bytes) -> Headers:
        return (*credentials, (h.SESSION, session)) if session else credentials

    async def _messages(self, stream: UpstreamStream, rpc_id: int, credentials: Headers) -> Messages:
        """Yield what answers a request, the response last.

        Raises UpstreamFault: credentials (401, 403), malformed, too_large, cut_stream.
        """
        if stream.status in (401, 403):
            raise UpstreamFault("credentials", "the upstream refused our credential")
        if stream.status >= 500:
            raise UpstreamFault("malformed", "the upstream answered with a server error")
        kind = stream.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            value = await _whole(stream)
            if not _answers(value, rpc_id, stream.status):
                raise UpstreamFault("malformed", "the answer is not the answer to the request")
            yield value
            return
        if kind != "text/event-stream" or stream.status != 200:
            raise UpstreamFault("malformed", "the answer has no known form")
        async with aclosing(_events(stream)) as events:
            async for value in events:
                if "method" in value:
                    if "id" in value:
                        await self._answer(value, credentials)
                    else:
                        yield value
                elif _answers(value, rpc_id, 200):
                    yield value
                    return
        raise UpstreamFault("cut_stream", "the stream ended without a response")

    async def _answer(self, asked: JSONObject, credentials: Headers) -> None:
        """Answer a server's request: ping with a pong, anything else with method-not-found."""
        reply = answer_server(asked)
        if reply is not None and self._patience.left():
            point = Point.MCP_PONG if "result" in reply else Point.MCP_NOTIFY_CLIENT
            await self.notify(await self._clear("ping" if "result" in reply else "error", reply, point), credentials)

    async def _clear(self, method: str, body: JSONObject, point: Point) -> Cleared:
        return await self._house.clear(self._tenant, self._spec, method, body, version=self.opened.version, point=point)


class Patience:
    """Bounds how many of a server's own requests are answered per second."""

    __slots__ = ("_count", "_second")

    def __init__(self) -> None:
        self._second = 0
        self._count = 0

    def left(self) -> bool:
        """Take one; return whether it was there."""
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            self._second, self._count = second, 0
        self._count += 1
        return self._count <= QUESTIONS_PER_S


def answer_server(asked: JSONObject) -> JSONObject | None:
    """Return our answer to a server's request, or None when it is not one that can be answered."""
    try:
        message = jsonrpc.parse(asked)
    except Malformed:
        return None
    if not isinstance(message, jsonrpc.Request):
        return None
    if message.method == "ping":
        return jsonrpc.build_response(message.id, {})
    return jsonrpc.build_error(message.id, -32601, "Method not found")


def _answers(value: JSON, rpc_id: int, status: int) -> bool:
    """Return whether a message is the response to our request; an error may lack the id on a 4xx."""
    if not isinstance(value, dict) or value.get("jsonrpc") != "2.0":
        return False
    if "result" in value:
        return value.get("id") == rpc_id and "error" not in value and status == 200
    return "error" in value and (value.get("id") == rpc_id or (status >= 400 and value.get("id") is None))


async def _whole(stream: UpstreamStream) -> JSONObject:
    data = bytearray()
    async for chunk in stream.chunks():
        data += chunk
        if len(data) > UPSTREAM_BODY_BYTES:
            raise UpstreamFault("too_large")
    return parsed(bytes(data))


async def _events(stream: UpstreamStream) -> Messages:
    """Yield the messages of an SSE answer; priming events carry no data and are none."""
    parser = sse.Parser(SSE_EVENT_BYTES)
    async for chunk in stream.chunks():
        for event in parser.feed(chunk):
            if isinstance(event, Malformed):
                raise UpstreamFault("too_large" if event.code == "sse_event_too_large" else "malformed")
            if event.data:
                yield parsed(event.data)


def parsed(data: bytes) -> JSONObject:
    """Return one strictly parsed message of an upstream. Raises UpstreamFault("malformed")."""
    try:
        value = strict_json.loads(data)
    except Malformed as error:
        raise UpstreamFault("malformed", error.code) from None
    if not isinstance(value, dict):
        raise UpstreamFault("malformed", "not an object")
    return value


async def open_http(
    client: UpstreamClient, house: House, tenant: str, spec: UpstreamSpec, credentials: Credentials
) -> HTTPLink:
    """Return an open link over Streamable HTTP. Raises UpstreamFault, Refused."""
    link = HTTPLink(client, house, tenant, spec)
    await link.open(await credentials())
    return link
