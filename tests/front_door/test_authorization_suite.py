"""The official suite's scenarios for authorization servers (0.2 alpha) against the front door, with a real browser.

Without ``--client-id`` the suite leaves the code grant out and still says that all is well, so what ran is checked.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")

from selenium.webdriver.remote.webdriver import WebDriver

from tests.conformance.run import BUILD, SUITES, install
from tests.front_door.npm_packages import node
from tests.front_door.visit import Visit, visit
from tests.support.composed import free_port

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(60, func_only=True)]

SUITE = "0.2.0-alpha.12"
WITHIN_S = 40


@pytest.fixture(scope="module", autouse=True)
def suite() -> Path:
    program = node()
    asyncio.run(install(program))
    return BUILD / "node_modules" / SUITES[SUITE] / "dist" / "index.js"


async def run(suite: Path, here: Visit, *options: str) -> tuple[str, int]:
    """Run the suite; be the person where it prints an address to open. Return what it said, and its exit code."""
    process = await asyncio.create_subprocess_exec(
        node(),
        suite,
        *("authorization", "--url", here.wall.url, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = ""
    try:
        async with asyncio.timeout(WITHIN_S):
            assert process.stdout is not None
            while line := (await process.stdout.readline()).decode():
                said += line
                if found := re.search(rf"{re.escape(here.wall.url)}/authorize\?\S+", line):
                    await here.agree(found.group())
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said, code


@pytest.mark.parametrize("version", ["2025-11-25", "2026-07-28"])
async def test_the_authorization_scenarios_run_and_pass(
    suite: Path, version: str, tmp_path: Path, chrome: WebDriver
) -> None:
    async with visit(tmp_path / "state", chrome) as here:
        options = ("--client-id", "desk", "--resource", here.server, "-p", str(free_port()), "--spec-version", version)
        said, code = await run(suite, here, *options)
    assert code == 0, said
    assert "✓ authorization-server-metadata-endpoint: 2 passed, 0 failed" in said
    assert "✓ authorization-code-grant: 1 passed, 0 failed" in said
    assert here.walks == [["password", "allow"]]


async def test_without_a_client_the_suite_leaves_the_code_grant_out_and_calls_it_a_success(
    suite: Path, tmp_path: Path, chrome: WebDriver
) -> None:
    """Why the test above reads the summary: an exit code of zero shows nothing."""
    async with visit(tmp_path / "state", chrome) as here:
        said, code = await run(suite, here)
        assert here.walks == []
    assert code == 0
    assert "✓ authorization-code-grant: 1 passed" not in said
