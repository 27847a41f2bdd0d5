"""Signing in at an identity provider, in one process: the whole way, what is imported, and what is refused."""

from __future__ import annotations

import asyncio
import base64
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc.jwk import ECKey

from firewall.core.errors import ConfigFault, Malformed, UpstreamFault
from firewall.core.step_up import StepUp
from firewall.identity.oidc.build import ProvidersGiven
from firewall.identity.oidc.metadata import parse_metadata
from firewall.identity.oidc.refusals import NoAccount, words
from firewall.identity.oidc.settings import ClaimNames
from firewall.identity.people.links import account_digest
from firewall.identity.settings import ProtectedResource
from firewall.net.dial import Dialler, Fetched, Purpose
from firewall.wire import strict_json
from tests.support.door import (
    GIT,
    PASSWORD,
    TIME,
    Browser,
    authorize_query,
    inputs_of,
    make_door,
    public_jwks,
    redeem,
    refresh,
)
from tests.support.idp import (
    CLIENT_ID,
    ISSUER,
    SECRET,
    Idp,
    Stage,
    code_of,
    come_back,
    corp,
    leave,
    make_stage,
    sign_in,
)

OTHER = "https://other.example"


def asked_of(location: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


async def failed(stage: Stage, **changes: Any) -> list[str]:
    """Sign in with a changed ID token and return what the operator reads of it."""
    stage.idp.changes = changes
    async with stage.door.http() as http:
        back = await sign_in(Browser(http), stage)
    assert back.status_code == 403
    assert "nobody was signed in" in back.text
    assert "bz_session" not in str(back.headers.get_list("set-cookie"))
    return [f"{facts['code']} {facts['detail']}" for facts in stage.door.named("identity.idp.failed")]


# -- the whole way -----------------------------------------------------------------------------------------


async def test_a_person_signs_in_at_the_provider_and_the_client_gets_a_token_of_ours() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        answer = await code_of(Browser(http), stage)
        token = (await redeem(http, answer["code"])).json()
    principal = stage.door.verified(token["access_token"])
    assert (principal.tenant, principal.roles, principal.acr) == ("acme", ("dev",), "pwd")
    assert principal.issuer == stage.door.origin  # our own token: the provider's never leaves us
    assert principal.auth_time == stage.idp.now_s - 5
    (link,) = stage.door.identity.links.of_user("acme", principal.subject)
    assert (link.issuer, link.subject) == (ISSUER, "00u1")


async def test_the_same_person_is_the_same_account_and_another_is_not() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        first = stage.door.verified(
            (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()["access_token"]
        )
    async with stage.door.http() as http:
        again = stage.door.verified(
            (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()["access_token"]
        )
        assert again.subject == first.subject
    stage.idp.person["sub"] = "00u2"
    async with stage.door.http() as http:
        other = stage.door.verified(
            (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()["access_token"]
        )
    assert other.subject != first.subject


async def test_nobody_is_recognised_by_an_address_or_a_name() -> None:
    """Accounts link by (issuer, subject): the same address of a local account changes nothing."""
    stage = make_stage(corp(claims=ClaimNames(name="email")))
    local = await stage.door.user("ada@acme.example", roles=("admin",), scopes=("*",))
    stage.idp.person |= {"email": "ada@acme.example", "email_verified": True, "preferred_username": local.name}
    async with stage.door.http() as http:
        answer = await code_of(Browser(http), stage)
        principal = stage.door.verified((await redeem(http, answer["code"])).json()["access_token"])
    assert principal.subject != local.subject
    assert principal.roles == ("dev",)


async def test_the_request_carries_pkce_nonce_state_and_the_hint_and_repeats_nothing() -> None:
    stage = make_stage(corp(parameters={"hd": "acme.example"}, acr_of={"urn:acme:strong": "mfa"}))
    async with stage.door.http() as http:
        browser = Browser(http)
        query = authorize_query(login_hint="ada@acme.example", acr_values="mfa")
        locations = [(await leave(browser, await browser.open(query))).headers["location"] for _ in range(2)]
    asked, again = (asked_of(one) for one in locations)
    assert locations[0].startswith(f"{ISSUER}/authorize?")
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == "https://fw.example/callback/corp"
    assert asked["scope"] == "openid profile"
    assert (asked["hd"], asked["login_hint"], asked["acr_values"]) == (
        "acme.example",
        "ada@acme.example",
        "urn:acme:strong",
    )
    for name in ("state", "nonce", "code_challenge"):
        assert len(asked[name]) == 43
        assert asked[name] != again[name]
    assert authorize_query()["state"] not in asked.values()  # the client's own state stays with us


async def test_a_button_stands_on_every_sign_in_page_and_names_who_asks() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        page = await Browser(http).open(authorize_query())
        own = await http.get("/account/grants")
    for shown in (page, own):
        assert "Continue with Acme" in shown.text
        assert 'action="/login/corp"' in shown.text
        assert 'name="password"' in shown.text
    assert "app.example" in page.text


async def test_signing_in_from_our_own_page_leads_back_to_it() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await browser.post("/login/corp", {"txn": "", "csrf": "", "to": "grants"})
        back = await come_back(browser, stage.idp.authorize(away.headers["location"]))
        assert back.headers["location"] == "/account/grants"
        page = await browser.get("/account/grants")
    assert "Ada L. (Acme)" in page.text


# -- authenticating to the provider ---------------------------------------------------------------------------


async def test_the_secret_goes_in_the_header_or_in_the_body_as_the_provider_wants() -> None:
    for method, form, header in (
        ("client_secret_basic", None, True),
        ("client_secret_post", SECRET, False),
        ("none", None, False),
    ):
        stage = make_stage(corp(client_auth=method))
        async with stage.door.http() as http:
            assert (await sign_in(Browser(http), stage)).status_code == 303
        ((_, sent, headers),) = [one for one in stage.idp.asked if one[0] == "/token"]
        assert sent.get("client_secret") == form
        expected = base64.b64encode(f"{CLIENT_ID}:{SECRET.replace(' ', '+')}".encode())
        assert headers.get(b"authorization") == (b"Basic " + expected if header else None)


async def test_a_missing_secret_is_told_without_being_told() -> None:
    stage = make_stage(corp(secret="env:NOTHING"))
    async with stage.door.http() as http:
        back = await sign_in(Browser(http), stage)
    assert back.status_code == 502
    assert SECRET not in repr(stage.door.events)


# -- AS-15, UI-07: one browser -----------------------------------------------------------------------------------


async def test_as_15_no_cookie_of_the_providers_leg_before_the_person_pressed_on_our_page() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query(), site="cross-site")
        assert page.status_code == 200
        assert not any("bz_idp" in cookie for cookie in page.headers.get_list("set-cookie"))
        away = await leave(browser, page)
        assert any("__Host-bz_idp_" in cookie for cookie in away.headers.get_list("set-cookie"))
    assert "/token" not in [path for path, _, _ in stage.idp.asked]


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}])
async def test_as_15_another_site_cannot_press_the_button(headers: dict[str, str]) -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        reply = await browser.post("/login/corp", inputs_of(page.text), **headers)
        assert reply.status_code == 403
        forged = await browser.post("/login/corp", {**inputs_of(page.text), "csrf": "guess"})
        assert forged.status_code == 403
    assert not stage.idps.fetched


