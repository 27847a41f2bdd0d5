"""What one connection can make us hold, and for how long: framing without a body, drips, half-closes, second answers."""

import asyncio
from typing import Any

import pytest

from firewall.net import protocol
from firewall.net.protocol import ListenerState, ProtocolSettings, StrictProtocol
from tests.net.test_asgi_call import ANSWERS, GET, Said, body, exchange, ours, start
from tests.net.test_desync import Wire

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b"x" * 16_384


class Reading:
    """An application that reads the body to its end, answers, and keeps what it was told."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.left = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        whole, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.left += 1
                return
            whole, more = whole + message["body"], message["more_body"]
        self.bodies.append(whole)
        for said in ANSWERS["whole"]:
            await send(said)


async def early(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers without a look at the body."""
    for message in ANSWERS["whole"]:
        await send(message)


def connected(app: Any, **settings: Any) -> tuple[StrictProtocol, Wire]:
    connection, wire = StrictProtocol(app, ListenerState(), ProtocolSettings(**settings)), Wire()
    connection.connection_made(wire)
    return connection, wire


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.mark.parametrize("before", [b"0\r\n", b"0\r\nX: ", b"5;", b"5;a=", b"5\r\nhello\r\n0\r\n", b"0" * 40], ids=repr)
async def test_framing_without_a_body_ends_at_its_bound(before: bytes) -> None:
    """A trailer's field is kept by the parser until it ends and copied for each piece: without a bound, a minute of it
    would stop the worker and fill its memory, whoever sent it."""
    app = Reading()
    connection, wire = connected(app)
    connection.data_received(CHUNKED + before)
    fed = 0
    while not wire.closed and fed < 64:
        connection.data_received(b"0" * len(PIECE) if before.startswith(b"00") else PIECE)
        fed += 1
        await asyncio.sleep(0)
    assert wire.closed
    assert fed * len(PIECE) <= protocol._FRAMING_BYTES + 2 * len(PIECE)
    assert wire.written.startswith(b"HTTP/1.1 400 ")
    await settle()
    assert (app.bodies, app.left) == ([], 1)
    connection.connection_lost(None)


