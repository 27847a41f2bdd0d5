"""Pages and forms: signing in, first contact, what a page may load, and hostile names."""

import re
from pathlib import Path

import jinja2
import pytest

from firewall.admin import pages
from firewall.admin.serve import HERE, SECURITY
from firewall.enforce.lock import parse
from firewall.enforce.pins import PinRules
from firewall.wire import canonical
from tests.admin.rig import HOST, OWN, TENANT, Browser, Room, make_room
from tests.support.door import PASSWORD, inputs_of

HOSTILE = "<img src=x onerror=alert(1)>\"'\u202eevil\U000e0041\u200b"
PATHS = ["/", "/servers", "/pins", "/stops", "/people", "/sign-in", "/first", "/nothing", "/decisions/none"]


async def test_signing_in_opens_a_session_that_scripts_and_other_sites_cannot_use(room: Room) -> None:
    await room.door.identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("viewer",))
    async with room.http() as http:
        answer = await Browser(http).sign_in("ada")
        cookie = answer.headers["set-cookie"]
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert cookie.startswith("bz_admin=bza_")
        for flag in ("HttpOnly", "Path=/", "SameSite=strict", "Max-Age=28800"):
            assert flag in cookie
        assert "Domain" not in cookie
        assert "ada · viewer" in (await http.get("/")).text
    assert {"kind": "auth", "event": "admin.signed_in", "tenant": TENANT, "by": "ada"} in room.log.records


async def test_over_https_the_cookie_is_bound_to_the_host(room: Room) -> None:
    import httpx2

    await room.door.identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("viewer",))
    transport = httpx2.ASGITransport(app=room.app)
    async with httpx2.AsyncClient(transport=transport, base_url="https://admin.example") as http:
        headers = {"Origin": "https://admin.example", "Sec-Fetch-Site": "same-origin"}
        answer = await http.post("/sign-in", data={"username": "ada", "password": PASSWORD}, headers=headers)
        assert answer.headers["set-cookie"].startswith("__Host-bz_admin=")
        assert "Secure" in answer.headers["set-cookie"]
        assert (await http.get("/")).status_code == 200


@pytest.mark.parametrize(("name", "password"), [("ada", "wrong password here"), ("nobody", PASSWORD), ("ada", "")])
async def test_a_failed_sign_in_tells_the_same_whatever_was_wrong(room: Room, name: str, password: str) -> None:
    await room.door.identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("viewer",))
    async with room.http() as http:
        answer = await Browser(http).sign_in(name, password)
        assert answer.status_code == 403
        assert "do not fit" in answer.text
        assert "set-cookie" not in answer.headers


async def test_guessing_is_slowed_down_for_the_guesser_alone(room: Room) -> None:
    await room.door.identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("viewer",))
    async with room.http("192.0.2.1") as guesser, room.http("192.0.2.2") as ada:
        statuses = [(await Browser(guesser).sign_in("ada", f"guess number {n}")).status_code for n in range(6)]
        assert statuses[:4] == [403] * 4
        assert statuses[-1] == 429
        assert (await Browser(guesser).sign_in("ada")).status_code == 429  # even with the right password now
        assert (await Browser(ada).sign_in("ada")).status_code == 303
        room.door.clock.advance(400)
        assert (await Browser(guesser).sign_in("ada")).status_code == 303


async def test_one_address_has_so_many_tries_a_minute_over_all_names(room: Room) -> None:
    async with room.http("192.0.2.1") as http:
        answers = [await Browser(http).sign_in(f"name{n}", "a wrong password") for n in range(21)]
    assert [a.status_code for a in answers][-2:] == [403, 429]


async def test_a_sign_in_from_another_site_is_refused(room: Room) -> None:
    await room.door.identity.users.create("ada", PASSWORD, tenant=TENANT, roles=("viewer",))
    async with room.http() as http:
        form = {"username": "ada", "password": PASSWORD}
        assert (await http.post("/sign-in", data=form, headers={"Sec-Fetch-Site": "cross-site"})).status_code == 403
        assert (await http.post("/sign-in", data=form)).status_code == 403


async def test_a_session_ends_when_nobody_does_anything_and_in_any_case_after_its_time(room: Room) -> None:
    browser = await room.person("viewer")
    for _ in range(16):
        room.door.clock.advance(29 * 60)
        assert (await browser.http.get("/")).status_code == 200
    room.door.clock.advance(29 * 60)  # more than eight hours since the sign-in
    assert (await browser.http.get("/")).status_code == 303
    idle = await room.person("viewer", "idle")
    room.door.clock.advance(31 * 60)
    assert (await idle.http.get("/")).status_code == 303


