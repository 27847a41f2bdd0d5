"""A server on the SDK before 2.0 (its own environment, ``old-sdk.txt``): stdio, or HTTP with ``--port N``."""

import sys

from mcp.server.fastmcp import Context, FastMCP
from pydantic import BaseModel

server = FastMCP(
    "old", instructions="An old server.", host="127.0.0.1", port=int(sys.argv[-1]) if "--port" in sys.argv else 0
)


class Answer(BaseModel):
    colour: str


@server.tool()
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
async def favourite(ctx: Context) -> str:
    """Asks the user for a colour."""
    told = await ctx.elicit("Which colour do you like?", Answer)
    return f"{told.action}: {told.data.colour if told.action == 'accept' else '-'}"


@server.tool()
async def count(ctx: Context, upto: int) -> str:
    """Counts, and says how far it is."""
    for step in range(1, upto + 1):
        await ctx.report_progress(step, upto)
    return "done"


@server.resource("old://greeting")
def greeting() -> str:
    """A greeting."""
    return "Good day."


@server.prompt()
def polite(name: str) -> str:
    """Greets somebody."""
    return f"Please greet {name}."


server.run("streamable-http" if "--port" in sys.argv else "stdio")
