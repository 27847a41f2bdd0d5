"""Heads of HTTP/1.1 messages: what a request's must be before anybody acts on it, what a response's is made of.

Pure. llhttp refuses most malformed framing. What it lets through, and what would be read differently by a proxy before us
or an upstream behind us, is refused here (operations reference 5.4):

- versions other than 1.0 and 1.1; Transfer-Encoding other than exactly one ``chunked`` on 1.1;
  Content-Length together with Transfer-Encoding, repeated, or not plain digits;
- no Host, two Hosts, a Host with two readings; absolute-form, authority-form and asterisk targets,
  fragments, bytes outside visible ASCII in the target;
- field names with an underscore (CGI-like peers read it as a hyphen), ``Connection`` options that
  name a field to be dropped, ``Upgrade``, ``Expect`` other than 100-continue.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from firewall.core.errors import Malformed
from firewall.wire.http import parse_host

Pairs = Iterable[tuple[bytes, bytes]]

_VERSIONS: Final = frozenset({"1.0", "1.1"})
_CONNECTION_OPTIONS: Final = frozenset({b"close", b"keep-alive"})
_LENGTH_DIGITS: Final = 16
_VISIBLE: Final = bytes(range(0x21, 0x7F))
# Fields that frame or route; of the others only the name is looked at.
_JUDGED: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"})

_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status} {status.phrase}\r\n".encode() for status in HTTPStatus}
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # RFC 9110 5.6.2
_IN_VALUES: Final = bytes(b for b in range(256) if (b >= 0x20 or b == 0x09) and b != 0x7F)  # RFC 9110 5.5
_BODILESS: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A request line with one reading. raw: as it was sent, with its end; path: percent-decoded UTF-8."""

    raw: bytes
    version: str
    method: str
    path: str
    raw_path: bytes
    query: bytes


def request_line(version: str, method: bytes, target: bytes) -> RequestLine | None:
    """Return the line that a parser read as these, None where it has no one reading."""
    if version not in _VERSIONS or method == b"CONNECT":
        return None
    if target[:1] != b"/" or b"#" in target or target.translate(None, _VISIBLE):
        return None
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("ascii")
    if "%" in path:
        path = unquote(path)
    raw = b"%b %b HTTP/%b\r\n" % (method, target, version.encode())
    return RequestLine(raw, version, method.decode("ascii"), path, raw_path, query)


def check_fields(version: str, headers: list[tuple[bytes, bytes]], known_host: bytes) -> tuple[bytes, int, bool] | None:
    """Return (Host, bytes of the body or 0 where none are said, whether 100 Continue is expected); None: two readings.

    headers: names in lower case, values as sent. known_host: a Host value that passed before on the same connection;
    b"" for none.
    """
    host, length, expects = b"", 0, False
    hosts = framings = 0
    for name, value in headers:
        if name not in _JUDGED:
            if b"_" in name:
                return None
        elif name == b"host":
            hosts += 1
            host = value
            if value != known_host or not known_host:
                try:
                    parse_host(value)
                except Malformed:
                    return None
        elif name == b"content-length":
            framings += 1
            if not value.isdigit() or len(value) > _LENGTH_DIGITS or (value[:1] == b"0" and value != b"0"):
                return None
            length = int(value)
        elif name == b"transfer-encoding":
            framings += 1
            if value.lower() != b"chunked" or version != "1.1":
                return None
        elif name == b"connection":
            if not _CONNECTION_OPTIONS.issuperset(option.strip(b" \t").lower() for option in value.split(b",")):
                return None
        elif name == b"upgrade" or value.lower() != b"100-continue":
            return None
        else:
            expects = True
    return (host, length, expects) if hosts == 1 and framings <= 1 else None


def _line(name: bytes, value: bytes) -> bytes:
    """Return a field as it is sent. Raises RuntimeError: it would be read as something else."""
    if not name or name.translate(None, _TOKEN) or value.translate(None, _IN_VALUES):
        raise RuntimeError("a response header has bytes that no header may have")
    return b"%b: %b\r\n" % (name.lower(), value)


# Fields that stand in most answers, looked at and written once. None of them frames a message.
_WRITTEN: Final = {
    field: _line(*field)
    for field in (
        (b"content-type", b"application/json"),
        (b"content-type", b"text/event-stream"),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    )
}


def response_head(
    status: int, headers: Pairs, *, date: bytes, keep_alive: bool, bodiless: bool, old: bool = False
) -> tuple[bytes, int, bool]:
    """Return (the head of a response, the bytes that must follow, whether the connection ends after it).

    Bytes that must follow: −1 for chunks, −2 for what comes until the connection ends. date: a whole Date line, or b"".
    bodiless: the request was HEAD. old: it was HTTP/1.0, which knows no chunks (RFC 9112 6.1): a body of no said length
    then ends with the connection.
    Raises RuntimeError: a field that would be read as something else, whoever made it (response splitting), or a body
    that is framed twice.
    """
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, date]
    length, chunked, close = -1, False, False
    for name, value in headers:
        line = _WRITTEN.get((name, value))
        if line is None:
            line = _line(name, value)
            name = name.lower()
            if name == b"content-length":
                if length >= 0 or chunked or not value.isdigit():
                    raise RuntimeError("a response has one framing")
                length = int(value)
            elif name == b"transfer-encoding":
                if length >= 0 or chunked or value.lower() != b"chunked":
                    raise RuntimeError("a response has one framing")
                chunked = True
            elif name == b"connection":
                close = close or b"close" in [option.strip().lower() for option in value.split(b",")]
        parts.append(line)
    if not keep_alive and not close:
        parts.append(b"connection: close\r\n")
    if status in _BODILESS or bodiless:
        length = 0
    elif length < 0 and not chunked:
        if old:
            length = -2
        else:
            parts.append(b"transfer-encoding: chunked\r\n")
    parts.append(b"\r\n")
    return b"".join(parts), length, close or not keep_alive