async def test_looking_by_itself_does_not_keep_a_session_alive(room: Room) -> None:
    browser = await room.person("viewer")
    room.door.clock.advance(20 * 60)
    assert (await browser.http.get("/api/v1/decisions", headers={"x-bartizan-poll": "1"})).status_code == 200
    room.door.clock.advance(11 * 60)
    assert (await browser.http.get("/api/v1/decisions", headers={"x-bartizan-poll": "1"})).status_code == 401


async def test_signing_out_and_disabling_end_sessions_at_once(room: Room) -> None:
    browser = await room.person("viewer")
    await browser.post("/sign-out", {})
    assert (await browser.http.get("/")).status_code == 303
    other = await room.person("operator", "other")
    kept = dict(other.http.cookies)
    async with room.owner() as owner:
        assert (await owner.post("/api/v1/users/other/disable", json={})).json()["disabled"] is True
    other.http.cookies.update(kept)
    assert (await other.http.get("/")).status_code == 303


async def test_a_new_sign_in_ends_the_session_before(room: Room) -> None:
    browser = await room.person("viewer")
    before = browser.http.cookies["bz_admin"]
    await browser.sign_in("viewer")
    assert browser.http.cookies["bz_admin"] != before
    async with room.http() as http:
        http.cookies.set("bz_admin", before, domain=HOST.partition(":")[0])
        assert (await http.get("/")).status_code == 303


# -- first contact -------------------------------------------------------------------------------------------


def code_of(room: Room) -> str:
    made = room.parts.identity.first_contact.open()
    assert made is not None
    return made.text


async def first(room: Room, code: str, *, method: str = "POST", headers: dict[str, str] = OWN):  # type: ignore[no-untyped-def]
    async with room.http() as http:
        form = {"code": code, "username": "ada", "password": PASSWORD}
        if method == "GET":
            return await http.get("/first", params=form, headers={"Sec-Fetch-Site": "same-origin"})
        answer = await http.post("/first", data=form, headers=headers)
        if answer.status_code == 303:
            assert (await http.get("/api/v1/status")).json()["you"] == {
                "name": "ada",
                "role": "admin",
                "tenant": TENANT,
            }
        return answer


async def test_the_code_makes_the_first_user_who_is_signed_in_and_works_once(room: Room) -> None:
    code = code_of(room)
    assert (await first(room, code)).status_code == 303
    again = await first(room, code)
    assert again.status_code == 403
    assert "administrator already" in again.text


@pytest.mark.parametrize("how", ["wrong", "expired", "get", "foreign"])
async def test_nothing_else_makes_the_first_user(room: Room, how: str) -> None:
    code = code_of(room)
    if how == "wrong":
        answer = await first(room, "AAAAA-BBBBB-CCCCC-DDDDD")
    elif how == "expired":
        room.door.clock.advance(15 * 60 + 1)
        answer = await first(room, code)
    elif how == "get":
        answer = await first(room, code, method="GET")
    else:
        answer = await first(room, code, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == (200 if how == "get" else 403)
    assert not room.parts.identity.users.exists_admin()


async def test_guessing_the_code_is_bounded(room: Room) -> None:
    code = code_of(room)
    for _ in range(31):
        room.door.clock.advance(6)
        await first(room, "AAAAA-BBBBB-CCCCC-DDDDD")
    assert (await first(room, code)).status_code == 403


async def test_the_owner_can_have_a_new_code_until_there_is_an_administrator(room: Room) -> None:
    async with room.owner() as owner:
        code = (await owner.post("/api/v1/first-contact", json={})).json()["code"]
        assert (await first(room, code)).status_code == 303
        assert (await owner.post("/api/v1/first-contact", json={})).json() == {}


# -- pages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_every_page_carries_the_strict_headers_and_nothing_inline(room: Room, path: str) -> None:
    browser = await room.person("operator")
    answer = await browser.http.get(path)
    for name, value in SECURITY:
        assert answer.headers[name.decode()] == value.decode()
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]+src=)|javascript:", answer.text)


def test_the_script_makes_no_markup_from_text() -> None:
    source = (HERE / "static" / "live.js").read_text()
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert sink not in source


