"""The console's pages of people: everybody sees who there is, an administrator acts, and two do where that is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from firewall.admin.parts import AdminSettings
from tests.admin.rig import TENANT, Browser, Room, make_room
from tests.admin.test_approvals import decide
from tests.admin.test_console import HOSTILE
from tests.support.door import PASSWORD, inputs_of
from tests.support.door import Browser as Front


@pytest.mark.parametrize("role", ["viewer", "operator", "approver"])
async def test_everybody_sees_people_and_sessions_and_finds_no_verb(room: Room, role: str) -> None:
    browser = await room.person(role)
    bob = await room.door.user("bob", tenant=TENANT, roles=("dev",))
    text = (await browser.http.get("/people")).text
    assert bob.subject in text
    assert f"<td>{role}</td><td>console</td><td>password</td>" in text
    assert "/people/disable" not in text
    assert "/people/leaving" not in text
    assert "/people/end-sessions" not in text
    assert (await browser.http.get("/people/leaving", params={"name": "bob"})).status_code == 403
    for act in ("disable", "enable", "remove", "end-sessions"):
        assert (await browser.post(f"/people/{act}", {"name": "bob", "sure": "bob"})).status_code == 403
    assert room.door.identity.users.get(TENANT, bob.subject) == bob


async def test_an_administrator_disables_enables_and_ends_sessions(room: Room) -> None:
    admin = await room.person("admin")
    bob = await room.person("viewer", "bob")
    kept = dict(bob.http.cookies)
    text = (await admin.http.get("/people")).text
    assert 'aria-label="end all of theirs: bob"' in text
    assert (await admin.post("/people/end-sessions", {"name": "bob"})).headers["location"] == "/people"
    bob.http.cookies.update(kept)
    assert (await bob.http.get("/")).status_code == 303
    assert (await bob.sign_in("bob")).status_code == 303
    assert (await admin.post("/people/disable", {"name": "bob"})).status_code == 303
    assert (await bob.http.get("/")).status_code == 303
    assert (await bob.sign_in("bob")).status_code == 403
    text = (await admin.http.get("/people")).text
    assert 'aria-label="enable: bob"' in text
    assert (await admin.post("/people/enable", {"name": "bob"})).status_code == 303
    assert (await bob.sign_in("bob")).status_code == 303
    verbs = [r["verb"] for r in room.log.records if r.get("kind") == "admin"]
    assert verbs == ["sessions.end", "user.disable", "user.enable"]


async def test_sessions_of_the_front_door_are_listed_and_end_with_the_others(room: Room) -> None:
    admin = await room.person("admin")
    bob = await room.door.user("bob", tenant=TENANT)
    eve = await room.door.user("eve", tenant="other")
    login = {"password": PASSWORD, "to": "grants"}
    async with room.door.http() as http, room.door.http() as another:
        browser, others = Front(http), Front(another)
        await browser.post("/login", {**login, "username": "bob"})
        await others.post("/login", {**login, "username": "eve"})
        assert "Signed in as bob" in (await browser.get("/account/security")).text
        listed = (await admin.http.get("/api/v1/sessions")).json()["sessions"]
        assert [(s["name"], s["at"], s["how"]) for s in listed] == [
            ("admin", "console", "password"),
            ("bob", "front door", "pwd"),
        ]
        assert (await admin.api("sessions/bob/end")).json() == {"ended": 1}
        assert 'action="/login"' in (await browser.get("/account/security")).text
        assert "Signed in as eve" in (await others.get("/account/security")).text
    assert bob.subject != eve.subject


async def test_removing_takes_the_name_typed_once_more(room: Room) -> None:
    admin = await room.person("admin")
    bob = await room.door.user("bob", tenant=TENANT, roles=("dev",))
    room.door.identity.links.link(TENANT, "https://idp.acme.example", "00u1", bob.subject)
    asked = await admin.http.get("/people/leaving", params={"name": "bob"})
    assert "https://idp.acme.example" in asked.text
    assert inputs_of(asked.text)["name"] == "bob"
    for sure in ("", "bo", "ada"):
        refused = await admin.post("/people/remove", {"name": "bob", "sure": sure})
        assert "nothing was done" in refused.text
    assert (await admin.post("/people/remove", {"name": "bob", "sure": "Bob "})).status_code == 303
    assert not room.door.identity.users.exists(TENANT, bob.subject)
    assert (await admin.http.get("/people/leaving", params={"name": "bob"})).status_code == 404


async def test_acts_ask_anew_who_it_is_and_come_from_our_own_page_alone(room: Room) -> None:
    admin = await room.person("admin")
    await room.door.user("bob", tenant=TENANT, roles=("dev",))
    assert (await admin.post("/people/disable", {"name": "bob", "csrf": "0" * 64})).status_code == 403
    room.door.clock.advance(301)
    stale = await admin.post("/people/remove", {"name": "bob", "sure": "bob"})
    assert stale.status_code == 403
    assert "/confirm?then=%2Fpeople" in stale.text or "/confirm?then=/people" in stale.text
    assert [user.name for user in room.door.identity.users.list(TENANT) if user.name == "bob"] == ["bob"]


async def test_where_that_needs_two_a_removal_waits_for_the_second(tmp_path: Path) -> None:
    room = make_room(tmp_path, settings=AdminSettings(four_eyes=frozenset({"users.admin"}), approval_s=3600))
    try:
        admin, carol = await room.person("admin"), await room.person("approver", "carol")
        bob = await room.door.user("bob", tenant=TENANT, roles=("dev",))
        answer = await admin.post("/people/remove", {"name": "bob", "sure": "bob"})
        where = answer.headers["location"]
        assert where.startswith("/approvals/")
        assert "remove bob for good" in (await carol.http.get(where)).text
        assert room.door.identity.users.exists(TENANT, bob.subject)
        waiting = (await carol.http.get("/api/v1/approvals")).json()["approvals"][0]
        assert (await decide(carol, waiting)).json()["state"] == "done"
        assert not room.door.identity.users.exists(TENANT, bob.subject)
    finally:
        room.log.writer.close()


async def test_decisions_and_stops_say_names_and_are_found_by_them(room: Room) -> None:
    bob = await room.door.user("bob", tenant=TENANT, roles=("dev",))
    room.decided(subject=bob.subject, chain=[{"sub": bob.subject, "type": "user"}])
    room.decided(subject="svc-batch")
    viewer = await room.person("viewer")
    text = (await viewer.http.get("/")).text
    assert "<td>bob<br>" in text
    assert "<td>svc-batch<br>" in text
    rows = (await viewer.http.get("/api/v1/decisions", params={"subject": "bob"})).json()["decisions"]
    assert [(row["subject"], row["name"]) for row in rows] == [(bob.subject, "bob")]
    assert f"<dt>bob</dt><dd><code>{bob.subject}</code></dd>" in (await viewer.http.get("/decisions/d_0")).text
    async with room.owner() as owner:
        await owner.post("/api/v1/kill", json={"scope": "subject", "name": bob.subject})
    assert "<small>bob</small>" in (await viewer.http.get("/stops")).text
    room.door.identity.users.remove(TENANT, bob.subject)
    assert f"<td>{bob.subject}<br>" in (await viewer.http.get("/")).text


async def test_nobody_of_another_tenant_is_named_or_seen(room: Room) -> None:
    eve = await room.door.user("eve", tenant="other", roles=("viewer",))
    room.decided(subject=eve.subject)
    viewer = await room.person("viewer")
    assert "<td>eve<" not in (await viewer.http.get("/people")).text
    assert f"<td>{eve.subject}<br>" in (await viewer.http.get("/")).text
    assert (await viewer.http.get("/api/v1/decisions", params={"subject": "eve"})).json()["decisions"] == []


async def test_what_a_provider_calls_somebody_is_shown_beside_the_name_and_never_executed(room: Room) -> None:
    users = room.door.identity.users
    linked = users.create_linked(tenant=TENANT)
    users.vouch(TENANT, linked.subject, label=HOSTILE)
    ada = users.create_linked(tenant=TENANT)
    users.vouch(TENANT, ada.subject, label="admin")
    room.decided(subject=ada.subject)
    admin = await room.person("admin")
    text = (await admin.http.get("/people")).text
    assert "<img" not in text
    assert "\u202e" not in text
    assert f"<td>admin ({ada.name})<br>" in (await admin.http.get("/")).text


async def test_what_somebody_may_give_to_programs_stands_beside_their_roles(room: Room) -> None:
    users = room.door.identity.users
    await users.create("zoe", PASSWORD, tenant=TENANT, roles=("viewer",), scopes=("time:*", "git:read"))
    await users.create("max", PASSWORD, tenant=TENANT, roles=(), scopes=())
    text = (await (await room.person("admin")).http.get("/people")).text
    assert "<td>viewer</td>\n<td>time:* git:read</td>" in text
    assert "<td>none</td>\n<td>nothing</td>" in text


async def test_a_long_list_is_cut_and_found_by_name(room: Room) -> None:
    users = room.door.identity.users
    for _ in range(501):
        users.create_linked(tenant=TENANT)
    browser = Browser(room.http())
    await users.create("zoe", PASSWORD, tenant=TENANT, roles=("viewer",))
    await browser.sign_in("zoe")
    text = (await browser.http.get("/people")).text
    assert text.count("linked-") == 500
    assert "2 more" in text
    assert "<td>zoe" in (await browser.http.get("/people", params={"q": "ZO"})).text
