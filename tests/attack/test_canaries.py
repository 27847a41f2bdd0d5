"""Forty canaries and the caller's own tokens go in everywhere; they come out nowhere."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.attack.runner import MODEL
from tests.support.composed import Composed, composed, modern, settings
from tests.support.world import ECHO, LLMScript, World, tool, world

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120)]
FREE = {"name": "free", "description": "Takes anything.", "inputSchema": {"type": "object"}}


def canary(number: int) -> str:
    """Return a secret of a known shape that stands nowhere else."""
    letters = "QZ7XW2KV9JTM4RNB5HFD8GCL3PSY6A"
    body = "".join(letters[(number * 7 + at * 11 + number * at) % len(letters)] for at in range(16))
    return "AKIA" + body.replace("8", "W").replace("9", "V")


CANARIES = [canary(n) for n in range(40)]


async def send_all(wall: Composed, upstreams: World) -> tuple[list[str], str]:
    """Put every canary somewhere else; return the tokens used and all that was answered."""
    left = iter(CANARIES)
    tokens = [
        wall.mint("/mcp/leaky", "leaky:read", "leaky:write", sub="u_canary"),
        wall.mint("/a2a/agent", "agent:send", sub="u_canary"),
        wall.mint("/v1", "llm:invoke", sub="u_canary"),
        await wall.sign_in("/mcp/leaky", "leaky:read"),
    ]
    mcp, a2a, llm, signed = tokens
    told = ""

    async def post(path: str, body: object, token: str, **headers: str) -> None:
        nonlocal told
        told += (await wall.post(path, body, token=token, headers=headers)).text

    for _ in range(4):  # requests: arguments, keys, _meta, names, headers, rubbish
        body, headers = modern("tools/call", {"name": "free", "arguments": {"a": {next(left): [next(left)]}}})
        await post("/mcp/leaky", body, mcp, **headers)
        body, headers = modern("tools/call", {"name": "free", "arguments": {}, "_meta": {"com.example/x": next(left)}})
        await post("/mcp/leaky", body, mcp, **headers, **{"x-note": next(left)})
        body, headers = modern("tools/call", {"name": next(left), "arguments": {}})
        await post("/mcp/leaky", body, signed, **headers)
        await post("/mcp/leaky", f'{{"broken": "{next(left)}'.encode(), mcp)
        message = {"messageId": next(left), "role": "ROLE_USER", "parts": [{"text": next(left)}]}
        sent = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
        await post("/a2a/agent", sent, a2a, **{"a2a-version": "1.0"})
    # answers: a result, an error, a definition, an artifact, a completion, a provider's error
    upstreams.mcp["leaky"].answer = {"content": [{"type": "text", "text": f"take {next(left)} now"}]}
    await post(*call(), mcp)
    upstreams.mcp["leaky"].error = {"code": -1, "message": "no", "data": [next(left)]}
    await post(*call(), mcp)
    upstreams.mcp["leaky"].tools = [ECHO, FREE, tool("late", description=f"Uses {next(left)} inside.")]
    wall.worker.mcp.inventory.forget("leaky")
    body, headers = modern("tools/list")
    await post("/mcp/leaky", body, mcp, **headers)
    upstreams.a2a["agent"].text = f"see {next(left)}"
    message = {"messageId": "fine", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    sent = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    await post("/a2a/agent", sent, a2a, **{"a2a-version": "1.0"})
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
    upstreams.llm[MODEL] = LLMScript(message={"content": f"it is {next(left)}"})
    await post("/v1/chat/completions", chat, llm)
    upstreams.llm[MODEL] = LLMScript(pieces=["it is AKIA", next(left)[4:], " so"])
    await post("/v1/chat/completions", {**chat, "stream": True}, llm)
    upstreams.llm[MODEL] = LLMScript(status=401, raw=f'{{"error":{{"message":"{next(left)}"}}}}'.encode())
    await post("/v1/chat/completions", chat, llm)
    await post(f"/mcp/{next(left)}", {}, mcp)
    assert not list(left), "a canary was not sent"
    return tokens, told


def call():  # type: ignore[no-untyped-def]
    body, _ = modern("tools/call", {"name": "echo", "arguments": {"text": "hello"}})
    return "/mcp/leaky", body


def kept(state: Path) -> bytes:
    """Return every byte that the node keeps, but for keys."""
    files = [p for p in state.rglob("*") if p.is_file() and p.parent.name not in ("keys", "cache")]
    return b"".join(p.read_bytes() for p in files)


async def test_no_canary_and_no_token_is_forwarded_logged_kept_or_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with world() as upstreams:
        upstreams.llm[MODEL] = LLMScript()
        agent = upstreams.add_a2a("agent")
        card = f"{upstreams.origin}/a2a/agent/.well-known/agent-card.json"
        provider = {"base_url": f"{upstreams.origin}/llm/{MODEL}", "network": "loopback"}
        leaky = {"url": upstreams.add_mcp("leaky", tools=[ECHO, FREE]), "network": "loopback"}
        config = settings(
            tmp_path / "state",
            mcp={"leaky": {**leaky, "tools": {"echo": "read", "free": "read", "late": "read"}}},
            a2a={"agent": {"card_url": card, "keys": agent.agent.jwks(), "network": "loopback"}},
            llm={
                "providers": {"up": provider},
                "models": {MODEL: {"provider": "up", "model": MODEL, "input_usd": 1.0, "output_usd": 1.0}},
            },
        )
        async with composed(config) as wall:
            tokens, told = await send_all(wall, upstreams)
            metrics = wall.worker.parts["telemetry"].prometheus()
        sent = b"".join(s.raw + repr(s.headers).encode() for s in upstreams.seen)
    everywhere = {
        "answers": told.encode(),
        "upstream": sent,
        "state": kept(tmp_path),
        "metrics": metrics,
        "log": caplog.text.encode() + "".join(capfd.readouterr()).encode(),
    }
    for place, content in everywhere.items():
        found = [c for c in CANARIES if c[4:].encode() in content]
        assert not found, f"{place}: {found}"
        assert not [t for t in tokens if t.encode() in content], f"{place} holds a token"
        assert not [t for t in tokens if t.rpartition(".")[2].encode() in content], f"{place} holds a signature"
    # The twin: the same places do hold what was harmless, so the search looks where things are.
    assert b"hello" in everywhere["upstream"]
    assert b"u_canary" in everywhere["state"]
    assert b"decision" in everywhere["metrics"]
