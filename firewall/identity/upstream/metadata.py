"""What an upstream and its authorization server say of themselves. Pure: bytes in, checked values out.

    401 challenge ──▶ protected resource metadata (RFC 9728) ──▶ authorization server metadata (RFC 8414)

- ``resource`` names what we connect to, or a parent of it on the same origin; anything else is another's.
- ``issuer`` equals the issuer that we asked for, byte for byte (RFC 8414 §3.3; CL-04).
- Every endpoint is https and stands on the issuer's origin, or on one that an operator named (CL-07).
- Without S256 among the challenge methods there is no authorization code (MCP, CL-05).

Order of the well-known addresses: MCP 2026-07-28, authorization server discovery.
"""

from __future__ import annotations

import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from firewall.core.bounds import KIB
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import oauth, strict_json
from firewall.wire.http import URL, parse_url

DOCUMENT_BYTES: Final = 64 * KIB
CHALLENGE_CHARS: Final = 8192
ISSUERS: Final = 8
PRM: Final = "/.well-known/oauth-protected-resource"
RFC8414: Final = "/.well-known/oauth-authorization-server"
OIDC: Final = "/.well-known/openid-configuration"
ID_JAG_PROFILE: Final = "urn:ietf:params:oauth:grant-profile:id-jag"

_TOKEN: Final = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")
_TOKEN68: Final = frozenset(string.ascii_letters + string.digits + "-._~+/=")
_SCHEMES: Final = ("bearer", "dpop")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the Bearer and DPoP challenges of a WWW-Authenticate field say. Empty members were not told."""

    metadata_url: str = ""
    scope: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class ResourceMetadata:
    """RFC 9728 §2, as far as we use it."""

    resource: str
    issuers: tuple[str, ...]
    scopes: tuple[str, ...] = ()
    dpop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """RFC 8414 §2, as far as we use it; endpoints are checked URLs, "" where there is none."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str = ""
    registration_endpoint: str = ""
    revocation_endpoint: str = ""
    jwks_uri: str = ""
    methods: tuple[str, ...] = ("client_secret_basic",)
    scopes: tuple[str, ...] = ()
    s256: bool = False
    tells_issuer: bool = False
    takes_documents: bool = False
    dpop: tuple[str, ...] = ()

    def to_json(self) -> JSONObject:
        """Return the members as a document that `parse_server_metadata` reads back."""
        return {
            "issuer": self.issuer,
            "token_endpoint": self.token_endpoint,
            **{
                name: value
                for name, value in (
                    ("authorization_endpoint", self.authorization_endpoint),
                    ("registration_endpoint", self.registration_endpoint),
                    ("revocation_endpoint", self.revocation_endpoint),
                    ("jwks_uri", self.jwks_uri),
                )
                if value
            },
            "token_endpoint_auth_methods_supported": list(self.methods),
            "scopes_supported": list(self.scopes),
            "code_challenge_methods_supported": ["S256"] if self.s256 else [],
            "authorization_response_iss_parameter_supported": self.tells_issuer,
            "client_id_metadata_document_supported": self.takes_documents,
            "dpop_signing_alg_values_supported": list(self.dpop),
        }


# -- challenges ------------------------------------------------------------------------------------------


def parse_challenge(value: str) -> Challenge:
    """Return what a field value says; an unreadable one says nothing.

    value: at most 8,192 characters; several challenges may share it, of other schemes too; of a repeated
    parameter the first counts. Source: RFC 9110 §11.6.1, RFC 6750 §3, RFC 9728 §5.1.
    """
    if len(value) > CHALLENGE_CHARS or not value.isascii():
        return Challenge()
    told: dict[str, str] = {}
    for scheme, parameters in _challenges(value):
        if scheme in _SCHEMES:
            told = parameters | told
    return Challenge(told.get("resource_metadata", ""), told.get("scope", ""), told.get("error", ""))


