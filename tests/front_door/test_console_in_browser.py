"""The console in headless Chromium: signing in at a real OpenID provider on another site, and two people for one act.

The console is https://localhost, the provider http://127.0.0.1: what ``SameSite=Strict`` and ``form-action`` do to the way
there and back is what they do in the world.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")

from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver

from firewall.admin.parts import AdminSettings
from firewall.identity import records
from firewall.identity.oidc.build import ProvidersGiven
from firewall.identity.oidc.secret import secret_reader
from firewall.identity.oidc.settings import ProviderSettings
from firewall.net.dial import Dialler
from firewall.net.edge import Edge, EdgeSettings
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server, TLSSettings
from tests.admin.rig import TENANT, Room, make_room
from tests.front_door.accessible import PROBLEMS
from tests.front_door.openid_provider import OpenIDProvider, running
from tests.front_door.person import wait
from tests.front_door.test_provider_in_browser import at_the_provider, click, text
from tests.net.certificates import authority
from tests.support.composed import free_port
from tests.support.door import PASSWORD, make_door

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(180)]

SECRET = "a-secret-of-forty-characters-or-more-than-that"
DIGEST = "sha256:" + "1" * 64


@dataclass
class Scene:
    """A console behind its own listener, and a provider on another site."""

    room: Room
    url: str
    loop: asyncio.AbstractEventLoop
    provider: OpenIDProvider

    def run(self, awaited: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaited, self.loop).result(20)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    port = free_port()
    url = f"https://localhost:{port}"
    known = {"client_id": "bartizan", "client_secret": SECRET, "redirect_uris": [f"{url}/callback/corp"]}
    folder: Path = tmp_path_factory.mktemp("console")
    files = authority(folder, "localhost")
    with running([known], {"ada": {"name": "Ada L.", "groups": ["agents"]}}) as provider:
        corp = ProviderSettings(
            name="corp",
            issuer=provider.issuer,
            client_id="bartizan",
            title="Acme",
            secret="env:SECRET",
            scopes=("openid", "profile", "groups"),
            roles={"agents": ("approver",)},
            tenant=TENANT,
            network="loopback",
        )
        dialler = Dialler(SystemClock())
        door = make_door(
            idps=ProvidersGiven((corp,), dialler, secret_reader({"SECRET": SECRET})),
            login_per_minute=10_000,
        )
        door.clock.advance(time.time() - door.clock.now_us() / 1_000_000)
        settings = AdminSettings(four_eyes=frozenset({"pins.approve"}), sign_in_per_minute=10_000)
        ready: Future[tuple[asyncio.AbstractEventLoop, Room]] = Future()
        stop = threading.Event()

        async def serve() -> None:
            tasks = Tasks()
            room = make_room(folder / "state", door, settings=settings)  # here: an engine decides in its own thread
            face = Edge(room.app, EdgeSettings(frozenset({f"localhost:{port}"}), frozenset({url})))
            listener = Listener("admin", "127.0.0.1", port, face, TLSSettings(str(files.cert), str(files.key)))
            server = Server([listener], SystemClock(), tasks)
            await server.start()
            ready.set_result((asyncio.get_running_loop(), room))
            while not stop.is_set():
                await asyncio.sleep(0.05)
            await server.stop(grace_s=0.2)
            await dialler.close()
            await tasks.close()

        thread = threading.Thread(target=lambda: uvloop.run(serve()), daemon=True)
        thread.start()
        loop, room = ready.result(20)
        try:
            yield Scene(room, url, loop, provider)
        finally:
            stop.set()
            thread.join(10)
            room.log.writer.close()


@pytest.fixture
def fresh(chrome: WebDriver) -> WebDriver:
    chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})
    return chrome


def by_password(chrome: WebDriver, scene: Scene, name: str) -> None:
    chrome.get(f"{scene.url}/sign-in")
    chrome.find_element(By.ID, "username").send_keys(name)
    chrome.find_element(By.ID, "password").send_keys(PASSWORD)
    chrome.find_element(By.ID, "password").submit()
    wait(lambda: name in text(chrome) and "Sign out" in text(chrome), "the console")


def by_provider(chrome: WebDriver, scene: Scene) -> None:
    chrome.get(f"{scene.url}/sign-in")
    click(chrome, "form[action='/sign-in/corp'] button")
    at_the_provider(chrome, scene.provider)
    wait(lambda: "Sign out" in text(chrome), "the console")


def age_proofs(scene: Scene) -> None:
    """Let every session's proof of who its person is lie more than five minutes back."""
    sessions = scene.room.door.store.collection("admin_sessions")
    for entry in list(sessions.scan(TENANT)):
        value = records.decode(entry.value)
        value["proved_us"] = records.number(value, "proved_us") - 400_000_000
        sessions.put(TENANT, entry.key, records.encode(value), expires_us=entry.expires_us)


