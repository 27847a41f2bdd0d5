"""An upstream that people sign in to: the SDK's protected server, whose authorization server is a front door.

node (ours, tested)  ──▶ upstream's origin ─┬─ /mcp/files   the SDK's MCPServer behind its own bearer check
                                            └─ the rest     a second node's front door: a real authorization server
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx2
from joserfc.jwk import ECKey
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from firewall.core.errors import Unauthenticated
from firewall.core.jsonvalue import JSONObject
from firewall.core.principal import Principal
from firewall.identity.authorization_server import Identity, build_identity
from firewall.identity.people.users import User
from firewall.identity.settings import ClientSettings, IdentitySettings, ProtectedResource
from firewall.identity.upstream.build import UpstreamsGiven
from firewall.identity.upstream.credentials import CredentialSettings
from firewall.identity.upstream.settings import UpstreamAuth
from firewall.net.dial import Dialler
from firewall.net.runtime import RandomIds, SystemClock
from firewall.state.memory import MemoryStore
from firewall.state.shared import SharedMarks
from tests.support.composed import free_port
from tests.support.door import PASSWORD, Browser, NoNetwork, inputs_of
from tests.support.kit import principal
from tests.support.mcp import NO_TLS, served

OURS = "http://127.0.0.1:8700"
SECRET = "a-secret-of-our-client-at-that-server"
OUR_KEY = ECKey.generate_key("P-256", private=True)
OUR_PUBLIC = OUR_KEY.as_dict(private=False)
PATH = "/mcp/files"
NAME = "files"


class MovedClock(SystemClock):
    """The machine's clock, moved on by a test."""

    __slots__ = ("_moved_us",)

    def __init__(self) -> None:
        self._moved_us = 0

    def now_us(self) -> int:
        return super().now_us() + self._moved_us

    def advance(self, seconds: float) -> None:
        self._moved_us += round(seconds * 1_000_000)


# -- the upstream ------------------------------------------------------------------------------------------


@dataclass
class Upstream:
    """A protected server and its authorization server, on one origin. seen: (method, authorization) of each request."""

    origin: str
    identity: Identity
    clock: MovedClock
    fetcher: NoNetwork
    seen: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False
    proven: set[str] = field(default_factory=set)
    override: Callable[[str], tuple[int, dict[str, str], bytes] | None] = lambda _path: None

    @property
    def url(self) -> str:
        return self.origin + PATH

    async def user(self, name: str) -> User:
        return await self.identity.users.create(name, PASSWORD, tenant="saas", scopes=("files:*",))

    def calls(self, path: str) -> int:
        return sum(1 for _, one in self.asked if one == path)


class _Verifier:
    """The SDK's port: what the front door's own resource server says of a token."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def verify_token(self, token: str) -> AccessToken | None:
        headers = {b"authorization": f"Bearer {token}".encode()}
        if token in self._upstream.proven:  # the guard in front has seen the proof; the SDK knows bearer tokens only
            return AccessToken(token=token, client_id="", scopes=["files:read"], resource=self._upstream.url)
        try:
            found = self._upstream.identity.resource_server.authenticate(
                headers, self._upstream.url, default_scope="files:read"
            )
        except Unauthenticated:
            return None
        return AccessToken(
            token=token,
            client_id=found.client_id,
            scopes=sorted(found.scopes),
            resource=found.audience,
            subject=found.subject,
        )


def protected_server(upstream: Upstream) -> Any:
    """Return the SDK's application: two tools that say who calls."""
    from mcp.server.auth.middleware.auth_context import get_access_token

    settings = AuthSettings(
        issuer_url=upstream.origin,  # type: ignore[arg-type]
        resource_server_url=upstream.url,  # type: ignore[arg-type]
        required_scopes=["files:read"],
        validate_token_resource=True,
    )
    server = MCPServer("files", auth=settings, token_verifier=_Verifier(upstream))

    @server.tool()
    def whoami() -> str:
        """Say whose token it is."""
        token = get_access_token()
        return token.subject or "" if token else ""

    @server.tool()
    def renew() -> str:
        """Say which token it is."""
        token = get_access_token()
        return token.token[-16:] if token else ""

    @server.resource("files://readme")
    def readme() -> str:
        """Return a text."""
        return "read me"

    @server.prompt()
    def greet() -> str:
        """Greet."""
        return "hello"

    return server.streamable_http_app(streamable_http_path=PATH)


