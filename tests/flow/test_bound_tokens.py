"""Bound tokens at every kind of resource of one firewall: an MCP server, the aggregate, an agent, the models, and their streams."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.invariants.conftest import house_config
from tests.support.composed import Answer, Composed, composed, modern, raw_exchange, request_bytes
from tests.support.dpop import Holder
from tests.support.world import world

pytestmark = pytest.mark.flow

HOLDER, THIEF = Holder(), Holder()


class Bound:
    """Requests of a holder's token, each with a proof of its own."""

    def __init__(self, wall: Composed, resource: str, *scopes: str) -> None:
        self.wall = wall
        self.token = wall.mint(resource, *scopes, cnf={"jkt": HOLDER.thumbprint})

    async def ask(
        self,
        verb: str,
        path: str,
        body: Any = None,
        *,
        scheme: str = "DPoP",
        holder: Holder | None = HOLDER,
        proved: tuple[str, str] = ("", ""),
        **headers: str,
    ) -> Answer:
        """proved: another method and path in the proof than those of the request."""
        pairs = {"content-type": "application/json", "accept": "application/json, text/event-stream", **headers}
        pairs["authorization"] = f"{scheme} {self.token}"
        if holder is not None:
            url = f"{self.wall.url}{proved[1] or path}"
            pairs["dpop"] = holder.proof(proved[0] or verb, url, now_s=int(time.time()), token=self.token)
        data = json.dumps(body).encode() if body is not None else b""
        sent = request_bytes(path, f"127.0.0.1:{self.wall.port}", list(pairs.items()), data, verb=verb)
        return await raw_exchange(self.wall.port, sent)


CALL, CALL_HEADERS = modern("tools/call", {"name": "echo", "arguments": {"text": "x"}})
ALL_CALL, ALL_HEADERS = modern("tools/list")
MESSAGE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "SendMessage",
    "params": {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "Hello"}]}},
}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
INFO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
FIRST = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INFO}


@pytest.mark.parametrize(
    ("resource", "scopes", "verb", "path", "body", "headers"),
    [
        ("/mcp/demo", ("demo:read", "demo:write"), "POST", "/mcp/demo", CALL, CALL_HEADERS),
        ("/mcp/demo", ("demo:read", "demo:write"), "POST", "/mcp/demo/", CALL, CALL_HEADERS),
        ("/mcp", ("demo:read", "demo:write"), "POST", "/mcp", ALL_CALL, ALL_HEADERS),
        ("/a2a/agent", ("agent:send",), "POST", "/a2a/agent", MESSAGE, {"a2a-version": "1.0"}),
        ("/v1", ("llm:invoke",), "POST", "/v1/chat/completions", CHAT, {}),
        ("/v1", ("llm:invoke",), "POST", "/v1/chat/completions", {**CHAT, "stream": True}, {}),
        ("/v1", ("llm:invoke",), "GET", "/v1/models", None, {}),
    ],
    ids=["mcp", "mcp-slash", "aggregate", "agent", "chat", "chat-stream", "models"],
)
async def test_rs_13_every_kind_of_resource_wants_the_proof_of_this_request(
    tmp_path: Path,
    resource: str,
    scopes: tuple[str, ...],
    verb: str,
    path: str,
    body: Any,
    headers: dict[str, str],
) -> None:
    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state")) as wall:
        bound = Bound(wall, resource, *scopes)
        good = await bound.ask(verb, path, body, **headers)
        assert good.status == 200, good.text
        for wrong in (
            {"holder": None},
            {"holder": None, "scheme": "Bearer"},
            {"scheme": "Bearer"},
            {"holder": THIEF},
            {"proved": ("PUT", "")},
            {"proved": ("", "/elsewhere")},
        ):
            answer = await bound.ask(verb, path, body, **wrong, **headers)  # type: ignore[arg-type]
            assert answer.status == 401, (wrong, answer.text)
            challenges = [value for name, value in answer.headers if name == "www-authenticate"]
            assert [value.split(" ")[0] for value in challenges] == ["Bearer", "DPoP"]


async def test_rs_13_a_session_its_streams_and_its_end_each_want_a_proof(tmp_path: Path) -> None:
    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state")) as wall:
        bound = Bound(wall, "/mcp/demo", "demo:read", "demo:write")
        opened = await bound.ask("POST", "/mcp/demo", FIRST)
        assert opened.status == 200, opened.text
        named = {"mcp-session-id": opened.header("mcp-session-id"), "mcp-protocol-version": "2025-11-25"}
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await bound.ask("POST", "/mcp/demo", note, **named)).status == 202
        stream = {**named, "accept": "text/event-stream"}
        for verb, more in (("GET", stream), ("GET", {**stream, "last-event-id": "1-1"}), ("DELETE", named)):
            assert (await bound.ask(verb, "/mcp/demo", holder=None, **more)).status == 401
            assert (await bound.ask(verb, "/mcp/demo", holder=None, scheme="Bearer", **more)).status == 401
            assert (await bound.ask(verb, "/mcp/demo", proved=("POST", ""), **more)).status == 401
        assert (await bound.ask("DELETE", "/mcp/demo", **named)).status == 200
