"""A client that is itself a web page of another origin: what AS-13 opens to it in Chromium, and what it keeps shut."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")

from selenium.webdriver.remote.webdriver import WebDriver

from tests.front_door.pages_house import Callback
from tests.front_door.visit import Visit, visit
from tests.support.composed import modern
from tests.support.door import VERIFIER, challenge_of

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(60)]

# Fetches as a library in a page does; a request that the browser forbids, or whose answer it hides, is "blocked".
FETCH = """
const [url, how, done] = arguments;
fetch(url, how).then(async (reply) => {
  const text = await reply.text();
  let body = text;
  try { body = JSON.parse(text); } catch {}
  done({ status: reply.status, body });
}, () => done({ status: "blocked", body: {} }));
"""
JSON_TYPE = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


class Page:
    """The page, open in the browser, and what it asks for."""

    def __init__(self, here: Visit, back: Callback) -> None:
        self.here = here
        self.address = back.page("/program", "<!doctype html><title>program</title>")

    async def open(self) -> None:
        await asyncio.to_thread(self.here.chrome.get, self.address)

    async def fetch(self, url: str, **how: Any) -> tuple[Any, Any]:
        """Return status and body of a fetch from within the page."""
        told = await asyncio.to_thread(self.here.chrome.execute_async_script, FETCH, url, how)
        return told["status"], told["body"]

    async def post(self, url: str, **form: str) -> tuple[Any, Any]:
        return await self.fetch(url, method="POST", headers=FORM, body=urlencode(form))


async def test_as_13_a_page_discovers_registers_redeems_refreshes_and_revokes_across_origins(
    tmp_path: Path, chrome: WebDriver, client: Callback
) -> None:
    async with visit(tmp_path / "state", chrome) as here:
        page, base = Page(here, client), here.wall.url
        await page.open()
        # Libraries send the protocol version with discovery, so that the browser asks for permission first.
        version = {"mcp-protocol-version": "2025-11-25"}
        status, found = await page.fetch(f"{base}/.well-known/oauth-protected-resource/mcp/demo", headers=version)
        assert (status, found["authorization_servers"]) == (200, [base])
        status, server = await page.fetch(f"{base}/.well-known/oauth-authorization-server", headers=version)
        assert (status, server["issuer"]) == (200, base)
        assert (await page.fetch(server["jwks_uri"]))[0] == 200
        wanted = {
            "client_name": "Page",
            "redirect_uris": [client.url],
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
        }
        status, made = await page.fetch(
            server["registration_endpoint"], method="POST", headers=JSON_TYPE, body=json.dumps(wanted)
        )
        assert status == 201
        query = {
            "response_type": "code",
            "client_id": made["client_id"],
            "redirect_uri": client.url,
            "state": "xyz",
            "code_challenge": challenge_of(VERIFIER),
            "code_challenge_method": "S256",
            "resource": here.server,
        }
        client.queries.clear()
        await here.agree(f"{server['authorization_endpoint']}?{urlencode(query)}")
        await page.open()
        known = {"client_id": made["client_id"]}
        back = {"redirect_uri": client.url, "code_verifier": VERIFIER, **known}
        form = {"grant_type": "authorization_code", "code": client.queries[-1]["code"], **back}
        status, first = await page.post(server["token_endpoint"], **form)
        assert (status, first["token_type"]) == (200, "Bearer")
        renewal = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"], **known}
        status, second = await page.post(server["token_endpoint"], **renewal)
        assert (status, second["scope"]) == (200, first["scope"])
        assert (await page.post(server["revocation_endpoint"], token=second["refresh_token"], **known))[0] == 200
        # A refusal can be read too: a library shows what it says.
        status, refused = await page.post(server["token_endpoint"], **{**renewal, "refresh_token": "bzr_x.default"})
        assert (status, refused["error"]) == (400, "invalid_grant")
        body, headers = modern("tools/list")
        gone = await here.wall.post("/mcp/demo", body, token=second["access_token"], headers=headers)
        assert gone.status == 401


async def test_as_13_a_page_reads_nothing_where_a_persons_cookie_would_count(
    tmp_path: Path, chrome: WebDriver, client: Callback
) -> None:
    async with visit(tmp_path / "state", chrome) as here:
        page = Page(here, client)
        await page.open()
        for path in ("/authorize", "/login", "/consent", "/account/grants"):
            for how in ({}, {"credentials": "include"}, {"headers": {"mcp-protocol-version": "2025-11-25"}}):
                assert (await page.fetch(f"{here.wall.url}{path}", **how))[0] == "blocked", path
        # The twin: a request of the same shape to what is open comes through, and without cookies only.
        metadata = f"{here.wall.url}/.well-known/oauth-authorization-server"
        assert (await page.fetch(metadata))[0] == 200
        assert (await page.fetch(metadata, credentials="include"))[0] == "blocked"


CALL = """
const [url, token, body, headers, done] = arguments;
const how = { method: "POST", body, headers: { ...headers, authorization: `Bearer ${token}` } };
fetch(url, how).then(async (reply) => done({
  status: reply.status,
  body: await reply.text(),
  session: reply.headers.get("mcp-session-id"),
  challenge: reply.headers.get("www-authenticate"),
}), () => done({ status: "blocked", body: "", session: null, challenge: null }));
"""


async def test_a_page_of_a_named_origin_calls_tools_and_reads_what_is_missing(
    tmp_path: Path, chrome: WebDriver, client: Callback
) -> None:
    """Initialize, list, call and the challenge of a step-up, by `fetch` from the page; the twin is a node without it."""

    async def call(page: Page, method: str, params: dict[str, Any], token: str, **more: str) -> dict[str, Any]:
        body, headers = modern(method, params)
        sent = (CALL, f"{page.here.wall.url}/mcp/demo", token, json.dumps(body), {**headers, **more})
        told: dict[str, Any] = await asyncio.to_thread(page.here.chrome.execute_async_script, *sent)
        return told

    origin = client.url.removesuffix("/callback")
    for named in (True, False):
        async with visit(tmp_path / str(named), chrome, pages=(origin,) if named else ()) as here:
            page = Page(here, client)
            await page.open()
            token = await here.wall.sign_in("/mcp/demo", "demo:read")
            listed = await call(page, "tools/list", {}, token)
            if not named:
                assert listed["status"] == "blocked"
                continue
            assert (listed["status"], "echo" in listed["body"]) == (200, True)
            echoed = await call(page, "tools/call", {"name": "echo", "arguments": {"text": "from a page"}}, token)
            assert (echoed["status"], '"text":"fine"' in echoed["body"]) == (200, True)
            more = await call(page, "tools/call", {"name": "put", "arguments": {"text": "x"}}, token)
            assert more["status"] == 403
            assert 'scope="demo:write"' in more["challenge"]
            assert "resource_metadata=" in (await call(page, "tools/list", {}, "nothing"))["challenge"]
            opened = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": "initialize",
                "params": {
                    "protocolVersion": "2025-11-25",
                    "capabilities": {},
                    "clientInfo": {"name": "page", "version": "1"},
                },
            }
            kinds = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
            sent = (CALL, f"{here.wall.url}/mcp/demo", token, json.dumps(opened), kinds)
            legacy = await asyncio.to_thread(chrome.execute_async_script, *sent)
            assert (legacy["status"], bool(legacy["session"])) == (200, True)
