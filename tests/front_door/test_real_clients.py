"""The published Python clients of MCP at a whole firewall: a login in Chromium and all that follows in a token's life."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

pytest.importorskip("selenium", reason="not installed: requirements/install.sh conformance")
pytest.importorskip("fastmcp", reason="not installed: requirements/install.sh conformance")

import fastmcp
from fastmcp.client.auth import OAuth
from key_value.aio.stores.memory import MemoryStore
from mcp import Client
from mcp.client.auth.oauth2 import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata
from pydantic import AnyUrl
from selenium.webdriver.remote.webdriver import WebDriver

from tests.front_door.openid_provider import running
from tests.front_door.pages_house import Callback
from tests.front_door.visit import NAME, AtTheProvider, Visit, pass_time, visit
from tests.identity.test_flow import KeptTokens
from tests.support.composed import free_port
from tests.support.door import CIMD_URL
from tests.support.world import world

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(60)]

SECRET = "a-secret-of-forty-characters-or-more-than-that"
LATER_S = 301  # one second more than an access token lives


class Desktop:
    """A program with the official library: it opens the browser, and is answered at its own loopback listener."""

    def __init__(self, here: Visit, back: Callback, kind: str) -> None:
        self.here = here
        self.back = back
        self.elsewhere: AtTheProvider | None = None
        self.kept = KeptTokens()
        described = OAuthClientMetadata(
            client_name="Desktop",
            redirect_uris=[AnyUrl(back.url)],
            token_endpoint_auth_method="none",
            grant_types=["authorization_code", "refresh_token"],
        )
        if kind == "registered":
            known: dict[str, Any] = {"client_id": "desk", "redirect_uris": [AnyUrl(back.url)]}
            known["token_endpoint_auth_method"] = "none"
            self.kept.client = OAuthClientInformationFull(**known, issuer=here.wall.url)
        document = CIMD_URL if kind == "document" else None
        self.auth = OAuthClientProvider(
            here.server, described, self.kept, self.open, self.answer, client_metadata_url=document
        )

    async def open(self, url: str) -> None:
        self.back.queries.clear()
        assert (await self.here.agree(url, elsewhere=self.elsewhere)).startswith(self.back.url)

    async def answer(self) -> AuthorizationCodeResult:
        got = self.back.queries[-1]
        return AuthorizationCodeResult(code=got["code"], state=got["state"], iss=got["iss"])

    @property
    def scopes(self) -> set[str]:
        assert self.kept.tokens is not None
        return set((self.kept.tokens.scope or "").split())


async def names(session: Client) -> set[str]:
    return {tool.name for tool in (await session.list_tools()).tools}


CLIENT_IDS = {"document": CIMD_URL, "registered": "desk", "registers": "dcr_"}


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("kind", list(CLIENT_IDS))
async def test_the_sdk_client_lives_through_a_tokens_whole_life(
    kind: str, mode: Any, tmp_path: Path, chrome: WebDriver, client: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Login, list, call, refresh after expiry, step-up, and a new login when the person has ended the connection."""
    async with visit(tmp_path / "state", chrome) as here:
        desktop = Desktop(here, client, kind)
        async with (
            httpx2.AsyncClient(auth=desktop.auth, timeout=30) as http,
            Client(streamable_http_client(here.server, http_client=http), mode=mode, cache=None) as session,
        ):
            assert await names(session) == {"echo", "put"}, "what the person could add is shown, and found by a model"
            assert not (await session.call_tool("echo", {"text": "x"})).is_error
            assert desktop.kept.client is not None
            assert (desktop.kept.client.client_id or "").startswith(CLIENT_IDS[kind])
            assert desktop.scopes >= {"demo:read"}
            assert "demo:write" not in desktop.scopes
            assert here.walks == [["password", "allow"]]

            first = desktop.kept.tokens
            assert first is not None
            pass_time(monkeypatch, LATER_S)
            assert not (await session.call_tool("echo", {"text": "y"})).is_error
            second = desktop.kept.tokens
            assert second is not None
            assert second.access_token != first.access_token
            assert second.refresh_token != first.refresh_token
            assert len(here.walks) == 1, "nobody was asked for a refresh"

            # What writes is another scope: the client is told which, asks for both, and the person allows it.
            assert not (await session.call_tool("put", {"text": "z"})).is_error
            assert desktop.scopes >= {"demo:read", "demo:write"}
            assert here.walks[1:] == [["allow"]]
            assert await names(session) == {"echo", "put"}

            await here.end_connections()
            third = desktop.kept.tokens
            assert not (await session.call_tool("echo", {"text": "again"})).is_error
            assert desktop.kept.tokens is not None
            assert third is not None
            assert desktop.kept.tokens.access_token != third.access_token
            assert len(here.walks) == 3, "the old token was refused, and a person asked"
            assert len(here.upstreams.calls("mcp", "demo")) == 4


@contextlib.asynccontextmanager
async def connected(desktop: Desktop) -> AsyncIterator[Client]:
    """Connect with what a program keeps."""
    async with (
        httpx2.AsyncClient(auth=desktop.auth, timeout=30) as http,
        Client(streamable_http_client(desktop.here.server, http_client=http), cache=None) as session,
    ):
        yield session


