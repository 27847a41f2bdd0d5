"""People's own accounts at an upstream, by configuration, through the whole firewall with several workers."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx2
import pytest

from firewall.identity.settings import ClientSettings
from tests.support.composed import composed, modern, settings
from tests.support.door import PASSWORD, Browser, inputs_of
from tests.support.mcp import NO_TLS
from tests.support.upstreams import NAME, OURS, SECRET, Person, upstream_server

pytestmark = [pytest.mark.flow, pytest.mark.anyio]


async def test_a_person_connects_an_account_uses_it_everywhere_and_ends_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FILES_SECRET", SECRET)
    ours = ClientSettings(
        "bartizan",
        "Our node",
        redirect_uris=(f"{OURS}/upstream/callback/{NAME}",),
        auth_method="client_secret_basic",
        secret_sha256=hashlib.sha256(SECRET.encode()).hexdigest(),
        tenant="saas",
    )
    async with upstream_server(clients=(ours,)) as upstream:
        auth = {
            "ways": ["user"],
            "issuer": upstream.origin,
            "client_id": "bartizan",
            "secret_env": "FILES_SECRET",
            "dpop": "off",
        }
        given = {
            "url": upstream.url,
            "network": "loopback",
            "tools": {"whoami": "read"},
            "auth": auth,
            "title": "Files",
        }
        async with composed(settings(tmp_path / "state", mcp={NAME: given}), workers=2) as wall:
            ada = await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=("files:*",))
            there = await upstream.user("ada-there")
            token = wall.mint("/mcp/files", "files:read", "files:write", sub=ada.subject)

            async def call(method: str, params: dict[str, Any]) -> Any:
                body, headers = modern(method, params)
                return (await wall.post("/mcp/files", body, token=token, headers=headers)).json

            told = await call("tools/list", {})
            assert told["error"]["code"] == -31407
            link = told["error"]["data"]["url"]
            assert link.startswith(f"{wall.url}/upstream/connect/files?ask=")
            async with (
                httpx2.AsyncClient(base_url=wall.url, verify=NO_TLS, timeout=10) as ours,
                httpx2.AsyncClient(base_url=upstream.origin, verify=NO_TLS, timeout=10) as theirs,
            ):
                browser = Browser(ours, wall.url)
                person = Person(None, upstream, "ada", "ada-there", browser, Browser(theirs, upstream.origin))  # type: ignore[arg-type]
                assert "Connected" in (await person.connect(link)).text
                said = [await call("tools/call", {"name": "whoami", "arguments": {}}) for _ in range(6)]
                assert {one["result"]["content"][0]["text"] for one in said} == {there.subject}
                page = await person.open(f"{wall.url}/account/upstreams")
                assert "Files" in page.text
                await browser.post("/account/upstreams", inputs_of(page.text))
                await asyncio.sleep(0.05)
                for _ in range(6):  # whichever worker answers
                    assert (await call("tools/call", {"name": "whoami", "arguments": {}}))["error"]["code"] == -31407
            for path in ("/oauth/client.json", "/.well-known/client-jwks.json"):
                async with httpx2.AsyncClient(base_url=wall.url, verify=NO_TLS) as http:
                    assert (await http.get(path)).status_code == 200
            assert not [fault for fault in wall.faults if fault[0] == "upstream"]  # nobody connected is no failure
            events = [one["event"] for one in wall.records("auth")]
            assert "identity.upstream.linked" in events
            assert "identity.upstream.unlinked" in events
            assert token not in str(wall.records())
            assert upstream.seen
            assert token not in str(upstream.seen)  # RS-16: the token that came in went nowhere
