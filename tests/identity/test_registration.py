"""Dynamic client registration (RFC 7591), behind its one switch: AS-22 in full, through the front door."""

from __future__ import annotations

import httpx2
import pytest

from firewall.core.errors import Unauthenticated
from firewall.core.jsonvalue import JSON
from firewall.identity.rfc7591 import endpoint, metadata
from firewall.identity.rfc7591.registrations import UNVERIFIED
from firewall.wire import strict_json
from tests.support.door import CALLBACK, CLIENT_KEY, Browser, Door, authorize_query, make_door, public_jwks, redeem

NATIVE = {"client_name": "Tool", "redirect_uris": ["http://127.0.0.1/callback"], "token_endpoint_auth_method": "none"}
WEB = {"client_name": "Site", "redirect_uris": ["https://site.example/cb"], "application_type": "web"}


def open_door(**changes: object) -> Door:
    return make_door(registration=True, **changes)


async def register(door: Door, address: str = "192.0.2.7", **members: JSON) -> httpx2.Response:
    body = strict_json.dumps({k: v for k, v in {**NATIVE, **members}.items() if v is not None})
    transport = httpx2.ASGITransport(app=door.identity.front_door, client=(address, 4000))
    async with httpx2.AsyncClient(transport=transport, base_url=door.origin) as http:
        return await http.post("/register", content=body, headers={"content-type": "application/json"})


async def log_in(door: Door, client_id: str) -> httpx2.Response:
    async with door.http() as http:
        found = await Browser(http).code(authorize_query(client_id=client_id))
        return await redeem(http, found["code"], client_id=client_id)


# -- the switch --------------------------------------------------------------------------------------------------


async def test_as_22_registration_is_off_and_not_offered_unless_it_is_switched_on() -> None:
    door = make_door()
    assert (await register(door)).status_code == 404
    async with door.http() as http:
        told = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert "registration_endpoint" not in told


async def test_registration_is_offered_where_it_is_on_and_open_to_browsers() -> None:
    door = open_door()
    async with door.http() as http:
        for document in ("oauth-authorization-server", "openid-configuration"):
            told = (await http.get(f"/.well-known/{document}")).json()
            assert told["registration_endpoint"] == f"{door.origin}/register"
        preflight = await http.options("/register")
    assert preflight.headers["access-control-allow-origin"] == "*"


# -- what is registered -------------------------------------------------------------------------------------------


async def test_as_22_a_public_client_gets_a_random_id_and_no_secret() -> None:
    door = open_door()
    replies = [await register(door, f"192.0.2.{number}") for number in range(20)]
    made = [reply.json() for reply in replies]
    assert {reply.status_code for reply in replies} == {201}
    assert all(reply.headers["cache-control"] == "no-store" for reply in replies)
    ids = {one["client_id"] for one in made}
    assert len(ids) == 20
    assert all(one.startswith("dcr_") and len(one) == 30 for one in ids)  # 130 random bits, and no URL
    assert not any("client_secret" in one for one in made)
    assert made[0] == {
        "client_id": made[0]["client_id"],
        "client_id_issued_at": made[0]["client_id_issued_at"],
        "client_name": "Tool",
        "redirect_uris": ["http://127.0.0.1/callback"],
        "token_endpoint_auth_method": "none",
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
        "application_type": "native",
    }


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_as_22_a_program_on_somebodys_computer_is_made_public_whatever_it_asks(method: str) -> None:
    made = (await register(open_door(), token_endpoint_auth_method=method)).json()
    assert made["token_endpoint_auth_method"] == "none"
    assert "client_secret" not in made


async def test_a_web_application_may_have_a_secret_and_must_then_use_it() -> None:
    door = open_door()
    await door.user()
    made = (await register(door, **WEB, token_endpoint_auth_method="client_secret_basic")).json()
    assert made["client_secret_expires_at"] == 0
    async with door.http() as http:
        query = authorize_query(client_id=made["client_id"], redirect_uri="https://site.example/cb")
        code = (await Browser(http).code(query))["code"]
        form = {"redirect_uri": "https://site.example/cb", "client_id": made["client_id"]}
        assert (await redeem(http, code, **form)).status_code == 401
        http.auth = httpx2.BasicAuth(made["client_id"], made["client_secret"])
        assert (await redeem(http, code, **form)).status_code == 200


async def test_a_client_may_register_its_public_keys() -> None:
    made = await register(open_door(), token_endpoint_auth_method="private_key_jwt", jwks=public_jwks(CLIENT_KEY))
    assert made.json()["token_endpoint_auth_method"] == "private_key_jwt"


