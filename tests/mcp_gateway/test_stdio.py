"""Children over pipes: real programs in the cage, their death and their end."""

from pathlib import Path

import pytest

from mcp_gateway.sandbox import Support, detect
from tests.support.mcp import BIN, running, spec

pytestmark = pytest.mark.flow


@pytest.fixture(scope="session")
def support() -> Support:
    return detect()


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_published_stdio_server_answers_through_us_in_both_eras(mode: str, support: Support, tmp_path: Path):
    time = spec(
        "time", transport="stdio", command=(str(BIN / "mcp-server-time"), "--local-timezone", "UTC"), unsandboxed=True
    )
    async with running(time, support=support, scratch=str(tmp_path / "scratch")) as stack:
        async with stack.client("/mcp/time", mode=mode) as client:
            assert "get_current_time" in [tool.name for tool in (await client.list_tools()).tools]
            result = await client.call_tool("get_current_time", {"timezone": "Europe/Oslo"})
            assert not result.is_error
            assert "Europe/Oslo" in result.content[0].text
        (link,) = stack.gateway._catalog.pool._links.values()
        pid = link.pid
        assert alive(pid)
    assert not alive(pid)
    assert len(stack.tasks) == 0
