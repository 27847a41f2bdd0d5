"""Tokens that permit named calls, and operations that ask for another sign-in, through the whole firewall."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP
from mcp.client.auth.oauth2 import OAuthClientProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata
from pydantic import AnyUrl

from firewall.record.show import explain, explain_text
from tests.flow.test_story import config_with_client
from tests.identity.test_flow import KeptTokens
from tests.support.composed import Answer, Composed, composed, modern
from tests.support.door import CALLBACK, CIMD_URL, PASSWORD, VERIFIER, Browser, authorize_query, callback_of, inputs_of
from tests.support.world import world

pytestmark = pytest.mark.flow


async def token_for(wall: Composed, browser: Browser, resource: str, scope: str, **more: str) -> str:
    query = authorize_query(resource=f"{wall.url}{resource}", scope=scope, **more)
    return await redeemed(wall, browser, (await browser.code(query))["code"], resource)


async def redeemed(wall: Composed, browser: Browser, code: str, resource: str) -> str:
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "client_id": CIMD_URL,
        "code_verifier": VERIFIER,
        "resource": f"{wall.url}{resource}",
    }
    answer = await browser.http.post("/token", data=form)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


async def at_aggregate(wall: Composed, tool: str, token: str) -> Answer:
    body, headers = modern("tools/call", {"name": tool, "arguments": {"text": "hello"}})
    return await wall.post("/mcp", body, token=token, headers=headers)


async def test_a_token_reaches_the_calls_that_its_details_name_and_no_other(tmp_path: Path) -> None:
    async with world() as upstreams, composed(config_with_client(upstreams, tmp_path / "state")) as wall:
        await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=("*",))
        async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
            browser = Browser(http, wall.url)

            async def narrow(resource: str, *tools: str) -> str:
                one: dict[str, Any] = {
                    "type": "mcp_tool",
                    "locations": [wall.url + resource],
                    "actions": ["call"],
                    "tools": list(tools),
                    "constraints": {"text": ["hello", "bye"]},
                }
                scope = "demo:read demo:write"
                return await token_for(wall, browser, resource, scope, authorization_details=json.dumps([one]))

            token = await narrow("/mcp/demo", "echo")
            assert "isError" not in (await wall.call("demo", "echo", {"text": "hello"}, token=token)).json["result"]
            for tool, text in (("echo", "else"), ("put", "hello"), ("wipe", "hello"), ("nobody", "hello")):
                refused = await wall.call("demo", tool, {"text": text}, token=token)
                assert refused.status == 403, refused.text
                challenge = refused.header("www-authenticate")
                assert 'error="insufficient_authorization_details"' in challenge
                assert "resource_metadata=" in challenge
                assert "scope=" not in challenge  # both are held
                told = refused.json["error"]
                known = {
                    "type": "mcp_tool",
                    "locations": [f"{wall.url}/mcp/demo"],
                    "actions": ["call"],
                    "tools": [tool],
                }
                assert told["data"].get("authorization_details") == (None if tool == "nobody" else [known])
                story = explain_text(explain(wall.audit, told["data"]["decision_id"]))
                assert "rules: core.details" in story
                assert f"what falls short: detail 1: {'argument text' if tool == 'echo' else 'tool'}" in story
            # What was told is what to ask for: with it beside what it had, the client gets its call.
            wider = await narrow("/mcp/demo", "echo", "put")
            assert (await wall.call("demo", "put", {"text": "hello"}, token=wider)).status == 200
            everything = await narrow("/mcp", "demo/echo")
            called, refused = [await at_aggregate(wall, f"demo__{tool}", everything) for tool in ("echo", "put")]
            assert (called.status, refused.status) == (200, 403)
        kept = [r for r in wall.records("decision") if r.get("phase") == "refused"]
    assert len(kept) >= 5


async def test_a_write_asks_for_a_second_factor_and_the_challenge_says_how(tmp_path: Path) -> None:
    async with world() as upstreams:
        config = config_with_client(upstreams, tmp_path / "state")
        rule = {"scope": "demo:write", "acr": "mfa", "max_age_s": 600}
        config["mcp"] = {"demo": {**config["mcp"]["demo"], "step_up": rule}}  # type: ignore[index]
        async with composed(config) as wall:
            identity = wall.worker.identity
            user = await identity.users.create("ada", PASSWORD, tenant="default", scopes=("*",))
            async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
                browser = Browser(http, wall.url)
                weak = await token_for(wall, browser, "/mcp/demo", "demo:read demo:write")
                assert (await wall.call("demo", "echo", {"text": "hello"}, token=weak)).status == 200
                refused = await wall.call("demo", "put", {"text": "x"}, token=weak)
                assert refused.status == 401, refused.text
                assert refused.json["error"]["code"] == -31401
                challenge = refused.header("www-authenticate")
                assert 'scope="demo:write stepup:mfa"' in challenge
                assert 'error="insufficient_user_authentication"' in challenge
                assert challenge.endswith('acr_values="mfa", max_age="600"')
                secret = base64.b32decode(identity.factors.offer(user))
                step = int(time.time()) // 30
                assert identity.factors.confirm(user, HOTP(secret, 6, SHA1()).generate(step - 1).decode())
                # A client that knows scopes alone asks for what the challenge named.
                query = authorize_query(resource=f"{wall.url}/mcp/demo", scope="demo:write stepup:mfa")
                page = await browser.open(query)
                assert 'action="/login"' in page.text
                await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
                code = HOTP(secret, 6, SHA1()).generate(int(time.time()) // 30).decode()
                done = await browser.post("/login/code", {"code": code})
                page = await browser.get(done.headers["location"])
                if page.status_code == 200:
                    page = await browser.approve(page)
                strong = await redeemed(wall, browser, callback_of(page)["code"], "/mcp/demo")
                assert (await wall.call("demo", "put", {"text": "x"}, token=strong)).status == 200
                # A service never signed in; its token is refused whatever its scopes.
                service = await wall.sign_in("/mcp/demo", "demo:write")
                assert (await wall.call("demo", "put", {"text": "x"}, token=service)).status == 401


async def test_an_agent_may_ask_for_a_stronger_sign_in_too(tmp_path: Path) -> None:
    async with world() as upstreams:
        config = config_with_client(upstreams, tmp_path / "state")
        config["a2a"] = {"agent": {**config["a2a"]["agent"], "step_up": {"acr": "mfa"}}}  # type: ignore[index]
        async with composed(config) as wall:
            await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=("*",))
            async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
                weak = await token_for(wall, Browser(http, wall.url), "/a2a/agent", "agent:send")
            part = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
            body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": part}}
            refused = await wall.post("/a2a/agent", body, token=weak, headers={"a2a-version": "1.0"})
    assert refused.status == 401, refused.text
    assert 'error="insufficient_user_authentication"' in refused.header("www-authenticate")
    assert 'acr_values="mfa"' in refused.header("www-authenticate")


async def test_the_official_client_follows_a_step_up_though_it_knows_scopes_alone(tmp_path: Path) -> None:
    """It reads ``scope`` of a 401 and asks for it; the ``stepup:`` scope in it brings the second factor."""
    async with world() as upstreams:
        config = config_with_client(upstreams, tmp_path / "state")
        config["mcp"] = {"demo": {**config["mcp"]["demo"], "step_up": {"scope": "demo:write", "acr": "mfa"}}}  # type: ignore[index]
        async with composed(config) as wall, httpx2.AsyncClient(base_url=wall.url, timeout=20) as pages:
            identity = wall.worker.identity
            user = await identity.users.create("ada", PASSWORD, tenant="default", scopes=("*",))
            browser, found, asked = Browser(pages, wall.url), {}, []
            secret = b""

            async def redirect(url: str) -> None:
                query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
                asked.append(query["scope"])
                page = await browser.open(query)
                if not secret:
                    page = await browser.sign_in(page)
                else:
                    await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
                    code = HOTP(secret, 6, SHA1()).generate(int(time.time()) // 30).decode()
                    page = await browser.get((await browser.post("/login/code", {"code": code})).headers["location"])
                found.update(callback_of(await browser.approve(page)))

            async def callback() -> AuthorizationCodeResult:
                return AuthorizationCodeResult(code=found["code"], state=found["state"], iss=found["iss"])

            provider = OAuthClientProvider(
                f"{wall.url}/mcp/demo",
                OAuthClientMetadata(
                    client_name="Example Agent", redirect_uris=[AnyUrl(CALLBACK)], token_endpoint_auth_method="none"
                ),
                KeptTokens(),
                redirect,
                callback,
                client_metadata_url=CIMD_URL,
            )
            async with httpx2.AsyncClient(auth=provider, timeout=20) as client:
                answers = []
                for tool in ("echo", "put"):
                    body, headers = modern("tools/call", {"name": tool, "arguments": {"text": "hello"}})
                    answers.append(await client.post(f"{wall.url}/mcp/demo", json=body, headers=headers))
                    if not secret:
                        secret = base64.b32decode(identity.factors.offer(user))
                        before = HOTP(secret, 6, SHA1()).generate(int(time.time()) // 30 - 1).decode()
                        assert identity.factors.confirm(user, before)
    assert [answer.status_code for answer in answers] == [200, 200], answers[-1].text
    assert "stepup" not in asked[0]
    assert "stepup:mfa" in asked[-1]
