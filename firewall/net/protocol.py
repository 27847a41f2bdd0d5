"""One HTTP/1.1 connection of a client: llhttp reads (httptools), heads are judged (`head`), a `Call` answers.

Requests are never pipelined: a request that begins before the last answer is complete is not read,
the connection closes after that answer, and the client repeats it (RFC 9112 9.3.2). So an answer can
only belong to one request, whatever the bytes were. Heads beyond their bounds, requests that take too long to
arrive, and bodies that are framing for the most part (chunk extensions, trailers) are refused in our own fixed
words; then the connection closes. A request that has its answer gets no second one: it is closed on without a word.

What is answered from its head alone, a 401 above all, has its body still under way; its client may have the answer, and
begin the next request, before the rest is read here. Where the body says its length the two are told apart by it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import httptools

from firewall.core.bounds import HEADER_BYTES, HEADER_COUNT, KIB, REQUEST_READ_S, TARGET_BYTES
from firewall.core.errors import FAULTS, Fault
from firewall.core.ports import Refusals
from firewall.net.asgi import App
from firewall.net.asgi_call import Call
from firewall.net.edge import edge_words
from firewall.net.head import RequestLine, check_fields, request_line
from firewall.net.outbox import Outbox, OutboxTransport

_STATUS: Final = {400: b"400 Bad Request", 408: b"408 Request Timeout", 431: b"431 Request Header Fields Too Large"}
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
# What of a body may be no body: the parser keeps a trailer's field until it ends, and copies it for each piece of it.
_FRAMING_BYTES: Final = 64 * KIB
_FRAMING_SHARE: Final = 9  # each byte of a body pays for itself and eight of framing: chunks of one byte take five


@dataclass(frozen=True, slots=True)
class ProtocolSettings:
    """Bounds of one connection.

    head_s, request_s: seconds for the head and for the whole request; idle_s: between two. send_s: for a client to take
    some of what waits for it.
    """

    target_bytes: int = TARGET_BYTES
    header_bytes: int = HEADER_BYTES
    header_count: int = HEADER_COUNT
    head_s: float = 10.0
    request_s: float = REQUEST_READ_S
    idle_s: float = 60.0
    send_s: float = 60.0
    connections: int = 10_000


@dataclass(slots=True)
class ListenerState:
    """What the connections of one listener share. date: the Date line of now, b"" for none."""

    connections: set[StrictProtocol] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    date: bytes = b""
    outbox: Outbox = field(init=False)

    def __post_init__(self) -> None:
        self.outbox = Outbox(self.tasks)


class _Refused(Exception):
    """Raised inside a parser callback; the parser stops and the connection is refused."""


class StrictProtocol(asyncio.Protocol):
    """One connection.

    A client certificate, where the listener asks for one, is ``scope["extensions"]["bartizan.tls"]["client_cert_der"]``.
    """

    def __init__(
        self,
        app: App,
        state: ListenerState,
        settings: ProtocolSettings | None = None,
        refusals: Refusals | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """refusals: records what is refused; None does not."""
        self.loop = loop or asyncio.get_running_loop()
        self.state = state
        self.settings = settings or ProtocolSettings()
        self.refusals = refusals
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until the connection is made
        self.client: tuple[str, int] | None = None
        self.write_paused = False
        self._taken_at = (
            0.0  # loop time at which the client was last seen to take something; counts while `write_paused`
        )
        self._unsent = 0  # bytes that waited for it then
        self.reading_paused = False
        self._app = app
        self._server: tuple[str, int | None] | None = None
        self._scheme = "http"
        self._tls: dict[object, object] | None = None
        self._parser: Any = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)  # read, judged and refused by us
        self._call: Call | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._line: RequestLine | None = None  # the last one that was judged: most requests of a client bear the same
        self._known_host = b""
        self._room = 0  # fields that the head under way may still bring; none once it is over
        self._fault: Fault = FAULTS["http_desync"]
        self._deaf = False  # nothing that arrives is read any more
        self._in_head = True
        self._begun = False  # the first byte of the request under way has come
        self._raw = b""  # what arrived of the head under way; its first line is compared with what was parsed
        self._framing = 0  # bytes after the head under way, less what its body paid for
        self._body_left = 0  # bytes of a body that said its length; 0 for any other
        self._reading_since = 0.0  # loop time at which the request under way began; 0 when none is
        self._idle_since = 0.0  # loop time at which the last answer ended
        self._timer: asyncio.TimerHandle | None = None
        self._dying = False
        self._writable: asyncio.Future[None] | None = None

    # -- the connection ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = OutboxTransport(transport, self.state.outbox)
        self.state.connections.add(self)
        if len(self.state.connections) > self.settings.connections:
            transport.abort()
            return
        self._server, self.client = _address(transport, "sockname"), _peer(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._scheme = "https"
            certificate = tls.getpeercert(binary_form=True)
            self._tls = {"client_cert_der": certificate} if certificate else None
        self._reading_since = self.loop.time()
        self._timer = self.loop.call_later(self.settings.head_s, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        call = self._call
        if call is not None:
            if not call.complete:
                call.disconnected = True
            call.wake()
        self.resume_writing()
        self._parser = None

    def data_received(self, data: bytes) -> None:
        left, call = self._body_left, self._call
        if 0 < left < len(data) and call is not None and call.complete:
            self.data_received(data[:left])
            data = data[left:]
        # From here on it is of one message's body, or from the first byte of a message on.
        if self._deaf or self.transport.is_closing():
            return  # under TLS, what arrives until the end is said would still be given to us
        if self._in_head:
            self._raw += data
        else:
            self._framing += len(data)
        between = not self._reading_since
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(FAULTS["http_desync"])
            return
        except httptools.HttpParserError:
            self._refuse(self._fault)
            return
        if between and not self._reading_since and (self._call is None or self._call.complete):
            self._reading_since = self.loop.time()  # line ends between requests begin nothing, and keep nothing open
        if self._in_head:
            if len(self._raw) > self.settings.header_bytes + self.settings.target_bytes:
                self._refuse(FAULTS["headers_too_large"])
        elif self._framing > _FRAMING_BYTES:
            self._refuse(FAULTS["http_desync"])
        elif self._framing < 0:
            self._framing = 0  # a long body buys no endless trailer

    def shutdown(self) -> None:
        """Close: now, or after the answer that is under way."""
        if self._call is None or self._call.complete:
            self.transport.close()
        else:
            self._call.keep_alive = False

    # -- flow ----------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self.write_paused = True
        self._taken_at, self._unsent = self.loop.time(), self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        self.write_paused = False
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    async def drained(self) -> None:
        """Wait until the client has taken enough of what was written, or is gone."""
        if self._writable is None:
            self._writable = self.loop.create_future()
        await asyncio.shield(self._writable)

    def resume_reading(self) -> None:
        """Go on reading a body that somebody waits for."""
        if self.reading_paused:
            self.reading_paused = False
            self.transport.resume_reading()

    # -- parser callbacks ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        call = self._call
        if call is not None and not call.complete:
            # INVARIANT: one request at a time; see the module's text.
            self._deaf = True
            call.keep_alive = False
            raise _Refused
        self._url = b""
        self._headers = []
        self._begun = self._in_head = True
        self._room = self.settings.header_count
        self._reading_since = self.loop.time()
        if not self._raw:
            # INVARIANT: `_raw` holds a head from its first byte. This one began in what was read as a body's end.
            self._stop("http_desync")

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self.settings.target_bytes:
            self._stop("headers_too_large")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._room <= 0:
            # Beyond the head it is a trailer: the request that it would add to is already decided.
            self._stop("headers_too_large" if self._in_head else "http_desync")
        self._room -= 1
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        raw, self._raw = self._raw, b""
        headers, line = self._headers, self._line
        if len(raw) > self.settings.header_bytes:  # with what came of the body; nearly never
            total = sum([len(name) + len(value) for name, value in headers])
            if total > self.settings.header_bytes:
                self._stop("headers_too_large")
        # A line that is the last one's bytes is read as the last one was.
        if line is None or not raw.startswith(line.raw):
            line = self._line = self._read_line(raw)
        fields = check_fields(line.version, headers, self._known_host)
        if fields is None:
            self._stop("http_desync")
        self._known_host, self._body_left, expects = fields
        self._in_head = False  # not before: a head that is refused has had no answer
        self._framing = self._room = 0
        old = line.version == "1.0"
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": line.version,
            "server": self._server,
            "client": self.client,
            "scheme": self._scheme,
            "method": line.method,
            "root_path": "",
            "path": line.path,
            "raw_path": line.raw_path,
            "query_string": line.query,
            "headers": headers,
            "state": {},
        }
        if self._tls is not None:
            scope["extensions"] = {"bartizan.tls": dict(self._tls)}
        keep_alive = not old and self._parser.should_keep_alive()
        # An older client knows no answer before the answer (RFC 9110 10.1.1).
        call = self._call = Call(self, keep_alive, line.method == "HEAD", expects and not old, old)
        call.task = self.loop.create_task(call.run(self._app, scope))
        self.state.tasks.add(call.task)

    def _read_line(self, raw: bytes) -> RequestLine:
        """Return the request line. Raises _Refused: it has more than one reading."""
        parser = self._parser
        line = request_line(parser.get_http_version(), parser.get_method(), self._url)
        # llhttp also reads RTSP and ICAP lines and several spaces; what it parsed must be what was written.
        if line is None or not raw.lstrip(b"\r\n").startswith(line.raw):
            self._stop("http_desync")
        return line

    def on_body(self, body: bytes) -> None:
        self._framing -= _FRAMING_SHARE * len(body)
        self._body_left -= len(body)
        call = self._call
        if call is not None and not call.complete and call.feed(body) and not self.reading_paused:
            self.reading_paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        self._reading_since = 0.0
        self._in_head, self._begun = True, False
        call = self._call
        if call is not None and not call.complete:
            call.feed_end()

    # -- endings ---------------------------------------------------------------------------------

    def answered(self) -> None:
        """The answer under way is complete; the connection waits for the next request, or was told to close."""
        if self.transport.is_closing():
            return
        self._idle_since = self.loop.time()
        if self.reading_paused:
            self.resume_reading()

    def _stop(self, code: str) -> NoReturn:
        self._fault = FAULTS[code]
        raise _Refused

    def _refuse(self, fault: Fault) -> None:
        """Answer with a fault where nothing else was or will be said, and close."""
        call = self._call
        if self._deaf:
            return  # the answer under way is the last one
        self._deaf = True
        self._reading_since = 0.0
        if call is not None and not call.complete:
            # The body of the request under way is bad: its application sees a client that left.
            call.leave()
            if call.written:
                self.transport.close()
                return
        noted = self.refusals.note(fault.code, self.client[0] if self.client else "", {}) if self.refusals else ""
        if call is not None and call.complete and not self._in_head:
            # Its request has an answer: another would be taken for the answer of the connection's next request.
            self.transport.close()
            return
        body = edge_words(fault, noted)
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (_STATUS[fault.status], len(body), body)
        )
        self.transport.close()

    def _watch(self) -> None:
        """Cut what takes too long; one timer per connection, moved when it fires."""
        self._timer = None
        wait = self.settings.head_s
        if self.transport.is_closing():
            # Told to close, and still not lost: somebody reads nothing of what is left. One more period, then cut.
            if self._dying:
                self.transport.abort()
            else:
                self._dying = True
                self._timer = self.loop.call_later(wait, self._watch)
            return
        now = self.loop.time()
        if self.write_paused:
            if (unsent := self.transport.get_write_buffer_size()) != self._unsent:
                self._taken_at, self._unsent = now, unsent
            if (left := self._taken_at + self.settings.send_s - now) < 0:
                self.transport.abort()  # what an answer holds, an upstream's stream with it, is not held by who reads nothing
                return
            wait = min(wait, left)
        if self._reading_since:
            limit = self.settings.head_s if self._in_head else self.settings.request_s
            if (left := self._reading_since + limit - now) <= 0:
                if self._begun:
                    self._refuse(FAULTS["timeout_request"])
                else:
                    self.transport.close()  # nothing was asked, nothing is answered
                return
            wait = min(wait, left)
        elif self._call is None or self._call.complete:
            if (left := self._idle_since + self.settings.idle_s - now) <= 0:
                self.transport.close()
            else:
                wait = min(wait, left)
        self._timer = self.loop.call_later(wait, self._watch)


def _address(transport: asyncio.Transport, which: str) -> tuple[str, int | None] | None:
    at = transport.get_extra_info(which)
    if isinstance(at, tuple | list) and len(at) >= 2:
        return str(at[0]), int(at[1])
    return (at, None) if isinstance(at, str) and at else None


def _peer(transport: asyncio.Transport) -> tuple[str, int] | None:
    at = transport.get_extra_info("peername")
    return (str(at[0]), int(at[1])) if isinstance(at, tuple | list) and len(at) >= 2 else None
