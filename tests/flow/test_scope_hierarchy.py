"""Whoever may change things at a server may read there (MCP, authorization: servers honour scope hierarchies)."""

from __future__ import annotations

from pathlib import Path

import pytest

from firewall.core import scopes
from firewall.decide import question
from firewall.enforce import token_rules
from mcp_gateway import catalog, views
from tests.flow.test_grantable_lists import configured, shown, token_of
from tests.support.composed import composed
from tests.support.world import world

pytestmark = pytest.mark.flow


def test_a_scope_to_write_opens_reading_at_that_server_and_nothing_else() -> None:
    assert scopes.opened(frozenset({"files:write"})) == {"files:write", "files:read"}
    for alone in ({"files:read"}, {"files:send"}, {"llm:invoke"}, {"stepup:mfa"}, {"write"}, set()):
        assert scopes.opened(frozenset(alone)) == alone
    assert "git:read" not in scopes.opened(frozenset({"files:write"}))


@pytest.mark.parametrize("hierarchy", [True, False])
async def test_a_token_to_write_alone_lists_reads_and_writes(
    hierarchy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its twin, without the hierarchy, is challenged for less than it holds, and a client that asks again gets nothing new."""
    if not hierarchy:
        for module in (question, token_rules, catalog, views):
            monkeypatch.setattr(module, "opened", lambda held: held)
    async with world() as upstreams, composed(configured(upstreams, tmp_path / "state", lists="granted")) as wall:
        token = await token_of(wall, gives=("demo:write",), scope="demo:write")
        reads = await wall.call("demo", "echo", {"text": "x"}, token=token)
        writes = await wall.call("demo", "put", {"text": "x"}, token=token)
        assert writes.status == 200
        assert reads.status == (200 if hierarchy else 403)
        if hierarchy:
            assert await shown(wall, token) >= {"echo", "put"}


async def test_a_token_to_read_opens_no_more_than_before(tmp_path: Path) -> None:
    async with world() as upstreams, composed(configured(upstreams, tmp_path / "state", lists="granted")) as wall:
        token = await token_of(wall, gives=("*",))
        assert await shown(wall, token) == {"echo"}
        assert (await wall.call("demo", "put", {"text": "x"}, token=token)).status == 403
