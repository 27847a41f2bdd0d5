"""Invariant 9: signatures are verified on arrival and made anew; two forms change together or not at all; ids compare."""

from __future__ import annotations

import json
from typing import Any

import pytest
from joserfc.jwk import ECKey

from firewall.enforce import guard as guard_module
from firewall.wire import canonical
from tests.attack.words import SECRETS
from tests.invariants.conftest import House
from tests.support.composed import Answer, Composed, raw_exchange, request_bytes

pytestmark = pytest.mark.flow


async def get(wall: Composed, path: str) -> Any:
    answer = await raw_exchange(wall.port, request_bytes(path, wall.url[7:], [], b"", verb="GET"))
    assert answer.status == 200, answer.text
    return answer.json


def verifies(card: dict[str, Any], keys: list[dict[str, Any]]) -> bool:
    """Whether one of the keys signed the card (A2A 1.0 §8.4: JWS over the canonical card, payload detached)."""
    import base64

    from joserfc import jws

    payload = base64.urlsafe_b64encode(canonical.encode({k: v for k, v in card.items() if k != "signatures"})).rstrip(
        b"="
    )
    for signature in card["signatures"]:
        whole = f"{signature['protected']}.{payload.decode()}.{signature['signature']}"
        for key in keys:
            try:
                jws.deserialize_compact(whole, ECKey.import_key(key), algorithms=["ES256"])
                return True
            except Exception:
                continue
    return False


async def test_the_card_that_we_serve_is_signed_by_us_and_by_nobody_else(house: House) -> None:
    async with house() as (wall, upstreams):
        card = await get(wall, "/a2a/agent/.well-known/agent-card.json")
        ours = (await get(wall, "/a2a/.well-known/jwks.json"))["keys"]
        theirs = upstreams.a2a["agent"].agent.jwks()["keys"]
        assert verifies(card, ours)
        assert not verifies(card, theirs)
        assert upstreams.origin not in json.dumps(card), "our card leads past us"
        changed = {**card, "description": "Something else."}
        assert not verifies(changed, ours)


def split(secret: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": "clean"}], "structuredContent": {"note": secret}}


async def test_text_and_structure_change_together_or_the_result_is_refused(house: House) -> None:
    async with house() as (wall, upstreams):
        upstreams.mcp["demo"].answer = split(SECRETS["aws"])
        answer = await wall.call("demo", "echo", {"text": "x"}, token=wall.mint("/mcp/demo", "demo:read"))
        assert answer.json["result"]["isError"] is True
        assert SECRETS["aws"] not in answer.text
        upstreams.mcp["demo"].answer = {
            "content": [{"type": "text", "text": f"note {SECRETS['aws']}"}],
            "structuredContent": {"note": SECRETS["aws"]},
        }
        both = await wall.call("demo", "echo", {"text": "x"}, token=wall.mint("/mcp/demo", "demo:read"))
        assert both.json["result"].get("isError") is None
        assert SECRETS["aws"] not in both.text


async def test_without_the_coupling_the_two_forms_would_say_different_things(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "check_coupled", lambda _action, _body: None)
    async with house() as (wall, upstreams):
        upstreams.mcp["demo"].answer = split(SECRETS["aws"])
        answer = await wall.call("demo", "echo", {"text": "x"}, token=wall.mint("/mcp/demo", "demo:read"))
        assert answer.json["result"]["content"][0]["text"] == "clean"


async def send(wall: Composed, number: int, **who: str) -> Answer:
    message = {"messageId": f"m{number}", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    headers = {"a2a-version": "1.0", "accept": "application/json"}
    return await wall.post("/a2a/agent", body, token=wall.mint("/a2a/agent", "agent:send", **who), headers=headers)


async def test_an_id_is_the_same_for_one_caller_and_shown_to_nobody_else(house: House) -> None:
    async with house() as (wall, _):
        task = (await send(wall, 1)).json["result"]["task"]
        again = (await send(wall, 2)).json["result"]["task"]
        assert (task["id"], task["contextId"]) == (again["id"], again["contextId"])
        assert task["id"] != "task-of-the-agent"
        for who in ({"sub": "u_other"}, {"client_id": "other-app"}):
            shown = await send(wall, 3, **who)  # the agent shows somebody else's task: it is not passed on
            assert shown.json["error"]["code"] == -32006
            assert task["id"] not in shown.text
