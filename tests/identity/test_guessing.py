"""Guessing at what people know: many at once, from many addresses of one network, at every page that takes a code."""

import asyncio
import base64
from collections import Counter

import httpx2
import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

from firewall.identity.people import second_factor, security
from firewall.identity.throttle import Throttle, network_of
from tests.support.door import ORIGIN, PASSWORD, Browser, Door, inputs_of, make_door


def browser_at(door: Door, address: str) -> Browser:
    transport = httpx2.ASGITransport(app=door.identity.front_door, client=(address, 4000))
    return Browser(httpx2.AsyncClient(transport=transport, base_url=ORIGIN))


async def guess(browser: Browser, name: str, password: str = "not the password") -> int:
    values = {"username": name, "password": password, "to": "grants"}
    return (await browser.post("/login", values)).status_code


async def test_as_19_passwords_that_are_tried_all_at_once_are_looked_at_no_more_than_one_by_one() -> None:
    door = make_door()
    await door.user()
    browser = browser_at(door, "192.0.2.7")
    told = Counter(await asyncio.gather(*[guess(browser, "ada") for _ in range(20)]))
    assert told == {403: 4, 429: 16}
    assert len(door.named("identity.login.failed")) == 4


async def test_a_right_password_is_no_failure_however_often() -> None:
    door = make_door()
    await door.user()
    browser = browser_at(door, "192.0.2.7")
    assert [await guess(browser, "ada", PASSWORD) for _ in range(8)] == [303] * 8


async def test_as_19_the_addresses_of_one_network_share_its_limit() -> None:
    door = make_door()
    told = Counter([await guess(browser_at(door, f"2001:db8::{n:x}"), f"name{n}") for n in range(30)])
    assert told == {403: 20, 429: 10}
    assert await guess(browser_at(door, "2001:db8:0:1::1"), "name") == 403  # the twin: another network


def test_an_address_has_one_name_however_it_is_written() -> None:
    door = make_door()
    throttle = Throttle(door.store, door.clock)
    assert throttle.allow("x", "192.0.2.7", per_minute=1)
    assert not throttle.allow("x", "::ffff:192.0.2.7", per_minute=1)
    assert network_of("2001:db8::1") == "2001:db8::/64"
    assert network_of("::1") == "::/64"
    assert network_of("fe80::1%eth0") == "fe80::/64"
    assert network_of("unix:") == "unix:"


@pytest.mark.parametrize("bounded", [True, False])
async def test_as_19_a_session_that_was_taken_over_does_not_guess_the_second_factor_away_from_many_addresses(
    bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bounded:  # the twin
        monkeypatch.setattr(security, "ACCOUNT_TRIES", 10_000)
    door = make_door()
    user = await door.user()
    browser = browser_at(door, "192.0.2.7")
    await browser.post("/login", {"username": "ada", "password": PASSWORD, "to": "security"})
    csrf = inputs_of((await browser.get("/account/security")).text)["csrf"]
    secret = base64.b32decode(door.identity.factors.offer(user))
    step = door.clock.now_us() // 1_000_000 // second_factor.PERIOD_S
    assert door.identity.factors.confirm(user, HOTP(secret, 6, SHA1()).generate(step).decode())
    told: Counter[int] = Counter()
    for n in range(30):
        thief = browser_at(door, f"198.51.100.{n}")
        thief.http.cookies.update(browser.http.cookies)
        reply = await thief.post("/account/security", {"csrf": csrf, "do": "remove", "code": f"{n:06}"})
        told[reply.status_code] += 1
    assert told == ({403: 20, 429: 10} if bounded else {403: 30})
    assert door.identity.factors.enrolled(user)
