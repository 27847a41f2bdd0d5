"""RFC 7662: who may ask about which token, and what is told."""

from __future__ import annotations

import hashlib

import httpx2
import pytest
from joserfc.jwk import ECKey

from firewall.core.jsonvalue import JSON
from firewall.identity import standing
from firewall.identity.rfc7523 import client_auth
from firewall.identity.rfc7662.introspection import IntrospectionEndpoint
from firewall.identity.settings import ClientSettings
from firewall.wire import jwt
from tests.support.door import (
    CIMD_URL,
    GIT,
    ORIGIN,
    SERVER_KEY,
    TIME,
    Browser,
    Door,
    authorize_query,
    make_door,
    redeem,
    registered_clients,
)

SECRET = "a-long-random-secret-of-a-resource"
INACTIVE = {"active": False}


def server(client_id: str, resource: str, tenant: str = "acme") -> ClientSettings:
    return ClientSettings(
        client_id,
        client_id,
        auth_method="client_secret_basic",
        grant_types=("client_credentials",),
        tenant=tenant,
        secret_sha256=hashlib.sha256(SECRET.encode()).hexdigest(),
        resource=resource,
    )


def door_with_servers(**changes: object) -> Door:
    clients = (
        *registered_clients(),
        server("rs-time", "/mcp/time"),
        server("rs-git", "/mcp/git"),
        server("rs-none", ""),
        server("rs-other-tenant", "/mcp/time", tenant="umbrella"),
    )
    return make_door(clients=clients, **changes)


async def ask(http: httpx2.AsyncClient, token: str, who: str = "rs-time", **form: str) -> httpx2.Response:
    return await http.post("/introspect", data={"token": token, **form}, auth=(who, SECRET))


async def person_tokens(door: Door, http: httpx2.AsyncClient) -> dict[str, str]:
    await door.user()
    body: dict[str, str] = (await redeem(http, (await Browser(http).code())["code"])).json()
    return body


async def test_a_resource_learns_what_a_token_for_it_says() -> None:
    door = door_with_servers()
    async with door.http() as http:
        body = await person_tokens(door, http)
        reply = await ask(http, body["access_token"])
    told = reply.json()
    assert told["active"] is True
    assert (told["iss"], told["aud"], told["client_id"], told["scope"]) == (ORIGIN, TIME, CIMD_URL, "time:read")
    assert told["token_type"] == "Bearer"
    assert told["exp"] - told["iat"] == 300
    assert "standing" not in told
    assert reply.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize("who", ["rs-git", "rs-none", "rs-other-tenant", "svc-basic"])
async def test_as_23_a_client_is_told_nothing_about_tokens_that_are_not_its_own(who: str) -> None:
    door = door_with_servers()
    async with door.http() as http:
        body = await person_tokens(door, http)
        secret = "a-long-random-secret" if who == "svc-basic" else SECRET
        for token in (body["access_token"], body["refresh_token"]):
            reply = await http.post("/introspect", data={"token": token}, auth=(who, secret))
            assert (reply.status_code, reply.json()) == (200, INACTIVE)


async def test_without_the_tenant_check_another_tenants_resource_would_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the test above: the answer of a namesake whose tenant is not looked at."""
    door = door_with_servers()
    async with door.http() as http:
        body = await person_tokens(door, http)
        plain = IntrospectionEndpoint.describe

        def careless(self: IntrospectionEndpoint, client: object, token: str) -> object:
            object.__setattr__(client, "tenant", "")
            return plain(self, client, token)  # type: ignore[arg-type]

        monkeypatch.setattr(IntrospectionEndpoint, "describe", careless)
        assert (await ask(http, body["access_token"], "rs-other-tenant")).json()["active"] is True


@pytest.mark.parametrize(
    ("form", "auth", "status"),
    [
        ({"client_id": CIMD_URL}, None, 401),
        ({"client_id": "tool"}, None, 401),
        ({}, None, 401),
        ({}, ("rs-time", "guess"), 401),
        ({}, ("nobody", SECRET), 401),
        ({"token": ""}, ("rs-time", SECRET), 400),
    ],
)
async def test_op_07_whoever_asks_proves_who_it_is(
    form: dict[str, str], auth: tuple[str, str] | None, status: int
) -> None:
    door = door_with_servers()
    async with door.http() as http:
        body = await person_tokens(door, http)
        data = {"token": body["access_token"], **form}
        reply = await http.post("/introspect", data=data, auth=auth)  # type: ignore[arg-type]
    assert reply.status_code == status
    assert "active" not in reply.text


@pytest.mark.parametrize("control", ["on", "off"])
async def test_op_07_a_question_under_the_name_of_a_resource(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the control off whoever knows a resource's name learns what every token for it says."""
    door = door_with_servers()
    async with door.http() as http:
        body = await person_tokens(door, http)
        if control == "off":
            monkeypatch.setattr(client_auth.hmac, "compare_digest", lambda *_: True)
        reply = await http.post("/introspect", data={"token": body["access_token"]}, auth=("rs-time", "a guess"))
    assert reply.status_code == (200 if control == "off" else 401)
    assert ("active" in reply.json()) is (control == "off")


