"""A real client that binds everything to its key: panva's oauth4webapi against a whole firewall that demands nonces."""

from __future__ import annotations

import asyncio
import fcntl
import json
import subprocess
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.front_door.openid_provider import HERE, INSTALL_S, ROOT, node
from tests.support.composed import META, SERVICE_KEY, composed, settings
from tests.support.door import CALLBACK, PASSWORD, Browser
from tests.support.world import tool, world

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

VERSION = "3.8.8"
BUILD = ROOT / "build" / "front-door-dpop"
STEP_S = 30


def install() -> Path:
    """Return the directory that holds the client; installs it once."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = BUILD / "node_modules" / "oauth4webapi" / "package.json"
        if known.exists() and json.loads(known.read_text("utf-8"))["version"] == VERSION:
            return BUILD
        package = {"name": "bartizan-dpop", "private": True, "dependencies": {"oauth4webapi": VERSION}}
        (BUILD / "package.json").write_text(json.dumps(package, indent=1), encoding="utf-8")
        npm = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        options = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
        subprocess.run([node(), npm, "install", *options], cwd=BUILD, check=True, timeout=INSTALL_S)
    return BUILD


async def test_a_client_that_proves_a_key_signs_in_refreshes_and_calls_and_nobody_else_can(tmp_path: Path) -> None:
    modules = await asyncio.to_thread(install)
    async with world() as upstreams:
        demo = {"url": upstreams.add_mcp("demo", tools=[tool("note", "mark")]), "network": "loopback"}
        config = settings(tmp_path / "state", mcp={"demo": {**demo, "tools": {"note": "read"}}})
        config["identity"]["dpop"] = {"nonces": True, "required_at": ["/mcp/demo"]}
        config["identity"]["clients"]["tool"] = {"redirect_uris": ["http://127.0.0.1/callback"], "dpop": True}
        async with composed(config) as wall:
            await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=("*",))
            key = {k: v for k, v in SERVICE_KEY.as_dict(private=True).items() if k in ("kty", "crv", "x", "y", "d")}
            given = {
                "issuer": wall.url,
                "resource": f"{wall.url}/mcp/demo",
                "redirect": CALLBACK,
                "key": key,
                "meta": META,
            }
            process = await asyncio.create_subprocess_exec(
                str(node()),
                str(HERE / "dpop_client.mjs"),
                str(modules),
                json.dumps(given),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None

            async def said(step: str) -> dict[str, Any]:
                assert process.stdout is not None
                assert process.stderr is not None
                line = await asyncio.wait_for(process.stdout.readline(), STEP_S)
                assert line, (await process.stderr.read()).decode()
                found: dict[str, Any] = json.loads(line)
                assert found["step"] == step
                return found

            try:
                assert (await said("metadata"))["algorithms"] == ["ES256"]
                service = await said("service")
                # One more try at the token endpoint and one at the resource: each tells its own nonce.
                assert (service["type"], service["status"], service["retries"]) == ("dpop", 200, 2)
                url = (await said("authorize"))["url"]
                async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
                    browser = Browser(http, wall.url)
                    page = await http.get(url, headers={"Sec-Fetch-Site": "none"})
                    done = await browser.approve(await browser.sign_in(page))
                process.stdin.write(done.headers["location"].encode() + b"\n")
                await process.stdin.drain()
                code = await said("code")
                assert (code["type"], code["status"]) == ("dpop", 200)
                assert (await said("stolen"))["error"] == "invalid_grant"
                refreshed = await said("refresh")
                assert (refreshed["type"], refreshed["status"]) == ("dpop", 200)
                assert (await said("thief"))["status"] == 401
                assert await asyncio.wait_for(process.wait(), STEP_S) == 0
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