async def test_a_registered_client_logs_a_person_in() -> None:
    door = open_door()
    await door.user()
    made = (await register(door, grant_types=["authorization_code", "refresh_token"])).json()
    reply = await log_in(door, made["client_id"])
    assert reply.status_code == 200
    assert door.verified(reply.json()["access_token"]).client_id == made["client_id"]


async def test_the_consent_page_believes_no_name_that_a_client_gave_itself() -> None:
    door = open_door()
    await door.user()
    native = (await register(door, client_name="Claude")).json()
    web = (await register(door, **{**WEB, "client_name": "Claude"})).json()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query(client_id=native["client_id"])))
        assert f'<strong class="identity">{UNVERIFIED}</strong>' in page.text
        assert "Claude" in page.text
        assert "any program on that computer could be asking" in page.text
        query = authorize_query(client_id=web["client_id"], redirect_uri="https://site.example/cb")
        page = await browser.open(query)
        assert '<strong class="identity">site.example</strong>' in page.text


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"grant_types": ["client_credentials"]}, "invalid_client_metadata"),
        ({"grant_types": ["authorization_code", "client_credentials"]}, "invalid_client_metadata"),
        ({"grant_types": ["urn:ietf:params:oauth:grant-type:jwt-bearer"]}, "invalid_client_metadata"),
        ({"grant_types": ["urn:ietf:params:oauth:grant-type:token-exchange"]}, "invalid_client_metadata"),
        ({"grant_types": ["implicit"]}, "invalid_client_metadata"),
        ({"grant_types": ["refresh_token"]}, "invalid_client_metadata"),
        ({"response_types": ["token"]}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "tls_client_auth"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://a.example/k"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "https://10.0.0.1/k"}, "invalid_client_metadata"),
        ({"token_endpoint_auth_method": "private_key_jwt", "jwks": {"keys": []}}, "invalid_client_metadata"),
        ({"application_type": "service"}, "invalid_client_metadata"),
        ({"application_type": "web"}, "invalid_redirect_uri"),
        ({"application_type": "web", "redirect_uris": ["com.example.app:/cb"]}, "invalid_redirect_uri"),
        ({"application_type": "web", "redirect_uris": ["https://localhost.evil.example/cb", "http://localhost/"]}, "invalid_redirect_uri"),
        ({"redirect_uris": None}, "invalid_redirect_uri"),
        ({"redirect_uris": []}, "invalid_redirect_uri"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["data:text/html,x"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://tool.example/cb"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://*.tool.example/cb"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["https://tool.example/cb#x"]}, "invalid_redirect_uri"),
        ({"redirect_uris": ["http://127.0.0.1/cb"] * 21}, "invalid_redirect_uri"),
        ({"redirect_uris": "http://127.0.0.1/cb"}, "invalid_client_metadata"),
        ({"redirect_uris": [1]}, "invalid_client_metadata"),
        ({"client_name": ["x"]}, "invalid_client_metadata"),
        ({"client_name": "x" * 2049}, "invalid_client_metadata"),
        ({"scope": 'a"b'}, "invalid_client_metadata"),
    ],
)  # fmt: skip
async def test_as_22_a_request_for_what_nobody_may_register_is_refused(members: dict[str, JSON], error: str) -> None:
    door = open_door()
    reply = await register(door, **members)
    assert (reply.status_code, reply.json()["error"]) == (400, error)
    assert door.named("identity.client.registered") == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"a":1,"a":2}', b'"x"', b"{" + b" " * 17_000 + b"}", b"[" * 50])
async def test_a_body_that_is_no_strict_object_is_refused(body: bytes) -> None:
    async with open_door().http() as http:
        reply = await http.post("/register", content=body, headers={"content-type": "application/json"})
        assert (reply.status_code, reply.json()["error"]) == (400, "invalid_client_metadata")
        form = await http.post("/register", data={"redirect_uris": "x"})
        assert form.status_code == 400


async def test_as_22_a_software_statement_gives_nothing() -> None:
    statement = "eyJhbGciOiJub25lIn0.eyJjbGllbnRfbmFtZSI6IkJhbmsiLCJzY29wZSI6ImFkbWluIn0."
    made = (await register(open_door(), software_statement=statement, client_id="mine", client_secret="s")).json()
    assert made["client_name"] == "Tool"
    assert made["client_id"] != "mine"
    assert not made.keys() & {"scope", "software_statement", "client_secret"}