async def test_ui_07_an_answer_that_another_browser_began_is_refused() -> None:
    """The attacker goes to the provider's page and lets the victim finish: the victim's browser has no such leg."""
    stage = make_stage()
    async with stage.door.http() as attacker, stage.door.http() as victim:
        begun = Browser(attacker)
        away = await leave(begun, await begun.open(authorize_query()))
        query = stage.idp.authorize(away.headers["location"])
        lured = await come_back(Browser(victim), query)
        assert lured.status_code == 403
        assert "set-cookie" not in lured.headers
        assert (await come_back(begun, query)).status_code == 303  # nothing was taken from whoever began it


# -- AS-17: the answer -------------------------------------------------------------------------------------------


async def test_as_17_an_answer_counts_once() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        query = stage.idp.authorize(away.headers["location"])
        assert (await come_back(browser, query)).status_code == 303
        assert (await come_back(browser, query)).status_code == 403


async def test_as_17_a_leg_ends_after_ten_minutes() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        stage.door.clock.advance(601)
        stage.tick()
        assert (await come_back(browser, stage.idp.authorize(away.headers["location"]))).status_code == 403


async def test_as_17_an_answer_of_provider_a_at_the_callback_of_provider_b_is_refused() -> None:
    """Mix-up: the code of one must never be sent to the other's token endpoint."""
    honest, evil = Idp(), Idp(OTHER)
    stage = make_stage(corp(), corp(name="evil", issuer=OTHER), idps=(honest, evil))
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        query = honest.authorize(away.headers["location"])
        assert (await come_back(browser, query, "evil")).status_code == 403
        assert "/token" not in [path for path, _, _ in evil.asked]
        assert (await come_back(browser, query)).status_code == 303  # and the right one still works


@pytest.mark.parametrize("iss", ["-", OTHER, ISSUER + "/", ISSUER.upper()])
async def test_as_17_the_answers_iss_must_be_there_and_right(iss: str) -> None:
    """RFC 9207 §2.4: the metadata promises ``iss``."""
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        assert (await come_back(browser, stage.idp.authorize(away.headers["location"], iss=iss))).status_code == 403
    assert [f["detail"] for f in stage.door.named("identity.idp.failed")] == ["iss"]
    assert "/token" not in [path for path, _, _ in stage.idp.asked]


