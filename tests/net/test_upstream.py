"""The upstream client against a real server that misbehaves: every fault has its code, and the next call works."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from firewall.core import permit
from firewall.core.errors import FAULTS, UpstreamFault, fault_of
from firewall.core.permit import Cleared
from firewall.net.dial import Dialler
from firewall.net.runtime import SystemClock
from firewall.net.upstream import PooledClient, Target
from tests.net.certificates import authority
from tests.sim.misbehaving import Misbehaving, misbehaving

PAYLOAD = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


def cleared(payload: bytes = PAYLOAD, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Cleared:
    """A Cleared as the guard makes them; tests of senders may use the seal."""
    return Cleared(permit._ONLY, None, payload, headers, "dec_x", "rec_x")


@pytest.fixture
async def server() -> AsyncIterator[Misbehaving]:
    async with misbehaving() as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[PooledClient]:
    made = PooledClient(Dialler(SystemClock()))
    yield made
    await made.close()


def loopback(server: Misbehaving, path: str = "/") -> Target:
    return Target(server.url(path), network="loopback")


async def call(
    client: PooledClient,
    target: Target,
    *,
    payload: bytes = PAYLOAD,
    deadline_s: float = 2.0,
    max_bytes: int = 10_000,
) -> bytes:
    return (await client.request(cleared(payload), target, deadline_s=deadline_s, max_bytes=max_bytes)).body


async def test_exactly_the_cleared_bytes_and_headers_arrive(client: PooledClient, server: Misbehaving) -> None:
    reply = await client.request(
        cleared(headers=((b"mcp-name", b"time"),)),
        loopback(server, "/mcp?x=%41"),
        headers=((b"authorization", b"Bearer t"),),
        deadline_s=2,
        max_bytes=1000,
    )
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, PAYLOAD, "application/json")
    head, _, body = server.seen.requests[0].partition(b"\r\n\r\n")
    assert body == PAYLOAD
    lines = sorted(line.lower() for line in head.split(b"\r\n")[1:])
    assert head.startswith(b"POST /mcp?x=%41 HTTP/1.1\r\n")
    assert lines == sorted(
        [
            b"host: 127.0.0.1:%d" % server.port,
            b"mcp-name: time",
            b"authorization: bearer t",
            b"content-type: application/json",
            b"content-length: %d" % len(PAYLOAD),
            b"accept-encoding: identity",
        ]
    )


async def test_connections_are_pooled_and_cookies_are_not(client: PooledClient, server: Misbehaving) -> None:
    for path in ("/a", "/cookie", "/b", "/c"):
        await call(client, loopback(server, path))
    assert server.seen.connections == 1
    assert b"\r\ncookie:" not in b"".join(server.seen.requests).lower()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/cut-body", "cut_stream"),
        ("/cut-head", "cut_stream"),
        ("/cut-chunk", "cut_stream"),
        ("/silent-close", "cut_stream"),
        ("/rubbish", "malformed"),
        ("/bad-chunk", "malformed"),
        ("/two-lengths", "malformed"),
        ("/length-and-chunked", "malformed"),
        ("/huge-header", "malformed"),
        ("/many-headers", "malformed"),
        ("/huge-length", "too_large"),
        ("/endless", "too_large"),
        ("/gzip", "malformed"),
        ("/redirect", "malformed"),
        ("/hang", "timeout"),
        ("/slow", "timeout"),
    ],
)
async def test_each_fault_has_its_code_and_the_next_call_works(
    client: PooledClient, server: Misbehaving, path: str, code: str
) -> None:
    with pytest.raises(UpstreamFault) as caught:
        await call(client, loopback(server, path), deadline_s=0.2 if code == "timeout" else 5)
    assert caught.value.code == code
    assert fault_of(caught.value) is FAULTS[f"upstream_{code}"]
    assert await call(client, loopback(server)) == PAYLOAD


async def test_an_answer_before_the_body_was_read_is_an_answer(client: PooledClient, server: Misbehaving) -> None:
    assert await call(client, loopback(server, "/early"), payload=b"x" * 200_000) == b'{"early":true}'


async def test_the_bound_on_an_answer_is_inclusive(client: PooledClient, server: Misbehaving) -> None:
    assert await call(client, loopback(server), payload=b"x" * 100, max_bytes=100) == b"x" * 100
    with pytest.raises(UpstreamFault, match="too_large"):
        await call(client, loopback(server), payload=b"x" * 101, max_bytes=100)


async def test_error_statuses_are_answers_and_a_refused_connection_is_unreachable(
    client: PooledClient, server: Misbehaving
) -> None:
    reply = await client.request(cleared(), loopback(server, "/error"), deadline_s=2, max_bytes=10)
    assert reply.status == 503
    with pytest.raises(UpstreamFault, match="unreachable"):
        await call(client, Target("http://127.0.0.1:1/", "loopback"))


async def test_a_stream_yields_what_arrives_and_keeps_its_connection_when_read_to_the_end(
    client: PooledClient, server: Misbehaving
) -> None:
    for _ in range(2):
        async with client.stream(cleared(), loopback(server, "/sse"), deadline_s=2, idle_s=1) as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert b"".join([chunk async for chunk in stream.chunks()]) == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert server.seen.connections == 1


async def test_a_stream_that_is_cut_ends_with_cut_stream_after_what_arrived(
    client: PooledClient, server: Misbehaving
) -> None:
    got = []
    async with client.stream(cleared(), loopback(server, "/cut-sse"), deadline_s=2, idle_s=1) as stream:
        chunks = stream.chunks()
        got.append(await anext(chunks))
        with pytest.raises(UpstreamFault, match="cut_stream"):
            await anext(chunks)
    assert got == [b"data: 1\n\n"]


@pytest.mark.parametrize(("deadline_s", "idle_s"), [(5.0, 0.1), (0.1, 5.0)])
async def test_a_silent_stream_ends_within_its_idle_time_and_its_deadline(
    client: PooledClient, server: Misbehaving, deadline_s: float, idle_s: float
) -> None:
    async with client.stream(
        cleared(), loopback(server, "/sse-then-hang"), deadline_s=deadline_s, idle_s=idle_s
    ) as stream:
        chunks = stream.chunks()
        await anext(chunks)
        with pytest.raises(UpstreamFault, match="timeout"):
            await anext(chunks)
    await asyncio.wait_for(server.seen.left.wait(), 2)


async def test_leaving_a_stream_early_or_being_cancelled_tells_the_upstream(
    client: PooledClient, server: Misbehaving
) -> None:
    async with client.stream(cleared(), loopback(server, "/sse-then-hang"), deadline_s=5, idle_s=5) as stream:
        assert await anext(aiter(stream.chunks())) == b"data: 1\n\n"
    await asyncio.wait_for(server.seen.left.wait(), 2)
    server.seen.left.clear()
    task = asyncio.ensure_future(call(client, loopback(server, "/hang"), deadline_s=30))
    while len(server.seen.requests) < 2:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.seen.left.wait(), 2)


@pytest.mark.parametrize("network", ["public", "private"])
async def test_a_loopback_server_is_not_reached_without_its_permission(
    client: PooledClient, server: Misbehaving, network: str
) -> None:
    with pytest.raises(UpstreamFault, match="blocked_address"):
        await call(client, Target(server.url("/"), network))  # type: ignore[arg-type]
    assert server.seen.connections == 0
    # Twin: the permission alone makes the difference.
    assert await call(client, loopback(server)) == PAYLOAD


async def test_proxies_of_the_environment_are_not_used(server: Misbehaving, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    client = PooledClient(Dialler(SystemClock()))
    assert await call(client, loopback(server)) == PAYLOAD
    await client.close()


async def test_nothing_but_cleared_is_sent_and_no_line_end_in_a_header(
    client: PooledClient, server: Misbehaving
) -> None:
    with pytest.raises(TypeError):
        await client.request(PAYLOAD, loopback(server), deadline_s=1, max_bytes=10)  # type: ignore[arg-type]
    with pytest.raises(UpstreamFault, match="malformed"):
        await client.request(
            cleared(), loopback(server), headers=((b"x", b"a\r\nEvil: 1"),), deadline_s=1, max_bytes=10
        )
    assert server.seen.requests == []


async def test_tls_is_verified_against_the_configured_authority_only(tmp_path: Path) -> None:
    files = authority(tmp_path, "localhost")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"

    async def resolver(_name: str) -> list[str]:
        return ["127.0.0.1"]

    client = PooledClient(Dialler(SystemClock(), resolver=resolver))
    try:
        assert await call(client, Target(url, "loopback", ca_file=str(files.ca))) == b"{}"
        with pytest.raises(UpstreamFault, match="unreachable"):
            await call(client, Target(url, "loopback"))
        with pytest.raises(UpstreamFault, match="unreachable"):  # the right authority, another name
            await call(client, Target(url.replace("localhost", "other.test"), "loopback", ca_file=str(files.ca)))
    finally:
        await client.close()
        server.close()


async def test_a_public_upstream_without_tls_is_not_dialled(server: Misbehaving) -> None:
    client = PooledClient(Dialler(SystemClock()))
    with pytest.raises(UpstreamFault, match="blocked_address") as told:
        await call(client, Target("http://one.one.one.one/mcp", "public"))
    assert "https" in told.value.detail
    await client.close()


async def test_fields_that_are_kept_written_are_checked_and_replaced_as_those_that_are_not(
    client: PooledClient, server: Misbehaving
) -> None:
    async def told(ours: tuple[tuple[bytes, bytes], ...], extra: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
        await client.request(cleared(headers=ours), loopback(server), headers=extra, deadline_s=2, max_bytes=1000)
        return server.seen.requests[-1].partition(b"\r\n\r\n")[0].lower() + b"\r\n"

    named = ((b"accept", b"a/a"), (b"mcp-name", b"one"))
    for _ in range(2):
        head = await told(named, ((b"authorization", b"Bearer t"),))
        assert b"mcp-name: one\r\n" in head
        assert b"authorization: bearer t\r\n" in head
    head = await told(named, ((b"Accept", b"b/b"),))
    assert b"accept: b/b\r\n" in head
    assert b"a/a" not in head
    assert b"authorization" not in await told(named)
    assert b"mcp-name: two\r\n" in await told(((b"mcp-name", b"two"),))
    for wrong in ((b"x", b"a\nb"), (b"host", b"elsewhere"), (b"a b", b"c")):
        for ours, extra in (((*named, wrong), ()), (named, (wrong,))):
            with pytest.raises(UpstreamFault, match="malformed"):
                await told(ours, extra)


async def test_an_answer_that_was_left_is_read_no_further(client: PooledClient, server: Misbehaving) -> None:
    async with client.stream(cleared(), loopback(server, "/sse"), deadline_s=2, idle_s=1) as left:
        chunks = left.chunks()
        assert await anext(chunks)
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)
    with pytest.raises(UpstreamFault, match="cut_stream"):
        await left.whole(1000)
