"""The shell: exact paths, methods, CORS, metadata documents, limits, and what happens when something breaks."""

import pytest
from mcp.shared.auth import OAuthMetadata, ProtectedResourceMetadata

from firewall.core.errors import AuditUnavailable, ConfigFault, StateUnavailable
from firewall.identity.settings import ClientSettings, IdentitySettings, ProtectedResource
from tests.support.door import (
    CIMD_URL,
    ORIGIN,
    SERVER_KEY,
    TIME,
    Browser,
    authorize_query,
    inputs_of,
    make_door,
    redeem,
)

WELL_KNOWN = "/.well-known/oauth-authorization-server"
PRM = "/.well-known/oauth-protected-resource"


async def test_metadata_of_a_resource_is_at_its_inserted_path() -> None:
    door = make_door()
    async with door.http() as http:
        reply = await http.get(f"{PRM}/mcp/time", headers={"Host": "evil.example", "X-Forwarded-Host": "evil.example"})
    assert reply.json() == {
        "resource": TIME,
        "resource_name": "Time (via Bartizan)",
        "authorization_servers": [ORIGIN],
        "scopes_supported": ["time:read"],
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": ["ES256"],
        "authorization_details_types_supported": ["mcp_tool"],
    }
    assert reply.headers["access-control-allow-origin"] == "*"
    assert reply.headers["cache-control"] == "public, max-age=300"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert str(ProtectedResourceMetadata.model_validate(reply.json()).resource) == TIME


@pytest.mark.parametrize(
    "path",
    [
        PRM,
        f"{PRM}/",
        f"{PRM}/mcp",
        f"{PRM}/mcp/",
        f"{PRM}/mcp/time/",
        f"{PRM}/mcp/nothing",
        f"{PRM}/mcp/../mcp/time",
        "/",
        "/register",
        "/introspect/",
        "/authorize/",
        "/Token",
        "/.well-known/jwks.json/x",
        "/assets/",
        "/assets/../templates/login.html",
    ],
)
async def test_rs_20_unknown_paths_are_404_in_json_without_a_redirect(path: str) -> None:
    door = make_door()
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], "client": None}
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await door.identity.front_door(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 404
    assert (b"content-type", b"application/json") in sent[0]["headers"]  # type: ignore[operator]


async def test_server_metadata_offers_what_exists_and_nothing_else() -> None:
    door = make_door()
    async with door.http() as http:
        body = (await http.get(WELL_KNOWN)).json()
        alias = (await http.get("/.well-known/openid-configuration")).json()
    assert body["issuer"] == ORIGIN
    assert body["code_challenge_methods_supported"] == ["S256"]
    assert body["client_id_metadata_document_supported"] is True
    assert body["authorization_response_iss_parameter_supported"] is True
    assert "none" in body["token_endpoint_auth_methods_supported"]
    assert body["scopes_supported"] == [
        "git:read", "git:write", "llm:invoke", "time:read", "time:write", "offline_access",
    ]  # fmt: skip
    assert all(value.startswith(ORIGIN + "/") for name, value in body.items() if name.endswith(("_endpoint", "_uri")))
    assert {**body, "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"]} == alias
    assert str(OAuthMetadata.model_validate(body).authorization_endpoint) == f"{ORIGIN}/authorize"


async def test_op_09_no_weak_flow_is_advertised() -> None:
    door = make_door(cimd_policy="off")
    async with door.http() as http:
        text = (await http.get(WELL_KNOWN)).text
    for word in (
        "password",
        "implicit",
        "fragment",
        "plain",
        "registration_endpoint",
        "client_secret_post",
        "token id",
    ):
        assert word not in text, word
    assert '"client_id_metadata_document_supported":false' in text


async def test_op_04_the_key_set_has_public_members_only() -> None:
    door = make_door()
    async with door.http() as http:
        keys = (await http.get("/.well-known/jwks.json")).json()["keys"]
    assert [sorted(key) for key in keys] == [["alg", "crv", "kid", "kty", "use", "x", "y"]]
    assert keys[0]["kid"] == SERVER_KEY.thumbprint()


async def test_as_13_only_what_programs_call_answers_other_origins() -> None:
    door = make_door()
    async with door.http() as http:
        for path in (WELL_KNOWN, f"{PRM}/mcp/time", "/.well-known/jwks.json", "/token", "/revoke"):
            reply = await http.options(path, headers={"Origin": "https://a.example"})
            assert reply.status_code == 204
            assert reply.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in reply.headers
        for path in ("/authorize", "/login", "/consent", "/account/grants", "/logout"):
            reply = await http.options(path, headers={"Origin": "https://a.example"})
            assert reply.status_code == 405
        page = await http.get("/authorize")
        assert "access-control-allow-origin" not in page.headers