async def test_a_long_body_buys_no_endless_trailer() -> None:
    app = Reading()
    connection, wire = connected(app)
    connection.data_received(CHUNKED)
    for _ in range(64):
        connection.data_received(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await asyncio.sleep(0)
    connection.data_received(b"0\r\n")
    fed = 0
    while not wire.closed and fed < 64:
        connection.data_received(PIECE)
        fed += 1
    assert wire.closed
    assert fed * len(PIECE) <= protocol._FRAMING_BYTES + 2 * len(PIECE)
    connection.connection_lost(None)


@pytest.mark.parametrize(
    "chunk",
    [b"1\r\nx\r\n", b"00001\r\nx\r\n", b"400;chunk-signature=" + b"f" * 64 + b"\r\n" + b"x" * 1024 + b"\r\n"],
    ids=["the smallest", "leading zeros", "signed"],
)
async def test_the_twin_chunks_as_clients_write_them_pass_however_many(chunk: bytes) -> None:
    app = Reading()
    connection, wire = connected(app)
    connection.data_received(CHUNKED)
    times = 300_000 // len(chunk)
    for _ in range(times):
        connection.data_received(chunk)
    connection.data_received(b"0\r\n\r\n")
    await settle()
    assert len(app.bodies) == 1
    assert app.bodies[0].strip(b"x") == b""
    assert wire.written.startswith(b"HTTP/1.1 200 ")
    connection.connection_lost(None)


BROKEN = [b"5\r\nhelloX", b"zz\r\n", b"0\r\nX: y\r\n\r\n", b"5\n"]


@pytest.mark.parametrize("rest", BROKEN, ids=repr)
async def test_a_request_that_has_its_answer_gets_no_second_one(rest: bytes) -> None:
    """A proxy before us would take the second answer for that of another caller's next request."""
    connection, wire = connected(early)
    connection.data_received(CHUNKED)
    await settle()
    assert wire.written.count(b"HTTP/1.1") == 1
    connection.data_received(rest)
    await settle()
    assert wire.closed
    assert wire.written.count(b"HTTP/1.1") == 1
    connection.connection_lost(None)


@pytest.mark.parametrize("rest", BROKEN, ids=repr)
async def test_the_twin_a_request_without_an_answer_is_refused_in_our_words(rest: bytes) -> None:
    connection, wire = connected(Reading())
    connection.data_received(CHUNKED)
    await settle()
    connection.data_received(rest)
    await settle()
    assert wire.closed
    assert wire.written.startswith(b"HTTP/1.1 400 ")
    assert wire.written.count(b"HTTP/1.1") == 1
    connection.connection_lost(None)


async def test_a_body_that_drips_after_its_answer_is_closed_on_without_a_word() -> None:
    connection, wire = connected(early)
    connection.data_received(CHUNKED + b"1\r\nx\r\n")
    await settle()
    connection._reading_since -= 3600
    connection._watch()
    assert wire.closed
    assert wire.written.count(b"HTTP/1.1") == 1
    connection.connection_lost(None)


@pytest.mark.parametrize(("rest", "idle"), [(b"0\r\n\r\n", True), (b"0\r\n\r\n\r\n", True), (b"5\r\nhe", False)])
async def test_a_connection_whose_body_ends_after_its_answer_is_idle_from_then_on(rest: bytes, idle: bool) -> None:
    """And not one that has begun something: that is cut after the time of a head, in which its client may ask again."""
    connection, wire = connected(early)
    connection.data_received(CHUNKED)
    await settle()
    connection.data_received(rest)
    assert (connection._reading_since == 0.0) == idle
    assert not wire.closed
    connection.connection_lost(None)


@pytest.mark.parametrize(
    ("begun", "drop"), [(b"GET / HTTP/1.1\r\nX: ", b"a"), (CHUNKED + b"f0\r\nhe", b"l"), (b"", b"\r\n")]
)
async def test_a_request_that_drips_is_cut_however_steadily_it_drips(begun: bytes, drop: bytes) -> None:
    app = Reading()
    async with ours(app, protocol=ProtocolSettings(head_s=0.3, request_s=0.3)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)

        async def drip() -> None:
            while True:
                writer.write(drop)
                await asyncio.sleep(0.02)

        dripping = asyncio.ensure_future(drip())
        try:
            got = await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:  # a drop met a closed connection, and took our words along
            got = b""
        dripping.cancel()
        writer.close()
    assert got == b"" or (begun and got.startswith(b"HTTP/1.1 408 "))
    assert app.bodies == []


@pytest.mark.parametrize(
    "part",
    [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
    ],
    ids=["less than its length", "no last chunk", "no end of the last chunk"],
)
async def test_half_a_request_is_none_when_its_client_sends_no_more(part: bytes) -> None:
    app = Reading()
    async with ours(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(part)
        writer.write_eof()
        got = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await settle()
    assert b" 200 " not in got
    assert (app.bodies, app.left) == ([], 1)


async def test_a_body_that_nobody_takes_and_whose_client_has_left_is_an_end_and_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The connection is not read while it holds enough; to read it on when it is gone must not fail."""
    gone, told = asyncio.Event(), list[str]()

    async def late(scope: Any, receive: Any, send: Any) -> None:
        await gone.wait()
        while not told or told[-1] != "http.disconnect":
            told.append((await receive())["type"])

    async with ours(late) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 1_000_000)
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await asyncio.sleep(0.05)
        gone.set()
        async with asyncio.timeout(3):
            while "http.disconnect" not in told:
                await asyncio.sleep(0.01)
        await settle()
    assert caplog.text == ""


async def test_what_comes_behind_a_request_under_way_is_never_read_as_one() -> None:
    """Not even where it arrives in the packet that ends a body whose answer has left already."""
    hidden = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    app = Said(*ANSWERS["whole"])
    connection, wire = connected(early)
    connection.data_received(CHUNKED)
    await settle()
    connection.data_received(b"0\r\n\r\n" + hidden)
    await settle()
    assert b"200 OK" in wire.written
    assert wire.written.count(b"HTTP/1.1 200") == 1
    assert wire.closed
    connection.connection_lost(None)
    async with ours(app) as port:
        got = await exchange(port, GET + hidden)
    assert got.count(b"HTTP/1.1") == 1
    assert [scope["path"] for scope in app.scopes] == ["/a b"]


@pytest.mark.parametrize("cut", range(0, 12, 3))
@pytest.mark.parametrize("told_apart", [True, False])
async def test_the_next_request_may_come_in_the_packet_that_ends_a_body_whose_answer_has_left(
    cut: int, told_apart: bool
) -> None:
    """A client that is answered 401 by its head alone, and asks again at once: two packets of its, one read of ours.

    The twin does not count what a body has left: then the second head has no first byte to be compared from.
    """
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await early(scope, receive, send)

    post, whole = b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n", b"GET / HTTP/1."
    connection, wire = connected(app)
    connection.data_received(post + whole[:cut])
    await settle()
    assert wire.written.count(b"HTTP/1.1 200") == 1
    if not told_apart:
        connection._body_left = 0
    connection.data_received(whole[cut:12] + post.replace(b"first", b"second"))
    await settle()
    if told_apart:
        assert wire.written.count(b"HTTP/1.1 200") == 2
        assert paths == ["/first", "/second"]
        assert not wire.closed
        connection.data_received(whole[:12] + b"GET /third  HTTP/1.1\r\nHost: a\r\n\r\n")  # two spaces
        await settle()
    assert wire.closed
    assert paths == (["/first", "/second"] if told_apart else ["/first"])
    connection.connection_lost(None)


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_sends_none_whatever_the_application_says(status: int) -> None:
    async with ours(Said(start(status), body(b"GET /smuggled"))) as port:
        got = await exchange(port, GET)
    assert b"smuggled" not in got
    assert got.count(b"HTTP/1.1") == 1
