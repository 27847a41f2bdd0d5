"""Sessions of people: how they end, how a person proves anew who they are, and scripts in a person's name."""

import pytest

from firewall.admin.web import local_path
from tests.admin.rig import SCRIPT, TENANT, Browser, Room
from tests.support.door import PASSWORD


def user_of(room: Room, name: str):  # type: ignore[no-untyped-def]
    (user,) = [u for u in room.parts.identity.users.list(TENANT) if u.name == name]
    return user


async def test_a_session_ends_when_it_is_idle_and_in_any_case_after_eight_hours(room: Room) -> None:
    browser = await room.person("viewer")
    for _ in range(16):
        room.door.clock.advance(29 * 60)
        assert (await browser.http.get("/api/v1/status")).status_code == 200
    room.door.clock.advance(29 * 60)
    assert (await browser.http.get("/api/v1/status")).status_code == 401  # eight hours in all
    await browser.sign_in("viewer")
    room.door.clock.advance(31 * 60)
    assert (await browser.http.get("/api/v1/status")).status_code == 401  # idle


async def test_a_dangerous_act_needs_a_proof_of_the_last_five_minutes(room: Room) -> None:
    browser = await room.person("operator")
    await browser.api("kill", {"scope": "upstream", "name": "time"})
    room.door.clock.advance(301)
    refused = await browser.api("kill/release", {"scope": "upstream", "name": "time"})
    assert (refused.status_code, refused.json()["error"]) == (403, "fresh")
    page = await browser.post("/stops/release", {"scope": "upstream", "name": "time"})
    assert page.status_code == 403
    assert "/confirm?then=/stops" in page.text
    assert room.parts.kill_switch.stops()
    assert (await browser.api("kill", {"scope": "all"})).status_code == 201  # a stop is pulled without delay


async def test_as_16_confirming_opens_it_and_makes_another_session_of_it(room: Room) -> None:
    browser = await room.person("operator")
    await browser.api("kill", {"scope": "upstream", "name": "time"})
    room.door.clock.advance(301)
    old = dict(browser.http.cookies)
    done = await browser.post("/confirm", {"password": PASSWORD, "then": "/stops"})
    assert (done.status_code, done.headers["location"]) == (303, "/stops")
    assert dict(browser.http.cookies) != old
    assert (await browser.api("kill/release", {"scope": "upstream", "name": "time"})).status_code == 200
    async with room.http() as other:
        other.cookies.update(old)
        assert (await other.get("/api/v1/status")).status_code == 401  # the session before it has ended


async def test_confirming_does_not_make_a_session_longer(room: Room) -> None:
    browser = await room.person("viewer")
    for _ in range(17):
        room.door.clock.advance(27 * 60)
        await browser.post("/confirm", {"password": PASSWORD, "then": "/"})
    room.door.clock.advance(27 * 60)
    assert (await browser.http.get("/api/v1/status")).status_code == 401


@pytest.mark.parametrize("password", ["", "not the password", "é"])
async def test_a_wrong_password_confirms_nothing(room: Room, password: str) -> None:
    browser = await room.person("operator")
    room.door.clock.advance(301)
    assert (await browser.post("/confirm", {"password": password, "then": "/"})).status_code == 403
    assert (await browser.api("kill/release", {"scope": "all"})).json()["error"] == "fresh"


async def test_as_19_guessing_at_the_confirmation_is_slowed_down(room: Room) -> None:
    browser = await room.person("operator")
    for n in range(5):
        await browser.post("/confirm", {"password": f"guess {n}", "then": "/"})
    assert (await browser.post("/confirm", {"password": PASSWORD, "then": "/"})).status_code == 429


@pytest.mark.parametrize(
    ("then", "there"),
    [
        ("/stops", "/stops"),
        ("/approvals/a_x?y=1", "/approvals/a_x?y=1"),
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\r\nset-cookie: x=1", "/"),
        ("/" + "a" * 300, "/"),
        ("/é", "/"),
        ("", "/"),
    ],
)
async def test_a_confirmation_leads_to_our_own_pages_alone(room: Room, then: str, there: str) -> None:
    assert local_path(then) == there
    browser = await room.person("viewer")
    done = await browser.post("/confirm", {"password": PASSWORD, "then": then})
    assert done.headers.get("location", "/") == there  # what no form may hold is refused before


