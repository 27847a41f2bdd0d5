"""``authorization_details`` of type ``mcp_tool`` at the front door: asked, shown, narrowed, told (RFC 9396)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from firewall.identity.oauth21.grants import person
from tests.support.door import (
    GIT,
    TIME,
    Browser,
    assertion,
    authorize_query,
    callback_of,
    client_credentials,
    inputs_of,
    make_door,
    redeem,
    refresh,
)

MODELS = "https://fw.example/v1"


def details(*tools: str, at: str = TIME, **more: Any) -> str:
    return json.dumps(
        [{"type": "mcp_tool", "locations": [at], "actions": ["call"], "tools": list(tools or ("get_time",)), **more}]
    )


BOUND = details("get_time", "convert", constraints={"zone": ["Europe/Berlin", "UTC"]})


async def test_details_are_shown_in_plain_words_and_stand_in_the_token() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(authorization_details=BOUND)))
        for words in ("Call only the tools “get_time”, “convert”", "“zone” being “Europe/Berlin” or “UTC”"):
            assert words in page.text
        token = (await redeem(http, callback_of(await browser.approve(page))["code"])).json()
    assert token["authorization_details"] == json.loads(BOUND)
    given = door.verified(token["access_token"]).details
    assert [one.as_json() for one in given] == json.loads(BOUND)


@pytest.mark.parametrize(
    "given",
    [
        "{}",
        "[]",
        "not json",
        '[{"type":"mcp_tool","type":"mcp_tool"}]',
        '[{"type":"payment"}]',
        details(at=GIT),
        details(at=TIME + "/"),
        details(actions=["*"]),
        details(also="this"),
    ],
)
async def test_details_that_are_not_understood_are_refused_by_redirect(given: str) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await Browser(http).open(authorize_query(authorization_details=given))
    assert callback_of(reply)["error"] == "invalid_authorization_details"


async def test_only_mcp_resources_have_tools() -> None:
    door = make_door()
    async with door.http() as http:
        query = authorize_query(resource=MODELS, scope="llm:invoke", authorization_details=details(at=MODELS))
        assert callback_of(await Browser(http).open(query))["error"] == "invalid_authorization_details"


async def test_ui_09_a_person_may_take_details_away_but_not_all_of_them() -> None:
    two = json.dumps(json.loads(details("get_time")) + json.loads(details("convert")))
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(authorization_details=two)))
        form = {**inputs_of(page.text), "decision": "approve"}
        none = {k: v for k, v in form.items() if not k.startswith("detail.")}
        assert (await browser.post("/consent", none)).status_code == 400
        del form["detail.0"]
        token = (await redeem(http, callback_of(await browser.post("/consent", form))["code"])).json()
    assert [one["tools"] for one in token["authorization_details"]] == [["convert"]]


async def test_ui_01_other_details_are_another_question() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code(authorize_query(authorization_details=details()))
        assert (await browser.open(authorize_query(authorization_details=details()))).status_code == 303
        for other in ("-", details("convert"), details("get_time", "convert")):
            assert (await browser.open(authorize_query(authorization_details=other))).status_code == 200


async def test_a_token_request_narrows_and_never_widens() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        code = (await browser.code(authorize_query(authorization_details=BOUND)))["code"]
        less = details("get_time", constraints={"zone": ["UTC"]})
        token = (await redeem(http, code, authorization_details=less)).json()
        assert token["authorization_details"] == json.loads(less)
        # The refresh token keeps what the person agreed to; each access token may be narrower.
        again = (await refresh(http, token["refresh_token"])).json()
        assert again["authorization_details"] == json.loads(BOUND)
        for wider in (
            details("get_time"),
            details("wipe", constraints={"zone": ["UTC"]}),
            details("get_time", constraints={"zone": ["UTC", "Mars"]}),
        ):
            reply = await refresh(http, again["refresh_token"], authorization_details=wider)
            assert reply.json()["error"] == "invalid_authorization_details"
        assert (await refresh(http, again["refresh_token"])).status_code == 200


async def test_ui_09_a_connection_shows_what_it_was_narrowed_to() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await redeem(http, (await browser.code(authorize_query(authorization_details=BOUND)))["code"])
        assert "Call only the tools “get_time”, “convert”" in (await browser.get("/account/grants")).text


async def test_where_scopes_alone_were_agreed_a_client_may_still_bind_its_own_token() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        token = (await redeem(http, (await Browser(http).code())["code"], authorization_details=details())).json()
        service = (await client_credentials(http, assertion(door), authorization_details=details())).json()
    for one in (token, service):
        assert door.verified(one["access_token"]).details[0].tools == ("get_time",)


async def test_metadata_names_the_one_type() -> None:
    door = make_door()
    async with door.http() as http:
        metadata = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["authorization_details_types_supported"] == ["mcp_tool"]
    assert metadata["acr_values_supported"] == ["pwd", "mfa"]


async def test_ui_04_what_details_say_is_escaped() -> None:
    hostile = details("<img src=x onerror=alert(1)>", constraints={"<b>": ["</span><script>alert(1)</script>"]})
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(authorization_details=hostile)))
    assert "<img" not in page.text
    assert page.text.count("<script") == 1
    assert "&lt;img" in page.text


@pytest.mark.parametrize("control", ["on", "off"])
async def test_the_token_is_as_narrow_as_what_was_agreed(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if control == "off":
        monkeypatch.setattr(person, "requested_details", lambda *_: ())
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code(authorize_query(authorization_details=BOUND)))["code"]
        token = (await redeem(http, code)).json()["access_token"]
    assert (door.verified(token).details == ()) is (control == "off")
