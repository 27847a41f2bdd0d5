"""Attacks on the pages of the front door in headless Chromium: what other sites, names and addresses make a browser do."""

from __future__ import annotations

import base64
import time
from typing import Any

import pytest

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")

from selenium.common.exceptions import NoSuchElementException, NoSuchFrameException
from selenium.webdriver.common.by import By

from firewall.identity.cimd.images import parse_picture
from firewall.wire import oauth
from tests.front_door.accessible import XSS
from tests.front_door.pages_house import chromium
from tests.front_door.person import ALLOW, Person, wait
from tests.support.door import CIMD_URL, PASSWORD

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(120)]


# -- scripts, frames, cookies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(XSS)))
def test_ui_04_no_name_of_a_client_becomes_more_than_text(ada: Person, at: int) -> None:
    ada.ask(f"https://app.example/x{at}.json")
    assert ada.script("return window.pwned") is None
    assert "app.example" in ada.text("h1")
    assert not ada.has("main img, main iframe, main style, main svg, main base, main script")
    assert ada.script("return document.scripts.length") == 1
    assert ada.script("return document.forms.length") == 1
    assert len(ada.text("h1 + p")) < 100
    assert "\u202e" not in ada.chrome.page_source
    assert ada.script("return getComputedStyle(document.querySelector('main')).display") == "block"


def test_ui_04_a_look_alike_is_marked(ada: Person) -> None:
    ada.ask(f"https://app.example/x{len(XSS) - 1}.json")
    assert "mixes alphabets" in ada.text("main")


INJECT = """
const done = [];
addEventListener("securitypolicyviolation", (event) => done.push(event.effectiveDirective));
try { const s = document.createElement("script"); s.textContent = "window.pwned = 1"; document.body.append(s); }
catch (error) { done.push(error.name); }
try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.pwned = 2'>"); }
catch (error) { done.push(error.name); }
// Later: what the driver itself evaluates is exempt from the policy while it runs.
setTimeout(() => { try { window.eval("window.pwned = 3"); } catch (error) { done.push(error.name); } }, 20);
return new Promise((ready) => setTimeout(() => ready([window.pwned === undefined, done]), 150));
"""


@pytest.mark.parametrize("page", ["login", "consent", "other"])
def test_ui_05_the_policy_stops_inline_script_and_eval(ada: Person, page: str) -> None:
    """The same injection works on a page without the policy: it is the policy that stops it."""
    if page == "other":
        ada.chrome.get(ada.home.client.page("/plain", "<!doctype html><title>plain</title><body></body>"))
    else:
        ada.chrome.get(ada.home.authorize(CIMD_URL))
        if page == "consent":
            ada.sign_in()
            assert ada.has(ALLOW)
    untouched, said = ada.script(INJECT)
    assert untouched is (page != "other")
    if page != "other":
        assert said
    assert (page == "other") is (said == [])


def test_ui_05_a_page_cannot_be_framed(ada: Person) -> None:
    ada.ask()
    inside = ada.chrome.current_url
    mine = ada.home.client.page("/mine", "<!doctype html><title>mine</title><p id=own>mine</p>")
    for framed, wanted in ((inside, False), (f"{ada.home.url}/account/grants", False), (mine, True)):
        outer = ada.home.client.page("/outer", f"<!doctype html><title>outer</title><iframe src='{framed}'></iframe>")
        ada.chrome.get(outer)
        ada.chrome.switch_to.frame(0)
        try:
            seen = bool(ada.chrome.find_elements(By.CSS_SELECTOR, "form, #own"))
        except (NoSuchElementException, NoSuchFrameException):
            seen = False
        finally:
            ada.chrome.switch_to.default_content()
        assert seen is wanted, framed


def test_as_16_cookies_are_for_this_host_for_tls_and_for_no_script(ada: Person) -> None:
    ada.ask()
    cookies = ada.chrome.get_cookies()
    assert {cookie["name"][:14] for cookie in cookies} == {"__Host-bz_sess", "__Host-bz_txn_"}
    for cookie in cookies:
        assert cookie["secure"]
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Lax"
        assert cookie["path"] == "/"
        assert cookie["domain"] == "localhost"
    assert ada.script("return document.cookie") == ""


def test_as_13_another_origin_reads_nothing_of_the_pages(ada: Person) -> None:
    ada.ask()
    ada.chrome.get(ada.home.client.page("/reader", "<!doctype html><title>reader</title>"))
    reading = """
    const tried = await Promise.allSettled(arguments[0].map((url) => fetch(url, {credentials: "include"})));
    return tried.map((one) => one.status);
    """
    pages = [f"{ada.home.url}/account/grants", ada.home.authorize(CIMD_URL)]
    assert ada.script(reading, pages) == ["rejected", "rejected"]
    open_ones = [f"{ada.home.url}/.well-known/jwks.json"]
    assert ada.script(reading.replace(', {credentials: "include"}', ""), open_ones) == ["fulfilled"]


