"""An account that is removed leaves nothing, and whoever gets its name next is somebody else.

Chosen by us, after how provisioning is done elsewhere (RFC 7644 §3.6: a deleted resource is gone, and its identifier
is not given again).
"""

import base64
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

from firewall.core.errors import AuditUnavailable, Conflict, ConsentNeeded, Malformed, Unauthenticated
from firewall.core.label import CLEAN, MARKS, Label
from firewall.identity.people import users as users_room
from firewall.identity.people.passwords import Passwords
from firewall.identity.people.users import User, Users
from firewall.net.runtime import FakeClock, RandomIds
from firewall.state.sqlite import SQLiteStore
from tests.identity.test_upstream_people import connected, token_of
from tests.support.door import PASSWORD, Browser, Door, authorize_query, make_door, redeem, refresh

IDP = "https://idp.acme.example"
# Rows that name a person by digest or by nothing at all, none of which anybody else can ever be given: the counters
# of what has ended, and what throttles guesses.
DEAD = {"oauth_codes_issued", "oauth_refresh", "user_names"}  # open nothing without an account, and end by time
COUNTERS = {"oauth_ended", "oauth_ended_at", "oauth_revoked", "throttle_counts", "throttle_failures"}


async def enrol(door: Door, user: User) -> bytes:
    secret = base64.b32decode(door.identity.factors.offer(user))
    step = door.clock.now_us() // 30_000_000
    assert door.identity.factors.confirm(user, HOTP(secret, 6, SHA1()).generate(step).decode())
    return secret


def kept_of(door: Door, subject: str) -> set[str]:
    """Return the collections in which a subject is still named."""
    found = set()
    for name, collection in door.store._collections.items():
        for tenant in ("acme", "*"):
            if any(subject in entry.key or subject.encode() in entry.value for entry in collection.scan(tenant)):
                found.add(name)
    return found - COUNTERS


async def test_everything_of_a_removed_person_ends_and_nothing_of_it_is_kept() -> None:
    door = make_door()
    user = await door.user()
    async with door.http() as http:
        browser = Browser(http)
        body = (await redeem(http, (await browser.code())["code"])).json()
        door.verified(body["access_token"])
        door.identity.links.link("acme", IDP, "00u1", user.subject)
        await enrol(door, user)
        before = kept_of(door, user.subject)
        assert {
            "users",
            "login_sessions",
            "oauth_consents",
            "oauth_grants",
            "second_factors",
            "account_links",
        } <= before

        assert door.identity.users.remove("acme", user.subject) == user

        assert kept_of(door, user.subject) <= DEAD
        with pytest.raises(Unauthenticated):
            door.verified(body["access_token"])
        assert (await refresh(http, body["refresh_token"])).status_code == 400
        assert 'action="/login"' in (await browser.open(authorize_query())).text
    assert await door.identity.users.verify("ada", PASSWORD) is None
    assert door.identity.users.list("acme") == []
    assert door.identity.links.find("acme", IDP, "00u1") is None
    (said,) = door.named("identity.user.removed")
    assert said == {"tenant": "acme", "sub": user.subject}


async def test_the_next_one_of_the_name_is_somebody_else_in_everything() -> None:
    """Subject, consents, second factor, links, flow labels: a new person begins with none of the old one's."""
    door = make_door()
    assert door.labels is not None
    old = await door.user()
    async with door.http() as http:
        browser = Browser(http)
        body = (await redeem(http, (await browser.code())["code"])).json()
        door.identity.links.link("acme", IDP, "00u1", old.subject)
        await enrol(door, old)
        tainted = door.verified(body["access_token"])
        door.labels.raise_(tainted, Label(MARKS["untrusted"]))
        door.identity.users.remove("acme", old.subject)

        new = await door.user()
        assert (new.name, new.subject != old.subject) == (old.name, True)
        assert not door.identity.factors.enrolled(new)
        assert door.identity.grants.of_subject("acme", new.subject) == []
        assert door.identity.links.of_user("acme", new.subject) == []
        assert door.labels.current(replace(tainted, subject=new.subject)) == CLEAN
        assert door.labels.current(tainted) != CLEAN  # what the old one had seen is not washed off either
        page = await browser.sign_in(await browser.open(authorize_query()))
        assert "approve" in page.text  # asked anew: the agreement was the old one's


async def test_removed_and_disabled_differ_in_the_name_alone_and_both_keep_somebody_out() -> None:
    """The twin: a disabled account keeps its name, and its links lead nowhere."""
    door = make_door()
    user = await door.user()
    door.identity.links.link("acme", IDP, "00u1", user.subject)
    door.identity.users.update("acme", user.subject, roles=(), scopes=(), disabled=True)
    with pytest.raises(Conflict):
        await door.user()
    assert door.identity.links.knows("acme", IDP, "00u1")
    door.identity.users.remove("acme", user.subject)
    assert not door.identity.links.knows("acme", IDP, "00u1")
    assert (await door.user()).name == "ada"


