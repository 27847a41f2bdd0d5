"""OP-01 and OP-02 on a whole firewall: which names it answers to, and that no request writes its addresses.

DNS rebinding brings a browser to us under a name of the attacker's; a spoofed ``X-Forwarded-Host`` would put
that name into metadata, and a client would take its tokens there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.invariants.conftest import house_config
from tests.support.composed import Answer, Composed, composed, raw_exchange, request_bytes
from tests.support.world import world

PATHS = (
    ("GET", "/.well-known/oauth-authorization-server"),
    ("GET", "/.well-known/oauth-protected-resource/mcp/demo"),
    ("GET", "/authorize"),
    ("POST", "/token"),
    ("POST", "/mcp/demo"),
)
FORGED = (
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-port", "443"),
    ("x-forwarded-prefix", "/evil"),
    ("forwarded", "for=192.0.2.1;host=evil.example;proto=https"),
    ("x-original-url", "https://evil.example/"),
)


async def ask(wall: Composed, verb: str, path: str, host: str, *headers: tuple[str, str]) -> Answer:
    return await raw_exchange(wall.port, request_bytes(path, host, headers, b"", verb=verb))


def own(wall: Composed) -> str:
    return wall.url.removeprefix("http://")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.nip.io", "localhost.evil.example", "0.0.0.0"]
)
async def test_op_01_nothing_is_answered_under_a_name_that_is_not_configured(tmp_path: Path, host: str) -> None:
    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state")) as wall:
        for verb, path in PATHS:
            refused = await ask(wall, verb, path, host)
            assert refused.status == 421, path
            assert host.encode() not in refused.body
            # Twin: under its own name the same request gets an answer of its own.
            assert (await ask(wall, verb, path, own(wall))).status != 421


async def test_op_01_a_page_of_another_origin_reaches_nothing_that_a_cookie_opens(tmp_path: Path) -> None:
    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state")) as wall:
        for origin in ("https://evil.example", "null", wall.url + ".evil.example", wall.url.replace("http:", "https:")):
            for verb, path in (
                ("GET", "/authorize"),
                ("POST", "/login"),
                ("POST", "/consent"),
                ("GET", "/account/grants"),
            ):
                assert (await ask(wall, verb, path, own(wall), ("origin", origin))).status == 403, (origin, path)
        # Twins: our own pages, and what any origin may read because no cookie counts there.
        assert (await ask(wall, "POST", "/login", own(wall), ("origin", wall.url))).status == 400
        assert (await ask(wall, *PATHS[0], own(wall), ("origin", "https://evil.example"))).status == 200


@pytest.mark.parametrize("proxy", [False, True], ids=["from anybody", "from a trusted proxy"])
async def test_op_02_no_header_writes_an_address_of_ours(tmp_path: Path, proxy: bool) -> None:
    more = {"trusted_proxies": ["127.0.0.1"]} if proxy else {}
    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state", **more)) as wall:
        plain = {path: (await ask(wall, verb, path, own(wall))) for verb, path in PATHS}
        for header in FORGED:
            for verb, path in PATHS:
                answer = await ask(wall, verb, path, own(wall), header)
                assert answer.status == plain[path].status, (header, path)
                assert answer.body == plain[path].body or path == "/authorize", (header, path)
                assert answer.header("www-authenticate") == plain[path].header("www-authenticate")
                assert b"evil" not in answer.body
        told = json.loads(plain[PATHS[0][1]].body)
        assert told["issuer"] == wall.url
        assert all(
            str(value).startswith(wall.url) for name, value in told.items() if name.endswith(("_endpoint", "_uri"))
        )


async def test_op_02_addresses_follow_the_configuration_and_nothing_else(tmp_path: Path) -> None:
    """The twin: another public address, told by the operator, is what everybody hears, whatever was asked for."""
    url = {"public_url": "https://fw.example"}
    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state", **url)) as wall:
        for host in ("fw.example", f"127.0.0.1:{wall.port}"):
            answer = await ask(wall, *PATHS[0], host)
            if answer.status == 200:
                assert json.loads(answer.body)["issuer"] == "https://fw.example"
        assert (await ask(wall, *PATHS[0], "fw.example")).status == 200
        refused = await ask(wall, "POST", "/mcp/demo", "fw.example", ("x-forwarded-host", "evil.example"))
        assert 'resource_metadata="https://fw.example/' in refused.header("www-authenticate")