@pytest.mark.parametrize("iss", ["-", ISSUER])
async def test_a_provider_that_promises_no_iss_may_leave_it_out(iss: str) -> None:
    stage = make_stage()
    stage.idp.metadata["authorization_response_iss_parameter_supported"] = None
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        back = await come_back(browser, stage.idp.authorize(away.headers["location"], iss=iss))
    assert back.status_code == 303


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"iss": OTHER}, "iss"),
        ({"iss": ISSUER + "/"}, "iss"),
        ({"iss": None}, "iss"),
        ({"aud": "somebody"}, "aud"),
        ({"aud": [CLIENT_ID, "somebody"], "azp": CLIENT_ID}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": None}, "aud"),
        ({"azp": "somebody"}, "azp"),
        ({"nonce": "another"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"exp": 1}, "exp"),
        ({"exp": None}, "exp"),
        ({"exp": "4102444800"}, "exp"),
        ({"exp": True}, "exp"),
        ({"iat": 4102444800, "exp": 4102444900}, "iat"),
        ({"exp": 4102444800}, "iat"),
        ({"iat": None}, "iat"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "sub"),
        ({"sub": "x" * 256}, "sub"),
        ({"sub": 7}, "sub"),
        ({"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "at_hash"),
        ({"at_hash": 1}, "at_hash"),
        ({"events": {}}, "sub"),
        ({"auth_time": "now"}, "auth_time"),
    ],
)
async def test_as_17_the_id_token_must_be_for_us_from_them_now_and_of_this_sign_in(
    changes: dict[str, Any], told: str
) -> None:
    stage = make_stage()
    stage.idp.changes = changes
    async with stage.door.http() as http:
        back = await sign_in(Browser(http), stage)
    assert back.status_code == 403
    assert [facts["detail"] for facts in stage.door.named("identity.idp.failed")] == [told]
    assert not stage.door.named("identity.login")


async def test_as_17_a_token_of_another_kind_is_no_id_token() -> None:
    for typ in ("at+jwt", "logout+jwt", "dpop+jwt", "oauth-id-jag+jwt", "secevent+jwt"):
        stage = make_stage()
        stage.idp.typ = typ
        assert await failed(stage) == ["jwt_claims typ"]


async def test_as_17_only_the_providers_own_key_counts() -> None:
    stage = make_stage()
    stage.idp.keys = public_jwks(ECKey.generate_key("P-256", private=True), stage.idp.kid)  # type: ignore[assignment]
    assert await failed(stage) == ["jwt_signature "]


async def test_as_17_a_code_that_was_begun_with_another_verifier_is_worth_nothing() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        query = stage.idp.authorize(away.headers["location"])
        stage.idp.codes["code-0"]["code_challenge"] = "A" * 43
        back = await come_back(browser, query)
    assert back.status_code == 502
    assert "<script>" not in back.text


async def test_two_audiences_pass_when_the_other_is_trusted_and_the_party_is_us() -> None:
    stage = make_stage(corp(trusted_audiences=("account",)))
    stage.idp.changes = {"aud": [CLIENT_ID, "account"], "azp": CLIENT_ID}
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 303
    stage = make_stage(corp(trusted_audiences=("account",)))
    assert await failed(stage, aud=[CLIENT_ID, "account"]) == ["jwt_claims azp"]


async def test_an_error_of_the_provider_is_told_in_our_own_words() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        for error, text in (
            ("access_denied", "did not sign in"),
            ("<script>alert(1)</script>", "could not sign you in"),
        ):
            away = await leave(browser, await browser.open(authorize_query()))
            state = asked_of(away.headers["location"])["state"]
            query = f"error={error}&error_description=%3Cscript%3E&state={state}&iss={ISSUER}"
            back = await come_back(browser, query)
            assert back.status_code == 403
            assert text in back.text
            assert "<script>" not in back.text
            # With a foreign iss nothing of it is shown at all (RFC 9207 §2.4).
            away = await leave(browser, await browser.open(authorize_query()))
            state = asked_of(away.headers["location"])["state"]
            foreign = await come_back(browser, f"error={error}&state={state}&iss={OTHER}")
            assert text not in foreign.text
    assert {f["detail"] for f in stage.door.named("identity.idp.failed")} == {"access_denied", "other", "iss"}


# -- freshness ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "signed_in_ago", "fine"),
    [
        ({"max_age": "60"}, 50, True),
        ({"max_age": "60"}, 3600, False),
        ({"prompt": "login"}, 3600, False),
        ({"prompt": "login"}, 0, True),
        ({"max_age": "60"}, None, False),
        ({}, 3600, True),
    ],
)
async def test_as_17_a_fresh_sign_in_is_believed_only_with_its_time(
    asked: dict[str, str], signed_in_ago: int | None, fine: bool
) -> None:
    stage = make_stage()
    stage.idp.changes["auth_time"] = None if signed_in_ago is None else stage.idp.now_s - signed_in_ago
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query(**asked)))
        assert ("max_age" in asked_of(away.headers["location"])) is bool(asked)
        back = await come_back(browser, stage.idp.authorize(away.headers["location"]))
    assert back.status_code == (303 if fine else 403)
    assert ("did not ask you to sign in anew" in back.text) is not fine


async def test_what_a_resource_asks_of_a_sign_in_is_asked_of_the_provider() -> None:
    """A challenge leads to a ``stepup:`` scope (RFC 9470); the provider gets the age and the level that it means."""
    rules = (StepUp(acr="mfa"), StepUp(scope="time:write", max_age_s=120))
    resources = (ProtectedResource("/mcp/time", "Time", ("time:read", "time:write"), ("time:read",), (), rules),)
    stage = make_stage(corp(acr_of={"urn:acme:strong": "mfa"}), resources=resources)
    async with stage.door.http() as http:
        browser = Browser(http)
        query = authorize_query(scope="time:read stepup:mfa stepup:fresh")
        away = asked_of((await leave(browser, await browser.open(query))).headers["location"])
    assert (away["max_age"], away["acr_values"]) == ("120", "urn:acme:strong")


