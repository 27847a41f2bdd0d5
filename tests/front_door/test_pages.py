"""The pages of the front door in headless Chromium: what a browser really does with them.

A real listener with TLS and the edge in front, a client's callback on loopback; nothing is intercepted.
"""

from __future__ import annotations

import base64
import json
import time

import httpx2
import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.front_door.accessible import PROBLEMS
from tests.front_door.pages_house import TV
from tests.front_door.person import ALLOW, DENY, Person, wait
from tests.support.door import CIMD_URL, PASSWORD

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(120)]

# -- the way through ------------------------------------------------------------------------------------------


def test_a_person_signs_in_allows_and_the_program_is_answered(ada: Person) -> None:
    ada.ask()
    text = ada.text("main")
    for shown in ("app.example", "Example Agent", ada.name, "127.0.0.1", "Read from “time”", "any program"):
        assert shown in text
    ada.allow()
    assert ada.answer() == {"code": ada.answer()["code"], "state": "xyz", "iss": ada.home.url}
    # The redirect that follows the form leads to another origin: `form-action` would have stopped it here.
    wait(lambda: ada.chrome.title == "back", "the browser is at the program's page")
    token = ada.token()
    assert token["scope"] == "time:read time:write"


def test_a_person_denies_and_the_program_is_told(ada: Person) -> None:
    ada.ask()
    ada.find(DENY).click()
    assert ada.answer() == {"error": "access_denied", "state": "xyz", "iss": ada.home.url}


def test_ui_09_a_person_unticks_a_permission_and_the_token_lacks_it(ada: Person) -> None:
    ada.ask()
    ada.find("input[value='time:write']").click()
    ada.allow()
    assert ada.token()["scope"] == "time:read"


def test_ui_09_a_connection_is_listed_and_ended(ada: Person) -> None:
    ada.ask()
    ada.allow()
    token = ada.token()["access_token"]
    time_here = f"{ada.home.url}/mcp/time"
    assert ada.home.door.verified(token, time_here).subject == ada.user.subject
    ada.chrome.get(f"{ada.home.url}/account/grants")
    assert "app.example" in ada.text("main") or "Example Agent" in ada.text("main")
    ada.find("button[aria-label^='End the connection']").click()
    wait(lambda: "No program is connected" in ada.text("main"), "the connection is gone")
    with pytest.raises(Exception, match="token_invalid"):
        ada.home.door.verified(token, time_here)
    assert not ada.has("button[aria-label^='Forget']")


def test_a_wrong_password_is_said_in_a_summary_that_leads_to_the_field(ada: Person) -> None:
    ada.chrome.get(ada.home.authorize(CIMD_URL))
    ada.sign_in(password="not the password")
    assert ada.chrome.title.startswith("Error: ")
    assert ada.find("[role=alert]").is_displayed()
    ada.find("[role=alert] a").click()
    assert ada.script("return document.activeElement.id") == "username"
    assert ada.script(PROBLEMS) == []
    ada.sign_in()
    assert ada.has(ALLOW)


# -- deciding on purpose ---------------------------------------------------------------------------------------------


def test_ui_08_deny_has_the_focus_and_allow_sleeps_for_a_second(ada: Person) -> None:
    ada.ask()
    began = time.monotonic()
    wait(lambda: bool(ada.script("return document.activeElement.value") == "deny"), "Deny has the focus")
    assert not ada.find(ALLOW).is_enabled()
    ada.script("document.querySelector(arguments[0]).click()", ALLOW)  # as a click that was meant for something else
    wait(lambda: ada.find(ALLOW).is_enabled(), "Allow becomes usable")
    assert time.monotonic() - began > 0.7  # what passed before the first look is not counted
    shown_ms = ada.script(
        "return performance.now() - performance.timing.responseStart + performance.timing.navigationStart"
    )
    assert shown_ms > 1000
    assert ada.has(ALLOW)
    assert ada.home.client.queries == []


def test_ui_08_allow_sleeps_again_when_the_page_gets_the_focus_back(ada: Person) -> None:
    ada.ask()
    wait(lambda: ada.find(ALLOW).is_enabled(), "Allow becomes usable")
    here = ada.chrome.current_window_handle
    ada.chrome.switch_to.new_window("tab")
    ada.chrome.get(ada.home.client.url)
    ada.chrome.close()
    ada.chrome.switch_to.window(here)
    ada.script(
        """
        window.seen = [];
        const button = document.querySelector(arguments[0]);
        dispatchEvent(new Event("blur")); seen.push(button.disabled);
        dispatchEvent(new Event("focus")); seen.push(button.disabled); const since = performance.now();
        new MutationObserver(() => seen.push(performance.now() - since)).observe(button, {attributes: true});
        """,
        ALLOW,
    )
    wait(lambda: ada.find(ALLOW).is_enabled(), "Allow becomes usable again")
    gone, back, after_ms = ada.script("return window.seen")
    assert (gone, back) == (True, True)
    assert after_ms >= 990


