"""Connecting an account at an upstream in headless Chromium: our pages, another server's pages, and back."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")

from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from firewall.core.errors import FAULTS, ConsentNeeded
from tests.front_door.accessible import PROBLEMS
from tests.support.composed import free_port
from tests.support.door import PASSWORD
from tests.support.mcp import served
from tests.support.upstreams import NAME, make_node, sign_in_to, upstream_server

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(120), pytest.mark.anyio]

WAIT_S = 10
GO = "button[value=approve].guarded"


def sign_in(chrome: WebDriver, name: str) -> None:
    WebDriverWait(chrome, WAIT_S).until(lambda c: c.find_elements(By.ID, "username"))
    chrome.find_element(By.ID, "username").send_keys(name)
    chrome.find_element(By.ID, "password").send_keys(PASSWORD)
    chrome.find_element(By.ID, "password").submit()


def press(chrome: WebDriver, css: str) -> None:
    WebDriverWait(chrome, WAIT_S).until(lambda c: c.find_elements(By.CSS_SELECTOR, css))
    WebDriverWait(chrome, WAIT_S).until(lambda c: c.find_element(By.CSS_SELECTOR, css).is_enabled())
    chrome.find_element(By.CSS_SELECTOR, css).click()


def heading(chrome: WebDriver, text: str) -> None:
    def there(driver: WebDriver) -> bool:
        found = driver.find_elements(By.TAG_NAME, "h1")
        return bool(found) and text in found[0].text

    WebDriverWait(chrome, WAIT_S, ignored_exceptions=[Exception]).until(there)


def connect(chrome: WebDriver, link: str, ours: str, theirs: str) -> list[str]:
    """Go the whole way; return what is wrong with our pages."""
    chrome.get(link)
    sign_in(chrome, "ada")
    heading(chrome, "Connect your account at")
    # A click meant for something else decides nothing; on a busy machine the guard's second may be over by now.
    early, armed = chrome.execute_script(f"return [performance.now() < 900, !document.querySelector('{GO}').disabled]")
    assert not (early and armed)
    assert chrome.switch_to.active_element.get_attribute("value") == "deny"
    wrong = list(chrome.execute_script(PROBLEMS))
    press(chrome, GO)
    WebDriverWait(chrome, WAIT_S).until(lambda c: c.current_url.startswith(theirs))
    sign_in(chrome, "ada-there")
    press(chrome, GO)
    WebDriverWait(chrome, WAIT_S).until(lambda c: c.current_url.startswith(f"{ours}/upstream/callback/files"))
    heading(chrome, "Connected")
    chrome.refresh()  # the code is used: told, and nothing breaks
    heading(chrome, "This cannot go on")
    chrome.get(f"{ours}/account/upstreams")
    heading(chrome, "Connected accounts")
    wrong += chrome.execute_script(PROBLEMS)
    chrome.find_element(By.CSS_SELECTOR, "form[action='/account/upstreams'] button")
    return wrong


async def test_a_person_connects_an_account_in_a_real_browser(chrome: WebDriver) -> None:
    port = free_port()
    # Two names of one computer: cookies do not know ports, and two front doors must not share them.
    async with upstream_server(host="localhost") as upstream:
        node = make_node(origin=f"http://127.0.0.1:{port}", files=sign_in_to(upstream))
        ada = await node.user("ada")
        await upstream.user("ada-there")
        caller = node.caller(ada)
        async with served(node.identity.front_door, port) as origin:
            with pytest.raises(ConsentNeeded) as needed:
                await node.broker.headers_for(caller, NAME)
            chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})
            wrong = await asyncio.to_thread(connect, chrome, needed.value.link, origin, upstream.origin)
            assert wrong == []
            ((_, value),) = await node.broker.headers_for(caller, NAME)
            assert value.startswith(b"Bearer ")
        await node.dialler.close()


def decline(chrome: WebDriver, link: str, theirs: str) -> tuple[list[str], str]:
    """Go there and say no; return what is wrong with our page about it, and its text."""
    chrome.get(link)
    sign_in(chrome, "ada")
    heading(chrome, "Connect your account at")
    press(chrome, GO)
    WebDriverWait(chrome, WAIT_S).until(lambda c: c.current_url.startswith(theirs))
    sign_in(chrome, "ada-there")
    press(chrome, "button[value=deny]")
    heading(chrome, "Not connected")
    return list(chrome.execute_script(PROBLEMS)), chrome.find_element(By.TAG_NAME, "main").text


async def test_a_person_who_declined_reads_who_refused_and_by_which_code(chrome: WebDriver) -> None:
    port = free_port()
    async with upstream_server(host="localhost") as upstream:
        node = make_node(origin=f"http://127.0.0.1:{port}", files=sign_in_to(upstream))
        ada = await node.user("ada")
        await upstream.user("ada-there")
        async with served(node.identity.front_door, port):
            with pytest.raises(ConsentNeeded) as needed:
                await node.broker.headers_for(node.caller(ada), NAME)
            chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})
            wrong, text = await asyncio.to_thread(decline, chrome, needed.value.link, upstream.origin)
        await node.dialler.close()
    assert wrong == []
    for word in (upstream.origin.removeprefix("http://"), "access_denied", FAULTS["upstream_credentials"].text):
        assert word in text
