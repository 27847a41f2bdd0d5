"""Consent asked for in protocol: the real SDK client of each era is led to our page, and its next call works."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mcp import MCPError
from mcp.server.mcpserver import MCPServer
from mcp_types import ElicitResult

from firewall.identity.upstream.credentials import CredentialSettings
from tests.support.mcp import Stack, running, served, spec
from tests.support.upstreams import NAME, OURS, Person, Upstream, make_node, people, sign_in_to, upstream_server


@contextlib.asynccontextmanager
async def stack_of(*names: str, **auth: Any) -> AsyncIterator[tuple[Stack, list[Person], Upstream]]:
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream, **auth))
        async with people(node, upstream, *names) as found:
            callers = {person.name: node.caller(ours) for person, ours, _ in found}
            async with running(
                spec(NAME, url=upstream.url, tenants=("acme",), effects={"whoami": "read", "renew": "read"}),
                people=callers,
                credentials=node.broker,
            ) as stack:
                yield stack, [person for person, _, _ in found], upstream


async def text_of(client: Any, tool: str = "whoami") -> str:
    result = await client.call_tool(tool, {})
    assert not result.is_error, result
    return str(result.content[0].text)


async def test_a_modern_client_is_asked_within_its_call_which_then_succeeds():
    async with stack_of("ada") as (stack, [ada], upstream):
        asked = []

        async def elicit(_context: Any, params: Any) -> ElicitResult:
            asked.append(params)
            page = await ada.connect(params.url)
            assert page.status_code == 200
            return ElicitResult(action="accept")

        async with stack.client("/mcp/files", token="ada", elicitation_callback=elicit) as client:
            assert client.protocol_version == "2026-07-28"
            there = await upstream.identity.users.verify("ada-there", "correct horse battery staple")
            assert await text_of(client) == there.subject
        assert len(asked) == 1
        assert asked[0].mode == "url"
        assert asked[0].url.startswith(f"{OURS}/upstream/connect/files?ask=")


async def test_a_2025_11_25_client_gets_the_address_as_an_error_and_its_retry_succeeds():
    async with stack_of("ada") as (stack, [ada], _):

        async def elicit(_context: Any, _params: Any) -> ElicitResult:
            return ElicitResult(action="decline")

        async with stack.client("/mcp/files", mode="legacy", token="ada", elicitation_callback=elicit) as client:
            assert client.protocol_version == "2025-11-25"
            for ask in (client.list_tools, lambda: client.call_tool("whoami", {})):
                with pytest.raises(MCPError) as told:
                    await ask()
                assert told.value.error.code == -32042
                (elicitation,) = told.value.error.data["elicitations"]
                assert elicitation["mode"] == "url"
                assert elicitation["elicitationId"] in elicitation["url"]
            await ada.connect(elicitation["url"])
            assert {tool.name for tool in (await client.list_tools()).tools} == {"whoami", "renew"}
            assert await text_of(client)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_client_that_opens_no_addresses_is_told_ours_in_fixed_words(mode: str):
    async with stack_of("ada") as (stack, [ada], _):
        async with stack.client("/mcp/files", mode=mode, token="ada") as client:
            for ask in (client.list_tools, client.list_prompts, lambda: client.call_tool("whoami", {})):
                with pytest.raises(MCPError) as told:
                    await ask()
                assert told.value.error.code == -31407
                link = told.value.error.data["url"]
                assert link.startswith(f"{OURS}/upstream/connect/files?ask=")
                assert link in told.value.error.message
            await ada.connect(link)
            assert await text_of(client)


async def test_every_method_asks_and_every_method_works_afterwards():
    async with stack_of("ada") as (stack, [ada], _):
        async with stack.client("/mcp/files", mode="legacy", token="ada") as client:

            async def everything() -> list[Any]:
                found = []
                for ask in (
                    client.list_tools,
                    client.list_prompts,
                    client.list_resources,
                    client.list_resource_templates,
                    lambda: client.call_tool("whoami", {}),
                    lambda: client.get_prompt("greet", {}),
                    lambda: client.read_resource("files://readme"),
                ):
                    try:
                        found.append(await ask())
                    except MCPError as error:
                        found.append(error.error.code)
                return found

            assert await everything() == [-31407] * 7
            with pytest.raises(MCPError) as told:
                await client.list_tools()
            await ada.connect(told.value.error.data["url"])
            assert not [one for one in await everything() if isinstance(one, int)]


async def test_two_people_call_with_their_own_accounts_at_the_same_time():
    async with stack_of("ada", "bob") as (stack, [ada, bob], upstream):
        said = {}
        for person in (ada, bob):
            async with stack.client("/mcp/files", mode="legacy", token=person.name) as client:
                with pytest.raises(MCPError) as told:
                    await client.list_tools()
                await person.connect(told.value.error.data["url"])
                said[person.name] = await text_of(client)
        there = {
            name: (await upstream.identity.users.verify(f"{name}-there", "correct horse battery staple")).subject
            for name in ("ada", "bob")
        }
        assert said == there


async def test_a_person_who_declines_is_told_where_and_not_asked_again():
    async with stack_of("ada") as (stack, _, _upstream):
        asked = []

        async def elicit(_context: Any, params: Any) -> ElicitResult:
            asked.append(params)
            return ElicitResult(action="decline")

        async with stack.client("/mcp/files", token="ada", elicitation_callback=elicit) as client:
            with pytest.raises(MCPError) as told:
                await client.call_tool("whoami", {})
        assert told.value.error.code == -31407
        assert len(asked) == 1


async def test_the_aggregate_lists_what_is_connected_and_asks_when_nothing_is():
    async with stack_of("ada") as (stack, [ada], _):
        async with stack.client("/mcp", mode="legacy", token="ada") as client:
            with pytest.raises(MCPError) as told:
                await client.list_tools()
            await ada.connect(told.value.error.data["url"])
            names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"files__whoami", "files__renew"}


def _shown(root: Path) -> list[Any]:
    text = (root / "docs" / "accounts.md").read_text(encoding="utf-8")
    return [json.loads(part.partition("```")[0]) for part in text.split("```json5\n")[1:]]


def _as_shown(value: Any, key: str = "") -> Any:
    """Put what is random, and the origin of this test, as the page shows it."""
    if isinstance(value, dict):
        return {name: _as_shown(member, name) for name, member in value.items()}
    if isinstance(value, list):
        return [_as_shown(member) for member in value]
    if key in ("requestState", "decision_id"):
        return "…"
    if isinstance(value, str):
        return re.sub(r"e_[0-9A-Z]{26}", "e_…", value.replace(OURS, "https://fw.example"))
    return value


async def test_the_page_about_accounts_shows_what_is_sent(root: Path):
    modern, legacy, plain = _shown(root)
    can = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {"url": {}}}}
    async with stack_of("ada") as (stack, _, _upstream):
        asked = await stack.modern("/mcp/files", "tools/call", {"name": "whoami", "_meta": can}, token="ada")
        assert _as_shown(asked.json()) == modern
        opened = await stack.post(
            "/mcp/files",
            {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "initialize",
                "params": {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {"elicitation": {"url": {}}},
                    "clientInfo": {"name": "t", "version": "1"},
                },
            },
            token="ada",
        )
        session = {"mcp-session-id": opened.headers["mcp-session-id"], "mcp-protocol-version": "2025-11-25"}
        listed = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        told = await stack.post("/mcp/files", listed, token="ada", headers=session)
        assert (told.status_code, _as_shown(told.json())) == (200, legacy)
        told = await stack.modern("/mcp/files", "tools/list", {"_meta": can}, token="ada")
        assert (told.status_code, _as_shown(told.json())) == (200, plain)


async def test_the_aggregate_says_in_our_words_what_is_not_listed_yet():
    server = MCPServer("open")

    @server.tool()
    def ping() -> str:
        return "pong"

    async with upstream_server() as upstream, served(server.streamable_http_app(json_response=True)) as origin:
        node = make_node(files=sign_in_to(upstream))
        node.broker.add("open", CredentialSettings())
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            caller = node.caller(ours)
            everything = replace(caller, scopes=frozenset({*caller.scopes, "open:read", "open:write"}))
            async with running(
                spec(NAME, url=upstream.url, tenants=("acme",)),
                spec("open", url=f"{origin}/mcp", tenants=("acme",)),
                people={"ada": everything},
                credentials=node.broker,
            ) as stack:
                async with stack.client("/mcp", mode="legacy", token="ada") as client:
                    assert {tool.name for tool in (await client.list_tools()).tools} == {"open__ping"}
                    told = client.instructions or ""
                    assert told.startswith("Not listed until a person connects an account of their own at")
                    assert told.endswith("/account/upstreams: files.")
                await ada.connect(f"{OURS}/upstream/connect/files")
                async with stack.client("/mcp", mode="legacy", token="ada") as client:
                    assert len((await client.list_tools()).tools) == 3
                    assert not client.instructions