async def test_somebody_who_is_signed_in_and_asked_again_proves_it_anew() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        first = await browser.post("/login/corp", {"to": "security"})
        assert "prompt" not in asked_of(first.headers["location"])
        stage.idp.changes["auth_time"] = stage.idp.now_s - 7200  # signed in there for two hours
        back = await come_back(browser, stage.idp.authorize(first.headers["location"]))
        page = await browser.get(back.headers["location"])
        again = await leave(browser, page)
        assert asked_of(again.headers["location"])["prompt"] == "login"
        stage.idp.changes["auth_time"] = stage.idp.now_s
        back = await come_back(browser, stage.idp.authorize(again.headers["location"]))
        assert back.headers["location"] == "/account/security"
        assert "Continue with" not in (await browser.get(back.headers["location"])).text


async def test_a_provider_that_does_not_say_when_is_never_taken_for_fresh() -> None:
    stage = make_stage()
    stage.idp.changes["auth_time"] = None
    async with stage.door.http() as http:
        browser = Browser(http)
        token = (await redeem(http, (await code_of(browser, stage))["code"])).json()["access_token"]
        assert stage.door.verified(token).auth_time == 1
        page = await browser.open(authorize_query(max_age="100000"))
    assert "Continue with Acme" in page.text


async def test_several_factors_at_the_provider_are_our_second_level() -> None:
    for changes, acr in (
        ({"amr": ["pwd"]}, "pwd"),
        ({"amr": ["pwd", "mfa"]}, "mfa"),
        ({"amr": "mfa"}, "pwd"),
        ({"amr": ["pwd", "otp"]}, "mfa"),
        ({"amr": ["otp", "sms"]}, "pwd"),
        ({"amr": ["hwk"]}, "pwd"),
        ({"amr": ["fido", "fpt"]}, "mfa"),
        ({"amr": ["pwd", "unknown", 7]}, "pwd"),
        ({"acr": "mfa"}, "pwd"),
        ({"acr": "urn:acme:strong"}, "mfa"),
    ):
        stage = make_stage(corp(acr_of={"urn:acme:strong": "mfa"}))
        stage.idp.changes = changes
        async with stage.door.http() as http:
            token = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()["access_token"]
        assert stage.door.verified(token).acr == acr, changes


# -- who may, and what ------------------------------------------------------------------------------------------------


async def test_groups_give_roles_and_scopes_and_losing_one_ends_what_was_given() -> None:
    stage = make_stage(
        corp(
            roles={"agents": ("dev",), "ops": ("operator",)},
            scopes_of={"agents": ("time:*",), "*": ("git:read",)},
        )
    )
    stage.idp.person["groups"] = ["agents", "ops", "unknown"]
    async with stage.door.http() as http:
        first = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()
        principal = stage.door.verified(first["access_token"])
        assert principal.roles == ("dev", "operator")
        stage.idp.person["groups"] = ["agents"]
    async with stage.door.http() as other:
        assert (await sign_in(Browser(other), stage)).status_code == 303
        with pytest.raises(Exception, match="token_invalid"):
            stage.door.verified(first["access_token"])
        assert (await refresh(other, first["refresh_token"])).status_code == 400


async def test_the_record_of_a_sign_in_says_which_groups_counted_and_what_they_give() -> None:
    """A group that the settings do not name stays out of it: it is a word of somebody else's."""
    mapped = corp(
        roles={"agents": ("dev",), "ops": ("operator",)}, scopes_of={"*": ("git:read",), "agents": ("time:*",)}
    )
    for settings, told in (
        (mapped, {"groups": ["agents"], "roles": ["dev"], "scope": "git:read time:*"}),
        (corp(roles={}, scopes_of={}, create="always"), {}),
    ):
        stage = make_stage(settings)
        stage.idp.person["groups"] = ["agents", "<script>"]
        async with stage.door.http() as http:
            assert (await sign_in(Browser(http), stage)).status_code == 303
        (record,) = stage.door.named("identity.idp.signed_in")
        assert {name: record[name] for name in ("groups", "roles", "scope") if name in record} == told
        assert "script" not in str(record)


async def test_a_new_group_adds_without_ending_anything() -> None:
    stage = make_stage(corp(roles={"agents": ("dev",), "ops": ("operator",)}))
    async with stage.door.http() as http:
        first = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()
        stage.idp.person["groups"] = ["agents", "ops"]
        again = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()
    assert stage.door.verified(first["access_token"]).roles == ("dev",)
    assert stage.door.verified(again["access_token"]).roles == ("dev", "operator")


@pytest.mark.parametrize(
    ("create", "groups", "fine"),
    [
        ("mapped", ["agents"], True),
        ("mapped", [], False),
        ("mapped", ["others"], False),
        ("mapped", ["*"], False),
        ("never", ["agents"], False),
        ("always", [], True),
    ],
)
async def test_an_account_is_made_only_as_the_operator_wrote(create: str, groups: list[str], fine: bool) -> None:
    stage = make_stage(corp(create=create))
    stage.idp.person["groups"] = groups
    async with stage.door.http() as http:
        back = await sign_in(Browser(http), stage)
    assert back.status_code == (303 if fine else 403)
    assert len(stage.door.identity.users.list("acme")) == int(fine)


