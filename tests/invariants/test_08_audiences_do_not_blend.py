"""Invariant 8: /mcp and /mcp/<name> are resources of their own; a new upstream never widens an existing grant."""

from __future__ import annotations

from typing import Any

import pytest

from firewall.identity.rfc6750 import resource_server
from firewall.wire import jwt
from tests.invariants.conftest import House
from tests.support.composed import Composed, modern
from tests.support.world import ECHO, World, tool

pytestmark = pytest.mark.flow
PATHS = {"/mcp": "demo__echo", "/mcp/demo": "echo", "/mcp/late": "echo"}


async def call(wall: Composed, path: str, tool_name: str, token: str) -> int:
    body, headers = modern("tools/call", {"name": tool_name, "arguments": {"text": "x"}})
    return (await wall.post(path, body, token=token, headers=headers)).status


def late(wall: Composed, upstreams: World) -> None:
    wall.register("late", upstreams.add_mcp("late", tools=[ECHO, tool("put", "text")]), tools={"echo": "read"})


async def test_each_audience_opens_its_own_door_only(house: House) -> None:
    async with house() as (wall, upstreams):
        late(wall, upstreams)
        scopes = ("demo:read", "demo:write", "late:read", "late:write")
        for resource in PATHS:
            token = wall.mint(resource, *scopes)
            told = {path: await call(wall, path, name, token) for path, name in PATHS.items()}
            assert told == {path: 200 if path == resource else 401 for path in PATHS}


async def test_without_the_audience_check_one_token_would_open_all(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = jwt.check_claims

    def lenient(claims: Any, rules: Any, now_s: int) -> None:
        real({**claims, "aud": rules.audience}, rules, now_s)

    monkeypatch.setattr(resource_server.jwt, "check_claims", lenient)
    async with house() as (wall, _):
        token = wall.mint("/mcp/demo", "demo:read")
        assert await call(wall, "/mcp", "demo__echo", token) == 200


async def test_a_new_upstream_does_not_widen_a_grant_that_was_given_before(house: House) -> None:
    async with house() as (wall, upstreams):
        before = await wall.sign_in("/mcp", "demo:read", "demo:write")
        body, headers = modern("tools/list")
        listed = await wall.post("/mcp", body, token=before, headers=headers)
        late(wall, upstreams)
        again = await wall.post("/mcp", body, token=before, headers=headers)
        assert [t["name"] for t in again.json["result"]["tools"]] == [t["name"] for t in listed.json["result"]["tools"]]
        assert await call(wall, "/mcp", "late__echo", before) == 403
        assert upstreams.calls("mcp", "late") == []
        # The twin: whoever consents anew, to the new scopes, gets in.
        after = await wall.sign_in("/mcp", "demo:read", "late:read")
        assert await call(wall, "/mcp", "late__echo", after) == 200


async def test_the_scopes_of_the_aggregate_name_the_server(house: House) -> None:
    async with house() as (wall, upstreams):
        late(wall, upstreams)
        token = wall.mint("/mcp", "demo:read", "demo:write", "late:read")
        body, headers = modern("tools/list")
        names = [
            t["name"] for t in (await wall.post("/mcp", body, token=token, headers=headers)).json["result"]["tools"]
        ]
        assert names == ["demo__echo", "demo__put", "demo__wipe", "late__echo"]
        assert await call(wall, "/mcp", "late__put", token) == 403
