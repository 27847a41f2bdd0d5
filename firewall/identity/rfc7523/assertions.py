"""JWTs that prove who a client is: their rules, and the memory that lets each be used once (AS-20).

The memory is the store that all workers share. Its key names who issued the assertion as well: two clients
may choose the same ``jti``, and neither can use up the other's.
"""

from __future__ import annotations

import hashlib
from typing import Final

from firewall.core.errors import Conflict, Malformed
from firewall.core.jsonvalue import JSON
from firewall.core.ports import Store
from firewall.identity.records import SECOND_US
from firewall.identity.throttle import NODE
from firewall.wire import jwt

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_S: Final = 300
LEEWAY_S: Final = 30
TYPES: Final = ("", "jwt", "client-authentication+jwt")  # RFC 7523; rfc7523bis §4 for the last


class UsedOnce:
    """Identifiers of assertions that have been used, until they could not be used anyway."""

    def __init__(self, store: Store) -> None:
        self._used = store.collection("assertion_jti")

    def burn(self, owner: str, token_id: str, expires_s: int) -> None:
        """Use an identifier up. owner: who issued it. Raises Malformed("assertion_replayed")."""
        key = hashlib.sha256(f"{owner}\0{token_id}".encode("utf-8", "surrogatepass")).hexdigest()
        try:
            self._used.put(NODE, key, b"", expires_us=(expires_s + LEEWAY_S + 1) * SECOND_US, if_version=0)
        except Conflict:
            raise Malformed("assertion_replayed") from None


def check_client_claims(claims: dict[str, JSON], client_id: str, issuer: str, now_s: int) -> tuple[str, int]:
    """Return (jti, exp) of a client's own assertion whose signature was verified.

    ``iss`` and ``sub`` are the client, ``aud`` is our issuer as a single string and nothing else, and it lives
    for at most 300 s. Raises Malformed("jwt_claims"). Source: RFC 7523 §3; draft-ietf-oauth-rfc7523bis §4.
    """
    rules = jwt.ClaimRules(
        issuer=client_id,
        audience=issuer,
        max_age_s=ASSERTION_S,
        leeway_s=LEEWAY_S,
        iat_required=False,
        required=("sub", "jti"),
    )
    jwt.check_claims(claims, rules, now_s)
    token_id, expires_s = claims["jti"], claims["exp"]
    if claims["sub"] != client_id or not isinstance(token_id, str) or not isinstance(expires_s, int):
        raise Malformed("jwt_claims", "sub")
    if len(token_id) > jwt.JTI_CHARS:
        raise Malformed("jwt_claims", "jti")
    return token_id, expires_s
