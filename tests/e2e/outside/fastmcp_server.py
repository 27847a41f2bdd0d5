"""A FastMCP 4 server (its own environment, ``fastmcp.txt``) on ``--port N``."""

import sys

from fastmcp import FastMCP

server = FastMCP("fast", instructions="A fast server.")


@server.tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.resource("fast://greeting")
def greeting() -> str:
    """A greeting."""
    return "Good day."


@server.resource("fast://numbers/{number}")
def number(number: str) -> str:
    """One number."""
    return f"number {number}"


@server.prompt
def polite(name: str) -> str:
    """Greets somebody."""
    return f"Please greet {name}."


server.run("http", host="127.0.0.1", port=int(sys.argv[2]), path="/mcp", show_banner=False, log_level="ERROR")
