"""An agent's stream ends with the token that opened it (RS-19); the agent's task goes on."""

from __future__ import annotations

import asyncio
import json

import pytest

from firewall.net import tenure
from tests.a2a_gateway.test_flow import TASK, WORKING, bad_agent, hi, result, sse_reply

__all__ = ["bad_agent"]


async def test_rs_19_a_stream_ends_when_its_token_does_and_the_task_is_not_called_off(bad_agent, monkeypatch):
    monkeypatch.setattr(tenure, "CHECK_S", 0.02)
    left: list[str] = []
    async with bad_agent(sse_reply(result({"task": TASK}), WORKING, hang=True, left=left)) as (rig, web):
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": hi()}
        async with web.stream("POST", rig.resource, json=body, headers={"A2A-Version": "1.0"}) as response:
            data = response.aiter_bytes()
            first = await anext(data)
            rig.tokens.known.clear()
            rest = b"".join([chunk async for chunk in data])
    told = [json.loads(line[6:]) for line in (first + rest).decode().splitlines() if line.startswith("data: ")]
    assert told[-1]["error"]["code"] == -31401
    assert "result" in told[0]
    assert left == ["left"]


async def test_the_twin_of_it_runs_into_the_agents_own_silence(bad_agent, monkeypatch):
    monkeypatch.setattr(tenure, "CHECK_S", 0.02)
    async with bad_agent(sse_reply(result({"task": TASK}), WORKING, hang=True)) as (rig, web):
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": hi()}
        async with web.stream("POST", rig.resource, json=body, headers={"A2A-Version": "1.0"}) as response:
            data = response.aiter_bytes()
            told = await anext(data)

            async def all_of_it() -> None:
                nonlocal told
                async for more in data:
                    told += more

            with pytest.raises(TimeoutError):
                await asyncio.wait_for(all_of_it(), 0.3)
    assert b'"result"' in told
    assert b'"error"' not in told
