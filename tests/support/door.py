"""A front door in one process, a browser that fills in its pages, and a client that redeems codes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from joserfc.jwk import ECKey

from firewall.core.action import Headers
from firewall.core.errors import AuditUnavailable, UpstreamFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.enforce.labels import FlowLabels
from firewall.identity.authorization_server import Identity, build_identity
from firewall.identity.oidc.build import ProvidersGiven
from firewall.identity.people.users import User
from firewall.identity.rfc9068.tokens import SigningKeys
from firewall.identity.settings import ClientSettings, IdentitySettings, Noted, ProtectedResource
from firewall.net.asgi import App
from firewall.net.dial import Fetched, Purpose
from firewall.net.runtime import FakeClock, RandomIds
from firewall.state.memory import MemoryStore
from firewall.state.shared import SharedMarks
from firewall.wire import jwt

ORIGIN = "https://fw.example"
CALLBACK = "http://127.0.0.1:51004/callback"
CIMD_URL = "https://app.example/oauth/client.json"
PASSWORD = "correct horse battery staple"
TIME = f"{ORIGIN}/mcp/time"
GIT = f"{ORIGIN}/mcp/git"
VERIFIER = "v" * 43

CIMD_DOCUMENT: JSONObject = {
    "client_id": CIMD_URL,
    "client_name": "Example Agent",
    "redirect_uris": ["http://127.0.0.1/callback", "http://localhost/callback"],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
    "some_member_nobody_knows": {"x": 1},
}

RESOURCES = (
    ProtectedResource("/mcp/time", "Time (via Bartizan)", ("time:read", "time:write"), ("time:read",)),
    ProtectedResource("/mcp/git", "Git (via Bartizan)", ("git:read", "git:write"), ("git:read",)),
    ProtectedResource("/v1", "Models (via Bartizan)", ("llm:invoke",), ("llm:invoke",)),
)

CLIENT_KEY = ECKey.generate_key("P-256", private=True)
SERVER_KEY = ECKey.generate_key("P-256", private=True)


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def public_jwks(key: ECKey, kid: str = "c1") -> JSON:
    facts = key.as_dict(private=False)
    return {"keys": [{**{n: str(facts[n]) for n in ("kty", "crv", "x", "y")}, "kid": kid}]}


def registered_clients(redirect: str = "http://127.0.0.1/callback") -> tuple[ClientSettings, ...]:
    return (
        ClientSettings("tool", "A tool", redirect_uris=(redirect, "https://tool.example/cb"), tenant=""),
        ClientSettings(
            "svc-batch",
            "Batch",
            auth_method="private_key_jwt",
            grant_types=("client_credentials",),
            scopes=("time:*",),
            tenant="acme",
            jwks=public_jwks(CLIENT_KEY),
        ),
        ClientSettings(
            "svc-basic",
            "Basic",
            auth_method="client_secret_basic",
            grant_types=("client_credentials",),
            scopes=("*",),
            tenant="acme",
            secret_sha256=hashlib.sha256(b"a-long-random-secret").hexdigest(),
        ),
    )


class NoNetwork:
    """A fetcher that counts and refuses, unless documents were laid out for it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Purpose, str]] = []
        self.networks: list[str] = []  # of those, the class of address that was permitted
        self.answers: dict[str, Fetched] = {}

    async def fetch(
        self,
        purpose: Purpose,
        url: str,
        *,
        network: str = "public",
        max_bytes: int,
        timeout_s: float,
        headers: Headers = (),
        ca_file: str = "",
    ) -> Fetched:
        self.asked.append((purpose, url))
        self.networks.append(network)
        if url not in self.answers:
            raise UpstreamFault("unreachable")
        if len(self.answers[url].body) > max_bytes:
            raise UpstreamFault("too_large")
        return self.answers[url]


@dataclass
class Door:
    """A front door and what a test wants to look at."""

    identity: Identity
    clock: FakeClock
    store: MemoryStore
    marks: SharedMarks
    fetcher: NoNetwork
    events: list[tuple[str, JSONObject]] = field(default_factory=list)
    origin: str = ORIGIN
    audit_down: bool = False
    labels: FlowLabels | None = None

    def record(self, event: str, facts: JSONObject) -> None:
        if self.audit_down:
            raise AuditUnavailable("audit_unavailable")
        self.events.append((event, facts))

    def http(self, app: App | None = None) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=app or self.identity.front_door, client=("192.0.2.7", 4000))
        return httpx2.AsyncClient(transport=transport, base_url=self.origin)

    async def user(self, name: str = "ada", **more: object) -> User:
        values: dict[str, object] = {"tenant": "acme", "scopes": ("time:*", "git:read"), "roles": ("dev",), **more}
        return await self.identity.users.create(name, PASSWORD, **values)  # type: ignore[arg-type]

    def named(self, event: str) -> list[JSONObject]:
        return [facts for name, facts in self.events if name == event]

    def verified(self, token: str, resource: str = TIME):  # type: ignore[no-untyped-def]
        headers = {b"authorization": f"Bearer {token}".encode()}
        return self.identity.resource_server.authenticate(headers, resource, default_scope="time:read")