@pytest.mark.parametrize("control", ["on", "off"])
def test_ui_08_a_second_click_of_a_double_click_decides_nothing(
    ada: Person, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of the attacker's opens ours under the pointer between the two clicks."""
    if control == "off":
        hasty = b"document.querySelectorAll('button.guarded').forEach((button) => { button.disabled = false; });"
        monkeypatch.setattr(ada.home.door.identity.pages, "consent_script", hasty)
    ada.ask()
    place = ada.script(
        "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.x, r.y]", ALLOW
    )
    consent = ada.chrome.current_url
    lure = f"<!doctype html><title>lure</title><body onclick=\"location.href='{consent}'\"></body>"
    ada.chrome.get(ada.home.client.page("/lure", lure.replace("<body", "<body style='height:100vh;margin:0'")))
    action = ActionChains(ada.chrome, duration=10).move_by_offset(int(place[0]) + 8, int(place[1]) + 8)
    action.click().pause(0.4).click().pause(0.1).click().perform()
    ActionChains(ada.chrome, duration=10).move_by_offset(-int(place[0]) - 8, -int(place[1]) - 8).perform()
    wait(lambda: ada.has(ALLOW) or bool(ada.home.client.queries), "the page or the answer")
    assert ("code" in ada.answer()) if control == "off" else (ada.home.client.queries == [])


def test_ui_08_without_scripts_a_box_must_be_ticked_first(ada: Person) -> None:
    ada.ask()
    consent = ada.chrome.current_url
    ada.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        ada.chrome.get(consent)
        plain = "button[value=approve].arm"
        assert not ada.find(ALLOW).is_displayed()
        wait(lambda: ada.find(plain).is_displayed(), "the plain Allow appears")
        ada.find(plain).click()
        time.sleep(0.1)
        assert ada.home.client.queries == []
        ada.find("input[name=sure]").click()
        ada.find(plain).click()
        assert "code" in ada.answer()
        ada.ask(scope="time:write", resource=f"{ada.home.url}/mcp/time", prompt="consent")
        ada.find(DENY).click()
        wait(lambda: len(ada.home.client.queries) == 2, "denying needs no box")
        assert ada.answer()["error"] == "access_denied"
    finally:
        ada.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# -- keyboards and readers -----------------------------------------------------------------------------------------------


def test_the_whole_way_goes_by_keyboard_alone(ada: Person) -> None:
    ada.chrome.get(ada.home.authorize(CIMD_URL))
    keys = ActionChains(ada.chrome, duration=10)
    keys.send_keys(ada.name, Keys.TAB, PASSWORD, Keys.ENTER).perform()
    wait(lambda: ada.has(ALLOW) and ada.find(ALLOW).is_enabled(), "Allow becomes usable")
    where = "const e = document.activeElement; return e.value || e.name || e.getAttribute('href')"
    assert ada.script(where) == "deny"
    for passed in ("/account/grants", "time:write"):
        back = ActionChains(ada.chrome, duration=10).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT)
        back.perform()
        assert ada.script(where) == passed
    ActionChains(ada.chrome, duration=10).send_keys(Keys.SPACE).perform()
    seen = []
    for _ in range(3):
        ActionChains(ada.chrome, duration=10).send_keys(Keys.TAB).perform()
        seen.append(ada.script(where))
    assert seen == ["/account/grants", "deny", "approve"]
    outline = ada.script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    ActionChains(ada.chrome, duration=10).send_keys(Keys.ENTER).perform()
    assert ada.token()["scope"] == "time:read"


def test_ui_08_an_enter_that_was_meant_for_something_else_denies(ada: Person) -> None:
    ada.ask()
    ActionChains(ada.chrome, duration=10).send_keys(Keys.ENTER).perform()
    assert ada.answer()["error"] == "access_denied"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_labelled_ordered_and_readable(ada: Person, scheme: str) -> None:
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    ada.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    detail = {"type": "mcp_tool", "locations": [f"{ada.home.url}/mcp/time"], "actions": ["call"], "tools": ["now"]}
    try:
        ada.chrome.get(ada.home.authorize(CIMD_URL))
        problems = {"login": ada.script(PROBLEMS)}
        ada.sign_in(password="wrong")
        problems["login, wrong"] = ada.script(PROBLEMS)
        ada.ask(authorization_details=json.dumps([detail]))
        wait(lambda: ada.find(ALLOW).is_enabled(), "Allow becomes usable")
        problems["consent"] = ada.script(PROBLEMS)
        ada.allow()
        ada.token()
        for name, path in (
            ("grants", "/account/grants"),
            ("second factor", "/account/security"),
            ("device", "/device"),
            ("message", "/consent"),
        ):
            ada.chrome.get(f"{ada.home.url}{path}")
            problems[name] = ada.script(PROBLEMS)
        ada.find("main")
    finally:
        ada.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert {name: found for name, found in problems.items() if found} == {}


