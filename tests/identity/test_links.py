"""Accounts and who they are elsewhere: by (issuer, subject), within a tenant, and by nothing else."""

from __future__ import annotations

import pytest

from firewall.core.errors import Conflict, Malformed, StateUnavailable
from firewall.core.jsonvalue import JSONObject
from firewall.identity.people import links as links_module
from firewall.identity.people.links import Admission, Links
from firewall.identity.people.passwords import Passwords
from firewall.identity.people.users import Users
from firewall.net.runtime import FakeClock, RandomIds
from firewall.state.memory import MemoryStore
from tests.support.door import Browser, authorize_query, make_door

IDP = "https://idp.acme.example"
OTHER = "https://idp.other.example"
OPEN = Admission(create=True, roles=("dev",), scopes=("time:read",))
CLOSED = Admission()


class Room:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock)
        self.events: list[tuple[str, JSONObject]] = []
        passwords = Passwords(lambda n: b"x" * n, n=16, least_chars=12)
        self.users = Users(self.store, self.clock, RandomIds(), passwords, self.record)
        self.links = self.worker()

    def record(self, event: str, facts: JSONObject) -> None:
        self.events.append((event, facts))

    def worker(self) -> Links:
        return Links(self.store, self.clock, self.users, self.record)


@pytest.fixture
def room() -> Room:
    return Room()


async def test_a_link_leads_from_issuer_and_subject_to_the_account(room: Room) -> None:
    ada = await room.users.create("ada", "a long enough password", tenant="acme")
    room.links.link("acme", IDP, "00u1", ada.subject)
    assert room.links.find("acme", IDP, "00u1") == ada
    assert [link.subject for link in room.links.of_user("acme", ada.subject)] == ["00u1"]


@pytest.mark.parametrize(
    ("tenant", "issuer", "subject", "realm"),
    [
        ("beta", IDP, "00u1", ""),
        ("acme", OTHER, "00u1", ""),
        ("acme", IDP + "/", "00u1", ""),
        ("acme", IDP, "00U1", ""),
        ("acme", IDP, "00u1", "another realm"),
        ("acme", IDP + "00", "u1", ""),
    ],
)
async def test_every_part_of_a_link_counts(room: Room, tenant: str, issuer: str, subject: str, realm: str) -> None:
    ada = await room.users.create("ada", "a long enough password", tenant="acme")
    room.links.link("acme", IDP, "00u1", ada.subject)
    assert room.links.find(tenant, issuer, subject, realm=realm) is None
    assert room.links.admit(tenant, issuer, subject, CLOSED, realm=realm) is None


async def test_a_name_that_is_an_address_is_never_taken_for_a_link(room: Room) -> None:
    ada = await room.users.create("ada@acme.example", "a long enough password", tenant="acme")
    assert room.links.admit("acme", IDP, "ada@acme.example", CLOSED) is None
    made = room.links.admit("acme", IDP, "ada@acme.example", OPEN)
    assert made is not None
    assert made.subject != ada.subject
    assert made.name != ada.name


async def test_first_contact_makes_one_account_and_finds_it_again(room: Room) -> None:
    made = room.links.admit("acme", IDP, "00u1", OPEN)
    assert made is not None
    assert (made.roles, made.scopes) == (("dev",), ("time:read",))
    assert room.worker().admit("acme", IDP, "00u1", CLOSED) == made
    assert len(room.users.list("acme")) == 1
    assert await room.users.verify(made.name, "") is None, "an account without a password opens to none"


def test_two_first_contacts_at_once_make_one_account(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    create = room.users.create_linked

    def meanwhile(**values: object) -> object:
        with pytest.raises(Conflict):
            room.worker().admit("acme", IDP, "00u1", OPEN)
        assert room.worker().find("acme", IDP, "00u1") is None
        return create(**values)  # type: ignore[arg-type]

    monkeypatch.setattr(room.users, "create_linked", meanwhile)
    made = room.links.admit("acme", IDP, "00u1", OPEN)
    assert [user.subject for user in room.users.list("acme")] == [made.subject if made else ""]


def test_a_first_contact_that_broke_off_can_be_repeated_after_a_minute(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(room.users, "create_linked", lambda **_values: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            room.links.admit("acme", IDP, "00u1", OPEN)
    with pytest.raises(Conflict):
        room.links.admit("acme", IDP, "00u1", OPEN)
    room.clock.advance(61)
    assert room.links.admit("acme", IDP, "00u1", OPEN) is not None


def test_a_disabled_account_is_not_replaced_by_a_new_one(room: Room) -> None:
    made = room.links.admit("acme", IDP, "00u1", OPEN)
    assert made is not None
    room.users.update("acme", made.subject, roles=(), scopes=(), disabled=True)
    assert room.links.admit("acme", IDP, "00u1", OPEN) is None
    assert len(room.users.list("acme")) == 1


async def test_an_outside_account_has_one_link(room: Room) -> None:
    ada = await room.users.create("ada", "a long enough password", tenant="acme")
    bob = await room.users.create("bob", "a long enough password", tenant="acme")
    room.links.link("acme", IDP, "00u1", ada.subject)
    with pytest.raises(Conflict):
        room.links.link("acme", IDP, "00u1", bob.subject)
    with pytest.raises(Malformed, match="user_unknown"):
        room.links.link("beta", IDP, "00u1", ada.subject)


async def test_the_end_of_a_link_ends_what_was_given_through_it(room: Room) -> None:
    ended: list[tuple[str, str, str]] = []
    room.users.on_end(lambda *facts: ended.append(facts))
    ada = await room.users.create("ada", "a long enough password", tenant="acme")
    room.links.link("acme", IDP, "00u1", ada.subject)
    assert room.links.unlink("acme", IDP, "00u1")
    assert not room.links.unlink("acme", IDP, "00u1")
    assert ended == [("acme", ada.subject, "link_unlinked")]
    assert room.links.find("acme", IDP, "00u1") is None


def test_an_issuer_cannot_fill_the_store_with_accounts(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "CREATED_PER_ISSUER", 2)
    for number in range(2):
        assert room.links.admit("acme", IDP, f"u{number}", OPEN)
    with pytest.raises(StateUnavailable):
        room.links.admit("acme", IDP, "u2", OPEN)
    assert room.links.admit("acme", OTHER, "u2", OPEN), "another issuer is not touched"
    assert len(room.users.list("acme")) == 3


@pytest.mark.parametrize(("tenant", "issuer", "subject"), [("", IDP, "s"), ("acme", "", "s"), ("acme", IDP, "")])
def test_an_identity_without_a_part_is_none(room: Room, tenant: str, issuer: str, subject: str) -> None:
    with pytest.raises(Malformed, match="link_identity"):
        room.links.admit(tenant, issuer, subject, OPEN)


def test_events_hold_no_address(room: Room) -> None:
    room.links.admit("acme", IDP, "ada@acme.example", OPEN)
    assert "ada@" not in repr(room.events)


async def test_who_is_signed_in_through_a_link_is_signed_out_with_it() -> None:
    door = make_door()
    ada = await door.user()
    door.identity.links.link("acme", IDP, "00u1", ada.subject)
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        assert 'action="/login"' not in (await browser.open(authorize_query(prompt="consent"))).text
        door.identity.links.unlink("acme", IDP, "00u1")
        assert 'action="/login"' in (await browser.open(authorize_query(prompt="consent"))).text
