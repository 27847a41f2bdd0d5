"""The interactive endpoints: who is redirected where, what the pages say and send, what they refuse."""

import re
from dataclasses import replace

import pytest

from firewall.identity.people import transactions
from firewall.identity.people.pages import clean_name, is_mixed_script, scope_words
from firewall.net.dial import Fetched
from firewall.wire import strict_json
from tests.support.door import (
    CALLBACK,
    CIMD_DOCUMENT,
    CIMD_URL,
    GIT,
    ORIGIN,
    PASSWORD,
    TIME,
    Browser,
    authorize_query,
    callback_of,
    inputs_of,
    make_door,
    redeem,
)


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "-"},
        {"client_id": "nobody"},
        {"client_id": "https://app.example/other.json"},
        {"client_id": "https://evil.example/c.json"},
        {"client_id": "https://127.0.0.1/c.json"},
        {"redirect_uri": "-"},
        {"redirect_uri": "https://evil.example/cb"},
        {"redirect_uri": CALLBACK + "/"},
        {"redirect_uri": "javascript:alert(1)"},
    ],
)
async def test_as_01_while_client_or_redirect_is_wrong_nobody_is_redirected(changes: dict[str, str]) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await Browser(http).open(authorize_query(**changes))
    assert reply.status_code == 400
    assert "location" not in reply.headers
    assert reply.headers["content-type"].startswith("text/html")
    assert "evil" not in reply.text


@pytest.mark.parametrize("name", ["client_id", "redirect_uri"])
async def test_as_07_a_repeated_client_or_redirect_gets_a_page(name: str) -> None:
    door = make_door()
    async with door.http() as http:
        query = "&".join(f"{k}={v}" for k, v in authorize_query().items())
        reply = await http.get(f"/authorize?{query}&{name}=https://evil.example/cb")
    assert reply.status_code == 400


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "-"}, "invalid_request"),
        ({"code_challenge": "-"}, "invalid_request"),
        ({"code_challenge_method": "-"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"resource": "-"}, "invalid_target"),
        ({"resource": "https://other.example/mcp"}, "invalid_target"),
        ({"resource": ORIGIN}, "invalid_target"),
        ({"scope": "git:read"}, "invalid_scope"),
        ({"scope": 'a"b'}, "invalid_scope"),
        ({"prompt": "none"}, "login_required"),
        ({"response_mode": "fragment"}, "invalid_request"),
    ],
)
async def test_as_08_every_error_redirect_carries_state_and_iss(changes: dict[str, str], error: str) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await Browser(http).open(authorize_query(**changes))
    assert reply.headers["location"].startswith(CALLBACK + "?")
    assert callback_of(reply) == {"error": error, "state": "xyz", "iss": ORIGIN}
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("changes", "scopes", "error"),
    [
        ({}, ("llm:*",), "access_denied"),
        ({"prompt": "none"}, ("time:*",), "consent_required"),
        ({"acr_values": "urn:acme:gold"}, ("time:*",), "unmet_authentication_requirements"),
    ],
)
async def test_as_08_what_ends_after_the_sign_in_carries_state_and_iss_too(
    changes: dict[str, str], scopes: tuple[str, ...], error: str
) -> None:
    door = make_door()
    await door.user(scopes=scopes)
    async with door.http() as http:
        browser = Browser(http)
        ended = await browser.sign_in(await browser.open(authorize_query()))
        ended = ended if ended.status_code == 303 else await browser.open(authorize_query(**changes))
        ended = await browser.sign_in(ended) if 'action="/login"' in ended.text else ended
    assert callback_of(ended) == {"error": error, "state": "xyz", "iss": ORIGIN}


@pytest.mark.parametrize(
    "to", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "x", ""]
)
async def test_as_01_a_sign_in_leads_to_our_own_pages_only(to: str) -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        form = {**inputs_of((await browser.get("/account/grants")).text), "username": "ada", "password": PASSWORD}
        assert (await browser.post("/login", {**form, "to": to})).headers["location"] == "/account/grants"
        assert (await browser.post("/login", {**form, "to": "device"})).headers["location"] == "/device"


async def test_as_14_forms_are_answered_with_303() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        values = {**inputs_of(page.text), "username": "ada", "password": PASSWORD}
        assert (await browser.post("/login", values)).status_code == 303
        page = await browser.get("/consent")
        assert (await browser.approve(page)).status_code == 303


