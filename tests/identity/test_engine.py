"""authlib's core behind our own ASGI side: each of the fifteen pitfalls of the oauth reference, §8, closed and shown so."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from typing import Any, ClassVar

import httpx2
import pytest
from authlib.oauth2.drafts import IDJAGGrant
from authlib.oauth2.rfc6749 import (
    AuthorizationCodeGrant,
    BaseGrant,
    InsecureTransportError,
    InvalidGrantError,
    RefreshTokenGrant,
    UnsupportedGrantTypeError,
)
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7523 import JWTBearerGrant
from authlib.oauth2.rfc7636 import CodeChallenge

from firewall.core.errors import Unauthenticated
from firewall.identity.clients.registry import from_settings
from firewall.identity.engine import registered
from firewall.identity.engine.grant import CONFIDENTIAL, TokenGrant
from firewall.identity.engine.registered import GRANTS, Registered
from firewall.identity.engine.requests import TokenRequest
from firewall.identity.engine.server import TokenServer
from firewall.identity.oauth21.grants.client_credentials import ClientCredentials
from firewall.identity.oauth21.grants.code import CodeGrant
from firewall.identity.oauth21.grants.refresh import RefreshGrant
from firewall.identity.settings import ClientSettings
from firewall.identity.web import WebRequest
from firewall.state.memory import MemoryCollection
from firewall.wire import jwt
from firewall.wire.oauth import Form, OAuthError
from tests.support.door import (
    CIMD_URL,
    ORIGIN,
    SERVER_KEY,
    TIME,
    Browser,
    Door,
    assertion,
    authorize_query,
    client_credentials,
    make_door,
    redeem,
    refresh,
)

HTTP = WebRequest("POST", "/token", b"", {})
FORM = Form({"grant_type": "client_credentials", "resource": TIME}, frozenset())
SERVICE = from_settings(
    ClientSettings("svc", "S", auth_method="private_key_jwt", grant_types=("client_credentials",), jwks={})
)


def core(door: Door) -> TokenServer:
    """Return the engine of a door, as its first token request makes it."""
    return door.identity.front_door._routes["/token"]["POST"].__self__._engine()  # type: ignore[attr-defined,no-any-return]


def claims(token: str) -> dict[str, Any]:
    return jwt.parse_compact(token.encode()).claims


# -- loading ------------------------------------------------------------------------------------------


def test_authlib_is_not_loaded_before_the_first_token_request() -> None:
    code = "import firewall.app, sys; sys.exit(any(name.partition('.')[0] == 'authlib' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


def test_every_registered_grant_loads_and_answers_to_its_name() -> None:
    for entry in GRANTS:
        grant = entry.load()
        assert issubclass(grant, TokenGrant)
        assert entry.grant_type == grant.GRANT_TYPE
    assert len({entry.grant_type for entry in GRANTS}) == len(GRANTS)


async def test_metadata_lists_exactly_the_grants_that_are_registered() -> None:
    door = make_door()
    async with door.http() as http:
        told = (await http.get("/.well-known/oauth-authorization-server")).json()["grant_types_supported"]
        for grant_type in told:
            reply = await http.post("/token", data={"grant_type": grant_type})
            assert reply.json()["error"] != "unsupported_grant_type"
    assert told == list(registered.grant_types(door.identity.settings))


# -- the pitfalls, by their numbers ---------------------------------------------------------------------


class Waiting(TokenGrant):
    """A grant that has to await something."""

    GRANT_TYPE = "urn:example:waiting"
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar[list[str]] = list(CONFIDENTIAL)
    prepared = False

    async def prepare(self) -> None:
        await asyncio.sleep(0)
        self.prepared = True

    def validate_token_request(self) -> None:
        if not self.prepared:
            raise OAuthError("invalid_grant", "not_prepared")
        if self.form.get("refuse"):
            raise InvalidGrantError(description=f"You sent {self.form.get('refuse')}")

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        return 200, {"access_token": self.client.client_id}, [("X-Further", "1"), ("Cache-Control", "public")]


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Door:
    entry = Registered(Waiting.GRANT_TYPE, "engine:Waiting")
    monkeypatch.setattr(Registered, "load", lambda self: Waiting)
    monkeypatch.setattr(registered, "GRANTS", (entry,))
    client = ClientSettings(
        "svc-batch",
        "Batch",
        auth_method="private_key_jwt",
        grant_types=(Waiting.GRANT_TYPE,),
        tenant="acme",
        jwks=make_door().identity.settings.clients[1].jwks,
    )
    return make_door(clients=(client, ClientSettings("tool", "Tool", grant_types=(Waiting.GRANT_TYPE,))))


async def test_pitfall_01_what_must_be_awaited_is_awaited_before_the_synchronous_core(waiting: Door) -> None:
    async with waiting.http() as http:
        reply = await client_credentials(http, assertion(waiting), grant_type=Waiting.GRANT_TYPE)
    assert reply.json() == {"access_token": "svc-batch"}
    assert reply.headers["x-further"] == "1"
    assert reply.headers["cache-control"] == "no-store"


async def test_pitfall_01_the_core_finds_no_client_by_itself() -> None:
    server = core(make_door())
    assert server.query_client(CIMD_URL) is None
    assert server.query_client("svc-batch") is None


async def test_pitfall_02_behind_a_proxy_that_ends_tls_the_configured_url_counts() -> None:
    door = make_door()
    transport = httpx2.ASGITransport(app=door.identity.front_door, client=("192.0.2.7", 4000))
    async with httpx2.AsyncClient(transport=transport, base_url="http://internal:8080") as http:
        assert (await client_credentials(http, assertion(door))).status_code == 200


@pytest.mark.parametrize(
    "url", ["http://internal:8080/token", "http://127.0.0.1.nip.io/token", "ftp://fw.example/token"]
)
def test_pitfall_02_a_token_endpoint_without_tls_is_refused_by_the_core(url: str) -> None:
    with pytest.raises(InsecureTransportError):
        TokenRequest(url, HTTP, FORM, SERVICE, "")
    TokenRequest("https://fw.example/token", HTTP, FORM, SERVICE, "")


async def test_pitfall_03_and_15_the_core_has_no_authorization_endpoint() -> None:
    server = core(make_door())
    request = TokenRequest("https://fw.example/token", HTTP, FORM, SERVICE, "")
    for attempt in (
        lambda: server.create_authorization_response(request),
        lambda: server.get_consent_grant(request),
        lambda: server.create_endpoint_response("revocation", request),
    ):
        with pytest.raises(OAuthError):
            attempt()


@pytest.mark.parametrize("verifier", ["-", "v" * 42, "v" * 43 + "!", "w" * 43])
async def test_pitfall_04_s256_is_demanded_of_confidential_clients_too(verifier: str) -> None:
    settings = make_door().identity.settings.clients[1]
    client = ClientSettings(
        "svc-batch",
        "Web",
        redirect_uris=("https://tool.example/cb",),
        auth_method="private_key_jwt",
        tenant="acme",
        jwks=settings.jwks,
    )
    door = make_door(clients=(client,))
    await door.user()
    query = authorize_query(client_id="svc-batch", redirect_uri="https://tool.example/cb")
    async with door.http() as http:
        code = (await Browser(http).code(query))["code"]
        form = {"redirect_uri": "https://tool.example/cb", "client_id": "svc-batch", "code_verifier": verifier}
        form["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        reply = await redeem(http, code, **form, client_assertion=assertion(door))
        assert reply.json()["error"] == "invalid_grant"
        code = (await Browser(http).code(query))["code"]
        form["code_verifier"] = "v" * 43
        assert (await redeem(http, code, **form, client_assertion=assertion(door, jti="2"))).status_code == 200


async def test_pitfall_05_a_grant_takes_only_its_own_methods_of_client_authentication(
    waiting: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with waiting.http() as http:
        form = {"grant_type": Waiting.GRANT_TYPE, "client_id": "tool"}
        assert (await http.post("/token", data=form)).json()["error"] == "unauthorized_client"
        monkeypatch.setattr(Waiting, "TOKEN_ENDPOINT_AUTH_METHODS", ["none"])
        assert (await http.post("/token", data=form)).status_code == 200


def test_pitfall_05_no_grant_inherits_the_methods_of_authlib() -> None:
    for entry in GRANTS:
        methods = entry.load().TOKEN_ENDPOINT_AUTH_METHODS
        assert "client_secret_post" not in methods
        assert "private_key_jwt" in methods
        assert methods is not BaseGrant.TOKEN_ENDPOINT_AUTH_METHODS
    assert "none" not in ClientCredentials.TOKEN_ENDPOINT_AUTH_METHODS


async def test_pitfall_06_and_07_tokens_live_for_minutes_and_are_meant_for_the_resource() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        bodies = [
            (await redeem(http, (await Browser(http).code())["code"])).json(),
            (await client_credentials(http, assertion(door))).json(),
        ]
    for body in bodies:
        told = claims(body["access_token"])
        assert body["expires_in"] == told["exp"] - told["iat"] == 300
        assert told["aud"] == TIME != told["client_id"]


async def test_pitfall_08_the_code_is_gone_before_anything_is_issued(monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    await door.user()
    monkeypatch.setattr(CodeGrant, "authenticate_user", lambda self, code: None)
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        assert (await redeem(http, code)).json()["error"] == "invalid_grant"
        monkeypatch.undo()
        assert (await redeem(http, code)).json()["error"] == "invalid_grant"


async def test_pitfall_09_a_refresh_brings_a_new_refresh_token() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        first = (await redeem(http, (await Browser(http).code())["code"])).json()
        second = (await refresh(http, first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert RefreshGrant.INCLUDE_NEW_REFRESH_TOKEN


@pytest.mark.parametrize(
    "name", ["grant_type", "code", "redirect_uri", "client_id", "code_verifier", "resource", "scope", "anything_else"]
)
async def test_pitfall_10_no_parameter_of_a_token_request_may_repeat(name: str) -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", "http://127.0.0.1:51004/callback"),
            ("client_id", CIMD_URL),
            ("code_verifier", "v" * 43),
            ("resource", TIME),
            ("anything_else", "x"),
        ]
        given = dict(form).get(name, "time:read")
        body = httpx2.QueryParams([*form, (name, given), *([(name, given)] if name == "scope" else [])])
        kind = {"content-type": "application/x-www-form-urlencoded"}
        reply = await http.post("/token", content=str(body), headers=kind)
        assert reply.json()["error"] == ("invalid_target" if name == "resource" else "invalid_request")
        reply = await http.post("/token", content=str(httpx2.QueryParams(form)), headers=kind)
        assert reply.status_code == 200


def test_pitfall_11_a_token_without_a_type_is_no_access_token() -> None:
    door = make_door()
    now_s = door.clock.now_us() // 1_000_000
    told = {"iss": ORIGIN, "aud": TIME, "sub": "u", "client_id": "c", "jti": "j", "gid": "g", "tenant": "acme"}
    values = {**told, "iat": now_s, "exp": now_s + 60, "scope": "time:read"}
    for typ in ("", "JWT", "at+jwt"):
        signed = jwt.sign(values, SERVER_KEY, alg="ES256", typ=typ, kid=SERVER_KEY.thumbprint())
        if typ == "at+jwt":
            assert door.verified(signed)
            continue
        with pytest.raises(Unauthenticated):
            door.verified(signed)


def test_pitfall_12_no_grant_builds_on_authlibs_lenient_assertion_grants() -> None:
    for entry in GRANTS:
        assert not issubclass(entry.load(), (IDJAGGrant, JWTBearerGrant))


def test_pitfall_13_no_two_hooks_depend_on_an_order() -> None:
    server = core(make_door())
    for entry in registered.offered(server.parts.settings):
        grant_class = entry.load()
        client = ClientSettings("svc", "S", grant_types=(entry.grant_type,))
        request = TokenRequest("https://fw.example/token", HTTP, FORM, from_settings(client), "")
        grant = grant_class(request, server)
        for extension in grant_class.EXTENSIONS:
            extension(grant)
        assert all(len(hooks) <= 1 for hooks in grant._hooks.values())


@pytest.mark.parametrize("grant_type", ["password", "implicit", "Authorization_code", "authorization_code ", "x" * 200])
async def test_pitfall_14_an_unknown_grant_is_named_so_and_not_repeated(grant_type: str) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await http.post("/token", data={"grant_type": grant_type, "client_id": "tool"})
    assert (reply.status_code, reply.json()["error"]) == (400, "unsupported_grant_type")
    assert grant_type not in reply.text
    assert grant_type not in str(door.events)


async def test_an_error_of_authlibs_own_keeps_its_code_and_loses_its_text(waiting: Door) -> None:
    async with waiting.http() as http:
        form = {"grant_type": Waiting.GRANT_TYPE, "refuse": "hostile-words"}
        reply = await client_credentials(http, assertion(waiting), **form)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_grant")
    assert "hostile" not in reply.text


async def test_op_05_the_cores_own_log_holds_no_secret(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        first = (await redeem(http, code)).json()
        second = (await refresh(http, first["refresh_token"])).json()
        service = (await client_credentials(http, assertion(door))).json()
    assert "Issue token <token response:" in caplog.text
    for secret in (code, *(body[name] for body in (first, second) for name in ("access_token", "refresh_token"))):
        assert secret not in caplog.text
    assert service["access_token"] not in caplog.text


async def test_op_05_without_the_silent_body_the_log_would_hold_the_token(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firewall.identity.engine.grant.TokenBody.__repr__", dict.__repr__)
    caplog.set_level(logging.DEBUG)
    door = make_door()
    async with door.http() as http:
        body = (await client_credentials(http, assertion(door))).json()
    assert body["access_token"] in caplog.text


# -- what the library does alone -------------------------------------------------------------------------


def test_without_our_subclasses_the_library_is_as_lenient_as_these_tests_assume() -> None:
    """The twin of the pitfalls above: what authlib 1.9.9 would do. Whoever updates it learns here what has changed."""
    request = TokenRequest("https://fw.example/token", HTTP, FORM, SERVICE, "")
    assert CodeChallenge.DEFAULT_CODE_CHALLENGE_METHOD == "plain"  # 4
    assert "plain" in CodeChallenge.SUPPORTED_CODE_CHALLENGE_METHOD  # 4
    assert BaseGrant.TOKEN_ENDPOINT_AUTH_METHODS == ["client_secret_basic"]  # 5
    assert "client_secret_post" in AuthorizationCodeGrant.TOKEN_ENDPOINT_AUTH_METHODS  # 5
    assert not RefreshTokenGrant.INCLUDE_NEW_REFRESH_TOKEN  # 9
    assert isinstance(BaseGrant(request, None)._hooks["any"], set)  # 13
    assert "password" in UnsupportedGrantTypeError("password").get_error_description()  # 14
    assert BearerTokenGenerator.GRANT_TYPES_EXPIRES_IN["authorization_code"] == 864_000  # 6


async def test_pitfall_08_in_the_librarys_order_two_redemptions_would_both_succeed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store that does not take, as the library expects one: the code is there until the tokens are."""
    monkeypatch.setattr(MemoryCollection, "take", lambda self, tenant, key: self.get(tenant, key))
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        assert [(await redeem(http, code)).status_code for _ in range(2)] == [200, 200]
