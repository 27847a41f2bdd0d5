"""An identity provider in this process: it answers fetches, signs what it is told to, and can misbehave."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from joserfc.jwk import ECKey

from firewall.core.action import Headers
from firewall.core.errors import UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.identity.oidc.build import ProvidersGiven
from firewall.identity.oidc.secret import secret_reader
from firewall.identity.oidc.settings import ProviderSettings
from firewall.net.address import Network
from firewall.net.dial import Fetched, Purpose
from firewall.wire import jwt, strict_json
from tests.support.door import Browser, Door, authorize_query, callback_of, inputs_of, make_door, public_jwks

ISSUER = "https://idp.acme.example"
CLIENT_ID = "bartizan"
SECRET = "a secret of the provider"


@dataclass
class Idp:
    """One provider. Whatever it hands out can be changed: `claims`, `header`, `metadata`, `answer`."""

    issuer: str = ISSUER
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", private=True))
    kid: str = "k1"
    typ: str = "JWT"
    person: dict[str, Any] = field(default_factory=lambda: {"sub": "00u1", "name": "Ada L.", "groups": ["agents"]})
    changes: dict[str, Any] = field(default_factory=dict)  # of the ID token; None takes a claim away
    metadata: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    down: bool = False
    asked: list[tuple[str, dict[str, str], dict[bytes, bytes]]] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    keys: JSONObject | None = None
    now_s: int = 0

    @property
    def base(self) -> str:
        """Where its endpoints are: some issuers end in a slash."""
        return self.issuer.rstrip("/")

    def document(self) -> JSONObject:
        made = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.base}/authorize",
            "token_endpoint": f"{self.base}/token",
            "jwks_uri": f"{self.base}/jwks",
            "userinfo_endpoint": f"{self.base}/userinfo",
            "end_session_endpoint": f"{self.base}/logout",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "id_token_signing_alg_values_supported": ["ES256", "RS256"],
            "authorization_response_iss_parameter_supported": True,
            **self.metadata,
        }
        return {name: value for name, value in made.items() if value is not None}

    def authorize(self, location: str, **changes: str) -> str:
        """Be the provider's page: remember the request and return the query of the callback."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        promised = "authorization_response_iss_parameter_supported" in self.document()
        answer = {"code": code, "state": asked["state"], "iss": self.issuer if promised else "-", **changes}
        return str(httpx2.QueryParams({name: value for name, value in answer.items() if value != "-"}))

    def id_token(self, nonce: str, access_token: str = "at") -> str:
        half = hashlib.sha256(access_token.encode()).digest()[:16]
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": self.now_s,
            "exp": self.now_s + 300,
            "auth_time": self.now_s - 5,
            "nonce": nonce,
            "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(),
            **self.person,
            **self.changes,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.sign(kept, self.key, alg="ES256", typ=self.typ, kid=self.kid)

    def answer(self, url: str, headers: Headers, body: bytes | None) -> Fetched:
        path = url.removeprefix(self.base)
        form = {name: values[0] for name, values in parse_qs((body or b"").decode()).items()}
        self.asked.append((path, form, dict(headers)))
        if path.endswith("/.well-known/openid-configuration"):
            return _json(self.document())
        if path == "/jwks":
            return _json(self.keys if self.keys is not None else public_jwks(self.key, self.kid))
        if path == "/userinfo":
            return _json(self.userinfo)
        if path == "/token":
            known = self.codes.pop(form.get("code", ""), None)
            challenge = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if known is None or known["code_challenge"] != base64.urlsafe_b64encode(challenge).rstrip(b"=").decode():
                return _json({"error": "invalid_grant", "error_description": "<script>"}, 400)
            return _json({"access_token": "at", "token_type": "Bearer", "id_token": self.id_token(known["nonce"])})
        return Fetched(404)


@dataclass
class Idps:
    """The way out: to these providers and nowhere else."""

    providers: list[Idp]
    fetched: list[str] = field(default_factory=list)

    async def fetch(
        self,
        purpose: Purpose,
        url: str,
        *,
        network: Network = "public",
        max_bytes: int,
        timeout_s: float,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> Fetched:
        self.fetched.append(url)
        for idp in self.providers:
            if url.startswith(idp.base + "/") and not idp.down:
                answer = idp.answer(url, headers, body)
                if len(answer.body) > max_bytes:
                    raise UpstreamFault("too_large")
                return answer
        raise UpstreamFault("unreachable")


def _json(value: Any, status: int = 200) -> Fetched:
    return Fetched(status, {"content-type": "application/json"}, strict_json.dumps(value))


def corp(**changes: Any) -> ProviderSettings:
    """Return the settings of the provider that tests sign in at."""
    values: dict[str, Any] = {
        "name": "corp",
        "issuer": ISSUER,
        "client_id": CLIENT_ID,
        "title": "Acme",
        "secret": "env:IDP_SECRET",
        "roles": {"agents": ("dev",)},
        "scopes_of": {"agents": ("time:*",)},
        "tenant": "acme",
        **changes,
    }
    return ProviderSettings(**values)


@dataclass
class Stage:
    """A front door with providers."""

    door: Door
    idps: Idps

    @property
    def idp(self) -> Idp:
        return self.idps.providers[0]

    def tick(self) -> None:
        """Tell every provider our time."""
        for idp in self.idps.providers:
            idp.now_s = self.door.clock.now_us() // 1_000_000


def make_stage(*settings: ProviderSettings, idps: tuple[Idp, ...] = (), passwords: bool = True, **door: Any) -> Stage:
    """Return a front door whose people sign in at these providers (at one called corp by default)."""
    way = Idps(list(idps) or [Idp()])
    given = ProvidersGiven(settings or (corp(),), way, secret_reader({"IDP_SECRET": SECRET}), passwords=passwords)
    stage = Stage(make_door(idps=given, **door), way)
    stage.tick()
    return stage


async def leave(browser: Browser, page: httpx2.Response, idp: str = "corp") -> httpx2.Response:
    """Press the provider's button on a sign-in page."""
    return await browser.post(f"/login/{idp}", inputs_of(page.text))


async def come_back(browser: Browser, query: str, idp: str = "corp") -> httpx2.Response:
    """Follow the provider's redirect to a callback."""
    return await browser.http.get(f"/callback/{idp}?{query}", headers={"Sec-Fetch-Site": "cross-site"})


async def sign_in(browser: Browser, stage: Stage, query: dict[str, str] | None = None) -> httpx2.Response:
    """Go from a client's request to the answer of the callback, as somebody who is not signed in yet."""
    stage.tick()
    browser.http.cookies.clear()
    page = await browser.open(query or authorize_query())
    away = await leave(browser, page)
    assert away.status_code == 303, away.text
    return await come_back(browser, stage.idp.authorize(away.headers["location"]))


async def code_of(browser: Browser, stage: Stage, query: dict[str, str] | None = None) -> dict[str, str]:
    """Go all the way to the client's callback."""
    back = await sign_in(browser, stage, query)
    assert back.status_code == 303, back.text
    page = await browser.http.get(back.headers["location"], headers={"Sec-Fetch-Site": "cross-site"})
    return callback_of(await browser.approve(page))
