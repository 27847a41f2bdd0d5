"""The official client launches ``bartizan run`` as editors do, in both eras: in front of programs, of a URL, of one that asks."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import mcp_types as t
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.e2e.conftest import Upstreams
from tests.support.composed import ROOT, warm_cache
from tests.support.pipe import BARTIZAN, environment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]
MODES = ("auto", "legacy")
ASKER = """
import sys
import anyio
sys.path.insert(0, {root!r})
from mcp.server.stdio import stdio_server
from tests.mcp_gateway.asking_server import build


async def main():
    server = build(modern={modern})
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())

anyio.run(main)
"""


@contextlib.asynccontextmanager
async def launched(home: Path, *arguments: str, mode: str, **callbacks: Any) -> AsyncIterator[Any]:
    """Launch ``bartizan run`` by the SDK's own stdio client."""
    with warm_cache(home / "xdg" / "bartizan"):
        given = StdioServerParameters(
            command=str(BARTIZAN), args=["run", *arguments], env=environment(home), cwd=str(home)
        )
        async with Client(stdio_client(given), mode=mode, cache=None, **callbacks) as client:
            yield client


def python(*arguments: str) -> Sequence[str]:
    return ("--", sys.executable, *arguments)


@pytest.mark.parametrize("mode", MODES)
async def test_a_published_program_lists_and_calls(tmp_path: Path, mode: str) -> None:
    async with launched(tmp_path, *python("-m", "mcp_server_time"), mode=mode) as client:
        assert client.protocol_version == {"auto": "2026-07-28", "legacy": "2025-11-25"}[mode]
        assert {tool.name for tool in (await client.list_tools()).tools} == {"get_current_time", "convert_time"}
        result = await client.call_tool("get_current_time", {"timezone": "Europe/Vienna"})
        assert not result.is_error
        assert "Vienna" in result.content[0].text
        wrong = await client.call_tool("get_current_time", {"timezone": 7})
        assert wrong.is_error


@pytest.mark.parametrize("mode", MODES)
async def test_a_repository_is_served_and_nothing_beside_it(tmp_path: Path, mode: str) -> None:
    repository, beside = tmp_path / "repository", tmp_path / "beside"
    for place in (repository, beside):
        subprocess.run(["git", "init", "-q", str(place)], check=True)
    (repository / "new.txt").write_text("x")
    cage = ("--write", str(repository), "--effects", "git_status=read")
    server = python("-m", "mcp_server_git", "--repository", str(repository))
    async with launched(tmp_path, *cage, *server, mode=mode) as client:
        result = await client.call_tool("git_status", {"repo_path": str(repository)})
        assert "new.txt" in result.content[0].text
        outside = await client.call_tool("git_status", {"repo_path": str(beside)})
        assert outside.is_error


@pytest.mark.parametrize("mode", MODES)
async def test_a_url_is_guarded_and_what_it_hides_is_taken_out(tmp_path: Path, upstreams: Upstreams, mode: str) -> None:
    async with launched(tmp_path, "--name", "notes", upstreams.notes["url"], mode=mode) as client:
        assert "read_page" in {tool.name for tool in (await client.list_tools()).tools}
        text = (await client.call_tool("read_page", {"name": "welcome"})).content[0].text
        assert text == "Welcome to the notebook."


@pytest.mark.parametrize("modern", [True, False], ids=["modern server", "legacy server"])
@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_may_ask_is_answered_through_the_pipe(tmp_path: Path, mode: str, modern: bool) -> None:
    async def elicit(_context: Any, params: Any) -> t.ElicitResult:
        return t.ElicitResult(action="accept", content={"name": "Ada"})

    script = ASKER.format(root=str(ROOT), modern=modern)
    era = "modern" if modern else "legacy"
    server = ("--read", str(ROOT), "--era", era, *python("-c", script))
    async with launched(
        tmp_path, "--name", "asker", "--asks", "elicitation", *server, mode=mode, elicitation_callback=elicit
    ) as client:
        assert (await client.call_tool("form", {})).content[0].text == "accept Ada"


async def test_the_start_is_measured_beside_the_servers_own(tmp_path: Path) -> None:
    """The figure of docs/run.md: what the guard adds to a server's own start, with policy and patterns compiled."""

    async def opened(given: StdioServerParameters) -> float:
        began = time.monotonic()
        async with Client(stdio_client(given), mode="auto", cache=None) as client:
            await client.list_tools()
            return time.monotonic() - began

    environ = environment(tmp_path)
    direct = StdioServerParameters(command=sys.executable, args=["-m", "mcp_server_time"], env=environ)
    guarded = StdioServerParameters(
        command=str(BARTIZAN), args=["run", *python("-m", "mcp_server_time")], env=environ, cwd=str(tmp_path)
    )
    with warm_cache(tmp_path / "xdg" / "bartizan"):
        await opened(guarded)
    alone, through = await opened(direct), await opened(guarded)
    print(f"start to first list: direct {alone:.2f} s, through bartizan run {through:.2f} s")
    assert through < alone + 5  # a bound against mistakes; the figure is for reading
