"""Server-sent events: a sans-IO parser and a writer (WHATWG HTML 9.2).

The parser is a machine (DESIGN §8): `Parser.feed` returns the events before an error, then the error
as the last item, and stays closed. What comes out never depends on how the bytes were cut.

Stricter than the standard, on purpose: invalid UTF-8 is an error instead of U+FFFD, since a consumer
that replaces sees another text than we inspected; an event has a bound; an unfinished event at the
end of the stream is an error that `Parser.close` returns, since a cut stream is not a short one.
"""

from __future__ import annotations

from typing import Final

from firewall.core.bounds import SSE_EVENT_BYTES
from firewall.core.errors import Malformed
from firewall.core.value import value

_BOM: Final = b"\xef\xbb\xbf"
_RETRY_DIGITS: Final = 9
_DATA: Final = b"data: "
_MESSAGE: Final = b"event: message\n"
_NAMED: Final = _MESSAGE + _DATA


@value
class Event:
    """One dispatched event.

    data: UTF-8 bytes, lines joined by LF. event: "message" when the stream names none.
    id: the last event id, which outlives the event that set it. retry_ms: set since the last event.
    """

    data: bytes
    event: str = "message"
    id: str = ""
    retry_ms: int | None = None


class Parser:
    """Bytes of one stream → events. Bound: max_event_bytes per event, line ends and comments not counted."""

    __slots__ = ("_after_cr", "_bom", "_closed", "_data", "_event", "_id", "_max", "_partial", "_retry", "_size")

    def __init__(self, max_event_bytes: int = SSE_EVENT_BYTES) -> None:
        self._max = max_event_bytes
        self._partial = bytearray()  # the line that has not ended
        self._after_cr = False  # the last line ended with CR: a LF that follows belongs to it
        self._bom = True  # still at the start of the stream
        self._data: list[bytes] = []
        self._size = 0
        self._event = ""
        self._id = ""
        self._retry: int | None = None
        self._closed = False

    def feed(self, chunk: bytes) -> list[Event | Malformed]:
        """Return the events that end in this chunk; an error is the last item, then nothing more.

        Codes: sse_not_utf8, sse_event_too_large.
        """
        out: list[Event | Malformed] = []
        if self._closed or not chunk:
            return out
        if self._after_cr:
            self._after_cr = False
            if chunk[:1] == b"\n":
                chunk = chunk[1:]
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        ended, end, last = chunk.rpartition(b"\n")
        if end:
            if self._partial:
                # A line is copied at most once more than it was cut: a drip of single bytes stays linear.
                ended = bytes(self._partial) + ended
                self._partial.clear()
            error = self._lines(ended + end, out)
            if error is not None:
                return self._fail(error, out)
        self._partial += last
        if len(self._partial) + (0 if self._partial[:1] == b":" else self._size) > self._max + (
            len(_BOM) if self._bom else 0
        ):
            return self._fail("sse_event_too_large", out)
        return out

    def close(self) -> Malformed | None:
        """End the stream: None, or Malformed sse_cut when an event was under way."""
        cut = not self._closed and bool(self._partial or self._data)
        self._closed = True
        return Malformed("sse_cut") if cut else None

    def _fail(self, code: str, out: list[Event | Malformed]) -> list[Event | Malformed]:
        self._closed = True
        self._partial.clear()
        self._data.clear()
        out.append(Malformed(code))
        return out

    def _lines(self, text: bytes, out: list[Event | Malformed]) -> str | None:
        """Take lines, each with its end; return an error code or None."""
        *blocks, rest = text.split(b"\n\n")
        for block in blocks:
            # Nearly every event is one line of data, a "message" where it is named; `_line` says the same of it.
            named = block.startswith(_NAMED)
            begin = len(_NAMED) if named else len(_DATA)
            if (
                (named or block.startswith(_DATA))
                and block.find(b"\n", begin) < 0
                and not self._size  # nothing of an event before it is under way
                and not self._bom
            ):
                if len(block) - named > self._max:  # line ends do not count
                    return "sse_event_too_large"
                if not block.isascii() and not _is_utf8(block):
                    return "sse_not_utf8"
                out.append(Event(block[begin:], "message", self._id, self._retry))
                self._retry = None
                continue
            for line in (*block.split(b"\n"), b""):
                error = self._line(line, out)
                if error is not None:
                    return error
        for line in rest.split(b"\n")[:-1]:
            error = self._line(line, out)
            if error is not None:
                return error
        return None

    def _line(self, line: bytes, out: list[Event | Malformed]) -> str | None:
        """Take one whole line; return an error code or None."""
        if self._bom:
            self._bom = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(out)
            return None
        if line[:1] == b":":
            return "sse_event_too_large" if len(line) > self._max else None
        self._size += len(line)
        if self._size > self._max:
            return "sse_event_too_large"
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line.isascii() and not _is_utf8(line):
            return "sse_not_utf8"
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value.decode()
        elif name == b"id":
            if b"\0" not in value:
                self._id = value.decode()
        elif name == b"retry" and value.isdigit() and len(value) <= _RETRY_DIGITS:
            self._retry = int(value)
        return None

    def _dispatch(self, out: list[Event | Malformed]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            out.append(Event(data, self._event or "message", self._id, self._retry))
            self._data = []
            self._retry = None
        self._event = ""
        self._size = 0


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def encode(data: bytes, *, event: str = "", id: str = "", retry_ms: int | None = None) -> bytes:
    """Return one event. data: UTF-8; CR, LF and CRLF in it become separate data lines.

    retry_ms: how long a client waits before it connects again, milliseconds.

    Raises Malformed: sse_field (a line end or NUL in event or id).
    """
    head = _MESSAGE if event == "message" else _field(b"event: ", event) if event else b""
    if id:
        head += _field(b"id: ", id)
    if retry_ms is not None:
        head += b"retry: %d\n" % retry_ms
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"%bdata: %b\n\n" % (head, data)


def encode_message(data: bytes) -> bytes:
    """Return what ``encode(data, event="message")`` does: the event that nearly every stream is made of."""
    if b"\n" in data or b"\r" in data:
        return encode(data, event="message")
    return b"%b%b\n\n" % (_NAMED, data)


def _field(name: bytes, text: str) -> bytes:
    if "\n" in text or "\r" in text or "\0" in text:
        raise Malformed("sse_field")
    return name + text.encode() + b"\n"


COMMENT: Final = b":\n\n"
"""A keep-alive: an empty comment and the blank line that makes naive readers flush it."""