async def test_a_role_that_is_taken_away_counts_at_once(room: Room) -> None:
    browser = await room.person("operator", "bob")
    csrf = await browser.csrf()
    users = room.parts.identity.users
    users.update(TENANT, user_of(room, "bob").subject, roles=("viewer",), scopes=())
    headers = {**SCRIPT, "x-csrf-token": csrf, "content-type": "application/json"}
    assert (await browser.http.post("/api/v1/kill", content=b'{"scope":"all"}', headers=headers)).status_code == 401
    await browser.sign_in("bob")
    assert (await browser.api("kill", {"scope": "all"})).status_code == 403
    assert room.parts.kill_switch.stops() == []


async def test_a_role_counts_as_it_is_even_in_a_session_that_lives_on(room: Room) -> None:
    """The twin: were the session not ended by the change, the role would still be read anew."""
    browser = await room.person("operator", "bob")
    user = user_of(room, "bob")
    users = room.parts.identity.users
    found = users._load(TENANT, user.subject)
    assert found is not None
    import dataclasses

    users._save(dataclasses.replace(user, roles=("viewer",)), found[1])
    assert (await browser.api("kill", {"scope": "all"})).json()["error"] == "role"


async def test_an_administrator_lists_and_ends_sessions(room: Room) -> None:
    admin, bob = await room.person("admin"), await room.person("viewer", "bob")
    listed = (await admin.http.get("/api/v1/sessions")).json()["sessions"]
    assert {s["name"] for s in listed} == {"admin", "bob"}
    assert not any("bza_" in str(s) for s in listed)
    assert (await admin.api("sessions/bob/end", {})).json() == {"ended": 1}
    assert (await bob.http.get("/api/v1/status")).status_code == 401


async def test_a_persons_bearer_is_never_more_than_the_person_is_now(room: Room) -> None:
    bob = await room.person("operator", "bob")
    made = (await bob.api("bearers/own", {"role": "operator"})).json()
    async with room.http() as http:
        http.headers["authorization"] = f"Bearer {made['bearer']}"
        assert (await http.post("/api/v1/kill", json={"scope": "all"})).status_code == 201
        assert (await http.get("/api/v1/status")).json()["you"]["name"] == "bob"
        user = user_of(room, "bob")
        found = room.parts.identity.users._load(TENANT, user.subject)
        assert found is not None
        import dataclasses

        room.parts.identity.users._save(dataclasses.replace(user, roles=("viewer",)), found[1])
        assert (await http.get("/api/v1/status")).status_code == 401


async def test_a_changed_account_ends_its_bearers(room: Room) -> None:
    bob = await room.person("operator", "bob")
    made = (await bob.api("bearers/own", {"role": "viewer"})).json()
    room.parts.identity.users.update(TENANT, user_of(room, "bob").subject, roles=("operator",), scopes=())
    async with room.http() as http:
        http.headers["authorization"] = f"Bearer {made['bearer']}"
        assert (await http.get("/api/v1/status")).status_code == 401


async def test_nobody_makes_a_bearer_beyond_themselves_or_for_another(room: Room) -> None:
    bob = await room.person("operator", "bob")
    await room.person("admin", "ann")
    assert (await bob.api("bearers/own", {"role": "admin"})).status_code == 422
    assert (await bob.api("bearers/own", {"role": "approver"})).status_code == 422
    made = (await bob.api("bearers/own", {"role": "viewer", "user": "ann"})).json()
    assert made["user"] == user_of(room, "bob").subject
    assert [b["bearer_id"] for b in (await bob.http.get("/api/v1/bearers")).json()["bearers"]] == [made["bearer_id"]]
    assert (await bob.api(f"bearers/own/{made['bearer_id']}/end", {})).json() == {"ended": True}


async def test_nobody_ends_anothers_bearer_but_the_owner(room: Room) -> None:
    bob, eve = await room.person("operator", "bob"), await room.person("operator", "eve")
    made = (await bob.api("bearers/own", {"role": "viewer"})).json()
    assert (await eve.api(f"bearers/own/{made['bearer_id']}/end", {})).json() == {"ended": False}
    async with room.owner() as owner:
        assert (await owner.post(f"/api/v1/bearers/{made['bearer_id']}/end")).json() == {"ended": True}


async def test_a_bearer_makes_no_bearer(room: Room) -> None:
    bob = await room.person("operator", "bob")
    made = (await bob.api("bearers/own", {"role": "operator"})).json()
    async with room.http() as http:
        http.headers["authorization"] = f"Bearer {made['bearer']}"
        assert (await http.post("/api/v1/bearers/own", json={"role": "viewer"})).json()["error"] == "fresh"


async def test_the_sign_in_of_another_site_is_refused(room: Room) -> None:
    await room.door.identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("viewer",))
    browser = Browser(room.http())
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert (await browser.sign_in("ada", **headers)).status_code == 403
