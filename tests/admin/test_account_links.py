"""Who lets whom in by a link: like giving a right, with a second person where that is configured."""

from __future__ import annotations

from pathlib import Path

from firewall.admin.parts import AdminSettings
from firewall.admin.rights import SECOND
from tests.admin.rig import TENANT, Browser, Room, make_room
from tests.admin.test_approvals import decide
from tests.support.door import PASSWORD

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


async def test_an_administrator_removes_a_person_and_is_told_where_they_could_come_back_from(room: Room) -> None:
    admin = await room.person("admin")
    viewer = await room.person("viewer")
    bob = await room.door.user("bob", tenant=TENANT, roles=("viewer",))
    signed_in = Browser(room.http())
    assert (await signed_in.sign_in("bob")).status_code == 303
    await admin.api("users/bob/links", SOMEBODY)
    assert (await viewer.api("users/bob/remove")).status_code == 403
    made = (await admin.api("users/bob/remove")).json()
    assert made == {"removed": "bob", "subject": bob.subject, "issuers": [IDP]}
    assert (await admin.api("users/bob/remove")).status_code == 404
    assert (await signed_in.http.get("/api/v1/status")).status_code == 401
    (said,) = [r for r in room.log.records if r.get("verb") == "user.remove"]
    assert (said["by"], said["object"], said["text"]) == ("admin", bob.subject, "bob")
    assert (await admin.api("users", {"name": "bob", "password": PASSWORD})).status_code == 201


async def test_where_that_needs_two_nobody_removes_the_last_approver_alone(tmp_path: Path) -> None:
    """Else whoever sits at the owner's socket would remove the second people, and be alone (DESIGN §6b-3)."""
    room = make_room(tmp_path, settings=AdminSettings(four_eyes=frozenset({"users.admin"}), approval_s=3600))
    try:
        carol = await room.person("approver", "carol")
        async with room.owner() as owner:
            asked = await owner.post("/api/v1/users/carol/remove", json={})
            parked = asked.json()["parked"]
            assert parked["words"] == "remove carol for good, and free the name"
            wanted = {"name": "eve", "password": PASSWORD, "roles": ["approver"]}
            assert (await owner.post("/api/v1/users", json=wanted)).status_code == 202
            # A person asked by a second one, denied: the name is free once the account is removed, by two again.
            denied = (await owner.get("/api/v1/users")).json()["users"]
            assert [u["disabled"] for u in denied if u["name"] == "eve"] == [True]
            again = (await owner.post("/api/v1/users/eve/remove", json={})).json()["parked"]
            assert (await decide(carol, again)).json()["state"] == "done"
            assert (await owner.post("/api/v1/users", json=wanted)).status_code == 202
    finally:
        room.log.writer.close()


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
