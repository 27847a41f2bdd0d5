"""Provider metadata: what of it is read, and what is refused (OpenID Connect Discovery §3, RFC 8414 §3.3). Pure.

A document that names another issuer, or an endpoint in clear, is a forgery or a mistake: both end here
(CL-04). One that does not offer S256 is refused, unless the operator said that it is understood (CL-05).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.identity.oidc.settings import ProviderSettings
from firewall.identity.settings import LOOPBACK
from firewall.wire import jwt, strict_json

METADATA_BYTES: Final = 64 * 1024
URL_CHARS: Final = 2048
REQUIRED: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_URL_SET: Final = frozenset(chr(code) for code in range(0x21, 0x7F))
OPTIONAL: Final = ("userinfo_endpoint", "end_session_endpoint")


@dataclass(frozen=True, slots=True)
class ProviderMetadata:
    """The checked facts. algorithms: those for ID tokens that both sides know; endpoints "" when absent.

    sends_issuer: the authorization response carries ``iss`` (RFC 9207), so one without it is refused.
    """

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    end_session_endpoint: str
    algorithms: tuple[str, ...]
    sends_issuer: bool


def parse_metadata(data: bytes, settings: ProviderSettings) -> ProviderMetadata:
    """Return the checked metadata of one provider.

    data: strict JSON, at most 64 KiB. Raises Malformed("idp_metadata") with what was wrong as detail:
    shape, issuer, a member's name, s256, code, algorithms.
    """
    value = _object(data)
    # Equality as plain strings, nothing normalised: a trailing slash is another issuer (RFC 8414 §3.3).
    if value.get("issuer") != settings.issuer:
        raise Malformed("idp_metadata", "issuer")
    urls = {name: _endpoint(value, name, settings) for name in (*REQUIRED, *OPTIONAL)}
    if any(not urls[name] for name in REQUIRED):
        raise Malformed("idp_metadata", next(name for name in REQUIRED if not urls[name]))
    if "code" not in strings(value, "response_types_supported", ("code",)):
        raise Malformed("idp_metadata", "code")
    if "S256" not in strings(value, "code_challenge_methods_supported", ()) and not settings.unadvertised_s256:
        raise Malformed("idp_metadata", "s256")
    offered = strings(value, "id_token_signing_alg_values_supported", ("RS256",))
    algorithms = tuple(alg for alg in jwt.ALGORITHMS if alg in offered)
    if not algorithms:
        raise Malformed("idp_metadata", "algorithms")
    return ProviderMetadata(
        issuer=settings.issuer,
        algorithms=algorithms,
        sends_issuer=value.get("authorization_response_iss_parameter_supported") is True,
        **urls,
    )


def strings(value: JSONObject, name: str, absent: tuple[str, ...]) -> tuple[str, ...]:
    """Return a list of strings of a metadata document, ``absent`` where it has none."""
    found = value.get(name)
    return tuple(v for v in found if isinstance(v, str)) if isinstance(found, list) else absent


def _object(data: bytes) -> JSONObject:
    if len(data) > METADATA_BYTES:
        raise Malformed("idp_metadata", "shape")
    try:
        value = strict_json.loads(data, max_depth=16)
    except Malformed:
        raise Malformed("idp_metadata", "shape") from None
    if not isinstance(value, dict):
        raise Malformed("idp_metadata", "shape")
    return value


def _endpoint(value: JSONObject, name: str, settings: ProviderSettings) -> str:
    url = value.get(name, "")
    # Printable ASCII only: a line break, which `urlsplit` would pass over, could end a header of our redirect.
    if not isinstance(url, str) or len(url) > URL_CHARS or not _URL_SET.issuperset(url):
        raise Malformed("idp_metadata", name)
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and not parts.fragment and "@" not in parts.netloc
    except ValueError:
        raise Malformed("idp_metadata", name) from None
    plain = parts.scheme == "http" and settings.network == "loopback" and parts.hostname in LOOPBACK
    if not good or (parts.scheme != "https" and not plain):
        raise Malformed("idp_metadata", name)
    return url
