"""A whole firewall with tools behind it, a person with an account, and their browser, for clients that other people wrote."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from firewall.net.runtime import SystemClock
from tests.front_door.openid_provider import OpenIDProvider
from tests.front_door.person import ALLOW
from tests.support.composed import Composed, composed, settings
from tests.support.door import CIMD_DOCUMENT, CIMD_URL, PASSWORD
from tests.support.world import ECHO, World, tool, world

NAME = "ada"
WITHIN_S = 20.0
TOOLS = [ECHO, tool("put", "text")]
EFFECTS = {"echo": "read", "put": "write"}
REDIRECTS = ("http://127.0.0.1/callback", "http://localhost/callback")


@dataclass
class Visit:
    """A firewall, the person's browser, and what was done in it: one list per login."""

    wall: Composed
    upstreams: World
    chrome: WebDriver
    walks: list[list[str]] = field(default_factory=list)

    @property
    def server(self) -> str:
        """The protected MCP server, as a client is told to use it."""
        return f"{self.wall.url}/mcp/demo"

    async def agree(self, url: str, *, elsewhere: Callable[[WebDriver], bool] | None = None) -> str:
        """Open what a client asks to be opened; sign in and allow where that is asked; return where it ends.

        elsewhere: acts on a page that is not the firewall's, and returns whether it did.
        """
        return await asyncio.to_thread(self._agree, url, elsewhere)

    def _agree(self, url: str, elsewhere: Callable[[WebDriver], bool] | None) -> str:
        walked: list[str] = []
        self.walks.append(walked)
        self._get(url)
        return self.walk(elsewhere)

    def walk(self, elsewhere: Callable[[WebDriver], bool] | None = None) -> str:
        """Go on from the page that is open until the browser is back at the client; return that address."""
        walked = self.walks[-1]
        until = time.monotonic() + WITHIN_S
        while time.monotonic() < until:
            with contextlib.suppress(NoSuchElementException, StaleElementReferenceException):
                here = self.chrome.current_url
                if not here.startswith(self.wall.url):
                    if elsewhere is None or not elsewhere(self.chrome):
                        if elsewhere is None or "code=" in here or "error=" in here:
                            return here
                elif done := self._act():
                    walked.append(done)
            time.sleep(0.03)
        raise AssertionError(f"the pages lead nowhere: {walked} then {self.chrome.current_url}: {self.text()[:600]}")

    def _act(self) -> str:
        if self.chrome.find_elements(By.ID, "password"):
            self.chrome.find_element(By.ID, "username").send_keys(NAME)
            self.chrome.find_element(By.ID, "password").send_keys(PASSWORD)
            self.chrome.find_element(By.ID, "password").submit()
            return "password"
        away = self.chrome.find_elements(By.CSS_SELECTOR, "form[action^='/login/'] button")
        if away:
            away[0].click()
            return "provider"
        allow = self.chrome.find_elements(By.CSS_SELECTOR, ALLOW)
        if allow and allow[0].is_enabled():
            allow[0].click()
            return "allow"
        return ""

    def _get(self, url: str) -> None:
        # A client's callback may answer and be gone before the browser is content with it.
        with contextlib.suppress(WebDriverException):
            self.chrome.get(url)

    def text(self) -> str:
        """Return what the open page says."""
        return str(self.chrome.find_element(By.TAG_NAME, "body").text)

    async def end_connections(self) -> None:
        """Be the person who ends every connection on their own page: each login of a client made one."""
        await asyncio.to_thread(self._end_connections)

    def _end_connections(self) -> None:
        self._get(f"{self.wall.url}/account/grants")
        until = time.monotonic() + WITHIN_S
        while "No program is connected" not in self.text():
            assert time.monotonic() < until, self.text()
            with contextlib.suppress(NoSuchElementException, StaleElementReferenceException):
                self.chrome.find_element(By.CSS_SELECTOR, "button[aria-label^='End the connection']").click()
            time.sleep(0.03)


@contextlib.asynccontextmanager
async def visit(
    state: Path,
    chrome: WebDriver,
    *,
    port: int = 0,
    people: bool = True,
    behind: World | None = None,
    pages: tuple[str, ...] = (),
    **identity: Any,
) -> AsyncIterator[Visit]:
    """Run a firewall whose door knows one person and every kind of client.

    port: where it listens, 0 for anywhere. people: whether to make an account with a password. behind: its upstreams,
    if they are there already. pages: origins of pages that are clients. identity: changes of that section.
    """
    async with contextlib.nullcontext(behind) if behind else world() as upstreams:
        demo = {"url": upstreams.add_mcp("demo", tools=TOOLS), "network": "loopback", "tools": EFFECTS}
        config = settings(state, mcp={"demo": {**demo, "trust": "trusted"}})
        config["mcp_origins"] = list(pages)
        if port:
            config["public_url"] = f"http://127.0.0.1:{port}"
            config["listeners"]["data"]["port"] = port
        clients = {**config["identity"]["clients"], "desk": {"name": "Desk", "redirect_uris": list(REDIRECTS)}}
        pinned = {CIMD_URL: dict(CIMD_DOCUMENT)}
        given = {"clients": clients, "cimd": {"hosts": ["app.example"], "pinned": pinned}, "registration": "on"}
        config["identity"] = {**given, **identity}
        async with composed(config) as wall:
            if people:
                await wall.worker.identity.users.create(NAME, PASSWORD, tenant="default", scopes=("*",))
            await asyncio.to_thread(chrome.execute_cdp_cmd, "Network.clearBrowserCookies", {})
            yield Visit(wall, upstreams, chrome)


class AtTheProvider:
    """Does what a person does on the pages of the OpenID provider: name and password, then its own consent."""

    def __init__(self, provider: OpenIDProvider) -> None:
        self._issuer = provider.issuer
        self.did: list[str] = []

    def __call__(self, chrome: WebDriver) -> bool:
        if not chrome.current_url.startswith(self._issuer):
            return False
        if names := chrome.find_elements(By.NAME, "login"):
            names[0].send_keys(NAME)
            chrome.find_element(By.NAME, "password").send_keys("anything")
            self.did.append("sign in")
        elif "Continue" in chrome.find_element(By.TAG_NAME, "body").text:
            self.did.append("consent")
        else:
            return True
        chrome.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        return True


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Let the wall clocks of this process, the firewall's and a Python client's, be later than they are."""
    now, now_us = time.time, SystemClock.now_us
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    monkeypatch.setattr(SystemClock, "now_us", lambda self: now_us(self) + seconds * 1_000_000)
