"""Pooled HTTP/1.1: what a peer says beyond one answer never meets the next caller; framing has one reading."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from firewall.core import permit
from firewall.core.errors import UpstreamFault
from firewall.core.permit import Cleared
from firewall.net import http1
from firewall.net.dial import Dialler
from firewall.net.runtime import SystemClock
from firewall.net.upstream import PooledClient, Target

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
BIG = 3 * 1024 * 1024


def cleared(payload: bytes = b"{}") -> Cleared:
    return Cleared(permit._ONLY, None, payload, (), "d_x", "r_x")


@dataclass
class Scripted:
    """A server that says one script per request; connections and requests are counted."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    left: int = 0

    @property
    def target(self) -> Target:
        return Target(f"http://127.0.0.1:{self.port}/", "loopback")


Say = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def saying(*scripts: bytes | Say) -> AsyncIterator[Scripted]:
    seen = Scripted()
    turn = iter(scripts)
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(v) for n, _, v in _fields(head) if n == b"content-length"), 0)
                seen.requests.append(head + await reader.readexactly(length))
                script = next(turn, OK)
                if isinstance(script, bytes):
                    writer.write(script)
                else:
                    await script(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            seen.left += 1
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for writer in writers:
            writer.close()


def _fields(head: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [line.lower().partition(b": ") for line in head.split(b"\r\n")[1:]]


@pytest.fixture
async def client() -> AsyncIterator[PooledClient]:
    made = PooledClient(Dialler(SystemClock()), connections=2)
    yield made
    await made.close()


async def ask(client: PooledClient, server: Scripted, *, max_bytes: int = 100, deadline_s: float = 2.0) -> bytes:
    return (await client.request(cleared(), server.target, deadline_s=deadline_s, max_bytes=max_bytes)).body


async def test_a_second_answer_in_the_same_read_never_answers_the_next_request(client: PooledClient) -> None:
    forged = OK.replace(b"{}", b"[]")
    async with saying(OK + forged) as server:
        assert await ask(client, server) == b"{}"
        assert await ask(client, server) == b"{}"
        assert server.connections == 2
    # Twin: without the second answer the connection is kept.
    async with saying(OK) as server:
        assert await ask(client, server) == await ask(client, server) == b"{}"
        assert server.connections == 1


async def test_bytes_that_come_while_nobody_asked_end_the_connection(client: PooledClient) -> None:
    said = asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(OK.replace(b"{}", b"[]"))
        await writer.drain()
        said.set()

    async with saying(late) as server:
        assert await ask(client, server) == b"{}"
        await said.wait()
        await asyncio.sleep(0.02)
        assert await ask(client, server) == b"{}"
        assert server.connections == 2


async def test_interim_answers_are_passed_over_and_counted(client: PooledClient) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    async with saying(interim * 2 + OK, interim * 9 + OK) as server:
        assert await ask(client, server) == b"{}"
        with pytest.raises(UpstreamFault, match="malformed"):
            await ask(client, server)


async def test_an_answer_without_a_length_ends_with_its_connection(client: PooledClient) -> None:
    async def until_close(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall")
        await writer.drain()
        writer.close()

    async with saying(until_close) as server:
        assert await ask(client, server) == b"all"
        assert await ask(client, server) == b"{}"
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        OK.replace(b"Content-Type: application/json\r\n", b"Content-Type: a/b\r\nContent-Type: c/d\r\n"),
        OK.replace(b"Content-Length: 2", b"Transfer-Encoding: gzip, chunked"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0").replace(
            b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        OK.replace(b"Content-Length: 2", b"Content-Length: +2"),
        OK.replace(b"Content-Length: 2", b"Content-Length : 2"),
        OK.replace(b"Content-Length: 2", b"Content-Length: 2\r\n folded"),
        OK.replace(b"200 OK", b"99 Odd"),
        OK.replace(b"HTTP/1.1", b"HTTP/2.0"),
        OK.replace(b"Content-Length: 2", b"X: " + b"a" * (16 * 1024)),
        OK.replace(
            b"Content-Length: 2\r\n\r\n{}",
            b"Transfer-Encoding: chunked\r\n\r\n2;" + b"a" * 70_000,
        ),
        OK.replace(
            b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nT: " + b"a" * 70_000
        ),
    ],
)
async def test_framing_with_two_readings_is_refused_and_the_next_call_works(
    client: PooledClient, answer: bytes
) -> None:
    async with saying(answer) as server:
        with pytest.raises(UpstreamFault, match="malformed"):
            await ask(client, server, max_bytes=1_000_000)
        assert await ask(client, server) == b"{}"
        assert server.connections == 2


async def test_a_reader_that_is_slow_bounds_what_is_read_ahead(client: PooledClient) -> None:
    async def much(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BIG)
        writer.write(b"x" * BIG)

    async with saying(much) as server:
        total = 0
        async with client.stream(cleared(), server.target, deadline_s=5, idle_s=5) as stream:
            await asyncio.sleep(0.05)
            async for chunk in stream.chunks():
                assert len(chunk) <= 2 * http1._AHEAD_BYTES + 64 * 1024
                total += len(chunk)
        assert total == BIG
        assert await ask(client, server) == b"{}"
        assert server.connections == 1


async def test_more_callers_than_connections_take_turns(client: PooledClient) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(OK)

    async with saying(*[slow] * 8) as server:
        assert await asyncio.gather(*(ask(client, server) for _ in range(8))) == [b"{}"] * 8
        assert server.connections == 2


@pytest.mark.parametrize("lasting", [True, False])
async def test_streams_that_last_take_no_connection_from_those_that_call(client: PooledClient, lasting: bool) -> None:
    """Its twin holds both connections, and the next call waits in vain."""
    stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with saying(stream, stream, OK) as server, contextlib.AsyncExitStack() as open_streams:
        for _ in range(2):
            waits = client.stream(cleared(), server.target, deadline_s=60, idle_s=60, method="GET", lasting=lasting)
            assert (await open_streams.enter_async_context(waits)).status == 200
        if lasting:
            assert await ask(client, server) == b"{}"
        else:
            with pytest.raises(UpstreamFault, match="timeout"):
                await ask(client, server, deadline_s=0.1)


async def test_a_caller_that_is_cancelled_gives_its_place_to_the_next(client: PooledClient) -> None:
    held = asyncio.Event()

    async def hold(writer: asyncio.StreamWriter) -> None:
        await held.wait()
        writer.write(OK)

    async with saying(hold, hold) as server:
        first = [asyncio.ensure_future(ask(client, server)) for _ in range(2)]
        while len(server.requests) < 2:
            await asyncio.sleep(0.005)
        waiting = [asyncio.ensure_future(ask(client, server)) for _ in range(2)]
        with pytest.raises(UpstreamFault, match="timeout"):
            await ask(client, server, deadline_s=0.05)
        waiting[0].cancel()
        first[0].cancel()
        assert await waiting[1] == b"{}"
        held.set()
        assert await first[1] == b"{}"
        await asyncio.gather(*first, *waiting, return_exceptions=True)


async def hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def test_a_short_deadline_after_a_long_one_on_the_same_connection_is_kept(client: PooledClient) -> None:
    async with saying(OK, hang) as server:
        await ask(client, server, deadline_s=60)
        began = asyncio.get_running_loop().time()
        with pytest.raises(UpstreamFault, match="timeout"):
            await ask(client, server, deadline_s=0.05)
        assert asyncio.get_running_loop().time() - began >= 0.045
        assert server.connections == 1


async def test_a_long_deadline_after_a_short_one_is_not_cut_short(client: PooledClient) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(OK)

    async with saying(OK, slow) as server:
        await ask(client, server, deadline_s=0.05)
        assert await ask(client, server, deadline_s=60) == b"{}"  # past the time of the first one's timer
        assert server.connections == 1


async def test_a_timer_that_rings_for_an_earlier_wait_is_set_again(client: PooledClient) -> None:
    async with saying(OK, hang) as server:
        await ask(client, server, deadline_s=0.15)
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            with pytest.raises(UpstreamFault, match="timeout"):
                await ask(client, server, deadline_s=0.3)
        assert asyncio.get_running_loop().time() - began >= 0.29
        assert server.connections == 1


async def test_many_waits_of_a_connection_share_one_timer_and_leave_none_behind(
    client: PooledClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, armed, connections = 0, 0, set()
    news, arm = http1.Connection._news, http1.Connection._arm

    def counted_news(self: http1.Connection, until: float) -> asyncio.Future[bool]:
        nonlocal waits
        waits += 1
        connections.add(self)
        return news(self, until)

    def counted_arm(self: http1.Connection, at: float) -> None:
        nonlocal armed
        armed += 1
        arm(self, at)

    monkeypatch.setattr(http1.Connection, "_news", counted_news)
    monkeypatch.setattr(http1.Connection, "_arm", counted_arm)

    async def drips(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n")
        for _ in range(20):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.002)

    async with saying(drips, drips, hang) as server:
        for _ in range(2):
            assert await ask(client, server, deadline_s=30) == b"x" * 20
        with pytest.raises(UpstreamFault, match="timeout"):
            await ask(client, server, deadline_s=0.02)
        assert waits > 10
        assert armed <= 3
        (one,) = connections
        async with asyncio.timeout(5):
            while one._timer is not None:
                await asyncio.sleep(0.001)


async def test_a_connection_is_not_kept_beyond_its_time(client: PooledClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "KEEP_S", 0.03)
    async with saying() as server:
        await ask(client, server)
        await asyncio.sleep(0.08)
        assert server.left == 1  # swept
        await ask(client, server)
        assert server.connections == 2


@pytest.mark.parametrize("name", [b"host", b"Content-Length", b"transfer-encoding", b"connection", b"a b", b"", b"x:y"])
async def test_no_header_of_a_caller_frames_or_routes(client: PooledClient, name: bytes) -> None:
    async with saying() as server:
        with pytest.raises(UpstreamFault, match="malformed"):
            await client.request(cleared(), server.target, headers=((name, b"1"),), deadline_s=1, max_bytes=10)
        assert server.requests == []


async def test_several_challenges_are_one_list_and_end_where_a_field_does(client: PooledClient) -> None:
    """RFC 9110 §11.6.1: a DPoP challenge in a second field is a challenge as much as the first."""
    head = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n"
    two = head + b'WWW-Authenticate: Bearer scope="a"\r\nwww-authenticate: DPoP error="use_dpop_nonce"\r\n\r\n'
    many = head + b"".join(b"WWW-Authenticate: %b\r\n" % (b"x" * 4000) for _ in range(20)) + b"\r\n"
    async with saying(two, many) as server:
        reply = await client.request(cleared(), server.target, deadline_s=2, max_bytes=100)
        assert reply.headers["www-authenticate"] == 'Bearer scope="a", DPoP error="use_dpop_nonce"'
        with contextlib.suppress(UpstreamFault):  # a head that large may be refused as a whole
            reply = await client.request(cleared(), server.target, deadline_s=2, max_bytes=100)
            assert len(reply.headers["www-authenticate"]) < 2 * http1._FIELD_BYTES