# -- other browsers and other sites --------------------------------------------------------------------------


def test_ui_06_reloading_prefetching_and_going_back_keep_the_page_working(ada: Person) -> None:
    ada.ask()
    consent = ada.chrome.current_url
    ada.chrome.refresh()
    ada.chrome.get(consent)  # as a prefetch or a second tab would
    here = ada.chrome.current_window_handle
    ada.chrome.switch_to.new_window("tab")
    ada.chrome.get(consent)
    assert ada.has(ALLOW)
    ada.chrome.close()
    ada.chrome.switch_to.window(here)
    ada.chrome.get(f"{ada.home.url}/account/grants")
    ada.chrome.back()
    ada.allow()
    assert "code" in ada.answer()
    # Once decided it is over: nothing that is still open can decide again.
    ada.chrome.get(consent)
    assert "has ended" in ada.text("main")


def test_as_15_another_browser_cannot_finish_what_this_one_began(ada: Person, tmp_path: Any) -> None:
    ada.ask()
    consent = ada.chrome.current_url
    with chromium(tmp_path / "other") as chrome:
        eve = Person.__new__(Person)
        eve.home, eve.chrome, eve.name = ada.home, chrome, ada.name
        chrome.get(f"{ada.home.url}/account/grants")
        eve.sign_in()
        chrome.get(consent)
        assert "started in another browser" in eve.text("main")
        assert not eve.has(ALLOW)
    ada.allow()
    assert "code" in ada.answer()


@pytest.mark.parametrize("way", ["typed", "link"])
def test_ui_02_a_remembered_consent_is_shown_when_another_site_asks(ada: Person, way: str) -> None:
    ada.ask()
    ada.allow()
    ada.answer()
    ada.home.client.queries.clear()
    asked = ada.home.authorize(CIMD_URL)
    if way == "typed":
        ada.chrome.get(asked)
        assert "code" in ada.answer()
        return
    link = f"<!doctype html><title>link</title><a href='{asked.replace('&', '&amp;')}'>go</a>"
    ada.chrome.get(ada.home.client.page("/link", link))
    ada.find("a").click()
    wait(lambda: ada.has(ALLOW), "the page is shown")
    assert ada.home.client.queries == []


# The second and third post ``Origin: null``, as our own pages do (UI-05): `net.own_page` tells them apart.
FORGED = {
    "plain": "<!doctype html><title>forged</title>{form}",
    "without a referer": "<!doctype html><meta name=referrer content=no-referrer><title>forged</title>{form}",
    "a frame without an origin": "<!doctype html><title>forged</title>"
    '<iframe sandbox="allow-forms allow-scripts" srcdoc="{escaped}<script>document.forms[0].submit()</script>"></iframe>',
}


@pytest.mark.parametrize("way", FORGED)
def test_ui_06_a_form_of_another_site_decides_nothing(ada: Person, way: str) -> None:
    ada.ask()
    fields = {
        e.get_attribute("name"): e.get_attribute("value") for e in ada.chrome.find_elements(By.CSS_SELECTOR, "input")
    }
    inputs = "".join(f"<input name='{name}' value='{value}'>" for name, value in fields.items())
    forged = f"<form method=post action='{ada.home.url}/consent'>{inputs}<input name=decision value=approve></form>"
    html = FORGED[way].format(form=forged, escaped=forged.replace('"', "&quot;"))
    ada.chrome.get(ada.home.client.page("/forged", html))
    if "frame" in way:
        time.sleep(0.1)
    else:
        ada.script("document.forms[0].submit()")
        wait(lambda: ada.chrome.current_url.startswith(ada.home.url), "the form was sent")
    time.sleep(0.1)
    assert ada.home.client.queries == []


# -- addresses that a parser and a browser read differently ---------------------------------------------------------

ASTRAY = (
    "{back}@evil.example/",
    "http://127.0.0.1:{port}\\@evil.example/callback",
    "http://127.0.0.1:{port}\\.evil.example/callback",
    "http://127.0.0.1:{port}.evil.example/callback",
    "http://127.0.0.1:{port}/callback/../../evil",
    "http://127.0.0.1:{port}/callback#@evil.example",
    "http://127.0.0.1:{port}/callback?next=//evil.example",
    "http:/\t/evil.example/callback",
    "http:\\\\127.0.0.1:{port}\\callback",
    "http:127.0.0.1:{port}/callback",
    "//127.0.0.1:{port}/callback",
    "\thttp://127.0.0.1:{port}/callback",
    "http://2130706433:{port}/callback",
    "http://0x7f.1:{port}/callback",
    "http://localhost.:{port}/callback",
    "https://evil.example/callback",
    "javascript:window.pwned=1//http://127.0.0.1:{port}/callback",
    "data:text/html,<script>window.pwned=1</script>",
    "view-source:http://127.0.0.1:{port}/callback",
)


