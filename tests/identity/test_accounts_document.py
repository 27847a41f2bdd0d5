"""docs/accounts.md: each exchange on the page is sent as it stands there, and what we send is what it says."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, quote

from firewall.identity.upstream.settings import Secret
from firewall.net.dial import Dialler, Fetched, Purpose
from firewall.net.runtime import SystemClock
from firewall.wire import jwt, strict_json
from tests.identity.test_oauth_document import Exchange, Reader, exchanges
from tests.identity.test_upstream_minting import ADA, node_of
from tests.identity.test_upstream_people import link_of
from tests.support.door import challenge_of
from tests.support.issuer import Issuer, issuer
from tests.support.upstreams import OURS, SECRET, make_node, people, sign_in_to, upstream_server

BROWSER, ALONE = "The exact requests", "Without a browser"


class Listened:
    """The real way out, which remembers what was sent to a token endpoint, and what came."""

    def __init__(self) -> None:
        self.dialler = Dialler(SystemClock())
        self.tokens: list[tuple[str, dict[str, str], bytes, Fetched]] = []

    async def fetch(self, purpose: Purpose, url: str, **more: Any) -> Fetched:
        found = await self.dialler.fetch(purpose, url, **more)
        if purpose is Purpose.TOKEN:
            headers = {name.decode(): value.decode() for name, value in more["headers"]}
            self.tokens.append((url, headers, more["body"], found))
        return found


def _here(text: str, upstream: str, origin: str) -> str:
    """Put the origins of this test for those of the page; nobody on loopback can fetch our document: a client id for it."""
    document = "https://fw.example/oauth/client.json"
    names = (
        (document, "bartizan"),
        ("https://files.saas.example/mcp", upstream),
        ("https://files.saas.example", origin),
    )
    for told, found in (*names, ("https://fw.example", OURS)):
        text = text.replace(told, found).replace(quote(told, safe=""), quote(found, safe=""))
    return text


async def test_every_exchange_of_the_page_of_accounts_is_as_it_stands_there(root: Path) -> None:
    text = (root / "docs" / "accounts.md").read_text(encoding="utf-8")
    out = Listened()
    async with upstream_server() as upstream:
        page = [one for one in exchanges(_here(text, upstream.url, upstream.origin)) if one.where == BROWSER]
        assert [f"{one.method} {one.target.partition('?')[0]}" for one in page] == [
            "GET /upstream/connect/files",
            "POST /upstream/connect/files",
            "GET /upstream/callback/files",
            "POST /token",
            "GET /account/upstreams",
            "POST /account/upstreams",
        ]
        link, pressed, back, redeemed, shown, ended = page
        node = make_node(fetcher=out, files=sign_in_to(upstream))
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            ask = (await link_of(node, node.caller(ours))).partition("ask=")[2]
            await ada.open(f"{OURS}/account/upstreams")  # signed in from here on
            reader = Reader(ada.ours.http, {"ask": ask}, {})
            await reader.send(link)
            assert not any("bz_up" in cookie.name for cookie in ada.ours.http.cookies.jar)
            await reader.send(pressed)
            came = await ada.allow(reader.filled(pressed.answer_headers["Location"], quoted=True))
            reader.known["code"] = parse_qs(came.partition("?")[2])["code"][0]
            assert came == f"{OURS}{reader.filled(back.target, quoted=True)}"
            await reader.send(back)
            _compare(redeemed, out, reader, f"{upstream.origin}/token")
            assert await node.broker.headers_for(node.caller(ours), "files")
            await reader.send(shown)
            await reader.send(ended)
    await out.dialler.close()


async def test_every_request_of_ours_that_needs_no_browser_is_as_the_page_says(root: Path) -> None:
    text = (root / "docs" / "accounts.md").read_text(encoding="utf-8")
    assert {one.where for one in exchanges(text)} == {BROWSER, ALONE}
    exchanged, asked, redeemed = [one for one in exchanges(text) if one.where == ALONE]
    async with node_of("exchange") as (node, server):
        await node.broker.headers_for(ADA, "files")
        known, _ = _same(exchanged, server)
        assert jwt.parse_compact(known["about_the_person"].encode()).claims["sub"] == ADA.subject
        assert jwt.parse_compact(known["about_us"].encode()).claims["sub"] == OURS
    at_idp = {"idp_client_id": "bartizan-at-idp", "idp_secret": Secret(env="CLIENT_SECRET")}
    async with issuer() as idp, node_of("id_jag", idp=idp.origin, **at_idp) as (node, server):
        assert node.identity.upstreams is not None
        node.identity.upstreams.subjects.keep("acme", "u_ada", idp.origin, "id_token", "her.id.token", lives_s=300)
        await node.broker.headers_for(replace(ADA, issuer=node.origin), "files")
        known, authorization = _same(asked, idp, sso=server.origin)
        assert known["id_token"] == "her.id.token"
        assert authorization == "Basic " + base64.b64encode(f"bartizan-at-idp:{SECRET}".encode()).decode()
        known, _ = _same(redeemed, server)
        assert jwt.parse_compact(known["id_jag"].encode()).typ == "oauth-id-jag+jwt"


def _same(told: Exchange, server: Issuer, sso: str = "") -> tuple[dict[str, str], str]:
    """Compare the one request that a server got with the page's; return what stood for its names, and who asked."""
    (form,), (authorization,) = server.requests, server.authorizations
    want = dict(
        parse_qsl(told.body.replace(quote("https://sso.saas.example", safe=""), quote(sso or server.origin, safe="")))
    )
    assert list(want) == list(form)
    known = {value[1:-1]: form[name] for name, value in want.items() if value.startswith("<")}
    assert {name: form[name] if value.startswith("<") else value for name, value in want.items()} == form
    assert ("Authorization" in told.headers) is bool(authorization)
    reader = Reader(None, {}, {})  # type: ignore[arg-type]
    reader.match(strict_json.loads(told.answer.encode()), server.token(form), told.where)
    return known, authorization


def _compare(told: Exchange, out: Listened, reader: Reader, url: str) -> None:
    """Compare what we sent to the other server, and its answer, with the page's."""
    ((where, headers, body, found),) = out.tokens
    form = dict(parse_qsl(body.decode()))
    assert where == url
    assert challenge_of(form["code_verifier"]) == reader.known["challenge"]
    claims = jwt.parse_compact(form["client_assertion"].encode()).claims
    assert claims["aud"] == url.removesuffix("/token")  # their issuer, and nothing else
    reader.known |= {"verifier": form["code_verifier"], "client_assertion": form["client_assertion"]}
    assert dict(parse_qsl(reader.filled(told.body, quoted=True))) == form
    assert {name.lower(): value for name, value in told.headers.items() if name != "Host"} == headers
    assert found.status == told.status
    reader.match(strict_json.loads(told.answer.encode()), strict_json.loads(found.body), told.where)
