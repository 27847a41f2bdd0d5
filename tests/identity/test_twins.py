"""Attacks on the front door, each run twice: with its control, where it fails, and without, where it works.

The second run proves that the first one tests what it says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from joserfc.jwk import ECKey

from firewall.core.errors import Malformed, Unauthenticated
from firewall.identity.engine.grant import TokenGrant
from firewall.identity.grants import OAuthGrants
from firewall.identity.oauth21 import authorize
from firewall.identity.people import first_contact, transactions
from firewall.identity.rfc6750 import own_tokens
from firewall.identity.rfc7523 import client_auth
from firewall.identity.web import WebRequest
from firewall.state.memory import MemoryCollection
from firewall.wire import jwt, oauth
from tests.support.door import (
    GIT,
    ORIGIN,
    SERVER_KEY,
    TIME,
    Browser,
    Door,
    assertion,
    authorize_query,
    callback_of,
    client_credentials,
    inputs_of,
    make_door,
    redeem,
    refresh,
)

Attack = Callable[[Door], Awaitable[bool]]
ControlOff = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Case:
    """attack returns whether it succeeded."""

    name: str
    attack: Attack
    off: ControlOff


CASES: list[Case] = []


def case(name: str, off: ControlOff) -> Callable[[Attack], Attack]:
    def register(attack: Attack) -> Attack:
        CASES.append(Case(name, attack, off))
        return attack

    return register


def patched(owner: Any, name: str, value: Any) -> ControlOff:
    return lambda patch: patch.setattr(owner, name, value)


def nothing(*_args: object, **_more: object) -> None:
    return None


def always(*_args: object, **_more: object) -> bool:
    return True


def claims_of(door: Door, **changes: Any) -> dict[str, Any]:
    now_s = door.clock.now_us() // 1_000_000
    claims = {
        "iss": ORIGIN,
        "aud": TIME,
        "sub": "u_1",
        "client_id": "tool",
        "scope": "time:read",
        "iat": now_s,
        "exp": now_s + 300,
        "jti": "j",
        "gid": "g",
        "tenant": "acme",
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def signed(door: Door, *, key: ECKey = SERVER_KEY, typ: str = "at+jwt", **changes: Any) -> str:
    return jwt.sign(claims_of(door, **changes), key, alg="ES256", typ=typ, kid=SERVER_KEY.thumbprint())


def accepted(door: Door, token: str) -> bool:
    try:
        door.verified(token)
    except Unauthenticated:
        return False
    return True


# -- tokens at the resource ---------------------------------------------------------------------------


@case("rs_02 a token signed with the attacker's own key", patched(jwt, "verify", lambda t, _k: t.claims))
async def foreign_key(door: Door) -> bool:
    return accepted(door, signed(door, key=ECKey.generate_key("P-256", private=True)))


@case("rs_07 a token that is no access token", patched(own_tokens, "TOKEN_TYPE", "jwt"))
async def wrong_type(door: Door) -> bool:
    return accepted(door, signed(door, typ="JWT"))


@case("rs_08 a token of another issuer", patched(jwt, "check_claims", nothing))
async def wrong_issuer(door: Door) -> bool:
    return accepted(door, signed(door, iss=ORIGIN + "/"))


@case("rs_09 a token for a sibling resource", patched(jwt, "check_claims", nothing))
async def wrong_audience(door: Door) -> bool:
    return accepted(door, signed(door, aud=GIT))


@case("rs_10 an expired token", patched(jwt, "check_claims", nothing))
async def expired(door: Door) -> bool:
    now_s = door.clock.now_us() // 1_000_000
    return accepted(door, signed(door, iat=now_s - 301, exp=now_s - 1))


@case("a token of a revoked grant", patched(OAuthGrants, "is_revoked", lambda *_: False))
async def revoked(door: Door) -> bool:
    token = signed(door)
    assert accepted(door, token)
    door.identity.grants.revoke("acme", "u_1", "g", reason="test")
    return accepted(door, token)


# -- authorization endpoint ---------------------------------------------------------------------------


@case("as_02 a redirect to an address that was not registered", patched(oauth, "redirect_matches", always))
async def redirect_mismatch(door: Door) -> bool:
    async with door.http() as http:
        page = await Browser(http).open(authorize_query(redirect_uri="https://evil.example/cb"))
        return page.status_code == 200 and "/login" in page.text


@case("as_04 a plain challenge", patched(oauth, "check_challenge", nothing))
async def plain_challenge(door: Door) -> bool:
    async with door.http() as http:
        page = await Browser(http).open(authorize_query(code_challenge_method="plain"))
        return page.status_code == 200


@case("as_05 a code with another verifier", patched(oauth, "check_verifier", nothing))
async def wrong_verifier(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        return (await redeem(http, code, code_verifier="w" * 43)).status_code == 200


@case("as_06 a resource that does not exist", patched(oauth, "check_resource", lambda *_: TIME))
async def unknown_resource(door: Door) -> bool:
    async with door.http() as http:
        page = await Browser(http).open(authorize_query(resource=TIME + "//"))
        return page.status_code == 200


@case("as_07 a repeated parameter", patched(oauth, "refuse_repeated", nothing))
async def repeated_parameter(door: Door) -> bool:
    async with door.http() as http:
        query = "&".join(f"{k}={v}" for k, v in authorize_query(scope="-").items())
        reply = await http.get(f"/authorize?{query}&scope=time%3Aread&scope=time%3Awrite")
        return reply.status_code == 200


def without_issuer(redirect_uri: str, parameters: dict[str, str], plain: Any = oauth.build_redirect) -> str:
    return str(plain(redirect_uri, {name: value for name, value in parameters.items() if name != "iss"}))


@case("as_08 an error that does not say who it comes from", patched(oauth, "build_redirect", without_issuer))
async def mix_up(door: Door) -> bool:
    async with door.http() as http:
        answer = callback_of(await Browser(http).open(authorize_query(response_type="token")))
        assert answer["error"] == "unsupported_response_type"
        return answer.get("iss") != ORIGIN


@case(
    "as_09 fifty redemptions of one code at once",
    patched(MemoryCollection, "take", lambda self, tenant, key: self.get(tenant, key)),
)
async def code_race(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        replies = await asyncio.gather(*(redeem(http, code) for _ in range(50)))
    won = [reply for reply in replies if reply.status_code == 200]
    assert won
    return len(won) > 1


@case("as_10 the token of a code that was redeemed twice", patched(OAuthGrants, "revoke", nothing))
async def code_replay(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        token = (await redeem(http, code)).json()["access_token"]
        assert accepted(door, token)
        assert (await redeem(http, code)).status_code == 400
    return accepted(door, token)


@case("as_11 a refresh token used again later", lambda patch: patch.setattr("tests.identity.test_twins.GRACE_S", 9999))
async def refresh_reuse(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        first = (await redeem(http, (await Browser(http).code())["code"])).json()
        second = (await refresh(http, first["refresh_token"])).json()
        door.clock.advance(31)
        again = await refresh(http, first["refresh_token"])
        family = await refresh(http, second["refresh_token"])
    assert (again.status_code == 200) == (family.status_code == 200)
    return again.status_code == 200


@case("as_12 a refresh that widens the scope", patched(oauth, "check_not_wider", nothing))
async def refresh_widens(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        first = (await redeem(http, (await Browser(http).code())["code"])).json()
        wider = await refresh(http, first["refresh_token"], scope="time:read time:write")
    return wider.status_code == 200


@case(
    "as_23 a refresh at a resource that has been closed to the tenant",
    patched(TokenGrant, "entitled", lambda self, wanted, _resource, _user, **_more: wanted),
)
async def closed_resource(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        first = (await redeem(http, (await Browser(http).code())["code"])).json()
        closed = replace(door.identity.settings.resources[0], tenants=("umbrella",))
        door.identity.resources.replace((closed, *door.identity.settings.resources[1:]))
        return (await refresh(http, first["refresh_token"])).status_code == 200


@case("as_15 a flow begun in one browser and finished in another", patched(transactions.hmac, "compare_digest", always))
async def other_browser(door: Door) -> bool:
    await door.user()
    async with door.http() as one, door.http() as two:
        page = await Browser(one).open(authorize_query())
        name = page.headers["set-cookie"].partition("=")[0]
        values = {**inputs_of(page.text), "username": "ada", "password": "correct horse battery staple"}
        done = await Browser(two).post("/login", values, Cookie=f"{name}=guessed")
        return done.status_code == 303


@case(
    "as_20 a client assertion used twice",
    patched(
        MemoryCollection,
        "put",
        lambda self, tenant, key, value, *, expires_us=0, if_version=None, put=MemoryCollection.put: put(
            self, tenant, key, value, expires_us=expires_us
        ),
    ),
)
async def assertion_replay(door: Door) -> bool:
    async with door.http() as http:
        proof = assertion(door)
        assert (await client_credentials(http, proof)).status_code == 200
        return (await client_credentials(http, proof)).status_code == 200


@case("as_20 a client assertion made for the token endpoint", patched(jwt, "check_claims", nothing))
async def assertion_audience(door: Door) -> bool:
    async with door.http() as http:
        return (await client_credentials(http, assertion(door, aud=ORIGIN + "/token"))).status_code == 200


@case("as_21 another secret", patched(client_auth.hmac, "compare_digest", always))
async def wrong_secret(door: Door) -> bool:
    async with door.http() as http:
        form = {"grant_type": "client_credentials", "resource": TIME}
        return (await http.post("/token", data=form, auth=("svc-basic", "guess"))).status_code == 200


@case("design_6b_6 scopes that the person may not give", patched(oauth, "intersect", lambda wanted, *_: tuple(wanted)))
async def scope_escalation(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        query = authorize_query(resource=GIT, scope="git:read git:write")
        reply = await redeem(http, (await Browser(http).code(query))["code"], resource=GIT)
    return "git:write" in reply.json()["scope"]


# -- pages ------------------------------------------------------------------------------------------------


@case("ui_06 a consent posted from another site", patched(WebRequest, "is_same_origin", always))
async def cross_site_post(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
        values = {**inputs_of(page.text), "decision": "approve"}
        reply = await browser.post("/consent", values, Origin="https://evil.example", Sec_Fetch_Site="cross-site")
        return reply.status_code == 303 and "code=" in reply.headers["location"]


@case("ui_05 a consent posted from a frame without an origin", patched(WebRequest, "is_same_origin", always))
async def post_without_an_origin(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
        values = {**inputs_of(page.text), "decision": "approve"}
        reply = await browser.post("/consent", values, Origin="null", Sec_Fetch_Site="cross-site")
        return reply.status_code == 303 and "code=" in reply.headers["location"]


@case("ui_06 a consent without its form token", patched(authorize, "check_form_token", always))
async def missing_form_token(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
        reply = await browser.post("/consent", {**inputs_of(page.text), "csrf": "", "decision": "approve"})
        return reply.status_code == 303


@case("ui_02 a remembered consent on a cross-site link", patched(authorize, "OWN_INITIATIVE", (b"cross-site", b"none")))
async def cross_site_link(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        reply = await browser.open(authorize_query(), site="cross-site")
        return reply.status_code == 303


@case("design_6b_12 a guessed first-contact code", patched(first_contact.hmac, "compare_digest", always))
async def guessed_code(door: Door) -> bool:
    door.identity.first_contact.open()
    try:
        await door.identity.first_contact.redeem("AAAAA", "eve", "correct horse battery staple", address="192.0.2.1")
    except Malformed:
        return False
    return True


GRACE_S = 30


@pytest.mark.parametrize("control", ["on", "off"])
@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name.replace(" ", "_"))
async def test_attack_fails_with_its_control_and_works_without(
    one: Case, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if control == "off":
        one.off(monkeypatch)
    door = make_door(refresh_grace_s=GRACE_S)
    assert await one.attack(door) is (control == "off")