async def test_as_16_cookies_are_host_only_secure_and_http_only_and_a_sign_in_renews_the_session() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        first = page.headers.get_list("set-cookie")[0]
        assert re.match(
            r"__Host-bz_txn_\w{8}=t_\w{26}\.[\w-]{43}; Path=/; HttpOnly; SameSite=Lax; Max-Age=600; Secure$", first
        )
        values = {**inputs_of(page.text), "username": "ada", "password": PASSWORD}
        one = (await browser.post("/login", values)).headers.get_list("set-cookie")[0]
        two = (await browser.post("/login", values)).headers.get_list("set-cookie")[0]
        assert one.startswith("__Host-bz_session=")
        assert one.endswith("HttpOnly; SameSite=Lax; Max-Age=28800; Secure")
        assert one != two
        http.cookies.set("__Host-bz_session", one.partition("=")[2].partition(";")[0])
        assert 'action="/login"' in (await browser.get("/account/grants")).text


async def test_on_a_loopback_demonstration_cookies_have_no_prefix() -> None:
    door = make_door(public_url="http://127.0.0.1:8700", cimd_pinned={CIMD_URL: CIMD_DOCUMENT})
    await door.user()
    async with door.http() as http:
        browser = Browser(http, door.origin)
        query = authorize_query(resource="http://127.0.0.1:8700/mcp/time")
        assert "Secure" not in (await browser.open(query)).headers["set-cookie"]
        assert (await browser.code(query))["iss"] == "http://127.0.0.1:8700"


async def test_as_18_a_silent_request_without_consent_is_told_so() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        silent = await browser.open(authorize_query(prompt="none"))
        assert "code" in callback_of(silent)
        other = await browser.open(authorize_query(prompt="none", resource=GIT, scope="git:read"))
        assert callback_of(other)["error"] == "consent_required"


async def test_prompt_login_and_max_age_ask_for_a_fresh_sign_in() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        door.clock.advance(100)
        assert (await browser.open(authorize_query(max_age="3600"))).status_code == 303
        for changes in ({"prompt": "login"}, {"max_age": "60"}, {"max_age": "0"}, {"prompt": "select_account"}):
            door.clock.advance(100)
            page = await browser.open(authorize_query(**changes))
            assert 'action="/login"' in page.text, changes
            assert "code" in callback_of(await browser.sign_in(page)), changes


async def test_as_19_failed_sign_ins_are_delayed_more_and_more_but_only_from_that_address() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        for _ in range(4):
            reply = await browser.sign_in(page, password="wrong")
            assert reply.status_code == 403
        delayed = await browser.sign_in(page)
        assert delayed.status_code == 429
        assert int(delayed.headers["retry-after"]) == 2
        door.clock.advance(3)
        assert (await browser.sign_in(page)).status_code == 200
    assert [facts["code"] for facts in door.named("identity.login.failed")] == ["password"] * 4
    assert "ada" not in str(door.events)


async def test_rs_17_an_unknown_user_and_a_wrong_password_get_the_same_answer() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        one = await browser.sign_in(page, password="wrong")
        two = await browser.sign_in(page, name="nobody")
    assert one.status_code == two.status_code == 403
    strip = re.compile(r'name="csrf" value="[^"]*"')
    assert strip.sub("", one.text) == strip.sub("", two.text)


