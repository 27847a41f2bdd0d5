"""Attacks on signing in elsewhere, each run twice: with its control, where it fails, and without, where it works."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import pytest
from joserfc.jwk import ECKey

from firewall.identity.oidc import id_token, legs, mapping, metadata, party, people
from firewall.identity.web import WebRequest
from firewall.wire import jwt
from tests.identity.test_twins import Case, always, nothing, patched
from tests.support.door import PASSWORD, Browser, authorize_query, inputs_of, public_jwks, redeem, refresh
from tests.support.idp import ISSUER, Idp, Stage, code_of, come_back, corp, leave, make_stage, sign_in

CASES: list[Case] = []
OTHER = "https://other.example"


def case(name: str, off: Any) -> Any:
    def register(attack: Any) -> Any:
        CASES.append(Case(name, attack, off))
        return attack

    return register


async def signed_in(stage: Stage) -> bool:
    async with stage.door.http() as http:
        return (await sign_in(Browser(http), stage)).status_code == 303


@case("as_15 the button pressed by another site", patched(WebRequest, "is_same_origin", always))
async def cross_site_press(stage: Stage) -> bool:
    async with stage.door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        headers = {"Origin": "https://evil.example", "Sec_Fetch_Site": "cross-site"}
        return (await browser.post("/login/corp", inputs_of(page.text), **headers)).status_code == 303


@case("ui_07 an answer that another browser began", patched(legs.hmac, "compare_digest", always))
async def other_browser(stage: Stage) -> bool:
    async with stage.door.http() as one, stage.door.http() as two:
        begun = Browser(one)
        away = await begun.post("/login/corp", {"to": "grants"})
        query = stage.idp.authorize(away.headers["location"])
        # Without the leg's cookie the verifier is another one too: the attacker lets the provider forget it.
        stage.idp.codes["code-0"]["code_challenge"] = _any_challenge(stage)
        stage.idp.codes["code-0"]["nonce"] = _any_nonce(query)
        return (await come_back(Browser(two), query)).status_code == 303


def _any_challenge(stage: Stage) -> str:
    """What the front door would send without a cookie: the attacker's provider could learn it."""
    return legs.Leg("https://fw.example", "corp", "", "grants", -1, _state(stage), "").challenge


def _any_nonce(query: str) -> str:
    return legs.Leg("https://fw.example", "corp", "", "grants", -1, parse_qs(query)["state"][0], "").nonce


def _state(stage: Stage) -> str:
    return stage.idp.codes["code-0"]["state"]


@case("as_17 an answer used twice", lambda patch: patch.setattr("tests.identity.test_oidc_twins.KEEP", True))
async def used_twice(stage: Stage) -> bool:
    if KEEP:
        collection = stage.door.store.collection("idp_legs")
        collection.take = collection.get  # type: ignore[method-assign]
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        query = stage.idp.authorize(away.headers["location"])
        code = dict(stage.idp.codes)
        cookies = dict(http.cookies)
        assert (await come_back(browser, query)).status_code == 303
        stage.idp.codes.update(code)
        http.cookies.clear()
        http.cookies.update(cookies)
        return (await come_back(browser, query)).status_code == 303


@case("as_17 a nonce of another sign-in", patched(id_token.hmac, "compare_digest", always))
async def other_nonce(stage: Stage) -> bool:
    stage.idp.changes["nonce"] = "another"
    return await signed_in(stage)


@case("as_17 an ID token for somebody else", patched(id_token, "_check_audience", nothing))
async def other_audience(stage: Stage) -> bool:
    stage.idp.changes["aud"] = "somebody"
    return await signed_in(stage)


@case("as_17 an ID token of another issuer", patched(party, "issuers", lambda s: (s.issuer, OTHER)))
async def other_issuer(stage: Stage) -> bool:
    stage.idp.changes["iss"] = OTHER
    return await signed_in(stage)


@case("as_17 an expired ID token", patched(jwt, "check_claims", nothing))
async def expired(stage: Stage) -> bool:
    stage.idp.changes |= {"iat": stage.idp.now_s - 400, "exp": stage.idp.now_s - 100}
    return await signed_in(stage)


