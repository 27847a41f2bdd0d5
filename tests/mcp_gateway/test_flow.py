"""Whole exchanges: the official client, our gateway, a real server of the official SDK; every era on both sides."""

import pytest

from tests.conformance.everything_server import build
from tests.support.mcp import running, served, spec

pytestmark = pytest.mark.flow


@pytest.mark.parametrize("behind", ["modern", "legacy"])
@pytest.mark.parametrize("front", ["auto", "legacy"])
async def test_each_era_in_front_reaches_each_era_behind(front: str, behind: str):
    async with served(build().streamable_http_app()) as origin:
        async with running(spec("every", url=f"{origin}/mcp", era=behind)) as stack:
            async with stack.client("/mcp/every", mode=front) as client:
                assert client.protocol_version == ("2026-07-28" if front == "auto" else "2025-11-25")
                names = [tool.name for tool in (await client.list_tools()).tools]
                assert "test_simple_text" in names
                assert names == sorted(names)
                result = await client.call_tool("test_simple_text", {})
                assert result.content[0].text == "This is a simple text response for testing."
                seen = []

                async def on_progress(progress, total, message):
                    seen.append((progress, total))

                await client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
                assert seen == [(0, 100), (50, 100), (100, 100)]
                failed = await client.call_tool("test_error_handling", {})
                assert failed.is_error
            assert list(stack.kit.faults) == []
