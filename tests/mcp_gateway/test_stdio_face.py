"""What a pipe has no place for, the face makes itself: headers, sessions, streams; against an endpoint that is told what to say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from firewall.net.pipes import TOO_LONG, LineReader, LineWriter
from firewall.net.runtime import Tasks
from mcp_gateway import stdio_face
from mcp_gateway.stdio_face import REQUESTS, StdioFace

Answer = Callable[[dict[str, str], Any, Any, Any], Awaitable[None]]
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def plain(send: Any, value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
    """Answer with one JSON text."""
    pairs = [(k.encode(), v.encode()) for k, v in {"content-type": "application/json", **(headers or {})}.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": json.dumps(value).encode() if value is not None else b""})


async def stream(send: Any, *events: bytes, headers: dict[str, str] | None = None) -> None:
    """Answer with events as they are."""
    pairs = [(k.encode(), v.encode()) for k, v in {"content-type": "text/event-stream", **(headers or {})}.items()]
    await send({"type": "http.response.start", "status": 200, "headers": pairs})
    for event in events:
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@dataclass
class Endpoint:
    """Keeps what it was asked, and answers as the test says."""

    answer: Answer
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = (await receive())["body"]
        value = json.loads(body) if body else None
        self.seen.append((scope["method"], headers, value))
        assert headers["authorization"] == "Bearer " + "t" * 32
        await self.answer({":method": scope["method"], **headers}, value, receive, send)


class Client:
    """A client's side of the pipe."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.told: asyncio.Queue[Any] = asyncio.Queue()
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.tasks = Tasks()
        self.broken = False
        self.face = StdioFace(
            endpoint, path="/mcp/x", host="localhost", token="t" * 32, lines=self._read(), write=self._write, tasks=self.tasks
        )  # fmt: skip

    async def _read(self) -> AsyncIterator[bytes]:
        while (line := await self._lines.get()) is not None:
            yield line

    async def _write(self, line: bytes) -> None:
        if self.broken:
            raise BrokenPipeError
        assert b"\n" not in line
        self.told.put_nowait(json.loads(line))

    def send(self, value: Any) -> None:
        self._lines.put_nowait(value if isinstance(value, bytes) else json.dumps(value).encode())

    async def next(self) -> Any:
        async with asyncio.timeout(5):
            return await self.told.get()

    async def __aenter__(self) -> Client:
        self.running = self.tasks.spawn(self.face.run(), "face")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._lines.put_nowait(None)
        async with asyncio.timeout(5):
            await self.running
        await self.tasks.close()


