"""Who we are to other people's authorization servers: metadata documents, keys and assertions of our own.

One redirect URI per upstream (a mix-up defence of its own), so documents come in groups that stay under
5 KiB; each has a twin for servers that take documents but no signed assertions. The keys are not those
that sign our tokens: what a stranger is shown here opens nothing of ours. (oauth reference §3, CIMD -02.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from firewall.core.bounds import METADATA_BYTES
from firewall.core.errors import ConfigFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock, Ids
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9068.tokens import SigningKeys
from firewall.identity.upstream.settings import Method, UpstreamAuth
from firewall.wire import jwt, strict_json

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWKS_PATH: Final = "/.well-known/client-jwks.json"
ALGORITHM: Final = "ES256"
ASSERTION_S: Final = 60


@dataclass(frozen=True, slots=True)
class OurClient:
    """Our registration at one authorization server; secret: for the client_secret methods."""

    client_id: str
    method: Method
    secret: str = field(default="", repr=False)


class ClientIdentity:
    """Our documents and signatures. keys: of this purpose alone."""

    def __init__(
        self,
        public_url: str,
        keys: SigningKeys,
        upstreams: Mapping[str, UpstreamAuth],
        clock: Clock,
        ids: Ids,
        *,
        name: str = "Bartizan",
    ) -> None:
        self.public_url = public_url
        self._keys = keys
        self._clock = clock
        self._ids = ids
        self._name = name
        groups: dict[str, list[str]] = {}
        for upstream, auth in upstreams.items():
            groups.setdefault(auth.group, []).append(upstream)
        groups.setdefault("", [])
        self.documents: Mapping[str, bytes] = {
            path: self._document(path, sorted(members), signed=signed)
            for group, members in groups.items()
            for path, signed in ((document_path(group, signed=True), True), (document_path(group, signed=False), False))
        }

    @property
    def reachable(self) -> bool:
        """Whether others can fetch our documents: never on a loopback installation."""
        return self.public_url.startswith("https://")

    def redirect_uri(self, upstream: str) -> str:
        """Return where an upstream's authorization server sends a person back to; no two share one."""
        return f"{self.public_url}/upstream/callback/{upstream}"

    def document_url(self, group: str, *, signed: bool) -> str:
        """Return the client id that names our document of a group."""
        return self.public_url + document_path(group, signed=signed)

    def registration(self, upstream: str, method: Method) -> JSONObject:
        """Return what we register dynamically for one upstream (RFC 7591 §2)."""
        about = self._about([upstream], method)
        if method == "private_key_jwt":
            about["jwks"] = self._keys.jwks()  # a server need not be able to reach us
        return about

    def jwks(self) -> JSON:
        """Return our public client keys."""
        return self._keys.jwks()

    def assertion(self, client_id: str, issuer: str) -> str:
        """Return a client assertion: a minute, one use, the issuer alone as audience (rfc7523bis)."""
        return self._signed({"iss": client_id, "sub": client_id, "aud": issuer}, "client-authentication+jwt")

    def about_user(self, tenant: str, subject: str, audience: str, *, auth_time: int, acr: str) -> str:
        """Return our fresh assertion about a user, for one authorization server (RFC 8693 §2.1, RS-16)."""
        claims: JSONObject = {"iss": self.public_url, "sub": subject, "aud": audience, "tenant": tenant}
        if auth_time:
            claims["auth_time"] = auth_time
        if acr:
            claims["acr"] = acr
        return self._signed(claims, "JWT")

    def about_us(self, audience: str, client_id: str) -> str:
        """Return our assertion about ourselves as the actor; client_id: of who asked us, as the next actor."""
        claims: JSONObject = {"iss": self.public_url, "sub": self.public_url, "aud": audience}
        if client_id:
            claims["act"] = {"sub": client_id}
        return self._signed(claims, "JWT")

    def _signed(self, claims: JSONObject, typ: str) -> str:
        now_s = self._clock.now_us() // SECOND_US
        whole: JSONObject = {**claims, "iat": now_s, "exp": now_s + ASSERTION_S, "jti": self._ids.new("a")}
        return jwt.sign(whole, self._keys.active, alg=ALGORITHM, typ=typ, kid=self._keys.kid)

    def _document(self, path: str, members: list[str], *, signed: bool) -> bytes:
        about = self._about(members, "private_key_jwt" if signed else "none")
        about["client_id"] = self.public_url + path
        if signed:
            about["jwks_uri"] = self.public_url + JWKS_PATH
        data = strict_json.dumps(about)
        if len(data) > METADATA_BYTES:
            raise ConfigFault(
                "upstream_documents", "too many upstreams share a client document", fix="set auth.group of some of them"
            )
        return data

    def _about(self, members: list[str], method: Method) -> JSONObject:
        redirects: list[JSON] = [self.redirect_uri(name) for name in members]
        return {
            "client_name": self._name,
            "client_uri": self.public_url,
            "redirect_uris": redirects,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": method,
            # Loopback redirects are for native applications (RFC 7591, application_type of OIDC registration).
            "application_type": "web" if self.reachable else "native",
        }


def document_path(group: str, *, signed: bool) -> str:
    """Return the path of our document of a group."""
    stem = "/oauth/client" if signed else "/oauth/client-public"
    return f"{stem}/{group}.json" if group else f"{stem}.json"
