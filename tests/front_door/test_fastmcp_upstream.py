"""FastMCP's own protected server behind us, with its own authorization server: found, registered with, renewed, ended."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

pytest.importorskip("fastmcp", reason="not installed: requirements/install.sh conformance")

from fastmcp import FastMCP
from fastmcp.server.auth.providers.in_memory import InMemoryOAuthProvider
from mcp import MCPError
from mcp.server.auth.settings import ClientRegistrationOptions, RevocationOptions

from firewall.identity.upstream.settings import UpstreamAuth
from tests.support.composed import free_port
from tests.support.door import Browser, inputs_of
from tests.support.mcp import NO_TLS, running, served, spec
from tests.support.upstreams import NAME, OURS, Person, make_node

pytestmark = [pytest.mark.conformance, pytest.mark.anyio]


def fast_server(origin: str) -> tuple[Any, InMemoryOAuthProvider]:
    provider = InMemoryOAuthProvider(
        base_url=origin,
        client_registration_options=ClientRegistrationOptions(
            enabled=True, valid_scopes=["read"], default_scopes=["read"]
        ),
        revocation_options=RevocationOptions(enabled=True),
        required_scopes=["read"],
    )
    server = FastMCP("fast", auth=provider)

    @server.tool
    def ping() -> str:
        """Answer."""
        return "pong"

    return server.http_app(path="/mcp"), provider


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_person_connects_an_account_at_a_fastmcp_server(mode: str):
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    app, provider = fast_server(origin)
    node = make_node(files=UpstreamAuth(url=f"{origin}/mcp", network="loopback"))
    ada = await node.user("ada")
    person = Person(node, None, "ada", "", node.browser(), Browser(httpx2.AsyncClient()))  # type: ignore[arg-type]
    async with (
        served(app, port),
        running(
            spec(NAME, url=f"{origin}/mcp", tenants=("acme",)),
            people={"ada": node.caller(ada)},
            credentials=node.broker,
        ) as stack,
        stack.client("/mcp/files", mode=mode, token="ada") as client,
        httpx2.AsyncClient(verify=NO_TLS, timeout=10) as browser,
    ):
        with pytest.raises(MCPError) as told:
            await client.list_tools()
        sent = await person.agree(await person.open(told.value.error.data["url"]))
        assert sent.headers["location"].startswith(f"{origin}/authorize?"), sent.text
        back = await browser.get(sent.headers["location"])  # its server asks nobody
        page = await person.ours.get(back.headers["location"])
        assert "Connected" in page.text
        assert [tool.name for tool in (await client.list_tools()).tools] == ["ping"]
        assert (await client.call_tool("ping", {})).content[0].text == "pong"  # type: ignore[union-attr]
        first = set(provider.access_tokens)
        provider.access_tokens.clear()  # its server has lost it: one renewal, and the call goes through
        assert (await client.call_tool("ping", {})).content[0].text == "pong"  # type: ignore[union-attr]
        assert set(provider.access_tokens) - first
        listed = await person.open(f"{OURS}/account/upstreams")
        await person.ours.post("/account/upstreams", inputs_of(listed.text))
        await asyncio.sleep(0.05)
        assert not provider.refresh_tokens  # and it was told that the access has ended
        with pytest.raises(MCPError) as again:
            await client.call_tool("ping", {})
        assert again.value.error.code == -31407
    await person.ours.http.aclose()
    await person.theirs.http.aclose()
    await node.dialler.close()
