"""Streams of the MCP endpoint end with the token that opened them (RS-19), in both eras and on every road."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import httpx2
import pytest

from firewall.net import tenure
from mcp_gateway import subscriptions
from tests.mcp_gateway.legacy import Events, opened
from tests.mcp_gateway.scripted import event, head, result, scripted
from tests.support.mcp import MODERN_META, Stack, person, running, spec


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenure, "CHECK_S", 0.02)
    monkeypatch.setattr(subscriptions, "PAUSE_S", 0.0)


ALICE = {"alice": person("demo:read", "demo:write")}
CALL = {"name": "echo", "arguments": {"a": 1}}


def revoke(stack: Stack) -> None:
    stack.auth.people.clear()


async def slow(asked, send) -> None:  # type: ignore[no-untyped-def]
    """Answer with a stream: one progress notification, and no result until the caller has left."""
    token = asked["params"]["_meta"].get("progressToken")
    note = {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": token, "progress": 1},
    }
    await send(head("text/event-stream") + event(note))
    await asyncio.sleep(0.6)
    await send(event(result(asked)))


def modern(method: str, params: dict[str, object]) -> tuple[dict[str, object], dict[str, str]]:
    given = {**params, "_meta": {**MODERN_META, "progressToken": "p"}}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": given}
    headers = {
        "authorization": "Bearer alice",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": method,
        **({"mcp-name": str(params["name"])} if "name" in params else {}),
    }
    return body, headers


async def test_rs_19_a_listen_ends_with_its_result_when_the_token_is_revoked() -> None:
    async with scripted(slow) as upstream, running(spec("demo", url=upstream.url), people=ALICE) as stack:
        body, headers = modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        async with (
            httpx2.AsyncClient(timeout=20) as http,
            http.stream("POST", stack.url("/mcp/demo"), json=body, headers=headers) as response,
        ):
            events = Events(response)
            assert (await events.message())["method"] == "notifications/subscriptions/acknowledged"
            revoke(stack)
            last = await events.rest()
    assert last[-1]["result"]["resultType"] == "complete"


async def test_rs_19_an_answer_that_streams_to_a_modern_client_ends_and_its_call_too() -> None:
    async with scripted(slow) as upstream, running(spec("demo", url=upstream.url), people=ALICE) as stack:
        body, headers = modern("tools/call", CALL)
        async with (
            httpx2.AsyncClient(timeout=20) as http,
            http.stream("POST", stack.url("/mcp/demo"), json=body, headers=headers) as response,
        ):
            events = Events(response)
            assert (await events.message())["method"] == "notifications/progress"
            revoke(stack)
            assert await events.rest() == []


async def test_the_twin_of_it_gets_its_result_while_the_token_stands() -> None:
    async with scripted(slow) as upstream, running(spec("demo", url=upstream.url), people=ALICE) as stack:
        body, headers = modern("tools/call", CALL)
        async with (
            httpx2.AsyncClient(timeout=20) as http,
            http.stream("POST", stack.url("/mcp/demo"), json=body, headers=headers) as response,
        ):
            assert [m.get("method", "result") for m in await Events(response).rest()] == [
                "notifications/progress",
                "result",
            ]


async def test_rs_19_twin_where_nobody_looks_a_revoked_token_hears_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenure.TokenWatch, "_look", lambda _self: None)
    async with scripted(slow) as upstream, running(spec("demo", url=upstream.url), people=ALICE) as stack:
        body, headers = modern("tools/call", CALL)
        async with (
            httpx2.AsyncClient(timeout=20) as http,
            http.stream("POST", stack.url("/mcp/demo"), json=body, headers=headers) as response,
        ):
            events = Events(response)
            assert (await events.message())["method"] == "notifications/progress"
            revoke(stack)
            assert [m.get("method", "result") for m in await events.rest()] == ["result"]


async def test_rs_19_a_standalone_stream_ends_when_the_token_is_revoked() -> None:
    async with scripted(slow) as upstream, running(spec("demo", url=upstream.url), people=ALICE) as stack:
        client = await opened(stack)
        async with client.get() as events:
            await asyncio.sleep(0.05)
            assert not events.response.is_stream_consumed
            revoke(stack)
            assert await events.rest() == []


async def test_rs_19_a_call_of_a_session_ends_when_its_caller_is_cut_off() -> None:
    async with scripted(slow) as upstream, running(spec("demo", url=upstream.url), people=ALICE) as stack:
        client = await opened(stack)
        async with client.call("echo", {"a": 1}) as events:
            assert (await events.message())["method"] == "notifications/progress"
            revoke(stack)
            assert await events.rest() == []
            stack.auth.people.update(ALICE)
            async with client.get(events.ids[-1]) as again:
                assert await again.rest() == []


async def test_rs_19_a_call_of_a_session_whose_token_expired_is_taken_up_again_with_a_new_one() -> None:
    async with scripted(slow) as upstream, running(spec("demo", url=upstream.url), people=ALICE) as stack:
        client = await opened(stack)
        old = replace(ALICE["alice"], expires_at=int(time.time()) - 1)
        stack.auth.people["alice"] = old
        async with client.call("echo", {"a": 1}) as events:
            assert (await events.message())["method"] == "notifications/progress"
            revoke(stack)
            assert await events.rest() == []
        stack.auth.people.update(ALICE)
        async with client.get(events.ids[-1]) as again:
            assert "result" in await again.message()


async def test_a_stream_lives_on_while_its_token_stands() -> None:
    async with scripted(slow) as upstream, running(spec("demo", url=upstream.url), people=ALICE) as stack:
        client = await opened(stack)
        async with client.get() as events:
            with pytest.raises(TimeoutError):
                await events.message(timeout_s=0.2)
