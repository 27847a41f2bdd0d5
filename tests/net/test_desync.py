"""The desynchronisation corpus, sent raw over a socket to real listeners (operations reference 5.4).

`desync_cases.json`: name, raw (each character one byte, latin-1), allowed (status that may come first;
a connection that just closes is always allowed in place of a 4xx), requests (how many may reach the
application; 0 when absent). The twin runs the same bytes through stock uvicorn and shows what passes there.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from firewall.net.edge import Edge, EdgeSettings
from firewall.net.protocol import ListenerState, StrictProtocol
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server

CASES = json.loads((Path(__file__).parent / "desync_cases.json").read_text(encoding="utf-8"))
SETTINGS = EdgeSettings(hosts=frozenset({"edge.test"}), origins=frozenset({"https://edge.test"}))
# What the reference measured on the stock protocol: these must pass there, or the corpus proves nothing.
DANGEROUS = [
    "Transfer-Encoding: leading comma",
    "Transfer-Encoding: on HTTP/1.0",
    "version: 2.0",
    "version: 0.9",
    "Host: none",
    "Host: two different",
    "Host: space inside",
    "target: absolute-form, other host",
    "target: fragment",
]


class Application:
    """Counts what reaches it, reads the body, answers 200."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        while (message := await receive())["type"] == "http.request" and message.get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            self.paths.pop()  # a request whose body never became whole was not taken
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


Exchange = Callable[[bytes], Awaitable[tuple[list[int], list[str]]]]


async def exchange(port: int, application: Application, raw: bytes) -> tuple[list[int], list[str]]:
    """Send bytes, then a marker request; return the statuses that came back and the paths that got through."""
    application.paths.clear()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    got = b""
    try:
        async with asyncio.timeout(0.25):
            while chunk := await reader.read(65536):
                got += chunk
                if got.endswith(b"\r\n\r\nok"):
                    break
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    await asyncio.sleep(0)
    statuses = [int(part.split(b" ")[1]) for part in got.split(b"HTTP/1.1 ")[1:] for part in [b"HTTP/1.1 " + part]]
    return statuses, list(application.paths)


@pytest.fixture
async def ours() -> AsyncIterator[Exchange]:
    application = Application()
    tasks = Tasks()
    server = Server([Listener("data", "127.0.0.1", 0, Edge(application, SETTINGS))], SystemClock(), tasks)
    await server.start()
    yield lambda raw: exchange(server.ports["data"], application, raw)
    await server.stop(grace_s=0.1)
    await tasks.close()


@pytest.fixture
async def stock() -> AsyncIterator[Exchange]:
    application = Application()
    config = uvicorn.Config(application, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpToolsProtocol(config, state, {}), "127.0.0.1", 0
    )
    yield lambda raw: exchange(server.sockets[0].getsockname()[1], application, raw)
    server.close()
    for connection in list(state.connections):
        connection.transport.abort()
    for task in list(state.tasks):
        task.cancel()


def test_the_corpus_is_as_large_as_it_was_promised() -> None:
    assert len(CASES) >= 120
    assert len({case["name"] for case in CASES}) == len(CASES)
    assert set(DANGEROUS) <= {case["name"] for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_every_case_is_refused_at_the_edge_or_is_exactly_one_request(
    ours: Exchange, case: dict[str, Any]
) -> None:
    statuses, paths = await ours(case["raw"].encode("latin-1", "xmlcharrefreplace"))
    assert len(paths) == case.get("requests", 0)
    assert "/second" not in paths
    assert len(statuses) <= 1
    if statuses:
        assert statuses[0] == int(case["allowed"])
    else:
        assert not case.get("requests")


async def test_a_plain_request_passes_and_its_connection_is_kept(ours: Exchange) -> None:
    body = b'{"jsonrpc":"2.0"}'
    for head in (
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
        b"Transfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\n\r\n",
        b"Expect: 100-continue\r\nContent-Length: 0\r\n\r\n",
    ):
        statuses, paths = await ours(
            b"POST /mcp/time?x=1 HTTP/1.1\r\nHost: EDGE.test:8443\r\nOrigin: https://edge.test\r\n" + head
        )
        assert [status for status in statuses if status != 100] == [200]
        assert paths == ["/mcp/time"]


async def test_the_stock_protocol_lets_the_dangerous_cases_through(stock: Exchange) -> None:
    """Twin: without our protocol and edge, these reach the application."""
    by_name = {case["name"]: case["raw"].encode("latin-1", "xmlcharrefreplace") for case in CASES}
    for name in DANGEROUS:
        statuses, paths = await stock(by_name[name])
        assert statuses[:1] == [200], name
        assert len(paths) == 1, name
    statuses, paths = await stock(by_name["pipeline: Content-Length 0 and a second request"])
    assert paths == ["/mcp", "/second"]


RAW = st.lists(st.sampled_from([case["raw"] for case in CASES]), min_size=1, max_size=2).map(
    lambda raws: "".join(raws).encode("latin-1", "xmlcharrefreplace")
)


@given(RAW, st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3), st.integers(1, 200))
def test_cases_mixed_damaged_and_cut_never_become_a_second_request(
    raw: bytes, at: int, noise: bytes, lost: int, step: int
) -> None:
    """Whole cases plus noise: at most one answer, at most one request, and no exception of ours."""
    raw = raw[:at] + noise + raw[at + lost :]

    async def feed() -> None:
        protocol, transport, application = driven()
        for start in range(0, len(raw), step):
            if not transport.closed:
                protocol.data_received(raw[start : start + step])
        for _ in range(6):
            await asyncio.sleep(0)
        assert transport.written.count(b"HTTP/1.1 ") - transport.written.count(b"HTTP/1.1 100") <= 1
        assert len(application.paths) <= 1
        protocol.connection_lost(None)
        await asyncio.sleep(0)

    asyncio.run(feed())


class Wire(asyncio.Transport):
    """A transport in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def driven() -> tuple[StrictProtocol, Wire, Application]:
    """Return the protocol without a socket, ready to be fed."""
    application = Application()
    protocol = StrictProtocol(Edge(application, SETTINGS), ListenerState())
    transport = Wire()
    protocol.connection_made(transport)
    return protocol, transport, application
