"""One DPoP proof, checked in a fixed order (RFC 9449 §4.3; oauth reference §6.6). Pure: the time is an argument.

    typ and alg → jwk, public only → signature → htm → htu → iat or nonce → ath

What is left needs memory or the token and follows in `verifier`: that ``jti`` is new for the key, and
that the key's thumbprint is the token's ``cnf.jkt``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.value import value
from firewall.wire import jwt

PROOF_TYPE: Final = "dpop+jwt"
ALGORITHMS: Final = ("ES256",)
PROOF_BYTES: Final = 4096
WINDOW_S: Final = 60
_PRIVATE: Final = ("d", "k", "p", "q", "dp", "dq", "qi")


class NonceWanted(Malformed):
    """The proof must be made again with a nonce of ours (RFC 9449 §8); told as ``use_dpop_nonce``."""

    def __init__(self, detail: str) -> None:
        super().__init__("dpop_nonce", detail)


@value
class Proof:
    """A proof whose signature and claims hold. thumbprint: of its key, RFC 7638, base64url."""

    thumbprint: str
    token_id: str
    issued_s: int


@value
class Demand:
    """What a proof must be about.

    method: as in the request line. url: the configured public one, without query and fragment.
    token: the access token presented with it, b"" at the token endpoint. now_s: Unix seconds.
    good_nonce: whether a nonce is one of ours and still young. nonce_required: no proof without one.
    """

    method: str
    url: str
    token: bytes
    now_s: int
    good_nonce: Callable[[str], bool]
    nonce_required: bool = False


class ProofKeys:
    """Keys of proofs by their coordinates: a client proves with the same one again and again. Bounded."""

    def __init__(self, entries: int = 4096) -> None:
        self._entries = entries
        self._known: dict[tuple[str, str], tuple[ECKey, str]] = {}

    def read(self, jwk: JSON) -> tuple[ECKey, str]:
        """Return a header's key and its thumbprint. Raises Malformed("dpop_key"), for a private one too."""
        if not isinstance(jwk, dict) or any(name in jwk for name in _PRIVATE):
            raise Malformed("dpop_key")
        x, y = jwk.get("x"), jwk.get("y")
        if jwk.get("kty") != "EC" or jwk.get("crv") != "P-256" or not isinstance(x, str) or not isinstance(y, str):
            raise Malformed("dpop_key")
        if len(x) != 43 or len(y) != 43 or jwk.get("use", "sig") != "sig" or jwk.get("alg", "ES256") != "ES256":
            raise Malformed("dpop_key")
        known = self._known.get((x, y))
        if known is None:
            try:
                key = ECKey.import_key({"kty": "EC", "crv": "P-256", "x": x, "y": y})
                known = key, key.thumbprint()
            except (JoseError, ValueError, KeyError, TypeError):
                raise Malformed("dpop_key") from None
            if len(self._known) >= self._entries:
                self._known.pop(next(iter(self._known)), None)
            self._known[x, y] = known
        return known


def check_proof(data: bytes, demand: Demand, keys: ProofKeys) -> Proof:
    """Return a proof that is about exactly this request.

    data: the value of the one ``DPoP`` header, at most 4,096 bytes.
    Raises Malformed: dpop_shape, dpop_type, dpop_alg, dpop_key, dpop_signature, dpop_method, dpop_url,
    dpop_time, dpop_token, dpop_id; NonceWanted where a nonce would cure it.
    """
    try:
        unchecked = jwt.parse_compact(data, algorithms=ALGORITHMS, max_bytes=PROOF_BYTES, carries_key=True)
    except Malformed as error:
        raise Malformed("dpop_alg" if error.code == "jwt_alg" else "dpop_shape", error.code) from None
    if unchecked.typ != PROOF_TYPE:
        raise Malformed("dpop_type")
    key, thumbprint = keys.read(unchecked.jwk)
    try:
        claims = jwt.verify(unchecked, key)
    except Malformed:
        raise Malformed("dpop_signature") from None
    if claims.get("htm") != demand.method or not demand.method:
        raise Malformed("dpop_method")
    if not _same_url(claims.get("htu"), demand.url):
        raise Malformed("dpop_url")
    issued_s = _check_time(claims, demand)
    if demand.token and not _hashes_to(claims.get("ath"), demand.token):
        raise Malformed("dpop_token")
    token_id = claims.get("jti")
    if not isinstance(token_id, str) or not 0 < len(token_id) <= jwt.JTI_CHARS:
        raise Malformed("dpop_id")
    return Proof(thumbprint, token_id, issued_s)


def _check_time(claims: JSONObject, demand: Demand) -> int:
    """Return ``iat``: within 60 s of now, or anywhere when a nonce says when the proof was made."""
    issued, nonce = claims.get("iat"), claims.get("nonce")
    if isinstance(issued, bool) or not isinstance(issued, int):
        raise Malformed("dpop_time")
    if nonce is not None:
        if not isinstance(nonce, str) or not demand.good_nonce(nonce):
            raise NonceWanted("unknown or old")
    elif demand.nonce_required:
        raise NonceWanted("required")
    elif abs(demand.now_s - issued) > WINDOW_S:
        raise NonceWanted("clock")
    return issued


def _hashes_to(ath: JSON, token: bytes) -> bool:
    digest = base64.urlsafe_b64encode(hashlib.sha256(token).digest()).rstrip(b"=").decode()
    return isinstance(ath, str) and ath.isascii() and hmac.compare_digest(ath, digest)


def _same_url(told: JSON, url: str) -> bool:
    """Return whether ``htu`` is the URL; its query and fragment do not count (RFC 9449 §4.3 (9))."""
    if not isinstance(told, str) or not url:
        return False
    told = told.partition("#")[0].partition("?")[0]
    plain = _normal(url)
    return told == url or (bool(plain) and _normal(told) == plain)


def _normal(url: str) -> str:
    """Return the URL with scheme and host in lower case and no default port (RFC 3986 §6.2.2, §6.2.3)."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    default = {"https": 443, "http": 80}.get(parts.scheme)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    if not default or not host or "@" in parts.netloc:
        return ""
    return f"{parts.scheme}://{host}{'' if port in (None, default) else f':{port}'}{parts.path}"
