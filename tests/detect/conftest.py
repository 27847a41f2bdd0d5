"""One scanner for all tests of the room; its database is kept under build/, so a second run starts at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON
from firewall.core.points import Point
from firewall.detect.scan import PatternScanner

CACHE = Path(__file__).parents[2] / "build" / "patterns"
Scan = Callable[..., list[Finding]]


@pytest.fixture(scope="session")
def scanner() -> PatternScanner:
    """The scanner as the product runs it."""
    return PatternScanner(cache=CACHE)


@pytest.fixture(scope="session")
def call(scanner: PatternScanner) -> Scan:
    """Scan a tool call's arguments."""

    def scan(arguments: JSON, point: Point = Point.MCP_TOOL_CALL) -> list[Finding]:
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": arguments}}
        return scanner.scan(body, point, "acme")

    return scan


@pytest.fixture(scope="session")
def result(scanner: PatternScanner) -> Scan:
    """Scan a tool result's text."""

    def scan(text: str, point: Point = Point.MCP_TOOL_RESULT) -> list[Finding]:
        return scanner.scan(
            {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": text}]}}, point, "acme"
        )

    return scan