async def test_as_19_requests_of_one_address_are_limited_per_minute() -> None:
    door = make_door(authorize_per_minute=2, token_per_minute=1)
    async with door.http() as http:
        statuses = [(await Browser(http).open(authorize_query())).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert [(await redeem(http, "x")).status_code for _ in range(2)] == [400, 429]
        door.clock.advance(60)
        assert (await Browser(http).open(authorize_query())).status_code == 200


async def test_ui_01_a_changed_document_or_another_destination_is_asked_about_again() -> None:
    door = make_door(cimd_pinned={})
    await door.user()

    def publish(name: str) -> None:
        body = strict_json.dumps({**CIMD_DOCUMENT, "client_name": name})
        door.fetcher.answers[CIMD_URL] = Fetched(200, {"content-type": "application/json"}, body)

    publish("Example Agent")
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        assert (await browser.open(authorize_query())).status_code == 303
        assert (await browser.open(authorize_query(redirect_uri="http://localhost:1/callback"))).status_code == 200
        publish("Your Bank")
        door.clock.advance(3601)
        page = await browser.open(authorize_query())
        assert page.status_code == 200
        assert "Your Bank" in page.text


async def test_ui_09_a_connection_goes_by_who_the_client_is_and_not_by_what_it_calls_itself() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await redeem(http, (await browser.code())["code"])
        page = await browser.get("/account/grants")
        assert "app.example" in page.text
        assert "Example Agent" not in page.text


@pytest.mark.parametrize("site", ["cross-site", "same-site", ""])
async def test_ui_02_a_remembered_consent_is_shown_when_the_person_did_not_start_it(site: str) -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        assert (await browser.open(authorize_query(), site=site)).status_code == 200
        http.cookies.delete("__Host-bz_session")
        page = await browser.sign_in(await browser.open(authorize_query(), site=site))
        assert 'action="/consent"' in page.text


@pytest.mark.parametrize("header", [{"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}])
async def test_ui_02_what_a_browser_fetches_in_advance_decides_nothing(header: dict[str, str]) -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        query = authorize_query()
        ahead = await http.get("/authorize", params=query, headers={"Sec-Fetch-Site": "none", **header})
        assert ahead.status_code == 200
        assert 'action="/consent"' in ahead.text
        assert (await browser.open(query)).status_code == 303


async def test_the_consent_page_says_how_long_a_connection_lasts() -> None:
    door = make_door(refresh_lifetime_s=30 * 86_400, refresh_idle_s=7 * 86_400)
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
    assert "30 days at most" in page.text
    assert "not used for 7" in page.text
    assert 'href="/account/grants"' in page.text


async def test_ui_03_the_consent_page_names_who_where_and_what() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(scope="time:read time:write")))
    for text in ("app.example", "Example Agent", TIME, "127.0.0.1", "ada", "Read from “time”", "Act through “time”"):
        assert text in page.text, text
    assert "any program on that computer could be asking" in page.text
    assert page.text.index("app.example") < page.text.index("Example Agent")


async def test_ui_03_a_program_that_registered_itself_is_known_by_where_its_answers_go_alone() -> None:
    door = make_door()
    await door.user()
    find = door.identity.clients.find

    async def found(client_id: str, **more: object) -> object:
        client = await find(client_id, **more)  # type: ignore[arg-type]
        assert client is not None
        return replace(client, host="", name="Your Bank", claimed=True, redirect_uris=(CALLBACK,))

    door.identity.clients.find = found  # type: ignore[method-assign,assignment]
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
    title = page.text.partition("<h1>")[2].partition("</h1>")[0]
    assert "an unknown program at 127.0.0.1" in title
    assert "Your Bank" not in title
    assert "It calls itself “Your Bank”" in page.text


async def test_ui_04_what_a_client_says_about_itself_is_cleaned_and_escaped() -> None:
    hostile = {**CIMD_DOCUMENT, "client_name": "<script>alert(1)</script>\u202eknaB\u0000" + "x" * 200}
    door = make_door(cimd_pinned={CIMD_URL: hostile})
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
    assert "alert(1)</script>" not in page.text
    assert page.text.count("<script") == 1
    assert "\u202e" not in page.text
    assert "x" * 70 not in page.text


def test_ui_04_names_are_short_and_mixed_alphabets_are_marked() -> None:
    assert clean_name("  A\tb\u200b\n c ") == "A b c"
    assert len(clean_name("x" * 500)) == 64
    assert is_mixed_script("Pаypal")  # the second letter is Cyrillic
    assert not is_mixed_script("Paypal 2 für Ümläute")
    assert scope_words("a:b:c") == "a:b:c"


@pytest.mark.parametrize("path", ["login", "consent", "message", "account"])
async def test_ui_05_every_page_forbids_frames_scripts_and_foreign_resources(path: str) -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        nothing = await browser.get("/consent")
        login = await browser.open(authorize_query())
        pages = {
            "login": login,
            "consent": await browser.sign_in(login),
            "message": nothing,
            "account": await browser.get("/account/grants"),
        }
    headers = pages[path].headers
    scripts = "; script-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'"
    assert headers["content-security-policy"] == (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
        + (scripts if path == "consent" else "")
    )
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers
    text = pages[path].text
    ours = ["/assets/front-door.css", *(["/assets/consent.js"] if path == "consent" else [])]
    assert re.findall(r'(?:<link[^>]*href|src)="([^"]*)"', text) == ours
    assert all(link.startswith("/") for link in re.findall(r'<a href="([^"]*)"', text))
    assert re.findall(r"<script[^>]*>[^<]", text) == []
    assert " style=" not in text
    assert not re.search(r"\son\w+=", text)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null", "Sec_Fetch_Site": ""},
        {"Origin": "null", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "null", "Sec_Fetch_Site": "same-site"},
        {"Origin": "", "Sec_Fetch_Site": ""},
        {"Origin": "", "Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Origin": ORIGIN + ".evil.example", "Sec_Fetch_Site": ""},
    ],
)
async def test_ui_06_forms_count_from_our_own_pages_only(headers: dict[str, str]) -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        login = await browser.open(authorize_query())
        values = {**inputs_of(login.text), "username": "ada", "password": PASSWORD}
        assert (await browser.post("/login", values, **headers)).status_code == 403
        page = await browser.sign_in(login)
        refused = await browser.post("/consent", {**inputs_of(page.text), "decision": "approve"}, **headers)
        assert refused.status_code == 403
        assert (await browser.approve(page)).status_code == 303


