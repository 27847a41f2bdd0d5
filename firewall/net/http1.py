"""HTTP/1.1 towards upstreams: one connection as a state machine over llhttp, and a pool of them.

A connection carries one request at a time and is used again only when its answer was whole, nothing
came after it, and the request was written to its end. What arrives while nobody has asked ends the
connection: a byte that belongs to no answer would become part of the next one.

Bounds: head, trailers and chunk framing (`_FRAMING_BYTES` beyond a share of the body), fields (`HEADER_COUNT`, `_FIELD_BYTES`), what
is read ahead of the reader (`_AHEAD_BYTES`, then the socket is not read), connections, idle time.
Sources: RFC 9112; operations reference 5.4 for what is refused although llhttp might read it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final

import httptools

from firewall.core.bounds import HEADER_COUNT, KIB
from firewall.core.errors import UpstreamFault
from firewall.net.address import Network, permits
from firewall.net.dial import Dialler, check_peer
from firewall.net.outbox import Outbox, OutboxTransport
from firewall.wire.http import URL

# Below the 5 s after which uvicorn and Node close an idle connection: a POST that meets a closing one is
# not repeated, since nobody knows whether it was done.
KEEP_S: Final = 4.0
_FIELD_BYTES: Final = 16 * KIB
_FRAMING_BYTES: Final = 64 * KIB
_FRAMING_SHARE: Final = 9  # each byte of a body pays for itself and eight of framing: chunks of one byte take five
_AHEAD_BYTES: Final = 256 * KIB
_TICK_S: Final = 0.001  # of the loop's clock: a timer may ring so much too early
_INTERIM: Final = 8  # 1xx answers before the real one
_BODILESS: Final = frozenset({204, 304})


class _Refused(Exception):
    """The answer breaks a rule of ours; llhttp's error for a failed callback carries it."""


