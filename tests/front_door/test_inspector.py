"""The MCP inspector at a whole firewall: its web application in Chromium, and its command line beside Chromium.

Its web application asks its own server to fetch everything, so the browser makes no request to us across origins.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")

from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from tests.front_door.npm_packages import node, packages
from tests.front_door.visit import Visit, visit
from tests.support.composed import free_port
from tests.support.door import CIMD_URL

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(60, func_only=True)]

WANTED = {"@modelcontextprotocol/inspector": "2.12.0"}
LAUNCHER = Path("node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js")
WITHIN_S = 20
CALL = ("--method", "tools/call", "--tool-name", "echo", "--tool-arg", "text=x")
KINDS = {"document": ("--client-metadata-url", CIMD_URL), "registered": ("--client-id", "desk"), "registers": ()}


@pytest.fixture(scope="module", autouse=True)
def launcher() -> Path:
    return packages("front-door-inspector", WANTED) / LAUNCHER


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return an environment in which it keeps everything below ``home``."""
    kept = {"HOME": str(home), "MCP_STORAGE_DIR": str(home / "store"), "MCP_INSPECTOR_SECRET_STORE": "file"}
    return {"PATH": os.environ["PATH"], **kept, **more}


# -- the web application -------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def web(launcher: Path, here: Visit, home: Path, era: str) -> AsyncIterator[str]:
    """Serve the web application for our server; yield the address to open."""
    port = free_port()
    options = ("--web", "--server-url", here.server, "--transport", "http", "--protocol-era", era)
    process = await asyncio.create_subprocess_exec(
        node(),
        launcher,
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=home,
        env=environment(
            home, CLIENT_PORT=str(port), MCP_INSPECTOR_API_TOKEN="of-this-test", MCP_AUTO_OPEN_ENABLED="false"
        ),
    )
    said = ""
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            while "up and running" not in said:
                line = (await process.stdout.readline()).decode()
                assert line, said
                said += line
        yield f"http://127.0.0.1:{port}/?MCP_INSPECTOR_API_TOKEN=of-this-test"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def until(true: Callable[[], object], what: str, chrome: WebDriver) -> None:
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        with contextlib.suppress(NoSuchElementException, StaleElementReferenceException, IndexError):
            if true():
                return
        time.sleep(0.05)
    raise AssertionError(f"not within {WITHIN_S} s: {what}: {chrome.find_element(By.TAG_NAME, 'body').text[:800]}")


def press(chrome: WebDriver, css: str, label: str = "") -> None:
    """Press the one element that is there; inputs of this application lie under what is drawn over them."""

    def pressed() -> bool:
        found = [one for one in chrome.find_elements(By.CSS_SELECTOR, css) if label in one.text]
        chrome.execute_script("arguments[0].click()", found[0])
        return True

    until(pressed, css + label, chrome)


def connects_and_calls(here: Visit, address: str, version: str) -> None:
    chrome = here.chrome
    chrome.get(address)
    press(chrome, "input[aria-label^='Connect or disconnect']")
    until(lambda: chrome.current_url.startswith(f"{here.wall.url}/"), "our page", chrome)
    here.walks.append([])
    assert here.walk().startswith(address.partition("?")[0])
    assert here.walks == [["password", "allow"]]
    until(lambda: f"MCP {version}" in here.text() and "Connected" in here.text(), "connected", chrome)
    press(chrome, "input[type=radio][id$='-Tools']")
    press(chrome, "button", "echo")
    press(chrome, "button", "Execute Tool")
    until(lambda: "fine" in here.text(), "the result", chrome)


@pytest.mark.parametrize(("era", "version"), [("auto", "2026-07-28"), ("legacy", "2025-11-25")])
async def test_the_web_application_signs_in_lists_and_calls(
    launcher: Path, era: str, version: str, tmp_path: Path, chrome: WebDriver
) -> None:
    async with visit(tmp_path / "state", chrome) as here, web(launcher, here, tmp_path, era) as address:
        await asyncio.to_thread(connects_and_calls, here, address, version)
        assert len(here.upstreams.calls("mcp", "demo")) == 1


# -- the command line -----------------------------------------------------------------------------------------------


async def command(launcher: Path, here: Visit, home: Path, *options: str) -> str:
    """Run one command of the inspector; be the person where it names an address. Return what it printed."""
    back = f"http://127.0.0.1:{free_port()}/callback"
    process = await asyncio.create_subprocess_exec(
        node(),
        launcher,
        *("--cli", "--callback-url", back, *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=home,
        # It asks for a desktop to open the page on; this is none, so it also prints the address.
        env=environment(home, MCP_AUTO_OPEN_ENABLED="true", PATH=str(node().parent)),
    )
    said = ""
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WITHIN_S):
            while line := (await process.stdout.readline()).decode():
                said += line
                if found := re.search(rf"{re.escape(here.wall.url)}/authorize\?\S+", line):
                    assert (await here.agree(found.group())).startswith(back)
            assert await process.wait() == 0, said
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said


@pytest.mark.parametrize("kind", list(KINDS))
async def test_the_command_line_signs_in_keeps_its_token_and_signs_in_again_when_it_was_ended(
    launcher: Path, kind: str, tmp_path: Path, chrome: WebDriver
) -> None:
    async with visit(tmp_path / "state", chrome) as here:
        ours = (here.server, "--transport", "http", *KINDS[kind])
        listed = await command(launcher, here, tmp_path, *ours, "--method", "tools/list")
        assert '"name": "echo"' in listed
        assert here.walks == [["password", "allow"]]
        called = await command(launcher, here, tmp_path, *ours, *CALL)
        assert json.loads(called[called.index("{") :])["content"] == [{"type": "text", "text": "fine"}]
        assert len(here.walks) == 1, "the second command used what the first one kept"
        await here.end_connections()
        assert '"fine"' in await command(launcher, here, tmp_path, *ours, *CALL)
        assert len(here.walks) == 2
        assert '"fine"' in await command(launcher, here, tmp_path, *ours, "--relogin", *CALL)
        assert len(here.walks) == 3


async def test_the_command_line_asks_at_login_for_the_scopes_that_it_is_given(
    launcher: Path, tmp_path: Path, chrome: WebDriver
) -> None:
    """It calls only what a list shows, so it never meets the demand for more: what it is to use is asked for first."""
    async with visit(tmp_path / "state", chrome) as here:
        oauth = {"clientId": "desk", "scopes": "demo:read demo:write"}
        servers = {"demo": {"type": "streamable-http", "url": here.server, "oauth": oauth}}
        kept = tmp_path / "servers.json"
        kept.write_text(json.dumps({"mcpServers": servers}))
        ours = ("--config", str(kept), "--server", "demo")
        put = ("--method", "tools/call", "--tool-name", "put", "--tool-arg", "text=x")
        assert '"fine"' in await command(launcher, here, tmp_path, *ours, *put)
        assert here.walks == [["password", "allow"]]
