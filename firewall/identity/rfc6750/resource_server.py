"""Resource server: token → Principal for exactly one resource, and the challenges.

- The token comes from one ``Authorization: Bearer`` header, never from a query or a body (RS-12).
- ``aud`` must be the resource's own URI, byte for byte (RS-09). ``typ`` must be ``at+jwt`` (RS-07).
- All refusals look alike to the caller (RS-17); operators get the code.
- Verified tokens are cached by the digest of the header value. A hit still compares the resource,
  the time and the node's epoch; when the epoch moved, the grant is looked up again. The cache never
  holds a token, is bounded, and nothing is believed for longer than 60 s without full verification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal, TypeVar

from firewall.core.bounds import TOKEN_BYTES, TOKEN_CACHE_ENTRIES
from firewall.core.errors import Malformed, Unauthenticated
from firewall.core.jsonvalue import JSON
from firewall.core.ports import Clock, SharedMarks
from firewall.core.principal import Actor, Principal, chain_from_act
from firewall.identity.grants import OAuthGrants
from firewall.identity.records import SECOND_US
from firewall.identity.resources import Resources
from firewall.identity.rfc9068.tokens import ALGORITHM, TOKEN_TYPE, SigningKeys
from firewall.identity.settings import is_tenant
from firewall.wire import jwt, oauth

T = TypeVar("T")

TRUST_US: Final = 60 * SECOND_US
REFUSED_US: Final = 5 * SECOND_US
REFUSED_ENTRIES: Final = 10_000
CLOCK_LEEWAY_S: Final = 30
LONGEST_TOKEN_S: Final = 24 * 3600
_KINDS: Final = ("user", "service", "local")

# Fixed texts without "=": the mcp client finds parameters with an unanchored search (oauth reference §6.1).
_CHALLENGES: Final = {
    "token_missing": "",
    "token_invalid": ', error="invalid_token", error_description="The access token is not valid for this resource"',
    "scope_missing": ', error="insufficient_scope", error_description="More permission is needed for this operation"',
}


@dataclass(slots=True)
class _Cached:
    principal: Principal
    epoch: int
    until_us: int
    standing: int


class BearerResourceServer:
    """Implements `core.ports.ResourceServer` for tokens of the embedded authorization server."""

    def __init__(
        self,
        resources: Resources,
        keys: SigningKeys,
        grants: OAuthGrants,
        marks: SharedMarks,
        clock: Clock,
        *,
        entries: int = TOKEN_CACHE_ENTRIES,
    ) -> None:
        self._resources = resources
        self._issuer = resources.public_url
        self._keys = keys
        self._grants = grants
        self._marks = marks
        self._clock = clock
        self._entries = entries
        self._cache: dict[bytes, _Cached] = {}
        self._refused: dict[bytes, int] = {}

    def authenticate(self, headers: Mapping[bytes, bytes], resource: str, *, default_scope: str) -> Principal:
        """Return the verified principal of the request; see the port.

        Raises Unauthenticated: token_missing (no Authorization header), token_invalid (anything else).
        """
        value = headers.get(b"authorization")
        if value is None:
            raise Unauthenticated("token_missing", scope=default_scope)
        now_us = self._clock.now_us()
        digest = sha256(value).digest()
        cached = self._cache.get(digest)
        if cached is not None and cached.principal.audience == resource and now_us < cached.until_us:
            if cached.epoch == self._marks.epoch():
                return cached.principal
            return self._recheck(digest, cached, default_scope)
        try:
            principal = self._verify(value, digest, resource, now_us)
        except Malformed as error:
            raise Unauthenticated(
                "token_invalid", f"{error.code} {error.detail}".strip(), scope=default_scope
            ) from None
        return principal

    def challenge(
        self, resource: str, code: Literal["token_missing", "token_invalid", "scope_missing"], scope: str
    ) -> bytes:
        """Return the WWW-Authenticate value: resource_metadata, scope, error, error_description, in this order."""
        value = f'Bearer resource_metadata="{self._resources.metadata_url(resource)}"'
        if scope:
            value += f', scope="{scope}"'
        return (value + _CHALLENGES[code]).encode("ascii")

    def _recheck(self, digest: bytes, cached: _Cached, default_scope: str) -> Principal:
        """The epoch moved: something was revoked. Ask about this grant, then believe the new epoch."""
        epoch = self._marks.epoch()  # read before the look-up: a bump in between is seen next time
        principal = cached.principal
        if self._grants.is_revoked(principal.tenant, principal.grant_id) or not self._stands(
            principal, cached.standing
        ):
            self._cache.pop(digest, None)
            raise Unauthenticated("token_invalid", "grant_revoked", scope=default_scope)
        cached.epoch = epoch
        return principal

    def _stands(self, principal: Principal, standing: int) -> bool:
        scopes = tuple(principal.scopes)
        return self._grants.stands(principal.tenant, principal.subject, principal.audience, scopes, standing)

    def _verify(self, value: bytes, digest: bytes, resource: str, now_us: int) -> Principal:
        if self._refused.get(digest, 0) > now_us:
            raise Malformed("jwt_signature", "seen")
        epoch = self._marks.epoch()
        unchecked = jwt.parse_compact(bearer_token(value), algorithms=(ALGORITHM,))
        if unchecked.typ != TOKEN_TYPE:
            raise Malformed("jwt_claims", "typ")
        key = self._keys.by_kid.get(unchecked.kid)
        if key is None:
            raise Malformed("jwt_key", "kid")
        try:
            claims = jwt.verify(unchecked, key)
        except Malformed:
            _bounded(self._refused, digest, now_us + REFUSED_US, REFUSED_ENTRIES)
            raise
        rules = jwt.ClaimRules(
            issuer=self._issuer,
            audience=resource,
            max_age_s=LONGEST_TOKEN_S,
            skew_s=CLOCK_LEEWAY_S,
            required=("sub", "client_id", "jti", "gid", "tenant"),
        )
        jwt.check_claims(claims, rules, now_us // SECOND_US)
        principal = principal_of(claims, resource)
        if self._grants.is_revoked(principal.tenant, principal.grant_id):
            raise Malformed("grant_revoked")
        standing = claims.get("standing", 0)
        if not isinstance(standing, int) or not self._stands(principal, standing):
            raise Malformed("grant_ended")
        until_us = min(principal.expires_at * SECOND_US, now_us + TRUST_US)
        _bounded(self._cache, digest, _Cached(principal, epoch, until_us, standing), self._entries)
        return principal


def bearer_token(value: bytes) -> bytes:
    """Return the token of an Authorization value (RFC 6750 §2.1); raises Malformed("token_shape")."""
    scheme, space, token = value.partition(b" ")
    if not space or scheme.lower() != b"bearer" or not token or len(token) > TOKEN_BYTES:
        raise Malformed("token_shape")
    return token


def principal_of(claims: Mapping[str, JSON], resource: str) -> Principal:
    """Return the Principal of *verified* claims. Raises Malformed for claims of a wrong shape.

    A sender-constrained token (``cnf``) is refused: presented as Bearer it is a downgrade (RS-13).
    """
    if "cnf" in claims:
        raise Malformed("jwt_claims", "cnf")
    tenant, kind, roles = claims.get("tenant"), claims.get("sub_type", "user"), claims.get("roles", [])
    scope, expires, auth_time = claims.get("scope", ""), claims.get("exp"), claims.get("auth_time", 0)
    if not isinstance(tenant, str) or not is_tenant(tenant) or kind not in _KINDS or not isinstance(kind, str):
        raise Malformed("jwt_claims", "tenant")
    if not isinstance(scope, str) or not isinstance(roles, list) or not isinstance(expires, int):
        raise Malformed("jwt_claims", "scope")
    subject = str(claims["sub"])
    client_id = str(claims["client_id"])
    return Principal(
        tenant=tenant,
        issuer=str(claims["iss"]),
        subject=subject,
        client_id=client_id,
        scopes=frozenset(oauth.parse_scope(scope)),
        audience=resource,
        chain=chain_from_act(Actor(subject, kind), claims.get("act")),
        expires_at=expires,
        kind=kind,
        auth_method="oauth",
        token_id=str(claims["jti"]),
        grant_id=str(claims["gid"]),
        acr=str(claims.get("acr", "")),
        auth_time=auth_time if isinstance(auth_time, int) else 0,
        roles=tuple(r for r in roles if isinstance(r, str)),
        # Only verified documents ever become clients with such an id (identity.clients).
        cimd_verified=client_id.startswith("https://"),
    )


def _bounded(table: dict[bytes, T], key: bytes, value: T, limit: int) -> None:
    """Store; when full, the oldest entry goes (insertion order), so that a flood costs only repeats."""
    if key not in table and len(table) >= limit:
        table.pop(next(iter(table)), None)
    table[key] = value
