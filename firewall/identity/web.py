"""One web request and its reply, as values; the shell in `serve` reads and writes them.

Every reply carries ``nosniff``; what depends on a person or holds a token is ``no-store``. Redirects
are 303: a browser never repeats a posted form at the next address (AS-14).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from firewall.core.action import Headers
from firewall.core.jsonvalue import JSON
from firewall.core.permit import FixedReply
from firewall.net.own_page import is_own_page
from firewall.wire import oauth, strict_json

NOSNIFF: Final = (b"x-content-type-options", b"nosniff")
NO_STORE: Final = (b"cache-control", b"no-store")
CORS: Final = (b"access-control-allow-origin", b"*")

# What every page says (UI-05). `form-action` is left out because browsers apply it to the redirect that follows the
# form, which leads to the client. What ``no-referrer`` asks of the origin checks: `net.own_page`.
PAGE_HEADERS: Final[Headers] = (
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    NOSNIFF,
    NO_STORE,
)
# The consent pages alone run a script, one file of ours (UI-08); it writes no HTML, so nothing may.
SCRIPTED_PAGE_HEADERS: Final[Headers] = tuple(
    (name, value + b"; script-src 'self'; require-trusted-types-for 'script'; trusted-types 'none'")
    if name == b"content-security-policy"
    else (name, value)
    for name, value in PAGE_HEADERS
)


@dataclass(frozen=True, slots=True)
class WebRequest:
    """A request with its whole (bounded) body. headers: lower-case names; query without ``?``."""

    method: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    body: bytes = b""
    client_ip: str = ""
    cookies: Mapping[str, str] = field(default_factory=dict)

    def form(self) -> oauth.Form:
        """Return the body's parameters; raises OAuthError invalid_request for another media type."""
        kind = self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/x-www-form-urlencoded":
            raise oauth.OAuthError("invalid_request", "form_type")
        return oauth.parse_form(self.body)

    def is_same_origin(self, origin: str) -> bool:
        """Return whether a browser sent this from our own page (UI-06; `net.own_page`)."""
        return is_own_page(self.headers, origin.encode())


def parse_cookies(value: bytes) -> dict[str, str]:
    """Return the cookies of a Cookie header (RFC 6265 §5.4); of a repeated name neither counts."""
    cookies: dict[str, str] = {}
    seen: set[str] = set()
    for part in value.decode("latin-1").split(";")[:64]:
        name, equals, content = part.strip().partition("=")
        if not equals:
            continue
        if name in seen:
            cookies.pop(name, None)
            continue
        seen.add(name)
        cookies[name] = content
    return cookies


def set_cookie(name: str, value: str, *, secure: bool, max_age_s: int) -> tuple[bytes, bytes]:
    """Return a Set-Cookie header: HttpOnly, SameSite=Lax, host only, Secure over https (AS-16)."""
    text = f"{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_s}"
    return b"set-cookie", (text + ("; Secure" if secure else "")).encode("ascii")


def json_reply(
    value: JSON, status: int = 200, *, headers: Headers = (), cors: bool = True, cache_s: int = 0
) -> FixedReply:
    """Return a JSON reply; cache_s 0 means no-store."""
    cache = (b"cache-control", f"public, max-age={cache_s}".encode()) if cache_s else NO_STORE
    base: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json"), NOSNIFF, cache]
    if cors:
        base.append(CORS)
    return FixedReply(status, (*base, *headers), strict_json.dumps(value))


def page_reply(
    html: str, status: int = 200, *, headers: Sequence[tuple[bytes, bytes]] = (), scripted: bool = False
) -> FixedReply:
    """Return an HTML page with the strict headers. scripted: it may load our own script files."""
    return FixedReply(status, (*(SCRIPTED_PAGE_HEADERS if scripted else PAGE_HEADERS), *headers), html.encode())


