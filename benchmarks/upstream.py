"""The upstream of the benchmark: a modern MCP server as one httptools protocol, as cheap as Python allows.

Answers ``server/discover``, ``tools/list`` (``--tools N`` of them) and ``tools/call`` (echoes the
``text`` argument), and streams chat completions. ``python -m benchmarks.upstream --port P --tools N``.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import ClassVar

import httptools
import orjson
import uvloop

VERSION = "2026-07-28"
WORDS = [f" {word}" for word in "The quick brown fox jumps over the lazy dog and then counts all of its steps".split()]


def catalogue(count: int) -> list[dict[str, object]]:
    """Return ``count`` tools named tool_0 … with one string argument each."""
    return [
        {
            "name": f"tool_{n}",
            "description": f"Returns the text it was given (number {n}).",
            "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        }
        for n in range(count)
    ]


class Echo(asyncio.Protocol):
    """One connection.

    The tool ``stream`` says ``count`` log lines before it answers: at once, or ``gap_ms`` apart. A chat
    completion has ``max_tokens`` pieces, ``gap_ms`` (of its first message) apart.
    """

    tools: ClassVar[list[dict[str, object]]] = []
    legacy: ClassVar[bool] = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if not self.body:  # neither a standalone stream nor the end of a session is of interest here
            self._say(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n")
            return
        message = orjson.loads(self.body)
        if "messages" in message:
            self._chat(message["max_tokens"], int(message["messages"][0]["content"]))
            return
        method, params = message["method"], message.get("params", {})
        if "id" not in message:
            self._say(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
            return
        if method == "tools/call" and params["name"] == "stream":
            self._stream(message["id"], params["arguments"]["count"], params["arguments"].get("gap_ms", 0))
            return
        if self.legacy and method in ("server/discover", "initialize"):
            self._opening(message["id"], method)
            return
        if method == "tools/call":
            result = {
                "resultType": "complete",
                "content": [{"type": "text", "text": params["arguments"]["text"]}],
                "isError": False,
            }
        elif method == "tools/list":
            result = {"resultType": "complete", "tools": self.tools, "ttlMs": 60000, "cacheScope": "private"}
        elif method == "server/discover":
            result = {
                "resultType": "complete",
                "supportedVersions": [VERSION],
                "capabilities": {"tools": {}},
                "ttlMs": 60000,
                "cacheScope": "private",
                "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "echo", "version": "1"}},
            }
        else:
            result = {"resultType": "complete"}
        body = orjson.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": result})
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._say(head + body)

    def _say(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]

    def _opening(self, rpc_id: object, method: str) -> None:
        """Begin a session of 2025-11-25; refuse the question for the modern era."""
        answer: dict[str, object] = {"jsonrpc": "2.0", "id": rpc_id}
        status, extra = b"200 OK", b"mcp-session-id: s1\r\n"
        if method == "initialize":
            info = {"name": "echo", "version": "1"}
            answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
        else:
            status, extra = b"400 Bad Request", b""
            answer["error"] = {"code": -32000, "message": "Server not initialized"}
        body = orjson.dumps(answer)
        head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
        self._say(head % (status, extra, len(body)) + body)

    def _stream(self, rpc_id: object, count: int, gap_ms: int) -> None:
        """Say log lines, then the result, each as an event and a chunk of its own."""
        note = {"level": "info", "data": "Everything is well at this step of a long and quiet piece of work. " * 2}
        line = orjson.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": note})
        result = {"resultType": "complete", "content": [{"type": "text", "text": "done"}], "isError": False}
        last = orjson.dumps({"jsonrpc": "2.0", "id": rpc_id, "result": result})
        self._events([b"event: message\ndata: " + data + b"\n\n" for data in (*[line] * count, last)], gap_ms)

    def _chat(self, count: int, gap_ms: int) -> None:
        """Say words, then why it stops, each as a chunk of a chat completion."""
        head: dict[str, object] = {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_767_225_600,
            "model": "m",
        }
        parts = []
        for n in range(count):
            choice: dict[str, object] = {"index": 0, "delta": {"content": WORDS[n % len(WORDS)]}, "finish_reason": None}
            if n == count - 1:
                choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
            parts.append(b"data: " + orjson.dumps({**head, "choices": [choice]}) + b"\n\n")
        self._events([*parts, b"data: [DONE]\n\n"], gap_ms)

    def _events(self, events: list[bytes], gap_ms: int) -> None:
        """Answer with events, each in a chunk of its own: all at once, or so far apart."""
        parts = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
        self._say(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        parts[-1] += b"0\r\n\r\n"
        if not gap_ms:
            self._say(b"".join(parts))
            return
        left = iter(parts)
        loop = asyncio.get_running_loop()

        def next_one() -> None:
            part = next(left, None)
            if part is not None and not self.transport.is_closing():
                self._say(part)
                loop.call_later(gap_ms / 1000, next_one)

        next_one()


async def serve(port: int, tools: int, *, legacy: bool = False) -> None:
    """Serve on loopback until ended."""
    stream: dict[str, object] = {
        "name": "stream",
        "description": "Says how it goes.",
        "inputSchema": {"type": "object"},
    }
    Echo.tools = [*catalogue(tools - 1), stream]
    Echo.legacy = legacy
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--tools", type=int, default=20)
    options.add_argument("--era", choices=("modern", "legacy"), default="modern")
    given = options.parse_args()
    uvloop.run(serve(given.port, given.tools, legacy=given.era == "legacy"))
