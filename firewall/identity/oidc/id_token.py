"""The rules of an ID token (OpenID Connect Core §3.1.3.7). Pure: the claims are verified, time is an argument.

``iss``, ``aud``, ``azp``, ``nonce`` and ``exp`` are all demanded (AS-17). An access token, a logout token or
anything else that the same provider signs says so in ``typ`` or lacks the nonce: it never passes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.wire import jwt

ID_TOKEN_BYTES: Final = 16 * 1024
LEEWAY_S: Final = 30
LONGEST_S: Final = 24 * 3600
SUBJECT_CHARS: Final = 255
_TYPES: Final = ("", "jwt", "id_token+jwt")


@dataclass(frozen=True, slots=True)
class IdTokenRules:
    """What this sign-in expects. Times in seconds.

    issuers: exact strings, any of them. audiences: others that may stand beside the client id.
    fresh_since: the person must have signed in at this Unix time or later; -1 when anything will do.
    """

    issuers: tuple[str, ...]
    client_id: str
    nonce: str
    audiences: tuple[str, ...] = ()
    fresh_since: int = -1


def check_id_token(unchecked: jwt.UncheckedJWT, key: jwt.Key, rules: IdTokenRules, now_s: int) -> JSONObject:
    """Return the claims of an ID token that is meant for us, now, for this very sign-in.

    Raises Malformed: jwt_key, jwt_signature, jwt_claims (detail: the claim).
    """
    if unchecked.typ not in _TYPES:
        raise Malformed("jwt_claims", "typ")
    claims = jwt.verify(unchecked, key)
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or issuer not in rules.issuers:
        raise Malformed("jwt_claims", "iss")
    _check_audience(claims, rules)
    times = jwt.ClaimRules(issuer, rules.client_id, LONGEST_S, LEEWAY_S, LEEWAY_S, required=("sub",))
    jwt.check_claims({**claims, "aud": rules.client_id}, times, now_s)
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), rules.nonce.encode()):
        raise Malformed("jwt_claims", "nonce")
    if "events" in claims or len(str(claims["sub"])) > SUBJECT_CHARS:
        raise Malformed("jwt_claims", "sub")
    if rules.fresh_since >= 0 and auth_time(claims, now_s) < rules.fresh_since - LEEWAY_S:
        raise Malformed("jwt_claims", "auth_time")
    return claims


def check_access_hash(claims: Mapping[str, JSON], alg: str, access_token: str) -> None:
    """Raise Malformed("jwt_claims") when ``at_hash`` is there and is not this access token's (Core §3.1.3.6)."""
    claimed = claims.get("at_hash")
    if claimed is None:
        return
    digest = hashlib.sha512 if alg == "Ed25519" else hashlib.sha256
    whole = digest(access_token.encode("utf-8", "surrogatepass")).digest()
    expected = base64.urlsafe_b64encode(whole[: len(whole) // 2]).rstrip(b"=")
    if not isinstance(claimed, str) or not hmac.compare_digest(claimed.encode(), expected):
        raise Malformed("jwt_claims", "at_hash")


def auth_time(claims: Mapping[str, JSON], now_s: int) -> int:
    """Return when the person signed in at the provider, Unix seconds; 0 when it does not say.

    A time in the future is now at most; without the claim nothing may be taken for fresh.
    """
    value = claims.get("auth_time", 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Malformed("jwt_claims", "auth_time")
    return min(value, now_s)


def _check_audience(claims: Mapping[str, JSON], rules: IdTokenRules) -> None:
    """``aud`` is us; with others beside us each is trusted and ``azp`` is us (Core §3.1.3.7, steps 3 to 5)."""
    audience, party = claims.get("aud"), claims.get("azp")
    listed = audience if isinstance(audience, list) else [audience]
    if rules.client_id not in listed or any(one not in (rules.client_id, *rules.audiences) for one in listed):
        raise Malformed("jwt_claims", "aud")
    if (party is not None or len(listed) > 1) and party != rules.client_id:
        raise Malformed("jwt_claims", "azp")