async def test_the_scope_that_a_client_registered_with_does_not_keep_it_from_a_step_up() -> None:
    door = open_door()
    await door.user()
    made = (await register(door, scope="time:read")).json()
    assert "scope" not in made
    async with door.http() as http:
        found = await Browser(http).code(authorize_query(client_id=made["client_id"], scope="time:read time:write"))
        token = (await redeem(http, found["code"], client_id=made["client_id"])).json()
    assert token["scope"] == "time:read time:write"


async def test_what_real_clients_send_beside_the_point_is_left_out_and_the_answer_says_so() -> None:
    """VS Code registers as native with its site's redirect too; others list grants that OAuth 2.1 dropped."""
    made = await register(
        open_door(),
        application_type="native",
        redirect_uris=["https://vscode.dev/redirect", "http://127.0.0.1:33418/", "cursor://auth/callback"],
        grant_types=["authorization_code", "refresh_token", "implicit", "password"],
        response_types=["code", "token"],
        contacts=["a@b.example"],
    )
    assert made.status_code == 201
    assert made.json()["grant_types"] == ["authorization_code", "refresh_token"]
    assert made.json()["response_types"] == ["code"]


# -- floods ------------------------------------------------------------------------------------------------------------


async def test_as_22_ten_registrations_an_hour_from_one_address() -> None:
    door = open_door()
    codes = [(await register(door, f"2001:db8:1:2::{number:x}")).status_code for number in range(12)]
    assert codes == [201] * 10 + [429] * 2
    assert (await register(door, "2001:db8:1:3::1")).status_code == 201
    door.clock.advance(3600)
    assert (await register(door, "2001:db8:1:2::1")).status_code == 201


async def test_as_22_twin_without_the_limit_all_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PER_HOUR", 1000)
    door = open_door()
    assert [(await register(door)).status_code for _ in range(12)] == [201] * 12


async def test_as_22_a_registration_that_nobody_used_is_gone_after_a_day() -> None:
    door = open_door()
    await door.user()
    unused, used = [(await register(door)).json()["client_id"] for _ in range(2)]
    assert (await log_in(door, used)).status_code == 200
    door.clock.advance(24 * 3600)
    assert await door.identity.clients.find(unused) is None
    assert await door.identity.clients.find(used) is not None
    async with door.http() as http:
        assert (await Browser(http).open(authorize_query(client_id=unused))).status_code == 400
    door.clock.advance(90 * 24 * 3600)
    assert await door.identity.clients.find(used) is None


async def test_as_22_asking_without_a_person_is_no_use() -> None:
    """Twin of the rule before: what a stranger can do by himself does not keep a registration alive."""
    door = open_door()
    made = (await register(door)).json()["client_id"]
    async with door.http() as http:
        await Browser(http).open(authorize_query(client_id=made))
        assert (await redeem(http, "code_x.acme", client_id=made)).status_code == 400
    door.clock.advance(24 * 3600)
    assert await door.identity.clients.find(made) is None


async def test_as_22_a_flood_of_ten_thousand_stays_below_the_cap_and_displaces_nobody_who_is_in_use() -> None:
    door = open_door(registration_cap=20)
    await door.user()
    used = (await register(door)).json()["client_id"]
    assert (await log_in(door, used)).status_code == 200
    early = (await register(door)).json()["client_id"]
    registrations = door.identity.registrations
    made = metadata.parse_registration(NATIVE)
    for _ in range(10_000):
        door.clock.advance(0.001)
        registrations.add(made)
    assert len(registrations.list()) == 20
    assert await door.identity.clients.find(used) is not None
    assert await door.identity.clients.find(early) is None


async def test_ids_of_other_kinds_are_never_taken_for_registrations() -> None:
    door = open_door()
    for name in ("tool", "dcr_", "dcr_" + "0" * 26, "dcr_x" * 40, "dcr_\x00", "dcr_é"):
        assert (await door.identity.clients.find(name) is not None) is (name == "tool")


async def test_a_callback_that_was_not_registered_is_not_redirected_to() -> None:
    door = open_door()
    made = (await register(door, redirect_uris=["http://127.0.0.1/other"])).json()["client_id"]
    async with door.http() as http:
        reply = await Browser(http).open(authorize_query(client_id=made, redirect_uri=CALLBACK))
    assert reply.status_code == 400


