"""What we read of hostile bytes, beside another parser (h11): a request that we take has the same reading there.

We may refuse what h11 takes; `PLAIN` shows that we do not refuse everything. Cases are every combination of request
lines, framing fields and bodies of the desynchronisation literature, and combinations that Hypothesis damages.
"""

import asyncio
from itertools import product
from typing import Any, Final

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firewall.net.protocol import ListenerState, StrictProtocol
from tests.net.test_desync import Wire

Reading = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]

LINES: Final = (
    b"POST /p HTTP/1.1\r\n",
    b"GET /p?x=%20 HTTP/1.1\r\n",
    b"HEAD /p HTTP/1.1\r\n",
    b"POST /p HTTP/1.0\r\n",
    b"POST  /p HTTP/1.1\r\n",
    b"POST /p  HTTP/1.1\r\n",
    b"POST /p HTTP/1.1 \r\n",
    b"POST /p HTTP/1.1\n",
    b"POST /p HTTP/1.1\r",
    b"POST /p\tHTTP/1.1\r\n",
    b"POST /p x HTTP/1.1\r\n",
    b"\r\n\r\nPOST /p HTTP/1.1\r\n",
    b"\nPOST /p HTTP/1.1\r\n",
    b" POST /p HTTP/1.1\r\n",
    b"POST /p\x0bq HTTP/1.1\r\n",
    b"POST http://a/p HTTP/1.1\r\n",
    b"POST /p HTTP/1.1\r\nPOST /q HTTP/1.1\r\n",
    b"POST /p HTTP/01.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)
FRAMINGS: Final = (
    b"",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length:5\r\n",
    b"Content-Length: \t5 \t\r\n",
    b"Content-Length: 05\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: 5\n",
    b"Content-Length: 5\r\r\n",
    b"Content-Length : 5\r\n",
    b"Content-Length\t: 5\r\n",
    b"Content-Length: 0\r\n Content-Length: 5\r\n",
    b"X: a\r\n\tContent-Length: 5\r\n",
    b"X: a\rContent-Length: 5\r\n",
    b"X: a\nContent-Length: 5\r\n",
    b"X: a\x00\r\nContent-Length: 5\r\n",
    b"Content_Length: 5\r\n",
    b"\xef\xbb\xbfContent-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\tchunked\t\r\n",
    b"Transfer-Encoding: chunked,\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: x, chunked\r\n",
    b"Transfer-Encoding: chunked;q=1\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    b"TE: trailers\r\nTransfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\nContent-Length: 5\r\n",
    b"Expect: 100-Continue, x\r\nContent-Length: 5\r\n",
    b"Connection: close\r\nContent-Length: 5\r\n",
    b"Connection: content-length\r\nContent-Length: 5\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n",
    b"Proxy-Connection: close\r\nContent-Length: 5\r\n",
)
HIDDEN: Final = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
BODIES: Final = (
    b"hello",
    b"hello" + HIDDEN,
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n" + HIDDEN,
    b"0\r\n\r\n" + HIDDEN,
    b"005\r\nhello\r\n000\r\n\r\n",
    b"5;a=b\r\nhello\r\n0;c\r\n\r\n",
    b'5;a="b\r\nhello\r\n0\r\n\r\n',
    b"5;a=b\nhello\r\n0\r\n\r\n",
    b"5;\x00\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5\rhello\r0\r\r",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"6\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: y\n\n",
    b"5\r\nhello\r\n0\r\n y\r\n\r\n",
    b"5\r\nhello\r\n0\r\n" + HIDDEN,
    b"5\r\nhello\r\n\r\n0\r\n\r\n",
)
PLAIN: Final = (
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"\r\nGET /p?x=%20 HTTP/1.1\r\nHost: a\r\nX:  b\tc \r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n005;a=b\r\nhello\r\n0\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"GET /p HTTP/1.1\r\nHost: a\r\nProxy-Connection: close\r\nX-Empty:\r\n\r\n",
)


def request(line: bytes, framing: bytes, body: bytes) -> bytes:
    return line + b"Host: a\r\n" + framing + b"\r\n" + body


async def ours(raw: bytes, step: int = 0) -> tuple[list[Reading], bytes]:
    """Return the requests that an application got whole from one connection, and what the client got."""
    read: list[Reading] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        parts = []
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            parts.append(message["body"])
            if not message["more_body"]:
                break
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        # llhttp leaves white space at the end of a value; `header_map` takes it off, `check_head` refuses it where it frames.
        fields = tuple((name, value.rstrip(b" \t")) for name, value in scope["headers"])
        read.append((scope["method"].encode(), target, fields, b"".join(parts)))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    state, wire = ListenerState(), Wire()
    connection = StrictProtocol(app, state)
    connection.connection_made(wire)
    for at in range(0, len(raw), step or len(raw) or 1):
        connection.data_received(raw[at : at + (step or len(raw))])
    while state.tasks and any(not task.done() for task in state.tasks):
        if wire.closed or connection._call is None or connection._call._more:
            connection.connection_lost(None)  # nothing more comes
        await asyncio.sleep(0)
    await asyncio.sleep(0)  # what a turn of the loop writes leaves at its end
    connection.connection_lost(None)
    return read, wire.written


def theirs(raw: bytes) -> Reading | str:
    """Return h11's reading of the first request; a word where it has none.

    Empty lines before a request are to be ignored (RFC 9112 2.2); h11 refuses them, so they are taken off.
    """
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw.lstrip(b"\r\n"))
    head: h11.Request | None = None
    body = b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return head.method, head.target, tuple(head.headers), body
            else:
                return "incomplete"
    except h11.RemoteProtocolError:
        return "refused"


async def agree(raw: bytes, step: int = 0) -> None:
    read, written = await ours(raw, step)
    answers = written.count(b"HTTP/1.1 ") - written.count(b"HTTP/1.1 100 ")
    assert answers <= 1, "one connection, one burst of bytes, one answer"
    assert len(read) <= 1
    if read:
        assert theirs(raw) == read[0]


@pytest.mark.parametrize("framing", FRAMINGS, ids=repr)
async def test_a_request_that_we_take_has_the_same_reading_elsewhere(framing: bytes) -> None:
    for line, body in product(LINES, BODIES):
        await agree(request(line, framing, body))


@pytest.mark.parametrize("raw", PLAIN, ids=repr)
async def test_the_twin_plain_requests_are_taken_by_both_however_they_are_cut(raw: bytes) -> None:
    expected = theirs(raw)
    assert isinstance(expected, tuple)
    for step in (0, 1, 2, 7):
        read, written = await ours(raw, step)
        assert read == [expected]
        assert b"HTTP/1.1 200 OK" in written


CASES = st.builds(request, st.sampled_from(LINES), st.sampled_from(FRAMINGS), st.sampled_from(BODIES))
NOISE = st.sampled_from(
    [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b"\x0b", b"\x85", b"0", b";", b":", b",", b"_"]
)


@given(raw=CASES, at=st.integers(0, 160), noise=NOISE, lost=st.integers(0, 3), step=st.integers(1, 40))
@example(raw=PLAIN[3], at=0, noise=b"", lost=0, step=1)
def test_damaged_requests_have_the_same_reading_too_and_cuts_make_no_difference(
    raw: bytes, at: int, noise: bytes, lost: int, step: int
) -> None:
    raw = raw[:at] + noise + raw[at + lost :]

    async def both() -> None:
        await agree(raw)
        await agree(raw, step)
        assert (await ours(raw, step))[0] == (await ours(raw))[0]

    asyncio.run(both())
