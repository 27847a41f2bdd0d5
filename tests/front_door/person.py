"""Somebody in front of a real browser, and how long they wait."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import httpx2
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement

from tests.front_door.pages_house import House
from tests.support.door import CIMD_URL, PASSWORD, VERIFIER

ALLOW = "button[value=approve].guarded"
DENY = "button[value=deny]"


class Person:
    """Somebody in front of the browser, with an account of their own for each test."""

    def __init__(self, home: House, chrome: WebDriver, name: str) -> None:
        self.home = home
        self.chrome = chrome
        self.name = name
        self.user = home.run(home.door.user(name))
        chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})
        home.client.queries.clear()

    def find(self, css: str) -> WebElement:
        """Return the first element; the page may be one that is only just coming."""
        wait(lambda: self.has(css), css)
        return self.chrome.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """Return an element's text, of whichever page is there when it is read."""
        kept: list[str] = []
        wait(lambda: kept.append(self.find(css).text) is None, f"the text of {css}")
        return kept[-1]

    def has(self, css: str) -> bool:
        return bool(self.chrome.find_elements(By.CSS_SELECTOR, css))

    def sign_in(self, *, password: str = PASSWORD) -> None:
        self.find("#username").send_keys(self.name)
        self.find("#password").send_keys(password)
        self.find("#password").submit()

    def ask(self, client_id: str = CIMD_URL, **changes: str) -> None:
        """Open a client's request and sign in where that is asked."""
        self.chrome.get(self.home.authorize(client_id, **changes))
        if self.has("#username"):
            self.sign_in()

    def script(self, text: str, *args: Any) -> Any:
        return self.chrome.execute_script(text, *args)

    def allow(self) -> None:
        wait(lambda: self.find(ALLOW).is_enabled(), "Allow becomes usable")
        self.find(ALLOW).click()

    def answer(self) -> dict[str, str]:
        wait(lambda: bool(self.home.client.queries), "the client is answered")
        return self.home.client.queries[-1]

    def token(self) -> dict[str, Any]:
        form = {
            "grant_type": "authorization_code",
            "code": self.answer()["code"],
            "redirect_uri": self.home.client.url,
            "client_id": CIMD_URL,
            "code_verifier": VERIFIER,
        }
        with httpx2.Client(verify=False) as http:
            reply: dict[str, Any] = http.post(f"{self.home.url}/token", data=form).json()
        return reply


def wait(true: Callable[[], bool], what: str, *, within_s: float = 20.0) -> None:
    """Wait for what a page will show. within_s: a bound for what never comes, not for how fast it comes."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with contextlib.suppress(NoSuchElementException, StaleElementReferenceException):
            if true():
                return
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s} s: {what}")
