"""The device grant: what a device is told, what a person sees and decides, and how polling goes (RFC 8628)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx2
import pytest

from firewall.core.jsonvalue import JSONObject
from firewall.identity.people import transactions
from firewall.identity.rfc8628 import codes, page
from firewall.identity.rfc8628.endpoint import GRANT_TYPE
from firewall.identity.settings import ClientSettings
from tests.support.door import PASSWORD, TIME, Browser, Door, inputs_of, make_door, registered_clients

TV = ClientSettings("tv", "Television", grant_types=(GRANT_TYPE, "refresh_token"), tenant="")


def device_door(**changes: object) -> Door:
    return make_door(**{"clients": (*registered_clients(), TV), "device_grant": True, **changes})


async def ask(http: httpx2.AsyncClient, **changes: str) -> httpx2.Response:
    form = {"client_id": "tv", "resource": TIME, "scope": "time:read time:write", **changes}
    return await http.post("/device_authorization", data={k: v for k, v in form.items() if v})


async def poll(http: httpx2.AsyncClient, device_code: str, **changes: str) -> httpx2.Response:
    form = {"grant_type": GRANT_TYPE, "device_code": device_code, "client_id": "tv", **changes}
    return await http.post("/token", data=form)


async def signed_in(browser: Browser, name: str = "ada") -> httpx2.Response:
    values = {**inputs_of((await browser.get("/device")).text), "username": name, "password": PASSWORD}
    done = await browser.post("/login", values)
    assert done.headers["location"] == "/device"
    return await browser.get("/device")


async def typed(browser: Browser, user_code: str) -> httpx2.Response:
    form = await browser.get("/device")
    return await browser.post("/device", {**inputs_of(form.text), "user_code": user_code})


async def decided(browser: Browser, user_code: str, decision: str = "approve", **changes: str) -> httpx2.Response:
    shown = await typed(browser, user_code)
    assert shown.status_code == 200, shown.text
    return await browser.post("/device/decide", {**inputs_of(shown.text), "decision": decision, **changes})


async def test_a_device_gets_a_token_after_a_person_typed_its_code_and_agreed() -> None:
    door = device_door()
    await door.user()
    async with door.http() as device, door.http() as http:
        asked = (await ask(device)).json()
        assert set(asked) == {"device_code", "user_code", "verification_uri", "expires_in", "interval"}
        assert asked["verification_uri"] == f"{door.origin}/device"
        assert (await poll(device, asked["device_code"])).json()["error"] == "authorization_pending"
        browser = Browser(http)
        await signed_in(browser)
        done = await decided(browser, asked["user_code"].lower().replace("-", " "))
        assert "Connected" in done.text
        door.clock.advance(asked["interval"])
        token = (await poll(device, asked["device_code"])).json()
        principal = door.verified(token["access_token"])
        assert principal.subject == door.named("identity.device.approved")[0]["sub"]
        assert principal.scopes == {"time:read", "time:write"}
        assert principal.acr == "pwd"
        again = await poll(device, asked["device_code"])
        assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")


async def test_the_person_gives_less_than_the_device_asked_for() -> None:
    door = device_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        asked = (await ask(http)).json()
        await signed_in(browser)
        shown = await typed(browser, asked["user_code"])
        values = {k: v for k, v in inputs_of(shown.text).items() if k != "scope.1"}
        await browser.post("/device/decide", {**values, "decision": "approve"})
        assert (await poll(http, asked["device_code"])).json()["scope"] == "time:read"


async def test_a_code_in_the_address_is_never_filled_in() -> None:
    door = device_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        asked = (await ask(http)).json()
        await signed_in(browser)
        page_with = await browser.get(f"/device?user_code={asked['user_code']}")
    assert asked["user_code"] not in page_with.text
    assert asked["user_code"].replace("-", "") not in page_with.text
    assert "verification_uri_complete" not in asked


async def test_the_page_says_that_it_is_a_device_and_shows_the_code_to_compare() -> None:
    door = device_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        asked = (await ask(http)).json()
        await signed_in(browser)
        shown = await typed(browser, asked["user_code"])
    for text in ("device", asked["user_code"], "Television", TIME, "If somebody sent you the code, deny."):
        assert text in shown.text
    assert "Then you go to" not in shown.text
    assert "script-src 'self'" in shown.headers["content-security-policy"]


async def test_whoever_polls_too_fast_waits_longer_each_time() -> None:
    door = device_door()
    async with door.http() as http:
        code = (await ask(http)).json()["device_code"]
        assert (await poll(http, code)).json()["error"] == "authorization_pending"
        door.clock.advance(4)
        assert (await poll(http, code)).json()["error"] == "slow_down"
        door.clock.advance(6)
        assert (await poll(http, code)).json()["error"] == "slow_down"
        door.clock.advance(15)
        assert (await poll(http, code)).json()["error"] == "authorization_pending"


async def test_a_refusal_is_told_once_and_an_expired_code_is_told_as_such() -> None:
    door = device_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        denied, late = (await ask(http)).json(), (await ask(http)).json()
        await signed_in(browser)
        assert "Nothing was given" in (await decided(browser, denied["user_code"], "deny")).text
        assert (await poll(http, denied["device_code"])).json()["error"] == "access_denied"
        assert (await poll(http, denied["device_code"])).json()["error"] == "invalid_grant"
        door.clock.advance(601)
        assert (await poll(http, late["device_code"])).json()["error"] == "expired_token"
        assert (await typed(browser, late["user_code"])).status_code == 403


async def test_a_code_serves_one_decision_and_one_token_under_concurrency() -> None:
    door = device_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        asked = (await ask(http)).json()
        await signed_in(browser)
        form = {**inputs_of((await typed(browser, asked["user_code"])).text), "decision": "approve"}
        replies = await asyncio.gather(*(browser.post("/device/decide", form) for _ in range(5)))
        assert sum("Connected" in reply.text for reply in replies) == 1
        polled = await asyncio.gather(*(poll(http, asked["device_code"]) for _ in range(10)))
        assert sum(reply.status_code == 200 for reply in polled) == 1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"client_id": "tool"}, "unauthorized_client"),
        ({"client_id": "nobody"}, "invalid_client"),
        ({"resource": "https://other.example/mcp"}, "invalid_target"),
        ({"scope": "git:read"}, "invalid_scope"),
        ({"authorization_details": "[]"}, "invalid_authorization_details"),
    ],
)
async def test_what_a_device_may_not_ask_is_refused_in_json(changes: dict[str, str], error: str) -> None:
    door = device_door()
    async with door.http() as http:
        reply = await ask(http, **changes)
    assert reply.json()["error"] == error
    assert "access-control-allow-origin" not in reply.headers or reply.status_code >= 400


async def test_another_client_cannot_poll_a_device_code() -> None:
    other = replace(TV, client_id="radio")
    door = device_door(clients=(*registered_clients(), TV, other))
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        asked = (await ask(http)).json()
        await signed_in(browser)
        await decided(browser, asked["user_code"])
        stolen = await poll(http, asked["device_code"], client_id="radio")
        assert stolen.json()["error"] == "invalid_grant"
        assert (await poll(http, asked["device_code"])).status_code == 200


async def test_guessing_user_codes_is_slowed_down_per_person() -> None:
    door = device_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await signed_in(browser)
        seen = [(await typed(browser, "BCDF-GHJK")).status_code for _ in range(6)]
    assert seen[:4] == [403] * 4
    assert 429 in seen[4:]


async def test_what_was_agreed_for_a_device_is_asked_again_for_the_next() -> None:
    door = device_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await signed_in(browser)
        for _ in range(2):
            asked = (await ask(http)).json()
            assert (await poll(http, asked["device_code"])).json()["error"] == "authorization_pending"
            await decided(browser, asked["user_code"])
            assert (await poll(http, asked["device_code"])).status_code == 200 or door.clock.advance(5) is None


async def test_the_token_dies_with_its_grant_like_any_other() -> None:
    door = device_door()
    user = await door.user()
    async with door.http() as http:
        browser = Browser(http)
        asked = (await ask(http)).json()
        await signed_in(browser)
        await decided(browser, asked["user_code"])
        token = (await poll(http, asked["device_code"])).json()["access_token"]
        door.verified(token)
        page_of = await browser.get("/account/grants")
        await browser.post("/account/grants", {k: v for k, v in inputs_of(page_of.text).items() if k != "agreement"})
    with pytest.raises(Exception, match="token_invalid"):
        door.verified(token)
    assert user.tenant == "acme"


async def test_without_the_setting_nothing_of_it_exists() -> None:
    door = make_door()
    async with door.http() as http:
        assert (await ask(http)).status_code == 404
        assert (await http.get("/device")).status_code == 404
        assert (await poll(http, "bzd_x.device", client_id="tool")).json()["error"] == "unsupported_grant_type"
        metadata: JSONObject = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert "device_authorization_endpoint" not in metadata
    assert GRANT_TYPE not in metadata["grant_types_supported"]  # type: ignore[operator]


async def test_metadata_tells_the_endpoint_where_it_is_on() -> None:
    door = device_door()
    async with door.http() as http:
        metadata = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert metadata["device_authorization_endpoint"] == f"{door.origin}/device_authorization"
    assert GRANT_TYPE in metadata["grant_types_supported"]


async def test_a_device_that_asks_for_more_waits_for_the_sign_in_that_gives_it() -> None:
    door = device_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await signed_in(browser)
        door.clock.advance(10)
        fresh, strong = [(await ask(http, scope=f"time:read {step}")).json() for step in ("stepup:fresh", "stepup:mfa")]
        assert 'action="/login"' in (await typed(browser, fresh["user_code"])).text
        assert 'action="/login"' in (await typed(browser, strong["user_code"])).text
        await browser.post("/logout", inputs_of((await browser.get("/account/grants")).text))
        await signed_in(browser)
        assert "stronger sign-in" in (await typed(browser, strong["user_code"])).text
        await decided(browser, fresh["user_code"])
        token = (await poll(http, fresh["device_code"])).json()
        assert token["scope"] == "time:read stepup:fresh"
        assert (await poll(http, strong["device_code"])).json()["error"] == "authorization_pending"


def test_user_codes_have_no_vowels_fall_evenly_and_forgive_spelling() -> None:
    assert not set(codes.ALPHABET) & set("AEIOUY")
    assert len(codes.ALPHABET) == 20
    assert codes.normal(" wdjb–mjht ") == codes.normal("WDJB-MJHT") == "WDJBMJHT"
    assert codes.normal("WDJB-MJHA") == ""
    assert codes.normal("WDJBMJH") == ""
    assert codes.shown("WDJBMJHT") == "WDJB-MJHT"


# -- attacks, each with its control off ------------------------------------------------------------------


@pytest.mark.parametrize("control", ["on", "off"])
async def test_ui_06_a_decision_of_another_persons_form_counts_for_nothing(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if control == "off":
        monkeypatch.setattr(page, "check_form_token", lambda *_: True)
    door = device_door()
    await door.user()
    await door.user("eve")
    async with door.http() as one, door.http() as two:
        ada, eve = Browser(one), Browser(two)
        asked = (await ask(one)).json()
        await signed_in(eve, "eve")
        form = {**inputs_of((await typed(eve, asked["user_code"])).text), "decision": "approve"}
        await signed_in(ada)
        reply = await ada.post("/device/decide", form)  # eve's form, sent by ada's browser
        won = (await poll(one, asked["device_code"])).status_code == 200
    assert (reply.status_code, won) == ((200, True) if control == "off" else (403, False))


@pytest.mark.parametrize("control", ["on", "off"])
async def test_ui_06_a_form_token_made_from_the_session_id_in_a_token_is_worth_nothing(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client knows the session's id from ``sid``; the forms' secret must not follow from it."""
    if control == "off":
        monkeypatch.setattr(transactions.hmac, "compare_digest", lambda *_: True)
    door = device_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await signed_in(browser)
        asked = (await ask(http)).json()
        secret = "s_" + "0" * 26
        forged = transactions._mac(secret, "device", "00")
        reply = await browser.post("/device", {"user_code": asked["user_code"], "csrf": f"00.{forged}"})
    assert reply.status_code == (200 if control == "off" else 403)