class Connection(asyncio.Protocol):
    """One connection; `send`, `head`, `body` until it ends, then back to its pool."""

    __slots__ = (
        "_ahead",
        "_chunks",
        "_code",
        "_framing",
        "_interim",
        "_keep",
        "_loop",
        "_outbox",
        "_parser",
        "_paused",
        "_seen_head",
        "_timer",
        "_timer_at",
        "_transport",
        "_until",
        "_until_close",
        "_waiter",
        "busy",
        "done",
        "headers",
        "idle_since",
        "is_closing",
        "lost",
        "status",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, outbox: Outbox) -> None:
        self._loop = loop
        self._outbox = outbox
        self._transport: OutboxTransport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[bool] | None = None
        self._until = self._timer_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.lost = self.busy = False
        self.idle_since = 0.0
        self.is_closing: Callable[[], bool] = _not_made  # whether it is on its way to its end: the transport's own
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.done = self._seen_head = self._until_close = self._keep = self._paused = False
        self._chunks: list[bytes] = []
        self._code = ""
        self._ahead = self._framing = self._interim = 0

    # -- what its user calls -------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the answer was whole, read, and nothing is left to write."""
        transport = self._transport
        return (
            self.done
            and self._keep
            and not (self.lost or self._code or self._chunks or self._until_close or self.is_closing())
            and transport is not None
            and transport.get_write_buffer_size() == 0
        )

    @property
    def read(self) -> bool:
        """Whether the answer was whole and nothing of it is left: `body` would return b"" at once."""
        return self.done and not (self._code or self._chunks)

    def send(self, request: bytes) -> None:
        """Write one whole request. Raises UpstreamFault cut_stream when the connection is gone."""
        transport = self._transport
        if self.lost or transport is None or self.is_closing():
            raise UpstreamFault("cut_stream")
        self._begin()
        self.busy = True
        transport.write(request)

    async def head(self, until: float) -> None:
        """Return when status and headers are there; until: loop time. Raises UpstreamFault."""
        while not self._seen_head:
            if self._code:
                raise UpstreamFault(self._code)
            if not await self._news(until):
                raise UpstreamFault("timeout")

    def arrived(self) -> bytes:
        """Return what is here of the body, b"" for nothing. Never waits."""
        chunks = self._chunks
        if not chunks:
            return b""
        self._chunks = []
        self._ahead = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def body(self, until: float) -> bytes:
        """Return what has arrived of the body, waiting for something; b"" at its end. Raises UpstreamFault."""
        while not (data := self.arrived()):
            if self._code:
                raise UpstreamFault(self._code)
            if self.done:
                return b""
            if not await self._news(until):
                raise UpstreamFault("timeout")
        return data

    def close(self) -> None:
        """Drop the connection now: the peer sees that nobody reads on."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    def _news(self, until: float) -> asyncio.Future[bool]:
        """Return what ends when something has changed, true, or at that time, false."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            raise RuntimeError("an answer has one reader")
        waiter = self._waiter = self._loop.create_future()
        self._until = until
        if self._timer is None or until < self._timer_at:
            self._arm(until)
        return waiter

    def _arm(self, at: float) -> None:
        """Look at the wait under way at that time. One timer serves many waits: nearly all end long before it."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._until - self._loop.time() > _TICK_S:
            self._arm(self._until)
        else:
            waiter.set_result(False)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(True)

    def _fail(self, code: str) -> None:
        if not self.done:
            self._code = self._code or code
        self.close()
        self._wake()

    # -- asyncio.Protocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = OutboxTransport(transport, self._outbox)  # type: ignore[arg-type]
        self.is_closing = transport.is_closing

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if not self.busy or self.done or transport is None or transport.held:
            self.close()  # nobody asked: what comes before a request has left answers something else
            return
        self._framing += len(data)  # `on_body` takes off what is body
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail("malformed")
            return
        if self._framing > _FRAMING_BYTES:
            self._fail("malformed")
            return
        if self._framing < -_FRAMING_BYTES:
            self._framing = -_FRAMING_BYTES  # a long body buys no endless trailer
        if self._ahead > _AHEAD_BYTES and not self._paused:
            self._paused = True
            transport.pause_reading()
        if self._seen_head:
            # Once for all that one read brought: an answer that comes whole wakes its reader once, for head and body.
            waiter = self._waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(True)

    def eof_received(self) -> bool:
        if self._until_close and self._seen_head:
            self.done = True
            self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.busy and not self.done and not self._code:
            if self._until_close and exc is None:
                self.done = True
            else:
                self._code = "cut_stream"
        self._wake()

    # -- llhttp ---------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.done:
            # A second answer in the same read: the first stands, the connection does not.
            self._keep = False
            raise _Refused
        self.headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._seen_head:
            return  # a trailer: nobody reads it
        if len(self.headers) >= HEADER_COUNT or len(name) + len(value) > _FIELD_BYTES:
            raise _Refused
        key = name.decode("latin-1").lower()
        if key not in self.headers:
            self.headers[key] = value.decode("latin-1").strip(" \t")
        elif key == "www-authenticate" and len(self.headers[key]) < _FIELD_BYTES:
            # Several challenges are one list (RFC 9110 §11.6.1, §5.3).
            self.headers[key] += ", " + value.decode("latin-1").strip(" \t")
        elif key in ("content-type", "content-encoding", "content-length", "transfer-encoding"):
            raise _Refused  # one reader would take the first, another the last

    def on_headers_complete(self) -> None:
        parser = self._parser
        status, version = parser.get_status_code(), parser.get_http_version()
        if version not in ("1.1", "1.0") or status < 100:
            raise _Refused
        if status < 200:
            self._interim += 1
            if self._interim > _INTERIM or status == 101:
                raise _Refused
            return
        coding = self.headers.get("transfer-encoding")
        if coding is not None and (coding.lower() != "chunked" or version == "1.0" or "content-length" in self.headers):
            raise _Refused
        self.status = status
        self._until_close = coding is None and "content-length" not in self.headers and status not in _BODILESS
        self._seen_head = True

    def on_body(self, body: bytes) -> None:
        self._chunks.append(body)
        self._ahead += len(body)
        self._framing -= _FRAMING_SHARE * len(body)

    def on_message_complete(self) -> None:
        if self._seen_head:
            self.done = True
            self._keep = self._parser.should_keep_alive()


def _not_made() -> bool:
    return True


class Pool:
    """Connections to one origin under one permission and one TLS identity. At most ``limit`` are in use.

    loop: the one that is running when it is made, which is the one that it belongs to.
    """

    def __init__(
        self,
        dialler: Dialler,
        url: URL,
        network: Network,
        tls: ssl.SSLContext | None,
        *,
        limit: int = 100,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._dialler = dialler
        self._host, self._port = url.host, url.port
        self._network: Network = network
        self._tls = tls
        self._limit = limit
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._outbox = Outbox(self._busy, self.loop)
        self._dialling = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    async def take(self, until: float) -> Connection:
        """Return a connection for one request; until: loop time. Give it back with `give`. Raises UpstreamFault."""
        return self.kept() or await self.opened(until)

    async def opened(self, until: float) -> Connection:
        """As `take`, where none is idle: a new one, or the next that somebody gives back."""
        try:
            async with asyncio.timeout_at(until):
                return await self._new()
        except TimeoutError:
            raise UpstreamFault("timeout") from None

    def give(self, connection: Connection) -> None:
        """Take a connection back; keep it when it can be used again, else drop it."""
        self._busy.discard(connection)
        connection.busy = False
        if connection.reusable and not self._closed:
            connection.idle_since = self.loop.time()
            self._idle.append(connection)
            if self._sweeper is None:
                self._sweeper = self.loop.call_later(KEEP_S, self._sweep)
        else:
            connection.close()
        if self._waiters:
            self._next()

    def close(self) -> None:
        """Drop every connection; none can be taken afterwards."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in (*self._idle, *self._busy):
            connection.close()
        self._idle.clear()

    def kept(self) -> Connection | None:
        """Return an idle connection for one request, if there is one."""
        now = self.loop.time()
        while self._idle:
            connection = self._idle.pop()
            # INVARIANT: it is looked at again. Bytes that came while it was idle have made it lost, an end closing.
            if not connection.lost and not connection.is_closing() and now - connection.idle_since < KEEP_S:
                self._busy.add(connection)
                return connection
            connection.close()
        return None

    async def _new(self) -> Connection:
        while len(self._busy) + self._dialling >= self._limit:
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():
                    self._next()  # our turn is somebody else's now
                raise
            if (found := self.kept()) is not None:
                return found
        self._dialling += 1
        try:
            connection = await self._dial()
        except BaseException:
            self._next()
            raise
        finally:
            self._dialling -= 1
        self._busy.add(connection)
        return connection

    async def _dial(self) -> Connection:
        """Connect to the first pinned address that answers; each is judged again, and so is the peer."""
        loop = self.loop
        if self._closed:
            raise UpstreamFault("unreachable")
        fault = UpstreamFault("unreachable")
        for address in await self._dialler.resolve(self._host, self._network):
            if not permits(self._network, address):
                raise UpstreamFault("blocked_address", "not a permitted address")
            connection = Connection(loop, self._outbox)
            limit = asyncio.timeout(self._dialler.settings.connect_s)
            try:
                async with limit:
                    transport, _ = await loop.create_connection(
                        lambda made=connection: made,
                        address,
                        self._port,
                        ssl=self._tls,
                        server_hostname=self._host if self._tls is not None else None,
                    )
            except TimeoutError:
                connection.close()
                fault = UpstreamFault("timeout")
                continue
            except ssl.SSLError:
                raise UpstreamFault("unreachable", "TLS was not accepted") from None
            except OSError:
                fault = UpstreamFault("unreachable")
                continue
            if not check_peer(transport.get_extra_info("peername"), self._network):
                connection.close()
                raise UpstreamFault("blocked_address", "the peer is not the address that was checked")
            return connection
        raise fault

    def _next(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _sweep(self) -> None:
        now = self.loop.time()
        kept: list[Connection] = []
        for connection in self._idle:
            if connection.lost or now - connection.idle_since >= KEEP_S:
                connection.close()
            else:
                kept.append(connection)
        self._idle = kept
        self._sweeper = self.loop.call_later(KEEP_S, self._sweep) if kept else None