def call(rpc_id: Any, method: str, *, modern: bool = False, **params: Any) -> dict[str, Any]:
    if modern:
        params["_meta"] = META
    return {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": params}


def result(value: Any, **members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": value["id"], "result": members}


async def test_a_modern_message_gets_the_headers_that_http_would_carry() -> None:
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

    async def answer(headers: Any, value: Any, _receive: Any, send: Any) -> None:
        if value["method"] == "tools/list":
            await plain(send, result(value, tools=[{"name": "où", "inputSchema": schema}]))
        else:
            await plain(send, result(value, content=[]))

    async with Client(Endpoint(answer)) as client:
        client.send(call(1, "tools/call", modern=True, name="où", arguments={"region": "eu"}))
        assert (await client.next())["id"] == 1
        client.send(call(2, "tools/call", modern=True, name="où", arguments={"region": "us"}))
        assert (await client.next())["id"] == 2
    (_, listing, _), (_, first, _), (_, second, _) = client.endpoint.seen
    assert listing["mcp-method"] == "tools/list"  # asked once, and not told to the client
    assert first["mcp-protocol-version"] == "2026-07-28"
    assert first["mcp-method"] == "tools/call"
    assert first["mcp-name"] == "=?base64?b8O5?="
    assert (first["mcp-param-region"], second["mcp-param-region"]) == ("eu", "us")


async def test_a_legacy_session_is_kept_and_opened_again_where_it_ended_by_itself() -> None:
    opened: list[str] = []

    async def answer(headers: Any, value: Any, _receive: Any, send: Any) -> None:
        if headers[":method"] == "GET":
            await plain(send, None, status=405)
        elif headers[":method"] == "DELETE":
            await plain(send, None)
        elif value["method"] == "initialize":
            opened.append(f"s{len(opened)}")
            await plain(send, result(value, protocolVersion="2025-06-18"), headers={"mcp-session-id": opened[-1]})
        elif headers.get("mcp-session-id") == "s0" and value["method"] == "tools/list":
            await plain(
                send, {"jsonrpc": "2.0", "id": value["id"], "error": {"code": -32600, "message": "?"}}, status=404
            )
        else:
            await plain(send, result(value, ok=True) if "id" in value else None, status=200 if "id" in value else 202)

    async with Client(Endpoint(answer)) as client:
        client.send(call(1, "initialize"))
        client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        client.send(call("1", "ping"))
        assert [(await client.next())["id"] for _ in range(2)] == [1, "1"]
        client.send(call(2, "tools/list"))
        assert (await client.next())["result"] == {"ok": True}
        assert client.told.empty()
    posts = [(h.get("mcp-session-id", ""), v["method"]) for verb, h, v in client.endpoint.seen if verb == "POST"]
    assert posts == [
        ("", "initialize"), ("s0", "notifications/initialized"), ("s0", "ping"), ("s0", "tools/list"),
        ("", "initialize"), ("s1", "notifications/initialized"), ("s1", "tools/list"),
    ]  # fmt: skip
    assert all(h["mcp-protocol-version"] == "2025-06-18" for _, h, _ in client.endpoint.seen if "mcp-session-id" in h)
    assert [h["mcp-session-id"] for verb, h, _ in client.endpoint.seen if verb == "DELETE"] == ["s1"]


async def test_what_is_said_unasked_arrives_and_the_stream_is_taken_up_where_it_broke() -> None:
    changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    gets: list[str] = []

    async def answer(headers: Any, value: Any, receive: Any, send: Any) -> None:
        if headers[":method"] == "GET":
            gets.append(headers.get("last-event-id", ""))
            if len(gets) == 1:
                data = json.dumps(changed).encode()
                await stream(send, b"id: 1\nretry: 1\ndata:\n\n", b"id: 2\ndata: " + data[:20], data[20:] + b"\n\n")
            else:
                await receive()
        elif headers[":method"] == "DELETE":
            await plain(send, None)
        else:
            opening = b"data: " + json.dumps(result(value, protocolVersion="2025-11-25")).encode() + b"\n\n"
            await stream(send, b"id: 0\ndata:\n\n", opening, headers={"mcp-session-id": "s"})

    async with Client(Endpoint(answer)) as client:
        client.send(call(1, "initialize"))
        assert (await client.next())["id"] == 1
        assert await client.next() == changed
        async with asyncio.timeout(5):
            while len(gets) < 2:
                await asyncio.sleep(0.01)
    assert gets[:2] == ["", "2"]


async def test_a_cancelled_modern_request_leaves_its_stream_and_gets_no_answer() -> None:
    left = asyncio.Event()

    async def answer(headers: Any, value: Any, receive: Any, send: Any) -> None:
        if value.get("id") == 1:
            assert (await receive())["type"] == "http.disconnect"
            left.set()
            await plain(send, result(value, late=True))
        else:
            await plain(send, result(value))

    async with Client(Endpoint(answer)) as client:
        client.send(call(1, "tools/list", modern=True))
        client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "1"}})
        await asyncio.sleep(0.05)
        assert not left.is_set()  # "1" is not 1
        client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        async with asyncio.timeout(5):
            await left.wait()
        client.send(call(2, "ping", modern=True))
        assert (await client.next())["id"] == 2
    assert client.told.empty()


async def test_too_much_at_once_is_refused_and_an_id_in_use_as_well() -> None:
    async def answer(headers: Any, value: Any, receive: Any, send: Any) -> None:
        await receive()

    async with Client(Endpoint(answer)) as client:
        for number in range(REQUESTS + 1):
            client.send(call(number, "ping", modern=True))
        refused = await client.next()
        assert (refused["id"], refused["error"]["code"]) == (REQUESTS, -31429)
        client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        client.send(call(0, "ping", modern=True))
        assert (await client.next())["error"]["code"] == -32600
        client.send(TOO_LONG)
        assert (await client.next())["id"] is None


