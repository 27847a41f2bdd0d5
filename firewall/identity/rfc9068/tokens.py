"""Access tokens: ES256 ``at+jwt`` for exactly one resource (RFC 9068; claims of oauth reference §6.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from joserfc.jwk import ECKey

from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock, Ids
from firewall.core.run import run_ends_s
from firewall.identity.records import SECOND_US
from firewall.wire import jwt
from firewall.wire.oauth import OAuthError

TOKEN_TYPE = "at+jwt"  # noqa: S105 - a media type
ALGORITHM = "ES256"

Kind = Literal["user", "service", "local"]


class SigningKeys:
    """The active signing key and others still (or already) published. Key ids are RFC 7638 thumbprints."""

    def __init__(self, active: ECKey | EllipticCurvePrivateKey, *others: ECKey | EllipticCurvePrivateKey) -> None:
        self._on_leave: list[Callable[[], None]] = []
        self.by_kid: Mapping[str, ECKey] = {}
        self.replace(active, *others)

    def replace(self, active: ECKey | EllipticCurvePrivateKey, *others: ECKey | EllipticCurvePrivateKey) -> None:
        """Take over another set (rotation). Private members of the others are never used. Raises Malformed("jwt_key")."""
        keys = [_as_ec_key(key) for key in (active, *others)]
        for key in keys:
            jwt.check_key(key, ALGORITHM)
        by_kid = {key.thumbprint(): key for key in keys}
        left = self.by_kid.keys() - by_kid.keys()
        self.active = keys[0]
        self.kid = keys[0].thumbprint()
        self.by_kid = by_kid
        if left:
            for told in self._on_leave:
                told()

    def on_leave(self, told: Callable[[], None]) -> None:
        """Call back whenever a key has left: whoever remembers what it verified must forget it."""
        self._on_leave.append(told)

    def jwks(self) -> JSON:
        """Return the JWK Set document with public members only (OP-04)."""
        return {
            "keys": [
                {**public_jwk(key), "kid": kid, "use": "sig", "alg": ALGORITHM} for kid, key in self.by_kid.items()
            ]
        }


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What an access token says. Times in Unix seconds; resource is the audience URI.

    amr: how the person signed in (RFC 8176). act, may_act: RFC 8693 §4.1, §4.4, as they stand in the token.
    cnf_jkt: thumbprint of the key that must prove itself with the token (RFC 9449 §6.1); "" for a bearer token.
    authorization_details: RFC 9396 §9.1. run: the run that the token belongs to. txn, hop: the transaction that
    an exchanged token continues, and how many exchanges lie behind it.
    """

    tenant: str
    subject: str
    client_id: str
    resource: str
    scopes: tuple[str, ...]
    grant_id: str
    session_id: str = ""
    auth_time: int = 0
    acr: str = ""
    roles: tuple[str, ...] = ()
    kind: Kind = "user"
    standing: int = 0
    amr: tuple[str, ...] = ()
    act: JSONObject | None = None
    may_act: JSONObject | None = None
    cnf_jkt: str = ""
    authorization_details: tuple[JSONObject, ...] = ()
    run: str = ""
    txn: str = ""
    hop: int = 0


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A minted token and what may be told about it."""

    token: str = field(repr=False)
    token_id: str
    expires_in: int
    scopes: tuple[str, ...]


class TokenIssuer:
    """Signs access tokens with the active key."""

    def __init__(self, issuer: str, keys: SigningKeys, clock: Clock, ids: Ids, *, lifetime_s: int) -> None:
        self._issuer = issuer
        self._keys = keys
        self._clock = clock
        self._ids = ids
        self._lifetime_s = lifetime_s

    def issue(self, facts: TokenFacts, *, lifetime_s: int = 0, until_s: int = 0) -> IssuedToken:
        """Return a new token; lifetime_s 0 means the configured one.

        until_s: Unix seconds that it must not outlive, 0 for none; a run's end is such a bound too.
        Raises OAuthError invalid_grant: run_ended, token_over, when nothing is left.
        """
        now_s = self._clock.now_us() // SECOND_US
        lifetime_s = lifetime_s or self._lifetime_s
        if until_s:
            lifetime_s = min(lifetime_s, until_s - now_s)
        if facts.run:
            lifetime_s = min(lifetime_s, run_ends_s(facts.run) - now_s)
        if lifetime_s <= 0:
            raise OAuthError("invalid_grant", "run_ended" if facts.run else "token_over")
        token_id = self._ids.new("jti")
        claims: JSONObject = {
            "iss": self._issuer,
            "aud": facts.resource,
            "sub": facts.subject,
            "client_id": facts.client_id,
            "scope": " ".join(facts.scopes),
            "iat": now_s,
            "exp": now_s + lifetime_s,
            "jti": token_id,
            "gid": facts.grant_id,
            "tenant": facts.tenant,
            "sub_type": facts.kind,
        }
        more: JSONObject = {
            "standing": facts.standing,
            "sid": facts.session_id,
            "auth_time": facts.auth_time,
            "acr": facts.acr,
            "amr": list(facts.amr),
            "roles": list(facts.roles),
            "act": facts.act,
            "may_act": facts.may_act,
            "cnf": {"jkt": facts.cnf_jkt} if facts.cnf_jkt else None,
            "authorization_details": list(facts.authorization_details),
            "run": facts.run,
            "txn": facts.txn,
            "hop": facts.hop,
        }
        claims.update({name: value for name, value in more.items() if value})
        token = jwt.sign(claims, self._keys.active, alg=ALGORITHM, typ=TOKEN_TYPE, kid=self._keys.kid)
        return IssuedToken(token, token_id, lifetime_s, facts.scopes)


def _as_ec_key(key: ECKey | EllipticCurvePrivateKey) -> ECKey:
    return key if isinstance(key, ECKey) else ECKey.import_key(key)


def public_jwk(key: ECKey) -> JSONObject:
    """Return the public members of a key, and nothing else (RFC 7518 §6.2.1)."""
    facts = key.as_dict(private=False)
    return {name: str(facts[name]) for name in ("kty", "crv", "x", "y")}
