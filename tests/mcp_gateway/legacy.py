"""A legacy client by hand: a session, its POSTs, its GETs and single events, where a test needs them one by one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson

from firewall.wire import sse
from tests.support.mcp import NO_TLS, Stack

CAPABILITIES = {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": True}}


@dataclass
class Events:
    """The events of one response, as they come. ``ids`` holds every id that was seen, priming ones included."""

    response: httpx2.Response
    ids: list[str] = field(default_factory=list)
    comments: int = 0

    def __post_init__(self) -> None:
        self._parser = sse.Parser()
        self._bytes = self.response.aiter_bytes()
        self._ready: list[sse.Event] = []

    async def next(self, timeout_s: float = 5) -> sse.Event | None:
        """Return the next event, or None at the end of the response."""
        async with asyncio.timeout(timeout_s):
            while not self._ready:
                try:
                    chunk = await anext(self._bytes)
                except (StopAsyncIteration, httpx2.RemoteProtocolError):
                    return None
                self.comments += chunk.count(b":\n\n")
                self._ready = [e for e in self._parser.feed(chunk) if isinstance(e, sse.Event)]
        event = self._ready.pop(0)
        self.ids.append(event.id)
        return event

    async def message(self, timeout_s: float = 5) -> Any:
        """Return the next message, past priming events; None at the end of the response."""
        while (event := await self.next(timeout_s)) is not None:
            if event.data:
                return orjson.loads(event.data)
        return None

    async def rest(self) -> list[Any]:
        """Return every message that is still to come."""
        found = []
        while (message := await self.message()) is not None:
            found.append(message)
        return found


@dataclass
class LegacyClient:
    """One session of one caller. ``post`` and ``get`` are responses that stream."""

    stack: Stack
    path: str
    token: str
    version: str = "2025-11-25"
    session: str = ""

    def headers(self, **extra: str) -> dict[str, str]:
        given = {
            "authorization": f"Bearer {self.token}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": self.version,
            **({"mcp-session-id": self.session} if self.session else {}),
        }
        return {**given, **extra}

    async def initialize(self, capabilities: dict[str, Any] | None = None) -> Any:
        params = {
            "protocolVersion": self.version,
            "capabilities": CAPABILITIES if capabilities is None else capabilities,
            "clientInfo": {"name": "by hand", "version": "1"},
        }
        body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        answer = await self.stack.post(self.path, body, token=self.token)
        assert answer.status_code == 200, answer.text
        self.session = answer.headers["mcp-session-id"]
        assert (await self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})).status_code == 202
        return answer.json()["result"]

    async def send(self, body: Any, **headers: str) -> httpx2.Response:
        """POST and read the whole answer."""
        return await self.stack.post(self.path, body, token=self.token, headers=self.headers(**headers))

    async def request(self, method: str, params: Any = None, rpc_id: Any = 1) -> httpx2.Response:
        return await self.send({"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": params or {}})

    async def answer(self, question: Any, result: Any) -> httpx2.Response:
        return await self.send({"jsonrpc": "2.0", "id": question["id"], "result": result})

    @contextlib.asynccontextmanager
    async def call(self, name: str, arguments: Any = None, *, rpc_id: Any = 1, **meta: Any) -> AsyncIterator[Events]:
        """POST a tools/call and read its stream; leaving the block closes the connection."""
        params = {"name": name, "arguments": arguments or {}, "_meta": {"progressToken": "p", **meta}}
        body = {"jsonrpc": "2.0", "id": rpc_id, "method": "tools/call", "params": params}
        async with httpx2.AsyncClient(timeout=20, verify=NO_TLS) as http:
            async with http.stream("POST", self.stack.url(self.path), json=body, headers=self.headers()) as response:
                yield Events(response)

    @contextlib.asynccontextmanager
    async def get(self, last: str = "", **headers: str) -> AsyncIterator[Events]:
        extra = {"accept": "text/event-stream", **({"last-event-id": last} if last else {}), **headers}
        async with httpx2.AsyncClient(timeout=20, verify=NO_TLS) as http:
            async with http.stream("GET", self.stack.url(self.path), headers=self.headers(**extra)) as response:
                yield Events(response)

    async def refused_get(self, last: str = "", **headers: str) -> tuple[int, int]:
        """GET what is refused; return its status and JSON-RPC code."""
        async with self.get(last, **headers) as events:
            body = orjson.loads(await events.response.aread())
            return events.response.status_code, body["error"]["code"]

    async def delete(self) -> int:
        async with httpx2.AsyncClient(timeout=20, verify=NO_TLS) as http:
            return (await http.delete(self.stack.url(self.path), headers=self.headers())).status_code


async def opened(
    stack: Stack, *, path: str = "/mcp/demo", token: str = "alice", version: str = "2025-11-25", **options: Any
) -> LegacyClient:
    """Return a client with an open session."""
    client = LegacyClient(stack, path, token, version)
    await client.initialize(options.get("capabilities"))
    return client
