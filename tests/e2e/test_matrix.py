"""Other people's servers behind us and other people's clients in front: each pair lists, calls, and reads what there is.

Servers: the reference servers of npm (legacy: stdio and HTTP) and of PyPI (modern, stdio), one on the SDK before 2.0
(stdio and HTTP), FastMCP 4, and our own test server of both eras. Clients: the Python SDK in both modes, FastMCP 4,
and the inspector (TypeScript SDK). Installed by `tests.e2e.outside.install`; run by ``make conformance``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.e2e.outside import install
from tests.support.composed import ROOT, Composed, composed, free_port, settings

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]  # a first run installs
OUTSIDE = Path(install.__file__).parent


@dataclass(frozen=True)
class Row:
    """One server: a tool to call with its answer, and something of what else it has."""

    tool: str
    arguments: dict[str, Any]
    says: str
    also: str = ""
    resource: str = ""
    prompt: str = ""
    fails: bool = False
    start: Callable[..., dict[str, Any]] = field(default=dict, repr=False)


class Programs:
    """The processes of one run of the matrix."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.running: list[subprocess.Popen[bytes]] = []
        self.port = 0

    def http(self, *command: str | Path, env: dict[str, str] | None = None, path: str = "/mcp") -> dict[str, Any]:
        """Start a server that listens; ``{port}`` in its command or environment is a free port."""
        port = str(free_port())
        line = [str(part).replace("{port}", port) for part in command]
        given = {k: v.replace("{port}", port) for k, v in (env or {}).items()}
        with (self.place / f"{port}.log").open("wb") as log:
            process = subprocess.Popen(
                line, cwd=ROOT, env={**os.environ, **given}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.running.append(process)
        return {"url": f"http://127.0.0.1:{port}{path}", "network": "loopback"}

    def stdio(self, *command: str | Path, read: tuple[str | Path, ...] = ()) -> dict[str, Any]:
        """Describe a server that the firewall starts."""
        line = [str(part) for part in command]
        paths = {str(Path(line[0]).resolve().parent.parent), str(Path(line[0]).parent.parent), *map(str, read)}
        return {"command": line, "read": sorted(paths), "unsandboxed": True}

    def close(self) -> None:
        """End what was started."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _npm(name: str, *arguments: str | Path, http: bool = False) -> Callable[[Programs], dict[str, Any]]:
    def start(programs: Programs) -> dict[str, Any]:
        script = install.package(name, "dist/index.js")
        given = [str(a).replace("{place}", str(programs.place)) for a in arguments]
        if http:
            return programs.http(install.node(), script, *given, env={"PORT": "{port}"})
        return programs.stdio(install.node(), script, *given, read=(install.npm(), programs.place))

    return start


def _published(module: str, *arguments: str) -> Callable[[Programs], dict[str, Any]]:
    def start(programs: Programs) -> dict[str, Any]:
        given = [a.replace("{place}", str(programs.place)) for a in arguments]
        return programs.stdio(sys.executable, "-m", module, *given, read=(sys.base_prefix, programs.place))

    return start


def _own(lock: str, script: str, *, http: bool) -> Callable[[Programs], dict[str, Any]]:
    def start(programs: Programs) -> dict[str, Any]:
        python = install.python(lock)
        if http:
            return programs.http(python, OUTSIDE / script, "--port", "{port}")
        return programs.stdio(python, OUTSIDE / script, read=(sys.base_prefix, OUTSIDE))

    return start


def _everything(programs: Programs) -> dict[str, Any]:
    return programs.http(sys.executable, "-m", "tests.conformance.everything_server", "--port", "{port}")


SERVERS = {
    "npm-everything-stdio": Row(
        "echo", {"message": "hi"}, "Echo: hi", "get-sum", prompt="simple-prompt",
        resource="demo://resource/static/document/features.md", start=_npm("server-everything", "stdio"),
    ),
    "npm-everything-http": Row(
        "echo", {"message": "hi"}, "Echo: hi", "get-sum", prompt="simple-prompt",
        resource="demo://resource/static/document/features.md",
        start=_npm("server-everything", "streamableHttp", http=True),
    ),
    "npm-filesystem": Row(
        "read_text_file", {"path": "{place}/note.txt"}, "a note", "list_directory",
        start=_npm("server-filesystem", "{place}"),
    ),
    "pypi-time": Row(
        "convert_time", {"source_timezone": "UTC", "time": "10:00", "target_timezone": "Asia/Tokyo"}, "19:00",
        "get_current_time", start=_published("mcp_server_time"),
    ),
    "pypi-git": Row(
        "git_log", {"repo_path": "{place}/repo"}, "first words", "git_status",
        start=_published("mcp_server_git", "--repository", "{place}/repo"),
    ),
    # It may fetch what is public; ours is not, and neither is any other address of this machine.
    "pypi-fetch": Row(
        "fetch", {"url": "http://127.0.0.1:{port}/mcp"}, "", prompt="fetch", fails=True,
        start=_published("mcp_server_fetch"),
    ),
    "old-sdk-stdio": Row(
        "add", {"a": 1, "b": 2}, "3", "count", resource="old://greeting", prompt="polite",
        start=_own("old-sdk", "old_server.py", http=False),
    ),
    "old-sdk-http": Row(
        "add", {"a": 1, "b": 2}, "3", "count", resource="old://greeting", prompt="polite",
        start=_own("old-sdk", "old_server.py", http=True),
    ),
    "fastmcp": Row(
        "add", {"a": 1, "b": 2}, "3", resource="fast://greeting", prompt="polite",
        start=_own("fastmcp", "fastmcp_server.py", http=True),
    ),
    "both-eras": Row(
        "test_simple_text", {}, "simple text response", "test_reconnection", resource="test://static-text",
        prompt="test_simple_prompt", start=_everything,
    ),
}  # fmt: skip


@dataclass
class Matrix:
    """A firewall in front of all of them; servers that could not be had have a reason."""

    wall: Composed
    place: Path
    absent: dict[str, str]

    def arguments(self, row: Row) -> dict[str, Any]:
        """Return a row's arguments with this run's paths."""
        words = {"{place}": str(self.place), "{port}": str(self.wall.port)}
        text = json.dumps(row.arguments)
        for word, meant in words.items():
            text = text.replace(word, meant)
        return dict(json.loads(text))


@pytest.fixture(scope="module")
async def matrix(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Matrix]:
    """Start every server and one firewall."""
    place = tmp_path_factory.mktemp("matrix")
    (place / "note.txt").write_text("a note\n")
    repository(place / "repo")
    programs, upstreams, absent = Programs(place), {}, {}
    for name, row in SERVERS.items():
        try:
            upstreams[name] = {**row.start(programs), "trust": "trusted", "tools": {row.tool: "read"}}
        except pytest.skip.Exception as skipped:
            absent[name] = str(skipped)
    state = tmp_path_factory.mktemp("state") / "state"
    try:
        await asyncio.gather(*(_listening(u["url"]) for u in upstreams.values() if "url" in u))
        async with composed(settings(state, mcp=upstreams)) as wall:
            yield Matrix(wall, place, absent)
    finally:
        programs.close()


def repository(place: Path) -> None:
    """Make a git repository with one commit."""
    who = ["-c", "user.name=Test", "-c", "user.email=test@test.example"]
    subprocess.run(["git", "init", "-q", place], check=True)
    (place / "file").write_text("words\n")
    subprocess.run(["git", "-C", place, "add", "file"], check=True)
    subprocess.run(["git", "-C", place, *who, "commit", "-qm", "first words"], check=True)


async def _listening(url: str) -> None:
    port = int(url.split(":")[2].split("/")[0])
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)


@dataclass
class Found:
    """What a client saw through the firewall."""

    tools: list[str]
    text: str
    failed: bool
    resources: list[str] | None = None
    prompts: list[str] | None = None


# -- clients -------------------------------------------------------------------------------------------------------


async def sdk(url: str, token: str, row: Row, arguments: dict[str, Any], mode: str) -> Found:
    """Drive the Python SDK's client: lists, a call, and a read of what the server has."""
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=20) as http:
        transport = streamable_http_client(url, http_client=http)
        async with Client(transport, mode=mode, cache=None) as client:
            assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
            tools = [tool.name for tool in (await client.list_tools()).tools]
            called = await client.call_tool(row.tool, arguments)
            found = Found(tools, getattr(called.content[0], "text", ""), called.is_error)
            if row.resource:
                found.resources = [str(r.uri) for r in (await client.list_resources()).resources]
                assert (await client.read_resource(row.resource)).contents
            if row.prompt:
                listed = (await client.list_prompts()).prompts
                found.prompts = [p.name for p in listed]
                prompt = next(p for p in listed if p.name == row.prompt)
                given = {a.name: "Ann" for a in prompt.arguments or [] if a.required}
                if not row.fails:
                    assert (await client.get_prompt(row.prompt, given)).messages
            return found


