"""Step-up: what a sign-in must be, at the authorization endpoint and in tokens; a second factor for local users."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from urllib.parse import urlencode

import httpx2
import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

from firewall.core.step_up import StepUp, reaches
from firewall.identity.people import second_factor
from firewall.identity.people.raising import way_up
from firewall.identity.people.sessions import LoginSession
from firewall.identity.people.users import User, Users
from firewall.identity.rfc9470 import levels
from firewall.identity.settings import ProtectedResource
from firewall.wire import oauth
from firewall.wire.oauth import OAuthError, parse_acr_values, parse_authorization_request
from tests.support.door import (
    ORIGIN,
    PASSWORD,
    TIME,
    Browser,
    Door,
    authorize_query,
    callback_of,
    inputs_of,
    make_door,
    redeem,
    refresh,
)

ASKING = ProtectedResource(
    "/mcp/time",
    "Time",
    ("time:read", "time:write"),
    ("time:read",),
    step_up=(StepUp("time:write", "mfa", 300),),
)


def code_of(secret: bytes, door: Door, *, steps: int = 0) -> str:
    counter = door.clock.now_us() // 1_000_000 // second_factor.PERIOD_S + steps
    return HOTP(secret, 6, SHA1()).generate(counter).decode()


async def enrol(door: Door, user: User) -> bytes:
    factors = door.identity.factors
    secret = base64.b32decode(factors.offer(user))
    assert factors.confirm(user, code_of(secret, door))
    door.clock.advance(second_factor.PERIOD_S)
    return secret


async def with_second(browser: Browser, page: httpx2.Response, code: str) -> httpx2.Response:
    """Sign in with password and code; return the page after it."""
    done = await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
    assert done.headers["location"] == "/login/code"
    assert "Six-digit code" in (await browser.get("/login/code")).text
    done = await browser.post("/login/code", {"code": code})
    return await browser.get(done.headers["location"]) if done.status_code == 303 else done


async def test_a_person_with_a_second_factor_reaches_mfa_and_the_token_says_so() -> None:
    door = make_door(resources=(ASKING,))
    secret = await enrol(door, await door.user())
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query(acr_values="mfa"))
        page = await with_second(browser, page, code_of(secret, door))
        token = (await redeem(http, callback_of(await browser.approve(page))["code"])).json()
    assert door.verified(token["access_token"]).acr == "mfa"


async def test_mfa_is_asked_for_and_a_password_alone_is_told_that_it_is_not_enough() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(acr_values="mfa")))
        assert page.status_code == 403
        assert "A second factor is needed" in page.text
        ended = await browser.post("/consent", {**inputs_of(page.text), "decision": "back"})
        assert callback_of(ended) == {"error": "unmet_authentication_requirements", "state": "xyz", "iss": ORIGIN}
        assert (await browser.post("/consent", {**inputs_of(page.text), "decision": "back"})).status_code == 403
        # The most wanted context comes first, a lesser one that is named as well will do.
        page = await browser.open(authorize_query(acr_values="mfa pwd"))
        assert 'action="/consent"' in page.text


async def test_a_session_by_password_is_not_enough_later_either() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        silent = await browser.open(authorize_query(acr_values="mfa", prompt="none"))
        assert callback_of(silent)["error"] == "login_required"
        assert 'action="/login"' in (await browser.open(authorize_query(acr_values="mfa"))).text


async def test_a_stepup_scope_asks_for_the_level_and_is_given_with_it() -> None:
    door = make_door(resources=(ASKING,))
    secret = await enrol(door, await door.user())
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query(scope="time:write stepup:mfa"))
        page = await with_second(browser, page, code_of(secret, door))
        assert "stepup" not in page.text  # it permits nothing, so nobody is asked about it
        token = (await redeem(http, callback_of(await browser.approve(page))["code"])).json()
        assert token["scope"] == "time:write stepup:mfa"
        again = (await refresh(http, token["refresh_token"])).json()
        assert again["scope"] == "time:write stepup:mfa"


async def test_a_stepup_scope_brings_the_age_that_the_resource_asks_for() -> None:
    door = make_door(resources=(ASKING,))
    secret = await enrol(door, await door.user())
    query = authorize_query(scope="time:write stepup:mfa")
    async with door.http() as http:
        browser = Browser(http)
        page = await with_second(browser, await browser.open(query), code_of(secret, door))
        await browser.approve(page)
        door.clock.advance(299)
        assert (await browser.open(query)).status_code == 303
        door.clock.advance(2)
        assert 'action="/login"' in (await browser.open(query)).text
        assert (await browser.open(authorize_query(scope="time:write"))).status_code == 303


@pytest.mark.parametrize("scope", ["stepup:mfa", "stepup:fresh", "time:read stepup:mfa"])
async def test_a_client_of_its_own_never_gets_a_stepup_scope(scope: str) -> None:
    from tests.support.door import assertion, client_credentials

    door = make_door()
    async with door.http() as http:
        reply = await client_credentials(http, assertion(door), scope=scope)
    assert "stepup" not in reply.json().get("scope", "")


@pytest.mark.parametrize(("allowed_s", "kept_s"), [(-1, levels.FRESH_S), (7200, 7200)])
async def test_a_refresh_does_not_keep_a_sign_in_fresh(allowed_s: int, kept_s: int) -> None:
    rule = StepUp("time:write", "", allowed_s)
    door = make_door(resources=(ProtectedResource("/mcp/time", "Time", ("time:read",), (), step_up=(rule,)),))
    await door.user()
    async with door.http() as http:
        issued = await Browser(http).code(authorize_query(scope="time:read stepup:fresh"))
        token = (await redeem(http, issued["code"])).json()
        assert token["scope"] == "time:read stepup:fresh"
        door.clock.advance(kept_s)
        token = (await refresh(http, token["refresh_token"])).json()
        assert token["scope"] == "time:read stepup:fresh"
        door.clock.advance(1)
        token = (await refresh(http, token["refresh_token"])).json()
    assert token["scope"] == "time:read"
    assert door.verified(token["access_token"]).scopes == {"time:read"}


async def test_max_age_and_prompt_login_ask_for_a_sign_in_once() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        for changes in ({"prompt": "login"}, {"max_age": "0"}):
            page = await browser.open(authorize_query(**changes))
            assert 'action="/login"' in page.text
            assert "code" in callback_of(await browser.sign_in(page))
        door.clock.advance(100)
        assert (await browser.open(authorize_query(max_age="1000"))).status_code == 303
        assert 'action="/login"' in (await browser.open(authorize_query(max_age="99"))).text


async def test_prompt_consent_asks_again_what_was_agreed_before() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        assert (await browser.open(authorize_query())).status_code == 303
        assert 'action="/consent"' in (await browser.open(authorize_query(prompt="consent"))).text


async def test_as_18_prompt_none_shows_no_page() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        query = authorize_query(prompt="none")
        assert callback_of(await browser.open(query))["error"] == "login_required"
        await browser.sign_in(await browser.open(authorize_query()))
        assert callback_of(await browser.open(query))["error"] == "consent_required"
        await browser.code()
        assert "code" in callback_of(await browser.open(query))
        assert callback_of(await browser.open(authorize_query(prompt="none login")))["error"] == "invalid_request"
        assert callback_of(await browser.open(authorize_query(prompt="none", max_age="0")))["error"] == "login_required"


# -- the second factor -------------------------------------------------------------------------------------


async def test_a_code_counts_once_and_only_near_its_time() -> None:
    door = make_door()
    user = await door.user()
    secret = await enrol(door, user)
    factors = door.identity.factors
    for steps in (-3, -2, 2, 3):
        assert not factors.verify(user, code_of(secret, door, steps=steps))
    code = code_of(secret, door)
    assert factors.verify(user, code[:3] + " " + code[3:])
    assert not factors.verify(user, code)
    assert not factors.verify(user, code_of(secret, door, steps=-1))
    assert factors.verify(user, code_of(secret, door, steps=1))


async def test_the_secret_is_sealed_to_its_person() -> None:
    door = make_door()
    ada, eve = await door.user(), await door.user("eve")
    secret = await enrol(door, ada)
    await enrol(door, eve)
    table = door.store.collection("second_factors")
    kept = table.get("acme", ada.subject)
    assert kept is not None
    assert secret.hex().encode() not in kept.value
    table.put("acme", eve.subject, kept.value)
    with pytest.raises(Exception, match="handle_invalid"):
        door.identity.factors.verify(eve, code_of(secret, door))


async def test_five_wrong_codes_end_the_attempt_and_later_ones_wait() -> None:
    door = make_door()
    secret = await enrol(door, await door.user())
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
        codes = [(await browser.post("/login/code", {"code": "000000"})).status_code for _ in range(8)]
        assert codes[:3] == [403] * 3
        assert 429 in codes
        door.clock.advance(299)
        assert (await browser.post("/login/code", {"code": code_of(secret, door)})).status_code == 303
        assert (await browser.post("/login/code", {"code": code_of(secret, door, steps=1)})).status_code == 403


async def test_as_15_the_second_step_belongs_to_the_browser_of_the_first() -> None:
    door = make_door()
    secret = await enrol(door, await door.user())
    async with door.http() as one, door.http() as two:
        page = await Browser(one).open(authorize_query())
        await Browser(one).post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
        stolen = await Browser(two).post("/login/code", {"code": code_of(secret, door)})
    assert stolen.status_code == 403
    assert "set-cookie" not in stolen.headers


async def test_a_password_alone_opens_no_session_where_a_second_factor_is_enrolled() -> None:
    door = make_door()
    await enrol(door, await door.user())
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        done = await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
        assert "bz_session" not in done.headers["set-cookie"]
        assert 'action="/login"' in (await browser.get("/consent")).text


async def test_a_password_that_was_changed_meanwhile_ends_the_attempt() -> None:
    door = make_door()
    user = await door.user()
    secret = await enrol(door, user)
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
        await door.identity.users.set_password("acme", user.subject, PASSWORD + " new")
        assert (await browser.post("/login/code", {"code": code_of(secret, door)})).status_code == 403


async def test_the_page_adds_and_removes_a_factor_within_minutes_of_a_sign_in() -> None:
    door = make_door()
    user = await door.user()
    async with door.http() as http:
        browser = Browser(http)
        login = await browser.get("/account/security")
        done = await browser.post("/login", {**inputs_of(login.text), "username": "ada", "password": PASSWORD})
        assert done.headers["location"] == "/account/security"
        page = await browser.get("/account/security")
        shown = re.search(r'<code class="code">([A-Z2-7 ]+)</code>', page.text)
        assert shown is not None
        secret = base64.b32decode(shown[1].replace(" ", ""))
        assert "otpauth://totp/Bartizan:ada?secret=" in page.text
        shown_to = {**inputs_of(page.text), "password": PASSWORD}
        wrong = await browser.post("/account/security", {**shown_to, "code": "123456"})
        assert wrong.status_code == 403
        assert 'aria-invalid="true"' in wrong.text
        added = await browser.post("/account/security", {**shown_to, "code": code_of(secret, door)})
        assert added.status_code == 303
        assert door.identity.factors.enrolled(user)
        page = await browser.get("/account/security")
        assert shown[1] not in page.text
        door.clock.advance(second_factor.PERIOD_S)
        await browser.post("/account/security", {**inputs_of(page.text), "code": code_of(secret, door)})
        assert not door.identity.factors.enrolled(user)
        door.clock.advance(601)
        assert 'action="/login"' in (await browser.get("/account/security")).text


def offered_secret(page: httpx2.Response) -> bytes:
    shown = re.search(r'<code class="code">([A-Z2-7 ]+)</code>', page.text)
    assert shown is not None
    return base64.b32decode(shown[1].replace(" ", ""))


async def test_somebody_without_a_second_factor_sets_one_up_on_the_way_and_signs_in_with_it() -> None:
    door = make_door(resources=(ASKING,))
    user = await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(scope="time:write stepup:mfa")))
        page = await browser.post("/account/security", {**inputs_of(page.text), "do": "show"})
        secret = offered_secret(page)
        values = {**inputs_of(page.text), "password": PASSWORD, "code": code_of(secret, door)}
        added = await browser.post("/account/security", values)
        assert added.headers["location"] == "/consent"
        assert door.identity.factors.enrolled(user)
        page = await browser.get(added.headers["location"])
        assert "Sign in again" in page.text  # setting one up is no sign-in with it
        door.clock.advance(second_factor.PERIOD_S)
        page = await with_second(browser, page, code_of(secret, door))
        token = (await redeem(http, callback_of(await browser.approve(page))["code"])).json()
        assert token["scope"] == "time:write stepup:mfa"


@pytest.mark.parametrize("control", ["on", "off"])
async def test_as_16_a_session_that_was_taken_over_sets_up_no_second_factor(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thief has the cookie of a session by password, and an app of their own; the password is what they lack."""
    door = make_door()
    user = await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.sign_in(await browser.open(authorize_query()))
        page = await browser.get("/account/security")
        secret = offered_secret(page)
        for password in ("", "not the password"):
            if control == "off":

                async def anybody(_users: object, _name: str, _password: str) -> User:
                    return user

                monkeypatch.setattr(Users, "verify", anybody)
            values = {**inputs_of(page.text), "password": password, "code": code_of(secret, door)}
            await browser.post("/account/security", values)
    assert door.identity.factors.enrolled(user) is (control == "off")