async def test_whoever_leaves_every_group_loses_all_and_gets_no_session() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        first = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()
        stage.idp.person["groups"] = []
        back = await sign_in(Browser(http), stage)
        assert back.status_code == 403
        assert "no access here" in back.text
        with pytest.raises(Exception, match="token_invalid"):
            stage.door.verified(first["access_token"])
    (user,) = stage.door.identity.users.list("acme")
    assert (user.roles, user.scopes) == ((), ())


async def test_what_a_provider_said_lapses_and_a_new_sign_in_renews_it() -> None:
    """Whoever was let go at the provider never comes back: their programs stop by themselves."""
    stage = make_stage(corp(recheck_s=3600))
    async with stage.door.http() as http:
        first = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()
        stage.door.clock.advance(3500)
        second = await refresh(http, first["refresh_token"])
        assert second.status_code == 200
        stage.door.clock.advance(101)
        assert (await refresh(http, second.json()["refresh_token"])).status_code == 400
        page = await Browser(http).get("/account/grants")
        assert "Continue with Acme" in page.text  # the session is over too
        again = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()
        assert stage.door.verified(again["access_token"]).roles == ("dev",)
    (user,) = stage.door.identity.users.list("acme")
    assert user.vouched_until_s == stage.door.clock.now_us() // 1_000_000 + 3600


async def test_somebody_with_a_password_of_their_own_needs_no_providers_word() -> None:
    stage = make_stage(corp(recheck_s=60, roles={}, scopes_of={}, create="never"))
    user = await stage.door.user()
    stage.door.identity.links.link("acme", ISSUER, "00u1", user.subject)
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 303
    stage.door.clock.advance(61)
    assert stage.door.identity.users.get("acme", user.subject) is not None


async def test_a_password_that_an_account_gets_later_ends_its_lapse() -> None:
    stage = make_stage(corp(recheck_s=60))
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 303
    (user,) = stage.door.identity.users.list("acme")
    await stage.door.identity.users.set_password("acme", user.subject, PASSWORD)
    stage.door.clock.advance(61)
    assert stage.door.identity.users.get("acme", user.subject) is not None


async def test_a_disabled_account_stays_out_and_is_not_made_anew() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 303
        (user,) = stage.door.identity.users.list("acme")
        stage.door.identity.users.update("acme", user.subject, roles=user.roles, scopes=user.scopes, disabled=True)
        back = await sign_in(Browser(http), stage)
        assert back.status_code == 403
    assert len(stage.door.identity.users.list("acme")) == 1
    (told,) = stage.door.named("identity.idp.failed")
    assert (told["detail"], told["sub"]) == ("disabled", user.subject)


async def test_somebody_without_an_account_learns_what_the_administrator_needs_and_the_record_holds_its_digest() -> (
    None
):
    stage = make_stage(corp(create="never"))
    subject = str(stage.idp.person["sub"])
    async with stage.door.http() as http:
        back = await sign_in(Browser(http), stage)
        assert f"{ISSUER} calls you: {subject}" in back.text
        (told,) = stage.door.named("identity.idp.failed")
        assert (told["code"], told["tenant"], told["issuer"]) == ("idp_no_account", "acme", ISSUER)
        assert told["account"] == account_digest(ISSUER, subject)
        assert subject not in str(told)
        user = await stage.door.user()
        stage.door.identity.links.link("acme", ISSUER, subject, user.subject)
        assert (await sign_in(Browser(http), stage)).status_code == 303
    (linked,) = stage.door.named("identity.link.made")
    assert linked["account"] == told["account"]  # the two records are found by one another


@pytest.mark.parametrize("subject", ["a\u202eb", "x" * 201, "\u00e9"])
def test_what_cannot_be_read_off_a_page_is_not_shown_there(subject: str) -> None:
    nobody = NoAccount("unknown", tenant="acme", issuer=ISSUER, subject=subject)
    assert subject not in words("no_account", corp(), nobody)
    assert "calls you" not in words("no_account", corp(), nobody)


async def test_an_account_that_is_disabled_while_its_person_signs_in_stays_disabled() -> None:
    """The provider's word is one write against the account that was read: it never undoes an administrator's."""
    stage = make_stage(corp(roles={"agents": ("dev",), "ops": ("operator",)}))
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 303
        users = stage.door.identity.users
        (user,) = users.list("acme")
        kept = users._users
        plain = kept.put

        def meanwhile(tenant: str, key: str, value: bytes, **more: Any) -> int:
            kept.put = plain  # type: ignore[method-assign]
            users.update("acme", user.subject, roles=user.roles, scopes=user.scopes, disabled=True)
            return plain(tenant, key, value, **more)

        kept.put = meanwhile  # type: ignore[method-assign]
        stage.idp.person["groups"] = ["agents", "ops"]
        back = await sign_in(Browser(http), stage)
    assert back.status_code == 429
    (after,) = users.list("acme")
    assert (after.disabled, after.roles) == (True, ("dev",))


async def test_a_linked_local_account_keeps_its_rights_where_nothing_is_mapped() -> None:
    stage = make_stage(corp(roles={}, scopes_of={}, create="never"))
    user = await stage.door.user()
    stage.door.identity.links.link("acme", ISSUER, "00u1", user.subject)
    async with stage.door.http() as http:
        token = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()["access_token"]
    assert stage.door.verified(token).subject == user.subject
    assert stage.door.verified(token).roles == user.roles