def redirect_reply(location: str, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> FixedReply:
    """Return a 303 to a checked location (characters that need quoting never get here)."""
    base: Headers = (
        (b"location", location.encode("ascii")),
        (b"referrer-policy", b"no-referrer"),
        NOSNIFF,
        NO_STORE,
    )
    return FixedReply(303, (*base, *headers), b"")


def preflight_reply() -> FixedReply:
    """Return the answer to a CORS preflight: no credentials, only what our endpoints read (AS-13)."""
    return FixedReply(
        204,
        (
            CORS,
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"authorization, content-type, dpop, mcp-protocol-version"),
            (b"access-control-max-age", b"600"),
            NOSNIFF,
        ),
        b"",
    )


def error_reply(error: str, status: int, *, why: str = "", headers: Headers = ()) -> FixedReply:
    """Return an OAuth error with its fixed description (RFC 6749 §5.2). why: a code of ours that tells it apart."""
    told = REASONS.get(why) or ERRORS.get(error, ERRORS["server_error"])
    return json_reply({"error": error, "error_description": told}, status, headers=headers)


SUBJECT_REFUSED: Final = "subject_refused"
_PKCE: Final = "PKCE is needed: a code_challenge of 43 characters, with code_challenge_method=S256 (RFC 7636)."
# What says more than the registered code where it can give nothing away: not which resources there are, and for
# whom, but where each of them says so itself (RFC 8707 §2: the resource is missing, unknown or malformed).
REASONS: Final = {
    SUBJECT_REFUSED: "The subject token is not valid here, or this client may not exchange it: it is for another resource "
    "than the client's own, and its may_act does not name the client.",
    # Of the request's own form, which whoever sent it can see.
    "parameter_repeated": "A parameter is sent more than once.",
    "resource_repeated": "The parameter resource is sent more than once: a token is for one resource.",
    "pkce_missing": _PKCE,
    "pkce_method": _PKCE,
    "pkce_shape": _PKCE,
    "redirect_missing": "Name the redirect URI: the parameter redirect_uri.",
    "redirect_unknown": "The redirect URI is none of those that this client is known with.",
    "chain_long": "The token was handed on as often as it may be.",
    "resource_missing": "Name the resource that the token is for: the parameter resource, once, as its own "
    "metadata has it (the URL that the client calls, such as …/mcp/NAME).",
    # Which one it is, or which there are, is not said: whoever holds the grant was told what it is for (RFC 6749 §5.1).
    "scope_widened": "A requested scope goes beyond what was granted. Ask for fewer scopes, or for none to have all "
    "that was granted; for more, a new authorization is needed.",
}
# What a peer is told, by registered error code; nothing it sent is ever echoed.
ERRORS: Final = {
    "invalid_request": "The request is missing a parameter, repeats one, or has one that is not allowed.",
    "invalid_client": "Client authentication failed.",
    "invalid_client_metadata": "The description of the client has a member that is not allowed here.",
    "invalid_redirect_uri": "A redirect URI is missing, or is not one that a client may register here.",
    "invalid_grant": "The code or token is not valid, has expired, was used, or belongs to another client.",
    "unauthorized_client": "This client may not use this way of obtaining a token.",
    "unsupported_grant_type": "This grant type is not supported.",
    "unsupported_response_type": "This response type is not supported.",
    "invalid_scope": "None of the requested scopes can be given.",
    "invalid_target": "The requested resource is not known here.",
    "invalid_dpop_proof": "The DPoP proof is missing or not valid for this request.",
    "use_dpop_nonce": "The DPoP proof must be made with the nonce of this answer.",
    "access_denied": "Access was not given.",
    "login_required": "A person must sign in.",
    "consent_required": "A person must agree.",
    "unmet_authentication_requirements": "The sign-in is not strong or not fresh enough.",
    "invalid_authorization_details": "The authorization details are not known, not complete, or not allowed here.",
    "authorization_pending": "The person has not decided yet; ask again after the interval.",
    "expired_token": "The device code has expired; start again.",
    "temporarily_unavailable": "The request cannot be handled now; try again later.",
    "slow_down": "Too many requests; try again later.",
    "server_error": "The request could not be handled.",
    "not_found": "Not found.",
    "method_not_allowed": "This HTTP method is not allowed here.",
}
