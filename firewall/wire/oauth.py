"""OAuth 2.1 rules as functions. Pure: nothing here fetches, stores, reads a clock or a dice.

- Parameters may not repeat (OAuth 2.1 §3.1; oauth reference AS-07); unknown ones are ignored.
- PKCE: S256 only, both directions mandatory (RFC 7636, RFC 9700 §2.1.1).
- Redirect URIs match as exact strings; only the port of an http loopback URI is free
  (RFC 8252 §7.3, extended to the name ``localhost``, which real clients register).
- A resource indicator names one known resource (RFC 8707 §2): no prefix. Clients write it in two ways that mean the
  same, with one trailing slash and with capitals in the origin; what comes out is our own one spelling.
- Scopes narrow, never widen: what is granted is an intersection (DESIGN §6b-6).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from firewall.core.errors import Malformed

FIELDS: Final = 64
VALUE_CHARS: Final = 8192
STATE_CHARS: Final = 2048
SCOPES: Final = 64
SCOPE_CHARS: Final = 128
ACR_VALUES: Final = 8
REDIRECT_CHARS: Final = 1024
HINT_CHARS: Final = 256
LOOPBACK_HOSTS: Final = ("127.0.0.1", "[::1]", "localhost")
VENDOR_SCHEMES: Final = frozenset({"vscode", "vscode-insiders", "cursor"})
FORBIDDEN_SCHEMES: Final = frozenset(
    {"javascript", "data", "file", "vbscript", "blob", "about", "ws", "wss", "ftp", "mailto"}
)

AUTHORIZATION_PARAMETERS: Final = frozenset(
    "response_type response_mode client_id redirect_uri scope state code_challenge code_challenge_method resource"
    " prompt max_age acr_values authorization_details dpop_jkt login_hint".split()
)
"""What an authorization request can say to us; `parse_authorization_request` reads nothing else."""

_UNRESERVED: Final = frozenset(string.ascii_letters + string.digits + "-._~")
_BASE64URL: Final = frozenset(string.ascii_letters + string.digits + "-_")
_SCOPE_SET: Final = frozenset(chr(c) for c in range(0x21, 0x7F)) - {'"', "\\"}
_URI_SET: Final = frozenset(chr(c) for c in range(0x21, 0x7F)) - set('"<>\\^`{|}#')
_SCHEME_SET: Final = frozenset(string.ascii_lowercase + string.digits + "+-.")
_STATE_SET: Final = frozenset(chr(c) for c in range(0x20, 0x7F))
_PROMPTS: Final = frozenset({"none", "login", "consent", "select_account"})


class OAuthError(Malformed):
    """A refusal in OAuth's own words.

    error: the registered error code that the peer sees (RFC 6749 §4.1.2.1, §5.2; RFC 8707 §2).
    code: ours, for operators, more exact; never told to the peer.
    why: which sentence of ours the peer reads, where neither ``error`` nor ``code`` says it (`identity.web.REASONS`).
    detail: which part of it, in fixed words of ours; for the record.
    about: whose request it was, as far as that was proved when it was refused: tenant, sub, gid; for the record.
    """

    def __init__(self, error: str, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.error = error
        self.why = ""
        self.about: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Form:
    """Decoded parameters. ``repeated`` names those that occurred more than once (their values are kept out)."""

    values: Mapping[str, str]
    repeated: frozenset[str]

    def get(self, name: str) -> str:
        """Return the value, "" when absent or empty (RFC 6749 §3.1: empty counts as omitted)."""
        return self.values.get(name, "")


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """A checked authorization request. scope: in order, without repetition; prompt: a set; max_age: s or −1.

    acr_values: in the client's order of preference (OIDC Core §3.1.2.1). authorization_details: JSON text as
    it was sent, "" for none (RFC 9396); `identity.rfc9396` reads it. dpop_jkt: the key that will redeem the
    code, "" for any (RFC 9449 §10). login_hint: who is expected, for an identity provider, "" for nobody.
    """

    client_id: str
    redirect_uri: str
    scope: tuple[str, ...]
    state: str
    code_challenge: str
    resource: str
    prompt: frozenset[str]
    max_age: int
    acr_values: tuple[str, ...] = ()
    authorization_details: str = ""
    dpop_jkt: str = ""
    login_hint: str = ""


# -- parameters ------------------------------------------------------------------------------------


def parse_form(data: bytes) -> Form:
    """Return the parameters of a query string or form body (application/x-www-form-urlencoded).

    data: at most 64 fields, values at most 8,192 characters, UTF-8, no control characters.
    Raises OAuthError invalid_request: form_invalid.
    """
    try:
        pairs = parse_qsl(
            data.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=FIELDS
        )
    except ValueError:
        raise OAuthError("invalid_request", "form_invalid") from None
    values: dict[str, str] = {}
    repeated: set[str] = set()
    for name, value in pairs:
        if len(value) > VALUE_CHARS or any(c < " " or c == "\x7f" for c in value):
            raise OAuthError("invalid_request", "form_invalid")
        if name in values or name in repeated:
            repeated.add(name)
            values.pop(name, None)
        else:
            values[name] = value
    return Form(values, frozenset(repeated))


def refuse_repeated(form: Form) -> None:
    """Raise OAuthError when any parameter occurred twice (AS-07): invalid_request, parameter_repeated.

    A resource alone is invalid_target, resource_repeated: a token is for one (AS-06; RFC 8707 §2).
    """
    if form.repeated == {"resource"}:
        raise OAuthError("invalid_target", "resource_repeated")
    if form.repeated:
        raise OAuthError("invalid_request", "parameter_repeated")


# -- authorization request ---------------------------------------------------------------------------


def parse_identity(form: Form) -> tuple[str, str]:
    """Return (client_id, redirect_uri), the two that decide whether a redirect is allowed at all (AS-01).

    Raises OAuthError invalid_request: client_missing, redirect_missing. The caller shows a page.
    """
    if not form.get("client_id"):
        raise OAuthError("invalid_request", "client_missing")
    if not form.get("redirect_uri"):
        raise OAuthError("invalid_request", "redirect_missing")
    return form.get("client_id"), form.get("redirect_uri")


def parse_authorization_request(form: Form) -> AuthorizationRequest:
    """Return the checked request; call only after client and redirect URI were found good.

    Raises OAuthError (to be told by redirect): invalid_request, unsupported_response_type,
    invalid_scope. Source: OAuth 2.1 §4.1.1, RFC 7636 §4.3, RFC 8707 §2.1, OIDC Core §3.1.2.1 (prompt, max_age).
    """
    refuse_repeated(form)
    client_id, redirect_uri = parse_identity(form)
    if form.get("response_type") != "code":
        error = "unsupported_response_type" if form.get("response_type") else "invalid_request"
        raise OAuthError(error, "response_type")
    if form.get("response_mode") not in ("", "query") or form.get("request") or form.get("request_uri"):
        raise OAuthError("invalid_request", "request_mode")
    check_challenge(form.get("code_challenge"), form.get("code_challenge_method"))
    prompt = frozenset(form.get("prompt").split(" ")) - {""}
    if not prompt <= _PROMPTS or ("none" in prompt and len(prompt) > 1):
        raise OAuthError("invalid_request", "prompt")
    max_age = form.get("max_age")
    if max_age and not (max_age.isascii() and max_age.isdigit() and len(max_age) <= 9):
        raise OAuthError("invalid_request", "max_age")
    return AuthorizationRequest(
        client_id=client_id,
        redirect_uri=redirect_uri,
        scope=parse_scope(form.get("scope")),
        state=check_state(form.get("state")),
        code_challenge=form.get("code_challenge"),
        resource=form.get("resource"),
        prompt=prompt,
        max_age=int(max_age) if max_age else -1,
        acr_values=parse_acr_values(form.get("acr_values")),
        authorization_details=form.get("authorization_details"),
        dpop_jkt=check_thumbprint(form.get("dpop_jkt")),
        # A hint that is too long to be a name is no reason to refuse anything.
        login_hint=form.get("login_hint") if len(form.get("login_hint")) <= HINT_CHARS else "",
    )


def parse_acr_values(text: str) -> tuple[str, ...]:
    """Return the authentication contexts in order of preference; raises OAuthError invalid_request: acr_values."""
    values = tuple(dict.fromkeys(text.split(" "))) if text else ()
    if len(values) > ACR_VALUES or any(not v or len(v) > SCOPE_CHARS or not _SCOPE_SET.issuperset(v) for v in values):
        raise OAuthError("invalid_request", "acr_values")
    return values


def check_thumbprint(text: str) -> str:
    """Return a SHA-256 JWK thumbprint (RFC 7638), or ""; raises OAuthError invalid_request: dpop_jkt."""
    if text and (len(text) != 43 or not _BASE64URL.issuperset(text)):
        raise OAuthError("invalid_request", "dpop_jkt")
    return text


def check_state(state: str) -> str:
    """Return the state when it may be echoed (VSCHAR, RFC 6749 A.5; at most 2,048 characters)."""
    if len(state) > STATE_CHARS or not _STATE_SET.issuperset(state):
        raise OAuthError("invalid_request", "state")
    return state


def build_redirect(redirect_uri: str, parameters: Mapping[str, str]) -> str:
    """Return the redirect URI with parameters added to its query; empty values are left out."""
    query = urlencode({k: v for k, v in parameters.items() if v})
    return f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{query}"


# -- PKCE ------------------------------------------------------------------------------------------------


def check_challenge(challenge: str, method: str) -> None:
    """Raise OAuthError invalid_request unless there is an S256 challenge (43 base64url characters)."""
    if not challenge:
        raise OAuthError("invalid_request", "pkce_missing")
    if method != "S256":
        raise OAuthError("invalid_request", "pkce_method")
    if len(challenge) != 43 or not _BASE64URL.issuperset(challenge):
        raise OAuthError("invalid_request", "pkce_shape")


def check_verifier(verifier: str, challenge: str) -> None:
    """Raise OAuthError invalid_grant unless the verifier hashes to the challenge (RFC 7636 §4.6).

    verifier: 43–128 unreserved characters. Compared in constant time. A verifier without a
    challenge, or the reverse, is a mismatch too (RFC 9700 §4.8.2).
    """
    if not 43 <= len(verifier) <= 128 or not _UNRESERVED.issuperset(verifier) or not challenge:
        raise OAuthError("invalid_grant", "pkce_verifier")
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    if not hmac.compare_digest(digest, challenge.encode()):
        raise OAuthError("invalid_grant", "pkce_verifier")


# -- redirect URIs ---------------------------------------------------------------------------------------


def check_redirect_uri(uri: str) -> str:
    """Return a URI that may be registered and redirected to.

    https with a host; http on loopback; a private-use scheme with a dot (RFC 8252 §7.1) or a vendor's.
    No fragment, userinfo, wildcard, backslash or other character that needs quoting.
    Raises OAuthError invalid_redirect_uri.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest or len(uri) > REDIRECT_CHARS or not _URI_SET.issuperset(uri) or "*" in uri:
        raise OAuthError("invalid_redirect_uri", "redirect_shape")
    if not scheme or not _SCHEME_SET.issuperset(scheme) or not scheme[0].isalpha() or scheme in FORBIDDEN_SCHEMES:
        raise OAuthError("invalid_redirect_uri", "redirect_scheme")
    try:
        # An app's own scheme too: every page that shows where an answer goes reads it this way (`redirect_host`).
        parts = urlsplit(uri)
        port_ok = scheme != "https" or parts.port is None or parts.port > 0
    except ValueError:
        raise OAuthError("invalid_redirect_uri", "redirect_shape") from None
    if scheme == "http":
        if _loopback_parts(uri) is None:
            raise OAuthError("invalid_redirect_uri", "redirect_scheme")
    elif scheme == "https":
        if not port_ok or not parts.hostname or "@" in parts.netloc or not rest.startswith("//"):
            raise OAuthError("invalid_redirect_uri", "redirect_shape")
    elif "." not in scheme and scheme not in VENDOR_SCHEMES:
        raise OAuthError("invalid_redirect_uri", "redirect_scheme")
    return uri


