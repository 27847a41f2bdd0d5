"""A stdio server of the SDK whose tool changes its list and its resource; run as a program by test_hub."""

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("changing")


@server.resource("note://one", name="one")
def one() -> str:
    """Return the text."""
    return "text"


@server.tool()
async def change(ctx: Context) -> str:
    """Add a tool and say so."""

    def fresh() -> str:
        return "fresh"

    server.add_tool(fresh)
    await ctx.notify_tools_changed()
    await ctx.notify_resource_updated("note://one")
    return "changed"


if __name__ == "__main__":
    server.run("stdio")