async def test_what_a_removed_person_connected_at_an_upstream_is_forgotten() -> None:
    async with connected() as (node, _, _, caller):
        assert await token_of(node, caller)
        node.identity.users.remove(caller.tenant, caller.subject)
        with pytest.raises(ConsentNeeded):
            await node.broker.headers_for(caller, "files")


async def test_a_name_is_free_again_in_the_store_of_a_node_too(tmp_path: Path) -> None:
    clock, events = FakeClock(), []
    store = SQLiteStore(tmp_path / "state.db", clock=clock)
    users = Users(
        store,
        clock,
        RandomIds(),
        Passwords(secrets.token_bytes, n=16, least_chars=12),
        lambda *event: events.append(event),
    )
    first = await users.create("ada", PASSWORD, tenant="acme", roles=("admin",))
    users.remove("acme", first.subject)
    assert not users.exists_admin()
    second = await users.create("ada", PASSWORD, tenant="other")
    assert (second.subject != first.subject, await users.verify("ada", PASSWORD)) == (True, second)
    with pytest.raises(Conflict):
        await users.create("ada", PASSWORD, tenant="acme")
    store.close()


async def test_a_removal_that_is_not_recorded_does_not_happen() -> None:
    door = make_door()
    user = await door.user()

    def down(_event: str, _facts: object) -> None:
        raise AuditUnavailable("audit_write")

    door.identity.users._record = down
    with pytest.raises(AuditUnavailable):
        door.identity.users.remove("acme", user.subject)
    assert await door.identity.users.verify("ada", PASSWORD) == user


@pytest.mark.parametrize("at", range(6))
async def test_a_removal_that_breaks_off_leaves_a_closed_account_that_can_be_removed_again(at: int) -> None:
    """However far it came: nobody gets in, the name is not free with a row behind it, and the second try finishes."""
    door = make_door()
    user = await door.user()
    calls = 0

    class Broken(Exception):
        pass

    rows, names = door.identity.users._users, door.identity.users._names

    def counted(real: Any) -> Any:
        def call(*args: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls == at + 1:
                raise Broken
            return real(*args, **more)

        return call

    saved = (rows.put, rows.delete, names.put)
    rows.put, rows.delete, names.put = (counted(real) for real in saved)  # type: ignore[method-assign]
    try:
        door.identity.users.remove("acme", user.subject)
        broke = False
    except Broken:
        broke = True
    rows.put, rows.delete, names.put = saved  # type: ignore[method-assign]
    assert broke == (at < 5)  # five writes; the sixth case is the whole removal
    if broke and at > 0:
        assert await door.identity.users.verify("ada", PASSWORD) is None
        assert not door.identity.users.exists_admin()
        if door.identity.users.exists("acme", user.subject):
            with pytest.raises(Conflict):
                await door.user()
            door.identity.users.remove("acme", user.subject)
    elif broke:
        assert await door.identity.users.verify("ada", PASSWORD) == user
        door.identity.users.remove("acme", user.subject)
    assert (await door.user()).subject != user.subject


async def test_a_change_that_began_before_a_removal_brings_no_account_back() -> None:
    """A password is hashed for a while; the row it would be written to is gone by then."""
    door = make_door()
    user = await door.user()
    users = door.identity.users
    real = users._passwords.hash

    async def meanwhile(password: str) -> str:
        hashed = await real(password)
        users.remove("acme", user.subject)
        return hashed

    users._passwords.hash = meanwhile  # type: ignore[method-assign]
    with pytest.raises(Malformed):
        await users.set_password("acme", user.subject, "another good password")
    assert users.list("acme") == []
    with pytest.raises(Malformed):
        users.remove("acme", user.subject)


@pytest.mark.parametrize("again", [True, False])
async def test_a_change_that_was_under_way_keeps_no_name_and_no_administrator_of_a_removed_account(
    again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not again:  # the twin: nobody looks at the name again
        monkeypatch.setattr(users_room, "TRIES", 0)
    door = make_door()
    bob = await door.user("bob")
    users, real, late = door.identity.users, Users._reindex, [True]

    def reindex(self: Users, user: User, *, gone: bool = False) -> int:
        version = real(self, user, gone=gone)
        if gone and late.pop():  # another worker saved a change before, and writes the list of names only now
            late.append(False)
            real(self, replace(bob, roles=("admin",)))
        elif gone:
            late.append(False)
        return version

    monkeypatch.setattr(Users, "_reindex", reindex)
    users.remove("acme", bob.subject)
    assert users.exists_admin() is not again
    if again:
        assert (await door.user("bob")).subject != bob.subject
    else:
        with pytest.raises(Conflict):
            await door.user("bob")