async def auto(url: str, token: str, row: Row, arguments: dict[str, Any]) -> Found:
    """The SDK's client as it is by default: the modern era."""
    return await sdk(url, token, row, arguments, "auto")


async def legacy(url: str, token: str, row: Row, arguments: dict[str, Any]) -> Found:
    """The SDK's client with a session."""
    return await sdk(url, token, row, arguments, "legacy")


async def _output(*command: str | Path) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(45):
            told, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, (told[-500:], errors[-1500:])
    return told


async def fastmcp(url: str, token: str, row: Row, arguments: dict[str, Any]) -> Found:
    """FastMCP's client, a process of its own environment."""
    script = OUTSIDE / "fastmcp_client.py"
    told = await _output(install.python("fastmcp"), script, url, token, row.tool, json.dumps(arguments))
    said = json.loads(told)
    return Found(said["tools"], said["text"], said["error"], said["resources"], said["prompts"])


async def inspector(url: str, token: str, row: Row, arguments: dict[str, Any]) -> Found:
    """The inspector on the command line, one process per method."""
    command = [install.node(), install.package("inspector", "clients/launcher/build/index.js"), "--cli", url]
    command += ["--transport", "http", "--header", f"Authorization: Bearer {token}", "--method"]

    async def ask(method: str, *more: str) -> Any:
        return json.loads(await _output(*command, method, *more))

    given = [
        word
        for key, value in arguments.items()
        for word in ("--tool-arg", f"{key}={value if isinstance(value, str) else json.dumps(value)}")
    ]
    listed, called, resources, prompts = await asyncio.gather(
        ask("tools/list"),
        _nothing() if row.fails else ask("tools/call", "--tool-name", row.tool, *given),
        ask("resources/list") if row.resource else _nothing(),
        ask("prompts/list") if row.prompt else _nothing(),
    )
    return Found(
        [tool["name"] for tool in listed["tools"]],
        called["content"][0]["text"] if called else "",
        called.get("isError", False) if called else True,
        [resource["uri"] for resource in resources.get("resources", ())],
        [prompt["name"] for prompt in prompts.get("prompts", ())],
    )