def _challenges(value: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    at, end = 0, len(value)
    while at < end:
        if value[at] in " \t,":
            at += 1
            continue
        name, at = _run(value, at, _TOKEN)
        if not name:
            return found
        after, gap = at, 0
        while after < end and value[after] in " \t":
            after, gap = after + 1, gap + 1
        if after < end and value[after] == "=" and found:
            text, at = _parameter(value, after + 1)
            if at < 0:
                return found
            found[-1][1].setdefault(name.lower(), text)
        else:
            found.append((name.lower(), {}))
            at = _skip_token68(value, after) if gap else after
    return found


def _run(value: str, at: int, allowed: frozenset[str]) -> tuple[str, int]:
    start = at
    while at < len(value) and value[at] in allowed:
        at += 1
    return value[start:at], at


def _skip_token68(value: str, at: int) -> int:
    """Return where a challenge goes on after its token68, if it has one instead of parameters."""
    run, after = _run(value, at, _TOKEN68)
    bare = run.rstrip("=")
    return after if run and "=" not in bare and (after == len(value) or value[after] in " \t,") else at


def _parameter(value: str, at: int) -> tuple[str, int]:
    while at < len(value) and value[at] in " \t":
        at += 1
    if at >= len(value) or value[at] != '"':
        return _run(value, at, _TOKEN)
    at += 1
    text: list[str] = []
    while at < len(value):
        if value[at] == '"':
            return "".join(text), at + 1
        if value[at] == "\\":
            at += 1
            if at == len(value):
                break
        text.append(value[at])
        at += 1
    return "", -1


# -- addresses -------------------------------------------------------------------------------------------


def resource_metadata_urls(resource: str) -> tuple[str, ...]:
    """Return where a resource's metadata may stand: inserted before its path, then at the root (RFC 9728 §3.1)."""
    url = parse_url(resource)
    path = url.target.partition("?")[0].rstrip("/")
    return tuple(dict.fromkeys((f"{url.origin}{PRM}{path}", f"{url.origin}{PRM}")))


def server_metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return where an issuer's metadata may stand: RFC 8414 insertion, OIDC insertion, OIDC appending."""
    url = parse_url(issuer)
    path = url.target.rstrip("/")
    if not path:
        return (f"{url.origin}{RFC8414}", f"{url.origin}{OIDC}")
    return (f"{url.origin}{RFC8414}{path}", f"{url.origin}{OIDC}{path}", f"{url.origin}{path}{OIDC}")


# -- documents -------------------------------------------------------------------------------------------


def parse_resource_metadata(data: bytes, url: str) -> ResourceMetadata:
    """Return what an upstream says of itself; url: what we connect to.

    Raises Malformed("resource_metadata"): no JSON object, another's resource, no authorization server.
    """
    value = _object(data, "resource_metadata")
    resource, issuers = value.get("resource"), value.get("authorization_servers")
    if not isinstance(resource, str) or not is_parent(resource, url):
        raise Malformed("resource_metadata", "resource")
    if not isinstance(issuers, list) or not 0 < len(issuers) <= ISSUERS:
        raise Malformed("resource_metadata", "authorization_servers")
    named = tuple(issuer for issuer in issuers if isinstance(issuer, str) and issuer)
    return ResourceMetadata(resource, named, _scopes(value), _texts(value, "dpop_signing_alg_values_supported"))


def is_parent(resource: str, url: str) -> bool:
    """Return whether a resource identifier covers a URL: same origin, same path or whole segments above it."""
    try:
        mine, told = parse_url(url), parse_url(resource)
    except Malformed:
        return False
    if told.origin != mine.origin or "?" in told.target:
        return False
    path, above = mine.target.partition("?")[0].rstrip("/"), told.target.rstrip("/")
    return path == above or path.startswith(above + "/")


def parse_server_metadata(
    data: bytes, issuer: str, *, clear: bool = False, origins: Iterable[str] = ()
) -> ServerMetadata:
    """Return an authorization server's checked metadata.

    clear: http is allowed (a server on loopback or in a private network that configuration names).
    origins: beside the issuer's own, where its endpoints may stand.
    Raises Malformed: server_metadata (shape, issuer), endpoint_clear, endpoint_foreign.
    """
    value = _object(data, "server_metadata")
    if value.get("issuer") != issuer:
        raise Malformed("server_metadata", "issuer")
    allowed = {check_clear(issuer, clear=clear).origin, *origins}
    methods = _texts(value, "token_endpoint_auth_methods_supported") or ("client_secret_basic",)

    def endpoint(name: str) -> str:
        told = value.get(name)
        if told is None:
            return ""
        if not isinstance(told, str):
            raise Malformed("server_metadata", name)
        if check_clear(told, clear=clear).origin not in allowed:
            raise Malformed("endpoint_foreign", name)
        return told

    token_endpoint = endpoint("token_endpoint")
    if not token_endpoint:
        raise Malformed("server_metadata", "token_endpoint")
    jwks_uri = value.get("jwks_uri")
    return ServerMetadata(
        issuer=issuer,
        token_endpoint=token_endpoint,
        authorization_endpoint=endpoint("authorization_endpoint"),
        registration_endpoint=endpoint("registration_endpoint"),
        revocation_endpoint=endpoint("revocation_endpoint"),
        # Keys are public and often stand on another host: https is all that is asked of their place.
        jwks_uri=str(check_clear(jwks_uri, clear=clear)) if isinstance(jwks_uri, str) else "",
        methods=methods,
        scopes=_scopes(value),
        s256="S256" in _texts(value, "code_challenge_methods_supported"),
        tells_issuer=value.get("authorization_response_iss_parameter_supported") is True,
        takes_documents=value.get("client_id_metadata_document_supported") is True,
        dpop=_texts(value, "dpop_signing_alg_values_supported"),
    )


def check_clear(url: str, *, clear: bool) -> URL:
    """Return a parsed URL that may be asked. Raises Malformed: url_invalid, endpoint_clear (CL-04)."""
    parsed = parse_url(url)
    if parsed.scheme != "https" and not clear:
        raise Malformed("endpoint_clear")
    return parsed


def _object(data: bytes, code: str) -> JSONObject:
    try:
        value = strict_json.loads(data, max_depth=16)
    except Malformed:
        raise Malformed(code, "json") from None
    if not isinstance(value, dict):
        raise Malformed(code, "json")
    return value


def _texts(value: JSONObject, name: str) -> tuple[str, ...]:
    told: JSON = value.get(name)
    return tuple(text for text in told[:256] if isinstance(text, str)) if isinstance(told, list) else ()


def _scopes(value: JSONObject) -> tuple[str, ...]:
    """Return the advertised scopes that can be sent; more than may stand in a request are no help."""
    try:
        return oauth.parse_scope(" ".join(_texts(value, "scopes_supported")))
    except Malformed:
        return ()
