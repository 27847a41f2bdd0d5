"""What lists show beyond a token: what its person could add to it, and nothing that anybody else could."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.flow.test_story import config_with_client, consented
from tests.invariants.conftest import TOOLS
from tests.support.composed import Answer, Composed, composed, modern
from tests.support.door import CIMD_DOCUMENT, CIMD_URL, PASSWORD, Browser
from tests.support.world import World, world

pytestmark = pytest.mark.flow


def configured(upstreams: World, state: Path, **server: Any) -> dict[str, Any]:
    config: dict[str, Any] = config_with_client(upstreams, state)
    config["mcp"]["demo"] = {**config["mcp"]["demo"], **server}
    return config


async def token_of(wall: Composed, *, gives: tuple[str, ...], scope: str = "demo:read", path: str = "/mcp/demo") -> str:
    """Return the token of a person who may give these scopes, and gave one."""
    await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=gives, roles=("dev",))
    async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
        token, _ = await consented(wall, Browser(http, wall.url), path, scope)
    return token


async def listed(wall: Composed, token: str, path: str = "/mcp/demo") -> Answer:
    body, headers = modern("tools/list", {})
    return await wall.post(path, body, token=token, headers=headers)


async def shown(wall: Composed, token: str, path: str = "/mcp/demo") -> set[str]:
    answer = await listed(wall, token, path)
    return {tool["name"] for tool in answer.json["result"]["tools"]}


async def test_a_tool_that_the_person_could_add_is_listed_and_its_call_challenged(tmp_path: Path) -> None:
    async with world() as upstreams, composed(configured(upstreams, tmp_path / "state")) as wall:
        token = await token_of(wall, gives=("*",))
        assert await shown(wall, token) == {"echo", "put", "wipe"}
        challenged = await wall.call("demo", "put", {"text": "x"}, token=token)
        assert challenged.status == 403
        told = challenged.header("www-authenticate")
        assert 'error="insufficient_scope"' in told
        assert 'scope="demo:write"' in told
        assert upstreams.calls("mcp", "demo") == []


async def test_the_aggregate_shows_it_too_and_still_no_server_of_which_nothing_is_held(tmp_path: Path) -> None:
    async with world() as upstreams:
        config = configured(upstreams, tmp_path / "state")
        other = upstreams.add_mcp("other", tools=TOOLS)
        config["mcp"]["other"] = {**config["mcp"]["demo"], "url": other}
        async with composed(config) as wall:
            token = await token_of(wall, gives=("*",), path="/mcp")
            names = await shown(wall, token, "/mcp")
            assert {name.partition("demo")[2].strip("_-./") for name in names} == {"echo", "put", "wipe"}
            name = next(name for name in names if name.endswith("put"))
            body, headers = modern("tools/call", {"name": name, "arguments": {"text": "x"}})
            challenged = await wall.post("/mcp", body, token=token, headers=headers)
            assert (challenged.status, 'scope="demo:write"' in challenged.header("www-authenticate")) == (403, True)


async def test_what_the_person_may_not_give_is_not_listed(tmp_path: Path) -> None:
    """The leak that must not be: the entitlement of the person decides, not the wish."""
    async with world() as upstreams, composed(configured(upstreams, tmp_path / "state")) as wall:
        token = await token_of(wall, gives=("demo:read",))
        assert await shown(wall, token) == {"echo"}


async def test_what_the_client_may_not_have_is_not_listed(tmp_path: Path) -> None:
    async with world() as upstreams:
        config = configured(upstreams, tmp_path / "state")
        config["identity"]["cimd"]["pinned"] = {CIMD_URL: {**CIMD_DOCUMENT, "scope": "demo:read"}}
        async with composed(config) as wall:
            token = await token_of(wall, gives=("*",))
            assert await shown(wall, token) == {"echo"}


async def test_where_lists_show_what_is_granted_nothing_else_is_listed(tmp_path: Path) -> None:
    """The twin of the first test: the setting is what lists it. The call is challenged all the same."""
    async with world() as upstreams, composed(configured(upstreams, tmp_path / "state", lists="granted")) as wall:
        token = await token_of(wall, gives=("*",))
        assert await shown(wall, token) == {"echo"}
        assert (await wall.call("demo", "put", {"text": "x"}, token=token)).status == 403


async def test_a_service_that_nobody_stands_behind_is_shown_what_it_holds(tmp_path: Path) -> None:
    async with world() as upstreams, composed(configured(upstreams, tmp_path / "state")) as wall:
        assert await shown(wall, await wall.sign_in("/mcp/demo", "demo:read")) == {"echo"}


async def test_a_person_who_loses_a_scope_sees_less_at_once(tmp_path: Path) -> None:
    async with world() as upstreams, composed(configured(upstreams, tmp_path / "state")) as wall:
        token = await token_of(wall, gives=("*",))
        assert await shown(wall, token) == {"echo", "put", "wipe"}
        users = wall.worker.identity.users
        (user,) = [u for u in users.list("default") if u.name == "ada"]
        users.update("default", user.subject, roles=user.roles, scopes=("demo:read",))
        answer = await listed(wall, token)
        assert answer.status == 401 or {t["name"] for t in answer.json["result"]["tools"]} == {"echo"}


async def test_a_definition_that_nobody_approved_is_not_listed_for_a_step_up(tmp_path: Path) -> None:
    async with world() as upstreams, composed(configured(upstreams, tmp_path / "state", pins="strict")) as wall:
        assert await shown(wall, await token_of(wall, gives=("*",))) == set()