@pytest.mark.parametrize(("value", "fine"), [("acme-corp", True), ("acme", False), ("evil", False), (None, False)])
async def test_as_23_a_claim_selects_a_tenant_only_as_written_down(value: str | None, fine: bool) -> None:
    stage = make_stage(corp(claims=ClaimNames(tenant="org"), tenants={"acme-corp": "acme"}))
    stage.idp.person["org"] = value
    async with stage.door.http() as http:
        back = await sign_in(Browser(http), stage)
    assert back.status_code == (303 if fine else 403)


@pytest.mark.parametrize("groups", [[["agents"]], {"agents": 1}, ["x" * 257], ["g"] * 1001, 7])
async def test_groups_of_a_wrong_shape_let_nobody_in(groups: Any) -> None:
    stage = make_stage()
    stage.idp.person["groups"] = groups
    assert await failed(stage) == ["idp_claims groups"]


async def test_userinfo_fills_in_what_the_id_token_leaves_out_and_never_overrides_it() -> None:
    stage = make_stage(corp(userinfo=True))
    stage.idp.person["groups"] = None
    stage.idp.userinfo = {"sub": "00u1", "groups": ["agents"], "iss": OTHER, "acr": "x"}
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 303
    sent = next(headers for path, _, headers in stage.idp.asked if path == "/userinfo")
    assert sent[b"authorization"] == b"Bearer at"
    (user,) = stage.door.identity.users.list("acme")
    assert stage.door.identity.links.of_user("acme", user.subject)[0].issuer == ISSUER


async def test_userinfo_of_another_person_is_refused() -> None:
    stage = make_stage(corp(userinfo=True))
    stage.idp.userinfo = {"sub": "00u2", "groups": ["agents"]}
    assert await failed(stage) == ["idp_claims userinfo"]


async def test_a_hostile_name_is_shown_as_text_without_tricks() -> None:
    stage = make_stage()
    stage.idp.person["name"] = "<b>Ada</b>\u202egnp.exe" + "x" * 200
    async with stage.door.http() as http:
        browser = Browser(http)
        await sign_in(browser, stage)
        page = await browser.get("/account/grants")
    assert "&lt;b&gt;Ada&lt;/b&gt;gnp.exe" in page.text
    assert "\u202e" not in page.text
    assert "x" * 65 not in page.text


# -- passwords off, tenants bound to a provider -----------------------------------------------------------------------


async def test_passwords_can_be_off() -> None:
    stage = make_stage(passwords=False)
    await stage.door.user()
    async with stage.door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        assert 'name="password"' not in page.text
        reply = await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
        assert reply.status_code == 403
        assert (await sign_in(browser, stage)).status_code == 303
    with pytest.raises(ConfigFault, match="idp_none"):
        make_door(idps=ProvidersGiven((), stage.idps, lambda _: "", passwords=False))


async def test_people_of_a_bound_tenant_sign_in_at_their_provider_and_nowhere_else() -> None:
    other = Idp(OTHER)
    stage = make_stage(corp(forced_for=("acme",)), corp(name="other", issuer=OTHER, title="Other"), idps=(Idp(), other))
    await stage.door.user()
    async with stage.door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        wrong = await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
        assert wrong.status_code == 403
        away = await leave(browser, await browser.open(authorize_query()), "other")
        back = await come_back(browser, other.authorize(away.headers["location"]), "other")
        assert back.status_code == 403
        assert "another way" in back.text
        assert (await sign_in(browser, stage)).status_code == 303


async def test_a_page_for_one_tenant_offers_only_its_way() -> None:
    resources = (
        ProtectedResource("/mcp/time", "Time", ("time:read",), ("time:read",), ("acme",)),
        ProtectedResource("/mcp/git", "Git", ("git:read",), ("git:read",)),
    )
    stage = make_stage(
        corp(forced_for=("acme",)),
        corp(name="other", issuer=OTHER, title="Other"),
        idps=(Idp(), Idp(OTHER)),
        resources=resources,
    )
    async with stage.door.http() as http:
        bound = await Browser(http).open(authorize_query())
        free = await Browser(http).open(authorize_query(resource=GIT, scope="git:read"))
        forged = await Browser(http).post("/login/other", inputs_of(bound.text))
    assert "Continue with Acme" in bound.text
    assert "Continue with Other" not in bound.text
    assert 'name="password"' not in bound.text
    assert "Continue with Other" in free.text
    assert 'name="password"' in free.text
    assert forged.status_code == 403


# -- outages and keys ---------------------------------------------------------------------------------------------------


async def test_op_08_a_provider_that_is_down_costs_its_own_people_a_page_and_nobody_else_anything() -> None:
    stage = make_stage()
    await stage.door.user()
    stage.idp.down = True
    async with stage.door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        down = await leave(browser, page)
        assert down.status_code == 503
        assert "cannot be reached" in down.text
        assert len(stage.idps.fetched) == 1
        await leave(browser, page)
        assert len(stage.idps.fetched) == 1  # for some seconds nobody asks again
        # A local password still does, in the very same transaction.
        assert 'name="decision"' in (await browser.sign_in(page)).text
        stage.idp.down = False
        stage.door.clock.advance(11)
        assert (await leave(browser, await browser.open(authorize_query(prompt="login")))).status_code == 303


