"""The decision point inside a whole node, with the policy that is shipped and tokens as an enforcer gets them."""

from pathlib import Path
from typing import Any

import pytest

from tests.invariants.conftest import house_config
from tests.support.composed import composed
from tests.support.world import world

pytestmark = pytest.mark.flow


def asked(tool: str, arguments: dict[str, Any], *scopes: str) -> dict[str, Any]:
    return {
        "subject": {"type": "service", "id": "agent-7", "properties": {"scopes": list(scopes)}},
        "action": {"name": "tools/call", "properties": {"arguments": arguments}},
        "resource": {"type": "tool", "id": tool, "properties": {"server": "demo"}},
    }


async def test_the_shipped_policy_decides_for_another_enforcer_as_it_does_on_our_own_road(tmp_path: Path) -> None:
    async with world() as upstreams:
        enforcers = {"svc": {"scopes": ["demo:*"], "strangers": True}}
        config = house_config(upstreams, tmp_path / "state", authzen={"enforcers": enforcers})
        async with composed(config) as wall:
            # Seen and pinned once, through us.
            answer = await wall.call("demo", "echo", {"text": "x"}, token=wall.mint("/mcp/demo", "demo:read"))
            assert answer.status == 200, answer.text
            token = await wall.sign_in("/access", "access:evaluate")

            async def decide(body: dict[str, Any], bearer: str = token) -> Any:
                return await wall.post("/access/v1/evaluation", body, token=bearer)

            both = ("demo:read", "demo:write")
            assert (await decide(asked("echo", {"text": "x"}, *both))).json["decision"] is True
            for body in (
                asked("echo", {"text": "x"}),  # no scope
                asked("echo", {"text": 1}, *both),  # not what the schema says
                asked("nothing", {}, *both),  # never seen
                asked("echo", {"text": "/etc/shadow"}, "other:read"),
            ):
                found = (await decide(body)).json
                assert found["decision"] is False, body
                assert found["context"]["decision_id"]
            unseen = (await decide(asked("nothing", {}, *both))).json["context"]["reason_user"]["en"]
            assert "never approved" in unseen  # it did not change: nobody here has seen it
            named = await wall.post(
                "/access/v1/evaluation",
                asked("echo", {"text": "x"}, *both),
                token=token,
                headers={"x-request-id": "r-1"},
            )
            assert (named.json["decision"], named.header("x-request-id")) == (True, "r-1")
            # The two audiences do not open each other.
            assert (
                await decide(asked("echo", {"text": "x"}, *both), wall.mint("/mcp/demo", "demo:read"))
            ).status == 401
            assert (await wall.call("demo", "echo", {"text": "x"}, token=token)).status == 401
            other = await wall.sign_in("/access", "access:evaluate", client="other")
            assert (await decide(asked("echo", {"text": "x"}, *both), other)).status == 403


async def test_where_it_is_off_there_is_nothing(tmp_path: Path) -> None:
    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state")) as wall:
        assert (await wall.post("/access/v1/evaluation", {})).status == 404