# What programs post; who it is stands in the request itself, never in a cookie.
PROGRAMS = {"/token", "/revoke", "/introspect", "/par", "/device_authorization", "/register"}
FORGED = (
    {"Origin": "null"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "null", "Sec-Fetch-Site": "same-site"},
    {"Origin": "null", "Sec-Fetch-Site": "Same-Origin"},
    {"Origin": "null", "Sec-Fetch-Site": "same-origin, same-origin"},
    {"Origin": "null, null", "Sec-Fetch-Site": "same-origin"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Origin": ORIGIN + ":8443", "Sec-Fetch-Site": "same-origin"},
    {"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"},
)


async def test_ui_06_whatever_can_be_posted_is_a_form_that_asks_who_sent_it_or_reads_no_cookie() -> None:
    """Each route of the front door: a new one that is neither is found here (the edge lets ``Origin: null`` through)."""
    door = make_door(device_grant=True)
    await door.user()
    posted = {path for path, handlers in door.identity.front_door._routes.items() if "POST" in handlers}
    assert posted >= {"/login", "/login/code", "/consent", "/account/grants", "/account/security", "/device", "/logout"}
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
        values = {**inputs_of(page.text), "username": "ada", "password": PASSWORD, "decision": "approve"}
        for path in sorted(posted - PROGRAMS):
            for headers in FORGED:
                answer = await http.post(path, data=values, headers=headers)
                assert (answer.status_code, "set-cookie" in answer.headers) == (403, False), (path, headers)
            known = await browser.post(path, values)
            assert "not sent from our own page. Start" not in known.text, path
        for path in sorted(posted & PROGRAMS):
            named = await http.post(path, headers={"Origin": "null", "Sec-Fetch-Site": "same-origin"}, data=values)
            http.cookies.clear()
            stranger = await http.post(path, headers={"Origin": "null", "Sec-Fetch-Site": "same-origin"}, data=values)
            assert (named.status_code, named.text) == (stranger.status_code, stranger.text), path
            assert named.status_code in (400, 401), path


async def test_ui_06_a_page_may_be_loaded_twice_and_sent_once() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        one = await browser.sign_in(await browser.open(authorize_query()))
        two = await browser.get("/consent")
        assert inputs_of(one.text)["csrf"] != inputs_of(two.text)["csrf"]
        assert (await browser.approve(one)).status_code == 303
        assert (await browser.approve(two)).status_code == 403


async def test_ui_07_a_form_rendered_for_one_person_cannot_be_sent_as_another() -> None:
    door = make_door()
    await door.user()
    await door.user("eve")
    async with door.http() as http:
        browser = Browser(http)
        login = await browser.open(authorize_query())
        page = await browser.sign_in(login)
        await browser.sign_in(login, name="eve")
        assert (await browser.approve(page)).status_code == 403


async def test_ui_08_deny_has_the_focus_and_tells_the_client() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
        assert re.search(r'value="deny"[^>]* autofocus', page.text)
        denied = callback_of(await browser.approve(page, "deny"))
    assert denied == {"error": "access_denied", "state": "xyz", "iss": ORIGIN}


async def test_ui_09_a_person_may_give_less_than_was_asked_and_nothing_more() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(scope="time:read time:write")))
        values = {**inputs_of(page.text), "decision": "approve", "scope.7": "git:write"}
        del values["scope.1"]
        code = callback_of(await browser.post("/consent", values))["code"]
        assert (await redeem(http, code)).json()["scope"] == "time:read"
        page = await browser.open(authorize_query(scope="time:read time:write"))
        empty = {k: v for k, v in inputs_of(page.text).items() if not k.startswith("scope.")}
        assert (await browser.post("/consent", {**empty, "decision": "approve"})).status_code == 400


