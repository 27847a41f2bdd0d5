"""Both generations of the published TypeScript client of MCP at a whole firewall, with Chromium for the person."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")

from selenium.webdriver.remote.webdriver import WebDriver

from tests.front_door.npm_packages import node, packages
from tests.front_door.pages_house import Callback
from tests.front_door.visit import Visit, pass_time, visit
from tests.support.composed import modern
from tests.support.door import CIMD_URL

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(120, func_only=True)]

WANTED = {"@modelcontextprotocol/client": "2.4.0", "@modelcontextprotocol/sdk": "1.32.2"}
STEP_S = 30
LATER_S = 301  # one second more than an access token lives
KINDS: dict[str, dict[str, str]] = {
    "document": {"document": CIMD_URL},
    "registered": {"clientId": "desk"},
    "registers": {},
}
CLIENT_IDS = {"document": CIMD_URL, "registered": "desk", "registers": "dcr_"}


@pytest.fixture(scope="module", autouse=True)
def modules() -> Path:
    return packages("front-door-clients", WANTED)


@dataclass
class Program:
    """The client as a process of its own."""

    here: Visit
    process: asyncio.subprocess.Process

    async def does(self, command: str) -> dict[str, Any]:
        """Have a command done, with the person's help where it needs that; return what came of it."""
        await self._tell(command)
        while (said := await self._said())["step"] == "authorize":
            await self._tell(await self.here.agree(said["url"]))
        return said

    async def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        await self.process.stdin.drain()

    async def _said(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), STEP_S)
        assert line, (await self.process.stderr.read()).decode()
        said: dict[str, Any] = json.loads(line)
        return said


@contextlib.asynccontextmanager
async def program(here: Visit, back: Callback, modules: Path, **given: Any) -> AsyncIterator[Program]:
    """Start a client; end it with the block."""
    script = Path(__file__).with_name("mcp_client.mjs")
    told = json.dumps({"server": here.server, "redirect": back.url, **given})
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        node(), script, modules, told, stdin=pipe, stdout=pipe, stderr=pipe, limit=1 << 20
    )
    try:
        yield Program(here, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def first_login(typescript: Program, kind: str) -> dict[str, Any]:
    """Connect, list and call; return the tokens."""
    connected = await typescript.does("connect")
    assert connected["step"] == "connect", connected
    assert connected["client"].startswith(CLIENT_IDS[kind])
    assert typescript.here.walks == [["password", "allow"]]
    assert (await typescript.does("list")) == {"step": "list", "names": ["echo", "put"]}
    assert (await typescript.does("call echo")) == {"step": "call", "error": False}
    return connected


async def refreshed(typescript: Program, before: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call when the token has expired: the client is refused, and refreshes without a person."""
    pass_time(monkeypatch, LATER_S)
    assert (await typescript.does("call echo")) == {"step": "call", "error": False}
    after = await typescript.does("tokens")
    assert after["access"] != before["access"]
    assert after["refresh"] not in ("", before["refresh"])
    assert len(typescript.here.walks) == 1


async def ended(typescript: Program) -> None:
    """Call when the person has ended the connection: a new login."""
    walks = len(typescript.here.walks)
    await typescript.here.end_connections()
    assert (await typescript.does("call echo")) == {"step": "call", "error": False}
    assert len(typescript.here.walks) == walks + 1


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("kind", list(KINDS))
async def test_the_client_package_lives_through_a_tokens_whole_life(
    kind: str,
    mode: str,
    tmp_path: Path,
    chrome: WebDriver,
    client: Callback,
    modules: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with (
        visit(tmp_path / "state", chrome) as here,
        program(here, client, modules, library="client", mode=mode, **KINDS[kind]) as typescript,
    ):
        first = await first_login(typescript, kind)
        await refreshed(typescript, first, monkeypatch)
        assert (await typescript.does("call put")) == {"step": "call", "error": False}
        assert here.walks[1:] == [["allow"]]
        assert set((await typescript.does("tokens"))["scope"].split()) >= {"demo:read", "demo:write"}
        await ended(typescript)


@pytest.mark.parametrize("kind", list(KINDS))
async def test_the_older_sdk_package_lives_through_a_tokens_whole_life(
    kind: str, tmp_path: Path, chrome: WebDriver, client: Callback, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        visit(tmp_path / "state", chrome) as here,
        program(here, client, modules, library="sdk", **KINDS[kind]) as typescript,
    ):
        first = await first_login(typescript, kind)
        await refreshed(typescript, first, monkeypatch)
        # This library answers a demand for more scope with a refresh, which never gives more, and then gives up.
        # A program that wants a person to be asked forgets its refresh token first.
        await typescript.does("forget")
        assert (await typescript.does("call put")) == {"step": "call", "error": False}
        assert here.walks[1:] == [["allow"]]
        await ended(typescript)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_client_package_proves_its_key_where_bearer_tokens_are_refused(
    mode: str, tmp_path: Path, chrome: WebDriver, client: Callback, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dpop = {"nonces": True, "required_at": ["/mcp/demo"]}
    async with (
        visit(tmp_path / "state", chrome, dpop=dpop) as here,
        program(here, client, modules, library="client", mode=mode, dpop=True, document=CIMD_URL) as typescript,
    ):
        first = await first_login(typescript, "document")
        assert first["type"] == "dpop"
        body, headers = modern("tools/list")
        for kind in ("Bearer", "DPoP"):
            stolen = {**headers, "authorization": f"{kind} {first['access']}"}
            assert (await here.wall.post("/mcp/demo", body, headers=stolen)).status == 401
        await refreshed(typescript, first, monkeypatch)
        assert (await typescript.does("call put")) == {"step": "call", "error": False}
        await ended(typescript)
        assert (await typescript.does("tokens"))["type"] == "dpop"
