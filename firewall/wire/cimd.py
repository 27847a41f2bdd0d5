"""Client ID Metadata Documents: the rules of the URL and of the document. Pure; nothing is fetched.

Source: draft-ietf-oauth-client-id-metadata-document-02, MCP 2026-07-28 authorization, oauth reference §3.
Client identifiers compare as plain strings: ``https://a.example/c`` is not ``https://a.example:443/c``.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from firewall.core.bounds import METADATA_BYTES
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import canonical, jwt, oauth, strict_json

URL_CHARS: Final = 512
HOST_CHARS: Final = 253  # RFC 1035 §2.3.4
STRING_CHARS: Final = 2048
REDIRECTS: Final = 20
DEPTH: Final = 8
AUTH_METHODS: Final = ("none", "private_key_jwt")
HEADER_CHARS: Final = 1024
# What a client may say that it uses. Its own tokens (client_credentials) belong to a tenant, which no document has.
GRANTS: Final = ("authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code")
SIGNED_GRANTS: Final = (
    "urn:ietf:params:oauth:grant-type:jwt-bearer",
    "urn:ietf:params:oauth:grant-type:token-exchange",
)

_FORBIDDEN: Final = ("client_secret", "client_secret_expires_at")
_SECRET: Final = frozenset({"d", "k", "p", "q", "dp", "dq", "qi", "oth"})  # RFC 7518 §6.2.2, §6.3.2, §6.4
_HOST_SET: Final = frozenset(string.ascii_lowercase + string.digits + "-.")
_PATH_SET: Final = frozenset(string.ascii_letters + string.digits + "-._~%!$&'()*+,;=:@/?")
# A change of one of these means: this is not what the person agreed to.
_CONSENTED: Final = (
    "redirect_uris",
    "jwks",
    "jwks_uri",
    "token_endpoint_auth_method",
    "scope",
    "grant_types",
    "client_name",
    "logo_uri",
)


@dataclass(frozen=True, slots=True)
class ClientDocument:
    """What we use of a checked document. ``digest`` changes when something changes that a person agreed to.

    client_name: as written by a stranger; clean it before anybody sees it.
    scope: () means no limit of the client's own.
    logo_uri: https on a name, or "" when there is none that could be fetched.
    dpop: it wants bound tokens and no others (RFC 9449 §5.2). pushed_only: it asks by pushed requests alone
        (RFC 9126 §6).
    """

    client_id: str
    client_name: str
    redirect_uris: tuple[str, ...]
    grant_types: tuple[str, ...]
    auth_method: str
    scope: tuple[str, ...]
    jwks: JSON
    jwks_uri: str
    logo_uri: str
    digest: str
    dpop: bool = False
    pushed_only: bool = False


def is_client_url(client_id: str) -> bool:
    """Return whether a client id claims to be a metadata document's URL."""
    return client_id.startswith("https://")


def check_client_url(url: str, *, ports: frozenset[int] = frozenset()) -> str:
    """Return the lower-case host of an acceptable client identifier URL, before any network is touched.

    https, a registered name (no address in any notation), a path that is not bare, no dot segment in
    any encoding, no query, fragment or userinfo; at most 512 characters; no port but those allowed.
    Raises Malformed("cimd_url").
    """
    if not url.startswith("https://") or len(url) > URL_CHARS or not url.isascii():
        raise Malformed("cimd_url", "scheme or length")
    authority, slash, path = url[len("https://") :].partition("/")
    host, colon, port = authority.partition(":")
    if colon and not (port.isdigit() and len(port) <= 5 and int(port) in ports):
        raise Malformed("cimd_url", "port")
    if not _is_name(host):
        raise Malformed("cimd_url", "host")
    if host.rpartition(".")[2][0] in string.digits:
        raise Malformed("cimd_url", "address")
    if not slash or not path or not _PATH_SET.issuperset(path) or "?" in path:
        raise Malformed("cimd_url", "path")
    for segment in path.lower().split("/"):
        if segment.replace("%2e", ".") in (".", ".."):
            raise Malformed("cimd_url", "dot segment")
    if any(code in path.lower() for code in ("%2f", "%5c", "%00", "%25")):
        raise Malformed("cimd_url", "path")
    return host


