"""Hostile MCP for a short, seeded time; then each hostile thing that needs more than one request, one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

import httpx2
import pytest

from tests.fuzz.mcp import ABLE, ASKS, fuzz_mcp
from tests.mcp_gateway.legacy import LegacyClient
from tests.mcp_gateway.scripted import as_json, event, fine, head, result, scripted
from tests.sim.planted import Era, planted
from tests.support.mcp import MODERN_META, NO_TLS, Stack, person, running, spec

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(120)]
PEOPLE = {
    name: person("planted:read", "planted:write", "demo:read", "demo:write", subject=f"u_{name}")
    for name in ("alice", "bob")
}


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("seed", [7, 20261123])
async def test_nothing_breaks_and_nothing_of_another_is_told(era: Era, seed: int) -> None:
    seen = await fuzz_mcp(era, seconds=6, seed=seed, most=320)
    assert seen.findings == []
    assert seen.statuses[200] > 20, "too little goes through: the fuzzer misses the road"
    assert seen.statuses[404] + seen.statuses[400] > 20


async def test_a_seed_of_the_day_breaks_nothing_either() -> None:
    seed = random.randrange(2**32)
    seen = await fuzz_mcp("modern", seconds=3, seed=seed, most=120)
    assert seen.findings == [], f"seed {seed}"


# -- handles that were tampered with, replayed, and used by somebody else -----------------------------------------


async def _asked(stack: Stack, token: str = "alice", **more: Any) -> Any:
    params = {
        "name": "ask-form",
        "arguments": {"x": 1},
        "_meta": {"io.modelcontextprotocol/clientCapabilities": ABLE},
        **more,
    }
    return (await stack.modern("/mcp/planted", "tools/call", params, token=token)).json()


RESPONSES = {"q": {"action": "accept", "content": {"colour": "blue"}}}


async def test_a_request_state_opens_once_for_its_caller_and_its_request_only() -> None:
    async with planted("modern") as server:
        one = spec("planted", url=server.url, asks=ASKS)
        async with running(one, people=PEOPLE) as stack:
            state = (await _asked(stack))["result"]["requestState"]
            assert "state-of-the-server" not in state, "what the server keeps is sealed"
            before = len(server.seen)
            for at in range(0, len(state), max(1, len(state) // 24)):
                changed = state[:at] + ("A" if state[at] != "A" else "B") + state[at + 1 :]
                answer = await _asked(stack, requestState=changed, inputResponses=RESPONSES)
                assert answer["error"]["code"] == -32602
            for wrong in (
                await _asked(stack, "bob", requestState=state, inputResponses=RESPONSES),
                await _asked(stack, requestState=state[:-4], inputResponses=RESPONSES),
                await _asked(stack, requestState="", inputResponses=RESPONSES),
            ):
                assert wrong["error"]["code"] == -32602
            for change in ({"arguments": {"x": 2}}, {"name": "ask-url"}):  # its own caller's misuse spends a state
                other = (await _asked(stack))["result"]["requestState"]
                answer = await _asked(stack, requestState=other, inputResponses=RESPONSES, **change)
                assert answer["error"]["code"] == -32602
            assert not [b for _, _, b in server.seen[before:] if b and "inputResponses" in json.dumps(b)]
            good = await _asked(stack, requestState=state, inputResponses=RESPONSES)
            assert good["result"]["content"][0]["text"] == "thanks"
            assert server.seen[-1][2]["params"]["requestState"] == "state-of-the-server"
            again = await _asked(stack, requestState=state, inputResponses=RESPONSES)
            assert again["error"]["code"] == -32602


async def test_a_cursor_opens_for_its_caller_and_its_endpoint_only() -> None:
    async with planted("modern") as server:
        specs = (spec("planted", url=server.url), spec("demo", url=server.url))
        async with running(*specs, people=PEOPLE, settings={"page": 5}) as stack:

            async def listed(path: str, token: str, cursor: str) -> Any:
                return (await stack.modern(path, "tools/list", {"cursor": cursor}, token=token)).json()

            cursor = (await stack.modern("/mcp/planted", "tools/list")).json()["result"]["nextCursor"]
            assert "result" in await listed("/mcp/planted", "alice", cursor)
            for at in range(0, len(cursor), max(1, len(cursor) // 24)):
                changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
                assert (await listed("/mcp/planted", "alice", changed))["error"]["code"] == -32602
            assert (await listed("/mcp/planted", "bob", cursor))["error"]["code"] == -32602
            assert (await listed("/mcp/demo", "alice", cursor))["error"]["code"] == -32602


async def test_last_event_id_opens_for_its_session_only() -> None:
    """SH-3: the events of one session are nobody else's, and of one stream no other's."""
    async with planted("legacy") as server, running(spec("planted", url=server.url), people=PEOPLE) as stack:
        mine, theirs = LegacyClient(stack, "/mcp/planted", "alice"), LegacyClient(stack, "/mcp/planted", "bob")
        await mine.initialize()
        await theirs.initialize()
        async with mine.call("progress") as events:
            assert (await events.rest())[-1]["result"]
        last = events.ids[1]
        async with mine.get(last) as replay:
            assert (await replay.message())["method"] == "notifications/progress"
        for thief in (theirs, LegacyClient(stack, "/mcp/planted", "bob", session=mine.session)):
            async with httpx2.AsyncClient(timeout=5, verify=NO_TLS) as http:
                given = thief.headers(accept="text/event-stream", **{"last-event-id": last})
                async with http.stream("GET", stack.url("/mcp/planted"), headers=given) as answer:
                    assert answer.status_code in (400, 404)
                    assert "progress" not in (await answer.aread()).decode()


# -- clients that hold on, and servers that let nobody go ----------------------------------------------------------


async def test_held_streams_are_bounded_and_take_nothing_from_others() -> None:
    async with planted("legacy") as server, running(spec("planted", url=server.url), people=PEOPLE) as stack:
        greedy, modest = LegacyClient(stack, "/mcp/planted", "alice"), LegacyClient(stack, "/mcp/planted", "bob")
        await modest.initialize()
        opened: list[int] = []
        async with contextlib.AsyncExitStack() as held, httpx2.AsyncClient(timeout=5, verify=NO_TLS) as http:
            for _ in range(80):
                await greedy.initialize()
                stream = http.stream(
                    "GET", stack.url("/mcp/planted"), headers=greedy.headers(accept="text/event-stream")
                )
                opened.append((await held.enter_async_context(stream)).status_code)
            assert set(opened) == {200, 429}
            assert opened.count(200) <= 64
            assert (await modest.request("tools/list")).status_code == 200
            async with modest.get() as events:
                assert await events.next() is not None
        assert stack.kit.faults == []


async def test_a_reader_that_does_not_read_holds_up_nobody_else() -> None:
    """A server that pours, a client that does not read: others are answered, and what waits is bounded."""
    flowing = asyncio.Event()

    async def pour(asked: dict[str, Any], send: Any) -> None:
        if asked["params"]["arguments"].get("a") != 1:
            await fine(asked, send)
            return
        await send(head("text/event-stream"))
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 60_000}}
        for _ in range(400):
            await send(event(note))
            flowing.set()
        await send(event(result(asked)))

    async with (
        scripted(pour) as upstream,
        running(spec("demo", url=upstream.url, deadline_s=20.0), people=PEOPLE) as stack,
    ):
        params = {"name": "echo", "arguments": {"a": 1}}
        meta = {**MODERN_META, "io.modelcontextprotocol/logLevel": "debug"}
        body = json.dumps(
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**params, "_meta": meta}}
        ).encode()
        lines = "POST /mcp/demo HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer alice\r\ncontent-type: application/json\r\n"
        lines += "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\n"
        lines += f"mcp-name: echo\r\ncontent-length: {len(body)}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port, limit=1024)
        try:
            writer.write(lines.encode() + body)
            async with asyncio.timeout(5):
                await flowing.wait()
                for _ in range(5):
                    other = await stack.modern(
                        "/mcp/demo", "tools/call", {"name": "echo", "arguments": {"a": 2}}, token="bob"
                    )
                    assert other.status_code == 200
            assert (await reader.read(64)).startswith(b"HTTP/1.1 200")
        finally:
            writer.transport.abort()
        assert stack.kit.faults == []


OVERSIZE = b"x" * (5 << 20)
ENDS = [
    ("an event beyond every bound", head("text/event-stream") + b"data: " + OVERSIZE + b"\n\n"),
    ("a body beyond every bound", head("application/json", length=len(OVERSIZE)) + OVERSIZE),
    ("an event that is no UTF-8", head("text/event-stream") + b'data: {"jsonrpc":"2.0","id":1,"result":"\xff"}\n\n'),
    ("an event that is cut", head("text/event-stream") + b'data: {"jsonrpc":"2.0","id":'),
    ("a stream that ends without an answer", head("text/event-stream") + b": hello\n\n"),
    ("a redirect", b"HTTP/1.1 307 x\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"),
    ("its own challenge", b'HTTP/1.1 401 x\r\nwww-authenticate: Bearer resource_metadata="https://evil.example"\r\ncontent-length: 0\r\n\r\n'),
    ("a page", head("text/html", length=6) + b"<html>"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "raw"), ENDS, ids=[name.replace(" ", "_") for name, _ in ENDS])
async def test_a_server_that_breaks_the_wire_ends_one_call_in_our_own_words(what: str, raw: bytes) -> None:
    async def script(asked: dict[str, Any], send: Any) -> None:
        if asked["params"]["arguments"].get("a") == 2:
            await fine(asked, send)
            return
        await send(raw)
        raise ConnectionError

    async with scripted(script) as upstream, running(spec("demo", url=upstream.url, deadline_s=3.0)) as stack:
        answer = await stack.modern("/mcp/demo", "tools/call", {"name": "echo", "arguments": {"a": 1}})
        assert answer.status_code in (200, 502)
        assert answer.json()["error"]["code"] == -31502
        assert answer.json()["id"] == 1
        assert "evil" not in answer.text + str(answer.headers)
        assert "location" not in answer.headers
        good = await stack.modern("/mcp/demo", "tools/call", {"name": "echo", "arguments": {"a": 2}})
        assert good.json()["result"]["content"][0]["text"] == "fine"
        assert stack.kit.faults == []


async def test_an_answer_of_a_kind_that_nobody_knows_is_no_answer() -> None:
    """Trap: an unknown ``resultType`` passes where only the known ones are looked at; closed, it ends the call."""

    async def surprise(asked: dict[str, Any], send: Any) -> None:
        await send(as_json(result(asked, resultType="surprise")))

    async with scripted(surprise) as upstream, running(spec("demo", url=upstream.url)) as stack:
        answer = await stack.modern("/mcp/demo", "tools/call", {"name": "echo", "arguments": {"a": 1}})
        assert answer.json()["error"]["code"] == -31502
        assert "surprise" not in answer.text
