"""Who lets whom in by a link: like giving a right, with a second person where that is configured."""

from __future__ import annotations

from pathlib import Path

from firewall.admin.parts import AdminSettings
from firewall.admin.rights import SECOND
from tests.admin.rig import TENANT, Room, make_room
from tests.admin.test_approvals import decide

IDP = "https://idp.acme.example"
SOMEBODY = {"issuer": IDP, "subject": "00u1", "realm": ""}


async def test_an_administrator_links_lists_and_ends(room: Room) -> None:
    admin = await room.person("admin")
    bob = await room.door.user("bob", tenant=TENANT, roles=("dev",))
    made = await admin.api("users/bob/links", SOMEBODY)
    assert (made.status_code, made.json()["user"]) == (200, bob.subject)
    assert room.door.identity.links.find(TENANT, IDP, "00u1") == bob
    listed = (await admin.http.get("/api/v1/users/bob/links")).json()["links"]
    assert [(x["issuer"], x["subject"]) for x in listed] == [(IDP, "00u1")]
    assert (await admin.api("users/bob/links", SOMEBODY)).status_code == 409
    assert (await admin.api("users/nobody/links", SOMEBODY)).status_code == 404
    assert (await admin.api("users/bob/links", {**SOMEBODY, "subject": ""})).status_code == 400
    assert (await admin.api("users/bob/links/end", {**SOMEBODY, "subject": "00u2"})).json() == {"ended": False}
    assert (await admin.api("users/bob/links/end", SOMEBODY)).json() == {"ended": True}
    assert room.door.identity.links.find(TENANT, IDP, "00u1") is None
    verbs = [r["verb"] for r in room.log.records if str(r.get("verb", "")).startswith("user.")]
    assert verbs[-2:] == ["user.link", "user.unlink"]


async def test_a_link_of_one_person_is_not_ended_through_another(room: Room) -> None:
    admin = await room.person("admin")
    for name in ("bob", "eve"):
        await room.door.user(name, tenant=TENANT, roles=("dev",))
    await admin.api("users/bob/links", SOMEBODY)
    assert (await admin.api("users/eve/links/end", SOMEBODY)).json() == {"ended": False}


async def test_nobody_below_an_administrator_links(room: Room) -> None:
    await room.door.user("bob", tenant=TENANT, roles=("dev",))
    for role in ("viewer", "operator", "approver"):
        person = await room.person(role)
        assert (await person.api("users/bob/links", SOMEBODY)).status_code == 403
        assert (await person.http.get("/api/v1/users/bob/links")).status_code == 403


async def test_one_administrator_alone_gives_no_administrator_to_somebody_elsewhere(room: Room) -> None:
    admin = await room.person("admin")
    for role in ("admin", "approver"):
        await room.door.user(f"the-{role}", tenant=TENANT, roles=(role,))
        assert (await admin.api(f"users/the-{role}/links", SOMEBODY)).status_code == 403
    assert room.door.identity.links.list(TENANT) == []


async def test_where_that_needs_two_a_link_waits_for_the_second(tmp_path: Path) -> None:
    room = make_room(tmp_path, settings=AdminSettings(four_eyes=frozenset(SECOND), approval_s=3600))
    try:
        admin, carol = await room.person("admin"), await room.person("approver", "carol")
        await room.door.user("bob", tenant=TENANT, roles=("dev",))
        parked = (await admin.api("users/bob/links", SOMEBODY)).json()["parked"]
        assert parked["words"] == f"let 00u1 of {IDP} in as bob"
        assert room.door.identity.links.list(TENANT) == []
        assert (await decide(carol, parked)).json()["state"] == "done"
        assert len(room.door.identity.links.list(TENANT)) == 1
    finally:
        room.log.writer.close()