@contextlib.asynccontextmanager
async def upstream_server(*, bound: bool = False, host: str = "127.0.0.1", **changes: Any) -> AsyncIterator[Upstream]:
    """Serve an upstream. bound: it takes DPoP tokens. host: its name. changes: settings of its authorization server."""
    port = free_port()
    origin = f"http://{host}:{port}"
    clock = MovedClock()
    store = MemoryStore(clock)
    fetcher = NoNetwork()
    values: dict[str, Any] = {
        "public_url": origin,
        "resources": (
            ProtectedResource(PATH, "Files", ("files:read", "files:write"), ("files:read",)),
            ProtectedResource("/mcp/other", "Other", ("other:read",), ("other:read",)),
        ),
        "clients": (
            ClientSettings(
                "bartizan",
                "Our node",
                redirect_uris=(f"{OURS}/upstream/callback/{NAME}",),
                auth_method="private_key_jwt",
                grant_types=("authorization_code", "refresh_token", "client_credentials"),
                jwks={"keys": [{name: str(OUR_PUBLIC[name]) for name in ("kty", "crv", "x", "y")}]},
                tenant="saas",
            ),
            ClientSettings(
                "bartizan-public",
                "Our node, without keys",
                redirect_uris=(f"{OURS}/upstream/callback/{NAME}",),
                tenant="saas",
            ),
        ),
        "default_tenant": "saas",
        "scrypt_n": 16,
        **changes,
    }
    identity = build_identity(
        IdentitySettings(**values),
        store=store,
        marks=SharedMarks(None),
        clock=clock,
        ids=RandomIds(),
        fetcher=fetcher,
        signing_key=ECKey.generate_key("P-256", private=True),
        record=lambda _event, _facts: None,
    )
    upstream = Upstream(origin, identity, clock, fetcher)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        protected = protected_server(upstream)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await protected(scope, receive, send)
            return
        path = scope["path"]
        headers = dict(scope["headers"])
        told = upstream.override(path)
        upstream.asked.append((scope["method"], path))
        if told is not None:
            status, fields, body = told
            raw = [(name.encode(), value.encode()) for name, value in fields.items()]
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": body})
        elif path.startswith("/mcp/"):
            upstream.seen.append((scope["method"], headers.get(b"authorization", b"").decode()))
            if bound and headers.get(b"authorization", b"").startswith(b"DPoP "):
                guard = upstream.identity.resource_server
                try:
                    guard.authenticate(
                        headers, upstream.url, default_scope="files:read", method=scope["method"], path=path
                    )
                except Unauthenticated as error:
                    challenges = guard.challenges(upstream.url, error, "files:read")
                    await send({"type": "http.response.start", "status": 401, "headers": list(challenges)})
                    await send({"type": "http.response.body", "body": b""})
                    return
                token = headers[b"authorization"].removeprefix(b"DPoP ")
                upstream.proven.add(token.decode())
                fields = [(n, b"Bearer " + token if n == b"authorization" else v) for n, v in scope["headers"]]
                scope = {**scope, "headers": fields}
            await protected(scope, receive, send)
        elif upstream.down:
            await send({"type": "http.response.start", "status": 503, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await identity.front_door(scope, receive, send)

    async with served(app, port):
        yield upstream


def _sha256(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


# -- our node ----------------------------------------------------------------------------------------------


@dataclass
class Node:
    """Our front door with its broker. stopped: subjects that the kill switch covers."""

    identity: Identity
    clock: MovedClock
    store: MemoryStore
    marks: SharedMarks
    dialler: Dialler
    origin: str
    events: list[tuple[str, JSONObject]] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)

    @property
    def broker(self) -> Any:
        assert self.identity.upstreams is not None
        return self.identity.upstreams.broker

    async def user(self, name: str) -> User:
        return await self.identity.users.create(name, PASSWORD, tenant="acme", scopes=("files:*",))

    def caller(self, user: User, **changes: Any) -> Principal:
        """Return the user as a gateway sees them."""
        made = principal(
            tenant=user.tenant,
            subject=user.subject,
            issuer=self.origin,
            audience="any",
            scopes=frozenset({"files:read", "files:write"}),
        )
        return replace(made, **changes)

    def browser(self) -> Browser:
        transport = httpx2.ASGITransport(app=self.identity.front_door, client=("192.0.2.7", 4000))
        return Browser(httpx2.AsyncClient(transport=transport, base_url=self.origin), self.origin)

    def named(self, event: str) -> list[JSONObject]:
        return [facts for name, facts in self.events if name == event]


def sign_in_to(upstream: Upstream, **changes: Any) -> UpstreamAuth:
    """Return how our node signs in to an upstream of a test."""
    given: dict[str, Any] = {
        "url": upstream.url,
        "network": "loopback",
        "client_id": "bartizan",
        "method": "private_key_jwt",
        "dpop": "off",  # the server behind that front door takes bearer tokens only
        **changes,
    }
    return UpstreamAuth(**given)


def make_node(
    *,
    origin: str = OURS,
    static: dict[str, CredentialSettings] | None = None,
    beside: Node | None = None,
    fetcher: Any = None,
    key: ECKey | None = None,
    environment: dict[str, str] | None = None,
    **auths: UpstreamAuth,
) -> Node:
    """Return a node. beside: another worker of it, with the same store and shared memory."""
    clock = beside.clock if beside else MovedClock()
    store = beside.store if beside else MemoryStore(clock)
    marks = beside.marks if beside else SharedMarks(None)
    dialler = Dialler(SystemClock())
    nodes: list[Node] = []
    identity = build_identity(
        IdentitySettings(
            public_url=origin,
            resources=(ProtectedResource("/mcp/files", "Files", ("files:read", "files:write"), ("files:read",)),),
            default_tenant="acme",
            scrypt_n=16,
        ),
        store=store,
        marks=marks,
        clock=clock,
        ids=RandomIds(),
        fetcher=dialler,
        signing_key=ECKey.generate_key("P-256", private=True),
        record=lambda event, facts: nodes[0].events.append((event, facts)),
        upstreams=UpstreamsGiven(
            auths,
            {name: CredentialSettings() for name in auths} | (static or {}),
            fetcher or dialler,
            key or OUR_KEY,
            lambda: (b"m" * 32,),
            b"p" * 32,
            lambda who, _upstream: who.subject in nodes[0].stopped,
            environment=environment if environment is not None else {"CLIENT_SECRET": SECRET},
        ),
    )
    nodes.append(Node(identity, clock, store, marks, dialler, origin))
    return nodes[0]


# -- people ----------------------------------------------------------------------------------------------------


@dataclass
class Person:
    """A person with one browser, an account at our node and one at the upstream."""

    node: Node
    upstream: Upstream
    name: str
    there: str
    ours: Browser
    theirs: Browser

    async def open(self, link: str) -> httpx2.Response:
        """Follow a link to our node, signing in where that is asked."""
        page = await self.ours.get(link)
        if 'action="/login"' in page.text:
            page = await self.ours.sign_in(page, self.name)
            while page.status_code == 303:
                page = await self.ours.get(page.headers["location"])
        return page

    async def agree(self, page: httpx2.Response, decision: str = "approve") -> httpx2.Response:
        """Press a button of our page."""
        form = {**inputs_of(page.text), "decision": decision}
        action = page.text.partition('action="')[2].partition('"')[0]
        return await self.ours.post(action, form)

    async def allow(self, location: str, decision: str = "approve") -> str:
        """Sign in and decide at the upstream's authorization server; return where the browser is sent back to."""
        page = await self.theirs.get(location)
        if 'action="/login"' in page.text:
            page = await self.theirs.sign_in(page, self.there)
        if page.status_code == 200:
            page = await self.theirs.approve(page, decision)
        assert page.status_code == 303, page.text
        return str(page.headers["location"])

    async def connect(self, link: str) -> httpx2.Response:
        """Go all the way; return the last page."""
        sent = await self.agree(await self.open(link))
        assert sent.status_code == 303, sent.text
        return await self.ours.get(await self.allow(sent.headers["location"]))


@contextlib.asynccontextmanager
async def people(node: Node, upstream: Upstream, *names: str) -> AsyncIterator[list[tuple[Person, User, User]]]:
    """Make accounts on both sides; yield each person with both. Their names are not the same there."""
    async with contextlib.AsyncExitStack() as ends:
        ends.push_async_callback(node.dialler.close)
        found = []
        for name in names:
            ours, theirs = await node.user(name), await upstream.user(f"{name}-there")
            browser = node.browser()
            http = httpx2.AsyncClient(base_url=upstream.origin, verify=NO_TLS, timeout=10)
            ends.push_async_callback(browser.http.aclose)
            ends.push_async_callback(http.aclose)
            person = Person(node, upstream, name, f"{name}-there", browser, Browser(http, upstream.origin))
            found.append((person, ours, theirs))
        yield found


def path_of(url: str) -> str:
    """Return path and query of a URL."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


async def until(check: Callable[[], bool]) -> None:
    """Wait, a few seconds at most, for something that another task does."""
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0.01)
