"""Security Event Tokens: from bytes to a verified event. Pure; the key and the time are arguments.

A SET is taken for a SET alone: ``typ`` must say so, and what would make it an ID token or an access token (``sub``,
``exp``) is refused, so that no other token of the issuer can be passed off as an event, nor an event as one of them.

Source: RFC 8417 §2, RFC 8935 §2.4 (error codes), Shared Signals Framework 1.0 §4 (profile of SETs), RFC 9493 (subjects).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.identity.ssf.settings import Transmitter
from firewall.wire import jwt

SetError = Literal[
    "invalid_request", "invalid_key", "invalid_issuer", "invalid_audience", "authentication_failed", "access_denied"
]
TYPE: Final = "secevent+jwt"
SET_BYTES: Final = 32 * 1024
AHEAD_S: Final = 60
AUDIENCES: Final = 16
EVENTS: Final = 8
URI_CHARS: Final = 512


class InvalidSet(Malformed):
    """A SET that is refused; ``err`` is what RFC 8935 §2.4 calls it, ``detail`` which rule it broke."""

    def __init__(self, err: SetError, detail: str) -> None:
        super().__init__("set_refused", detail)
        self.err = err


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """A verified SET. jti: unique to its issuer; issued_s: Unix seconds; events: URI → payload; subject: ``sub_id``."""

    issuer: str
    jti: str
    issued_s: int
    subject: JSONObject
    events: Mapping[str, JSONObject]


def parse(data: bytes) -> jwt.UncheckedJWT:
    """Return a SET's parts without trusting them. Raises InvalidSet."""
    try:
        unchecked = jwt.parse_compact(data, max_bytes=SET_BYTES)
    except Malformed as error:
        raise InvalidSet("invalid_key" if error.code == "jwt_alg" else "invalid_request", error.code) from None
    if unchecked.typ != TYPE:
        raise InvalidSet("invalid_request", "typ")
    return unchecked


def check(unchecked: jwt.UncheckedJWT, transmitter: Transmitter, now_s: int) -> SecurityEvent:
    """Return what a SET says if its claims keep every rule; its signature is not looked at. Raises InvalidSet."""
    claims = unchecked.claims
    if claims.get("iss") != transmitter.issuer:
        raise InvalidSet("invalid_issuer", "iss")
    audience = claims.get("aud")
    audiences: list[JSON] = audience if isinstance(audience, list) else [audience]
    if len(audiences) > AUDIENCES or transmitter.audience not in audiences:
        raise InvalidSet("invalid_audience", "aud")
    if "sub" in claims or "exp" in claims:
        raise InvalidSet("invalid_request", "sub or exp")
    jti, issued = claims.get("jti"), claims.get("iat")
    if not isinstance(jti, str) or not 0 < len(jti) <= jwt.JTI_CHARS:
        raise InvalidSet("invalid_request", "jti")
    if not isinstance(issued, int) or isinstance(issued, bool):
        raise InvalidSet("invalid_request", "iat")
    if not now_s - transmitter.window_s <= issued <= now_s + AHEAD_S:
        raise InvalidSet("invalid_request", "iat window")
    events = claims.get("events")
    if not isinstance(events, dict) or not 0 < len(events) <= EVENTS:
        raise InvalidSet("invalid_request", "events")
    told: dict[str, JSONObject] = {}
    for uri, payload in events.items():
        if not isinstance(payload, dict) or not 0 < len(uri) <= URI_CHARS:
            raise InvalidSet("invalid_request", "events")
        told[uri] = payload
    subject = claims.get("sub_id")
    if not isinstance(subject, dict) or not isinstance(subject.get("format"), str):
        raise InvalidSet("invalid_request", "sub_id")
    return SecurityEvent(transmitter.issuer, jti, issued, subject, told)


def verify(unchecked: jwt.UncheckedJWT, key: jwt.Key) -> None:
    """Raise InvalidSet("invalid_key") unless the key fits the SET and verifies its signature."""
    try:
        jwt.verify(unchecked, key)
    except Malformed as error:
        raise InvalidSet("invalid_key", error.code) from None