@case("as_17 an ID token signed by a stranger", patched(jwt, "verify", lambda unchecked, _key: unchecked.claims))
async def stranger(stage: Stage) -> bool:
    stage.idp.keys = public_jwks(ECKey.generate_key("P-256", private=True), stage.idp.kid)  # type: ignore[assignment]
    return await signed_in(stage)


@case("as_17 an access token in place of the ID token", patched(id_token, "_TYPES", ("", "jwt", "at+jwt")))
async def access_token(stage: Stage) -> bool:
    stage.idp.typ = "at+jwt"
    return await signed_in(stage)


@case("as_17 an access token that is not the ID token's own", patched(party, "check_access_hash", nothing))
async def swapped_access_token(stage: Stage) -> bool:
    stage.idp.changes["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA"
    return await signed_in(stage)


@case("as_17 an answer with the iss of another", patched(party, "_check_issuer", nothing))
async def foreign_iss(stage: Stage) -> bool:
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        return (await come_back(browser, stage.idp.authorize(away.headers["location"], iss=OTHER))).status_code == 303


@case("as_17 an old sign-in where a fresh one was asked for", patched(party.Wish, "fresh_since", lambda *_: -1))
async def stale(stage: Stage) -> bool:
    stage.idp.changes["auth_time"] = stage.idp.now_s - 3600
    async with stage.door.http() as http:
        return (await sign_in(Browser(http), stage, authorize_query(prompt="login"))).status_code == 303


@case("cl_04 metadata of another issuer", patched(metadata, "_object", lambda data: {**_read(data), "issuer": ISSUER}))
async def spoofed_metadata(stage: Stage) -> bool:
    stage.idp.metadata["issuer"] = OTHER
    async with stage.door.http() as http:
        browser = Browser(http)
        return (await leave(browser, await browser.open(authorize_query()))).status_code == 303


_read = metadata._object


@case("cl_05 a provider without S256", patched(metadata, "strings", lambda _value, name, absent: _generous(name)))
async def no_pkce(stage: Stage) -> bool:
    stage.idp.metadata["code_challenge_methods_supported"] = ["plain"]
    async with stage.door.http() as http:
        browser = Browser(http)
        return (await leave(browser, await browser.open(authorize_query()))).status_code == 303


def _generous(name: str) -> tuple[str, ...]:
    return ("S256", "code", "ES256") if name else ()


@case("as_23 a tenant that nobody wrote down", patched(mapping, "_tenant", lambda claims, _settings: claims["org"]))
async def foreign_tenant(stage: Stage) -> bool:
    stage.idp.person["org"] = "globex"
    return await signed_in(stage)


@case("as_12 rights of a group that was left", patched(people.Users, "vouch", lambda self, t, s, **_: self.get(t, s)))
async def left_group(stage: Stage) -> bool:
    async with stage.door.http() as http:
        token = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()["access_token"]
        stage.idp.person["groups"] = []
        assert (await sign_in(Browser(http), stage)).status_code == 403
    try:
        stage.door.verified(token)
    except Exception:
        return False
    return True


@case("as_12 a provider's word of long ago", patched(people.Users, "vouch", lambda self, t, s, **_: self.get(t, s)))
async def lapsed(stage: Stage) -> bool:
    async with stage.door.http() as http:
        first = (await redeem(http, (await code_of(Browser(http), stage))["code"])).json()
        stage.door.clock.advance(8 * 24 * 3600)
        return (await refresh(http, first["refresh_token"])).status_code == 200


@case(
    "forced_for a password of a bound tenant", lambda patch: patch.setattr("tests.identity.test_oidc_twins.BOUND", ())
)
async def bound_tenant(stage: Stage) -> bool:
    await stage.door.user()
    async with stage.door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        reply = await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})
        return reply.status_code == 303


KEEP = False
BOUND: tuple[str, ...] = ("acme",)


@pytest.mark.parametrize("control", ["on", "off"])
@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name.replace(" ", "_"))
async def test_attack_fails_with_its_control_and_works_without(
    one: Case, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if control == "off":
        one.off(monkeypatch)
    settings = corp(forced_for=BOUND)
    if one.name.startswith("as_23"):
        settings = corp(claims=type(settings.claims)(tenant="org"), tenants={"acme-corp": "acme"})
    stage = make_stage(settings, idps=(Idp(),))
    assert await one.attack(stage) is (control == "off")  # type: ignore[arg-type]
