"""Signing in at a real OpenID provider in headless Chromium: cookies, redirects and pages across two sites.

The front door is https://localhost, the provider http://127.0.0.1: to a browser these are different sites, so
what SameSite and Sec-Fetch-Site do is what they do in the world.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")

from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from firewall.identity.oidc.build import ProvidersGiven
from firewall.identity.oidc.secret import secret_reader
from firewall.identity.oidc.settings import ProviderSettings
from firewall.net.dial import Dialler
from firewall.net.runtime import SystemClock
from tests.front_door.openid_provider import OpenIDProvider, running
from tests.front_door.pages_house import Callback, House, house
from tests.front_door.person import ALLOW, wait
from tests.support.composed import free_port
from tests.support.door import CIMD_URL, inputs_of

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(180)]

SECRET = "a-secret-of-forty-characters-or-more-than-that"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, client: Callback) -> Iterator[tuple[House, OpenIDProvider]]:
    port = free_port()
    url = f"https://localhost:{port}"
    known = {
        "client_id": "bartizan",
        "client_secret": SECRET,
        "redirect_uris": [f"{url}/callback/corp"],
        "post_logout_redirect_uris": [f"{url}/account/grants"],
    }
    with running([known], {"ada": {"name": "Ada L.", "groups": ["agents"]}}) as provider:
        corp = ProviderSettings(
            name="corp",
            issuer=provider.issuer,
            client_id="bartizan",
            title="Acme",
            secret="env:SECRET",
            scopes=("openid", "profile", "groups"),
            roles={"agents": ("dev",)},
            scopes_of={"agents": ("time:*",)},
            tenant="acme",
            network="loopback",
        )
        dialler = Dialler(SystemClock())
        given = ProvidersGiven((corp,), dialler, secret_reader({"SECRET": SECRET}))
        folder: Path = tmp_path_factory.mktemp("elsewhere")
        with house(folder, client, {CIMD_URL: "Example Agent"}, port=port, idps=given) as home:
            home.door.clock.advance(time.time() - home.door.clock.now_us() / 1_000_000)
            yield home, provider
            home.run(dialler.close())


@pytest.fixture
def fresh(chrome: WebDriver, client: Callback) -> WebDriver:
    chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})
    client.queries.clear()
    return chrome


def text(chrome: WebDriver) -> str:
    return str(chrome.find_element(By.TAG_NAME, "body").text)


def click(chrome: WebDriver, css: str) -> None:
    wait(lambda: chrome.find_element(By.CSS_SELECTOR, css).is_enabled(), css)
    chrome.find_element(By.CSS_SELECTOR, css).click()


def at_the_provider(chrome: WebDriver, provider: OpenIDProvider) -> None:
    """Fill in the provider's two pages: name and password, then its own consent."""
    wait(lambda: chrome.current_url.startswith(provider.issuer), "the provider's page")
    wait(lambda: bool(chrome.find_elements(By.NAME, "login")), "its sign-in form")
    chrome.find_element(By.NAME, "login").send_keys("ada")
    chrome.find_element(By.NAME, "password").send_keys("anything")
    click(chrome, "button[type=submit]")
    wait(lambda: "Continue" in text(chrome) and not chrome.find_elements(By.NAME, "login"), "its consent")
    click(chrome, "button[type=submit]")


def test_a_person_goes_to_the_provider_and_comes_back_to_our_consent_page(
    scene: tuple[House, OpenIDProvider], fresh: WebDriver
) -> None:
    home, provider = scene
    fresh.get(home.authorize(CIMD_URL))
    assert "app.example" in text(fresh)
    click(fresh, "form[action='/login/corp'] button")
    at_the_provider(fresh, provider)
    wait(lambda: "Ada L. (Acme)" in text(fresh), "our consent page")
    assert fresh.current_url.startswith(f"{home.url}/consent")
    names = {cookie["name"] for cookie in fresh.get_cookies()}
    assert "__Host-bz_session" in names
    assert not any("bz_idp_" in name and name != "__Host-bz_idp_out" for name in names)  # the way's own cookie is gone
    click(fresh, ALLOW)
    wait(lambda: bool(home.client.queries), "the client is answered")
    assert set(home.client.queries[-1]) == {"code", "state", "iss"}


def test_ui_07_a_link_to_the_provider_that_somebody_else_began_signs_nobody_in(
    scene: tuple[House, OpenIDProvider], fresh: WebDriver
) -> None:
    """The attacker presses our button, and sends the victim to the provider's page with the attacker's state."""
    home, provider = scene
    with httpx2.Client(verify=False, base_url=home.url) as attacker:
        page = attacker.get(home.authorize(CIMD_URL), headers={"Sec-Fetch-Site": "none"})
        own = {"Origin": home.url, "Sec-Fetch-Site": "same-origin"}
        trap = attacker.post("/login/corp", data=inputs_of(page.text), headers=own).headers["location"]
    fresh.get(trap)
    at_the_provider(fresh, provider)
    wait(lambda: "another browser" in text(fresh), "our refusal")
    assert not [cookie for cookie in fresh.get_cookies() if "bz_session" in cookie["name"]]
    assert not home.client.queries


def test_as_17_a_callback_that_nobody_began_here_changes_nothing(
    scene: tuple[House, OpenIDProvider], fresh: WebDriver
) -> None:
    home, provider = scene
    fresh.get(f"{home.url}/account/grants")
    click(fresh, "form[action='/login/corp'] button")
    at_the_provider(fresh, provider)
    wait(lambda: "Ada L. (Acme)" in text(fresh), "our own page")
    fresh.get(f"{home.url}/callback/corp?code=x&state={'A' * 43}&iss={provider.issuer}")
    assert "another browser" in text(fresh)
    fresh.get(f"{home.url}/account/grants")
    assert "Ada L. (Acme)" in text(fresh)  # and whoever is signed in stays so


def test_signing_out_leads_over_the_providers_page_back_to_ours(
    scene: tuple[House, OpenIDProvider], fresh: WebDriver
) -> None:
    home, provider = scene
    fresh.get(f"{home.url}/account/grants")
    click(fresh, "form[action='/login/corp'] button")
    at_the_provider(fresh, provider)
    wait(lambda: "Ada L. (Acme)" in text(fresh), "our own page")
    click(fresh, "form[action='/logout'] button")
    wait(lambda: fresh.current_url.startswith(f"{provider.issuer}/session/end"), "the provider asks")
    click(fresh, "button[value=yes]")
    wait(lambda: fresh.current_url == f"{home.url}/account/grants", "back at our page")
    assert "Continue with Acme" in text(fresh)
