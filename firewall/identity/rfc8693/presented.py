"""Access tokens of ours that are presented for exchange: verified as at a resource, for whichever one they are."""

from __future__ import annotations

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock
from firewall.identity.grants import OAuthGrants
from firewall.identity.records import SECOND_US
from firewall.identity.resources import Resources
from firewall.identity.rfc6750.known import Verified
from firewall.identity.rfc6750.own_tokens import OwnTokens
from firewall.identity.rfc8693.narrowing import Presented
from firewall.wire import jwt
from firewall.wire.oauth import OAuthError


class PresentedTokens:
    """Reads subject and actor tokens."""

    def __init__(self, tokens: OwnTokens, resources: Resources, grants: OAuthGrants, clock: Clock) -> None:
        self._tokens = tokens
        self._resources = resources
        self._grants = grants
        self._clock = clock

    def read(self, text: str) -> Presented:
        """Return what a live token says. Raises OAuthError invalid_request: jwt_…, grant_revoked, grant_ended.

        RFC 8693 §2.2.2: an invalid subject or actor token makes the request invalid.
        """
        now_s = self._clock.now_us() // SECOND_US
        try:
            unchecked = jwt.parse_compact(text.encode("utf-8", "surrogatepass"))
            audience = unchecked.claims.get("aud")
            # Read before it is verified to choose the rules; the rules then hold it to this one.
            if not isinstance(audience, str) or audience not in self._resources.by_uri:
                raise Malformed("jwt_claims", "aud")
            verified = self._tokens.verify(unchecked, audience, now_s)
            # A resource forgives a clock that differs; what is over here is not worth exchanging.
            if verified.principal.expires_at <= now_s:
                raise Malformed("jwt_claims", "exp")
            presented = _presented(verified, unchecked.claims)
        except Malformed as error:
            raise OAuthError("invalid_request", error.code) from None
        self._check_stands(verified)
        return presented

    def _check_stands(self, verified: Verified) -> None:
        who, grants = verified.principal, self._grants
        if grants.is_revoked(who.tenant, who.grant_id):
            raise OAuthError("invalid_request", "grant_revoked")
        told, scopes = verified.standing or 0, tuple(who.scopes)
        if not grants.stands(who.tenant, who.subject, who.audience, scopes, told):
            raise OAuthError("invalid_request", "grant_ended")
        if grants.standing.ended(who.tenant, verified.names, verified.issued_s):
            raise OAuthError("invalid_request", "grant_ended")


def _presented(verified: Verified, claims: JSONObject) -> Presented:
    """Return verified claims as a value. Raises Malformed for claims of a wrong shape."""
    amr, details = claims.get("amr", []), claims.get("authorization_details", [])
    if not isinstance(amr, list) or not isinstance(details, list) or not all(isinstance(d, dict) for d in details):
        raise Malformed("jwt_claims", "authorization_details")
    return Presented(
        principal=verified.principal,
        amr=tuple(method for method in amr if isinstance(method, str)),
        may_act=_named(claims.get("may_act")),
        details=tuple(d for d in details if isinstance(d, dict)),
    )


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else ""


def _named(may_act: JSON) -> str:
    """Return the client of a ``may_act`` claim, "" where there is none.

    A further member would be a condition (RFC 8693 §4.4) that nobody here judges: such a claim names nobody.
    """
    if not isinstance(may_act, dict) or list(may_act) != ["sub"]:
        return ""
    return _text(may_act["sub"])
