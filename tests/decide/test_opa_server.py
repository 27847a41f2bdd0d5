"""The client of an OPA server: a decision or a fault, within the deadline, whatever the server does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from firewall.core.errors import ConfigFault, PolicyFault
from firewall.core.points import Point
from firewall.decide.bundle import Bundle
from firewall.decide.contract import DECISION_BYTES, parse_decision
from firewall.decide.opa_server import IDLE_CONNECTIONS, OpaServerEngine
from tests.decide.samples import call, encoded, found, tool
from tests.support.opa import OpaProcess

pytestmark = pytest.mark.anyio
CALL = Point.MCP_TOOL_CALL
GOOD = orjson.dumps({"result": {"effect": "deny"}, "provenance": {"bundles": {"b": {"revision": "r1"}}}})

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, *, status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


@asynccontextmanager
async def server(handler: Handler, **options: object) -> AsyncIterator[OpaServerEngine]:
    """Yield an engine whose server is played by a function."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    engine = OpaServerEngine(f"http://127.0.0.1:{port}", "r1", **options)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        await engine.close()
        listening.close()


async def take(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(next(line for line in head.split("\r\n") if line.lower().startswith("content-length")).split(":")[1])
    return head, await reader.readexactly(length)


def says(*parts: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await take(reader)
            for part in parts:
                writer.write(part)
                await writer.drain()

    return handler


async def fault(engine: OpaServerEngine) -> str:
    with pytest.raises(PolicyFault) as caught:
        await engine.decide_remote(CALL, encoded(call()))
    return caught.value.code


async def test_the_request_asks_for_strict_errors_and_provenance() -> None:
    seen: list[tuple[str, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await take(reader))
            writer.write(answer(GOOD))

    async with server(handler, token="t0k") as engine:
        assert orjson.loads(await engine.decide_remote(CALL, b'{"a":1}')) == {"effect": "deny"}
    head, body = seen[0]
    assert head.startswith("POST /v1/data/firewall/decision?strict-builtin-errors=true&provenance=true HTTP/1.1\r\n")
    assert "Authorization: Bearer t0k\r\n" in head
    assert body == b'{"input":{"a":1}}'


async def test_connections_are_kept_and_bounded() -> None:
    opened = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while True:
            await take(reader)
            await asyncio.sleep(0.01)
            writer.write(answer(GOOD))

    async with server(handler, deadline_s=5.0) as engine:
        for _ in range(5):
            await engine.decide_remote(CALL, b"{}")
        assert opened == 1
        await asyncio.gather(*(engine.decide_remote(CALL, b"{}") for _ in range(IDLE_CONNECTIONS + 5)))
        assert len(engine._idle) <= IDLE_CONNECTIONS


async def test_a_chunked_answer_is_read() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = (
        f"{len(GOOD[:10]):x}\r\n".encode()
        + GOOD[:10]
        + f"\r\n{len(GOOD[10:]):x}\r\n".encode()
        + GOOD[10:]
        + b"\r\n0\r\n\r\n"
    )
    async with server(says(head, chunks)) as engine:
        assert orjson.loads(await engine.decide_remote(CALL, b"{}")) == {"effect": "deny"}


async def test_a_connection_that_the_server_closed_is_opened_again() -> None:
    opened = 0

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        await take(reader)
        writer.write(answer(GOOD))
        await writer.drain()

    async with server(handler) as engine:
        for _ in range(3):
            await engine.decide_remote(CALL, b"{}")
            await asyncio.sleep(0.01)
    assert opened == 3


BROKEN = {
    "undefined": answer(b"{}"),
    "result is no object": answer(b'{"result":true}'),
    "not json": answer(b"<html>"),
    "bad request": answer(b'{"code":"invalid_parameter"}', status="400 Bad Request"),
    "evaluation error": answer(b'{"code":"internal_error"}', status="500 Internal Server Error"),
    "redirect": answer(GOOD, status="302 Found", extra="Location: http://127.0.0.1/\r\n"),
    "nothing": b"",
    "no length": b"HTTP/1.1 200 OK\r\n\r\n" + GOOD,
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "no number": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "too large": f"HTTP/1.1 200 OK\r\nContent-Length: {DECISION_BYTES + 1}\r\n\r\n".encode(),
    "too large in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
    "another protocol": b"SSH-2.0-OpenSSH\r\n\r\n\r\n",
}


@pytest.mark.parametrize("reply", list(BROKEN.values()), ids=list(BROKEN))
async def test_anything_but_a_decision_is_a_fault(reply: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(reply)
        await writer.drain()

    async with server(handler) as engine:
        assert await fault(engine) == "engine_error"
        assert engine._idle == [] or reply.startswith(b"HTTP/1.1 ")


async def test_another_revision_is_a_fault() -> None:
    other = orjson.dumps({"result": {"effect": "allow"}, "provenance": {"bundles": {"b": {"revision": "r0"}}}})
    async with server(says(answer(other))) as engine:
        assert await fault(engine) == "policy_unavailable"
    async with server(says(answer(orjson.dumps({"result": {"effect": "allow"}})))) as engine:
        assert await fault(engine) == "policy_unavailable"


async def test_a_server_that_hangs_is_left_at_the_deadline() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{")
        await reader.read()

    async with server(handler, deadline_s=0.05) as engine:
        started = time.monotonic()
        assert await fault(engine) == "engine_error"
        assert time.monotonic() - started < 1.0
        assert engine._idle == []


async def test_no_server_is_a_fault(tmp_path: Path) -> None:
    engine = OpaServerEngine(f"unix:{tmp_path}/absent", "r1")
    assert await fault(engine) == "engine_error"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://opa.example:8181",
        "http://10.0.0.1:8181",
        "https://127.0.0.1:8181",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://localhost:8181",
        "unix:relative",
    ],
)
def test_a_server_elsewhere_is_refused(address: str) -> None:
    with pytest.raises(ConfigFault, match="policy_opa"):
        OpaServerEngine(address, "r1")


def test_a_token_cannot_carry_a_header() -> None:
    with pytest.raises(ConfigFault, match="policy_opa"):
        OpaServerEngine("http://127.0.0.1:8181", "r1", token="a\r\nX: y")


class TestRealServer:
    async def test_it_decides_as_the_embedded_engine_does(self, opa: OpaProcess, shipped: Bundle) -> None:
        engine = OpaServerEngine(opa.address, shipped.revision, deadline_s=5.0)
        try:
            allow = await engine.decide_remote(CALL, encoded(call()))
            assert parse_decision(allow, revision="", engine="").permits
            deny = await engine.decide_remote(CALL, encoded(call(resource=tool(pin="changed")), [found("secret")]))
            rules = {r.rule for r in parse_decision(deny, revision="", engine="").reasons}
            assert rules == {"tools.pin_changed", "content.secret_in_request"}
        finally:
            await engine.close()

    async def test_it_is_not_believed_under_another_revision(self, opa: OpaProcess) -> None:
        engine = OpaServerEngine(opa.address, "sha256:other", deadline_s=5.0)
        try:
            assert await fault(engine) == "policy_unavailable"
        finally:
            await engine.close()
