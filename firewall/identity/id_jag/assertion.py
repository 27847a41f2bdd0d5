"""What an ID-JAG must say to be a grant here. Pure; the signature was verified before.

    typ  oauth-id-jag+jwt        client_id  the client that authenticated
    aud  our issuer, alone       exp − iat  within the issuer's bound
    sub  somebody at the issuer  cnf, act   refused: what nobody checks must not look as if it counted

``email`` and ``aud_sub`` choose nobody: accounts are linked by (issuer, subject). Source: oauth reference §4,
draft -03 §4 and the later rules that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.identity.settings import TrustedIssuer
from firewall.wire import jwt, oauth, strict_json
from firewall.wire.oauth import OAuthError

TYPE: Final = "oauth-id-jag+jwt"
LEEWAY_S: Final = 30  # of the issuer's clock
RESOURCES: Final = 16


@dataclass(frozen=True, slots=True)
class Assertion:
    """A checked assertion. Times in Unix seconds.

    realm: the issuer's own tenant, "" for none. acr: ours, "" where the issuer's setting knows none. resources: URIs that it was given for, () for any. scopes: the
    most that may be given, None where it names none. details: ``authorization_details`` as JSON text, or "".
    account: who the issuer believes the subject is here, "" for no word; it may contradict, never choose.
    """

    issuer: str
    subject: str
    realm: str
    token_id: str
    issued_s: int
    expires_s: int
    auth_time: int
    acr: str
    resources: tuple[str, ...]
    scopes: tuple[str, ...] | None
    details: str
    account: str


def check_assertion(
    claims: Mapping[str, JSON], trusted: TrustedIssuer, *, our_issuer: str, client_id: str, now_s: int
) -> Assertion:
    """Return the assertion. Raises Malformed("jwt_claims"), OAuthError invalid_grant: assertion_…, invalid_scope."""
    rules = jwt.ClaimRules(
        issuer=trusted.issuer,
        audience=our_issuer,
        max_age_s=trusted.max_lifetime_s,
        leeway_s=LEEWAY_S,
        skew_s=LEEWAY_S,
        audience_list=True,
        required=("sub", "client_id", "jti"),
    )
    jwt.check_claims(claims, rules, now_s)
    if claims["client_id"] != client_id or (trusted.clients and client_id not in trusted.clients):
        raise OAuthError("invalid_grant", "assertion_client")
    # A confirmation method that is not checked, or an actor that is not shown, must not pass as plain.
    for name in ("cnf", "act"):
        if name in claims:
            raise OAuthError("invalid_grant", f"assertion_{name}")
    realm = _text(claims, "tenant")
    if realm not in (trusted.realms or ("",)):
        raise OAuthError("invalid_grant", "assertion_realm")
    if _text(claims, "aud_tenant") not in ("", trusted.tenant):
        raise OAuthError("invalid_grant", "assertion_tenant")
    token_id = str(claims["jti"])
    if len(token_id) > jwt.JTI_CHARS:
        raise Malformed("jwt_claims", "jti")
    issued_s, expires_s = _number(claims, "iat"), _number(claims, "exp")
    auth_time = _number(claims, "auth_time") if "auth_time" in claims else 0
    return Assertion(
        issuer=trusted.issuer,
        subject=str(claims["sub"]),
        realm=realm,
        token_id=token_id,
        issued_s=issued_s,
        expires_s=expires_s,
        auth_time=auth_time if 0 <= auth_time <= now_s else 0,
        acr=trusted.acr_of.get(_text(claims, "acr"), ""),
        resources=_resources(claims.get("resource")),
        scopes=oauth.parse_scope(_text(claims, "scope")) if "scope" in claims else None,
        details=_details(claims),
        account=_text(claims, "aud_sub"),
    )


def chosen_resource(assertion: Assertion, presented: str, known: Mapping[str, object]) -> str:
    """Return the one resource of the token: within those of the assertion. Raises OAuthError invalid_target."""
    if not presented and len(assertion.resources) == 1:
        presented = assertion.resources[0]
    resource = oauth.check_resource(presented, known)
    if assertion.resources and resource not in assertion.resources:
        raise OAuthError("invalid_target", "resource_widened")
    return resource


def wanted_scopes(assertion: Assertion, text: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return the scopes to give: what is asked within what was asserted. Raises OAuthError invalid_scope.

    text: the request's ``scope``; default: what a resource means by none. RFC 7521 §4.1: never more than was
    granted to the accessor.
    """
    asked = tuple(scope for scope in oauth.parse_scope(text) if scope != "offline_access")
    if assertion.scopes is None:
        return asked or default
    oauth.check_not_wider(asked, assertion.scopes)
    return asked or assertion.scopes


def _resources(value: JSON) -> tuple[str, ...]:
    if value is None:
        return ()
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= RESOURCES or not all(isinstance(one, str) and one for one in values):
        raise Malformed("jwt_claims", "resource")
    return tuple(str(one) for one in values)


def _details(claims: Mapping[str, JSON]) -> str:
    """Return the details as the text of a request would be; of any other shape they are refused when read."""
    return strict_json.dumps(claims["authorization_details"]).decode() if "authorization_details" in claims else ""


def _text(claims: Mapping[str, JSON], name: str) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str):
        raise Malformed("jwt_claims", name)
    return value


def _number(claims: Mapping[str, JSON], name: str) -> int:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Malformed("jwt_claims", name)
    return value


def unverified_issuer(claims: JSONObject) -> str:
    """Return which issuer an assertion names, to look it up in the configured set; "" for none."""
    issuer = claims.get("iss")
    return issuer if isinstance(issuer, str) else ""
