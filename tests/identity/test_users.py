"""Users, passwords, the first contact, operator tokens."""

import asyncio
import io
import stat
from pathlib import Path

import pytest

from firewall.core.errors import Conflict, Malformed
from firewall.identity.people.first_contact import FirstContactCode, announce, normal_code
from firewall.identity.people.users import User
from tests.support.door import ORIGIN, PASSWORD, TIME, Door, make_door

ADMIN = "https://admin.example"


async def test_a_password_is_verified_and_never_stored() -> None:
    door = make_door()
    user = await door.user("Ada@example")
    assert user.name == "ada@example"
    assert await door.identity.users.verify(" ADA@example ", PASSWORD) == user
    assert await door.identity.users.verify("ada@example", PASSWORD + "x") is None
    assert await door.identity.users.verify("ada@example", "x" * 5000) is None
    assert await door.identity.users.verify("no body", PASSWORD) is None
    kept = b"".join(entry.value for entry in door.store.collection("users").scan("acme"))
    assert PASSWORD.encode() not in kept
    assert b"scrypt$16$8$1$" in kept


async def test_the_same_password_in_another_unicode_form_is_the_same() -> None:
    door = make_door()
    await door.identity.users.create("eve", "pa\u0308sswort und mehr", tenant="acme")
    assert await door.identity.users.verify("eve", "p\u00e4sswort und mehr")


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("", PASSWORD),
        ("a b", PASSWORD),
        ("é", PASSWORD),
        ("x" * 65, PASSWORD),
        ("ok", "short"),
        ("ok", "aaaaaaaaaaaaaaa"),
        ("ok", "x1" * 200),
    ],
)
async def test_names_and_passwords_have_bounds(name: str, password: str) -> None:
    door = make_door()
    with pytest.raises(Malformed):
        await door.identity.users.create(name, password, tenant="acme")


async def test_a_name_is_given_once_across_tenants() -> None:
    door = make_door()
    await door.user()
    with pytest.raises(Conflict):
        await door.user(tenant="other")
    with pytest.raises(Malformed):
        await door.user("bob", tenant="../acme")


async def test_a_new_password_ends_sessions_and_grants() -> None:
    from tests.support.door import Browser, authorize_query, redeem, refresh

    door = make_door()
    user = await door.user()
    async with door.http() as http:
        browser = Browser(http)
        body = (await redeem(http, (await browser.code())["code"])).json()
        await door.identity.users.set_password("acme", user.subject, "another good password")
        assert 'action="/login"' in (await browser.open(authorize_query())).text
        assert (await refresh(http, body["refresh_token"])).status_code == 400
    assert await door.identity.users.verify("ada", "another good password")
    assert [one.name for one in door.identity.users.list("acme")] == ["ada"]
    assert door.identity.users.list("other") == []


# -- first contact ---------------------------------------------------------------------------------------


def opened(door: Door) -> FirstContactCode:
    code = door.identity.first_contact.open()
    assert code is not None
    return code


async def first(
    door: Door, code: str, name: str = "root", password: str = PASSWORD, address: str = "192.0.2.1"
) -> User:
    return await door.identity.first_contact.redeem(code, name, password, address=address)


async def test_design_6b_12_the_code_makes_one_administrator_once() -> None:
    door = make_door()
    code = opened(door)
    assert len(code.text) == 23
    assert code.expires_s - door.clock.now_us() // 1_000_000 == 900
    user = await first(door, code.text.lower().replace("-", " "))
    assert (user.roles, user.tenant) == (("admin",), "acme")
    assert door.identity.first_contact.open() is None
    with pytest.raises(Malformed, match="first_contact_code"):
        await first(door, code.text, "other")
    assert code.text not in str(door.events)


async def test_design_6b_12_the_code_ends_after_fifteen_minutes_or_when_a_new_one_is_made() -> None:
    door = make_door()
    old = opened(door)
    new = opened(door)
    with pytest.raises(Malformed, match="first_contact_code"):
        await first(door, old.text)
    door.clock.advance(900)
    with pytest.raises(Malformed, match="first_contact_code"):
        await first(door, new.text)


async def test_design_6b_12_a_user_who_is_no_administrator_does_not_close_first_contact() -> None:
    door = make_door()
    await door.user("tour", roles=("demo",))
    admin = await first(door, opened(door).text)
    assert door.identity.first_contact.open() is None
    door.identity.users.update("acme", admin.subject, roles=("admin",), scopes=("*",), disabled=True)
    assert door.identity.first_contact.open() is not None


async def test_design_6b_12_two_at_once_make_one_user() -> None:
    door = make_door()
    code = opened(door)
    done = await asyncio.gather(*(first(door, code.text, f"user{i}") for i in range(4)), return_exceptions=True)
    assert len([one for one in done if isinstance(one, User)]) == 1