def redirect_matches(registered: Iterable[str], presented: str) -> bool:
    """Return whether the presented URI is one of the registered (AS-02); both sides are exact strings."""
    try:
        check_redirect_uri(presented)
    except OAuthError:
        return False
    loopback = _loopback_parts(presented)
    return any(presented == uri or (loopback is not None and loopback == _loopback_parts(uri)) for uri in registered)


def is_loopback_redirect(uri: str) -> bool:
    """Return whether the URI leads to a program on the user's own computer by http."""
    return _loopback_parts(uri) is not None


def redirect_host(uri: str) -> str:
    """Return what a person is shown as the destination: the host, or the scheme of an app."""
    loopback = _loopback_parts(uri)
    if loopback is not None:
        return loopback[0]
    return urlsplit(uri).hostname or f"{uri.partition(':')[0]}:"


def _loopback_parts(uri: str) -> tuple[str, str] | None:
    """Return (host, everything after the port) of an http loopback URI, else None."""
    if not uri.startswith("http://"):
        return None
    rest = uri[len("http://") :]
    for host in LOOPBACK_HOSTS:
        if not rest.startswith(host):
            continue
        tail = rest[len(host) :]
        if tail.startswith(":"):
            digits = tail[1:6]
            digits = digits[: next((i for i, c in enumerate(digits) if c not in string.digits), len(digits))]
            if not digits or not 0 < int(digits) < 65536:
                return None
            tail = tail[1 + len(digits) :]
        if tail == "" or tail[0] in "/?":
            return host, tail
    return None


