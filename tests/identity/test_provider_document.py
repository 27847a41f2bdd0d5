"""docs/identity-providers.md: each exchange on the page is sent as it stands there, and what we send is what it says."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import parse_qs

from tests.identity.test_oauth_document import Exchange, Reader, exchanges
from tests.support.door import ORIGIN, Browser, authorize_query, challenge_of, inputs_of
from tests.support.idp import CLIENT_ID, SECRET, corp, make_stage


async def test_every_exchange_of_the_page_of_providers_is_as_it_stands_there(root: Path) -> None:
    whole = exchanges((root / "docs" / "identity-providers.md").read_text(encoding="utf-8"))
    page = [one for one in whole if one.where == "The exact requests"]  # of the rest: tests/flow/test_direct_issuer.py
    assert [f"{one.method} {one.target.partition('?')[0]}" for one in page] == [
        "POST /login/corp",
        "GET /callback/corp",
        "POST /token",
        "POST /logout",
    ]
    pressed, back, redeemed, left = page
    stage = make_stage(corp())
    assert stage.door.origin == ORIGIN
    async with stage.door.http() as http:
        browser = Browser(http)
        reader = Reader(http, inputs_of((await browser.open(authorize_query())).text), {})
        txn = reader.known["txn"]
        await reader.send(pressed)
        query = parse_qs(stage.idp.authorize(_location(pressed, reader)))
        reader.known["idp_code"] = query["code"][0]
        await reader.send(back)
        assert reader.known["txn"] == txn  # back in the same request of the client
        _compare(redeemed, stage.idp.asked, reader)
        reader.known.update(inputs_of((await browser.get("/account/grants")).text))
        await reader.send(left)
    assert reader.known["id_token"].count(".") == 2


def _location(pressed: Exchange, reader: Reader) -> str:
    return reader.filled(pressed.answer_headers["Location"], quoted=True)


def _compare(told: Exchange, asked: list[tuple[str, dict[str, str], dict[bytes, bytes]]], reader: Reader) -> None:
    """Compare the request that we sent to the provider with the page's, member by member."""
    ((_, form, headers),) = [one for one in asked if one[0] == told.target]
    basic = base64.b64encode(f"{CLIENT_ID}:{SECRET.replace(' ', '+')}".encode()).decode()
    reader.known |= {"basic": basic, "idp_verifier": form["code_verifier"]}
    assert challenge_of(form["code_verifier"]) == reader.known["idp_challenge"]
    assert {name: values[0] for name, values in parse_qs(reader.filled(told.body, quoted=True)).items()} == form
    for name, value in told.headers.items():
        if name != "Host":
            assert headers[name.lower().encode()].decode() == reader.filled(value)