def host_of(client_id: str) -> str:
    """Return the host that a client id names, however wrong the rest of it is; "" when there is no registered name.

    For records alone: nobody may be asked or trusted by it. At most 253 characters of ``a-z 0-9 - .``.
    """
    if not is_client_url(client_id) or not client_id[:URL_CHARS].isascii():
        return ""
    authority = client_id[len("https://") : URL_CHARS].partition("/")[0]
    host = authority.partition(":")[0].lower()
    return host if len(host) <= HOST_CHARS and _is_name(host) else ""


def _is_name(host: str) -> bool:
    """Return whether a host has the form of a registered name, two labels at least, or of an IPv4 address."""
    labels = host.split(".")
    return len(labels) >= 2 and _HOST_SET.issuperset(host) and not any(_bad_label(label) for label in labels)


def parse_document(url: str, data: bytes) -> ClientDocument:
    """Return the checked document that was found at ``url``.

    data: at most 5 KiB of strict JSON. Unknown members are ignored. Raises Malformed("cimd_document").
    """
    if len(data) > METADATA_BYTES:
        raise Malformed("cimd_document", "too large")
    try:
        value = strict_json.loads(data, max_depth=DEPTH)
    except Malformed as error:
        raise Malformed("cimd_document", error.code) from None
    _check_strings(value)
    return check_document(url, value)


def check_document(url: str, value: JSON) -> ClientDocument:
    """Return the checked document from parsed JSON; ``client_id`` must equal ``url`` byte for byte (CL-02)."""
    if not isinstance(value, dict) or value.get("client_id") != url:
        raise Malformed("cimd_document", "client_id")
    if any(name in value for name in _FORBIDDEN):
        raise Malformed("cimd_document", "secret")
    method = value.get("token_endpoint_auth_method")
    if method is None:
        # RFC 7591 would mean client_secret_basic, which a public document cannot have.
        method = "private_key_jwt" if "jwks" in value or "jwks_uri" in value else "none"
    if method not in AUTH_METHODS:
        raise Malformed("cimd_document", "token_endpoint_auth_method")
    assert isinstance(method, str)
    jwks, jwks_uri = value.get("jwks"), _text(value, "jwks_uri")
    _refuse_secret_keys(jwks)
    if method == "private_key_jwt":
        if (jwks is None) == (not jwks_uri):
            raise Malformed("cimd_document", "jwks")
        if jwks is not None:
            jwt.keys_of(jwks)
    if jwks_uri:
        _check_jwks_uri(jwks_uri)
    grants = _texts(value, "grant_types") if "grant_types" in value else ("authorization_code",)
    # Who never sends a person through a browser has nowhere to be redirected to.
    interactive = "authorization_code" in grants or "redirect_uris" in value
    redirects = _texts(value, "redirect_uris") if interactive else ()
    if len(redirects) > REDIRECTS or (interactive and not redirects):
        raise Malformed("cimd_document", "redirect_uris")
    for redirect in redirects:
        try:
            oauth.check_redirect_uri(redirect)
        except Malformed:
            raise Malformed("cimd_document", "redirect_uris") from None
    usable = GRANTS + (SIGNED_GRANTS if method == "private_key_jwt" else ())
    try:
        scope = oauth.parse_scope(_text(value, "scope"))
    except Malformed:
        raise Malformed("cimd_document", "scope") from None
    return ClientDocument(
        client_id=url,
        client_name=_text(value, "client_name"),
        redirect_uris=redirects,
        grant_types=tuple(g for g in grants if g in usable),
        auth_method=method,
        scope=scope,
        jwks=jwks,
        jwks_uri=jwks_uri,
        logo_uri=_logo_uri(value),
        digest=consent_digest(value),
        dpop=value.get("dpop_bound_access_tokens") is True,
        pushed_only=value.get("require_pushed_authorization_requests") is True,
    )


def consent_digest(value: JSONObject) -> str:
    """Return the digest of the members that a person's consent depends on (hex, SHA-256)."""
    return hashlib.sha256(canonical.encode({k: value[k] for k in _CONSENTED if k in value})).hexdigest()


