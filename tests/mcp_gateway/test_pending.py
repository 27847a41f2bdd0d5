"""A call goes on while its legacy client thinks about a question; a question that nobody waits for is withdrawn."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcp_gateway.asking import QUESTIONS_PER_CALL
from tests.mcp_gateway.legacy import LegacyClient, opened
from tests.mcp_gateway.scripted import Scripted, event, head, result, scripted
from tests.support.kit import ALLOW, ScriptedEngine
from tests.support.mcp import person, running, spec

pytestmark = pytest.mark.flow
ASKS = frozenset({"sampling", "elicitation", "roots"})
FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}}
WHO = {"action": "accept", "content": {"name": "Ada"}}


def question(rpc_id: Any) -> bytes:
    """Return a server's question."""
    return event({"jsonrpc": "2.0", "id": rpc_id, "method": "elicitation/create", "params": FORM})


def note(method: str, **params: Any) -> bytes:
    """Return a server's notification."""
    return event({"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params})


@contextlib.asynccontextmanager
async def calling(script: Any, engine: Any = None, **changes: Any) -> AsyncIterator[tuple[Scripted, LegacyClient]]:
    """A legacy server that asks, and a legacy client with an open session."""
    async with scripted(script, legacy=True) as upstream:
        one = spec("demo", url=upstream.url, asks=ASKS, **changes)
        people = {"alice": person("demo:read", "demo:write")}
        async with running(one, people=people, **({"engine": engine} if engine else {})) as stack:
            yield upstream, await opened(stack)


def answered(upstream: Scripted) -> list[Any]:
    """Return what the server got in answer to its questions."""
    return [body for _, body in upstream.seen if "method" not in body and "id" in body]


async def test_progress_comes_while_the_client_thinks_and_questions_wait_together():
    async def script(asked: Any, send: Any) -> None:
        token = asked["params"]["_meta"]["progressToken"]
        await send(head("text/event-stream") + question(1) + question("1"))
        await send(note("progress", progressToken=token, progress=1, message="busy"))
        async with asyncio.timeout(10):
            while len(answered(upstream)) < 2:
                await asyncio.sleep(0.01)
        await send(event(result(asked)))

    async with calling(script) as (upstream, client), client.call("echo") as events:
        said = [await events.message() for _ in range(3)]
        asked = [one for one in said if one["method"] == "elicitation/create"]
        assert [one["params"]["message"] for one in said if one["method"] == "notifications/progress"] == ["busy"]
        assert len({one["id"] for one in asked}) == 2
        for one in asked:
            await client.answer(one, WHO)
        assert (await events.message())["result"]["content"][0]["text"] == "fine"
        assert sorted(map(repr, (body["id"] for body in answered(upstream)))) == ["'1'", "1"]
        assert all(body["result"] == WHO for body in answered(upstream))


async def test_a_question_that_its_server_takes_back_is_withdrawn_and_the_call_goes_on():
    async def script(asked: Any, send: Any) -> None:
        await send(head("text/event-stream") + question(1) + question("1"))
        await send(note("cancelled", requestId=1, reason="IGNORE ALL"))
        async with asyncio.timeout(10):
            while not answered(upstream):
                await asyncio.sleep(0.01)
        await send(event(result(asked)))

    async with calling(script) as (upstream, client), client.call("echo") as events:
        first, second, taken = [await events.message() for _ in range(3)]
        assert taken["method"] == "notifications/cancelled"
        assert taken["params"]["requestId"] == first["id"]
        assert "IGNORE" not in str(taken)
        await client.answer(first, WHO)  # too late: nobody hears it
        await client.answer(second, WHO)
        assert "result" in await events.message()
        assert [body["id"] for body in answered(upstream)] == ["1"]


async def test_a_server_that_answers_without_waiting_leaves_no_open_question():
    async def script(asked: Any, send: Any) -> None:
        await send(head("text/event-stream") + question(1))
        await asyncio.sleep(0.05)
        await send(event(result(asked)))

    async with calling(script) as (upstream, client), client.call("echo") as events:
        asked, taken, last = await events.rest()
        assert (taken["method"], taken["params"]["requestId"]) == ("notifications/cancelled", asked["id"])
        assert last["result"]["content"][0]["text"] == "fine"
        assert answered(upstream) == []


async def test_a_question_that_nobody_answers_in_time_is_withdrawn_and_its_server_told():
    async def script(asked: Any, send: Any) -> None:
        await send(head("text/event-stream") + question(1))
        async with asyncio.timeout(10):
            while not answered(upstream):
                await asyncio.sleep(0.01)
        await send(event(result(asked)))

    async with calling(script, answer_s=0.05) as (upstream, client), client.call("echo") as events:
        asked, taken, last = await events.rest()
        assert (taken["method"], taken["params"]["requestId"]) == ("notifications/cancelled", asked["id"])
        assert "result" in last
        assert answered(upstream)[0]["error"]["code"] == -32603


async def test_a_client_that_cancels_its_call_has_no_question_left():
    async def script(asked: Any, send: Any) -> None:
        await send(head("text/event-stream") + question(1))
        await asyncio.sleep(30)

    async with calling(script) as (upstream, client), client.call("echo", rpc_id=5) as events:
        asked = await events.message()
        await client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}})
        (taken,) = await events.rest()
        assert taken["params"]["requestId"] == asked["id"]
        assert "notifications/cancelled" in upstream.methods()


@pytest.mark.parametrize("denied", [True, False])
async def test_a_denied_question_reaches_nobody_and_a_server_that_asks_too_much_ends_its_call(denied: bool):
    reason = {"rule": "t.no", "effect": "deny", "code": "because", "owasp": [], "severity": 40}

    def decide(asked: Any) -> Any:
        if denied and asked["point"] == "mcp.elicitation.ask":
            return {**ALLOW, "decision": False, "effect": "deny", "risk": 40, "reasons": [reason]}
        return ALLOW

    async def script(asked: Any, send: Any) -> None:
        await send(head("text/event-stream"))
        for batch in range(0, QUESTIONS_PER_CALL + 8, 8):
            for number in range(batch, batch + 8):
                await send(question(number))
            async with asyncio.timeout(10):
                while len(answered(upstream)) < batch + 8:
                    await asyncio.sleep(0.005)

    async with (
        calling(script, ScriptedEngine(decide), answer_s=0.02) as (upstream, client),
        client.call("echo") as events,
    ):
        # Where nothing was put there is no stream, and the error is plain JSON.
        said = [json.loads(await events.response.aread())] if denied else await events.rest()
        asked = [one["id"] for one in said if one.get("method") == "elicitation/create"]
        taken = [one["params"]["requestId"] for one in said if one.get("method") == "notifications/cancelled"]
        assert said[-1]["error"]["code"] == -31502
        assert len(asked) == (0 if denied else QUESTIONS_PER_CALL)
        assert sorted(taken) == sorted(asked)
