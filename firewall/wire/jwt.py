"""Compact JWS and JWT rules. Pure: the key and the time are arguments.

    bytes ──parse_compact──▶ UncheckedJWT ──verify──▶ claims ──check_claims──▶ verified claims

Rules, walked in this order so that no key is touched for a token that could not be valid anyway:

- size, alphabet and canonical base64url first: one token has one spelling (RFC 7515 §2, §5.2);
- ``alg`` must stand on the caller's list: ``none``, ``HS*`` and unknown names never reach a key (RFC 8725 §3.1);
- a key in the header (``jwk jku x5u x5c``) or a ``crit`` is refused, never used (RFC 8725 §3.10);
- a key must fit: ``use`` sig, ``alg`` equal, RSA of 2,048 to 8,192 bits;
- times are integers; claims are compared as plain strings.

joserfc does the arithmetic of signatures and nothing else here. (oauth reference §7.1 RS-01…RS-11.)
"""

from __future__ import annotations

import binascii
import string
from collections.abc import Mapping, Sequence
from typing import Final

import orjson
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from firewall.core.bounds import TOKEN_BYTES
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.value import value
from firewall.wire import strict_json

Key = ECKey | RSAKey | OKPKey

ALGORITHMS: Final = ("ES256", "RS256", "PS256", "Ed25519")
HEADER_BYTES: Final = 4096
KID_CHARS: Final = 128
JTI_CHARS: Final = 256
RSA_BITS: Final = 2048
RSA_MOST_BITS: Final = 8192  # whoever publishes a key makes us calculate with it: 16,384 bits cost 60 times as much
CLAIM_DEPTH: Final = 16
KEYS_PER_SET: Final = 50
JWKS_BYTES: Final = 64 * 1024