async def test_two_windows_of_one_program_refresh_at_once_and_nobody_is_asked(
    tmp_path: Path, chrome: WebDriver, client: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both hold the same refresh token, which serves once: the later one gets the same successor, not a new login."""
    async with visit(tmp_path / "state", chrome) as here:
        first, second = Desktop(here, client, "document"), Desktop(here, client, "document")
        second.kept = first.kept
        second.auth.context.storage = first.kept
        async with connected(first) as one, connected(second) as other:
            pass_time(monkeypatch, LATER_S)
            second.auth.context.token_expiry_time = first.auth.context.token_expiry_time
            results = await asyncio.gather(*(session.call_tool("echo", {"text": "x"}) for session in (one, other)))
        assert [result.is_error for result in results] == [False, False]
        assert len(here.walks) == 1
        renewed = {desktop.auth.context.current_tokens.refresh_token for desktop in (first, second)}  # type: ignore[union-attr]
        assert len(renewed) == 1


async def test_a_program_goes_on_with_what_it_keeps_when_the_firewall_was_restarted(
    tmp_path: Path, chrome: WebDriver, client: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    async with world() as upstreams:
        async with visit(tmp_path / "state", chrome, port=port, behind=upstreams) as here:
            before = Desktop(here, client, "registers")
            async with connected(before) as session:
                assert await names(session) == {"echo", "put"}
        async with visit(tmp_path / "state", chrome, port=port, behind=upstreams, people=False) as here:
            after = Desktop(here, client, "registers")
            after.auth.context.storage = after.kept = before.kept
            async with connected(after) as session:
                assert not (await session.call_tool("echo", {"text": "x"})).is_error
                pass_time(monkeypatch, LATER_S)
                after.auth.context.token_expiry_time = time.time() - 1
                assert not (await session.call_tool("echo", {"text": "y"})).is_error
            assert here.walks == [], "the old token, then its refresh token; no person"


class InTheBrowser(OAuth):
    """FastMCP's own login with its own callback server; only the browser that it opens is ours."""

    def __init__(self, here: Visit, elsewhere: Callable[[WebDriver], bool] | None = None, **how: Any) -> None:
        self.here = here
        self.elsewhere = elsewhere
        self.went: list[str] = []
        self._walk: asyncio.Task[str] | None = None
        super().__init__(here.server, token_storage=MemoryStore(), **how)

    async def redirect_handler(self, authorization_url: str) -> None:
        # The library waits for the browser only after this returns.
        self.went.append(authorization_url)
        self._walk = asyncio.create_task(self.here.agree(authorization_url, elsewhere=self.elsewhere))

    async def ended(self) -> str:
        """Wait for the browser: the library has its code before the page behind that is done."""
        assert self._walk is not None
        return await self._walk


FASTMCP: dict[str, dict[str, Any]] = {
    "document": {"client_metadata_url": CIMD_URL},
    "registered": {"client_id": "desk"},
    "registers": {},
}


@pytest.mark.filterwarnings("ignore:Using in-memory token storage")
@pytest.mark.parametrize(("kind", "mode"), [("document", "auto"), ("registered", "legacy"), ("registers", "auto")])
async def test_fastmcp_signs_in_over_its_own_callback_server_and_lives_through_a_tokens_whole_life(
    kind: str, mode: Any, tmp_path: Path, chrome: WebDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with visit(tmp_path / "state", chrome) as here:
        auth = InTheBrowser(here, **FASTMCP[kind])
        async with fastmcp.Client(here.server, auth=auth, mode=mode) as session:
            assert [tool.name for tool in await session.list_tools()] == ["echo", "put"]
            assert (await auth.ended()).startswith("http://localhost:")
            assert here.walks == [["password", "allow"]]
            assert not (await session.call_tool("echo", {"text": "x"})).is_error
            pass_time(monkeypatch, LATER_S)
            assert not (await session.call_tool("echo", {"text": "y"})).is_error
            assert len(auth.went) == 1
            assert not (await session.call_tool("put", {"text": "z"})).is_error
            await auth.ended()
            assert here.walks[1:] == [["allow"]]
            await here.end_connections()
            assert not (await session.call_tool("echo", {"text": "again"})).is_error
            await auth.ended()
            assert len(auth.went) == 3
            assert len(here.upstreams.calls("mcp", "demo")) == 4
        client = parse_qs(urlsplit(auth.went[0]).query)["client_id"][0]
        assert client.startswith(CLIENT_IDS[kind])


async def test_the_sdk_client_reaches_a_tool_by_a_sign_in_at_a_real_openid_provider(
    tmp_path: Path, chrome: WebDriver, client: Callback
) -> None:
    """The person has no password here: the provider says who they are and what their group may do."""
    port = free_port()
    redirects = [f"http://127.0.0.1:{port}/callback/corp"]
    known = {"client_id": "bartizan", "client_secret": SECRET, "redirect_uris": redirects}
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    with running([known], {NAME: {"name": "Ada L.", "groups": ["agents"]}}) as provider:
        corp = {
            "issuer": provider.issuer,
            "title": "Acme",
            "client_id": "bartizan",
            "client_secret": f"file:{secret}",
            "scopes": ["openid", "profile", "groups"],
            "roles": {"agents": "dev"},
            "scopes_of": {"agents": ["demo:*"]},
            "network": "loopback",
        }
        async with visit(
            tmp_path / "state", chrome, port=port, people=False, passwords="off", providers={"corp": corp}
        ) as here:
            desktop = Desktop(here, client, "document")
            desktop.elsewhere = AtTheProvider(provider)
            async with (
                httpx2.AsyncClient(auth=desktop.auth, timeout=30) as http,
                Client(streamable_http_client(here.server, http_client=http), cache=None) as session,
            ):
                assert await names(session) == {"echo", "put"}
                assert not (await session.call_tool("put", {"text": "x"})).is_error
            assert here.walks == [["provider", "allow"], ["allow"]]
            assert desktop.elsewhere.did == ["sign in", "consent"]
            people = here.wall.worker.identity.users.list("default")
            assert [person.name.startswith("linked-") for person in people] == [True]