async def test_wrong_methods_name_the_right_ones() -> None:
    door = make_door()
    async with door.http() as http:
        assert (await http.get("/token")).headers["allow"] == "POST"
        assert (await http.delete("/consent")).headers["allow"] == "GET, POST"
        assert (await http.post(WELL_KNOWN)).status_code == 405


async def test_the_stylesheet_is_served_and_nothing_beside_it() -> None:
    door = make_door()
    async with door.http() as http:
        reply = await http.get("/assets/front-door.css")
    assert reply.headers["content-type"] == "text/css; charset=utf-8"
    assert "url(" not in reply.text
    assert "@import" not in reply.text
    assert door.identity.front_door.handles("/token")
    assert not door.identity.front_door.handles("/mcp/time")


async def test_a_large_body_and_a_second_authorization_header_are_refused() -> None:
    door = make_door()
    async with door.http() as http:
        big = await http.post("/token", content=b"a=" + b"x" * 70_000)
        assert big.status_code == 413
        twice = await http.post("/token", headers=[("Authorization", "Basic eA=="), ("Authorization", "Basic eQ==")])
        assert twice.status_code == 400


@pytest.mark.parametrize("error", [StateUnavailable("x"), AuditUnavailable("audit"), RuntimeError("secret text")])
async def test_a_failure_closes_and_says_nothing_of_itself(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()

    def fail(*_args: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr("firewall.state.memory.MemoryCollection.add", fail)
    async with door.http() as http:
        reply = await http.post("/token", data={"grant_type": "x"})
    assert reply.status_code == (500 if isinstance(error, RuntimeError) else 503)
    assert "secret" not in reply.text
    assert door.named("identity.failure")[0]["type"] == type(error).__name__


async def test_when_no_record_can_be_written_no_token_is_given() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        door.audit_down = True
        reply = await redeem(http, code)
    assert reply.status_code == 503
    assert "access_token" not in reply.text


async def test_the_account_page_ends_a_connection_and_forgets_the_consent() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        body = (await redeem(http, (await browser.code())["code"])).json()
        page = await browser.get("/account/grants")
        assert "app.example" in page.text
        values = inputs_of(page.text.replace('action="/logout"', ""))
        assert (await browser.post("/account/grants", values, Origin="https://evil.example")).status_code == 403
        assert (await browser.post("/account/grants", {**values, "csrf": "x.y"})).status_code == 403
        assert (await browser.post("/account/grants", values)).status_code == 303
        assert "No program is connected" in (await browser.get("/account/grants")).text
        with pytest.raises(Exception, match="token_invalid"):
            door.verified(body["access_token"])
        assert (await browser.open(authorize_query())).status_code == 200
        assert (await browser.post("/logout", {"csrf": values["csrf"]})).status_code == 303
        assert 'action="/login"' in (await browser.get("/account/grants")).text


async def test_a_person_sees_only_their_own_connections() -> None:
    door = make_door()
    await door.user()
    await door.user("eve")
    async with door.http() as http:
        browser = Browser(http)
        await redeem(http, (await browser.code())["code"])
        http.cookies.clear()
        await browser.sign_in(await browser.open(authorize_query()), name="eve")
        assert "No program is connected" in (await browser.get("/account/grants")).text


@pytest.mark.parametrize(
    "url",
    [
        "http://fw.example",
        "https://fw.example/",
        "https://fw.example/base",
        "https://fw.example?x",
        "https://user@fw.example",
        "https://FW.example",
        "fw.example",
        "https://",
        "https://fw.example:x",
        "ftp://fw.example",
        "",
    ],
)
def test_op_03_the_public_url_is_a_bare_https_origin_or_loopback(url: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        IdentitySettings(public_url=url)
    assert caught.value.fix


@pytest.mark.parametrize(
    "url",
    ["https://fw.example", "https://fw.example:8443", "http://127.0.0.1:8700", "http://localhost:1", "http://[::1]:80"],
)
def test_op_03_these_public_urls_are_good(url: str) -> None:
    assert IdentitySettings(public_url=url).public_url == url


@pytest.mark.parametrize(
    "client",
    [
        ClientSettings(CIMD_URL, "x"),
        ClientSettings("a", "x", auth_method="client_secret_basic"),
        ClientSettings("a", "x", auth_method="private_key_jwt"),
        ClientSettings("a", "x", auth_method="private_key_jwt", jwks={}, jwks_uri="https://a.example/j"),
        ClientSettings("a", "x", grant_types=("client_credentials",)),
        ClientSettings("a", "x", tenant="A/B"),
    ],
)
def test_a_client_that_cannot_work_is_refused_at_start(client: ClientSettings) -> None:
    with pytest.raises(ConfigFault):
        IdentitySettings(public_url=ORIGIN, clients=(client,))


def test_two_resources_cannot_share_a_path() -> None:
    one = ProtectedResource("/mcp/a", "A", ("a:read",), ("a:read",))
    with pytest.raises(ConfigFault):
        IdentitySettings(public_url=ORIGIN, resources=(one, one))
