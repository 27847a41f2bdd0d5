"""Two people for one act: who may agree to what, once, and that everything is decided again before it is done."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from firewall.admin import approvals as book
from firewall.admin.approvals import KEPT_US, Approvals
from firewall.admin.parts import AdminSettings
from firewall.admin.rights import MATRIX, SECOND
from firewall.identity import records
from tests.admin.rig import TENANT, Browser, Room, make_room
from tests.support.door import PASSWORD, inputs_of

DIGEST = "sha256:" + "1" * 64
OTHER = "sha256:" + "2" * 64
PIN = {"upstream": "time", "kind": "tool", "name": "now", "digest": DIGEST}


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Room]:
    """A room in which everything that can need two people does."""
    made = make_room(tmp_path, settings=AdminSettings(four_eyes=frozenset(SECOND), approval_s=3600))
    made.parts.pins.observe(TENANT, "time", "tool", "now", DIGEST)
    yield made
    made.log.writer.close()


def approved(room: Room, digest: str = DIGEST) -> bool:
    return room.parts.pins.status(TENANT, "time", "tool", "now", digest) == "approved"


async def ask(browser: Browser, path: str = "pins/approve", body: Any = PIN) -> dict[str, Any]:
    answer = await browser.api(path, body)
    assert answer.status_code == 202, answer.text
    parked: dict[str, Any] = answer.json()["parked"]
    return parked


async def decide(browser: Browser, parked: dict[str, Any], verb: str = "approve", **changes: str) -> httpx2.Response:
    return await browser.api(f"approvals/{parked['id']}/{verb}", {"digest": parked["digest"], **changes})


async def test_one_person_alone_changes_nothing_and_two_do(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    assert (parked["state"], parked["by"], parked["act"]) == ("pending", "bob", "pins.approve")
    assert not approved(four)
    done = (await decide(carol, parked)).json()
    assert (done["state"], done["decided_by"], done["outcome"]) == ("done", "carol", "")
    assert approved(four)
    (record,) = [r for r in four.log.records if r.get("verb") == "pins.approve"]
    assert (record["by"], record["second"]) == ("bob", "carol")
    told = [(r["verb"], r["by"], r["asked_by"]) for r in four.log.records if "approval" in r]
    assert told == [
        ("approval.asked", "bob", "bob"),
        ("approval.approve", "carol", "bob"),
        ("approval.done", "carol", "bob"),
    ]


async def test_where_nothing_is_configured_one_person_is_enough(room: Room) -> None:
    """The twin of the test above: the setting is what parks."""
    room.parts.pins.observe(TENANT, "time", "tool", "now", DIGEST)
    bob = await room.person("operator", "bob")
    assert (await bob.api("pins/approve", PIN)).status_code == 200
    assert approved(room)


async def test_nobody_agrees_to_their_own_request(four: Room) -> None:
    carol, dave = await four.person("approver", "carol"), await four.person("approver", "dave")
    parked = await ask(carol)
    refused = await decide(carol, parked)
    assert (refused.status_code, refused.json()["error"]) == (403, "second_self")
    again = Browser(four.http())  # nor from another session of the same person
    await again.sign_in("carol")
    assert (await decide(again, parked)).json()["error"] == "second_self"
    assert not approved(four)
    assert (await decide(dave, parked)).json()["state"] == "done"


async def test_a_word_that_cannot_count_is_not_recorded_as_one(four: Room) -> None:
    """Nobody's own, none for what was not shown, none for what is done; the twin is the word that counted."""
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    own, parked = await ask(carol), await ask(bob)
    assert (await decide(carol, own)).json()["error"] == "second_self"
    assert (await decide(carol, parked, digest=OTHER)).status_code == 409
    assert (await decide(carol, parked)).json()["state"] == "done"
    assert (await decide(carol, parked)).status_code == 409
    told = [(r["approval"], r["by"]) for r in four.log.records if r.get("verb") == "approval.approve"]
    assert told == [(parked["id"], "carol")]


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
async def test_without_the_role_approver_nobody_decides(four: Room, role: str) -> None:
    parked = await ask(await four.person("operator", "bob"))
    other = await four.person(role, "eve")
    for verb in ("approve", "deny"):
        assert (await decide(other, parked, verb)).json()["error"] == "role"
    assert not approved(four)