async def test_what_has_ended_is_inactive_however_it_ended() -> None:
    door = door_with_servers()
    async with door.http() as http:
        body = await person_tokens(door, http)
        token = body["access_token"]
        assert (await ask(http, token)).json()["active"] is True
        claims = jwt.parse_compact(token.encode()).claims
        door.identity.grants.revoke("acme", str(claims["sub"]), str(claims["gid"]), reason="test")
        assert (await ask(http, token)).json() == INACTIVE
        browser = Browser(http)
        token = (await redeem(http, (await browser.code())["code"])).json()["access_token"]
        assert (await ask(http, token)).json()["active"] is True
        door.identity.grants.standing.end("_node", standing.client(CIMD_URL))
        assert (await ask(http, token)).json() == INACTIVE
        door.clock.advance(1)
        token = (await redeem(http, (await browser.code())["code"])).json()["access_token"]
        assert (await ask(http, token)).json()["active"] is True
        door.clock.advance(300)
        assert (await ask(http, token)).json() == INACTIVE


async def test_a_client_learns_about_its_own_refresh_token_until_it_has_a_successor() -> None:
    web = ClientSettings(
        "web",
        "Web",
        redirect_uris=("https://tool.example/cb",),
        auth_method="client_secret_basic",
        tenant="acme",
        secret_sha256=hashlib.sha256(SECRET.encode()).hexdigest(),
    )
    door = make_door(clients=(web, server("rs-time", "/mcp/time")))
    await door.user()
    async with door.http() as http:
        query = authorize_query(client_id="web", redirect_uri="https://tool.example/cb")
        code = (await Browser(http).code(query))["code"]
        form = {"grant_type": "authorization_code", "code": code, "code_verifier": "v" * 43}
        first = (await http.post("/token", data=form, auth=("web", SECRET))).json()["refresh_token"]
        told = (await ask(http, first, "web")).json()
        assert (told["active"], told["client_id"], told["aud"], told["scope"]) == (True, "web", TIME, "time:read")
        assert told["exp"] > door.clock.now_us() // 1_000_000
        # The resource never sees refresh tokens.
        assert (await ask(http, first, "rs-time")).json() == INACTIVE
        used = {"grant_type": "refresh_token", "refresh_token": first}
        second = (await http.post("/token", data=used, auth=("web", SECRET))).json()["refresh_token"]
        assert (await ask(http, first, "web")).json() == INACTIVE
        assert (await ask(http, second, "web")).json()["active"] is True


@pytest.mark.parametrize(
    "changes",
    [{"iss": ORIGIN + "/"}, {"aud": [TIME]}, {"aud": TIME + "/"}, {"exp": 1}, {"tenant": "umbrella"}, {"gid": None}],
)
async def test_a_forged_or_odd_token_is_inactive(changes: dict[str, JSON]) -> None:
    door = door_with_servers()
    now_s = door.clock.now_us() // 1_000_000
    claims: dict[str, JSON] = {
        "iss": ORIGIN,
        "aud": TIME,
        "sub": "u",
        "client_id": "c",
        "jti": "j",
        "gid": "g",
        "tenant": "acme",
        "scope": "time:read",
        "iat": now_s,
        "exp": now_s + 60,
    }

    def signed(more: dict[str, JSON], key: ECKey = SERVER_KEY, typ: str = "at+jwt") -> str:
        values = {name: value for name, value in {**claims, **more}.items() if value is not None}
        return jwt.sign(values, key, alg="ES256", typ=typ, kid=SERVER_KEY.thumbprint())

    async with door.http() as http:
        assert (await ask(http, signed({}))).json()["active"] is True
        assert (await ask(http, signed(changes))).json() == INACTIVE
        assert (await ask(http, signed({}, key=ECKey.generate_key("P-256", private=True)))).json() == INACTIVE
        assert (await ask(http, signed({}, typ="JWT"))).json() == INACTIVE
        for odd in ("x", "a.b.c", "bzr_" + "A" * 43 + ".acme", "\U0001f600"):
            assert (await ask(http, odd)).json() == INACTIVE


async def test_a_service_may_ask_about_its_own_token_for_another_resource() -> None:
    door = door_with_servers()
    async with door.http() as http:
        form = {"grant_type": "client_credentials", "resource": GIT, "scope": "git:read"}
        token = (await http.post("/token", data=form, auth=("rs-time", SECRET))).json()["access_token"]
        assert (await ask(http, token, "rs-time")).json()["active"] is True
        assert (await ask(http, token, "rs-git")).json()["active"] is True
        assert (await ask(http, token, "rs-none")).json() == INACTIVE