def test_pages_fit_a_narrow_window_at_twice_the_size_of_letters(ada: Person) -> None:
    size = {"width": 320, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    ada.ask()
    ada.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        ada.script("document.documentElement.style.fontSize = '200%'")
        wide = ada.script("return [document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    finally:
        ada.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide[0] <= wide[1]


# -- devices and second factors --------------------------------------------------------------------------------------------


def test_a_person_connects_a_device_by_typing_what_it_shows(ada: Person) -> None:
    with httpx2.Client(base_url=ada.home.url, verify=False) as http:
        asked = http.post(
            "/device_authorization", data={"client_id": TV.client_id, "resource": f"{ada.home.url}/mcp/time"}
        ).json()
        ada.chrome.get(f"{asked['verification_uri']}?user_code={asked['user_code']}")
        ada.sign_in()
        ada.chrome.get(f"{asked['verification_uri']}?user_code={asked['user_code']}")
        field = ada.find("#user_code")
        assert field.get_attribute("value") == ""
        field.send_keys("BCDF-GHJK", Keys.ENTER)
        assert "is not known" in ada.text("[role=alert]")
        ada.find("#user_code").send_keys(asked["user_code"].lower(), Keys.ENTER)
        assert asked["user_code"] in ada.text("main")
        assert "device" in ada.text("h1")
        wait(lambda: ada.find(ALLOW).is_enabled(), "Allow becomes usable")
        assert ada.script(PROBLEMS) == []
        ada.find(ALLOW).click()
        wait(lambda: "Connected" in ada.chrome.title, "the device is connected")
        form = {"grant_type": TV.grant_types[0], "device_code": asked["device_code"], "client_id": TV.client_id}
        assert http.post("/token", data=form).json()["scope"] == "time:read"


def test_a_person_without_a_second_factor_is_led_to_one_and_on_to_the_program(ada: Person) -> None:
    clock = ada.home.door.clock
    ada.ask(acr_values="mfa")
    wait(lambda: "A second factor is needed" in ada.chrome.title, "what is missing is said")
    assert ada.script(PROBLEMS) == []
    ada.find("button[value=show]").click()
    wait(lambda: ada.has("code.code"), "the key is shown")
    assert ada.script(PROBLEMS) == []
    generator = HOTP(base64.b32decode(ada.text("code.code").replace(" ", "")), 6, SHA1())
    ada.find("#password").send_keys(PASSWORD)
    ada.find("#code").send_keys(generator.generate(clock.now_us() // 30_000_000).decode(), Keys.ENTER)
    wait(lambda: "Sign in again" in ada.text("main"), "the new factor is asked for")
    clock.advance(30)
    ada.sign_in()
    ada.find("#code").send_keys(generator.generate(clock.now_us() // 30_000_000).decode(), Keys.ENTER)
    wait(lambda: ada.has(ALLOW), "the consent page")
    ada.allow()


def test_as_24_of_several_requests_under_way_the_person_says_which_one_a_bare_address_means(ada: Person) -> None:
    ada.ask(state="one")
    wait(lambda: ada.has(ALLOW), "the consent page")
    ada.chrome.get(f"{ada.home.url}/consent")  # as a reload: the way through the pages left no id in any address
    wait(lambda: ada.has(ALLOW), "the same request")
    ada.chrome.get(ada.home.authorize(CIMD_URL, state="two"))
    wait(lambda: ada.has(ALLOW), "another one")
    ada.chrome.get(f"{ada.home.url}/consent")
    wait(lambda: len(ada.chrome.find_elements(By.CSS_SELECTOR, "button[value=show]")) == 2, "both are there")
    assert ada.script(PROBLEMS) == []
    ada.find("button[value=show]").click()
    wait(lambda: ada.has(ALLOW), "the consent page")
    assert ada.chrome.current_url == f"{ada.home.url}/consent"
    ada.allow()
    assert ada.answer()["state"] == "one"


def test_a_person_adds_a_second_factor_and_is_asked_for_it(ada: Person) -> None:
    clock = ada.home.door.clock

    def code(secret: bytes) -> str:
        return HOTP(secret, 6, SHA1()).generate(clock.now_us() // 1_000_000 // 30).decode()

    ada.chrome.get(f"{ada.home.url}/account/security")
    ada.sign_in()
    secret = base64.b32decode(ada.text("code.code").replace(" ", ""))
    ada.find("#password").send_keys(PASSWORD)
    ada.find("#code").send_keys(code(secret), Keys.ENTER)
    wait(lambda: "confirms your sign-ins" in ada.text("main"), "the factor is there")
    clock.advance(30)
    ada.chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})
    ada.ask(acr_values="mfa")
    wait(lambda: bool(ada.script("return document.activeElement.id") == "code"), "the field has the focus")
    ada.find("#code").send_keys("000000", Keys.ENTER)
    wait(lambda: ada.has("[role=alert]"), "the error is said")
    assert ada.script(PROBLEMS) == []
    ada.find("#code").send_keys(code(secret), Keys.ENTER)
    wait(lambda: ada.has(ALLOW), "the consent page")
    ada.allow()
    token = ada.token()["access_token"]
    assert ada.home.door.verified(token, f"{ada.home.url}/mcp/time").acr == "mfa"
