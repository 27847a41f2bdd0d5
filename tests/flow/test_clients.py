"""Who the client is, in the whole firewall: policy about those that describe themselves, registration, workloads."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc.jwk import ECKey

from firewall.wire import jwt
from tests.support.composed import composed, settings
from tests.support.door import authorize_query

pytestmark = pytest.mark.flow

SPIRE = ECKey.generate_key("P-256", private=True)
BATCH = "spiffe://prod.example/batch"


def configured(state: Path) -> dict[str, Any]:
    given = settings(state)
    bundle = {"keys": [{**SPIRE.as_dict(private=False), "kid": "s1", "use": "jwt-svid"}]}
    given["identity"]["clients"]["batch"] = {"grants": ["client_credentials"]}
    given["identity"] |= {
        "registration": "on",
        "cimd": {"policy": "policy", "hosts": ["*.corp.invalid"]},
        "workloads": {
            "prod": {"kind": "spiffe", "issuer": "prod.example", "clients": {BATCH: "batch"}, "jwks": bundle}
        },
    }
    given["llm"] = {
        "providers": {"demo": {"base_url": "http://127.0.0.1:9/v1", "network": "loopback"}},
        "models": {"small": {"provider": "demo", "model": "m", "input_usd": 0, "output_usd": 0, "free": True}},
    }
    return given


async def test_rego_decides_which_hosts_are_reached_and_each_decision_is_recorded(tmp_path: Path) -> None:
    async with (
        composed(configured(tmp_path / "state")) as wall,
        httpx2.AsyncClient(base_url=wall.url, timeout=20) as http,
    ):
        for host in ("agents.corp.invalid", "evil.invalid"):
            query = authorize_query(client_id=f"https://{host}/client.json", resource=f"{wall.url}/v1")
            assert (await http.get("/authorize", params=query)).status_code == 400
        decided = {
            r["action"]["resource"]: r["decision"] for r in wall.records("decision") if r["point"] == "identity.client"
        }
        assert decided["agents.corp.invalid"]["effect"] == "allow"
        assert decided["evil.invalid"]["effect"] == "deny"
        # What was permitted was tried, and its name does not resolve; what was not never got that far.
        refusals = {r["code"] for r in wall.records("auth") if r.get("event") == "identity.client.refused"}
        assert refusals == {"cimd_fetch", "cimd_host"}


def bundled(directory: Path, root: Path, **data: str) -> Path:
    """Write a bundle of one's own: the shipped rules with other data, and cases of two points.

    A bundle without a case for each point runs on the interpreter, and starts without its self-test.
    """
    shutil.copytree(root / "policies", directory, ignore=shutil.ignore_patterns("[1-9]*.jsonl", "selftest.json"))
    file = directory / "config" / "data.yaml"
    text = file.read_text(encoding="utf-8")
    for name, value in data.items():
        assert f"{name}: []" in text
        text = text.replace(f"{name}: []", f"{name}: {value}")
    file.write_text(text, encoding="utf-8")
    return directory


async def test_a_bundle_of_ones_own_decides_which_hosts_are_reached(tmp_path: Path, root: Path) -> None:
    """Nobody is listed in the configuration: what is permitted is permitted by the bundle alone."""
    given = configured(tmp_path / "state")
    given["identity"]["cimd"] = {"policy": "policy"}
    given["policy"] = {"bundle": str(bundled(tmp_path / "policies", root, client_domains="[partners.invalid]"))}
    async with composed(given) as wall, httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
        for host in ("agents.partners.invalid", "agents.corp.invalid"):
            query = authorize_query(client_id=f"https://{host}/client.json", resource=f"{wall.url}/v1")
            assert (await http.get("/authorize", params=query)).status_code == 400
        decided = {
            r["action"]["resource"]: r["decision"]["effect"]
            for r in wall.records("decision")
            if r["point"] == "identity.client"
        }
        assert decided == {"agents.partners.invalid": "allow", "agents.corp.invalid": "deny"}


async def test_a_workload_and_a_client_that_registered_itself_are_known(tmp_path: Path) -> None:
    async with (
        composed(configured(tmp_path / "state")) as wall,
        httpx2.AsyncClient(base_url=wall.url, timeout=20) as http,
    ):
        now = int(time.time())
        claims = {"sub": BATCH, "aud": [wall.url], "iat": now, "exp": now + 300}
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.sign(claims, SPIRE, alg="ES256", typ="JWT", kid="s1"),
            "resource": f"{wall.url}/v1",
        }
        answer = await http.post("/token", data=form)
        assert (answer.status_code, answer.json()["scope"]) == (200, "llm:invoke")
        told = (await http.get("/.well-known/oauth-authorization-server")).json()
        made = await http.post(told["registration_endpoint"], json={"redirect_uris": ["http://127.0.0.1/cb"]})
        assert made.status_code == 201
        query = authorize_query(
            client_id=made.json()["client_id"], redirect_uri="http://127.0.0.1:5555/cb", resource=f"{wall.url}/v1"
        )
        page = await http.get("/authorize", params={**query, "scope": "llm:invoke"})
        assert (page.status_code, 'action="/login"' in page.text) == (200, True)
