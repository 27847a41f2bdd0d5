"""An authorization server of a test that makes tokens for assertions: exchange, ID-JAG in both roles, client credentials."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from joserfc.jwk import ECKey

from firewall.net.runtime import SystemClock
from firewall.wire import jwt
from tests.net.certificates import authority
from tests.support.composed import free_port
from tests.support.door import public_jwks
from tests.support.mcp import served

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@dataclass
class Issuer:
    """change: alters the claims of every token that is made. answer: replaces the token endpoint's answer."""

    origin: str
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", private=True))
    signer: ECKey | None = None
    requests: list[dict[str, str]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    change: Callable[[dict[str, Any]], None] = lambda _claims: None
    answer: Callable[[dict[str, str]], tuple[int, dict[str, Any]] | None] = lambda _form: None
    lives_s: int = 300
    ca_file: str = ""

    def metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.origin,
            "token_endpoint": f"{self.origin}/token",
            "jwks_uri": f"{self.origin}/jwks",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_basic"],
        }

    def token(self, form: dict[str, str]) -> dict[str, Any]:
        now_s = SystemClock().now_us() // 1_000_000
        claims: dict[str, Any] = {
            "iss": self.origin,
            "aud": form.get("resource") or form.get("audience", ""),
            "sub": "user-42",
            "iat": now_s,
            "exp": now_s + self.lives_s,
            "jti": f"t{len(self.requests)}",
            "scope": form.get("scope", ""),
        }
        kind = form.get("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")
        if kind.endswith(":id-jag"):
            claims |= {"aud": form["audience"], "client_id": "bartizan", "resource": form.get("resource")}
        self.change(claims)
        typ = "oauth-id-jag+jwt" if kind.endswith(":id-jag") else "at+jwt"
        made = jwt.sign(claims, self.signer or self.key, alg="ES256", typ=typ, kid="c1")
        told: dict[str, Any] = {"access_token": made, "token_type": "Bearer", "expires_in": self.lives_s}
        if form["grant_type"] == EXCHANGE:
            told["issued_token_type"] = kind
        if kind.endswith(":id-jag"):
            told["token_type"] = "N_A"
        return told

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        path, status = scope["path"], 200
        value: Any = {}
        if path == "/.well-known/oauth-authorization-server":
            value = self.metadata()
        elif path == "/jwks":
            value = public_jwks(self.key)
        elif path == "/token":
            body = b""
            more = True
            while more:
                message = await receive()
                body += message.get("body", b"")
                more = message.get("more_body", False)
            form = dict(parse_qsl(body.decode()))
            self.requests.append(form)
            self.authorizations.append(dict(scope["headers"]).get(b"authorization", b"").decode())
            status, value = self.answer(form) or (200, self.token(form))
        else:
            status = 404
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(value).encode()})


@contextlib.asynccontextmanager
async def issuer(folder: Path | None = None) -> AsyncIterator[Issuer]:
    """Serve one on loopback. folder: by https, with an authority of its own whose files stand there."""
    port = free_port()
    if folder is None:
        made = Issuer(f"http://127.0.0.1:{port}")
        async with served(made, port):
            yield made
        return
    files = authority(folder, "localhost")
    made = Issuer(f"https://localhost:{port}", ca_file=str(files.ca))
    async with served(made, port, ssl_certfile=str(files.cert), ssl_keyfile=str(files.key)):
        yield made