async def test_somebody_elses_password_sets_up_no_second_factor() -> None:
    door = make_door()
    user = await door.user()
    await door.identity.users.create("eve", "another good password", tenant="acme")
    async with door.http() as http:
        browser = Browser(http)
        await browser.sign_in(await browser.open(authorize_query()))
        page = await browser.get("/account/security")
        values = {"password": "another good password", "code": code_of(offered_secret(page), door)}
        assert (await browser.post("/account/security", {**inputs_of(page.text), **values})).status_code == 403
    assert not door.identity.factors.enrolled(user)


async def test_somebody_who_has_a_second_factor_is_asked_for_it_and_offered_no_other() -> None:
    """Enrolled in another window after the sign-in: the sign-in page comes again, and nothing replaces the factor."""
    door = make_door()
    user = await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(acr_values="mfa")))
        setting_up = {**inputs_of(page.text), "do": "show"}
        secret = await enrol(door, user)
        page = await browser.get("/consent")
        assert 'action="/login"' in page.text
        assert '<code class="code">' not in (await browser.post("/account/security", setting_up)).text
        page = await with_second(browser, page, code_of(secret, door))
        assert 'action="/consent"' in page.text


async def test_somebody_of_a_provider_is_told_to_use_the_second_factor_there() -> None:
    door = make_door()
    user = await door.user()
    assert door.identity.users.has_password("acme", user.subject)
    linked = door.identity.users.create_linked(tenant="acme", scopes=("*",))
    assert not door.identity.users.has_password("acme", linked.subject)
    session = LoginSession(linked, "s_x", 1, "pwd", (), "form")
    asked = replace(
        parse_authorization_request(oauth.parse_form(urlencode(authorize_query(acr_values="mfa")).encode())), scope=()
    )
    assert way_up(asked, session, door.identity.users, door.identity.factors) == "elsewhere"
    assert (
        way_up(replace(asked, acr_values=("urn:acme:gold",)), session, door.identity.users, door.identity.factors)
        == "none"
    )


