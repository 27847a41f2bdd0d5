"""Direct mode through the whole firewall: an issuer's own tokens, its keys fetched by our own way out, its proof demanded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import yaml
from joserfc.jwk import ECKey

from firewall import app as composition
from firewall import config as configuration
from firewall.config import front_door
from firewall.core.errors import ConfigFault
from firewall.identity.issuers.preflight import Preflights
from firewall.net.runtime import SystemClock
from firewall.nucleus import Paths
from firewall.state.sqlite import SQLiteStore
from firewall.wire import jwt
from tests.identity.test_oauth_document import Reader, exchanges
from tests.support.composed import composed, settings
from tests.support.world import serve_app, tool, world

pytestmark = pytest.mark.flow

KEY = ECKey.generate_key("P-256", private=True)


class Issuer:
    """Publishes one key."""

    def __init__(self) -> None:
        self.origin = ""
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.asked += 1
        public = KEY.as_dict(private=False)
        body = orjson.dumps({"keys": [{**{n: public[n] for n in ("kty", "crv", "x", "y")}, "kid": "k1"}]})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def token(self, **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": self.origin,
            "aud": "api://demo",
            "sub": "00u1",
            "client_id": "agent",
            "scope": "demo:read demo:write",
            "iat": now,
            "exp": now + 600,
            **changes,
        }
        return jwt.sign(claims, KEY, alg="ES256", typ="at+jwt", kid="k1")


async def test_tokens_of_a_proved_issuer_are_taken_as_they_are_and_an_unproved_one_stops_the_start(
    tmp_path: Path,
) -> None:
    issuer = Issuer()
    async with world() as upstreams, serve_app(issuer) as origin:
        issuer.origin = origin
        demo = {"url": upstreams.add_mcp("demo", tools=[tool("note", "mark")]), "network": "loopback"}
        config = settings(tmp_path / "state", mcp={"demo": {**demo, "tools": {"note": "read"}}})
        config["identity"]["issuers"] = {
            "corp": {
                "issuer": origin,
                "jwks_uri": f"{origin}/jwks",
                "network": "loopback",
                "audiences": {"/mcp/demo": ["api://demo"]},
            }
        }
        made = configuration.build(config)
        with pytest.raises(ConfigFault) as caught:
            composition.check(made)
        assert (caught.value.code, caught.value.fix) == ("issuer_unproved", f"run `bartizan doctor idp {origin}`")

        store = SQLiteStore(Paths(made.state).store, clock=SystemClock())
        Preflights(store, SystemClock()).write(front_door.issuers(made)[0], ())
        store.close()
        composition.check(made)

        async with composed(config) as wall:
            token = issuer.token()
            answer = await wall.call("demo", "note", {"mark": "x"}, token=token)
            assert answer.status == 200, answer.text
            assert not answer.json["result"].get("isError")
            (record,) = [r for r in wall.records("decision") if r["point"] == "mcp.tool.call"]
            assert record["subject"] == "corp|00u1"
            assert issuer.asked == 1
            for bad in (issuer.token(aud="api://other"), issuer.token(iss=origin + "/"), issuer.token(exp=1)):
                assert (await wall.call("demo", "note", {"mark": "x"}, token=bad)).status == 401
            own = await wall.sign_in("/mcp/demo", "demo:read", "demo:write")
            assert (await wall.call("demo", "note", {"mark": "x"}, token=own)).status == 200
            assert issuer.asked == 1


async def test_the_requests_of_the_page_of_providers_are_answered_as_it_says(root: Path, tmp_path: Path) -> None:
    """docs/identity-providers.md, "Its own tokens: direct mode": its settings, and each exchange as it stands there."""
    text = (root / "docs" / "identity-providers.md").read_text(encoding="utf-8")
    part = text.partition("## Its own tokens: direct mode")[2].partition("\n## ")[0]
    issuer = Issuer()
    async with world() as upstreams, serve_app(issuer) as origin:
        issuer.origin = origin
        files = {"url": upstreams.add_mcp("files", tools=[tool("read_file", "path")]), "network": "loopback"}
        config = settings(tmp_path / "state", mcp={"files": {**files, "tools": {"read_file": "read"}}})
        told = yaml.safe_load(part.partition("```yaml\n")[2].partition("```")[0].replace("https://idp.example", origin))
        profile = told["identity"]["issuers"]["corp"] | {"network": "loopback"}
        config["identity"]["issuers"] = {"corp": profile}
        made = configuration.build(config)
        store = SQLiteStore(Paths(made.state).store, clock=SystemClock())
        Preflights(store, SystemClock()).write(front_door.issuers(made)[0], ())
        store.close()
        known = {
            "providers_token": issuer.token(aud="https://fw.example/mcp/files", scope="Files.Read"),
            "token_for_something_else": issuer.token(aud="https://fw.example/mcp/git", scope="Files.Read"),
        }
        async with composed(config) as wall:
            here = part.replace("https://fw.example", wall.url).replace("https://idp.example", origin)
            page = list(exchanges(here.replace("Host: fw.example", f"Host: {wall.url[7:]}")))
            assert [one.status for one in page] == [200, 200, 401]
            async with httpx2.AsyncClient(base_url=wall.url, timeout=20) as http:
                for one in page:
                    await Reader(http, known, {}).send(one)
            (seen,) = upstreams.calls("mcp", "files")[-1:]
            assert known["providers_token"] not in str(seen)
