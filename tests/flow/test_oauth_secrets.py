"""OP-05 on a whole firewall: no secret of a sign-in stands in its logs, its records, its metrics or its state."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from firewall.wire import jwt
from tests.attack.test_canaries import kept
from tests.flow.test_story import config_with_client
from tests.support.composed import SERVICE_KEY, Composed, composed
from tests.support.door import CIMD_URL, PASSWORD, VERIFIER, Browser, authorize_query
from tests.support.door import redeem as redeem_at
from tests.support.world import world

pytestmark = pytest.mark.flow

WRONG = "a-guess-that-was-nearly-right"


async def sign_in(wall: Composed, http: httpx2.AsyncClient) -> dict[str, str]:
    """Go every way once, and once wrong; return the secrets by name."""
    browser, resource = Browser(http, wall.url), f"{wall.url}/mcp/demo"
    query = authorize_query(resource=resource, scope="demo:read")
    page = await browser.open(query)
    await browser.sign_in(page, password=WRONG)
    code = (await browser.code(query))["code"]
    secrets = {"password": PASSWORD, "guess": WRONG, "verifier": VERIFIER, "code": code}
    secrets |= {f"cookie {name}": value for name, value in http.cookies.items()}
    assert (await redeem_at(http, code, code_verifier="w" * 43, resource=resource)).status_code == 400
    spent = secrets["another code"] = (await browser.code(query))["code"]
    body = (await redeem_at(http, spent, resource=resource)).json()
    form = {"grant_type": "refresh_token", "refresh_token": body["refresh_token"], "client_id": CIMD_URL}
    again = (await http.post("/token", data=form)).json()
    secrets |= {"access token": body["access_token"], "refresh token": body["refresh_token"]}
    secrets |= {"next access token": again["access_token"], "next refresh token": again["refresh_token"]}
    now = int(time.time())
    claims: dict[str, Any] = {"iss": "svc", "sub": "svc", "aud": wall.url, "iat": now, "exp": now + 60, "jti": "j-1"}
    proof = secrets["assertion"] = jwt.sign(claims, SERVICE_KEY, alg="ES256", typ="JWT", kid="svc")
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": proof,
        "resource": resource,
    }
    for status in (200, 401):  # and once replayed
        assert (await http.post("/token", data=form)).status_code == status
    for token, status in ((again["access_token"], 200), (again["access_token"][:-4] + "AAAA", 401)):
        assert (await wall.call("demo", "echo", {"text": "hello"}, token=token)).status == status
    await http.post("/revoke", data={"token": again["refresh_token"], "client_id": CIMD_URL})
    assert (await redeem_at(http, spent, resource=resource)).status_code == 400
    return secrets


async def test_op_05_no_secret_of_a_sign_in_is_logged_recorded_counted_or_kept_in_the_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with world() as upstreams, composed(config_with_client(upstreams, tmp_path / "state")) as wall:
        user = await wall.worker.identity.users.create("ada", PASSWORD, tenant="default", scopes=("*",))
        async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
            secrets = await sign_in(wall, http)
        metrics = wall.worker.parts["telemetry"].prometheus()
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]  # the test's client
    everywhere = {
        "state": kept(tmp_path),
        "metrics": metrics,
        "log": "\n".join(ours).encode() + "".join(capfd.readouterr()).encode(),
    }
    for place, content in everywhere.items():
        held = [name for name, secret in secrets.items() if secret.encode() in content]
        assert held == [], place
        # Nor the part of it that proves anything: a signature, the random part of an opaque one; the cookie of a request
        # under way says its id before its secret.
        parts = {
            name: s.rpartition(".")[2] if s.count(".") == 2 or "bz_txn_" in name else s.partition(".")[0]
            for name, s in secrets.items()
        }
        assert [name for name, part in parts.items() if part.encode() in content] == [], place
    # The twin: the search looks where things are.
    assert user.subject.encode() in everywhere["state"]
    assert b"code_replayed" in everywhere["state"]
