"""AS-24: a whole walk through the door, and no address in it carries an id but those that a protocol puts there.

Every answer is read for the addresses in it: ``Location``, ``Refresh``, ``href``, ``action``, ``src`` and what JSON
names. Addresses of ours have no query at all. Others' have the parameters of their protocols, named below with the reason
(ADR 0038).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import pytest

from firewall.core.errors import ConsentNeeded
from firewall.identity.people import second_factor, sign_in, transactions
from firewall.identity.web import redirect_reply
from tests.identity.test_device import TV, ask, decided
from tests.identity.test_step_up import ASKING, code_of, offered_secret, with_second
from tests.support.door import (
    PASSWORD,
    RESOURCES,
    Browser,
    authorize_query,
    callback_of,
    inputs_of,
    make_door,
    redeem,
    registered_clients,
)
from tests.support.idp import come_back, corp, leave, make_stage
from tests.support.upstreams import NAME, make_node, people, sign_in_to, upstream_server

ID = re.compile(r"(?<![A-Za-z0-9])[a-z]{1,5}_[0-9A-HJKMNP-TV-Z]{26}(?![0-9A-Za-z])")
# Back to a client (RFC 6749 §4.1.2, RFC 9207): the code, and the client's own state.
TO_CLIENT = {"code", "state", "iss", "error"}
# To somebody else's authorization server or provider (RFC 6749 §4.1.1, RFC 7636, OpenID Connect Core §3.1.2.1): the state
# is 256 random bits, serves once, and opens nothing without the cookie of the browser that began there.
TO_SERVER = {"response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "resource", "prompt", "max_age"}
TO_SERVER |= {"code_challenge", "code_challenge_method", "login_hint", "acr_values"}
# Signing out there (OpenID Connect RP-Initiated Logout 1.0 §2): the provider's own words about the person, no credential.
TO_LEAVE = {"id_token_hint", "client_id", "post_logout_redirect_uri"}
NAMED = (TO_CLIENT, TO_SERVER, TO_LEAVE)


class _Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "action", "formaction", "src")]


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


@dataclass
class Walk:
    """Reads every answer that a browser or program gets from us."""

    origin: str
    urls: list[str] = field(default_factory=list)
    cookies: set[str] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)

    async def saw(self, reply: httpx2.Response) -> None:
        await reply.aread()
        self.pages.add(reply.request.url.path)
        self.urls += [reply.headers[name] for name in ("location", "refresh") if name in reply.headers]
        for cookie in reply.headers.get_list("set-cookie"):
            value = cookie.partition("=")[2].partition(";")[0]
            self.cookies |= {part for part in (value, *value.split(".")) if len(part) > 16}
        kind = reply.headers.get("content-type", "")
        if kind.startswith("text/html"):
            reader = _Addresses()
            reader.feed(reply.text)
            self.urls += reader.found
        elif kind.startswith("application/json"):
            self.urls += [text for text in strings(json.loads(reply.text)) if "://" in text]

    def follow(self, http: httpx2.AsyncClient) -> Browser:
        http.event_hooks = {"response": [self.saw]}
        return Browser(http, self.origin)

    def carrying(self) -> list[str]:
        """Return what is wrong with the addresses that were seen."""
        wrong = []
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme == "otpauth":
                continue  # for the app on this device: nobody is asked for it, and it is no id
            names = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
            ours = not parts.netloc or url.startswith(self.origin)
            held = [part for part in self.cookies if part in url]
            if (names if ours else not any(names <= known for known in NAMED)) or ID.search(url) or held:
                wrong.append(url)
        return wrong


async def walked(walk: Walk) -> None:
    """Sign in by password, second factor and provider; agree for a program and for a device; be raised; sign out."""
    stage = make_stage(
        corp(sign_out=True),
        resources=(ASKING, *RESOURCES[1:]),
        clients=(*registered_clients(), TV),
        device_grant=True,
    )
    door = stage.door
    await door.user()
    async with door.http() as http:
        browser = walk.follow(http)
        for path in ("/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource/mcp/time"):
            await browser.get(path)
        await browser.get("/consent")
        wrong = await browser.open(authorize_query())
        await browser.sign_in(wrong, password="not the password")
        page = await browser.sign_in(await browser.open(authorize_query()))
        await redeem(http, callback_of(await browser.approve(page))["code"])
        page = await browser.open(authorize_query(prompt="consent"))
        callback_of(await browser.approve(page, "deny"))
        # Step-up: the page that says what is missing, the factor, and the same request again.
        page = await browser.sign_in(await browser.open(authorize_query(scope="time:write stepup:mfa")))
        page = await browser.post("/account/security", {**inputs_of(page.text), "do": "show"})
        secret = offered_secret(page)
        values = {**inputs_of(page.text), "password": PASSWORD, "code": code_of(secret, door)}
        page = await browser.get((await browser.post("/account/security", values)).headers["location"])
        door.clock.advance(second_factor.PERIOD_S)
        page = await with_second(browser, page, code_of(secret, door))
        callback_of(await browser.approve(page))
        # Several at once, and one of them loaded again.
        for _ in range(2):
            page = await browser.open(authorize_query(prompt="consent"))
        page = await browser.get("/consent")
        page = await browser.get(
            (await browser.post("/consent", {**inputs_of(page.text), "decision": "show"})).headers["location"]
        )
        callback_of(await browser.approve(page))
        # A device, whose code is typed and stands in no address.
        told = (await ask(http, scope="time:read")).json()
        await decided(browser, told["user_code"])
        for path in ("/account/grants", "/account/security", "/device"):
            await browser.get(path)
    stage.tick()
    async with door.http() as http:
        browser = walk.follow(http)
        away = await leave(browser, await browser.open(authorize_query()))
        back = await come_back(browser, stage.idp.authorize(away.headers["location"]))
        page = await browser.get(back.headers["location"])
        callback_of(await browser.approve(page))
        await browser.post("/logout", inputs_of((await browser.get("/account/grants")).text))


async def test_as_24_no_address_of_a_whole_walk_carries_an_id_but_the_protocols_own() -> None:
    walk = Walk("https://fw.example")
    await walked(walk)
    assert {"/authorize", "/login", "/login/code", "/consent", "/device/decide", "/callback/corp"} <= walk.pages
    assert len(walk.cookies) > 10
    assert len(walk.urls) > 100
    assert walk.carrying() == []


async def test_as_24_twin_a_redirect_that_names_its_transaction_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control off: the redirect that there was before, on every way in."""

    def named(location: str, *, headers: Any = ()) -> Any:
        held = [value.partition(b"bz_onward=")[2].partition(b";")[0].decode() for _, value in headers]
        ids = [text for text in held if text]
        return redirect_reply(f"{location}?txn={ids[0]}" if ids else location, headers=headers)

    monkeypatch.setattr(sign_in, "redirect_reply", named)
    walk = Walk("https://fw.example")
    await walked(walk)
    found = walk.carrying()
    assert found
    assert all(url.startswith("/consent?txn=t_") for url in found)


