"""One person's whole story in one firewall: consent, calls, a step-up, an agent, a model, and the log that tells it."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from firewall.record.show import explain
from firewall.record.verify import verify
from tests.invariants.conftest import house_config
from tests.support.composed import Answer, Composed, composed
from tests.support.door import CALLBACK, CIMD_DOCUMENT, CIMD_URL, PASSWORD, VERIFIER, Browser, authorize_query
from tests.support.world import World, world

pytestmark = pytest.mark.flow


async def consented(wall: Composed, browser: Browser, resource: str, scope: str) -> tuple[str, str]:
    """Sign in where needed, consent, redeem; return (access token, refresh token)."""
    query = authorize_query(resource=f"{wall.url}{resource}", scope=scope)
    code = (await browser.code(query))["code"]
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
    # A code is good once: whoever plays it again ends the grant that came of it.
    return answer.json()["access_token"], answer.json().get("refresh_token", "")


def config_with_client(upstreams: World, state: Path) -> dict[str, object]:
    config = house_config(upstreams, state)
    config["identity"] = {**config["identity"], "cimd": {"pinned": {CIMD_URL: CIMD_DOCUMENT}}}
    return config


def decision_of(answer: Answer) -> str:
    text = answer.json["result"]["content"][0]["text"]
    return text.partition("(decision ")[2].rstrip(")")


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_person_lets_an_agent_in_and_can_read_later_what_it_did(tmp_path: Path, workers: int) -> None:
    async with (
        world() as upstreams,
        composed(config_with_client(upstreams, tmp_path / "state"), workers=workers) as wall,
    ):
        user = await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=("*",), roles=("dev",))
        async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
            browser = Browser(http, wall.url)
            reading, _ = await consented(wall, browser, "/mcp/demo", "demo:read")
            assert (await wall.call("demo", "echo", {"text": "hello"}, token=reading)).json["result"]["content"]
            # A writing tool: challenged with the scope that would cure it, and cured by consent to that scope.
            challenged = await wall.call("demo", "put", {"text": "x"}, token=reading)
            assert challenged.status == 403
            assert 'scope="demo:write"' in challenged.header("www-authenticate")
            writing, refresh = await consented(wall, browser, "/mcp/demo", "demo:read demo:write")
            assert (await wall.call("demo", "put", {"text": "x"}, token=writing)).json["result"]["content"]
            # Another audience, another consent.
            chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
            assert (await wall.post("/v1/chat/completions", chat, token=writing)).status == 401
            model, _ = await consented(wall, browser, "/v1", "llm:invoke")
            assert (await wall.post("/v1/chat/completions", chat, token=model)).status == 200
            # A denial names a decision, and the log explains it to whoever may read it.
            denied = await wall.call("demo", "echo", {"text": "AKIA" + "QYLPMN5HHHFPZAM2"}, token=writing)
            assert denied.json["result"]["isError"] is True
            # The person changes the password: every token of every grant is dead at once, refreshing too.
            await wall.worker.identity.users.set_password("default", user.subject, PASSWORD + " again")
            assert (await wall.call("demo", "echo", {"text": "hello"}, token=writing)).status == 401
            again = {"grant_type": "refresh_token", "refresh_token": refresh, "client_id": CIMD_URL}
            assert (await http.post("/token", data=again)).status_code == 400
        story = explain(wall.audit, decision_of(denied))
        keys = (wall.audit / "vkey").read_text().split()
    assert story["who"]["subject"] == user.subject  # type: ignore[index,call-overload]
    assert "content.secret_in_request" in str(story["decisions"])
    report = verify(wall.audit, keys)
    assert report.ok, report.text()
    assert report.open_intents == []
