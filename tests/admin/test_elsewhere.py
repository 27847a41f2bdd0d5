"""Sign-in to the console at an identity provider: on its own origin, with its own cookie, and nobody else's way."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from firewall.identity.people.sign_in import ACCOUNT_TRIES, ACCOUNT_WINDOW_S
from tests.admin.rig import OWN, TENANT, Browser, Room, make_room
from tests.support.door import PASSWORD
from tests.support.idp import Stage, corp, make_stage

CROSS = {"Sec-Fetch-Site": "cross-site"}


@dataclass
class Console:
    """A room whose people sign in at a provider."""

    room: Room
    stage: Stage

    async def away(self, http: httpx2.AsyncClient, path: str = "/sign-in/corp", **data: str) -> httpx2.Response:
        self.stage.tick()
        return await http.post(path, data=data, headers=OWN)

    async def back(self, http: httpx2.AsyncClient, away: httpx2.Response, **changes: str) -> httpx2.Response:
        query = self.stage.idp.authorize(away.headers["location"], **changes)
        return await http.get(f"/callback/corp?{query}", headers=CROSS)

    async def sign_in(self) -> Browser:
        browser = Browser(self.room.http())
        answer = await self.back(browser.http, await self.away(browser.http))
        assert answer.status_code == 200, answer.text
        assert answer.headers["refresh"] == "0; url=/"
        return browser


def make_console(directory: Path, *, passwords: bool = True, **provider: Any) -> Console:
    values = {"roles": {"agents": ("operator",)}, **provider}
    stage = make_stage(corp(**values), passwords=passwords)
    return Console(make_room(directory, stage.door), stage)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    made = make_console(tmp_path)
    yield made
    made.room.log.writer.close()


async def test_a_person_signs_in_at_the_provider_and_has_the_roles_of_the_groups_there(console: Console) -> None:
    browser = await console.sign_in()
    you = (await browser.http.get("/api/v1/status")).json()["you"]
    assert you["role"] == "operator"
    cookies = [c for c in browser.http.cookies if c.startswith("bz_admin")]
    assert cookies == ["bz_admin"]
    (told,) = [r for r in console.room.log.records if r.get("event") == "admin.signed_in"]
    assert told["idp"] == "corp"


async def test_the_console_calls_a_person_what_the_provider_does_and_never_as_markup(console: Console) -> None:
    console.stage.idp.person["name"] = "Ada <b>L.</b>"
    page = (await (await console.sign_in()).http.get("/")).text
    assert "<span>Ada &lt;b&gt;L.&lt;/b&gt; (Acme) · operator · acme</span>" in page


async def test_the_way_goes_over_the_console_s_own_origin(console: Console) -> None:
    async with console.room.http() as http:
        away = await console.away(http)
        assert away.status_code == 303
        assert "redirect_uri=http%3A%2F%2F127.0.0.1%3A8701%2Fcallback%2Fcorp" in away.headers["location"]


async def test_the_page_offers_the_provider_and_no_password_where_passwords_are_off(tmp_path: Path) -> None:
    for passwords in (True, False):
        console = make_console(tmp_path / str(passwords), passwords=passwords)
        await console.room.door.identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("viewer",))
        async with console.room.http() as http:
            page = await http.get("/sign-in")
            assert "Continue with Acme" in page.text
            assert ('name="password"' in page.text) == passwords
            answer = await Browser(http).sign_in("ada")
            assert answer.status_code == (303 if passwords else 403)
        console.room.log.writer.close()


async def test_people_of_a_tenant_that_is_bound_to_a_provider_have_no_password_here(tmp_path: Path) -> None:
    console = make_console(tmp_path, forced_for=(TENANT,))
    await console.room.door.identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("viewer",))
    async with console.room.http() as http:
        assert (await Browser(http).sign_in("ada")).status_code == 403
    assert await console.sign_in()
    console.room.log.writer.close()


async def test_somebody_without_a_role_here_is_signed_in_nowhere(tmp_path: Path) -> None:
    console = make_console(tmp_path, roles={"agents": ("dev",)})
    async with console.room.http() as http:
        answer = await console.back(http, await console.away(http))
        assert answer.status_code == 403
        assert "bz_admin=" not in str(answer.headers.get_list("set-cookie"))
        assert (await http.get("/api/v1/status")).status_code == 401
    console.room.log.writer.close()


async def test_a_group_that_is_gone_takes_the_role_along_at_the_next_sign_in(console: Console) -> None:
    first = await console.sign_in()
    console.stage.idp.person = {**console.stage.idp.person, "groups": []}
    async with console.room.http() as http:
        assert (await console.back(http, await console.away(http))).status_code == 403
    assert (await first.http.get("/api/v1/status")).status_code == 401


async def test_an_answer_begun_in_another_browser_signs_nobody_in(console: Console) -> None:
    async with console.room.http() as attacker, console.room.http() as victim:
        away = await console.away(attacker)
        query = console.stage.idp.authorize(away.headers["location"])
        stolen = await victim.get(f"/callback/corp?{query}", headers=CROSS)
        assert stolen.status_code == 403
        assert (await victim.get("/api/v1/status")).status_code == 401
        mine = await attacker.get(f"/callback/corp?{query}", headers=CROSS)  # the twin
        assert mine.status_code == 200


async def test_an_answer_counts_once(console: Console) -> None:
    async with console.room.http() as http:
        away = await console.away(http)
        query = console.stage.idp.authorize(away.headers["location"])
        assert (await http.get(f"/callback/corp?{query}", headers=CROSS)).status_code == 200
        assert (await http.get(f"/callback/corp?{query}", headers=CROSS)).status_code == 403


async def test_an_answer_for_the_front_door_is_none_for_the_console_and_the_reverse(console: Console) -> None:
    async with console.room.http() as http, console.room.door.http() as public:
        away = await console.away(http)
        query = console.stage.idp.authorize(away.headers["location"])
        public.cookies.update(http.cookies)
        assert (await public.get(f"/callback/corp?{query}", headers=CROSS)).status_code == 403
        assert (await http.get(f"/callback/corp?{query}", headers=CROSS)).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [{"state": "x" * 43}, {"state": "-"}, {"code": "-"}, {"iss": "https://evil.example"}, {"error": "access_denied"}],
)
async def test_a_changed_answer_signs_nobody_in(console: Console, changes: dict[str, str]) -> None:
    async with console.room.http() as http:
        answer = await console.back(http, await console.away(http), **changes)
        assert answer.status_code == 403
        assert (await http.get("/api/v1/status")).status_code == 401


async def test_a_sign_in_is_begun_from_our_own_page_alone(console: Console) -> None:
    async with console.room.http() as http:
        for headers in (CROSS, {"Origin": "https://evil.example"}, {}):
            answer = await http.post("/sign-in/corp", headers=headers)
            assert answer.status_code == 403
        assert (await http.get("/sign-in/corp")).status_code == 405
        assert (await http.post("/sign-in/other", headers=OWN)).status_code == 404


async def test_where_no_provider_is_configured_there_is_no_way(room: Room) -> None:
    async with room.http() as http:
        assert (await http.post("/sign-in/corp", headers=OWN)).status_code == 404
        assert (await http.get("/callback/corp?state=x")).status_code == 404


async def test_only_pages_that_lead_to_a_provider_let_a_form_lead_away(console: Console, tmp_path: Path) -> None:
    """Browsers hold ``form-action`` against the redirect that follows a form."""
    browser = await console.sign_in()
    for path in ("/sign-in", "/confirm"):
        policy = (await browser.http.get(path)).headers["content-security-policy"]
        assert "form-action" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in (await browser.http.get("/stops")).headers["content-security-policy"]
    room = make_room(tmp_path / "other")  # the twin: no provider, nothing leads away
    async with room.http() as http:
        assert "form-action 'self'" in (await http.get("/sign-in")).headers["content-security-policy"]
    room.log.writer.close()


async def test_a_provider_that_is_down_is_told_and_nothing_is_broken(console: Console) -> None:
    console.stage.idp.down = True
    async with console.room.http() as http:
        answer = await console.away(http)
        assert answer.status_code == 503
        assert "Acme cannot be reached" in answer.text


async def test_an_old_sign_in_there_is_no_fresh_proof_here(console: Console) -> None:
    console.stage.idp.changes = {"auth_time": console.room.door.clock.now_us() // 1_000_000 - 3600}
    browser = await console.sign_in()
    await browser.api("kill", {"scope": "all"})
    assert (await browser.api("kill/release", {"scope": "all"})).json()["error"] == "fresh"


async def test_confirming_asks_the_provider_anew_and_makes_another_session_of_the_same(console: Console) -> None:
    browser = await console.sign_in()
    old = dict(browser.http.cookies)
    await browser.api("kill", {"scope": "all"})
    console.room.door.clock.advance(400)
    assert (await browser.api("kill/release", {"scope": "all"})).json()["error"] == "fresh"
    assert "Confirm with Acme" in (await browser.http.get("/confirm")).text
    away = await console.away(browser.http, "/confirm/corp", csrf=await browser.csrf())
    assert "prompt=login" in away.headers["location"]
    assert "max_age=0" in away.headers["location"]
    console.stage.idp.changes = {"auth_time": console.room.door.clock.now_us() // 1_000_000}
    assert (await console.back(browser.http, away)).status_code == 200
    assert (await browser.api("kill/release", {"scope": "all"})).status_code == 200
    async with console.room.http() as other:
        other.cookies.update(old)
        assert (await other.get("/api/v1/status")).status_code == 401


async def test_a_provider_that_did_not_ask_anew_confirms_nothing(console: Console) -> None:
    browser = await console.sign_in()
    console.room.door.clock.advance(400)
    away = await console.away(browser.http, "/confirm/corp", csrf=await browser.csrf())
    console.stage.idp.changes = {"auth_time": console.room.door.clock.now_us() // 1_000_000 - 400}
    assert (await console.back(browser.http, away)).status_code == 403
    assert (await browser.api("kill/release", {"scope": "all"})).json()["error"] == "fresh"


async def test_another_person_who_comes_back_confirms_nothing(console: Console) -> None:
    browser = await console.sign_in()
    console.room.door.clock.advance(400)
    away = await console.away(browser.http, "/confirm/corp", csrf=await browser.csrf())
    console.stage.idp.person = {"sub": "00u2", "name": "Eve", "groups": ["agents"]}
    console.stage.idp.changes = {"auth_time": console.room.door.clock.now_us() // 1_000_000}
    assert (await console.back(browser.http, away)).status_code == 403
    assert (await browser.api("kill/release", {"scope": "all"})).json()["error"] == "fresh"


async def test_a_confirmation_needs_the_session_and_its_token(console: Console) -> None:
    browser = await console.sign_in()
    assert (await console.away(browser.http, "/confirm/corp", csrf="no")).status_code == 403
    async with console.room.http() as stranger:
        assert (await console.away(stranger, "/confirm/corp")).headers["location"] == "/sign-in"


# -- second factors ----------------------------------------------------------------------------------------------------


def code_of(secret: str, now_s: int) -> str:
    padded = secret + "=" * (-len(secret) % 8)
    return TOTP(base64.b32decode(padded), 6, SHA1(), 30, enforce_key_length=False).generate(now_s).decode()


async def test_a_second_factor_that_is_enrolled_counts_at_the_console_too(room: Room) -> None:
    identity = room.door.identity
    user = await identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("operator",))
    clock = room.door.clock
    secret = identity.factors.offer(user)
    assert identity.factors.confirm(user, code_of(secret, clock.now_us() // 1_000_000))
    clock.advance(60)
    async with room.http() as http:

        async def enter(path: str, **more: str) -> httpx2.Response:
            data = {"username": "ada", "password": PASSWORD, **more}
            return await http.post(path, data=data, headers=OWN)

        assert (await enter("/sign-in")).status_code == 403
        assert (await enter("/sign-in", code="000000")).status_code == 403
        code = code_of(secret, clock.now_us() // 1_000_000)
        assert (await enter("/sign-in", code=code)).status_code == 303
        clock.advance(400)
        csrf = await Browser(http).csrf()
        assert (await enter("/confirm", csrf=csrf, then="/")).status_code == 403
        clock.advance(60)
        code = code_of(secret, clock.now_us() // 1_000_000)
        assert (await enter("/confirm", csrf=csrf, then="/", code=code)).status_code == 303


async def test_as_19_codes_are_guessed_no_faster_from_many_addresses(room: Room) -> None:
    identity, clock = room.door.identity, room.door.clock
    user = await identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("operator",))
    secret = identity.factors.offer(user)
    assert identity.factors.confirm(user, code_of(secret, clock.now_us() // 1_000_000))
    clock.advance(60)

    async def enter(address: str, code: str) -> int:
        async with room.http(address) as http:
            data = {"username": "ada", "password": PASSWORD, "code": code}
            return (await http.post("/sign-in", data=data, headers=OWN)).status_code

    for n in range(ACCOUNT_TRIES):
        assert await enter(f"198.51.100.{n}", "000000") == 403
    assert await enter("198.51.100.200", code_of(secret, clock.now_us() // 1_000_000)) == 403
    clock.advance(ACCOUNT_WINDOW_S)
    assert await enter("198.51.100.200", code_of(secret, clock.now_us() // 1_000_000)) == 303