async def test_op_08_a_provider_that_hangs_is_asked_once_and_nobody_else_waits() -> None:
    """Many people press the button of a provider that does not answer; others sign in meanwhile."""
    stage = make_stage(corp(), corp(name="slow", issuer=OTHER, title="Slow"), idps=(Idp(), Idp(OTHER)))
    plain, hanging = stage.idps.fetch, asyncio.Event()

    async def fetch(purpose: Purpose, url: str, **more: Any) -> Fetched:
        if url.startswith(OTHER):
            stage.idps.fetched.append(url)
            await hanging.wait()
            raise UpstreamFault("timeout")
        return await plain(purpose, url, **more)

    stage.idps.fetch = fetch  # type: ignore[method-assign, assignment]
    async with stage.door.http() as http:
        pressed = [asyncio.create_task(Browser(http).post("/login/slow", {"to": "grants"})) for _ in range(15)]
        async with stage.door.http() as other:
            assert (await sign_in(Browser(other), stage)).status_code == 303
        assert not any(task.done() for task in pressed)
        hanging.set()
        replies = await asyncio.gather(*pressed)
    assert {reply.status_code for reply in replies} == {503}
    assert stage.idps.fetched.count(f"{OTHER}/.well-known/openid-configuration") == 1


async def test_op_08_a_provider_that_dies_during_the_sign_in_signs_nobody_in() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        query = stage.idp.authorize(away.headers["location"])
        stage.idp.down = True
        back = await come_back(browser, query)
    assert back.status_code == 503
    assert not stage.door.named("identity.login")


async def test_rs_03_unknown_keys_ask_once_in_thirty_seconds() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 303
        stage.idp.kid = "k2"
        stage.idp.keys = public_jwks(stage.idp.key, "k1")  # type: ignore[assignment]
        stage.door.clock.advance(31)
        for kid in ("k2", "../../x", "'; drop table", "k3"):
            stage.idp.kid = kid
            assert (await sign_in(Browser(http), stage)).status_code == 403
    assert stage.idps.fetched.count(f"{ISSUER}/jwks") == 2


async def test_rs_06_a_rotated_key_is_found_at_once_and_an_old_one_dies_within_ten_minutes() -> None:
    stage = make_stage()
    old = stage.idp.key
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 303
        stage.idp.key, stage.idp.kid = ECKey.generate_key("P-256", private=True), "k2"
        stage.door.clock.advance(31)
        assert (await sign_in(Browser(http), stage)).status_code == 303
        stage.idp.keys = public_jwks(stage.idp.key, "k2")  # type: ignore[assignment]
        stage.door.clock.advance(601)
        stage.idp.key, stage.idp.kid = old, "k1"
        assert (await sign_in(Browser(http), stage)).status_code == 403


@pytest.mark.parametrize("keys", [{"keys": []}, {"nothing": 1}, {"keys": [{"kty": "oct", "k": "AAAA", "kid": "k1"}]}])
async def test_rs_05_a_broken_key_set_never_replaces_a_good_one(keys: Any) -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        assert (await sign_in(Browser(http), stage)).status_code == 303
        stage.idp.keys = keys
        stage.door.clock.advance(3601)
        assert (await sign_in(Browser(http), stage)).status_code == 303
        stage.door.clock.advance(24 * 3600)
        assert (await sign_in(Browser(http), stage)).status_code == 503


# -- metadata: CL-04, CL-05 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({"issuer": ISSUER + "/"}, "issuer"),
        ({"issuer": OTHER}, "issuer"),
        ({"issuer": None}, "issuer"),
        ({"token_endpoint": "http://idp.acme.example/token"}, "token_endpoint"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "authorization_endpoint"),
        ({"authorization_endpoint": f"{ISSUER}/authorize#f"}, "authorization_endpoint"),
        ({"authorization_endpoint": f"{ISSUER}/authorize\r\nset-cookie: a=b"}, "authorization_endpoint"),
        ({"authorization_endpoint": f"{ISSUER}/auth\torize"}, "authorization_endpoint"),
        ({"end_session_endpoint": f"{ISSUER}/out\u2028"}, "end_session_endpoint"),
        ({"jwks_uri": None}, "jwks_uri"),
        ({"jwks_uri": "https://user@idp.acme.example/jwks"}, "jwks_uri"),
        ({"end_session_endpoint": "http://idp.acme.example/logout"}, "end_session_endpoint"),
        ({"userinfo_endpoint": 7}, "userinfo_endpoint"),
        ({"response_types_supported": ["id_token"]}, "code"),
        ({"id_token_signing_alg_values_supported": ["HS256", "none"]}, "algorithms"),
    ],
)
async def test_cl_04_metadata_of_another_issuer_or_in_clear_is_refused(metadata: dict[str, Any], code: str) -> None:
    stage = make_stage()
    stage.idp.metadata = metadata
    async with stage.door.http() as http:
        browser = Browser(http)
        reply = await leave(browser, await browser.open(authorize_query()))
    assert reply.status_code == 503
    with pytest.raises(Malformed) as refused:
        parse_metadata(strict_json.dumps(stage.idp.document()), corp())
    assert refused.value.detail == code


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "0.0.0.0"]
)
async def test_cl_01_a_provider_whose_name_leads_inside_is_never_asked(address: str) -> None:
    """The real dialler: a public provider's name must not resolve to an address of ours."""
    asked: list[str] = []

    async def resolver(name: str) -> list[str]:
        asked.append(name)
        return [address]

    stage = make_stage()
    dialler = Dialler(stage.door.clock, resolver=resolver)
    stage.idps.fetch = dialler.fetch  # type: ignore[method-assign]
    async with stage.door.http() as http:
        browser = Browser(http)
        reply = await leave(browser, await browser.open(authorize_query()))
    await dialler.close()
    assert reply.status_code == 503
    assert asked == ["idp.acme.example"]