def test_a_person_goes_to_the_provider_and_comes_back_into_the_console(scene: Scene, fresh: WebDriver) -> None:
    by_provider(fresh, scene)
    assert fresh.current_url == f"{scene.url}/"
    assert "approver" in text(fresh)
    cookies = {c["name"]: c for c in fresh.get_cookies()}
    assert set(cookies) == {"__Host-bz_admin"}
    assert cookies["__Host-bz_admin"]["sameSite"] == "Strict"
    assert cookies["__Host-bz_admin"]["httpOnly"]


def test_as_15_a_way_that_somebody_else_began_signs_nobody_in(scene: Scene, fresh: WebDriver) -> None:
    import httpx2

    with httpx2.Client(verify=False, base_url=scene.url) as attacker:
        own = {"Origin": scene.url, "Sec-Fetch-Site": "same-origin"}
        trap = attacker.post("/sign-in/corp", headers=own).headers["location"]
    fresh.get(trap)
    at_the_provider(fresh, scene.provider)
    wait(lambda: "another browser" in text(fresh), "our refusal")
    assert not fresh.get_cookies()


def test_one_person_asks_another_agrees_and_it_is_done(scene: Scene, fresh: WebDriver) -> None:
    users = scene.room.door.identity.users
    for name, role in (("bob", "operator"), ("grace", "approver")):
        scene.run(users.create(name, PASSWORD, tenant=TENANT, roles=(role,)))
    pins = scene.room.parts.pins
    pins.observe(TENANT, "time", "tool", "now", DIGEST)
    by_password(fresh, scene, "bob")
    fresh.get(f"{scene.url}/pins/one?upstream=time&kind=tool&name=now")
    click(fresh, "form[action='/pins/approve'] button")
    wait(lambda: "another person must decide" in text(fresh), "the request")
    asked = fresh.current_url
    assert "/approvals/a_" in asked
    assert pins.status(TENANT, "time", "tool", "now", DIGEST) == "new"
    click(fresh, "form[action='/sign-out'] button")
    wait(lambda: "Sign in" in text(fresh), "the sign-in page")
    by_password(fresh, scene, "grace")
    fresh.get(asked)
    wait(lambda: fresh.switch_to.active_element.get_attribute("value") == "deny", "the harmless button has the focus")
    click(fresh, "button[value=approve]")
    wait(lambda: "done" in text(fresh), "it is done")
    assert pins.status(TENANT, "time", "tool", "now", DIGEST) == "approved"


def test_what_is_dangerous_asks_the_provider_again_and_then_goes(scene: Scene, fresh: WebDriver) -> None:
    kill = scene.room.parts.kill_switch
    by_provider(fresh, scene)
    kill.pull(TENANT, "upstream", "time", by="test")
    age_proofs(scene)
    fresh.get(f"{scene.url}/stops")
    click(fresh, "form[action='/stops/release'] button")
    wait(lambda: "Confirm first" in text(fresh), "the demand for a proof")
    assert kill.stops()
    fresh.find_element(By.LINK_TEXT, "Confirm").click()
    click(fresh, "form[action='/confirm/corp'] button")
    wait(lambda: bool(fresh.find_elements(By.NAME, "login")), "the provider asks anew, though it knows her")
    fresh.find_element(By.NAME, "login").send_keys("ada")
    fresh.find_element(By.NAME, "password").send_keys("anything")
    click(fresh, "button[type=submit]")
    wait(lambda: "Sign out" in text(fresh), "the console")
    fresh.get(f"{scene.url}/stops")
    click(fresh, "form[action='/stops/release'] button")
    wait(lambda: "Nothing is stopped" in text(fresh), "released")
    assert kill.stops() == []


def test_its_pages_are_usable_without_seeing_pointing_or_hearing(scene: Scene, fresh: WebDriver) -> None:
    fresh.get(f"{scene.url}/sign-in")
    assert fresh.execute_script(PROBLEMS) == []
    by_provider(fresh, scene)
    for path in ("/approvals", "/stops", "/people", "/confirm"):
        fresh.get(scene.url + path)
        assert fresh.execute_script(PROBLEMS) == [], path
        told = [e["message"] for e in fresh.get_log("browser") if scene.url in e["message"]]
        assert not [message for message in told if "Content Security Policy" in message], path
