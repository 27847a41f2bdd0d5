"""Attacks on the pages, each run twice: with its control, where it fails, and without, where it works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import pytest

from firewall.identity import serve, web
from firewall.identity.clients.registry import Client
from firewall.identity.oauth21 import authorize
from firewall.identity.people import consent_page, consents, sessions, sign_in
from firewall.identity.people import pages as pages_room
from firewall.net.dial import Fetched
from firewall.wire import strict_json
from tests.support.door import (
    CIMD_DOCUMENT,
    CIMD_URL,
    PASSWORD,
    Browser,
    Door,
    authorize_query,
    callback_of,
    inputs_of,
    make_door,
    redeem,
)

Attack = Callable[[Door], Awaitable[bool]]
ControlOff = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Case:
    """attack returns whether it succeeded."""

    name: str
    attack: Attack
    off: ControlOff
    changes: dict[str, Any]


CASES: list[Case] = []


def case(name: str, off: ControlOff, **changes: Any) -> Callable[[Attack], Attack]:
    def register(attack: Attack) -> Attack:
        CASES.append(Case(name, attack, off, changes))
        return attack

    return register


def patched(owner: Any, name: str, value: Any) -> ControlOff:
    return lambda patch: patch.setattr(owner, name, value)


def publish(door: Door, **changes: Any) -> None:
    body = strict_json.dumps({**CIMD_DOCUMENT, **changes})
    door.fetcher.answers[CIMD_URL] = Fetched(200, {"content-type": "application/json"}, body)


def _key_without(part: int) -> Any:
    """Return the registry's key with one thing left out of it."""
    whole = consents._key

    def key(user: Any, client: Any, request: Any, details: Any) -> str:
        class Blind:
            client_id = client.client_id
            digest = "" if part == 3 else client.digest

        if part == 1:
            request = authorize.replace(request, redirect_uri="https://anywhere.example/cb")
        if part == 2:
            request = authorize.replace(request, resource="https://any.example")
        return whole(user, Blind(), request, details)  # type: ignore[arg-type]

    return key


async def agreed_then(door: Door, **changes: str) -> bool:
    """Agree once, then ask for something else; return whether nobody was asked again."""
    await door.user(scopes=("*",))
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        return (await browser.open(authorize_query(**changes))).status_code == 303


@case("ui_01 a consent for another destination", patched(consents, "_key", _key_without(1)))
async def another_destination(door: Door) -> bool:
    return await agreed_then(door, redirect_uri="http://localhost:1/callback")


@case(
    "ui_01 a consent given to an earlier form of the client", patched(consents, "_key", _key_without(3)), cimd_pinned={}
)
async def another_document(door: Door) -> bool:
    publish(door)
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        publish(door, client_name="Your Bank")
        door.clock.advance(3601)
        return (await browser.open(authorize_query())).status_code == 303


@case("ui_01 a consent to more scopes than were shown", patched(consents.Consents, "covers", lambda *_a, **_k: True))
async def more_scopes(door: Door) -> bool:
    return await agreed_then(door, scope="time:read time:write")


async def consent_text(door: Door, **changes: str) -> str:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        return (await browser.sign_in(await browser.open(authorize_query(**changes)))).text


@case(
    "ui_03 a claimed name in the place of who asks",
    patched(consent_page, "shown_identity", lambda client: client.name),
    cimd_pinned={CIMD_URL: {**CIMD_DOCUMENT, "client_name": "Your Bank"}},
)
async def claimed_identity(door: Door) -> bool:
    title = (await consent_text(door)).partition("<h1>")[2].partition("</h1>")[0]
    return "Your Bank" in title or "app.example" not in title


@case("ui_03 any program of the computer without a warning", patched(Client, "loopback_only", False))
async def unwarned(door: Door) -> bool:
    return "any program on that computer could be asking" not in await consent_text(door)


@case(
    "ui_03 a destination that is not shown",
    patched(authorize.oauth, "redirect_host", lambda _uri: "fw.example"),
    cimd_pinned={CIMD_URL: {**CIMD_DOCUMENT, "redirect_uris": ["https://evil.example/cb"]}},
)
async def hidden_destination(door: Door) -> bool:
    return "evil.example" not in await consent_text(door, redirect_uri="https://evil.example/cb")


@case("ui_03 a scope that says nothing", patched(consent_page, "scope_words", lambda _scope: "Use it"))
async def unspoken_scope(door: Door) -> bool:
    return "Act through “time”" not in await consent_text(door, scope="time:read time:write")