class Slow:
    """An endpoint whose ``initialize`` takes until it is told to go on; everything else is answered at once."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, headers: Any, value: Any, _receive: Any, send: Any) -> None:
        if value is None:  # the stream of the session, or its end
            await plain(send, None, status=405)
        elif value["method"] == "initialize":
            await self.go_on.wait()
            await plain(send, result(value, protocolVersion="2025-11-25"), headers={"mcp-session-id": "s1"})
        else:
            await plain(send, result(value) if "id" in value else None, status=200 if "id" in value else 202)


@pytest.mark.parametrize("bounded", [True, False], ids=["bounded", "control off"])
@pytest.mark.parametrize("what", ["many", "large"])
async def test_what_comes_while_initialize_is_under_way_is_held_back_in_the_pipe_and_lost_nowhere(
    monkeypatch: pytest.MonkeyPatch, bounded: bool, what: str
) -> None:
    if bounded:
        monkeypatch.setattr(stdio_face, "LINES", 8 if what == "many" else 512)
        monkeypatch.setattr(stdio_face, "EARLY_BYTES", 4_000)
    lines, pad = 60, "x" * 1_000 if what == "large" else ""
    slow = Slow()
    async with Client(Endpoint(slow)) as client:
        client.send(call(0, "initialize", protocolVersion="2025-11-25"))
        for n in range(lines):
            note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": n, "pad": pad}}
            client.send(call(n, "ping", pad=pad) if n % 2 else note)
        for _ in range(200):
            await asyncio.sleep(0)
        waiting = len(client.face._working)
        assert waiting <= 8 if bounded else waiting == lines + 1
        slow.go_on.set()
        told = [await client.next() for _ in range(1 + lines // 2)]
    assert {one["id"] for one in told} == {0, *range(1, lines, 2)}
    notes = [value for _, _, value in client.endpoint.seen if value and value["method"] == "notifications/progress"]
    assert len(notes) == lines // 2


async def test_a_failure_on_our_side_is_an_answer_and_says_nothing_of_itself() -> None:
    async def answer(headers: Any, value: Any, receive: Any, send: Any) -> None:
        raise ValueError("precious")

    async with Client(Endpoint(answer)) as client:
        client.send(call(1, "ping", modern=True))
        told = await client.next()
        assert (told["id"], told["error"]["code"]) == (1, -31503)
        assert "precious" not in json.dumps(told)


async def test_a_client_that_no_longer_reads_ends_the_face() -> None:
    async def answer(headers: Any, value: Any, receive: Any, send: Any) -> None:
        await plain(send, result(value))

    async with Client(Endpoint(answer)) as client:
        client.broken = True
        client.send(call(1, "ping", modern=True))
        async with asyncio.timeout(2):
            await client.running


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 64])
async def test_lines_do_not_depend_on_how_they_were_cut(cut: int) -> None:
    import os
    import threading

    reader, writer = os.pipe()
    text = b"one\r\n\n" + b"x" * 20 + b"\n" + b"y" * 21 + b"\nlast"

    def feed() -> None:
        for at in range(0, len(text), cut):
            os.write(writer, text[at : at + cut])
        os.close(writer)

    thread = threading.Thread(target=feed)
    thread.start()
    lines = [line async for line in LineReader(reader, max_bytes=20)]
    thread.join()
    os.close(reader)
    assert lines == [b"one", b"x" * 20, TOO_LONG, b"last"]


async def test_a_line_is_written_whole_and_a_lost_reader_is_told() -> None:
    import os

    reader, fd = os.pipe()
    writer = LineWriter(fd)
    await asyncio.gather(*(writer.write(bytes([65 + n]) * 50) for n in range(5)))
    assert sorted(os.read(reader, 1000).split(b"\n")) == [b"", *(bytes([65 + n]) * 50 for n in range(5))]
    os.close(reader)
    with pytest.raises(OSError, match="Broken pipe"):
        await writer.write(b"x")
    writer.close()
    os.close(fd)
