"""A real node with several workers, a real OpenID provider, and one browser: from a client's request to a tool call."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from tests.front_door.openid_provider import running
from tests.support.composed import ROOT, settings, started
from tests.support.door import VERIFIER, challenge_of, inputs_of

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

SECRET = "a-secret-of-forty-characters-or-more-than-that"
CALLBACK = "http://127.0.0.1:51004/callback"


def configuration(state: Path, issuer: str, method: str) -> dict[str, Any]:
    provider = {
        "issuer": issuer,
        "title": "Acme",
        "client_id": "bartizan",
        "client_secret": "env:IDP_SECRET" if method != "private_key_jwt" else "",
        "client_auth": method,
        "scopes": ["openid", "profile", "groups"],
        "roles": {"agents": "dev"},
        "scopes_of": {"agents": ["files:*"]},
        "network": "loopback",
    }
    return settings(
        state,
        workers=2,
        identity={
            "passwords": "off",
            "providers": {"corp": provider},
            "clients": {"tool": {"name": "Tool", "redirect_uris": ["http://127.0.0.1/callback"]}},
        },
        mcp={"files": {"url": "http://127.0.0.1:1/mcp", "network": "loopback"}},
    )


def doctor(file: Path) -> list[dict[str, Any]]:
    """Have the running node examine itself, from the command line."""
    line = [sys.executable, "-m", "firewall.cli.main", "--config", str(file), "--json", "doctor", "--reach"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, check=False, timeout=60)
    checks: list[dict[str, Any]] = json.loads(done.stdout)["checks"]
    return checks


@pytest.mark.parametrize("method", ["client_secret_basic", "private_key_jwt"])
async def test_a_person_of_a_provider_reaches_a_tool_through_a_node_of_several_workers(
    tmp_path: Path, method: str
) -> None:
    """With private_key_jwt the provider fetches our key from the node itself: there is no secret at all."""
    # The provider must know our callback before the node has its port.
    given = settings(tmp_path)
    port = given["listeners"]["data"]["port"]
    origin = f"http://127.0.0.1:{port}"
    client = {
        "client_id": "bartizan",
        "redirect_uris": [f"{origin}/callback/corp"],
        "post_logout_redirect_uris": [f"{origin}/account/grants"],
        "token_endpoint_auth_method": method,
    }
    if method == "private_key_jwt":
        client |= {"jwks_uri": f"{origin}/.well-known/client-jwks.json", "token_endpoint_auth_signing_alg": "ES256"}
    else:
        client["client_secret"] = SECRET
    with running([client], {"ada": {"name": "Ada L.", "groups": ["agents"]}}) as provider:
        config = configuration(tmp_path / "state", provider.issuer, method)
        config |= {"public_url": origin, "listeners": given["listeners"]}
        with started(config, tmp_path, environ={"IDP_SECRET": SECRET}):
            async with httpx2.AsyncClient(base_url=origin) as ours, httpx2.AsyncClient() as theirs:
                own = {"Origin": origin, "Sec-Fetch-Site": "same-origin"}
                query = {
                    "response_type": "code",
                    "client_id": "tool",
                    "redirect_uri": CALLBACK,
                    "scope": "files:read",
                    "state": "xyz",
                    "code_challenge": challenge_of(VERIFIER),
                    "code_challenge_method": "S256",
                    "resource": f"{origin}/mcp/files",
                }
                page = await ours.get("/authorize", params=query, headers={"Sec-Fetch-Site": "cross-site"})
                assert "Continue with Acme" in page.text
                assert 'name="password"' not in page.text
                away = await ours.post("/login/corp", data=inputs_of(page.text), headers=own)
                back = await provider.sign_in(theirs, away.headers["location"], "ada", f"{origin}/callback/")
                done = await ours.get(back, headers={"Sec-Fetch-Site": "cross-site"})
                assert done.status_code == 303, done.text
                consent = await ours.get(done.headers["location"], headers={"Sec-Fetch-Site": "cross-site"})
                assert "Ada L. (Acme)" in consent.text
                agreed = {**inputs_of(consent.text), "decision": "approve"}
                answer = await ours.post("/consent", data=agreed, headers=own)
                code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
                form = {
                    "grant_type": "authorization_code",
                    "code": code,
                    "redirect_uri": CALLBACK,
                    "client_id": "tool",
                    "code_verifier": VERIFIER,
                    "resource": f"{origin}/mcp/files",
                }
                token = (await ours.post("/token", data=form)).json()["access_token"]
                call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
                for _ in range(6):  # whichever worker answers
                    sent = await ours.post("/mcp/files", json=call, headers={"Authorization": f"Bearer {token}"})
                    assert sent.status_code not in (401, 403), sent.text
                assert (await ours.post("/mcp/files", json=call)).status_code == 401
                examined = {
                    check["name"]: check for check in await asyncio.to_thread(doctor, tmp_path / "bartizan.yaml")
                }
                for name in ("oauth-01", "oauth-14", "oauth-15"):
                    assert examined[name]["status"] == "ok", examined[name]
                assert "at the public address" in examined["oauth-01"]["text"]
                assert "answer as they must" in examined["oauth-14"]["text"]
                assert "2 resources" in examined["oauth-15"]["text"]
                # A password is nobody's way in here.
                wrong = {**inputs_of(page.text), "username": "ada", "password": "anything at all"}
                assert (await ours.post("/login", data=wrong, headers=own)).status_code == 403
