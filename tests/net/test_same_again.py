"""A connection whose requests bear the same line: each is read as if it were the first."""

from typing import Any

import pytest

from firewall.net.protocol import ProtocolSettings
from tests.net.test_asgi_call import Said, body, exchange, ours, start

LINE = b"POST /p?q=1 HTTP/1.1\r\n"
ONE = LINE + b"Host: a\r\nContent-Length: 5\r\n\r\nhello"
ANSWER = (start(200, (b"content-length", b"5")), body(b"hello"))


async def answers(*raws: bytes, **more: Any) -> tuple[bytes, list[Any], list[bytes]]:
    app = Said(*ANSWER)
    async with ours(app, **more) as port:
        got = await exchange(port, *raws)
    seen = [(s["method"], s["path"], s["query_string"], s["http_version"], s["headers"][0][1]) for s in app.scopes]
    return got, seen, app.bodies


async def test_requests_that_repeat_a_line_are_each_their_own() -> None:
    other = ONE.replace(b"/p?q=1", b"/p?q=2").replace(b": a", b": b")
    shorter = LINE + b"Host: c\r\nContent-Length: 2\r\n\r\nhi"
    got, seen, bodies = await answers(ONE, ONE, other, shorter, b"\r\n" + ONE)
    assert got.count(b"HTTP/1.1 200 OK") == 5
    assert seen == [
        ("POST", "/p", b"q=1", "1.1", b"a"),
        ("POST", "/p", b"q=1", "1.1", b"a"),
        ("POST", "/p", b"q=2", "1.1", b"b"),
        ("POST", "/p", b"q=1", "1.1", b"c"),
        ("POST", "/p", b"q=1", "1.1", b"a"),
    ]
    assert bodies == [b"hello", b"hello", b"hello", b"hi", b"hello"]


@pytest.mark.parametrize(
    "second",
    [
        ONE.replace(b"Host: a\r\n", b"Host: a\r\nHost: a\r\n"),
        ONE.replace(b"Host: a\r\n", b""),
        ONE.replace(b"Host: a\r\n", b"Host: 127.1\r\n"),
        ONE.replace(b"Host: a\r\n", b"Host: a\r\nx_y: 1\r\n"),
        ONE.replace(b"Host: a\r\n", b"Host: a\r\nUpgrade: h2c\r\n"),
        ONE.replace(b"Host: a\r\n", b"Host: a\r\nConnection: authorization\r\n"),
        ONE.replace(b"Host: a\r\n", b"Host: a\r\nTransfer-Encoding: chunked\r\n"),
        ONE.replace(b"POST /p?q=1 ", b"POST  /p?q=1 "),
        ONE.replace(b"HTTP/1.1", b"HTTP/1.2"),
        ONE.replace(b"HTTP/1.1", b"RTSP/1.1"),
        ONE.replace(b"/p?q=1", b"/p?q=1#x"),
        ONE.replace(b"POST /p?q=1", b"CONNECT a:1"),
        LINE + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: 1\r\n\r\n",
    ],
)
async def test_a_line_that_passed_once_vouches_for_no_other_head(second: bytes) -> None:
    first, _, _ = await answers(second)
    got, seen, _ = await answers(ONE, second)
    assert len(seen) <= 2
    assert first.startswith(b"HTTP/1.1 400 ")
    assert (got.count(b"HTTP/1.1 200 OK"), got.count(b"HTTP/1.1 400 ")) == (1, 1)
    # Twin: what is wrong with it alone makes the difference.
    assert (await answers(ONE, ONE))[0].count(b"HTTP/1.1 200 OK") == 2


class _Early(Said):
    """An application that answers before the body is whole."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        for message in self.messages:
            await send(message)


@pytest.mark.parametrize("value", [LINE, b"x\r\n"])
async def test_a_head_that_begins_in_a_body_s_last_bytes_is_not_read_by_its_remainder(value: bytes) -> None:
    """The remainder, a field's value, may look like the line that the connection's last request bore."""
    app = _Early(*ANSWER)
    open_body = LINE + b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    other = b"DELETE /other HTTP/1.1\r\nHost: b\r\nX: "
    async with ours(app) as port:
        got = await exchange(port, open_body, b"0\r\n\r\n" + other, value + b"\r\n")
    assert [scope["method"] for scope in app.scopes] == ["POST"]
    assert (got.count(b"HTTP/1.1 200 OK"), got.count(b"HTTP/1.1 400 ")) == (1, 1)
    # Twin: the body's end by itself, and the connection goes on; each request bears its own line.
    app = _Early(*ANSWER)
    async with ours(app) as port:
        await exchange(port, open_body, b"0\r\n\r\n", other, value + b"\r\n")
    assert [(scope["method"], scope["path"]) for scope in app.scopes] == [("POST", "/p"), ("DELETE", "/other")]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"x: 1\r\n" * 6, b"200 OK"),
        (b"x: 1\r\n" * 7, b"431 Request Header Fields Too Large"),
        (b"x: " + b"1" * 150 + b"\r\n", b"200 OK"),
        (b"x: " + b"1" * 200 + b"\r\n", b"431 Request Header Fields Too Large"),
    ],
)
async def test_the_bounds_of_a_head_are_those_of_each_request(fields: bytes, status: bytes) -> None:
    """Two fields, 20 bytes of them, stand in every request; a body does not count."""
    second = ONE.replace(b"Host: a\r\n", b"Host: a\r\n" + fields).replace(
        b": 5\r\n\r\nhello", b": 300\r\n\r\n" + b"y" * 300
    )
    bounds = ProtocolSettings(header_count=8, header_bytes=200)
    got, _, _ = await answers(ONE, second, protocol=bounds)
    assert got.count(b"HTTP/1.1 ") == 2
    assert got.rindex(b"HTTP/1.1 " + status) > 0
