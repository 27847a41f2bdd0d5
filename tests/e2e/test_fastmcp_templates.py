"""FastMCP's resource templates through us: every form that it publishes, and nothing outside them."""

import pytest

pytest.importorskip("fastmcp", reason="not installed: requirements/install.sh conformance")

from fastmcp import FastMCP

from tests.support.mcp import running, served, spec

pytestmark = [pytest.mark.conformance, pytest.mark.anyio]


async def test_a_fastmcp_server_serves_its_templates_through_us():
    server = FastMCP("files")

    @server.resource("files://{path*}")
    def by_path(path: str) -> str:
        return f"file {path}"

    @server.resource("find://{place}{?word,most}")
    def find(place: str, word: str = "all", most: int = 3) -> str:
        return f"{place} {word} {most}"

    async with served(server.http_app(path="/mcp")) as origin:
        async with running(spec("demo", url=f"{origin}/mcp")) as stack, stack.client("/mcp/demo") as client:
            told = {one.uri_template for one in (await client.list_resource_templates()).resource_templates}
            assert told == {"files://{path*}", "find://{place}{?word,most}"}
            for uri, text in (
                ("files://a/b/c.txt", "file a/b/c.txt"),
                ("find://here", "here all 3"),
                ("find://here?word=x&most=5", "here x 5"),
            ):
                assert (await client.read_resource(uri)).contents[0].text == text
            with pytest.raises(Exception, match="not"):
                await client.read_resource("files://a/../b")