@pytest.mark.parametrize("methods", [None, [], ["plain"]])
async def test_cl_05_a_provider_without_s256_is_refused_unless_an_administrator_says_otherwise(methods: Any) -> None:
    for override, status in ((False, 503), (True, 303)):
        stage = make_stage(corp(unadvertised_s256=override))
        stage.idp.metadata["code_challenge_methods_supported"] = methods
        async with stage.door.http() as http:
            browser = Browser(http)
            reply = await leave(browser, await browser.open(authorize_query()))
        assert reply.status_code == status
        if override:
            assert asked_of(reply.headers["location"])["code_challenge_method"] == "S256"


@pytest.mark.parametrize(
    "settings",
    [
        {"issuer": "http://idp.acme.example"},
        {"issuer": "http://127.0.0.1:9000"},
        {"issuer": "https://idp.acme.example?x=1"},
        {"issuer": "https://user@idp.acme.example"},
        {"issuer": "idp.acme.example"},
        {"issuer": "https://github.com/login/oauth"},
        {"secret": "the secret itself"},
        {"secret": ""},
        {"scopes": ("profile",)},
        {"name": "code"},
        {"name": "A/b"},
        {"parameters": {"redirect_uri": "https://evil.example"}},
        {"claims": ClaimNames(tenant="tid")},
        {"tenant": "Not A Tenant"},
        {"issuer": "https://login.microsoftonline.com/{tenantid}/v2.0"},
    ],
)
def test_a_provider_that_could_not_be_safe_is_refused_at_start(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigFault) as refused:
        corp(**settings)
    assert refused.value.fix


# -- RS-07, signing out ---------------------------------------------------------------------------------------------------


async def test_rs_07_the_providers_id_token_is_no_access_token_here() -> None:
    stage = make_stage()
    for typ in ("JWT", "at+jwt"):
        stage.idp.typ = typ
        stage.idp.changes = {"aud": TIME, "client_id": CLIENT_ID, "jti": "1", "gid": "g", "tenant": "acme"}
        with pytest.raises(Exception, match="token_invalid"):
            stage.door.verified(stage.idp.id_token("nonce"))


async def test_signing_out_here_signs_out_there_and_only_with_our_own_form() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        await sign_in(browser, stage)
        page = await browser.get("/account/grants")
        out = await browser.post("/logout", inputs_of(page.text))
        assert out.status_code == 303
        assert out.headers["location"].startswith(f"{ISSUER}/logout?")
        asked = asked_of(out.headers["location"])
        assert asked["post_logout_redirect_uri"] == "https://fw.example/account/grants"
        assert asked["client_id"] == CLIENT_ID
        assert asked["id_token_hint"].count(".") == 2
        again = await browser.get("/account/grants")
        assert "Continue with Acme" in again.text


async def test_signing_out_does_not_wait_for_a_provider_that_has_no_such_endpoint() -> None:
    stage = make_stage()
    stage.idp.metadata["end_session_endpoint"] = None
    async with stage.door.http() as http:
        browser = Browser(http)
        await sign_in(browser, stage)
        out = await browser.post("/logout", inputs_of((await browser.get("/account/grants")).text))
    assert out.headers["location"] == "/account/grants"


async def test_as_16_a_sign_in_elsewhere_begins_a_new_session() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        http.cookies.set("__Host-bz_session", "bzs_fixed.acme", domain="fw.example")
        back = await sign_in(browser, stage)
        (cookie,) = [c for c in back.headers.get_list("set-cookie") if c.startswith("__Host-bz_session")]
    assert "bzs_fixed" not in cookie
    assert "HttpOnly" in cookie
    assert "Secure" in cookie


async def test_no_secret_of_a_sign_in_stands_in_a_record_or_in_the_store() -> None:
    stage = make_stage()
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        asked = asked_of(away.headers["location"])
        cookie = (
            next(c for c in away.headers.get_list("set-cookie") if "bz_idp" in c).partition("=")[2].partition(";")[0]
        )
        kept = repr(stage.door.events) + repr([e.value for e in stage.door.store.collection("idp_legs").scan("_node")])
        for secret in (asked["state"], asked["nonce"], cookie):
            assert secret not in kept
        await come_back(browser, stage.idp.authorize(away.headers["location"]))
    token = stage.idp.id_token(asked["nonce"])
    sealed = repr([e.value for e in stage.door.store.collection("idp_sign_outs").scan("acme")])
    assert token.split(".")[1] not in sealed + repr(stage.door.events)