@pytest.mark.parametrize("astray", ASTRAY)
@pytest.mark.parametrize("signed_in", [False, True], ids=["stranger", "signed in"])
def test_as_01_and_02_no_spelling_of_an_address_takes_the_browser_elsewhere(
    ada: Person, astray: str, signed_in: bool
) -> None:
    if signed_in:
        ada.ask()
    wrong = astray.format(back=ada.home.client.url, port=ada.home.client.port)
    for prompt in ("", "none"):
        ada.chrome.get(ada.home.authorize(CIMD_URL, redirect_uri=wrong, prompt=prompt))
        assert ada.chrome.current_url.startswith(f"{ada.home.url}/authorize?")
        assert not ada.has("form, main a")
        assert ada.script("return window.pwned") is None
    assert ada.home.client.queries == []


def test_as_02_twin_without_the_match_the_browser_goes_where_it_is_sent(
    ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oauth, "redirect_matches", lambda *_: True)
    there = ada.home.client.page("/elsewhere", "<!doctype html><title>elsewhere</title>")
    ada.chrome.get(ada.home.authorize(CIMD_URL, redirect_uri=there, prompt="none"))
    assert ada.chrome.current_url.startswith(f"{there}?error=login_required")


@pytest.mark.parametrize(
    "to", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:window.pwned=1"]
)
def test_as_01_a_sign_in_that_was_told_to_lead_away_leads_to_our_own_page(ada: Person, to: str) -> None:
    ada.chrome.get(f"{ada.home.url}/account/grants")
    ada.script(
        """
        const field = document.querySelector("input[name=to]") || document.createElement("input");
        field.name = "to"; field.type = "hidden"; field.value = arguments[0]; document.forms[0].append(field);
        """,
        to,
    )
    ada.sign_in()
    wait(lambda: ada.has("main") and not ada.has("#username"), "signed in")
    assert ada.chrome.current_url == f"{ada.home.url}/account/grants"
    assert ada.script("return window.pwned") is None


def test_ui_06_another_site_signs_nobody_in_as_somebody_else(ada: Person) -> None:
    """Whoever is signed in to the attacker's account connects their own programs and accounts to it."""
    ada.home.run(ada.home.door.user(f"eve-{ada.name}"))
    ada.chrome.get(ada.home.authorize(CIMD_URL))
    named = {
        e.get_attribute("name"): e.get_attribute("value") for e in ada.chrome.find_elements(By.CSS_SELECTOR, "input")
    }
    named |= {"username": f"eve-{ada.name}", "password": PASSWORD}
    inputs = "".join(f"<input name='{name}' value='{value}'>" for name, value in named.items())
    form = f"<form method=post action='{ada.home.url}/login'>{inputs}</form>"
    ada.chrome.get(ada.home.client.page("/forged-login", f"<!doctype html><title>forged</title>{form}"))
    ada.script("document.forms[0].submit()")
    wait(lambda: ada.chrome.current_url.startswith(ada.home.url), "the form was sent")
    ada.chrome.get(f"{ada.home.url}/account/grants")
    assert ada.has("#username")


# -- pictures -----------------------------------------------------------------------------------------------------

PAINT = """
const canvas = Object.assign(document.createElement("canvas"), {width: 40, height: 30});
const paint = canvas.getContext("2d");
const shade = paint.createLinearGradient(0, 0, 40, 30);
shade.addColorStop(0, "rgba(200, 20, 90, 1)"); shade.addColorStop(1, "rgba(10, 120, 40, 0.3)");
paint.fillStyle = shade; paint.fillRect(0, 0, 40, 30);
return canvas.toDataURL(arguments[0], arguments[1]);
"""
COMPARE = """
const pixels = async (url) => {
  const image = new Image(); image.src = url; await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
  const paint = canvas.getContext("2d"); paint.drawImage(image, 0, 0);
  return paint.getImageData(0, 0, image.width, image.height).data.join();
};
const [one, two] = await Promise.all([...arguments].map(pixels));
return [one.length > 1000, one === two];
"""


@pytest.mark.parametrize(
    ("kind", "quality"), [("image/png", 1.0), ("image/jpeg", 0.9), ("image/webp", 0.5), ("image/webp", 1.0)]
)
def test_ui_04_what_is_kept_of_a_real_picture_looks_the_same(ada: Person, kind: str, quality: float) -> None:
    ada.chrome.get(ada.home.client.page("/paint", "<!doctype html><title>paint</title>"))
    drawn = ada.script(PAINT, kind, quality)
    data = base64.b64decode(drawn.partition(",")[2])
    kept = parse_picture(data + b"<script>window.pwned = 1</script>")
    assert kept is not None
    assert (kept.kind, b"script" in kept.data) == (kind, False)
    again = f"data:{kind};base64,{base64.b64encode(kept.data).decode()}"
    assert ada.script(COMPARE, drawn, again) == [True, True]
