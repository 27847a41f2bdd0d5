"""Listeners on real sockets: ports, streams at shutdown, vanished clients, slow heads, TLS and mTLS."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from firewall.core.errors import ConfigFault
from firewall.net import asgi
from firewall.net.protocol import ProtocolSettings
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server, TLSSettings
from tests.net.certificates import authority
from tests.net.test_asgi import cleared

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@asynccontextmanager
async def serving(app: asgi.App, **more: Any) -> AsyncIterator[Server]:
    tasks = Tasks()
    server = Server([Listener("data", "127.0.0.1", 0, app, **more)], SystemClock(), tasks)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace_s=0.1)
        await tasks.close()


async def connect(
    server: Server, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(
        "127.0.0.1", server.ports["data"], ssl=tls, server_hostname="localhost" if tls else None
    )


async def read_all(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), 3)


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.01)


async def test_several_listeners_report_their_ports_and_answer_with_a_date() -> None:
    tasks = Tasks()
    server = Server(
        [Listener("data", "127.0.0.1", 0, hello), Listener("admin", "127.0.0.1", 0, hello)], SystemClock(), tasks
    )
    await server.start()
    assert set(server.ports) == {"data", "admin"}
    assert 0 < server.ports["data"] != server.ports["admin"] > 0
    reader, writer = await connect(server)
    writer.write(GET)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"\r\ndate: " in head
    assert b"\r\nserver:" not in head
    writer.close()
    await server.stop()
    await tasks.close()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", 1)


async def test_a_port_in_use_is_a_fault_with_a_mend_and_closes_the_others() -> None:
    async with serving(hello) as first:
        second = Server(
            [Listener("a", "127.0.0.1", 0, hello), Listener("b", "127.0.0.1", first.ports["data"], hello)],
            SystemClock(),
            Tasks(),
        )
        with pytest.raises(ConfigFault) as caught:
            await second.start()
        assert caught.value.code == "listen"
        assert caught.value.fix
        assert second.ports == {}


async def test_a_stop_ends_open_streams_within_its_time_and_runs_their_finally() -> None:
    ended: list[str] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        events = asgi.EventStream(send)
        await events.open()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("stream")

    tasks = Tasks()
    server = Server([Listener("data", "127.0.0.1", 0, stream)], SystemClock(), tasks)
    await server.start()
    clients = [await connect(server) for _ in range(5)]
    for reader, writer in clients:
        writer.write(GET)
        await reader.readuntil(b"\r\n\r\n")
    began = time.monotonic()
    await server.stop(grace_s=0.2)
    assert time.monotonic() - began < 1.5
    assert ended == ["stream"] * 5
    for reader, writer in clients:
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 2)
        writer.close()
    await tasks.close()


async def test_a_request_under_way_is_finished_before_the_stop() -> None:
    started = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        await asyncio.sleep(0.1)
        await hello(scope, receive, send)

    async with serving(slow) as server:
        reader, writer = await connect(server)
        writer.write(GET)
        await started.wait()
        await server.stop(grace_s=1)
        assert (await read_all(reader)).endswith(b"ok")
        writer.close()


async def test_a_client_that_leaves_mid_stream_leaves_no_task_behind() -> None:
    running = 0

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running
        running += 1
        events = asgi.EventStream(send)
        tasks = Tasks()

        async def produce() -> None:
            while True:
                await events.event(cleared())
                await asyncio.sleep(0.01)

        try:
            await events.open()
            producer = tasks.spawn(produce(), "producer")
            await asgi.disconnected(receive)
            producer.cancel()
        finally:
            await tasks.close()
            running -= 1

    async with serving(stream) as server:
        clients = [await connect(server) for _ in range(20)]
        for reader, writer in clients:
            writer.write(GET)
            await reader.readuntil(b"data: {}")
        assert running == 20
        for _, writer in clients:
            writer.transport.abort()
        await eventually(lambda: running == 0 and server.connections == 0)


async def test_a_reader_that_takes_nothing_of_an_ended_answer_is_cut() -> None:
    async def gives_up(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                while True:
                    await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})

    async with serving(gives_up, protocol=ProtocolSettings(head_s=0.1)) as server:
        _, stuck = await connect(server)
        stuck.transport.pause_reading()  # type: ignore[attr-defined]
        stuck.write(GET)
        await eventually(lambda: server.connections == 1)
        await eventually(lambda: server.connections == 0)
        stuck.transport.abort()


async def test_without_watching_for_the_disconnect_the_task_would_stay() -> None:
    """Twin: a stream that only sends does not notice that nobody is there."""
    ended = asyncio.Event()

    async def careless(scope: Any, receive: Any, send: Any) -> None:
        events = asgi.EventStream(send)
        await events.open()
        try:
            while True:
                await events.event(cleared())
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with serving(careless) as server:
        reader, writer = await connect(server)
        writer.write(GET)
        await reader.readuntil(b"data: {}")
        writer.transport.abort()
        await eventually(lambda: server.connections == 0)
        await asyncio.sleep(0.1)
        assert not ended.is_set()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"\r\n\r\n", b""),
        (b"GET / HT", b"408"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ", b"408"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf", b"408"),
    ],
)
async def test_requests_that_do_not_arrive_in_time_are_cut(sent: bytes, status: bytes) -> None:
    async def reads(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    async with serving(reads, protocol=ProtocolSettings(head_s=0.1, request_s=0.2)) as server:
        reader, writer = await connect(server)
        writer.write(sent)
        assert (await read_all(reader))[9:12] == status
        writer.close()


async def test_line_ends_between_requests_do_not_keep_a_connection() -> None:
    async with serving(hello, protocol=ProtocolSettings(head_s=0.1)) as server:
        reader, writer = await connect(server)
        writer.write(GET)
        await reader.readuntil(b"ok")
        writer.write(b"\r\n")
        assert await read_all(reader) == b""
        writer.close()


async def test_connections_are_limited() -> None:
    async with serving(hello, protocol=ProtocolSettings(connections=2)) as server:
        kept = [await connect(server) for _ in range(2)]
        await eventually(lambda: server.connections == 2)
        reader, writer = await connect(server)
        writer.write(GET)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 2)
        for _, open_writer in [*kept, (reader, writer)]:
            open_writer.close()


async def test_heads_are_limited_at_the_bound_exactly() -> None:
    async with serving(hello, protocol=ProtocolSettings(header_count=3, header_bytes=200, target_bytes=10)) as server:
        for head, status in (
            (b"GET /123456789 HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 1", b"200"),
            (b"GET /1234567890 HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 1", b"431"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nA: 1\r\nB: 1\r\nC: 1", b"431"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 194, b"200"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 195, b"431"),
            (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 10_000_000, b"431"),
        ):
            reader, writer = await connect(server)
            writer.write(head + b"\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 3))[9:12] == status
            writer.close()


async def test_tls_and_client_certificates_by_configuration(tmp_path: Path) -> None:
    files = authority(tmp_path, "localhost")
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["scheme"], scope.get("extensions")))
        await hello(scope, receive, send)

    context = ssl.create_default_context(cafile=str(files.ca))
    async with serving(application, tls=TLSSettings(str(files.cert), str(files.key))) as server:
        reader, writer = await connect(server, context)
        writer.write(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()
    assert seen == [("https", None)]
    async with serving(application, tls=TLSSettings(str(files.cert), str(files.key), str(files.ca))) as server:
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):  # noqa: PT012 -- TLS 1.3 tells on the first read
            reader, writer = await connect(server, context)
            writer.write(GET)
            await reader.readexactly(1)
        context.load_cert_chain(files.client_cert, files.client_key)
        reader, writer = await connect(server, context)
        writer.write(GET)
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.close()
    assert len(seen) == 2
    assert seen[1][1]["bartizan.tls"]["client_cert_der"] == ssl.PEM_cert_to_DER_cert(files.client_cert.read_text())
    with pytest.raises(ConfigFault, match="tls_files"):
        await Server(
            [Listener("x", "127.0.0.1", 0, hello, tls=TLSSettings("/nowhere", "/nowhere"))], SystemClock(), Tasks()
        ).start()
