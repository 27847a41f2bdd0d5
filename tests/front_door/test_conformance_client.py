"""The official suite's client scenarios for authorization, against our gateway and its upstream OAuth client.

A scenario outside the chosen revision is skipped by the suite with exit code 0 and no verdict: what counts is
the line with OVERALL, and that checks were made.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from tests.conformance.run import BUILD, ROOT, SUITES, install, node

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(180)]

SUITE = "0.2.0-alpha.12"
CLIENT = f"{sys.executable} -m tests.front_door.conformance_client"
# scenario → (revision, checks that it makes at least: one that skips everything would pass as well)
SCENARIOS = {
    **dict.fromkeys(
        (
            "metadata-default",
            "metadata-var1",
            "metadata-var2",
            "metadata-var3",
            "token-endpoint-auth-basic",
            "token-endpoint-auth-post",
            "token-endpoint-auth-none",
            "scope-step-up",
            "authorization-server-migration",
        ),
        ("2026-07-28", 20),
    ),
    **dict.fromkeys(
        (
            "basic-cimd",
            "scope-from-www-authenticate",
            "scope-from-scopes-supported",
            "scope-omitted-when-undefined",
            "pre-registration",
            "offline-access-scope",
            "offline-access-not-supported",
            "iss-supported",
            "iss-not-advertised",
        ),
        ("2026-07-28", 14),
    ),
    **dict.fromkeys(
        (
            "scope-retry-limit",
            "iss-supported-missing",
            "iss-wrong-issuer",
            "iss-unexpected",
            "iss-normalized",
            "client-credentials-jwt",
            "client-credentials-basic",
            "enterprise-managed-authorization",
            "dpop",
            "dpop-nonce",
            "wif-jwt-bearer",
        ),
        ("2026-07-28", 8),
    ),
    **dict.fromkeys(("resource-mismatch", "metadata-issuer-mismatch"), ("2026-07-28", 2)),
    **dict.fromkeys(("2025-03-26-oauth-metadata-backcompat", "2025-03-26-oauth-endpoint-fallback"), ("2025-03-26", 10)),
}


@pytest.fixture(scope="module")
async def suite() -> tuple[Path, Path]:
    """Return the programs: Node and the suite."""
    program = node()
    await install(program)
    return program, BUILD / "node_modules" / SUITES[SUITE] / "dist" / "index.js"


async def run(*command: str | Path, timeout_s: float = 150) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(timeout_s):
            told, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return told.decode("utf-8", "replace")


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_client_scenario_of_the_official_suite_passes(suite: tuple[Path, Path], scenario: str):
    revision, least = SCENARIOS[scenario]
    told = await run(
        *suite,
        "client",
        *("--command", CLIENT),
        *("--scenario", f"auth/{scenario}"),
        *("--spec-version", revision, "--force", "--timeout", "120000"),
    )
    assert "OVERALL: PASSED" in told, told[-4000:]
    counted = re.search(r"Passed: (\d+)/(\d+), 0 failed", told)
    assert counted, told[-2000:]
    assert int(counted[1]) == int(counted[2]) >= least


async def test_no_client_scenario_for_authorization_is_left_out(suite: tuple[Path, Path]):
    told = await run(*suite, "list", "--client")
    known = set(re.findall(r"auth/([\w-]+)", told))
    assert known == set(SCENARIOS)