async def test_names_that_strangers_chose_are_shown_and_never_executed(room: Room) -> None:
    room.decided(
        subject=HOSTILE, client=HOSTILE, action={"proto": "mcp", "method": "tools/call", "resource": f"time/{HOSTILE}"}
    )
    pins = room.parts.pins
    pins.observe(TENANT, "time", "tool", HOSTILE, "sha256:" + "1" * 64, reasons=("x",))
    room.parts.definitions.note({"name": HOSTILE})
    browser = await room.person("operator")
    for path in ("/", "/pins", "/decisions/d_0"):
        text = (await browser.http.get(path)).text
        assert "<img" not in text, path
        assert "&lt;img src=x" in text, path
        for hidden in ("\u202e", "\U000e0041", "\u200b"):
            assert hidden not in text, path
    one = await browser.http.get("/pins/one", params={"upstream": "time", "kind": "tool", "name": HOSTILE})
    assert one.status_code == 200
    # As the value of a hidden field the name must stay as it is; there it is quoted, and shown to nobody.
    assert "<img" not in one.text
    assert inputs_of(one.text)["name"] == HOSTILE


def test_without_escaping_the_same_name_would_be_markup() -> None:
    """The twin: the template engine as it is by default lets the name through."""
    text = jinja2.Environment().from_string("{{ name }}").render(name=HOSTILE)
    assert "<img" in text
    assert pages.visible("a\u202eb") == "a\\u{202e}b"


async def test_decisions_are_listed_filtered_and_explained(room: Room) -> None:
    room.decided(upstream="git", subject="u_bob")
    uid = room.decided()
    browser = await room.person("viewer")
    page = (await browser.http.get("/")).text
    assert page.index(uid) > 0
    assert "tools.pin_changed" in page
    only = (await browser.http.get("/?upstream=git&subject=u_bob&effect=deny&rule=tools.pin_changed")).text
    assert uid not in only
    assert "u_bob" in only
    assert "Nothing was decided yet that fits" in (await browser.http.get("/?effect=approve")).text
    story = (await browser.http.get(f"/decisions/{uid}")).text
    assert "decision d_1" in story or "tools.pin_changed" in story
    assert "Records as they are stored" in story


async def test_another_tenants_decisions_are_not_there(room: Room) -> None:
    uid = room.decided(tenant="other", subject="u_mallory")
    browser = await room.person("admin")
    assert "u_mallory" not in (await browser.http.get("/")).text
    assert (await browser.http.get(f"/decisions/{uid}")).status_code == 404
    assert (await browser.http.get(f"/api/v1/decisions/{uid}")).status_code == 404
    async with room.owner() as owner:  # the twin: who runs the node may name the tenant
        assert (await owner.get(f"/api/v1/decisions/{uid}?tenant=other")).status_code == 200


async def test_forms_approve_move_pull_and_release(room: Room) -> None:
    digest = "sha256:" + "1" * 64
    room.parts.pins.observe(TENANT, "time", "tool", "now", digest)
    room.parts.registry.register(TENANT, "mcp", "time", {"url": "https://t.example/mcp"}, by="x")
    browser = await room.person("operator")
    shown = inputs_of((await browser.http.get("/pins/one?upstream=time&kind=tool&name=now")).text)
    assert shown["digest"] == digest
    assert (await browser.post("/pins/approve", shown)).status_code == 303
    assert room.parts.pins.status(TENANT, "time", "tool", "now", digest) == "approved"
    for verb, state in (("approve", "approved"), ("suspend", "suspended"), ("revoke", "revoked")):
        assert (await browser.post("/servers/move", {"kind": "mcp", "name": "time", "verb": verb})).status_code == 303
        assert room.parts.registry.state(TENANT, "mcp", "time") == state
    assert list(room.parts.pins.list(TENANT)) == []  # revoked: whoever has the name next is met anew
    await browser.post("/stops/pull", {"scope": "upstream", "name": "time", "reason": "smells"})
    assert [s.name for s in room.parts.kill_switch.stops()] == ["time"]
    await browser.post("/stops/release", {"scope": "upstream", "name": "time"})
    assert room.parts.kill_switch.stops() == []
    done = [(r["verb"], r["by"]) for r in room.log.records if r.get("kind") == "admin"]
    assert done == [("pins.approve", "operator"), ("kill.pull", "operator"), ("kill.release", "operator")]


async def test_servers_of_every_sort_are_shown_with_where_they_are(room: Room) -> None:
    registry = room.parts.registry
    registry.register(TENANT, "mcp", "far", {"url": "https://f.example/mcp"}, by="x")
    registry.register(TENANT, "mcp", "near", {"command": ["mcp-server-git"], "url": ""}, by="x")
    registry.register(TENANT, "a2a", "echo", {"card_url": "https://e.example/card.json"}, by="x")
    registry.register(TENANT, "a2a", "odd", {}, by="x")
    browser = await room.person("viewer")
    text = (await browser.http.get("/servers")).text
    for where in ("https://f.example/mcp", "mcp-server-git", "https://e.example/card.json"):
        assert where in text


