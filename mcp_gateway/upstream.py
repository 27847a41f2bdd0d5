"""Links to upstreams: opened once per (tenant, upstream, credential), pooled, never one per call.

Streamable HTTP in both eras stands here; `stdio` has the pipes, `http_sse` the transport of 2024-11-05.
`exchanges` reads what answers one request.

- Opening is single-flight. Era detection follows mcp reference §3.5 and is remembered by the link.
- What we declare to a legacy server stands in its session. So where an upstream may ask (``asks``), a
  session belongs to one caller and one set of declared capabilities (SH-1); modern requests carry theirs.
- A legacy session that the server has forgotten (404) is opened again once, and the request, which
  was not executed, is sent again.
- A server's request is yielded where its capability was declared, and answered with method-not-found
  everywhere else. ``ping`` is answered.
- An upstream's redirect, WWW-Authenticate or error text never travels on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

from firewall.core.action import Headers
from firewall.core.bounds import SSE_EVENT_BYTES, STREAM_TOTAL_S
from firewall.core.errors import BartizanError, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared
from firewall.core.points import Point
from firewall.net.runtime import Tasks
from firewall.net.upstream import Target, UpstreamClient
from firewall.wire import canonical, jsonrpc, sse
from mcp_gateway import bridge, questions
from mcp_gateway import headers as h
from mcp_gateway.bridge import Opened
from mcp_gateway.exchanges import (
    Context,
    Exchange,
    HTTPExchange,
    Messages,
    PumpedExchange,
    is_event_id,
    kind_of,
    lasts,
    parsed,
    pause_s,
)
from mcp_gateway.house import House, Refused
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.versions import LEGACY, MODERN, NEWEST_HANDSHAKE, NEWEST_MODERN, Era

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

SESSION_ID_CHARS: Final = 1024
QUESTIONS_PER_S: Final = 10  # a server's own requests that are answered; more are dropped unanswered
MODERN_ERRORS: Final = frozenset({-32020, -32021, -32022})
END_S: Final = 0.3  # for the DELETE of a session that is no longer used
EARS_S: Final = 2.0
LISTEN_FAILURES: Final = 5  # in a row, until a listener is told that its stream is gone
Credentials = Callable[[], Awaitable[Headers]]


class Link(Protocol):
    """One pooled connection to an upstream.

    declared: the client capabilities that we declared when it was opened ({} for a shared link, and
    always in the modern era, whose requests carry them).
    """

    opened: Opened
    transport: str
    declared: JSONObject

    def next_id(self) -> int:
        """Return a request id that no other open request of this link has."""

    def exchange(self, rpc_id: int, cleared: Cleared, credentials: Headers) -> Exchange:
        """Return what sends a request and yields its messages, the response last; leaving early stops listening.

        In the modern era over HTTP, leaving early also cancels (the stream is closed). A server's own
        request is yielded where `declared` covers it; it is answered with `notify`. What a link with
        declared capabilities returns may be left to another task between two messages.
        Entering and reading raise UpstreamFault, Refused.
        """

    async def notify(self, cleared: Cleared, credentials: Headers) -> None:
        """Send a message that has no answer: a notification, or our response. Raises UpstreamFault."""

    def listen(self, credentials: Headers) -> AbstractAsyncContextManager[Messages]:
        """Yield what belongs to no running request: legacy GET stream, lines of a pipe that nobody asked for.

        Ends with UpstreamFault: unsupported (there is no such stream), cut_stream (it is gone for good, as
        after a session that was lost: subscribe again). Modern upstreams: ``subscriptions/listen`` by `exchange`.
        """

    @property
    def alive(self) -> bool:
        """Whether the link can still be used."""

    async def close(self) -> None:
        """End the link and everything that belongs to it, within a second."""


class Opening(Protocol):
    """Opens a link that a pool lacks. caller: "" for a link that callers of a credential share."""

    async def __call__(
        self, tenant: str, spec: UpstreamSpec, credentials: Credentials, declared: JSONObject, caller: str, /
    ) -> Link: ...


Slot = tuple[str, str, str, str, str]


class Pool:
    """All links of a worker; `get` opens what is missing."""

    def __init__(self, open_link: Opening, *, bound: int) -> None:
        self._open = open_link
        self._bound = bound
        self._links: OrderedDict[Slot, Link] = OrderedDict()
        self._locks: dict[Slot, asyncio.Lock] = {}
        self._modern_only: set[tuple[str, str, str]] = set()  # where no legacy session could be opened
        self._closed = False

    async def get(self, tenant: str, spec: UpstreamSpec, key: str, credentials: Credentials) -> Link:
        """Return the link that callers of a credential share. Raises UpstreamFault, Refused."""
        return await self._get((tenant, spec.name, key, "", ""), spec, credentials, {})

    def ready(self, tenant: str, name: str, key: str) -> Link | None:
        """Return the link that callers of a credential share, if it is open."""
        slot = (tenant, name, key, "", "")
        link = self._links.get(slot)
        if link is None or not link.alive:
            return None
        self._links.move_to_end(slot)
        return link

    async def session(
        self,
        tenant: str,
        spec: UpstreamSpec,
        key: str,
        credentials: Credentials,
        caller: str,
        declared: JSONObject,
        era: Era,
    ) -> Link:
        """Return the link for one caller who can be asked. Raises UpstreamFault, Refused.

        Nothing declared: the shared one. A modern upstream: the shared one too, but for a legacy client where
        the upstream's era is `auto`: many a server speaks both, and its code that asks in the middle of a call
        (``ctx.elicit``) works in the legacy era only, as it would for that client without us. One that has no
        legacy era is asked for it once. caller: unambiguous among a tenant's callers. era: the client's.
        """
        shared = await self.get(tenant, spec, key, credentials)
        if not declared:
            return shared
        slot = (tenant, spec.name, key, caller, canonical.encode(declared).decode())
        if shared.opened.era != MODERN:
            return await self._get(slot, spec, credentials, declared)
        only = (tenant, spec.name, key)
        if era == MODERN or spec.era != "auto" or only in self._modern_only:
            return shared
        try:
            return await self._get(slot, spec, credentials, declared)
        except UpstreamFault as error:
            if error.code not in ("malformed", "unsupported"):
                raise
            if len(self._modern_only) >= self._bound:
                self._modern_only.clear()
            self._modern_only.add(only)
            return shared

    async def _get(self, slot: Slot, spec: UpstreamSpec, credentials: Credentials, declared: JSONObject) -> Link:
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
                    link = await self._open(slot[0], spec, credentials, declared, slot[3])
            except TimeoutError:
                raise UpstreamFault("timeout", "the upstream did not open in time") from None
            self._links[slot] = link
        await self._trim()
        return link

    async def drop(self, name: str) -> None:
        """Close the links of one upstream (it is gone, or its configuration changed)."""
        gone = [self._links.pop(slot) for slot in [s for s in self._links if s[1] == name]]
        self._modern_only = {slot for slot in self._modern_only if slot[1] != name}
        await asyncio.gather(*(link.close() for link in gone))

    async def close(self) -> None:
        """Close every link, side by side; none can be opened afterwards."""
        self._closed = True
        links = list(self._links.values())
        self._links.clear()
        await asyncio.gather(*(link.close() for link in links))

    async def _trim(self) -> None:
        while len(self._links) > self._bound:
            slot, link = self._links.popitem(last=False)
            self._locks.pop(slot, None)
            await link.close()


class HTTPLink:
    """Streamable HTTP, either era. declared: what is declared in a legacy session. Made where its loop runs."""

    transport = "http"

    def __init__(
        self,
        client: UpstreamClient,
        house: House,
        tenant: str,
        spec: UpstreamSpec,
        tasks: Tasks,
        *,
        declared: JSONObject | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._client = client
        self._house = house
        self._tenant = tenant
        self._spec = spec
        self._tasks = tasks
        self._target = Target(spec.url, spec.network, spec.ca_file, spec.client_cert, spec.client_key)
        self._ids = 0
        self._reopening = asyncio.Lock()
        self._closed = False
        self._patience = Patience()
        self._credentials: Credentials | None = None
        self._open: dict[int, PumpedExchange] = {}
        self._ears: asyncio.Task[None] | None = None
        self._hearing = asyncio.Event()  # the session's own stream is open, or there is none
        self.session = b""
        self.declared = dict(declared or {})
        self.opened = Opened(NEWEST_MODERN, MODERN)

    @property
    def alive(self) -> bool:
        """An HTTP link dies only by `close`."""
        return not self._closed

    @property
    def resumable(self) -> bool:
        """Whether streams can be taken up again: legacy revisions only."""
        return self.opened.era == LEGACY

    def next_id(self) -> int:
        """Return the next id; never repeated within a link."""
        self._ids += 1
        return self._ids

    async def open(self, credentials: Credentials) -> None:
        """Find the upstream's era and open a session where it needs one. Raises UpstreamFault, Refused."""
        self._credentials = credentials
        headers = await credentials()
        if not self.declared and self._spec.era != LEGACY and await self._discover(headers):
            return
        if self._spec.era == MODERN:
            raise UpstreamFault("malformed", "the upstream does not speak a modern revision")
        await self._initialize(headers)
        if self.declared:
            self._ears = self._tasks.spawn(self._overhear(credentials), f"mcp.ears.{self._spec.name}")
            # What a server says on that stream before anybody listens is lost to it, and its question with it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EARS_S):
                    await self._hearing.wait()

    def exchange(self, rpc_id: int, cleared: Cleared, credentials: Headers) -> Exchange:
        """See Link.exchange."""
        if not self.declared:
            return HTTPExchange(self, rpc_id, cleared, credentials, self._spec.deadline_s)
        deadline_s = self._spec.deadline_s + self._spec.answer_s
        inner = HTTPExchange(self, rpc_id, cleared, credentials, deadline_s)
        pumped = PumpedExchange(inner, rpc_id, self._tasks, deadline_s, self._forget)
        self._open[rpc_id] = pumped
        return pumped

    async def notify(self, cleared: Cleared, credentials: Headers) -> None:
        """See Link.notify."""
        await self._client.request(
            cleared,
            self._target,
            headers=self._extra(credentials, self.session),
            deadline_s=self._spec.open_s,
            max_bytes=SSE_EVENT_BYTES,
        )

    @asynccontextmanager
    async def listen(self, credentials: Headers) -> AsyncIterator[Messages]:
        """See Link.listen."""
        messages = self._heard(credentials)
        try:
            yield messages
        finally:
            await messages.aclose()

    async def close(self) -> None:
        """Stop listening and tell the server that its session is over; it is told once and not waited for long."""
        if self._closed:
            return
        self._closed = True
        if self._ears is not None:
            self._ears.cancel()
        for pumped in list(self._open.values()):
            await pumped.aclose()
        session, self.session = self.session, b""
        if session and self._credentials is not None:
            with contextlib.suppress(BartizanError, Refused, TimeoutError, OSError, RuntimeError):
                async with asyncio.timeout(END_S):
                    await self._end(session, await self._credentials())

    # -- for exchanges -----------------------------------------------------------------------------------

    def post(self, cleared: Cleared, credentials: Headers, session: bytes) -> Context:
        """See Opener.post. A server that may ask is silent for as long as a person thinks."""
        spec = self._spec
        more_s = spec.answer_s if self.declared else 0.0
        long = lasts(cleared)
        return self._client.stream(
            cleared,
            self._target,
            headers=(*credentials, (h.SESSION, session)) if session else credentials,
            deadline_s=STREAM_TOTAL_S if long else spec.deadline_s + more_s,
            idle_s=STREAM_TOTAL_S if long else spec.idle_s + more_s,
            lasting=long,
        )

    async def take_up(self, credentials: Headers, last_id: str, remaining_s: float) -> Context:
        """See Opener.take_up."""
        more_s = self._spec.answer_s if self.declared else 0.0
        return await self._get(credentials, last_id, remaining_s, self._spec.idle_s + more_s)

    async def reopen(self, lost: bytes, credentials: Headers) -> None:
        """See Opener.reopen."""
        async with self._reopening:
            if self.session != lost:
                return  # another request has opened it again
            version = self.opened.version
            await self._initialize(credentials)
            if self.opened.version != version:
                self._closed = True
                raise UpstreamFault("unreachable", "the upstream came back with another revision")

    async def asked(self, value: JSONObject, credentials: Headers) -> bool:
        """See Opener.asked: ``ping``, and questions that nobody declared to understand, are answered here."""
        if covers(self.declared, value):
            return False
        reply = answer_server(value)
        if reply is not None and self._patience.left():
            point = Point.MCP_PONG if "result" in reply else Point.MCP_NOTIFY_CLIENT
            await self.notify(await self._clear("ping" if "result" in reply else "error", reply, point), credentials)
        return True

    def _forget(self, rpc_id: int) -> None:
        self._open.pop(rpc_id, None)

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
        self.session = b""
        return True

    async def _initialize(self, credentials: Headers) -> None:
        self.session = b""
        body = bridge.initialize(self.next_id(), NEWEST_HANDSHAKE, self.declared)
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
        self.session = session.encode("ascii")
        note = jsonrpc.build_notification("notifications/initialized")
        await self.notify(await self._clear("notifications/initialized", note, Point.MCP_NOTIFY_CLIENT), credentials)

    async def _ask(
        self, method: str, body: JSONObject, version: str, credentials: Headers
    ) -> tuple[jsonrpc.Response | jsonrpc.ErrorResponse, str] | None:
        """Send one of our own requests; None when the answer is no JSON-RPC answer of this request."""
        cleared = await self._house.clear(
            self._tenant, self._spec, method, body, version=version, point=Point.MCP_SESSION_OPEN
        )
        rpc_id = body["id"]
        assert isinstance(rpc_id, int)
        async with HTTPExchange(self, rpc_id, cleared, credentials, self._spec.deadline_s) as exchange:
            session = exchange.headers.get("mcp-session-id", "")
            try:
                async for value in exchange:
                    message = jsonrpc.parse(value)
                    if isinstance(message, (jsonrpc.Response, jsonrpc.ErrorResponse)):
                        return message, session
            except Malformed:
                return None
            except UpstreamFault as fault:
                if fault.code in ("malformed", "cut_stream") and 400 <= exchange.status < 500:
                    return None
                raise
        return None

    async def _clear(self, method: str, body: JSONObject, point: Point) -> Cleared:
        return await self._house.clear(self._tenant, self._spec, method, body, version=self.opened.version, point=point)

    @staticmethod
    def _extra(credentials: Headers, session: bytes) -> Headers:
        return (*credentials, (h.SESSION, session)) if session else credentials

    async def _end(self, session: bytes, credentials: Headers) -> None:
        cleared = await self._clear("DELETE", {}, Point.MCP_NOTIFY_CLIENT)
        await self._client.request(
            cleared,
            self._target,
            headers=self._extra(credentials, session),
            deadline_s=END_S,
            max_bytes=SSE_EVENT_BYTES,
            method="DELETE",
        )

    # -- what belongs to no request ----------------------------------------------------------------------

    async def _get(self, credentials: Headers, last_id: str, deadline_s: float, idle_s: float) -> Context:
        """Return the context of a GET: the session's own stream, or what follows an event of any stream."""
        extra = (*self._extra(credentials, self.session), (b"accept", b"text/event-stream"))
        if last_id:
            extra = (*extra, (b"last-event-id", last_id.encode("ascii")))
        return self._client.stream(
            await self._clear("GET", {}, Point.MCP_NOTIFY_CLIENT),
            self._target,
            headers=extra,
            deadline_s=deadline_s,
            idle_s=idle_s,
            method="GET",
            lasting=True,
        )

    async def _heard(self, credentials: Headers) -> AsyncGenerator[JSONObject]:
        """Yield the messages of the GET stream, which is opened again after its last event for as long as that works."""
        if self.opened.era == MODERN:
            raise UpstreamFault("unsupported", "a modern upstream has no stream of its own")
        last_id, failures, retry_ms = "", 0, None
        while failures < LISTEN_FAILURES and not self._closed:
            async with await self._get(credentials, last_id, STREAM_TOTAL_S, STREAM_TOTAL_S) as stream:
                if stream.status == 405 and not last_id:
                    raise UpstreamFault("unsupported", "the upstream has no stream of its own")
                if kind_of(stream) != "text/event-stream" or stream.status != 200:
                    raise UpstreamFault("cut_stream", "the upstream opened no stream")
                self._hearing.set()
                parser = sse.Parser(SSE_EVENT_BYTES)
                try:
                    async for chunk in stream.chunks():
                        failures = 0
                        for event in parser.feed(chunk):
                            if isinstance(event, Malformed):
                                raise UpstreamFault("malformed", event.code)
                            last_id = event.id if is_event_id(event.id) else ""
                            retry_ms = event.retry_ms if event.retry_ms is not None else retry_ms
                            value = parsed(event.data) if event.data else {}
                            if "method" in value and ("id" not in value or not await self.asked(value, credentials)):
                                yield value
                except UpstreamFault as fault:
                    if fault.code not in ("timeout", "cut_stream"):
                        raise
            failures += 1
            await asyncio.sleep(pause_s(retry_ms))
        raise UpstreamFault("cut_stream", "the upstream ends its stream at once, each time")

    async def _overhear(self, credentials: Credentials) -> None:
        """Bring what a server says beside its answers to the request that it most likely belongs to.

        Servers before SEP-2260 ask on the session's own stream. The session has one caller, so nobody else
        can be asked; the youngest open request is the one whose client is still there.
        """
        try:
            headers = await credentials()
            async with self.listen(headers) as messages:
                async for value in messages:
                    youngest = next(reversed(self._open.values()), None)
                    beside = "id" in value or value.get("method") == "notifications/elicitation/complete"
                    pumped = youngest if beside else self._open.get(token_of(value))
                    if pumped is not None:
                        pumped.inbox.put(value)
                    elif "id" in value and self._patience.left():
                        refused = answer_server(value)
                        if refused is not None:
                            await self.notify(await self._clear("error", refused, Point.MCP_NOTIFY_CLIENT), headers)
        except (UpstreamFault, Refused):
            return  # there is no such stream; questions within answers still arrive
        finally:
            self._hearing.set()


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


def covers(declared: JSONObject, value: JSONObject) -> bool:
    """Return whether a server's request is one that we declared to understand."""
    method = value.get("method")
    kind = questions.METHODS.get(method) if isinstance(method, str) else None
    return kind is not None and kind in declared


def token_of(value: JSONObject) -> int:
    """Return the id of the request that a notification names by its progress token, or -1."""
    params = value.get("params")
    token = params.get("progressToken") if isinstance(params, dict) else None
    return token if isinstance(token, int) and not isinstance(token, bool) else -1


async def open_http(
    client: UpstreamClient,
    house: House,
    tenant: str,
    spec: UpstreamSpec,
    credentials: Credentials,
    tasks: Tasks,
    *,
    declared: JSONObject | None = None,
) -> HTTPLink:
    """Return an open link over Streamable HTTP. Raises UpstreamFault, Refused."""
    link = HTTPLink(client, house, tenant, spec, tasks, declared=declared)
    await link.open(credentials)
    return link
