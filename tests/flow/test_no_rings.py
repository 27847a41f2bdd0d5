"""A call leaves no ring of objects behind: what only the collector frees costs every later request its walk."""

import gc
import json
from typing import Any

from tests.mcp_gateway.scripted import fine, scripted
from tests.support.mcp import MODERN_META, running, spec

CALLS = 50
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "echo", "arguments": {"a": 1}, "_meta": MODERN_META},
}
HEADERS = {
    "authorization": "Bearer alice",
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "echo",
}


async def call(app: Any) -> bytes:
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/mcp/demo",
        "raw_path": b"/mcp/demo",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in HEADERS.items()],
        "client": ("127.0.0.1", 1),
    }
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(CALL).encode(), "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        parts.append(event.get("body", b""))

    await app(scope, receive, send)
    return b"".join(parts)


async def rings_of(app: Any) -> int:
    """Return how many objects of some calls only the collector can free."""
    assert b'"result"' in await call(app)
    gc.collect()
    gc.disable()
    try:
        for _ in range(CALLS):
            await call(app)
        return gc.collect()
    finally:
        gc.enable()


async def test_a_call_frees_all_that_it_made() -> None:
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:
        assert await rings_of(stack.gateway) < CALLS


async def test_one_ring_per_call_would_be_seen() -> None:
    async with scripted(fine) as upstream, running(spec("demo", url=upstream.url)) as stack:

        async def careless(scope: Any, receive: Any, send: Any) -> None:
            ring: list[Any] = []
            ring.append(ring)
            await stack.gateway(scope, receive, send)

        assert await rings_of(careless) >= CALLS
