"""What a client may say when it registers itself, and what is made of it. Pure.

- Public by default: a secret is made only for a web application that asks for ``client_secret_basic``; a
  program on somebody's computer cannot keep one, so it becomes public, and the answer says so (RFC 7591 §3.2.1).
- ``client_credentials``, ``jwt-bearer`` and token exchange cannot be registered: they need an operator.
- ``application_type``: ``web`` redirects by https; ``native`` on loopback, to an app's own scheme, or by https
  that an app claimed (RFC 8252 §7). Where it is missing, the redirect URIs decide; OpenID's default ``web`` would
  turn away every command-line client.
- A ``software_statement`` is no reason to trust anybody, and is ignored, as unknown members are.
- ``scope`` is checked and not kept: the MCP libraries register with whatever the first challenge named and ask for
  more at a step-up, which a limit would forbid forever. Nobody is guarded by a limit that an unknown client chose
  for itself; what it gets is what a person allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.identity.settings import AuthMethod
from firewall.wire import cimd, jwt, oauth
from firewall.wire.oauth import OAuthError

REDIRECTS: Final = 20
NAME_CHARS: Final = 256
GRANTS: Final = cimd.GRANTS
REFUSED_GRANTS: Final = ("client_credentials", *cimd.SIGNED_GRANTS)


@dataclass(frozen=True, slots=True)
class Registration:
    """A checked request. dpop: bound tokens only (RFC 9449 §5.2)."""

    name: str
    redirect_uris: tuple[str, ...]
    auth_method: AuthMethod
    grant_types: tuple[str, ...]
    application_type: Literal["web", "native"]
    jwks: JSON = None
    jwks_uri: str = ""
    dpop: bool = False


def parse_registration(value: JSON) -> Registration:
    """Return the checked request. Raises OAuthError: invalid_client_metadata, invalid_redirect_uri (RFC 7591 §3.2.2)."""
    if not isinstance(value, dict):
        raise OAuthError("invalid_client_metadata", "registration_shape")
    redirects = _texts(value, "redirect_uris", ())
    if len(redirects) > REDIRECTS:
        raise OAuthError("invalid_redirect_uri", "registration_redirects")
    for uri in redirects:
        oauth.check_redirect_uri(uri)
    grants = _grants(value)
    if "authorization_code" in grants and not redirects:
        raise OAuthError("invalid_redirect_uri", "registration_redirects")
    if "code" not in _texts(value, "response_types", ("code",)):
        raise OAuthError("invalid_client_metadata", "registration_response")
    kind = _application_type(value, redirects)
    method = _method(value, kind)
    jwks, jwks_uri = value.get("jwks"), _text(value, "jwks_uri")
    if method == "private_key_jwt":
        _check_keys(jwks, jwks_uri)
    try:
        oauth.parse_scope(_text(value, "scope"))
    except OAuthError:
        raise OAuthError("invalid_client_metadata", "registration_scope") from None
    keyed = method == "private_key_jwt"
    name = _text(value, "client_name")
    return Registration(
        name[:NAME_CHARS],
        redirects,
        method,
        grants,
        kind,
        jwks if keyed else None,
        jwks_uri if keyed else "",
        value.get("dpop_bound_access_tokens") is True,
    )


def _grants(value: Mapping[str, JSON]) -> tuple[str, ...]:
    asked = _texts(value, "grant_types", ("authorization_code",))
    if any(grant in REFUSED_GRANTS for grant in asked):
        raise OAuthError("invalid_client_metadata", "registration_grant")
    # What we never offer (implicit, password) is left out, and the answer says what is left.
    grants = tuple(dict.fromkeys(grant for grant in asked if grant in GRANTS))
    if not set(grants) - {"refresh_token"}:
        raise OAuthError("invalid_client_metadata", "registration_grant")
    return grants


def _application_type(value: Mapping[str, JSON], redirects: tuple[str, ...]) -> Literal["web", "native"]:
    asked = _text(value, "application_type")
    web = bool(redirects) and all(uri.startswith("https://") for uri in redirects)
    if asked == "web" and redirects and not web:
        raise OAuthError("invalid_redirect_uri", "registration_web_redirect")
    if asked not in ("", "web", "native"):
        raise OAuthError("invalid_client_metadata", "registration_application")
    return "web" if asked == "web" or (web and not asked) else "native"


def _method(value: Mapping[str, JSON], kind: Literal["web", "native"]) -> AuthMethod:
    asked = _text(value, "token_endpoint_auth_method")
    if asked == "private_key_jwt":
        return "private_key_jwt"
    if asked == "client_secret_basic" and kind == "web":
        return "client_secret_basic"
    if asked in ("", "none", "client_secret_basic", "client_secret_post"):
        return "none"
    raise OAuthError("invalid_client_metadata", "registration_method")


def _check_keys(jwks: JSON, jwks_uri: str) -> None:
    if (jwks is None) == (not jwks_uri):
        raise OAuthError("invalid_client_metadata", "registration_keys")
    try:
        if jwks is not None:
            jwt.keys_of(jwks)
        else:
            cimd.check_client_url(jwks_uri)
    except Malformed:
        raise OAuthError("invalid_client_metadata", "registration_keys") from None


def _text(value: Mapping[str, JSON], name: str) -> str:
    member = value.get(name)
    if member is None:
        return ""
    if not isinstance(member, str) or len(member) > cimd.STRING_CHARS:
        raise OAuthError("invalid_client_metadata", "registration_shape")
    return member


def _texts(value: Mapping[str, JSON], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    member = value.get(name)
    if member is None:
        return default
    if not isinstance(member, list) or len(member) > 64:
        raise OAuthError("invalid_client_metadata", "registration_shape")
    texts = tuple(item for item in member if isinstance(item, str) and len(item) <= cimd.STRING_CHARS)
    if len(texts) != len(member):
        raise OAuthError("invalid_client_metadata", "registration_shape")
    return texts


def answer(made: Registration, client_id: str, issued_s: int, secret: str) -> JSONObject:
    """Return the client information response (RFC 7591 §3.2.1): all that was registered, as it was registered."""
    body: JSONObject = {
        "client_id": client_id,
        "client_id_issued_at": issued_s,
        "redirect_uris": list(made.redirect_uris),
        "token_endpoint_auth_method": made.auth_method,
        "grant_types": list(made.grant_types),
        "response_types": ["code"],
        "application_type": made.application_type,
    }
    if made.name:
        body["client_name"] = made.name
    if made.jwks is not None:
        body["jwks"] = made.jwks
    if made.jwks_uri:
        body["jwks_uri"] = made.jwks_uri
    if made.dpop:
        body["dpop_bound_access_tokens"] = True
    if secret:
        body |= {"client_secret": secret, "client_secret_expires_at": 0}
    return body
