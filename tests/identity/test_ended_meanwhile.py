"""Somebody's access is ended while a request of theirs waits for something: what was looked at before does not count."""

from __future__ import annotations

from typing import Any

import pytest

from firewall.identity.clients.registry import Clients
from firewall.identity.people.passwords import Passwords
from tests.identity.test_device import ask, decided, device_door, poll, signed_in
from tests.support.door import PASSWORD, Browser, Door, authorize_query, callback_of, make_door, redeem

NEW_PASSWORD = "a new horse battery staple"


def end_during(monkeypatch: pytest.MonkeyPatch, door: Door, owner: Any, name: str, armed: list[bool]) -> None:
    """End what ada has while the named coroutine runs, once, where armed: a host that answers slowly has its time."""
    real = getattr(owner, name)

    async def slow(*given: Any, **more: Any) -> Any:
        found = await real(*given, **more)
        if armed:
            armed.clear()
            (ada,) = door.identity.users.list("acme")
            door.identity.users.end("acme", ada.subject, reason="signal_session-revoked")
        return found

    monkeypatch.setattr(owner, name, slow)


@pytest.mark.parametrize("ended", [True, False])
async def test_a_decision_that_waits_for_a_clients_host_gives_nothing_after_the_end(
    ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who took a session over and owns the client could otherwise keep access past the word that ended it."""
    door, armed = make_door(), list[bool]()
    await door.user()
    end_during(monkeypatch, door, Clients, "find", armed)
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
        if ended:
            armed.append(True)
        done = await browser.approve(page)
        if ended:
            assert done.status_code == 403
        else:
            assert (await redeem(http, callback_of(done)["code"])).status_code == 200


@pytest.mark.parametrize("ended", [True, False])
async def test_a_decision_on_a_device_that_waits_gives_nothing_after_the_end(
    ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, armed = device_door(), list[bool]()
    await door.user()
    async with door.http() as device, door.http() as http:
        asked = (await ask(device)).json()
        browser = Browser(http)
        await signed_in(browser)
        count = 0
        real = Clients.find

        async def slow(*given: Any, **more: Any) -> Any:
            nonlocal count
            count += 1  # the page that shows it, then the decision
            if count == 2 and ended:
                armed.append(True)
            return await real(*given, **more)

        monkeypatch.setattr(Clients, "find", slow)
        end_during(monkeypatch, door, Clients, "find", armed)
        done = await decided(browser, asked["user_code"])
        assert done.status_code == (403 if ended else 200)
        got = await poll(device, asked["device_code"])
        assert got.status_code == (400 if ended else 200)


@pytest.mark.parametrize("changed", [True, False])
async def test_an_old_password_that_is_still_being_checked_signs_nobody_in_after_the_change(
    changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = make_door()
    user = await door.user()
    real = Passwords.verify
    armed = [changed]

    async def slow(self: Passwords, password: str, stored: str) -> bool:
        right = await real(self, password, stored)
        if armed.pop():
            armed.append(False)
            await door.identity.users.set_password("acme", user.subject, NEW_PASSWORD)
        armed.append(False)
        return right

    monkeypatch.setattr(Passwords, "verify", slow)
    found = await door.identity.users.verify("ada", PASSWORD)
    assert (found is None) is changed


async def test_who_is_disabled_while_the_password_is_checked_is_not_signed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    user = await door.user()
    real = Passwords.verify

    async def slow(self: Passwords, password: str, stored: str) -> bool:
        right = await real(self, password, stored)
        door.identity.users.update("acme", user.subject, roles=(), scopes=(), disabled=True)
        return right

    monkeypatch.setattr(Passwords, "verify", slow)
    assert await door.identity.users.verify("ada", PASSWORD) is None