@case(
    "ui_04 markup in a client's name",
    patched(pages_room.jinja2, "Environment", lambda **given: _environment(**{**given, "autoescape": False})),
    cimd_pinned={CIMD_URL: {**CIMD_DOCUMENT, "client_name": "<img src=x onerror=alert(1)>"}},
)
async def markup(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        return "<img src=x" in (await browser.sign_in(await browser.open(authorize_query()))).text


_environment = pages_room.jinja2.Environment


@case(
    "ui_04 a name that turns the direction of reading round",
    patched(consent_page, "clean_name", lambda text: text),
    cimd_pinned={CIMD_URL: {**CIMD_DOCUMENT, "client_name": "Bank\u202eevil"}},
)
async def bidi(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        return "\u202e" in (await browser.sign_in(await browser.open(authorize_query()))).text


@case("ui_05 a page that anybody frames", patched(web, "SCRIPTED_PAGE_HEADERS", ((b"content-type", b"text/html"),)))
async def framed(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        headers = (await browser.sign_in(await browser.open(authorize_query()))).headers
    policy = headers.get("content-security-policy", "")
    return "frame-ancestors 'none'" not in policy and headers.get("x-frame-options") != "DENY"


@case("ui_07 a form rendered for one person, sent by another", patched(authorize, "_purpose", lambda t, *_: t.txn_id))
async def another_person(door: Door) -> bool:
    await door.user()
    await door.user("eve")
    async with door.http() as http:
        browser = Browser(http)
        login = await browser.open(authorize_query())
        page = await browser.sign_in(login)
        await browser.sign_in(login, name="eve")
        return (await browser.approve(page)).status_code == 303


@case(
    "ui_09 a permission that was unticked",
    patched(authorize, "chosen", lambda _form, scopes, details: (scopes, details)),
)
async def unticked(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(scope="time:read time:write")))
        values = {k: v for k, v in inputs_of(page.text).items() if k != "scope.1"}
        code = callback_of(await browser.post("/consent", {**values, "decision": "approve"}))["code"]
        return "time:write" in (await redeem(http, code)).json()["scope"]


@case("as_13 another origin reads the pages", patched(serve, "OPEN_TO_BROWSERS", ("/",)))
async def cross_origin(door: Door) -> bool:
    async with door.http() as http:
        asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        replies = [await http.options(path, headers=asking) for path in ("/authorize", "/login", "/consent", "/device")]
    return any("access-control-allow-origin" in reply.headers and reply.status_code == 204 for reply in replies)


def _repeating(location: str, *, headers: Any = (), plain: Any = web.redirect_reply) -> Any:
    reply = plain(location, headers=headers)
    return type(reply)(307, reply.headers, reply.body)


@case("as_14 a password that the browser posts once more", patched(sign_in, "redirect_reply", _repeating))
async def posted_again(door: Door) -> bool:
    """A browser follows the answer to the form by itself: 307 has it send the form again, to wherever that leads."""
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        form = {**inputs_of((await browser.open(authorize_query())).text), "username": "ada", "password": PASSWORD}
        http.follow_redirects = True
        last = (await browser.post("/login", form)).request
    return last.method == "POST" and "password" in parse_qs((await last.aread()).decode())


@case("as_16 a session that was there before the sign-in", patched(sessions.LoginSessions, "close", lambda *_: None))
async def fixation(door: Door) -> bool:
    await door.user()
    async with door.http() as http, door.http() as other:
        browser = Browser(http)
        login = await browser.get("/account/grants")
        form = {**inputs_of(login.text), "username": "ada", "password": PASSWORD}
        first = (await browser.post("/login", form)).headers["set-cookie"].partition(";")[0]
        await browser.post("/login", form)
        page = await other.get("/account/grants", headers={"Cookie": first})
        return "Connected programs" in page.text


@case("as_18 a silent request that nobody agreed to", patched(consents.Consents, "covers", lambda *_a, **_k: True))
async def silent(door: Door) -> bool:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.sign_in(await browser.open(authorize_query()))
        return "code" in callback_of(await browser.open(authorize_query(prompt="none")))


@pytest.mark.parametrize("control", ["on", "off"])
@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name.replace(" ", "_"))
async def test_attack_on_the_pages_fails_with_its_control_and_works_without(
    one: Case, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if control == "off":
        one.off(monkeypatch)
    assert await one.attack(make_door(**one.changes)) is (control == "off")