async def test_the_owner_of_the_node_decides_nothing_without_a_person(four: Room) -> None:
    parked = await ask(await four.person("operator", "bob"))
    await four.person("approver", "carol")
    async with four.owner() as owner:
        path = f"/api/v1/approvals/{parked['id']}/approve"
        word = {"digest": parked["digest"]}
        assert (await owner.post(path, json=word)).json()["error"] == "role"
        wrong = {"name": "carol", "password": "not the password"}
        assert (await owner.post(path, json={**word, "person": wrong})).json()["error"] == "sign_in"
        bob = {"name": "bob", "password": PASSWORD}
        assert (await owner.post(path, json={**word, "person": bob})).json()["error"] == "role"
        assert not approved(four)
        carol = {"name": "carol", "password": PASSWORD}
        assert (await owner.post(path, json={**word, "person": carol})).json()["state"] == "done"
    assert approved(four)


async def test_a_person_is_named_at_the_socket_alone(four: Room) -> None:
    bob = await four.person("operator", "bob")
    await four.person("approver", "carol")
    parked = await ask(bob)
    stolen = {"name": "carol", "password": PASSWORD}
    body = {"digest": parked["digest"], "person": stolen}
    assert (await bob.api(f"approvals/{parked['id']}/approve", body)).status_code == 403
    assert not approved(four)


async def test_a_script_neither_asks_for_nobody_nor_decides_for_somebody(four: Room) -> None:
    four.parts.registry.register(TENANT, "mcp", "notes", {"url": "https://n.example/mcp"}, by="x")
    await four.person("operator", "bob")
    await four.person("approver", "carol")
    async with four.owner() as owner, four.http() as http:
        nobody = (await owner.post("/api/v1/bearers", json={"role": "operator"})).json()["bearer"]
        bobs = (await owner.post("/api/v1/bearers", json={"role": "operator", "user": "bob"})).json()["bearer"]
        carols = (await owner.post("/api/v1/bearers", json={"role": "operator", "user": "carol"})).json()["bearer"]
        assert (await owner.post("/api/v1/bearers", json={"role": "approver", "user": "carol"})).status_code == 422

        async def say(bearer: str, path: str, body: Any) -> httpx2.Response:
            headers = {"Authorization": f"Bearer {bearer}"}
            return await http.post(f"/api/v1/{path}", json=body, headers=headers)

        assert (await say(nobody, "registry/mcp/notes/approve", {})).json()["error"] == "second_script"
        parked = (await say(bobs, "registry/mcp/notes/approve", {})).json()["parked"]
        word = {"digest": parked["digest"]}
        assert (await say(carols, f"approvals/{parked['id']}/approve", word)).json()["error"] == "role"
    assert four.parts.registry.state(TENANT, "mcp", "notes") == "pending"


