"""uvicorn's httptools protocol, made strict: what ASGI no longer shows is judged here (operations reference 5.4).

llhttp refuses most malformed framing. What it lets through, and what would be read differently by a
proxy before us or an upstream behind us, is refused before any application code runs:

- versions other than 1.0 and 1.1; Transfer-Encoding other than exactly one ``chunked`` on 1.1;
  Content-Length together with Transfer-Encoding, repeated, or not plain digits;
- no Host, two Hosts, a Host with two readings; absolute-form, authority-form and asterisk targets,
  fragments, bytes outside visible ASCII in the target;
- field names with an underscore (CGI-like peers read it as a hyphen), ``Connection`` options that
  name a field to be dropped, ``Upgrade``, ``Expect`` other than 100-continue;
- heads beyond their bounds, and requests that take too long to arrive.

Requests are never pipelined: a request that begins before the last answer is complete is not read,
the connection closes after that answer, and the client repeats it (RFC 9112 9.3.2). So an answer can
only belong to one request, whatever the bytes were.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from firewall.core.bounds import HEADER_BYTES, HEADER_COUNT, REQUEST_READ_S, TARGET_BYTES
from firewall.core.errors import FAULTS, Fault, Malformed
from firewall.core.ports import Refusals
from firewall.net.edge import edge_words
from firewall.wire.http import parse_host

_STATUS: Final = {400: b"400 Bad Request", 408: b"408 Request Timeout", 431: b"431 Request Header Fields Too Large"}
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_CONNECTION_OPTIONS: Final = frozenset({b"close", b"keep-alive"})
_LENGTH_DIGITS: Final = 16
_VISIBLE: Final = bytes(range(0x21, 0x7F))


@dataclass(frozen=True, slots=True)
class ProtocolSettings:
    """Bounds of one connection. head_s, request_s: seconds for the head and for the whole request."""

    target_bytes: int = TARGET_BYTES
    header_bytes: int = HEADER_BYTES
    header_count: int = HEADER_COUNT
    head_s: float = 10.0
    request_s: float = REQUEST_READ_S
    connections: int = 10_000


class _Refused(Exception):
    """Raised inside a parser callback; the parser stops and the connection is refused."""


def check_head(version: str, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
    """Return whether a parsed head has one reading; names are lower case, values as sent."""
    if version not in _VERSIONS or method == b"CONNECT":
        return False
    if target[:1] != b"/" or b"#" in target or target.translate(None, _VISIBLE):
        return False
    hosts = lengths = codings = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
            try:
                parse_host(value)
            except Malformed:
                return False
        elif name == b"content-length":
            lengths += 1
            if not value.isdigit() or len(value) > _LENGTH_DIGITS or (value[:1] == b"0" and value != b"0"):
                return False
        elif name == b"transfer-encoding":
            codings += 1
            if value.lower() != b"chunked" or version != "1.1":
                return False
        elif name == b"connection":
            if not _CONNECTION_OPTIONS.issuperset(option.strip(b" \t").lower() for option in value.split(b",")):
                return False
        elif name == b"upgrade" or (name == b"expect" and value.lower() != b"100-continue") or b"_" in name:
            return False
    return hosts == 1 and lengths + codings <= 1


class StrictProtocol(HttpToolsProtocol):
    """One connection. Refusals are our own fixed words, then the connection closes.

    A client certificate, where the listener asks for one, is ``scope["extensions"]["bartizan.tls"]["client_cert_der"]``.
    """

    settings = ProtocolSettings()
    refusals: Refusals | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._fault: Fault = FAULTS["http_desync"]
        self._deaf = False  # nothing that arrives is read any more
        self._in_head = True
        self._begun = False  # the first byte of the request under way has come
        self._raw = b""  # what arrived of the head under way; its first line is compared with what was parsed
        self._header_total = 0
        self._reading_since = 0.0  # loop time at which the request under way began; 0 when none is
        self._timer: asyncio.TimerHandle | None = None
        self._dying = False
        self._tls: dict[object, object] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.connections:
            transport.abort()
            return
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        self._tls = {"client_cert_der": certificate} if certificate else None
        self._reading_since = self.loop.time()
        self._timer = self.loop.call_later(self.settings.head_s, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        if self._in_head:
            self._raw += data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(FAULTS["http_desync"])
            return
        except httptools.HttpParserError:
            self._refuse(self._fault)
            return
        cycle = self._current()
        if not self._reading_since and (cycle is None or cycle.response_complete):
            # Line ends between requests begin nothing, and uvicorn has just stopped its idle timer.
            self._reading_since = self.loop.time()
        if self._in_head:
            if len(self._raw) > self.settings.header_bytes + self.settings.target_bytes:
                self._refuse(FAULTS["headers_too_large"])

    # -- parser callbacks ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        cycle = self._current()
        if cycle is not None and not cycle.response_complete:
            # INVARIANT: one request at a time; see the module's text.
            self._deaf = True
            cycle.keep_alive = False
            raise _Refused
        super().on_message_begin()
        self._begun = self._in_head = True
        self._header_total = 0
        self._reading_since = self.loop.time()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.settings.target_bytes:
            self._stop("headers_too_large")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            # A trailer. uvicorn would add it to the headers of a request that is already decided.
            self._stop("http_desync")
        self._header_total += len(name) + len(value)
        if len(self.headers) >= self.settings.header_count or self._header_total > self.settings.header_bytes:
            self._stop("headers_too_large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        raw, self._raw = self._raw, b""
        version, method = self.parser.get_http_version(), self.parser.get_method()
        # llhttp also reads RTSP and ICAP lines and several spaces; what it parsed must be what was written.
        line = b"%b %b HTTP/%b\r\n" % (method, self.url, version.encode())
        if not raw.lstrip(b"\r\n").startswith(line) or not check_head(version, method, self.url, self.headers):
            self._stop("http_desync")
        if self._tls is not None:
            self.scope["extensions"] = {"bartizan.tls": dict(self._tls)}
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._reading_since = 0.0
        self._in_head, self._begun = True, False
        super().on_message_complete()

    def _current(self) -> RequestResponseCycle | None:
        return self.cycle  # None before the first request, whatever its annotation says

    # -- endings ---------------------------------------------------------------------------------

    def _stop(self, code: str) -> None:
        self._fault = FAULTS[code]
        raise _Refused

    def _refuse(self, fault: Fault) -> None:
        """Answer with a fault where nothing else was or will be said, and close."""
        cycle = self._current()
        if self._deaf:
            return  # the answer under way is the last one
        self._deaf = True
        self._reading_since = 0.0
        if cycle is not None and not cycle.response_complete:
            # The body of the request under way is bad: its application sees a client that left.
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        noted = self.refusals.note(fault.code, str(self.client[0]) if self.client else "", {}) if self.refusals else ""
        body = edge_words(fault, noted)
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (_STATUS[fault.status], len(body), body)
        )
        self.transport.close()

    def _watch(self) -> None:
        """Cut a request that takes too long to arrive; one timer per connection, moved when it fires."""
        self._timer = None
        if self.transport.is_closing():
            # Told to close, and still not lost: somebody reads nothing of what is left. One more period, then cut.
            if self._dying:
                self.transport.abort()
            else:
                self._dying = True
                self._timer = self.loop.call_later(self.settings.head_s, self._watch)
            return
        now = self.loop.time()
        wait = self.settings.head_s
        if self._reading_since:
            limit = self.settings.head_s if self._in_head else self.settings.request_s
            if (left := self._reading_since + limit - now) <= 0:
                if self._begun:
                    self._refuse(FAULTS["timeout_request"])
                else:
                    self.transport.close()  # nothing was asked, nothing is answered
                return
            wait = min(wait, left)
        self._timer = self.loop.call_later(wait, self._watch)

    def handle_websocket_upgrade(self) -> None:
        """Never: no listener of ours speaks WebSocket."""
        self._refuse(FAULTS["http_desync"])


def strict_protocol(settings: ProtocolSettings, refusals: Refusals | None = None) -> type[StrictProtocol]:
    """Return the protocol class with these bounds. refusals: records what it refuses; None does not."""
    return type("BoundStrictProtocol", (StrictProtocol,), {"settings": settings, "refusals": refusals})
