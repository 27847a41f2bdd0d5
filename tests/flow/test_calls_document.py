"""docs/oauth.md, "A call": each of these exchanges is sent to a whole firewall as it stands there."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.identity.test_oauth_document import Reader, exchanges, is_call
from tests.support.composed import composed, settings
from tests.support.world import tool, world

pytestmark = pytest.mark.flow

TOOLS = [tool("get_current_time", "timezone"), tool("set_timezone", "timezone")]


async def test_every_call_of_the_page_is_answered_as_it_says(root: Path, tmp_path: Path) -> None:
    text = (root / "docs" / "oauth.md").read_text(encoding="utf-8")
    async with world() as upstreams:
        time = {
            "url": upstreams.add_mcp("time", tools=TOOLS),
            "network": "loopback",
            "tools": {"get_current_time": "read", "set_timezone": "write"},
        }
        async with composed(settings(tmp_path / "state", mcp={"time": time})) as wall:
            here = text.replace("https://fw.example", wall.url).replace("Host: fw.example", f"Host: {wall.url[7:]}")
            calls = [one for one in exchanges(here) if is_call(one)]
            assert [one.status for one in calls] == [401, 200, 403]
            known = {"access_token": wall.mint("/mcp/time", "time:read")}
            async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
                for one in calls:
                    await Reader(http, known, {}).send(one)