async def test_ui_09_what_is_not_asked_again_is_listed_and_forgotten() -> None:
    door = make_door()
    await door.user()
    await door.user("eve")
    async with door.http() as http:
        browser = Browser(http)
        code = (await browser.code())["code"]
        token = (await redeem(http, code)).json()["access_token"]
        page = await browser.get("/account/grants")
        assert "Not asked again" in page.text
        form = {k: v for k, v in inputs_of(page.text).items() if k != "grant"}
        # An agreement of somebody else cannot be named.
        other = f"../{form['agreement']}"
        await browser.post("/account/grants", {**form, "agreement": other})
        assert (await browser.open(authorize_query())).status_code == 303
        await browser.post("/account/grants", form)
        assert "Not asked again" not in (await browser.get("/account/grants")).text
        assert (await browser.open(authorize_query())).status_code == 200
    assert door.verified(token)  # what was given goes on until it is ended


async def test_a_person_without_any_of_the_scopes_gives_nothing() -> None:
    door = make_door()
    await door.user(scopes=("llm:*",))
    async with door.http() as http:
        browser = Browser(http)
        ended = await browser.sign_in(await browser.open(authorize_query()))
    assert callback_of(ended)["error"] == "access_denied"


async def test_offline_access_is_no_scope_of_the_token_and_no_scope_means_the_default() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        for scope in ("-", "offline_access"):
            code = (await browser.code(authorize_query(scope=scope)))["code"]
            assert (await redeem(http, code)).json()["scope"] == "time:read"


async def test_as_23_a_person_of_another_tenant_gets_nothing_at_a_closed_resource() -> None:
    from firewall.identity.settings import ProtectedResource

    closed = ProtectedResource("/mcp/time", "Time", ("time:read",), ("time:read",), tenants=("acme",))
    door = make_door(resources=(closed,))
    await door.user("bob", tenant="other", scopes=("*",))
    async with door.http() as http:
        browser = Browser(http)
        ended = await browser.sign_in(await browser.open(authorize_query()), name="bob")
    assert callback_of(ended)["error"] == "access_denied"


@pytest.mark.parametrize("trimmed", [True, False])
async def test_a_browser_that_is_sent_here_again_and_again_can_still_sign_in(
    trimmed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request sets a cookie of its own; of too many none would be read, and nobody could sign in."""
    if not trimmed:  # the twin
        monkeypatch.setattr(transactions.Transactions, "surplus", lambda *_: ())
    door = make_door(authorize_per_minute=1000)
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        first = await browser.open(authorize_query())
        pages = [await browser.open(authorize_query()) for _ in range(80)]
        assert len(http.cookies) == (transactions.COOKIES if trimmed else 81)
        assert (await browser.sign_in(pages[-1])).status_code == (200 if trimmed else 403)
        assert (await browser.sign_in(first)).status_code == (403 if trimmed else 200)


async def test_a_foreign_cookie_of_our_kind_breaks_nothing() -> None:
    door = make_door()
    cookie = "; ".join(["__Host-bz_txn_a\xe4=1", *(f"__Host-bz_txn_{n}=1" for n in range(40)), "__Host-bz_txn_=x"])
    async with door.http() as http:
        shown = await http.get("/authorize", params=authorize_query(), headers={"cookie": cookie.encode("latin-1")})
    assert shown.status_code == 200
    assert len([one for one in shown.headers.get_list("set-cookie") if "Max-Age=0" in one]) == 41 - 24
