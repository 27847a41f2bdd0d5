"""``bartizan servers``: register, approve, suspend, revoke and list MCP servers; show why a program does not start."""

from __future__ import annotations

import argparse
from typing import Any

from firewall.cli.arguments import Usage
from firewall.cli.context import Node
from firewall.cli.output import emit, when
from firewall.cli.registering import add_verbs, given_only
from firewall.cli.speaker import own_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = add_verbs(parser, "mcp", "MCP server", _options, _spec)
    one = verbs.add("stderr", _stderr)
    one.add_argument("name")
    one.add_argument("--tenant", default="", help="of another tenant")


def _stderr(given: argparse.Namespace) -> int:
    """Show the first lines that a local program wrote to stderr: its own words, escaped, not to be believed."""
    told = Node(given).get(f"registry/mcp/{given.name}/stderr")
    if not told["untrusted_lines"]:
        emit(given, told, f"{given.name} said nothing on its stderr, or was not started within a day.")
        return 0
    how = "its session opened" if told["opened"] else "its session did NOT open"
    emit(given, told, [f"{given.name}, started {when(told['at_us'])}: {how}.", *own_words(told["untrusted_lines"])])
    return 0


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help="its Streamable HTTP endpoint; local programs belong in bartizan.yaml")
    parser.add_argument("--network", choices=("public", "private", "loopback"), help="the one class it may resolve to")
    parser.add_argument("--trust", choices=("trusted", "untrusted"), help="whether its texts are vouched for")
    parser.add_argument("--pins", choices=("tofu", "strict"), help="strict: every definition waits for a person")
    parser.add_argument("--era", choices=("auto", "modern", "legacy"), help="revision it is spoken to with")
    parser.add_argument(
        "--tool", action="append", default=[], metavar="NAME=CLASS", help="a tool's effect class; may be repeated"
    )
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="of one call")


def _spec(given: argparse.Namespace) -> dict[str, Any]:
    tools = {}
    for text in given.tool:
        name, equals, effect = text.rpartition("=")
        if not equals or not name:
            raise Usage("tool_class", "a tool is given as NAME=CLASS", fix="such as --tool read_page=read")
        tools[name] = effect
    return given_only(
        url=given.url,
        network=given.network,
        trust=given.trust,
        pins=given.pins,
        era=given.era,
        tools=tools,
        deadline_s=given.deadline,
    )
