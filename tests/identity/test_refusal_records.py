"""The record of a refused token request says whose grant it was about, as soon as a code or a token has shown that."""

from __future__ import annotations

import pytest

from firewall.core.jsonvalue import JSONObject
from firewall.identity.people import sign_in
from tests.support.door import CIMD_URL, GIT, Browser, Door, make_door, redeem, refresh


def last(door: Door) -> JSONObject:
    return door.named("identity.token.refused")[-1]


async def test_a_code_and_a_refresh_token_say_whose_they_are_and_a_made_up_one_nobodys() -> None:
    door = make_door()
    ada = await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        assert (await redeem(http, code, redirect_uri="http://127.0.0.1/elsewhere")).status_code == 400
        gid = door.named("identity.code.issued")[-1]["gid"]
        whose = {"tenant": "acme", "sub": ada.subject, "gid": gid, "client_id": CIMD_URL, "code": "redirect_mismatch"}
        assert last(door) | whose == last(door)

        given = (await redeem(http, (await Browser(http).code())["code"])).json()
        assert (await refresh(http, given["refresh_token"], resource=GIT)).status_code == 400
        issued = door.named("identity.token.issued")[-1]
        whose = {"tenant": "acme", "sub": ada.subject, "gid": issued["gid"], "code": "resource_mismatch"}
        assert last(door) | whose == last(door)
        door.identity.users.update("acme", ada.subject, roles=(), scopes=("*",), disabled=True)

        for reply in (await redeem(http, "made-up"), await refresh(http, "made-up")):
            assert reply.status_code == 400
            assert not {"tenant", "sub", "gid"} & last(door).keys()
            assert last(door)["client_id"] == CIMD_URL


async def test_why_a_sign_in_by_password_failed_is_told_without_the_name_that_was_typed() -> None:
    door = make_door(login_per_minute=100)
    ada, bob = await door.user("ada"), await door.user("bob")
    door.identity.users.update("acme", bob.subject, roles=(), scopes=("*",), disabled=True)
    async with door.http() as http:
        browser = Browser(http)
        page = await http.get("/account/grants")
        for name in ("ada", "bob", "my-secret-password"):
            assert (await browser.sign_in(page, name, "not the password")).status_code == 403
    assert [(f.get("sub"), f["code"]) for f in door.named("identity.login.failed")] == [
        (ada.subject, "password"),
        (bob.subject, "user_disabled"),
        (None, "user_unknown"),
    ]
    assert "my-secret-password" not in str(door.events)


@pytest.mark.parametrize("bounded", [True, False])
async def test_whoever_is_told_to_wait_writes_one_record_a_minute(
    bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that costs a stranger nothing would fill the log, and a full log stops everybody."""
    if not bounded:  # the twin
        monkeypatch.setattr(sign_in, "DELAYS", 10_000)
    door = make_door()
    async with door.http() as http:
        browser = Browser(http)
        answers = [(await browser.post("/login", {"username": "a", "password": "b"})).status_code for _ in range(60)]
        waited = answers.count(429)
        assert waited >= 40
        assert len(door.named("identity.login.delayed")) == (1 if bounded else waited)
        door.clock.advance(60)
        again = [(await browser.post("/login", {"username": "a", "password": "b"})).status_code for _ in range(60)]
        assert 429 in again
    assert len(door.named("identity.login.delayed")) <= 3 or not bounded