async def test_design_6b_12_guesses_are_limited_per_minute_and_in_all() -> None:
    door = make_door()
    code = opened(door)
    for _ in range(10):
        with pytest.raises(Malformed, match="first_contact_code"):
            await first(door, "guess")
    with pytest.raises(Malformed, match="first_contact_busy"):
        await first(door, code.text)
    for number in range(20):
        with pytest.raises(Malformed, match="first_contact_code"):
            await first(door, "guess", address=f"198.51.100.{number}")
    with pytest.raises(Malformed, match="first_contact_code"):
        await first(door, code.text, address="203.0.113.1")


async def test_a_wrong_choice_of_password_does_not_use_up_the_code() -> None:
    door = make_door()
    code = opened(door)
    with pytest.raises(Malformed, match="password_weak"):
        await first(door, code.text, password="short")
    assert await first(door, code.text)


def test_a_code_is_read_as_people_type_it() -> None:
    assert normal_code(" abcde-FGHIJ ") == "ABCDEFGHIJ"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_code_goes_to_a_terminal_or_into_a_file_of_its_owner(tmp_path: Path) -> None:
    code = FirstContactCode("ABCDE-FGHIJ", 0)
    terminal = Terminal()
    path = tmp_path / "first"
    assert announce(code, "http://127.0.0.1:1/x", terminal=terminal, path=path) == "terminal"
    assert "ABCDE-FGHIJ" in terminal.getvalue()
    assert not path.exists()
    victim = tmp_path / "victim"
    victim.write_text("keep", encoding="utf-8")
    path.symlink_to(victim)
    assert announce(code, "http://127.0.0.1:1/x", terminal=io.StringIO(), path=path) == str(path)
    assert victim.read_text(encoding="utf-8") == "keep"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "ABCDE-FGHIJ" in path.read_text(encoding="utf-8")


async def test_the_page_for_the_admin_listener_takes_the_code_by_post_from_itself_only() -> None:
    door = make_door()
    code = opened(door)
    app = door.identity.first_contact_page(origin=ADMIN, path="/first-contact")
    values = {"code": code.text, "username": "root", "password": PASSWORD}
    async with door.http(app) as http:
        page = await http.get("/first-contact")
        assert page.status_code == 200
        assert page.headers["x-frame-options"] == "DENY"
        assert code.text not in page.text
        assert (await http.get("/first-contact", params=values)).status_code == 200
        assert not door.identity.users.exists_admin()
        assert (await http.post("/first-contact", data=values)).status_code == 403
        assert (await http.post("/first-contact", data=values, headers={"Origin": ORIGIN})).status_code == 403
        wrong = await http.post("/first-contact", data={**values, "code": "x"}, headers={"Origin": ADMIN})
        assert wrong.status_code == 403
        assert "not right" in wrong.text
        done = await http.post("/first-contact", data=values, headers={"Origin": ADMIN})
        assert done.status_code == 200
        assert "root can sign in" in done.text
        assert (await http.get("/other")).status_code == 404
        assert (await http.put("/first-contact")).status_code == 405


# -- operator tokens ---------------------------------------------------------------------------------------


def test_an_operators_token_is_bound_recorded_and_revocable() -> None:
    door = make_door()
    issued = door.identity.operator_tokens.mint_for_operator("/mcp/time", ["time:write"], 600, by="uid:1000")
    principal = door.verified(issued.token)
    assert (principal.kind, principal.subject, principal.client_id) == ("local", "local:uid:1000", "bartizan-cli")
    assert principal.scopes == {"time:write"}
    assert issued.expires_in == 600
    event = door.named("identity.token.issued")[0]
    assert event["grant_type"] == "operator"
    assert issued.token not in str(door.events)
    assert issued.token not in repr(issued)
    door.identity.grants.revoke("acme", principal.subject, principal.grant_id, reason="test")
    with pytest.raises(Exception, match="token_invalid"):
        door.verified(issued.token)


def test_an_operators_token_without_wishes_has_the_defaults() -> None:
    door = make_door()
    issued = door.identity.operator_tokens.mint_for_operator(TIME)
    assert (issued.scopes, issued.expires_in) == (("time:read",), 300)


@pytest.mark.parametrize(
    ("resource", "scopes", "ttl_s", "code"),
    [
        ("/mcp/none", (), 0, "operator_resource"),
        ("https://other.example/mcp/time", (), 0, "operator_resource"),
        ("/mcp/time", ("git:read",), 0, "operator_scope"),
        ("/mcp/time", (), 3601, "operator_ttl"),
        ("/mcp/time", (), 1, "operator_ttl"),
    ],
)
def test_an_operators_token_has_the_same_bounds_as_any(
    resource: str, scopes: tuple[str, ...], ttl_s: int, code: str
) -> None:
    door = make_door()
    with pytest.raises(Malformed, match=code):
        door.identity.operator_tokens.mint_for_operator(resource, scopes, ttl_s)
