"""What was given ends with what it was given for: an upstream's name, a person's password."""

import pytest

from firewall.core.errors import Unauthenticated
from firewall.identity.standing import Standing
from firewall.identity.throttle import NODE
from tests.support.door import GIT, ORIGIN, TIME, Browser, Door, authorize_query, make_door, redeem, refresh


def alive(door: Door, token: str, resource: str = TIME) -> bool:
    try:
        door.verified(token, resource)
    except Unauthenticated:
        return False
    return True


def end(door: Door, tenant: str = "acme", kind: str = "mcp", name: str = "time") -> None:
    door.identity.grants.standing.end_upstream(tenant, kind, name)


@pytest.mark.parametrize("tenant", ["acme", NODE])
async def test_the_end_of_an_upstream_ends_tokens_refresh_codes_and_consent_of_its_name(tenant: str) -> None:
    door = make_door()
    user = await door.user()
    async with door.http() as http:
        browser = Browser(http)
        held = (await redeem(http, (await browser.code())["code"])).json()
        waiting = await browser.code()
        assert alive(door, held["access_token"])
        assert len(door.identity.grants.of_subject("acme", user.subject)) == 1
        end(door, tenant)
        assert not alive(door, held["access_token"])  # the cached one, at once
        assert (await refresh(http, held["refresh_token"])).json()["error"] == "invalid_grant"
        assert (await redeem(http, waiting["code"])).json()["error"] == "invalid_grant"
        assert door.identity.grants.of_subject("acme", user.subject) == []
        asked = await browser.open(authorize_query())
        assert asked.status_code == 200, "the person is asked again"
        anew = (await redeem(http, (await browser.code())["code"])).json()
        assert alive(door, anew["access_token"])
        assert (await refresh(http, anew["refresh_token"])).status_code == 200


async def test_namesakes_of_another_kind_other_names_and_other_tenants_go_on() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        held = (await redeem(http, (await browser.code())["code"])).json()
        end(door, "other")
        end(door, kind="a2a")
        end(door, name="git")
        assert alive(door, held["access_token"])
        assert (await refresh(http, held["refresh_token"])).status_code == 200


async def test_a_grant_of_the_aggregate_ends_only_where_it_names_the_upstream() -> None:
    door = make_door()
    standing = door.identity.grants.standing
    every = f"{ORIGIN}/mcp"
    before = standing.of("acme", "u", every, ("time:read", "git:read"))
    narrow = standing.of("acme", "u", every, ("git:read",))
    end(door)
    assert standing.of("acme", "u", every, ("time:read", "git:read")) != before
    assert standing.of("acme", "u", every, ("git:read",)) == narrow
    assert standing.of("acme", "u", GIT, ("git:read",)) == narrow


async def test_operator_tokens_end_with_the_upstream_too() -> None:
    door = make_door()
    token = door.identity.operator_tokens.mint_for_operator("/mcp/time").token
    assert alive(door, token)
    end(door, NODE)
    assert not alive(door, token)
    assert alive(door, door.identity.operator_tokens.mint_for_operator("/mcp/time").token)


async def code_after_password_change(door: Door) -> bool:
    user = await door.user()
    async with door.http() as http:
        waiting = await Browser(http).code()
        await door.identity.users.set_password("acme", user.subject, "another long passphrase 2")
        return (await redeem(http, waiting["code"])).status_code == 200


async def test_a_code_that_waits_ends_with_the_password() -> None:
    assert not await code_after_password_change(make_door())


async def test_without_the_standing_the_waiting_code_would_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Standing, "of", lambda *_: 0)
    assert await code_after_password_change(make_door())