def test_rfc_6238_vectors_hold() -> None:
    """Appendix B, the last six of eight digits."""
    for seconds, code in ((59, "287082"), (1111111109, "081804"), (20000000000, "353130")):
        assert HOTP(b"12345678901234567890", 6, SHA1()).generate(seconds // 30).decode() == code


# -- rules ---------------------------------------------------------------------------------------------------


def test_levels_are_ordered_and_foreign_values_only_equal_themselves() -> None:
    assert reaches("mfa", "pwd")
    assert not reaches("pwd", "mfa")
    assert reaches("urn:acme:gold", "urn:acme:gold")
    assert not reaches("urn:acme:gold", "pwd")
    assert not reaches("mfa", "urn:acme:gold")
    assert not reaches("", "pwd")
    assert levels.attained(("time:read", "stepup:mfa", "stepup:fresh", "stepup:"), "pwd") == ("stepup:fresh",)
    assert levels.attained(("stepup:fresh",), "") == ()
    assert levels.in_time(("a:read", "stepup:mfa", "stepup:fresh"), 0, 1, ASKING) == ("a:read", "stepup:mfa")


def test_acr_values_are_bounded() -> None:
    assert parse_acr_values("mfa pwd mfa") == ("mfa", "pwd")
    for text in (" ".join(f"a{i}" for i in range(9)), "a" * 129, 'a"b', "a  b"):
        with pytest.raises(OAuthError, match="acr_values"):
            parse_acr_values(text)


@pytest.mark.parametrize("control", ["on", "off"])
async def test_a_used_code_is_refused_by_the_step_that_was_kept(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    user = await door.user()
    secret = await enrol(door, user)
    factors = door.identity.factors
    code = code_of(secret, door)
    assert factors.verify(user, code)
    if control == "off":
        fitting = second_factor.SecondFactors._fitting
        monkeypatch.setattr(second_factor.SecondFactors, "_fitting", lambda self, s, c, _used: fitting(self, s, c, 0))
    assert factors.verify(user, code) is (control == "off")


@pytest.mark.parametrize("control", ["on", "off"])
async def test_as_16_a_password_session_does_not_become_an_mfa_session(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if control == "off":
        monkeypatch.setattr(levels, "strong_enough", lambda *_: True)
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        page = await browser.open(authorize_query(acr_values="mfa"))
    assert (page.status_code == 303) is (control == "off")
    assert TIME


@pytest.mark.parametrize("apart", [True, False])
async def test_a_session_that_somebody_took_over_has_not_seen_what_its_person_enrols_elsewhere(
    apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not apart:  # the twin: one offer for all sessions of a person
        monkeypatch.setattr(second_factor, "_place", lambda user, _session: user.subject)
    door = make_door()
    await door.user()
    async with door.http() as taken, door.http() as own:
        keys, pages = list[str](), list[httpx2.Response]()
        for http in (taken, own):
            browser = Browser(http)
            page = await browser.sign_in(await browser.get("/account/security"))
            shown = re.search(r'<code class="code">([A-Z2-7 ]+)</code>', page.text)
            assert shown is not None
            keys.append(shown[1].replace(" ", ""))
            pages.append(page)
        assert (keys[0] != keys[1]) is apart
        values = {**inputs_of(pages[1].text), "password": PASSWORD, "code": code_of(base64.b32decode(keys[1]), door)}
        added = await Browser(own).post("/account/security", values)
        assert added.status_code == 303
    assert len(door.named("identity.second_factor.added")) == 1