_ALPHABET: Final = (string.ascii_letters + string.digits + "-_.").encode()
_SYMBOLS: Final = (string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_").encode()
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
# By length modulo 4: which last characters carry bits beyond the last byte (RFC 4648 §3.5).
_LOOSE: Final = (
    frozenset[int](),
    frozenset(_SYMBOLS),
    frozenset(symbol for at, symbol in enumerate(_SYMBOLS) if at & 0b1111),
    frozenset(symbol for at, symbol in enumerate(_SYMBOLS) if at & 0b11),
)
_KEY_BEARING: Final = ("jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc")
_KINDS: Final = {"ES256": "EC", "RS256": "RSA", "PS256": "RSA", "Ed25519": "OKP"}


class _Registry(jws.JWSRegistry):
    max_header_length = HEADER_BYTES


@value
class UncheckedJWT:
    """A token of the right shape whose signature nobody has looked at; never trust ``claims``.

    jwk: the key in the header, of kinds of token that prove the possession of one; None else.
    """

    token: bytes
    alg: str
    typ: str
    kid: str
    claims: JSONObject
    signature: bytes
    jwk: JSON = None


@value
class ClaimRules:
    """What verified claims must say. Times in seconds.

    issuer, audience: exact strings; ``aud`` must be that string (a list of exactly it is accepted
        only when ``audience_list``).
    max_age_s: the longest allowed ``exp − iat``. leeway_s: grace after ``exp`` and before ``nbf``.
    skew_s: how far in the future ``iat`` may lie, for clocks that differ.
    required: further claims that must be non-empty strings.
    """

    issuer: str
    audience: str
    max_age_s: int
    leeway_s: int = 0
    skew_s: int = 30
    audience_list: bool = False
    iat_required: bool = True
    required: tuple[str, ...] = ()


def parse_compact(
    token: bytes, *, algorithms: Sequence[str] = ALGORITHMS, max_bytes: int = TOKEN_BYTES, carries_key: bool = False
) -> UncheckedJWT:
    """Return the token's parts without trusting them.

    token: three base64url segments; at most ``max_bytes``, header at most 4,096 bytes.
    carries_key: the header must hold a ``jwk`` (RFC 9449 §4.2); everywhere else one is refused.
    Raises Malformed: jwt_shape, jwt_header, jwt_alg, and the codes of `strict_json` as jwt_shape.
    Source: RFC 7515 §5.2, RFC 7519 §7.2, RFC 8725 §3.
    """
    if not token or len(token) > max_bytes or token.translate(None, _ALPHABET) or token.count(b".") != 2:
        raise Malformed("jwt_shape")
    head, body, signature = token.split(b".")
    if not signature or len(head) > HEADER_BYTES:
        raise Malformed("jwt_shape")
    header = _object(_decode(head))
    signature = _decode(signature)
    alg = header.get("alg")
    if not isinstance(alg, str) or alg not in algorithms:
        raise Malformed("jwt_alg")
    jwk = header.pop("jwk", None) if carries_key else None
    if any(name in header for name in _KEY_BEARING) or carries_key != isinstance(jwk, dict):
        raise Malformed("jwt_header")
    typ, kid = header.get("typ", ""), header.get("kid", "")
    if not isinstance(typ, str) or not isinstance(kid, str) or len(kid) > KID_CHARS:
        raise Malformed("jwt_header")
    return UncheckedJWT(
        token, alg, typ.lower().removeprefix("application/"), kid, _object(_decode(body)), signature, jwk
    )


def verify(unchecked: UncheckedJWT, key: Key) -> JSONObject:
    """Return the claims of a token whose signature ``key`` verifies; raises Malformed("jwt_signature").

    The key is checked to fit the algorithm first: kind, ``use``, ``alg``, RSA size.
    """
    check_key(key, unchecked.alg)
    # The algorithm itself and not `jws.deserialize_compact`: that would split and parse the token once more.
    algorithm = jws.JWSRegistry.algorithms[unchecked.alg]
    try:
        holds = algorithm.verify(unchecked.token.rpartition(b".")[0], unchecked.signature, key)
    except (JoseError, ValueError):
        raise Malformed("jwt_signature") from None
    if not holds:
        raise Malformed("jwt_signature")
    return unchecked.claims


def check_key(key: Key, alg: str) -> None:
    """Raise Malformed("jwt_key") when the key must not be used with ``alg`` (oauth reference RS-04)."""
    if key.key_type != _KINDS.get(alg):
        raise Malformed("jwt_key")
    facts = key.dict_value
    if facts.get("use", "sig") != "sig" or facts.get("alg", alg) != alg:
        raise Malformed("jwt_key")
    if isinstance(key, RSAKey) and not RSA_BITS <= key.raw_value.key_size <= RSA_MOST_BITS:
        raise Malformed("jwt_key")
    if isinstance(key, ECKey) and key.curve_name != "P-256":
        raise Malformed("jwt_key")
    if isinstance(key, OKPKey) and facts.get("crv") != "Ed25519":
        raise Malformed("jwt_key")


def check_claims(claims: Mapping[str, JSON], rules: ClaimRules, now_s: int) -> None:
    """Raise Malformed("jwt_claims") unless every rule holds at ``now_s`` (Unix seconds).

    A bool, a float or a string is no time; ``exp`` itself is already too late (RFC 7519 §4.1.4).
    """
    audience = claims.get("aud")
    if audience != rules.audience and not (rules.audience_list and audience == [rules.audience]):
        raise Malformed("jwt_claims", "aud")
    if claims.get("iss") != rules.issuer:
        raise Malformed("jwt_claims", "iss")
    expires = _time(claims, "exp")
    issued = _time(claims, "iat") if rules.iat_required or "iat" in claims else now_s
    if now_s >= expires + rules.leeway_s:
        raise Malformed("jwt_claims", "exp")
    if issued > now_s + rules.skew_s or expires - issued > rules.max_age_s or expires <= issued:
        raise Malformed("jwt_claims", "iat")
    if "nbf" in claims and _time(claims, "nbf") > now_s + rules.leeway_s:
        raise Malformed("jwt_claims", "nbf")
    for name in rules.required:
        value = claims.get(name)
        if not isinstance(value, str) or not value or len(value) > 2048:
            raise Malformed("jwt_claims", name)


def sign(claims: Mapping[str, JSON], key: Key, *, alg: str, typ: str, kid: str) -> str:
    """Return the signed compact token; header members in the order alg, typ, kid."""
    check_key(key, alg)
    registry = _Registry(algorithms=[alg])
    return jws.serialize_compact(
        {"alg": alg, "typ": typ, "kid": kid}, orjson.dumps(dict(claims)), key, algorithms=[alg], registry=registry
    )


def parse_jwks(data: bytes) -> dict[str, Key]:
    """Return the public signature keys of a JWK Set document, by ``kid``.

    data: at most 64 KiB of strict JSON with at most 50 keys. Keys of other kinds or uses are left
    out; a key without ``kid`` gets its RFC 7638 thumbprint. Raises Malformed("jwks_invalid") for
    anything else, for a symmetric or private key, and when nothing usable is left.
    Source: RFC 7517 §5; oauth reference RS-05.
    """
    if len(data) > JWKS_BYTES:
        raise Malformed("jwks_invalid", "too large")
    try:
        value = strict_json.loads(data, max_depth=8)
    except Malformed as error:
        raise Malformed("jwks_invalid", error.code) from None
    return keys_of(value)


def keys_of(value: JSON) -> dict[str, Key]:
    """Return the keys of a parsed JWK Set; see `parse_jwks`."""
    entries = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not 0 < len(entries) <= KEYS_PER_SET:
        raise Malformed("jwks_invalid", "keys")
    keys: dict[str, Key] = {}
    for entry in entries:
        if not isinstance(entry, dict):
            raise Malformed("jwks_invalid", "key")
        if entry.get("kty") == "oct" or any(name in entry for name in ("d", "k", "p", "q")):
            raise Malformed("jwks_invalid", "secret key")
        key = _import(entry)
        if key is None:
            continue
        kid = entry.get("kid") or key.thumbprint()
        if not isinstance(kid, str) or len(kid) > KID_CHARS or kid in keys:
            raise Malformed("jwks_invalid", "kid")
        keys[kid] = key
    if not keys:
        raise Malformed("jwks_invalid", "no usable key")
    return keys


def _import(entry: JSONObject) -> Key | None:
    kinds: dict[JSON, type[ECKey] | type[RSAKey] | type[OKPKey]] = {"EC": ECKey, "RSA": RSAKey, "OKP": OKPKey}
    kind = entry.get("kty")
    maker = kinds.get(kind) if isinstance(kind, str) else None
    if maker is None or entry.get("use", "sig") != "sig":
        return None
    public: dict[str, str | list[str]] = {k: v for k, v in entry.items() if isinstance(v, str)}
    try:
        key = maker.import_key(public)
    except (JoseError, ValueError, KeyError, TypeError):
        return None
    for alg, fits in _KINDS.items():
        if fits != kind:
            continue
        try:
            check_key(key, alg)
        except Malformed:
            continue
        return key
    return None


def _decode(segment: bytes) -> bytes:
    """Return the bytes of one unpadded segment; a second spelling of the same bytes is refused."""
    rest = len(segment) % 4
    # The alphabet was checked as a whole. The last character may hold bits that belong to no byte: zeros only.
    if segment and segment[-1] in _LOOSE[rest]:
        raise Malformed("jwt_shape")
    try:
        return binascii.a2b_base64(segment.translate(_STANDARD) + b"=" * (-rest % 4))
    except binascii.Error:
        raise Malformed("jwt_shape") from None


def _object(data: bytes) -> JSONObject:
    try:
        value = strict_json.loads(data, max_depth=CLAIM_DEPTH)
    except Malformed as error:
        raise Malformed("jwt_shape", error.code) from None
    if not isinstance(value, dict):
        raise Malformed("jwt_shape")
    return value


def _time(claims: Mapping[str, JSON], name: str) -> int:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Malformed("jwt_claims", name)
    return value
