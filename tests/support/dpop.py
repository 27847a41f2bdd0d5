"""A client that proves the possession of a key (RFC 9449), made of joserfc alone and nothing of ours."""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import Any

import orjson
from joserfc import jws
from joserfc.jwk import ECKey


@dataclass
class Holder:
    """A key and its proofs. Each proof is fresh unless ``jti`` is given."""

    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", private=True))

    @property
    def thumbprint(self) -> str:
        return self.key.thumbprint()

    def public(self) -> dict[str, str]:
        facts = self.key.as_dict(private=False)
        return {name: str(facts[name]) for name in ("kty", "crv", "x", "y")}

    def proof(self, method: str, url: str, *, now_s: int, token: str = "", **changes: Any) -> str:
        claims = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": url, "iat": now_s}
        if token:
            claims["ath"] = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
        claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.public()}
        return jws.serialize_compact(head, orjson.dumps(claims), self.key, algorithms=["ES256"])
