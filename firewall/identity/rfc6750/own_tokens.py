"""Tokens of the embedded authorization server: one key set, one issuer, one audience, everything named (RFC 9068)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.core.principal import Actor, Principal, chain_from_act
from firewall.core.run import run_ends_s
from firewall.core.tool_details import details_of
from firewall.identity import standing
from firewall.identity.issuers.claims import confirmation
from firewall.identity.rfc6750.known import Verified
from firewall.identity.rfc9068.tokens import ALGORITHM, TOKEN_TYPE, SigningKeys
from firewall.identity.settings import is_tenant
from firewall.wire import jwt, oauth

CLOCK_LEEWAY_S: Final = 30
LONGEST_TOKEN_S: Final = 24 * 3600
RESOURCES: Final = 4096  # of which the rules are kept
_KINDS: Final = ("user", "service", "local")


class OwnTokens:
    """Verifies what `rfc9068.tokens` signs."""

    def __init__(self, issuer: str, keys: SigningKeys) -> None:
        self._issuer = issuer
        self._keys = keys
        self._rules_of: dict[str, jwt.ClaimRules] = {}

    def verify(self, unchecked: jwt.UncheckedJWT, resource: str, now_s: int) -> Verified:
        """Return the verified token. Raises Malformed: jwt_alg, jwt_key, jwt_claims, jwt_signature."""
        if unchecked.alg != ALGORITHM:
            raise Malformed("jwt_alg")
        if unchecked.typ != TOKEN_TYPE:
            raise Malformed("jwt_claims", "typ")
        key = self._keys.by_kid.get(unchecked.kid)
        if key is None:
            same_work(unchecked, self._keys)
            raise Malformed("jwt_key", "kid")
        claims = jwt.verify(unchecked, key)
        jwt.check_claims(claims, self._rules(resource), now_s)
        principal = principal_of(claims, resource)
        told, issued = claims.get("standing", 0), claims["iat"]
        if not isinstance(told, int) or isinstance(told, bool) or not isinstance(issued, int):
            raise Malformed("jwt_claims", "standing")
        # Every client of the chain: when one of them ends, so does what others got through it.
        names = [standing.client(name) for name in {principal.client_id, *(a.sub for a in principal.chain[1:])}]
        if principal.session_id:
            names.append(standing.session(principal.session_id))
        if principal.txn:
            names.extend(standing.exchange(principal.txn, actor.sub) for actor in principal.chain[1:])
        return Verified(principal, told, issued, tuple(names))

    def _rules(self, resource: str) -> jwt.ClaimRules:
        rules = self._rules_of.get(resource)
        if rules is None:
            rules = self._rules_of[resource] = jwt.ClaimRules(
                issuer=self._issuer,
                audience=resource,
                max_age_s=LONGEST_TOKEN_S,
                skew_s=CLOCK_LEEWAY_S,
                required=("sub", "client_id", "jti", "gid", "tenant"),
            )
            if len(self._rules_of) > RESOURCES:
                self._rules_of.pop(next(iter(self._rules_of)))
        return rules


def same_work(unchecked: jwt.UncheckedJWT, keys: SigningKeys) -> None:
    """Verify with a key that is not the one named: an unknown key must not answer sooner than a bad signature (RS-17)."""
    try:
        jwt.verify(unchecked, keys.active)
    except Malformed:
        return


def principal_of(claims: Mapping[str, JSON], resource: str) -> Principal:
    """Return the Principal of *verified* claims. Raises Malformed for claims of a wrong shape."""
    tenant, kind, roles = claims.get("tenant"), claims.get("sub_type", "user"), claims.get("roles", [])
    scope, expires, auth_time = claims.get("scope", ""), claims.get("exp"), claims.get("auth_time", 0)
    if not isinstance(tenant, str) or not is_tenant(tenant) or kind not in _KINDS or not isinstance(kind, str):
        raise Malformed("jwt_claims", "tenant")
    if not isinstance(scope, str) or not isinstance(roles, list) or not isinstance(expires, int):
        raise Malformed("jwt_claims", "scope")
    run = claims.get("run", "")
    if not isinstance(run, str) or (run and not run_ends_s(run)):
        raise Malformed("jwt_claims", "run")
    sid, txn, hop = claims.get("sid", ""), claims.get("txn", ""), claims.get("hop", 0)
    if not isinstance(sid, str) or not isinstance(txn, str):
        raise Malformed("jwt_claims", "txn")
    if not isinstance(hop, int) or isinstance(hop, bool) or hop < 0:
        raise Malformed("jwt_claims", "hop")
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
        cnf=confirmation(claims),
        run=run,
        details=details_of(claims),
        session_id=sid,
        txn=txn,
        hop=hop,
    )