def make_door(
    *,
    idps: ProvidersGiven | None = None,
    keys: SigningKeys | None = None,
    noted: Noted | None = None,
    **changes: object,
) -> Door:
    values: dict[str, object] = {
        "public_url": ORIGIN,
        "resources": RESOURCES,
        "clients": registered_clients(),
        "default_tenant": "acme",
        "cimd_hosts": ("app.example",),
        "cimd_pinned": {CIMD_URL: CIMD_DOCUMENT},
        "scrypt_n": 16,
        **changes,
    }
    settings = IdentitySettings(**values)  # type: ignore[arg-type]
    clock = FakeClock()
    store = MemoryStore(clock)
    marks = SharedMarks(None)
    fetcher = NoNetwork()
    labels = FlowLabels(marks, store.collection("labels"), clock)
    doors: list[Door] = []
    identity = build_identity(
        settings,
        store=store,
        marks=marks,
        clock=clock,
        ids=RandomIds(),
        fetcher=fetcher,
        signing_key=keys or SERVER_KEY,
        record=lambda event, facts: doors[0].record(event, facts),
        labels=labels,
        idps=idps,
        noted=noted,
    )
    doors.append(Door(identity, clock, store, marks, fetcher, origin=settings.public_url, labels=labels))
    return doors[0]


class _Inputs(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}
        self.action = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = given.get("action", "")
        if tag == "input" and "name" in given:
            self.values[given["name"]] = given.get("value", "")


def inputs_of(html: str) -> dict[str, str]:
    parser = _Inputs()
    parser.feed(html)
    return parser.values


def authorize_query(**changes: str) -> dict[str, str]:
    query = {
        "response_type": "code",
        "client_id": CIMD_URL,
        "redirect_uri": CALLBACK,
        "scope": "time:read",
        "state": "xyz",
        "code_challenge": challenge_of(VERIFIER),
        "code_challenge_method": "S256",
        "resource": TIME,
        **changes,
    }
    return {name: value for name, value in query.items() if value != "-"}


@dataclass
class Browser:
    """Keeps cookies, sends what a browser sends, never follows a redirect by itself."""

    http: httpx2.AsyncClient
    origin: str = ORIGIN

    async def open(self, query: Mapping[str, str], *, site: str = "none") -> httpx2.Response:
        return await self.http.get(f"/authorize?{urlencode(query)}", headers={"Sec-Fetch-Site": site})

    async def get(self, url: str) -> httpx2.Response:
        return await self.http.get(url, headers={"Sec-Fetch-Site": "same-origin"})

    async def post(self, path: str, values: Mapping[str, str], **headers: str) -> httpx2.Response:
        sent = {"Origin": "null", "Sec-Fetch-Site": "same-origin"}  # what no-referrer pages post (UI-05)
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        return await self.http.post(path, data=dict(values), headers={k: v for k, v in sent.items() if v})

    async def sign_in(self, page: httpx2.Response, name: str = "ada", password: str = PASSWORD) -> httpx2.Response:
        """Fill in the sign-in page and return the page after it."""
        done = await self.post("/login", {**inputs_of(page.text), "username": name, "password": password})
        if done.status_code != 303:
            return done
        return await self.get(done.headers["location"])

    async def approve(self, page: httpx2.Response, decision: str = "approve") -> httpx2.Response:
        return await self.post("/consent", {**inputs_of(page.text), "decision": decision})

    async def code(self, query: Mapping[str, str] | None = None) -> dict[str, str]:
        """Go all the way and return the parameters that the client's callback gets."""
        page = await self.open(query or authorize_query())
        if 'action="/login"' in page.text:
            page = await self.sign_in(page)
        if page.status_code == 200:
            page = await self.approve(page)
        return callback_of(page)


def callback_of(reply: httpx2.Response) -> dict[str, str]:
    assert reply.status_code == 303, reply.text
    parts = urlsplit(reply.headers["location"])
    return {name: values[0] for name, values in parse_qs(parts.query).items()}


async def redeem(http: httpx2.AsyncClient, issued: str, /, **changes: str) -> httpx2.Response:
    form = {
        "grant_type": "authorization_code",
        "code": issued,
        "redirect_uri": CALLBACK,
        "client_id": CIMD_URL,
        "code_verifier": VERIFIER,
        "resource": TIME,
        **changes,
    }
    return await http.post("/token", data={name: value for name, value in form.items() if value != "-"})


async def refresh(http: httpx2.AsyncClient, token: str, **changes: str) -> httpx2.Response:
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": CIMD_URL, **changes}
    return await http.post("/token", data=form)


def assertion(door: Door, *, key: ECKey = CLIENT_KEY, typ: str = "JWT", **changes: JSON) -> str:
    now_s = door.clock.now_us() // 1_000_000
    claims: JSONObject = {
        "iss": "svc-batch",
        "sub": "svc-batch",
        "aud": door.origin,
        "iat": now_s,
        "exp": now_s + 60,
        "jti": "one",
        **changes,
    }
    return jwt.sign({k: v for k, v in claims.items() if v is not None}, key, alg="ES256", typ=typ, kid="c1")


async def client_credentials(http: httpx2.AsyncClient, signed: str, **changes: str) -> httpx2.Response:
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": signed,
        "resource": TIME,
        "scope": "time:read",
        **changes,
    }
    return await http.post("/token", data=form)
