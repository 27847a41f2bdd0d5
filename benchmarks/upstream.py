"""The upstream of the benchmark: a modern MCP server as one httptools protocol, as cheap as Python allows.

Answers ``server/discover``, ``tools/list`` (``--tools N`` of them) and ``tools/call`` (echoes the
``text`` argument). ``python -m benchmarks.upstream --port P --tools N``.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import ClassVar

import httptools
import orjson
import uvloop

VERSION = "2026-07-28"


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
    """One connection."""

    tools: ClassVar[list[dict[str, object]]] = []

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
        message = orjson.loads(self.body)
        method, params = message["method"], message.get("params", {})
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
        self.transport.write(head + body)  # type: ignore[attr-defined]


async def serve(port: int, tools: int) -> None:
    """Serve on loopback until ended."""
    Echo.tools = catalogue(tools)
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--tools", type=int, default=20)
    given = options.parse_args()
    uvloop.run(serve(given.port, given.tools))