async def test_a_request_is_agreed_to_by_its_digest_and_no_other(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    assert (await decide(carol, parked, digest=OTHER)).status_code == 409
    assert (await carol.post(f"/approvals/{parked['id']}", {"decision": "approve"})).status_code == 409
    assert not approved(four)


async def test_changed_content_is_not_done(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    four.parts.pins.observe(TENANT, "time", "tool", "now", OTHER)  # it changes while the request waits
    done = (await decide(carol, parked)).json()
    assert (done["state"], done["outcome"]) == ("failed", "state_conflict")
    assert not approved(four)
    assert not approved(four, OTHER)


async def test_a_stop_that_was_pulled_anew_is_not_released_by_an_older_word(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    stop = {"scope": "upstream", "name": "time"}
    await bob.api("kill", stop)
    parked = await ask(bob, "kill/release", stop)
    four.door.clock.advance(1)
    await bob.api("kill", stop)
    assert (await decide(carol, parked)).json()["outcome"] == "state_conflict"
    assert four.parts.kill_switch.stops()
    assert (await decide(carol, await ask(bob, "kill/release", stop))).json()["state"] == "done"  # the twin
    assert four.parts.kill_switch.stops() == []


async def test_a_wish_that_was_altered_in_the_store_fits_its_digest_no_more(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    four.parts.pins.observe(TENANT, "git", "tool", "push", DIGEST)
    parked = await ask(bob)
    book = four.door.store.collection("approvals")
    entry = book.get(TENANT, parked["id"])
    assert entry is not None
    value = records.decode(entry.value)
    value["wish"] = {"upstream": "git", "kind": "tool", "name": "push", "digest": DIGEST}
    book.put(TENANT, parked["id"], records.encode(value))
    assert (await decide(carol, parked)).status_code == 409
    assert four.parts.pins.status(TENANT, "git", "tool", "push", DIGEST) == "new"


async def test_a_request_expires(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    four.door.clock.advance(3601)
    await carol.sign_in("carol")
    assert (await carol.http.get(f"/api/v1/approvals/{parked['id']}")).json()["state"] == "expired"
    assert (await decide(carol, parked)).status_code == 409
    assert not approved(four)


async def test_a_request_is_done_once(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    assert (await decide(carol, parked)).json()["state"] == "done"
    four.parts.pins.forget(TENANT, "time", ("tool",))
    four.parts.pins.observe(TENANT, "time", "tool", "now", DIGEST)
    for verb in ("approve", "deny"):
        assert (await decide(carol, parked, verb)).status_code == 409
    assert not approved(four)


async def test_of_two_approvers_at_once_one_does_it(four: Room) -> None:
    bob = await four.person("operator", "bob")
    carol, dave = await four.person("approver", "carol"), await four.person("approver", "dave")
    parked = await ask(bob)
    answers = await asyncio.gather(*(decide(one, parked) for one in (carol, dave, carol, dave)))
    assert sorted(a.status_code for a in answers) == [200, 409, 409, 409]
    assert sum(r.get("verb") == "pins.approve" for r in four.log.records) == 1


def test_of_two_workers_at_once_one_gets_the_request(four: Room) -> None:
    from firewall.admin.caller import Caller
    from firewall.core.errors import Conflict

    def book() -> Approvals:
        return Approvals(four.door.store, four.door.clock, lambda n: b"x" * n, lifetime_s=60)

    asker = Caller("bob", TENANT, ("operator",), "session", "u_bob")
    made = book().ask(asker, "pins.approve", {"a": 1}, DIGEST)
    one, other = book(), book()
    # Both have read it pending before either writes: the compare-and-set decides.
    found, version = one._open(TENANT, made.approval_id, made.digest)
    other.approve(Caller("dave", TENANT, ("approver",), "session", "u_dave"), made.approval_id, made.digest)
    with pytest.raises(Conflict):
        one._decided(found, version, "approved", Caller("carol", TENANT, ("approver",), "session", "u_carol"))
    assert one.get(TENANT, made.approval_id).decided_name == "dave"


async def test_what_the_asker_lost_meanwhile_the_request_has_lost(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    users = four.parts.identity.users
    (user,) = [u for u in users.list(TENANT) if u.name == "bob"]
    users.update(TENANT, user.subject, roles=("viewer",), scopes=())
    done = (await decide(carol, parked)).json()
    assert (done["state"], done["outcome"]) == ("failed", "role")
    assert not approved(four)


async def test_who_was_disabled_meanwhile_gets_nothing_done(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    users = four.parts.identity.users
    (user,) = [u for u in users.list(TENANT) if u.name == "bob"]
    users.update(TENANT, user.subject, roles=("operator",), scopes=(), disabled=True)
    assert (await decide(carol, parked)).json()["outcome"] == "role"
    assert not approved(four)


async def test_an_approver_who_lost_the_role_in_between_decides_nothing(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    csrf = await carol.csrf()
    users = four.parts.identity.users
    (user,) = [u for u in users.list(TENANT) if u.name == "carol"]
    users.update(TENANT, user.subject, roles=("operator",), scopes=())
    body = orjson.dumps({"digest": parked["digest"]})
    headers = {"x-csrf-token": csrf, "content-type": "application/json", "Origin": "http://127.0.0.1:8701"}
    answer = await carol.http.post(f"/api/v1/approvals/{parked['id']}/approve", content=body, headers=headers)
    assert answer.status_code == 401  # the change of the account ended the session
    await carol.sign_in("carol")
    assert (await decide(carol, parked)).json()["error"] == "role"
    assert not approved(four)


async def test_an_approver_confirms_who_they_are_first(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    four.door.clock.advance(301)
    refused = await decide(carol, parked)
    assert (refused.status_code, refused.json()["error"]) == (403, "fresh")
    assert not approved(four)
    await carol.post("/confirm", {"password": PASSWORD, "then": "/approvals"})
    assert (await decide(carol, parked)).json()["state"] == "done"


async def test_a_request_is_denied_or_withdrawn_and_then_gone(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    for verb, who, state in (("deny", carol, "denied"), ("withdraw", bob, "withdrawn")):
        parked = await ask(bob)
        other = carol if who is bob else bob
        if verb == "withdraw":
            assert (await decide(other, parked, verb)).status_code == 403
        body = {"digest": parked["digest"]}
        assert (await who.api(f"approvals/{parked['id']}/{verb}", body)).json()["state"] == state
        assert (await decide(carol, parked)).status_code == 409
        four.door.clock.advance(1)
    assert not approved(four)


async def test_the_same_wish_waits_once_and_wishes_are_bounded(four: Room) -> None:
    bob = await four.person("operator", "bob")
    assert (await ask(bob))["id"] == (await ask(bob))["id"]
    for n in range(60):
        four.parts.pins.observe(TENANT, "time", "tool", f"tool{n}", DIGEST)
    answers = [(await bob.api("pins/approve", {**PIN, "name": f"tool{n}"})).status_code for n in range(60)]
    assert answers.count(202) == 49
    assert set(answers) == {202, 422}


async def test_asking_and_withdrawing_does_not_fill_the_book(four: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "KEPT_OF_ONE", 3)
    bob, eve = await four.person("operator", "bob"), await four.person("operator", "eve")
    for _ in range(3):
        parked = await ask(bob)
        assert (await bob.api(f"approvals/{parked['id']}/withdraw")).status_code == 200
    assert (await bob.api("pins/approve", PIN)).json()["error"] == "approvals_full"
    assert (await ask(eve))["state"] == "pending"  # and nobody else's


async def test_another_tenant_sees_and_decides_nothing(four: Room) -> None:
    parked = await ask(await four.person("operator", "bob"))
    await four.door.identity.users.create("mallory", PASSWORD, tenant="other", roles=("approver",))
    mallory = Browser(four.http())
    await mallory.sign_in("mallory")
    assert (await mallory.http.get("/api/v1/approvals")).json() == {"approvals": []}
    assert (await decide(mallory, parked)).status_code == 404
    assert not approved(four)


async def test_what_cannot_be_recorded_is_not_done(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    parked = await ask(bob)
    csrf = await carol.csrf()
    four.log.down = True
    assert (await decide(carol, parked)).status_code == 503
    four.log.down = False
    assert csrf
    assert not approved(four)
    assert (await decide(carol, parked)).json()["state"] == "done"


async def test_an_account_with_weight_needs_two_people_and_waits_powerless(four: Room) -> None:
    admin, carol = await four.person("admin", "ann"), await four.person("approver", "carol")
    person = {"name": "eve", "password": PASSWORD, "roles": ["approver"], "scopes": ["*"]}
    parked = await ask(admin, "users", person)
    assert PASSWORD not in str(parked)
    assert four.door.store.collection("approvals").get(TENANT, parked["id"]).value.find(PASSWORD.encode()) < 0  # type: ignore[union-attr]
    eve = Browser(four.http())
    assert (await eve.sign_in("eve")).status_code == 403
    assert (await decide(carol, parked)).json()["state"] == "done"
    assert (await eve.sign_in("eve")).status_code == 303


async def test_the_owner_makes_the_first_approver_alone_and_no_second_one(four: Room) -> None:
    async with four.owner() as owner:
        for name, status in (("grace", 201), ("hedy", 202)):
            person = {"name": name, "password": PASSWORD, "roles": ["approver"]}
            assert (await owner.post("/api/v1/users", json=person)).status_code == status
    admin = await four.person("admin", "ann")
    for user in [u for u in four.parts.identity.users.list(TENANT) if "approver" in u.roles]:
        four.parts.identity.users.update(TENANT, user.subject, roles=user.roles, scopes=(), disabled=True)
    body = {"name": "eve", "password": PASSWORD, "roles": ["viewer"]}  # an administrator is no owner
    assert (await admin.api("users", body)).status_code == 202


async def test_whoever_disables_the_last_approver_makes_no_other_one_alone(four: Room) -> None:
    async with four.owner() as owner:
        for name, status in (("grace", 201), ("hedy", 202)):
            person = {"name": name, "password": PASSWORD, "roles": ["approver"]}
            assert (await owner.post("/api/v1/users", json=person)).status_code == status
            await owner.post("/api/v1/users/grace/disable")


@pytest.mark.parametrize("role", ["approver", "admin"])
async def test_one_administrator_alone_lets_nobody_with_weight_in_again(room: Room, role: str) -> None:
    admin = await room.person("admin", "ann")
    await room.person(role, "bob")
    assert (await admin.api("users/bob/disable")).status_code == 200
    again = {"roles": [role], "scopes": []}
    for path, body in (("users/bob/enable", None), ("users/bob/set", again)):
        assert (await admin.api(path, body)).json()["error"] == "role"
    bob = next(u for u in room.parts.identity.users.list(TENANT) if u.name == "bob")
    assert bob.disabled
    assert (await admin.api("users/bob/set", {"roles": ["viewer"], "scopes": []})).status_code == 200  # no weight
    async with room.owner() as owner:
        assert (await owner.post("/api/v1/users/bob/set", json=again)).status_code == 200


async def test_one_administrator_alone_makes_no_approver(room: Room) -> None:
    admin = await room.person("admin", "ann")
    await room.person("viewer", "eve")
    for path, body in (
        ("users", {"name": "zoe", "password": PASSWORD, "roles": ["approver"]}),
        ("users/eve/set", {"roles": ["viewer", "approver"], "scopes": []}),
        ("users/ann/set", {"roles": ["admin", "approver"], "scopes": []}),
    ):
        assert (await admin.api(path, body)).json()["error"] == "role"
    assert (await admin.api("users/eve/set", {"roles": ["operator"], "scopes": []})).status_code == 200


async def test_pages_show_a_request_and_take_the_word(four: Room) -> None:
    bob, carol = await four.person("operator", "bob"), await four.person("approver", "carol")
    shown = inputs_of((await bob.http.get("/pins/one?upstream=time&kind=tool&name=now")).text)
    there = await bob.post("/pins/approve", shown)
    assert there.headers["location"].startswith("/approvals/a_")
    own = await bob.http.get(there.headers["location"])
    assert "another person must decide" in own.text
    assert 'value="approve"' not in own.text
    page = await carol.http.get(there.headers["location"])
    assert DIGEST in page.text
    assert page.text.index('value="deny"') < page.text.index('value="approve"')
    assert "approve tool now of time" in (await carol.http.get("/approvals")).text
    assert "1 wait for a second person" in (await carol.http.get("/")).text
    form = {**inputs_of(page.text), "decision": "approve"}
    assert (await carol.post(there.headers["location"], form)).status_code == 303
    assert approved(four)
    assert "carol" in (await bob.http.get("/approvals")).text


async def test_names_that_strangers_chose_are_shown_in_requests_and_never_executed(four: Room) -> None:
    hostile = "<img src=x onerror=alert(1)>\u202eevil\u200b"
    four.parts.pins.observe(TENANT, "time", "tool", hostile, DIGEST)
    bob = await four.person("operator", "bob")
    parked = await ask(bob, body={**PIN, "name": hostile})
    for path in ("/approvals", f"/approvals/{parked['id']}"):
        shown = (await bob.http.get(path)).text
        assert "<img" not in shown
        assert "&lt;img src=x" in shown
        for hidden in ("\u202e", "\u200b"):
            assert hidden not in shown


def test_of_many_processes_at_once_one_gets_the_request(tmp_path: Path) -> None:
    """Each with its own connection to the file, as workers have it."""
    from concurrent.futures import ThreadPoolExecutor

    from firewall.admin.caller import Caller
    from firewall.core.errors import Conflict
    from firewall.net.runtime import FakeClock
    from firewall.state.sqlite import SQLiteStore

    clock = FakeClock()
    stores = [SQLiteStore(tmp_path / "state.db", clock=clock) for _ in range(8)]
    books = [Approvals(store, clock, lambda n: b"x" * n, lifetime_s=60) for store in stores]
    asked = books[0].ask(Caller("bob", TENANT, ("operator",), "session", "u_bob"), "pins.approve", {"a": 1}, DIGEST)

    def decide(at: int) -> bool:
        caller = Caller(f"p{at}", TENANT, ("approver",), "session", f"u_{at}")
        try:
            books[at].approve(caller, asked.approval_id, asked.digest)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(decide, range(8))) == 1
    assert books[3].get(TENANT, asked.approval_id).state == "approved"
    for store in stores:
        store.close()


def test_only_acts_of_the_matrix_can_be_named_and_all_of_them_are_done_by_the_office() -> None:
    from firewall.admin.office import DEEDS

    assert set(SECOND) == set(DEEDS)
    assert all(MATRIX[act].second for act in SECOND)
    assert KEPT_US > 0
