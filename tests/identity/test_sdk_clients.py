"""The official MCP client library as every kind of client: registered by itself, by an operator, by a workload."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
    static_assertion_provider,
)
from mcp.client.auth.oauth2 import OAuthClientProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata
from pydantic import AnyUrl

from firewall.identity.settings import ClientSettings
from tests.identity.test_flow import KeptTokens, ProtectedServer
from tests.identity.test_registered_clients import wanted
from tests.identity.test_workloads import account_token
from tests.identity.test_workloads import open_door as workload_door
from tests.support.door import CLIENT_KEY, ORIGIN, TIME, Browser, Door, make_door, public_jwks

pytestmark = pytest.mark.flow

LOCAL = "http://127.0.0.1:51004/callback"


async def interactive(door: Door, kept: KeptTokens, redirect_uri: str = LOCAL, **metadata: object) -> httpx2.Response:
    """Return what the resource answers to the library after a person signed in."""
    app = ProtectedServer(door, "time:read")
    async with door.http(app) as pages:
        browser = Browser(pages)
        found: dict[str, str] = {}

        async def redirect(url: str) -> None:
            found.update(await browser.code({n: v[0] for n, v in parse_qs(urlsplit(url).query).items()}))

        async def callback() -> AuthorizationCodeResult:
            return AuthorizationCodeResult(code=found["code"], state=found["state"], iss=found["iss"])

        described = OAuthClientMetadata(client_name="Tool", redirect_uris=[AnyUrl(redirect_uri)], **metadata)  # type: ignore[arg-type]
        provider = OAuthClientProvider(TIME, described, kept, redirect, callback)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), auth=provider) as client:
            return await client.get(TIME)


@pytest.mark.parametrize("method", [None, "none", "client_secret_basic", "client_secret_post"])
async def test_the_library_registers_itself_and_signs_in_whatever_method_it_prefers(method: str | None) -> None:
    door = make_door(registration=True)
    await door.user()
    kept = KeptTokens()
    more = {} if method is None else {"token_endpoint_auth_method": method}
    reply = await interactive(door, kept, **more)
    assert reply.status_code == 200, reply.text
    assert kept.client is not None
    assert kept.client.client_id is not None
    assert kept.client.client_id.startswith("dcr_")
    assert kept.client.client_secret is None
    assert kept.tokens is not None


async def test_the_library_registers_a_web_application_and_uses_its_secret() -> None:
    door = make_door(registration=True)
    await door.user()
    kept = KeptTokens()
    reply = await interactive(
        door, kept, "https://site.example/cb", token_endpoint_auth_method="client_secret_basic", application_type="web"
    )
    assert reply.status_code == 200, reply.text
    assert kept.client is not None
    assert kept.client.client_secret is not None
    assert door.named("identity.client.registered")[0]["method"] == "client_secret_basic"


async def test_the_library_uses_a_client_that_an_operator_registered() -> None:
    door = make_door()
    await door.user()
    door.identity.registered.add(
        wanted("app", auth_method="none", grant_types=("authorization_code",), redirect_uris=(LOCAL,)), by="me"
    )
    kept = KeptTokens()
    kept.client = OAuthClientInformationFull(
        client_id="app", redirect_uris=[AnyUrl(LOCAL)], token_endpoint_auth_method="none"
    )
    assert (await interactive(door, kept)).status_code == 200


async def machine(door: Door, provider: OAuthClientProvider) -> httpx2.Response:
    transport = httpx2.ASGITransport(app=ProtectedServer(door, "time:read"))
    async with httpx2.AsyncClient(transport=transport, auth=provider) as client:
        return await client.get(TIME)


async def test_the_library_presents_the_secret_of_a_command() -> None:
    door = make_door()
    made = door.identity.registered.add(wanted(), by="me")
    provider = ClientCredentialsOAuthProvider(TIME, KeptTokens(), "svc", made.secret, scope="time:read", issuer=ORIGIN)
    assert (await machine(door, provider)).json()["sub"] == "svc"


async def test_the_library_signs_an_assertion_without_naming_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = ClientSettings(
        "svc",
        "Service",
        auth_method="private_key_jwt",
        grant_types=("client_credentials",),
        tenant="acme",
        jwks=public_jwks(CLIENT_KEY),
    )
    door = make_door(clients=(keyed,))
    now_s = door.clock.now_us() // 1_000_000
    monkeypatch.setattr("mcp.client.auth.extensions.client_credentials.time.time", lambda: now_s)
    signed = SignedJWTParameters(
        issuer="svc",
        subject="svc",
        signing_key=CLIENT_KEY.as_pem(private=True).decode(),
        signing_algorithm="ES256",
    )
    provider = PrivateKeyJWTOAuthProvider(
        TIME, KeptTokens(), "svc", signed.create_assertion_provider(), scope="time:read", issuer=ORIGIN
    )
    assert (await machine(door, provider)).json()["sub"] == "svc"


async def test_the_library_presents_what_its_platform_gave_it() -> None:
    door = workload_door()
    provider = PrivateKeyJWTOAuthProvider(
        TIME,
        KeptTokens(),
        "batch",
        static_assertion_provider(account_token(door)),
        scope="time:read",
        issuer=ORIGIN,
    )
    assert (await machine(door, provider)).json()["sub"] == "batch"
