"""A person, a client, an agent behind us and what the agent reaches: one chain, seen by policy and by the log."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from firewall.core.label import names_of
from firewall.identity.rfc8693.handing import HandedTokens
from firewall.wire import jwt
from tests.invariants.conftest import HIDDEN, house_config
from tests.support.chain import claims_in
from tests.support.composed import SERVICE_KEY, Composed, composed
from tests.support.world import World, world

pytestmark = pytest.mark.flow

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
PASSWORD = "correct horse battery staple"


def config(upstreams: World, state: Path, **agent: Any) -> dict[str, Any]:
    key = dict(SERVICE_KEY.as_dict(private=False))
    confidential = {"grants": ["token_exchange", "client_credentials"], "scopes": ["*"], "jwks": {"keys": [key]}}
    clients = {
        "desk": {"redirect_uris": ["http://127.0.0.1/callback"]},
        "agent": {**confidential, "resource": "/a2a/agent"},
        "svc": confidential,
    }
    given = house_config(upstreams, state, identity={"clients": clients})
    given["a2a"]["agent"].update(agent)
    return given


async def ask(wall: Composed, token: str) -> Any:
    parts = {"role": "ROLE_USER", "messageId": os.urandom(8).hex(), "parts": [{"text": "what time is it?"}]}
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": parts}}
    return await wall.post(
        "/a2a/agent", body, token=token, headers={"a2a-version": "1.0", "accept": "application/json"}
    )


async def exchanged(wall: Composed, token: str, client: str, resource: str, *scopes: str) -> httpx2.Response:
    now = int(time.time())
    claims = {"iss": client, "sub": client, "aud": wall.url, "iat": now, "exp": now + 60}
    claims["jti"] = base64.urlsafe_b64encode(os.urandom(12)).decode()
    form = {
        "grant_type": EXCHANGE,
        "client_assertion_type": ASSERTION,
        "client_assertion": jwt.sign(claims, SERVICE_KEY, alg="ES256", typ="JWT", kid="svc"),
        "subject_token": token,
        "subject_token_type": ACCESS_TOKEN,
        "resource": f"{wall.url}{resource}",
        "scope": " ".join(scopes),
    }
    async with httpx2.AsyncClient(timeout=20) as http:
        return await http.post(f"http://127.0.0.1:{wall.port}/token", data=form)


def handed(upstreams: World) -> str:
    """Return the token that the agent got with its last message, "" for none."""
    headers = dict(upstreams.calls("a2a")[-1].headers)
    return headers.get(b"authorization", b"").decode().removeprefix("Bearer ")


async def test_an_agent_goes_on_in_a_persons_name_and_the_chain_is_seen(tmp_path: Path) -> None:
    async with world() as upstreams, composed(config(upstreams, tmp_path / "s", delegates=["demo:read"])) as wall:
        ada = await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=("*",))
        who = {"sub": ada.subject, "client_id": "desk", "gid": "g_ada", "sid": "s_ada"}
        mine = wall.mint("/a2a/agent", "agent:send", "demo:read", **who)
        assert (await ask(wall, mine)).status == 200
        token = handed(upstreams)
        assert token
        assert token != mine, "never the token that came in (RS-16)"
        claims = claims_in(token)
        assert (claims["aud"], claims["scope"], claims["client_id"]) == (f"{wall.url}/a2a/agent", "demo:read", "desk")
        assert claims["exp"] <= claims_in(mine)["exp"]
        # With it the agent reaches nothing by itself, and nobody else can exchange it.
        assert (await wall.call("demo", "echo", {"text": "x"}, token=token)).status == 401
        assert (await ask(wall, token)).status == 403
        assert (await exchanged(wall, token, "svc", "/mcp/demo", "demo:read")).is_error
        mine_now = (await exchanged(wall, token, "agent", "/mcp/demo", "demo:read")).json()["access_token"]
        answer = await wall.call("demo", "echo", {"text": "x"}, token=mine_now)
        assert answer.json["result"].get("isError") is None
        assert (await wall.call("demo", "put", {"text": "x"}, token=mine_now)).status == 403
        chain = [record["chain"] for record in wall.records() if record.get("point") == "mcp.tool.call"][-1]
        assert chain == [
            {"sub": ada.subject, "type": "user"},
            {"sub": "desk", "type": "agent"},
            {"sub": "agent", "type": "agent"},
        ]


async def test_an_agent_is_handed_nothing_that_was_not_given_along(tmp_path: Path) -> None:
    async with world() as upstreams, composed(config(upstreams, tmp_path / "s", delegates=["demo:read"])) as wall:
        for scopes in (("agent:send",), ("agent:send", "demo:write")):
            assert (await ask(wall, wall.mint("/a2a/agent", *scopes))).status == 200
            assert handed(upstreams) == ""


async def test_twin_without_delegates_nothing_is_handed(tmp_path: Path) -> None:
    async with world() as upstreams, composed(config(upstreams, tmp_path / "s")) as wall:
        assert (await ask(wall, wall.mint("/a2a/agent", "agent:send", "demo:read"))).status == 200
        assert handed(upstreams) == ""


async def test_two_people_are_handed_each_their_own(tmp_path: Path) -> None:
    async with world() as upstreams, composed(config(upstreams, tmp_path / "s", delegates=["demo:read"])) as wall:
        for name in ("u_ann", "u_bob", "u_ann"):
            token = wall.mint("/a2a/agent", "agent:send", "demo:read", sub=name, client_id="desk")
            assert (await ask(wall, token)).status == 200
            assert claims_in(handed(upstreams))["sub"] == name
        same = wall.mint("/a2a/agent", "agent:send", "demo:read", sub="u_ann", client_id="desk")
        await ask(wall, same)
        first = handed(upstreams)
        await ask(wall, same)
        assert handed(upstreams) == first, "made once for a token, not once for a request"


@pytest.mark.parametrize("handing", [True, False])
async def test_what_a_client_has_read_reaches_the_agent_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handing: bool
) -> None:
    """The agent exchanged in time, before the client read anything: its context is no cleaner for it."""
    if not handing:
        monkeypatch.setattr(HandedTokens, "_hand_on_labels", lambda *_a: None)
    async with world() as upstreams, composed(config(upstreams, tmp_path / "s", delegates=["demo:write"])) as wall:
        ada = await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=("*",))
        who = {"sub": ada.subject, "client_id": "desk"}
        mine = wall.mint("/a2a/agent", "agent:send", "demo:write", **who)
        await ask(wall, mine)
        taken = (await exchanged(wall, handed(upstreams), "agent", "/mcp/demo", "demo:write")).json()["access_token"]
        upstreams.mcp["demo"].answer = {"content": [{"type": "text", "text": HIDDEN}]}
        await wall.call("demo", "echo", {"text": "x"}, token=wall.mint("/mcp/demo", "demo:read", **who))
        upstreams.mcp["demo"].answer = None
        bearer = {b"authorization": f"Bearer {taken}".encode()}
        agent = wall.worker.identity.resource_server.authenticate(bearer, f"{wall.url}/mcp/demo", default_scope="")
        labels = wall.worker.guard.labels
        assert "hidden_instructions" not in names_of(labels.current(agent))
        await ask(wall, mine)
        assert ("hidden_instructions" in names_of(labels.current(agent))) == handing


async def test_a_stop_of_a_client_stops_whoever_acts_for_it(tmp_path: Path) -> None:
    async with world() as upstreams, composed(config(upstreams, tmp_path / "s")) as wall:
        behind = {"sub": "u_ann", "client_id": "agent", "act": {"sub": "agent", "act": {"sub": "desk"}}}
        mine = wall.mint("/mcp/demo", "demo:read", sub="u_ann", client_id="agent")
        through = wall.mint("/mcp/demo", "demo:read", **behind)
        for stopped, own in (("desk", True), ("agent", False), ("somebody", True)):
            wall.worker.kill_switch.pull("default", "client", stopped, by="test")
            allowed = [
                not (await wall.call("demo", "echo", {"text": "x"}, token=token)).json["result"].get("isError")
                for token in (mine, through)
            ]
            assert allowed == [own, stopped == "somebody"], stopped
            wall.worker.kill_switch.release("default", "client", stopped)
