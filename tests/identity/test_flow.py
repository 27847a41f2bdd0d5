"""The whole road: a browser, a client, and the official MCP client library against the front door in one process."""

from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from mcp.client.auth.oauth2 import OAuthClientProvider
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from firewall.core.errors import Unauthenticated
from firewall.core.permit import FixedReply
from firewall.identity.web import json_reply
from firewall.net import asgi
from tests.support.door import (
    CIMD_URL,
    ORIGIN,
    TIME,
    Browser,
    Door,
    authorize_query,
    make_door,
    redeem,
    refresh,
)


async def test_a_person_signs_in_agrees_and_the_client_gets_a_token_for_one_resource() -> None:
    door = make_door()
    user = await door.user()
    async with door.http() as http:
        callback = await Browser(http).code()
        assert callback["state"] == "xyz"
        assert callback["iss"] == ORIGIN
        reply = await redeem(http, callback["code"])
    body = reply.json()
    assert reply.status_code == 200
    assert reply.headers["cache-control"] == "no-store"
    assert body["token_type"] == "Bearer"
    assert body["expires_in"] == 300
    assert body["scope"] == "time:read"
    principal = door.verified(body["access_token"])
    assert (principal.tenant, principal.subject, principal.client_id) == ("acme", user.subject, CIMD_URL)
    assert principal.scopes == {"time:read"}
    assert principal.audience == TIME
    assert principal.roles == ("dev",)
    assert principal.kind == "user"
    assert principal.cimd_verified
    assert [actor.sub for actor in principal.chain] == [user.subject]
    assert door.fetcher.asked == []


async def test_the_second_time_with_the_same_scopes_nobody_is_asked() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        again = await browser.open(authorize_query())
        assert again.status_code == 303
        assert "code=" in again.headers["location"]
        more = await browser.open(authorize_query(scope="time:read time:write"))
        assert more.status_code == 200
        assert "time:write" in more.text
        forced = await browser.open(authorize_query(prompt="consent"))
        assert forced.status_code == 200


async def test_a_refresh_token_rotates_and_the_new_one_works() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        first = (await redeem(http, (await Browser(http).code())["code"])).json()
        second = (await refresh(http, first["refresh_token"])).json()
        assert second["refresh_token"] != first["refresh_token"]
        third = await refresh(http, second["refresh_token"], resource=TIME, scope="time:read offline_access")
    assert third.status_code == 200
    assert door.verified(third.json()["access_token"]).scopes == {"time:read"}


async def test_a_wider_scope_is_obtained_by_a_new_authorization_with_the_union() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        callback = await browser.code(authorize_query(scope="time:read time:write"))
        body = (await redeem(http, callback["code"])).json()
    assert body["scope"] == "time:read time:write"


class ProtectedServer:
    """A resource that answers who called, and challenges as the gateways do; the front door beside it."""

    def __init__(self, door: Door, needed: str) -> None:
        self.door = door
        self.needed = needed

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["path"] != "/mcp/time":
            await self.door.identity.front_door(scope, receive, send)
            return
        server = self.door.identity.resource_server
        try:
            principal = server.authenticate(asgi.header_map(scope), TIME, default_scope="time:read")
        except Unauthenticated as error:
            header = server.challenge(TIME, error.code, error.scope)  # type: ignore[arg-type]
            reply = FixedReply(401, ((b"www-authenticate", header),), b"{}")
        else:
            if self.needed in principal.scopes:
                reply = json_reply({"sub": principal.subject, "scope": sorted(principal.scopes)})  # type: ignore[dict-item]
            else:
                header = server.challenge(TIME, "scope_missing", self.needed)
                reply = FixedReply(403, ((b"www-authenticate", header),), b"{}")
        await asgi.write_fixed(send, reply)


class KeptTokens:
    """The storage that the library asks for."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


@pytest.mark.flow
async def test_the_official_mcp_client_signs_in_with_its_metadata_document_and_steps_up() -> None:
    door = make_door()
    await door.user()
    app = ProtectedServer(door, "time:read")
    kept = KeptTokens()
    async with door.http(app) as pages:
        browser = Browser(pages)
        found: dict[str, str] = {}

        async def redirect(url: str) -> None:
            query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
            assert query["client_id"] == CIMD_URL
            assert query["resource"] == TIME
            found.update(await browser.code(query))

        async def callback() -> AuthorizationCodeResult:
            return AuthorizationCodeResult(code=found["code"], state=found["state"], iss=found["iss"])

        provider = OAuthClientProvider(
            TIME,
            OAuthClientMetadata(
                client_name="Example Agent",
                redirect_uris=[AnyUrl("http://127.0.0.1:51004/callback")],
                token_endpoint_auth_method="none",
            ),
            kept,
            redirect,
            callback,
            client_metadata_url=CIMD_URL,
        )
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, auth=provider) as client:
            reply = await client.get(TIME)
            assert reply.status_code == 200
            assert reply.json()["scope"] == ["time:read"]
            assert kept.tokens is not None
            assert kept.tokens.refresh_token
            app.needed = "time:write"
            stepped = await client.get(TIME)
            assert stepped.status_code == 200
            assert stepped.json()["scope"] == ["time:read", "time:write"]
