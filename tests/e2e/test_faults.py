"""Upstreams that hang, die, talk rubbish or never stop: one correct error within the deadline, and the next call works.

In this process, so that what is left behind can be counted.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.mcp_gateway.scripted import as_json, event, fine, head, result, scripted
from tests.sim.provider import Provider
from tests.support.composed import Answer, Composed, composed, modern, request_bytes, settings
from tests.support.world import LLMScript, World, serve_app, world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
CHILD = Path(__file__).parents[1] / "mcp_gateway" / "child.py"
DEADLINE_S = 1.0


async def hang(asked: dict[str, Any], send: Any) -> None:
    await asyncio.sleep(30)


async def stall(asked: dict[str, Any], send: Any) -> None:
    await send(head("text/event-stream"))
    await asyncio.sleep(30)


async def cut(asked: dict[str, Any], send: Any) -> None:
    await send(head("application/json", length=500) + b'{"jsonrpc":"2.0"')
    raise ConnectionError


async def cut_stream(asked: dict[str, Any], send: Any) -> None:
    note = {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": asked["id"], "progress": 1},
    }
    await send(head("text/event-stream") + event(note))
    raise ConnectionError


async def rubbish(asked: dict[str, Any], send: Any) -> None:
    await send(as_json(b"\x00\xff not json"))


async def wrong_id(asked: dict[str, Any], send: Any) -> None:
    await send(as_json({**result(asked), "id": 999_999}))


async def huge(asked: dict[str, Any], send: Any) -> None:
    await send(head("application/json", length=20 << 20))
    for _ in range(20):
        await send(b"x" * (1 << 20))


async def huge_event(asked: dict[str, Any], send: Any) -> None:
    await send(head("text/event-stream") + b"data: ")
    for _ in range(3):
        await send(b"x" * (1 << 20))
    await asyncio.sleep(30)


async def not_mcp(asked: dict[str, Any], send: Any) -> None:
    await send(as_json(b"<html>", status="503 Service Unavailable"))


async def redirect(asked: dict[str, Any], send: Any) -> None:
    await send(as_json(b"{}", status="307 Temporary Redirect", extra="location: http://169.254.169.254/\r\n"))


WAYS = {f.__name__: f for f in (hang, stall, cut, cut_stream, rubbish, wrong_id, huge, huge_event, not_mcp, redirect)}


def settled(wall: Composed) -> int:
    """Return how many tasks the worker runs."""
    return len(wall.worker.tasks)


async def calm(wall: Composed, tasks: int, *, within_s: float = 2.0) -> None:
    """Wait until no more tasks run than before."""
    async with asyncio.timeout(within_s):
        while settled(wall) > tasks:
            await asyncio.sleep(0.01)


def outcomes(wall: Composed) -> list[str]:
    return [r["outcome"]["result"] for r in wall.records("outcome")]


@pytest.fixture
async def upstreams() -> AsyncIterator[World]:
    async with world() as made:
        yield made


@pytest.mark.parametrize("way", WAYS)
async def test_an_mcp_server_that_misbehaves_costs_one_call(tmp_path: Path, way: str) -> None:
    how = {"now": WAYS[way]}

    async def script(asked: dict[str, Any], send: Any) -> None:
        await how["now"](asked, send)

    async with scripted(script) as upstream:
        server = {"url": upstream.url, "network": "loopback", "deadline_s": DEADLINE_S, "tools": {"echo": "read"}}
        async with composed(settings(tmp_path / "state", mcp={"demo": server})) as wall:
            token = wall.mint("/mcp/demo", "demo:read")
            tasks = settled(wall)
            began = time.monotonic()
            answer = await wall.call("demo", "echo", {"a": 1}, token=token)
            assert time.monotonic() - began < DEADLINE_S + 2
            assert answer.json["error"]["code"] == -31502, answer.text
            assert "not json" not in answer.text
            await calm(wall, tasks)
            how["now"] = fine
            again = await wall.call("demo", "echo", {"a": 1}, token=token)
            assert again.json["result"]["content"], again.text
            assert "upstream_fault" in outcomes(wall)


@pytest.mark.parametrize("way", ["die", "hang", "rubbish", "huge"])
async def test_a_local_program_that_misbehaves_costs_one_call(tmp_path: Path, way: str) -> None:
    paths = sorted({sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent), str(CHILD.parent)})
    child = {
        "command": [sys.executable, str(CHILD), str(CHILD)],
        "read": paths,
        "unsandboxed": True,
        "deadline_s": DEADLINE_S,
        "tools": dict.fromkeys(("die", "hang", "rubbish", "huge", "fine"), "read"),
    }
    async with composed(settings(tmp_path / "state", mcp={"local": child})) as wall:
        token = wall.mint("/mcp/local", "local:read")
        assert (await wall.call("local", "fine", {}, token=token)).json["result"]["content"][0]["text"] == "fine"
        began = time.monotonic()
        answer = await wall.call("local", way, {}, token=token)
        assert time.monotonic() - began < DEADLINE_S + 2
        assert answer.json["error"]["code"] == -31502, answer.text
        # A program that hangs on one call is still alive and deaf: it is ended, and started again.
        async with asyncio.timeout(12):
            while "result" not in (await wall.call("local", "fine", {}, token=token)).json:
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("way", ["hang", "cut", "rubbish", "huge", "error"])
async def test_an_agent_that_misbehaves_costs_one_message(tmp_path: Path, upstreams: World, way: str) -> None:
    script = upstreams.add_a2a("agent")
    card = {
        "card_url": f"{upstreams.origin}/a2a/agent/.well-known/agent-card.json",
        "keys": script.agent.jwks(),
        "network": "loopback",
    }
    async with composed(settings(tmp_path / "state", a2a={"agent": card})) as wall:
        token = wall.mint("/a2a/agent", "agent:send")

        async def send(number: int) -> Answer:
            message = {"messageId": f"m{number}", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
            body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
            headers = {"a2a-version": "1.0", "accept": "application/json"}
            return await wall.post("/a2a/agent", body, token=token, headers=headers)

        tasks = settled(wall)
        if way == "hang":  # the whole deadline is a minute: here the caller gives up first
            upstreams.hold = asyncio.Event()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await send(1)
            upstreams.hold.set()
            upstreams.hold = None
        else:
            script.raw = {"cut": b"", "rubbish": b"\x00{", "huge": b'"' + b"x" * (9 << 20) + b'"', "error": b"[]"}[way]
            answer = await send(1)
            assert "error" in answer.json, answer.text
            script.raw = None
        await calm(wall, tasks)
        assert (await send(2)).json["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"


WHOLE = ("rubbish", "huge", "wrong-type", "err500")
STREAMED = (*WHOLE, "cut", "no-end", "error-midway")
CHATS = [*((way, False) for way in WHOLE), *((way, True) for way in STREAMED)]


@pytest.mark.parametrize(("way", "stream"), CHATS)
async def test_a_provider_that_misbehaves_costs_one_chat(tmp_path: Path, way: str, stream: bool) -> None:
    async with serve_app(Provider()) as origin:
        models = {name: {"provider": "up", "model": name, "input_usd": 1.0, "output_usd": 1.0} for name in (way, "ok")}
        llm = {"providers": {"up": {"base_url": f"{origin}/v1", "network": "loopback"}}, "models": models}
        async with composed(settings(tmp_path / "state", llm=llm)) as wall:
            token = wall.mint("/v1", "llm:invoke")
            tasks = settled(wall)

            async def chat(model: str) -> Answer:
                body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
                return await wall.post("/v1/chat/completions", body, token=token)

            answer = await chat(way)
            assert "error" in answer.json, answer.text
            assert "[DONE]" not in answer.text
            await calm(wall, tasks)
            assert "quick" in (await chat("ok")).text


@pytest.mark.parametrize("protocol", ["mcp", "a2a", "llm"])
async def test_clients_that_leave_in_the_middle_leave_nothing_behind(
    tmp_path: Path, upstreams: World, protocol: str
) -> None:
    agent = upstreams.add_a2a("agent")
    upstreams.llm["m"] = LLMScript()
    config = settings(
        tmp_path / "state",
        mcp={"demo": {"url": upstreams.add_mcp("demo"), "network": "loopback", "tools": {"echo": "read"}}},
        a2a={
            "agent": {
                "card_url": f"{upstreams.origin}/a2a/agent/.well-known/agent-card.json",
                "keys": agent.agent.jwks(),
                "network": "loopback",
            }
        },
        llm={
            "providers": {"up": {"base_url": f"{upstreams.origin}/llm/m", "network": "loopback"}},
            "models": {"m": {"provider": "up", "model": "m", "input_usd": 1.0, "output_usd": 1.0}},
        },
    )
    async with composed(config) as wall:
        path, token, body, headers = ask(wall, protocol)
        assert (await wall.post(path, body, token=token, headers=headers)).status == 200
        await asyncio.sleep(0.1)
        tasks, before = settled(wall), len(upstreams.calls())
        upstreams.hold = asyncio.Event()
        writers = []
        for number in range(20):
            data = json.dumps(json.loads(json.dumps(body).replace("m-one", f"m-{number}"))).encode()
            pairs = [*headers.items(), ("authorization", f"Bearer {token}")]
            _, writer = await asyncio.open_connection("127.0.0.1", wall.port)
            writer.write(request_bytes(path, wall.url[7:], pairs, data))
            writers.append(writer)
        async with asyncio.timeout(10):
            while len(upstreams.calls()) < before + 20:
                await asyncio.sleep(0.01)
        assert settled(wall) >= tasks
        for writer in writers:
            writer.transport.abort()
        async with asyncio.timeout(5):  # every one of them has its outcome in the log, while the upstream still waits
            while outcomes(wall).count("cancelled") < 20:
                await asyncio.sleep(0.05)
        await calm(wall, tasks, within_s=5)
        upstreams.hold.set()


def ask(wall: Composed, protocol: str) -> tuple[str, str, Any, dict[str, str]]:
    """Return (path, token, body, headers) of one good request."""
    if protocol == "mcp":
        body, headers = modern("tools/call", {"name": "echo", "arguments": {"text": "hello"}})
        return "/mcp/demo", wall.mint("/mcp/demo", "demo:read"), body, headers
    if protocol == "a2a":
        message = {"messageId": "m-one", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
        sent = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
        headers = {"content-type": "application/json", "a2a-version": "1.0", "accept": "application/json"}
        return "/a2a/agent", wall.mint("/a2a/agent", "agent:send"), sent, headers
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    return "/v1/chat/completions", wall.mint("/v1", "llm:invoke"), chat, {"content-type": "application/json"}