# -- resources and scopes -----------------------------------------------------------------------------


def canonical_resource(uri: str) -> str:
    """Return a resource indicator in our spelling: scheme and host in lower case, no query, not one trailing slash.

    MCP 2026-07-28, authorization, "Canonical Server URI": clients are told this form, and servers to take the others.
    A client that was given our address with a query asks for it with that query, which our endpoints ignore.
    Only what a client *asks for* is read so; ``aud`` of a token is compared as it stands (RS-09). What is no ASCII
    is left alone: lower case makes letters of ours out of some that only look like them.
    """
    scheme, mark, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    path = path.partition("?")[0].removesuffix("/")
    return f"{scheme}://{host}".lower() + slash + path if mark and path and uri.isascii() and "#" not in uri else uri


def check_resource(presented: str, known: Mapping[str, object]) -> str:
    """Return the URI of the known resource that is meant, in our spelling; raises OAuthError invalid_target.

    An absent one is allowed only where a single resource exists, which is then meant (RFC 8707 §2).
    """
    if not presented and len(known) == 1:
        return next(iter(known))
    meant = presented if presented in known else canonical_resource(presented)
    if meant not in known:
        raise OAuthError("invalid_target", "resource_unknown" if presented else "resource_missing")
    return meant


def parse_scope(text: str) -> tuple[str, ...]:
    """Return the scopes in order, without repetition; raises OAuthError invalid_scope (RFC 6749 §3.3)."""
    if not text:
        return ()
    scopes = tuple(dict.fromkeys(text.split(" ")))
    if len(scopes) > SCOPES:
        raise OAuthError("invalid_scope", "scope_count")
    for scope in scopes:
        if not scope or len(scope) > SCOPE_CHARS or not _SCOPE_SET.issuperset(scope):
            raise OAuthError("invalid_scope", "scope_shape")
    return scopes


def scope_allowed(scope: str, patterns: Iterable[str]) -> bool:
    """Return whether one pattern covers the scope.

    A pattern is ``*``, or colon-separated segments of which each is literal or ``*`` (``time:*``,
    ``*:read``); it covers scopes with the same number of segments only.
    """
    parts = scope.split(":")
    for pattern in patterns:
        if pattern == "*":
            return True
        wanted = pattern.split(":")
        if len(wanted) == len(parts) and all(w in ("*", p) for w, p in zip(wanted, parts, strict=True)):
            return True
    return False


def check_not_wider(wanted: Iterable[str], given: Iterable[str]) -> None:
    """Raise OAuthError invalid_scope when something is wanted that was not given before (RFC 6749 §6, AS-12)."""
    if not set(wanted) <= set(given):
        raise OAuthError("invalid_scope", "scope_widened")


def intersect(requested: Iterable[str], *permissions: Iterable[str]) -> tuple[str, ...]:
    """Return the requested scopes that every permission (a set of patterns) covers, in order."""
    sets = [tuple(p) for p in permissions]
    return tuple(s for s in requested if all(scope_allowed(s, p) for p in sets))