async def test_as_24_connecting_an_account_names_its_asking_in_the_programs_link_alone() -> None:
    """A program has nothing but an address to lead its person by; from the first page on, forms and a cookie carry it."""
    async with upstream_server() as upstream:
        node = make_node(files=sign_in_to(upstream))
        walk = Walk(node.origin)
        async with people(node, upstream, "ada") as [(ada, ours, _)]:
            ada.ours = walk.follow(ada.ours.http)
            with pytest.raises(ConsentNeeded) as needed:
                await node.broker.headers_for(node.caller(ours), NAME)
            ask_id = needed.value.link.partition("?ask=")[2]
            assert ID.fullmatch(ask_id)
            page = await ada.open(needed.value.link)  # signs in on the way
            assert inputs_of(page.text)["ask"] == ask_id
            sent = await ada.agree(page)
            assert "Connected" in (await ada.ours.get(await ada.allow(sent.headers["location"]))).text
            # What the sign-in interrupted was gone on with, once.
            assert "Connected accounts" in (await ada.ours.get("/account/upstreams")).text
        assert {"/upstream/connect/files", "/upstream/callback/files", "/login"} <= walk.pages
        assert walk.carrying() == []


# -- several tabs of one browser -------------------------------------------------------------------------------


async def both_begun(browser: Browser) -> tuple[httpx2.Response, httpx2.Response]:
    one = await browser.open(authorize_query(state="one"))
    two = await browser.open(authorize_query(client_id="tool", redirect_uri="https://tool.example/cb", state="two"))
    return one, two


