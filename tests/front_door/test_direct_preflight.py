"""``bartizan doctor idp`` against a real OpenID provider: what it gives is what is proved, not what it promises."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from firewall import config as configuration
from firewall.admin.doctor.idp import Report, examine_idp
from firewall.config import front_door
from firewall.identity.issuers.preflight import Preflights
from firewall.net.runtime import FakeClock
from firewall.state.sqlite import SQLiteStore
from tests.front_door.openid_provider import OpenIDProvider, running

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(300)]

PUBLIC = "https://fw.example"
FILES = f"{PUBLIC}/mcp/files"
SECRET = "a-secret-of-forty-characters-or-more-than-that"
CLIENT: dict[str, Any] = {
    "client_id": "bartizan",
    "client_secret": SECRET,
    "grant_types": ["authorization_code", "client_credentials"],
    "redirect_uris": [f"{PUBLIC}/callback/corp"],
}


def ask(provider: OpenIDProvider, state: Path, **profile: Any) -> Report:
    given = {"issuer": provider.issuer, "client_id": "bartizan", "client_secret": "env:S", "network": "loopback"}
    identity: dict[str, Any] = {"providers": {"corp": given}}
    if profile:
        direct = {"issuer": provider.issuer, "network": "loopback", "audiences": {"/mcp/files": [FILES]}, **profile}
        identity["issuers"] = {"corp": direct}
    config = configuration.build(
        {
            "public_url": PUBLIC,
            "state_dir": str(state),
            "identity": identity,
            "mcp": {"files": {"url": "https://files.example/mcp"}},
        }
    )
    clock = FakeClock(round(time.time() * 1_000_000))
    report = examine_idp(config, provider.issuer, clock=clock, environment={"S": SECRET})
    if profile:
        store = SQLiteStore(state / "state.db")
        try:
            kept = Preflights(store, clock).read(front_door.issuers(config)[0])
        finally:
            store.close()
        assert kept is not None
        assert (kept.direct, kept.missing) == (report.examined.direct, report.examined.missing)
    return report


def test_a_real_provider_with_resource_indicators_is_proved(tmp_path: Path) -> None:
    with running([CLIENT], {}, resources=[FILES]) as provider:
        report = ask(provider, tmp_path, jwks_uri=f"{provider.issuer}/jwks")
    assert report.verdict() == "direct: yes", report.verdict()
    assert report.proved == ("corp",)
    met = {found.need for found in report.examined.findings if found.outcome == "ok"}
    assert {"discovery", "issuer", "endpoints", "s256", "keys", "iss", "resource", "token", "typ", "aud"} <= met


def test_a_real_provider_that_does_not_know_the_resource_is_not(tmp_path: Path) -> None:
    with running([CLIENT], {}, resources=["https://elsewhere.example/mcp"]) as provider:
        report = ask(provider, tmp_path, jwks_uri=f"{provider.issuer}/jwks")
    assert {"resource", "token"} <= set(report.examined.missing)


def test_a_real_provider_with_opaque_tokens_is_not_taken_at_its_word(tmp_path: Path) -> None:
    with running([CLIENT], {}, resources=[FILES], format="opaque") as provider:
        report = ask(provider, tmp_path, jwks_uri=f"{provider.issuer}/jwks")
    assert report.examined.missing == ("token",)
    assert "opaque" in report.verdict()
