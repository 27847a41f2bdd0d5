"""Invariant 12: the first user's code is one-time, private and consumed by POST; protocol replies are JSON or SSE, nosniff."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from urllib.parse import urlencode

import pytest

from firewall.identity.people.first_contact import announce
from tests.invariants.conftest import House
from tests.support.composed import Answer, Composed, modern, raw_exchange, request_bytes

pytestmark = pytest.mark.flow
PASSWORD = "correct horse battery staple"


def admin_port(wall: Composed) -> int:
    assert wall.worker.server is not None
    return wall.worker.server.ports["admin"]


async def admin(wall: Composed, verb: str, path: str, form: dict[str, str] | None = None, **headers: str) -> Answer:
    port = admin_port(wall)
    origin = f"http://127.0.0.1:{port}"
    pairs = {"origin": origin, "sec-fetch-site": "same-origin", **headers} if verb == "POST" else dict(headers)
    if form is not None:
        pairs["content-type"] = "application/x-www-form-urlencoded"
    body = urlencode(form or {}).encode() if form is not None else b""
    return await raw_exchange(port, request_bytes(path, origin[7:], list(pairs.items()), body, verb=verb))


async def test_the_code_is_used_once_by_post_and_is_kept_nowhere(house: House, tmp_path: Path) -> None:
    async with house() as (wall, _):
        code = wall.worker.identity.first_contact.open()
        assert code is not None
        file = wall.worker.identity.first_contact.file
        assert file is not None
        where = announce(code, "http://x/first", terminal=io.StringIO(), path=file)
        assert stat.S_IMODE(Path(where).stat().st_mode) == 0o600
        form = {"code": code.text, "username": "ann", "password": PASSWORD, "repeat": PASSWORD, "confirm": PASSWORD}
        # Looking does not use it up: a link preview or a crawler changes nothing.
        for _ in range(3):
            assert (await admin(wall, "GET", f"/first?code={code.text}")).status in (200, 400)
        assert (await admin(wall, "POST", "/first", form, origin="https://evil.example")).status in (400, 403)
        assert await wall.worker.identity.users.verify("ann", PASSWORD) is None
        done = await admin(wall, "POST", "/first", form)
        assert done.status in (200, 303), done.text
        assert await wall.worker.identity.users.verify("ann", PASSWORD) is not None
        again = await admin(wall, "POST", "/first", {**form, "username": "eve"})
        assert again.status >= 400
        assert await wall.worker.identity.users.verify("eve", PASSWORD) is None
        assert not file.exists(), "a used code lies about nowhere"
        kept = b"".join(p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file())
        assert code.text.encode() not in kept


async def test_the_console_has_a_door_of_its_own(house: House) -> None:
    async with house() as (wall, _):
        for path in ("/first", "/metrics", "/healthz", "/api/v1/kill", "/login"):
            data = await raw_exchange(wall.port, request_bytes(path, wall.url[7:], [], b"", verb="GET"))
            assert path == "/login" or data.status == 404, path
        # Twin: on its own listener the page is there.
        assert (await admin(wall, "GET", "/first")).status == 200
        assert (await admin(wall, "GET", "/mcp/demo")).status == 404


async def answers(wall: Composed) -> list[tuple[str, Answer]]:
    """Return one answer of every kind that a protocol's client can get."""
    token = wall.mint("/mcp/demo", "demo:read")
    body, headers = modern("tools/call", {"name": "echo", "arguments": {"text": "x"}})
    stream = {**headers, "accept": "text/event-stream, application/json"}
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    message_body = {**chat, "model": "m-messages", "max_tokens": 9}
    message = {"message": {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": "x"}]}}
    sent = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": message}
    agent = {"a2a-version": "1.0", "accept": "text/event-stream"}
    found = [
        ("result", await wall.post("/mcp/demo", body, token=token, headers=headers)),
        ("event stream", await wall.post("/mcp/demo", body, token=token, headers=stream)),
        ("no token", await wall.post("/mcp/demo", body)),
        ("not JSON", await wall.post("/mcp/demo", b"<script>alert(1)</script>", token=token)),
        ("no scope", await wall.call("demo", "put", {"text": "x"}, token=token)),
        ("unknown path", await wall.post("/<script>", {})),
        ("foreign host", await wall.post("/mcp/demo", {}, headers={"host": "evil.example"})),
        ("foreign origin", await wall.post("/mcp/demo", {}, headers={"origin": "https://evil.example"})),
        ("agent", await wall.post("/a2a/agent", sent, token=wall.mint("/a2a/agent", "agent:send"), headers=agent)),
        ("chat", await wall.post("/v1/chat/completions", chat, token=wall.mint("/v1", "llm:invoke"))),
        (
            "chat stream",
            await wall.post("/v1/chat/completions", {**chat, "stream": True}, token=wall.mint("/v1", "llm:invoke")),
        ),
        ("message", await wall.post("/v1/messages", message_body, token=wall.mint("/v1", "llm:invoke"))),
        (
            "message stream",
            await wall.post("/v1/messages", {**message_body, "stream": True}, token=wall.mint("/v1", "llm:invoke")),
        ),
        ("token endpoint", await wall.post("/token", b"x=1")),
    ]
    for path in (
        "/.well-known/oauth-authorization-server",
        "/.well-known/oauth-protected-resource/mcp/demo",
        "/jwks.json",
        "/a2a/agent/.well-known/agent-card.json",
        "/a2a/.well-known/jwks.json",
    ):
        found.append((path, await raw_exchange(wall.port, request_bytes(path, wall.url[7:], [], b"", verb="GET"))))
    return found


async def test_every_protocol_reply_is_json_or_sse_and_not_to_be_sniffed(house: House) -> None:
    async with house() as (wall, _):
        for what, answer in await answers(wall):
            kind = answer.header("content-type").partition(";")[0]
            assert kind in ("application/json", "text/event-stream", "application/a2a+json", ""), what
            assert answer.header("x-content-type-options") == "nosniff", what
            assert b"<script>" not in answer.body, what
            if kind == "application/json":
                json.loads(answer.body)
