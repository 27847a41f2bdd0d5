"""An upstream that does what its script says, byte by byte: one async function per request. Loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

TOOLS = [
    {
        "name": "echo",
        "description": "Echoes.",
        "inputSchema": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
    {"name": "other", "description": "Does something else.", "inputSchema": {"type": "object"}},
]
Send = Callable[[bytes], Awaitable[None]]
Script = Callable[[dict[str, Any], Send], Awaitable[None]]


def head(kind: str, *, status: str = "200 OK", extra: str = "", length: int | None = None) -> bytes:
    framing = f"content-length: {length}\r\n" if length is not None else "connection: close\r\n"
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{framing}{extra}\r\n".encode()


def as_json(value: Any, *, status: str = "200 OK", extra: str = "") -> bytes:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return head("application/json", status=status, extra=extra, length=len(body)) + body


def event(value: Any) -> bytes:
    return b"event: message\ndata: " + json.dumps(value).encode() + b"\n\n"


def result(asked: dict[str, Any], **members: Any) -> dict[str, Any]:
    given = {"resultType": "complete", "content": [{"type": "text", "text": "fine"}], **members}
    return {"jsonrpc": "2.0", "id": asked["id"], "result": given}


@dataclass
class Scripted:
    """The server. ``call`` answers tools/call; ``seen`` keeps every request with its headers.

    answers: method → its result, or a function of its params; what it answers here it declares as well.
    """

    call: Script
    tools: list[dict[str, Any]] = field(default_factory=lambda: list(TOOLS))
    instructions: str = ""
    info: dict[str, str] = field(default_factory=dict)
    legacy: bool = False
    port: int = 0
    session: str = "s1"
    resumed: Callable[[Send], Awaitable[None]] | None = None
    later: Any = None
    seen: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    get: Callable[[dict[str, str], Send], Awaitable[None]] | None = None  # answers GET; 405 without one

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def capabilities(self) -> dict[str, Any]:
        said: dict[str, Any] = {"tools": {}, **self.answers.get("capabilities", {})}
        named = {method.partition("/")[0] for method in self.answers}
        return (
            said
            | {c: {} for c in ("prompts", "resources") if c in named}
            | ({"completions": {}} if "completion" in named else {})
        )

    def asked(self, method: str) -> list[dict[str, Any]]:
        return [body["params"] for _, body in self.seen if body.get("method") == method]

    def methods(self) -> list[str]:
        return [body.get("method", "(response)") for _, body in self.seen]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        ahead: asyncio.Future[bytes] | None = None
        try:
            while True:
                first = await ahead if ahead else b""
                text = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = dict(line.split(": ", 1) for line in text.split("\r\n")[1:] if ": " in line)
                headers = {":method": text.split(" ", 1)[0]} | {k.lower(): v for k, v in fields.items()}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                asked = json.loads(body) if body else {}  # a DELETE or GET has none
                self.seen.append((headers, asked))
                answer = asyncio.ensure_future(self.answer(headers, asked, send))
                ahead = asyncio.ensure_future(reader.read(1))  # sees the client leave while a script runs
                await asyncio.wait((answer, ahead), return_when=asyncio.FIRST_COMPLETED)
                if not answer.done():
                    answer.cancel()
                    await asyncio.wait((answer,))
                    raise ConnectionError
                answer.result()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            if ahead is not None:
                ahead.cancel()
            writer.close()

    async def answer(self, headers: dict[str, str], asked: dict[str, Any], send: Send) -> None:
        method = asked.get("method", "")
        if headers.get("last-event-id") and self.resumed is not None:
            await self.resumed(send)
            return
        if headers[":method"] == "GET":
            if self.get is not None:
                await self.get(headers, send)
                raise ConnectionError
            await send(head("text/plain", status="405 Method Not Allowed", length=0))
            return
        if (
            self.legacy
            and method not in ("initialize", "server/discover")
            and headers.get("mcp-session-id") != self.session
        ):
            await send(
                as_json(
                    {"jsonrpc": "2.0", "id": asked.get("id"), "error": {"code": -32600, "message": "?"}},
                    status="404 Not Found",
                )
            )
        elif method == "server/discover" and self.legacy:
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "Server not initialized"}}
            await send(as_json(error, status="400 Bad Request"))
        elif method == "server/discover":
            said = {
                "supportedVersions": ["2026-07-28"],
                "capabilities": self.capabilities(),
                "instructions": self.instructions,
                **({"_meta": {"io.modelcontextprotocol/serverInfo": self.info}} if self.info else {}),
            }
            await send(as_json({"jsonrpc": "2.0", "id": asked["id"], "result": {**said, "resultType": "complete"}}))
        elif method == "initialize" and not self.legacy:
            error = {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "unknown"}}
            await send(as_json(error, status="404 Not Found"))
        elif method == "initialize":
            said = {
                "protocolVersion": "2025-11-25",
                "capabilities": self.capabilities(),
                "serverInfo": {"name": "s", "version": "1"},
            }
            await send(
                as_json(
                    {"jsonrpc": "2.0", "id": asked["id"], "result": said}, extra=f"mcp-session-id: {self.session}\r\n"
                )
            )
        elif method in self.answers:
            given = self.answers[method]
            given = given(asked.get("params", {})) if callable(given) else given
            member = given if "error" in given else {"result": {"resultType": "complete", **given}}
            await send(as_json({"jsonrpc": "2.0", "id": asked["id"], **member}))
        elif method == "tools/list":
            await send(
                as_json(
                    {"jsonrpc": "2.0", "id": asked["id"], "result": {"resultType": "complete", "tools": self.tools}}
                )
            )
        elif method == "tools/call":
            await self.call(asked, send)
        else:
            await send(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")


@contextlib.asynccontextmanager
async def scripted(call: Script, **changes: Any) -> AsyncIterator[Scripted]:
    """Run a scripted upstream on a free port."""
    upstream = Scripted(call, **changes)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, limit=1 << 20)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()


async def fine(asked: dict[str, Any], send: Send) -> None:
    """Answer well."""
    await send(as_json(result(asked)))