async def test_an_operator_sees_and_removes_clients_that_registered_themselves() -> None:
    door = open_door()
    await door.user()
    made = (await register(door)).json()["client_id"]
    token = (await log_in(door, made)).json()["access_token"]
    assert door.verified(token)
    ((client, since_s),) = door.identity.registrations.list()
    assert (client.client_id, since_s) == (made, door.clock.now_us() // 1_000_000)
    assert door.identity.registrations.remove(made, by="uid:1000")
    assert not door.identity.registrations.remove(made, by="uid:1000")
    assert not door.identity.registrations.remove("tool", by="uid:1000")
    assert await door.identity.clients.find(made) is None
    with pytest.raises(Unauthenticated):
        door.verified(token)
    assert door.named("identity.client.removed") == [{"client_id": made, "method": "registration", "by": "uid:1000"}]


@pytest.mark.parametrize("uri", ["com.example.app://[x", "com.example.app://a]b/cb"])
async def test_as_03_a_redirect_that_no_page_could_show_is_not_registered_and_spoils_no_list(uri: str) -> None:
    door = open_door()
    refused = await register(door, redirect_uris=[uri])
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_redirect_uri")
    assert (await register(door, redirect_uris=["com.example.app://a/cb"])).status_code == 201  # the twin
    assert len(door.identity.registrations.list()) == 1


ASTRAY = {"response_type": "x", "scope": "none:such", "resource": "https://elsewhere.example/", "prompt": "none"}


@pytest.mark.parametrize(("name", "value"), ASTRAY.items())
async def test_as_01_nobody_is_sent_to_a_strangers_web_site_for_a_mistake_in_the_request(name: str, value: str) -> None:
    door = open_door()
    client_id = (await register(door, **{"redirect_uris": ["https://site.example/cb"]})).json()["client_id"]
    query = authorize_query(client_id=client_id, redirect_uri="https://site.example/cb", **{name: value})
    async with door.http() as http:
        shown = await Browser(http).open(query, site="cross-site")
    assert (shown.status_code, shown.headers.get("location")) == (400, None)


@pytest.mark.parametrize(("name", "value"), ASTRAY.items())
async def test_as_08_its_own_computer_or_an_operators_client_is_told(name: str, value: str) -> None:
    door = open_door()
    client_id = (await register(door)).json()["client_id"]
    async with door.http() as http:
        for client, redirect in ((client_id, CALLBACK), ("tool", "https://tool.example/cb")):
            query = authorize_query(client_id=client, redirect_uri=redirect, **{name: value})
            told = await Browser(http).open(query, site="cross-site")
            assert told.headers["location"].startswith(f"{redirect}?error="), redirect


async def asked_of_somebody_signed_in(vouched: bool, decide: bool) -> httpx2.Response:
    """Return what somebody who is signed in gets for a silent request, or for saying no, of a web site."""
    door = open_door()
    await door.user()
    site, client_id = "https://tool.example/cb", "tool"
    if not vouched:
        site = "https://site.example/cb"
        client_id = (await register(door, redirect_uris=[site])).json()["client_id"]
    query = authorize_query(client_id=client_id, redirect_uri=site, prompt="-" if decide else "none")
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        shown = await browser.open(query, site="cross-site")
        return await browser.approve(shown, "deny") if decide else shown


@pytest.mark.parametrize("decide", [True, False])
async def test_rfc9700_4_11_2_nobody_is_sent_to_a_strangers_web_site_who_did_not_agree_to_it(decide: bool) -> None:
    shown = await asked_of_somebody_signed_in(vouched=False, decide=decide)
    assert (shown.status_code, shown.headers.get("location")) == (200, None)
    assert "<code>site.example</code>" in shown.text
    error = "access_denied" if decide else "consent_required"
    link = f'href="https://site.example/cb?error={error}&amp;state=xyz&amp;iss=https%3A%2F%2Ffw.example"'
    assert f'{link} rel="noreferrer noopener"' in shown.text
    assert "refresh" not in shown.headers
    assert "script" not in shown.text


@pytest.mark.parametrize("decide", [True, False])
async def test_as_08_a_web_site_that_an_operator_registered_is_told_at_once(decide: bool) -> None:
    """The twin of the test above."""
    told = await asked_of_somebody_signed_in(vouched=True, decide=decide)
    assert told.headers["location"].startswith("https://tool.example/cb?error=")


async def test_a_strangers_web_site_that_a_person_agreed_to_gets_them_back_by_itself() -> None:
    door = open_door()
    await door.user()
    client_id = (await register(door, redirect_uris=["https://site.example/cb"])).json()["client_id"]
    query = authorize_query(client_id=client_id, redirect_uri="https://site.example/cb")
    async with door.http() as http:
        browser = Browser(http)
        assert "code" in await browser.code(query)
        again = await browser.open({**query, "prompt": "none"})
    assert again.headers["location"].startswith("https://site.example/cb?code=")