async def signed_in_at(browser: Browser, page: httpx2.Response) -> httpx2.Response:
    return await browser.post("/login", {**inputs_of(page.text), "username": "ada", "password": PASSWORD})


async def test_as_24_two_tabs_go_their_ways_one_after_the_other() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        one, two = await both_begun(browser)
        one, two = await browser.sign_in(one), await browser.sign_in(two)
        assert ("app.example" in one.text, "A tool" in two.text) == (True, True)
        assert callback_of(await browser.approve(two))["state"] == "two"
        assert (await browser.approve(one)).status_code == 403  # shown in a session that the second sign-in replaced
        again = await browser.get("/consent")
        assert callback_of(await browser.approve(again))["state"] == "one"


async def test_as_24_two_tabs_at_the_same_moment_lose_nothing() -> None:
    """Both sign-ins are answered before either page is loaded: what is not sure is asked, never guessed."""
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        one, two = await both_begun(browser)
        first, second = await signed_in_at(browser, one), await signed_in_at(browser, two)
        assert first.headers["location"] == second.headers["location"] == "/consent"
        assert "A tool" in (await browser.get("/consent")).text  # the last word of the cookie
        choice = await browser.get("/consent")
        assert ("app.example" in choice.text, "A tool" in choice.text) == (True, True)
        assert 'name="scope' not in choice.text
        forms = re.findall(
            r'name="txn" value="([^"]+)">\n<input type="hidden" name="csrf" value="([^"]+)"', choice.text
        )
        states = []
        for txn, csrf in forms:
            gone_on = await browser.post("/consent", {"txn": txn, "csrf": csrf, "decision": "show"})
            page = await browser.get(gone_on.headers["location"])
            assert inputs_of(page.text)["txn"] == txn
            states.append(callback_of(await browser.approve(page))["state"])
        assert states == ["one", "two"]


async def test_as_24_a_page_that_is_loaded_again_is_the_same_request() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
        again = await browser.get("/consent")
        assert inputs_of(again.text)["txn"] == inputs_of(page.text)["txn"]
        assert callback_of(await browser.approve(again))["state"] == "xyz"
        assert (await browser.get("/consent")).status_code == 403


async def test_as_24_what_an_address_or_a_foreign_cookie_says_chooses_nothing() -> None:
    door = make_door()
    await door.user()
    async with door.http() as mine, door.http() as theirs:
        here, there = Browser(mine), Browser(theirs)
        foreign = inputs_of((await there.open(authorize_query(state="theirs"))).text)["txn"]
        await here.sign_in(await here.open(authorize_query(prompt="consent")))
        page = await here.get(f"/consent?txn={foreign}")
        assert inputs_of(page.text)["txn"] != foreign
        mine.cookies.set("__Host-" + transactions.ONWARD, foreign)
        assert (await here.get("/consent")).status_code == 403
        for csrf in ("", inputs_of(page.text)["csrf"]):
            form = {"txn": inputs_of(page.text)["txn"], "csrf": csrf, "decision": "show"}
            assert (await here.post("/consent", form)).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", ""])
async def test_ui_02_a_page_elsewhere_that_leads_to_the_consent_page_agrees_to_nothing(site: str) -> None:
    """The address is no secret any more: what was agreed before goes on by the person's own doing alone."""
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        begun = await signed_in_at(browser, await browser.open(authorize_query(prompt="login")))
        assert begun.status_code == 303
        page = await http.get("/consent", headers={"Sec-Fetch-Site": site} if site else {})
        assert (page.status_code, 'action="/consent"' in page.text) == (200, True)