def cache_seconds(cache_control: str, *, default_s: int = 3600, least_s: int = 300, most_s: int = 86_400) -> int:
    """Return how long a good document may be kept: max-age within our bounds (RFC 9111 §5.2.2.1)."""
    return fresh_seconds({"cache-control": cache_control}, 0, default_s=default_s, least_s=least_s, most_s=most_s)


def fresh_seconds(
    headers: Mapping[str, str], now_s: int, *, default_s: int = 3600, least_s: int = 300, most_s: int = 86_400
) -> int:
    """Return for how long an answer may be used without asking again, in seconds, within our bounds.

    headers: of the answer, lower-case names. ``Cache-Control`` decides, else ``Expires``, else default_s;
    ``Age`` has passed already. ``no-store`` and ``no-cache`` mean least_s: a client's host may not
    make us fetch for every request. now_s: Unix seconds, in place of a missing ``Date``.
    Source: RFC 9111 §4.2.1, §5.1, §5.2.2, §5.3.
    """
    control, ages = headers.get("cache-control", "").lower()[:HEADER_CHARS], []
    for directive in control.split(","):
        name, _, number = directive.strip().partition("=")
        if name in ("no-store", "no-cache"):
            return least_s
        if name == "max-age" and (number := number.strip('"')).isascii() and number.isdigit():
            ages.append(_seconds(number))
    if ages:
        lifetime = min(ages)  # RFC 9111 §4.2.1: of two that differ, the more careful one
    elif "expires" in headers:
        expires = _date(headers["expires"])
        lifetime = expires - (_date(headers.get("date", "")) or now_s) if expires else 0
    else:
        lifetime = default_s
    age = headers.get("age", "")
    return max(least_s, min(lifetime - (_seconds(age) if age else 0), most_s))


def _seconds(text: str) -> int:
    return int(text[:10]) if text.isascii() and text.isdigit() else 0


def _date(text: str) -> int:
    """Return an HTTP date in Unix seconds, 0 when it is none (``Expires: 0`` is common)."""
    try:
        return int(parsedate_to_datetime(text[:64]).timestamp())
    except (ValueError, OverflowError, IndexError, TypeError):
        return 0


def _logo_uri(value: JSONObject) -> str:
    # A bad logo costs the client its picture, nothing else. What may be fetched is checked as a client id is.
    uri = value.get("logo_uri")
    if not isinstance(uri, str):
        return ""
    try:
        check_client_url(uri.partition("?")[0])
    except Malformed:
        return ""
    return uri if len(uri) <= URL_CHARS and _PATH_SET.issuperset(uri) else ""


def _refuse_secret_keys(jwks: JSON) -> None:
    """Raise Malformed("jwks_invalid") for private or symmetric material, whatever else the set holds (-02 §8)."""
    entries = jwks.get("keys") if isinstance(jwks, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or entry.get("kty") == "oct" or not _SECRET.isdisjoint(entry):
            raise Malformed("jwks_invalid", "secret key")


def _check_strings(value: JSON) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str) and len(item) > STRING_CHARS:
            raise Malformed("cimd_document", "string")
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _check_jwks_uri(uri: str) -> None:
    # The same rules as for the client id: it is fetched on a stranger's word too (CL-01).
    try:
        check_client_url(uri)
    except Malformed:
        raise Malformed("cimd_document", "jwks_uri") from None


def _bad_label(label: str) -> bool:
    return not label or len(label) > 63 or label[0] == "-" or label[-1] == "-"


def _text(value: JSONObject, name: str) -> str:
    member = value.get(name, "")
    if not isinstance(member, str) or len(member) > STRING_CHARS:
        raise Malformed("cimd_document", name)
    return member


def _texts(value: JSONObject, name: str) -> tuple[str, ...]:
    member = value.get(name)
    if not isinstance(member, list):
        raise Malformed("cimd_document", name)
    texts = tuple(item for item in member if isinstance(item, str) and len(item) <= STRING_CHARS)
    if len(texts) != len(member):
        raise Malformed("cimd_document", name)
    return texts