async def test_a_viewer_sees_no_buttons(room: Room) -> None:
    room.parts.registry.register(TENANT, "mcp", "time", {"url": "https://t.example/mcp"}, by="x")
    viewer, operator = await room.person("viewer"), await room.person("operator")
    assert 'value="approve"' in (await operator.http.get("/servers")).text
    assert 'value="approve"' not in (await viewer.http.get("/servers")).text


async def test_a_form_that_repeats_a_field_or_is_too_large_is_refused(room: Room) -> None:
    browser = await room.person("operator")
    headers = {**OWN, "content-type": "application/x-www-form-urlencoded"}
    twice = f"csrf={await browser.csrf()}&scope=upstream&name=a&name=b"
    assert (await browser.http.post("/stops/pull", content=twice, headers=headers)).status_code == 400
    large = b"csrf=" + b"a" * (64 * 1024)
    assert (await browser.http.post("/stops/pull", content=large, headers=headers)).status_code == 413
    assert room.parts.kill_switch.stops() == []


async def test_what_cannot_be_recorded_does_not_happen(room: Room) -> None:
    browser = await room.person("operator")
    csrf = await browser.csrf()
    room.log.down = True
    answer = await browser.post("/stops/pull", {"csrf": csrf, "scope": "all"})
    assert answer.status_code == 503
    assert room.parts.kill_switch.stops() == []
    room.log.down = False
    assert (await browser.post("/stops/pull", {"csrf": csrf, "scope": "all"})).status_code == 303


async def test_a_bug_of_ours_tells_nothing(tmp_path: Path) -> None:
    def broken() -> bytes:
        raise RuntimeError("secret detail")

    room = make_room(tmp_path, metrics=broken)
    async with room.http() as http:
        answer = await http.get("/metrics")
    room.log.writer.close()
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert room.faults == [("admin_internal", "RuntimeError")]


async def test_a_foreign_host_is_misdirected_before_anything_else(room: Room) -> None:
    async with room.http() as http:
        assert (await http.get("/sign-in", headers={"Host": "evil.example"})).status_code == 421


async def test_every_kind_of_pin_goes_by_a_name_that_people_say_and_what_asks_stands_first(room: Room) -> None:
    pins = room.parts.pins
    pins._rules = PinRules({"time": "ask"})
    for kind, name in (("instructions", "instructions"), ("set", "tool"), ("template", "time://{zone}")):
        pins.observe(TENANT, "time", kind, name, "sha256:" + "1" * 64, trust=True)
    pins.observe(TENANT, "time", "set", "tool", "sha256:" + "2" * 64)
    browser = await room.person("viewer")
    page = (await browser.http.get("/pins")).text
    assert "instructions instructions" not in page
    assert ">instructions</a>" in page
    assert ">template time://{zone}</a>" in page
    assert page.index(">set of tools</a>") < page.index(">instructions</a>")
    assert "changed, asks" in page
    assert "1 changed and ask for you" in (await browser.http.get("/")).text
    pins._rules = PinRules({"time": "block"})  # the twin: it waits, and asks nobody
    assert "ask for you" not in (await browser.http.get("/")).text


async def test_a_change_is_shown_place_by_place_with_nothing_in_it_hidden(room: Room) -> None:
    old, new = {"name": "plan", "description": "Plans."}, {"name": "plan", "description": "Pl\u0430ns.\u200b <b>"}
    for value in (old, new):
        room.parts.definitions.note(value)
        room.parts.pins.observe(TENANT, "time", "prompt", "plan", canonical.digest(value), trust=value is old)
    browser = await room.person("viewer")
    page = (await browser.http.get("/pins/one?upstream=time&kind=prompt&name=plan")).text
    assert "<code>/description</code>" in page
    assert "<pre>Plans.</pre>" in page
    assert "<pre>Pl\\u{430}ns.\\u{200b} &lt;b&gt;</pre>" in page
    shown = (await browser.http.get("/api/v1/pins/one?upstream=time&kind=prompt&name=plan")).json()
    assert [c["path"] for c in shown["changes"]] == ["/description"]


async def test_the_lock_that_is_exported_holds_what_is_approved_here_and_nothing_of_other_tenants(room: Room) -> None:
    digest = "sha256:" + "1" * 64
    room.parts.pins.observe(TENANT, "time", "tool", "now", digest, trust=True)
    room.parts.pins.observe(TENANT, "time", "tool", "late", digest)
    room.parts.pins.observe("other", "secret", "tool", "now", digest, trust=True)
    browser = await room.person("viewer")
    lock = parse((await browser.http.get("/api/v1/pins/lock")).json()["lock"].encode())
    assert list(lock.entries) == [("time", "tool", "now")]
