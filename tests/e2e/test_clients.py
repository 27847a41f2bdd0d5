"""The published clients against a real process: each protocol's road is open, with one worker and with four."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest
from a2a.client import A2ACardResolver, ClientConfig, ClientFactory
from a2a.helpers.proto_helpers import get_artifact_text, new_text_message
from a2a.types import Role, SendMessageRequest, TaskState
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.composed import Started

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@contextlib.asynccontextmanager
async def mcp(firewall: Started, path: str, *scopes: str, mode: str = "auto") -> AsyncIterator[Any]:
    token = await firewall.sign_in(path, *scopes)
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=20) as http:
        transport = streamable_http_client(f"{firewall.url}{path}", http_client=http)
        async with Client(transport, mode=mode, cache=None) as client:
            yield client


async def test_the_mcp_client_lists_and_calls_in_the_modern_era(firewall: Started) -> None:
    async with mcp(firewall, "/mcp/notes", "notes:read", "notes:write") as client:
        assert client.protocol_version == "2026-07-28"
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert names == ["delete_all", "list_notes", "read_page", "send_note", "write_note"]
        result = await client.call_tool("read_page", {"name": "plain"})
        assert result.content[0].text == "This page says nothing but hello."


async def test_a_token_that_may_only_read_sees_only_what_it_may_call(firewall: Started) -> None:
    async with mcp(firewall, "/mcp/notes", "notes:read") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["list_notes", "read_page"]


async def test_the_aggregate_names_each_tool_after_its_server(firewall: Started) -> None:
    async with mcp(firewall, "/mcp", "notes:read", "notes:write") as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert "notes__list_notes" in names
        assert not (await client.call_tool("notes__list_notes", {})).is_error


async def test_the_legacy_era_has_a_session_whichever_worker_is_reached(firewall: Started) -> None:
    async with mcp(firewall, "/mcp/notes", "notes:read", mode="legacy") as client:
        assert client.protocol_version == "2025-11-25"
        for _ in range(8):
            assert not (await client.call_tool("list_notes", {})).is_error


async def test_a_published_stdio_server_answers_whichever_worker_is_reached(firewall: Started) -> None:
    for mode in ("auto", "legacy"):
        async with mcp(firewall, "/mcp/time", "time:read", mode=mode) as client:
            result = await client.call_tool("get_current_time", {"timezone": "Europe/Vienna"})
            assert not result.is_error
            assert "Vienna" in result.content[0].text


async def test_the_a2a_client_sends_and_streams(firewall: Started) -> None:
    token = await firewall.sign_in("/a2a/echo", "echo:send")
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=20) as web:
        card = await A2ACardResolver(web, f"{firewall.url}/a2a/echo").get_agent_card()
        for streaming in (False, True):
            client = ClientFactory(ClientConfig(streaming=streaming, httpx_client=web)).create(card)
            message = new_text_message("hello" if not streaming else "count 3", role=Role.ROLE_USER)
            events = [event async for event in client.send_message(SendMessageRequest(message=message))]
            if streaming:
                assert events[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
                assert sum(event.HasField("artifact_update") for event in events) == 3
            else:
                assert get_artifact_text(events[0].task.artifacts[0]) == "hello"


async def test_a_task_of_one_worker_is_known_to_the_others(firewall: Started) -> None:
    token = await firewall.sign_in("/a2a/echo", "echo:send")
    headers = {"a2a-version": "1.0", "accept": "application/json"}
    message = {"messageId": f"m-{firewall.port}", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    sent = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    made = (await firewall.post("/a2a/echo", sent, token=token, headers=headers)).json["result"]["task"]["id"]
    for _ in range(12):
        asked = {"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": made}}
        answer = await firewall.post("/a2a/echo", asked, token=token, headers=headers)
        assert answer.json["result"]["id"] == made
        replay = await firewall.post("/a2a/echo", sent, token=token, headers=headers)
        assert replay.json["error"]["message"] == "This message id was used before."


async def test_the_openai_client_chats_and_streams_a_tool_call(firewall: Started) -> None:
    token = await firewall.sign_in("/v1", "llm:invoke")
    parameters = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
    tools: Any = [{"type": "function", "function": {"name": "get_time", "parameters": parameters}}]
    asked: Any = [{"role": "user", "content": "what time is it"}]
    async with openai.AsyncOpenAI(base_url=f"{firewall.url}/v1", api_key=token, max_retries=0) as client:
        whole = await client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "say hello"}])
        assert whole.choices[0].message.content == "hello"
        called = ""
        stream = await client.chat.completions.create(model="demo", messages=asked, tools=tools, stream=True)
        async for chunk in stream:
            for call in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
                called += (call.function and call.function.name) or ""
        assert called == "get_time"


async def test_the_anthropic_client_asks_and_streams_a_tool_call(firewall: Started) -> None:
    token = await firewall.sign_in("/v1", "llm:invoke")
    schema = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
    asked: Any = {"model": "demo-messages", "max_tokens": 50, "tools": [{"name": "get_time", "input_schema": schema}]}
    async with anthropic.AsyncAnthropic(base_url=firewall.url, api_key=token, max_retries=0) as client:
        assert "demo-messages" in {model.id async for model in client.models.list()}
        said = await client.messages.create(messages=[{"role": "user", "content": "say hello"}], **asked)
        assert said.content[0].type == "text"
        assert said.content[0].text == "hello"
        turns: Any = [{"role": "user", "content": "what time is it"}]
        async with client.messages.stream(messages=turns, **asked) as stream:
            called = await stream.get_final_message()
        assert called.stop_reason == "tool_use"
        result = {"type": "tool_result", "tool_use_id": called.content[0].id, "content": "12:00"}  # type: ignore[union-attr]
        turns += [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
        answered = await client.messages.create(messages=turns, **asked)
        assert answered.content[0].text == "The tool answered: 12:00"  # type: ignore[union-attr]
        secret: Any = [{"role": "user", "content": "AKIA" + "Z7QX4T2LMNP3RSVW"}]
        with pytest.raises(anthropic.PermissionDeniedError):
            await client.messages.create(messages=secret, **asked)
