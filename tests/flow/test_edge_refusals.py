"""What is refused before anybody is known has an id too, over real sockets, and `explain` tells what it was."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from firewall.core.errors import FAULTS
from firewall.record.show import explain, explain_text
from tests.flow.test_story import config_with_client
from tests.invariants.conftest import house_config
from tests.support.composed import Composed, composed
from tests.support.world import world

pytestmark = pytest.mark.flow
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}


async def raw(wall: Composed, sent: bytes) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", wall.port)
    writer.write(sent)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


async def test_each_refusal_that_could_be_explained_has_an_id_that_explains_it(tmp_path: Path) -> None:
    async with world() as upstreams, composed(config_with_client(upstreams, tmp_path / "state")) as wall:
        async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:

            async def told(path: str = "/mcp/demo", **headers: str) -> tuple[int, dict[str, Any]]:
                answer = await http.post(path, json=CALL, headers=headers)
                return answer.status_code, answer.json().get("error", {})

            host = await told(Host="evil.example")
            origin = await told(Origin="https://evil.example")
            wrong = [
                await told(path, Authorization="Bearer not.a.token")
                for path in ("/mcp/demo", "/v1/chat/completions", "/a2a/agent")
            ]
            missing, nowhere = await told(), await told("/nowhere")
            desync = await raw(wall, b"POST /mcp/demo HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 0\r\n\r\n")

        assert (host[0], origin[0], missing[0], nowhere[0]) == (421, 403, 401, 404)
        expected = {
            host[1]["data"]["decision_id"]: ("host_foreign", "host: evil.example"),
            origin[1]["data"]["decision_id"]: ("origin_foreign", "host: evil.example"),
            desync["error"]["data"]["decision_id"]: ("http_desync", "record"),
        }
        for status, error in wrong:
            assert status == 401
            found = error.get("data", error)
            decision_id = found["decision_id"] if isinstance(found, dict) else found[0]["metadata"]["decision_id"]
            expected[decision_id] = ("token_invalid", "detail: ")
        assert len(expected) == 6
        for decision_id, (fault, word) in expected.items():
            text = explain_text(explain(wall.audit, decision_id))
            assert FAULTS[fault].text in text
            assert word in text
        # A first request without a token asks for the way in; a path that nobody has says nothing about anybody.
        assert "decision_id" not in json.dumps([missing, nowhere])
        kept = wall.records("edge")
    assert len(kept) == len(expected)
    assert "not.a.token" not in repr(kept)


async def test_rs_12_no_resource_of_the_node_takes_a_form_and_its_body_is_not_waited_for(tmp_path: Path) -> None:
    """Whatever is a protected resource, by its own catalogue, lies where the edge knows that tokens are wanted."""
    async with world() as upstreams:
        config = house_config(upstreams, tmp_path / "state", authzen={"enforcers": {"svc": {}}})
        async with composed(config) as wall:
            resources = sorted(one.path for one in wall.worker.identity.resources.by_uri.values())
            assert resources == ["/a2a/agent", "/access", "/mcp", "/mcp/demo", "/v1"]
            below = ["/access/v1/evaluation", "/v1/chat/completions", "/v1/messages", "/v1/models"]
            for path in (*resources, *below):
                head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{wall.port}\r\nContent-Length: 999\r\n"
                kind = "Content-Type: application/x-www-form-urlencoded; charset=UTF-8\r\nConnection: close\r\n"
                told = await raw(wall, f"{head}{kind}\r\naccess_token=a.stolen.one".encode())
                assert told["error"]["message"] == FAULTS["http_desync"].text, path
                assert told["error"]["data"]["decision_id"], path
            assert await wall.sign_in("/mcp/demo", "demo:read")  # a form, where forms are taken
        assert "a.stolen.one" not in repr(wall.records())


async def test_a_token_whose_grant_is_over_is_recorded_with_whose_it_was(tmp_path: Path) -> None:
    async with world() as upstreams, composed(config_with_client(upstreams, tmp_path / "state")) as wall:
        token = wall.mint("/mcp/demo", "demo:read", sub="u_ada", gid="g_ada")
        assert (await wall.call("demo", "echo", {"text": "x"}, token=token)).status == 200
        wall.worker.identity.grants.revoke("default", "u_ada", "g_ada", reason="revoked_by_user")
        refused = await wall.call("demo", "echo", {"text": "x"}, token=token)
        assert refused.status == 401
        await wall.call("demo", "echo", {"text": "x"}, token=token)  # now it is verified anew, and no less over
        kept, again = wall.records("edge")
    assert again["gid"] == kept["gid"]
    assert kept["decision_id"] == refused.json["error"]["data"]["decision_id"]
    whose = {"subject": "u_ada", "client": "app", "gid": "g_ada", "tenant": "default", "detail": "grant_revoked"}
    assert kept | whose == kept


async def test_twin_a_node_that_records_none_of_them_tells_no_id(tmp_path: Path) -> None:
    async with world() as upstreams, composed(config_with_client(upstreams, tmp_path / "state")) as wall:
        wall.worker.parts["refusals"].note = lambda *_: ""
        async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
            answer = await http.post("/mcp/demo", json=CALL, headers={"Host": "evil.example"})
        assert (answer.status_code, "data" in answer.json()["error"]) == (421, False)
        assert wall.records("edge") == []