async def _nothing() -> Any:
    """Stand where nothing is asked: the inspector ends with an error where a tool does."""
    return {}


CLIENTS: dict[str, Callable[..., Awaitable[Found]]] = {
    "sdk-auto": auto,
    "sdk-legacy": legacy,
    "fastmcp": fastmcp,
    "inspector": inspector,
}


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("server", SERVERS)
async def test_every_client_reaches_every_server_through_us(matrix: Matrix, server: str, client: str) -> None:
    if server in matrix.absent:
        pytest.skip(matrix.absent[server])
    row = SERVERS[server]
    token = matrix.wall.mint(f"/mcp/{server}", f"{server}:read", f"{server}:write", sub=f"u_{client}")
    found = await CLIENTS[client](f"{matrix.wall.url}/mcp/{server}", token, row, matrix.arguments(row))
    assert row.tool in found.tools
    assert row.also in [*found.tools, ""]
    assert found.failed is row.fails, found.text
    assert row.says in found.text
    if row.resource:
        assert found.resources is not None
        assert row.resource in found.resources
    if row.prompt:
        assert found.prompts is not None
        assert row.prompt in found.prompts


async def test_what_a_server_of_npm_is_given_holds_nothing_of_ours(matrix: Matrix) -> None:
    """LO-2 on a real program: its own tool prints its whole environment."""
    server = "npm-everything-stdio"
    if server in matrix.absent:
        pytest.skip(matrix.absent[server])
    token = matrix.wall.mint(f"/mcp/{server}", f"{server}:read", f"{server}:write", sub="u_environment")
    told = (await matrix.wall.call(server, "get-env", {}, token=token)).json["result"]["content"][0]["text"]
    assert set(json.loads(told)) <= {"PATH", "HOME", "TMPDIR", "LANG", "NODE_USE_ENV_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy",
                                     "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"}  # fmt: skip
    assert token not in told
    assert str(matrix.wall.worker.config.state / "keys") not in told
