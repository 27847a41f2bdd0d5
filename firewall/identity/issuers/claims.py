"""From the verified claims of another issuer's access token to a principal of ours. Pure.

A claim selects what the operator wrote down; none becomes a tenant or a role by itself. Subject and client
carry the issuer's name: ``corp|00u1`` is nobody's own account or registered client.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.core.principal import Actor, Principal, chain_from_act
from firewall.core.tool_details import details_of
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.oidc.mapping import claim, groups_of
from firewall.wire import jwt, oauth

NAME_CHARS: Final = 512
SCOPES: Final = 256
_CLIENT_CLAIMS: Final = ("client_id", "azp", "appid", "cid")
# What only tokens of other kinds say (OpenID Connect Core §2, Back-Channel Logout §2.4): RS-07.
_OTHER_KINDS: Final = ("nonce", "at_hash", "c_hash", "s_hash", "events")
_PLAIN_TYPES: Final = ("", "jwt", "at+jwt")


def check_type(typ: str, claims: Mapping[str, JSON], profile: IssuerProfile) -> None:
    """Raise Malformed("jwt_claims") unless this is an access token, as far as its issuer lets one tell (RS-07)."""
    if profile.typ == "at+jwt":
        if typ != "at+jwt":
            raise Malformed("jwt_claims", "typ")
        return
    if typ not in _PLAIN_TYPES:
        raise Malformed("jwt_claims", "typ")
    audience = claims.get("aud")
    told = [audience] if isinstance(audience, str) else audience
    named = [claims.get(name) for name in _CLIENT_CLAIMS if isinstance(claims.get(name), str)]
    if any(name in claims for name in _OTHER_KINDS) or (isinstance(told, list) and any(n in told for n in named)):
        raise Malformed("jwt_claims", "id token")


def audience_of(claims: Mapping[str, JSON], profile: IssuerProfile, path: str) -> str:
    """Return which ``aud`` value means the resource at a path. Raises Malformed("jwt_claims") (RS-09)."""
    audience = claims.get("aud")
    told = [audience] if isinstance(audience, str) else audience
    meant = profile.audiences.get(path, ())
    if not isinstance(told, list) or not told or (len(told) > 1 and not profile.several):
        raise Malformed("jwt_claims", "aud")
    for one in told:
        if isinstance(one, str) and one in meant:
            return one
    raise Malformed("jwt_claims", "aud")


def principal_of(
    claims: Mapping[str, JSON], profile: IssuerProfile, resource: str, known: tuple[str, ...], grant_id: str
) -> Principal:
    """Return the principal of verified claims.

    resource: our URI. known: the scopes that exist there; nothing else is ever given. grant_id: what a
    revocation of this token names. Raises Malformed("jwt_claims") with the claim's kind as detail.
    """
    subject = _text(claim(claims, profile.subject_claim), "sub")
    client = _client(claims, profile)
    expires, auth_time, acr = claims.get("exp"), claims.get("auth_time", 0), claims.get("acr", "")
    if isinstance(expires, bool) or not isinstance(expires, int):
        raise Malformed("jwt_claims", "exp")
    kind = "service" if client == subject or claims.get("idtyp") == "app" else "user"
    named = f"{profile.name}|{subject}"
    token_id = claims.get("jti")
    return Principal(
        tenant=_tenant(claims, profile),
        issuer=profile.issuer,
        subject=named,
        client_id=f"{profile.name}|{client}" if client else profile.name,
        scopes=_scopes(claims, profile, known),
        audience=resource,
        chain=_chain(Actor(named, kind), claims.get("act"), profile),
        expires_at=expires,
        kind=kind,
        auth_method="oauth",
        token_id=token_id if isinstance(token_id, str) and len(token_id) <= jwt.JTI_CHARS else "",
        grant_id=grant_id,
        acr=acr if isinstance(acr, str) and len(acr) <= NAME_CHARS else "",
        auth_time=auth_time if isinstance(auth_time, int) and not isinstance(auth_time, bool) else 0,
        roles=_roles(claims, profile),
        cnf=confirmation(claims),
        details=details_of(claims, foreign=True),
    )


def confirmation(claims: Mapping[str, JSON]) -> str:
    """Return the thumbprint that a token is bound to, "" for none; another kind of ``cnf`` is refused (RS-13)."""
    if "cnf" not in claims:
        return ""
    cnf = claims["cnf"]
    thumbprint = cnf.get("jkt") if isinstance(cnf, dict) and len(cnf) == 1 else None
    if not isinstance(thumbprint, str) or len(thumbprint) != 43:
        raise Malformed("jwt_claims", "cnf")
    return thumbprint


def _chain(subject: Actor, act: JSON, profile: IssuerProfile) -> tuple[Actor, ...]:
    """Return who acted: theirs, and never people. A stop of a client finds them by the name that clients have here."""
    _, *actors = chain_from_act(subject, act)
    named = (
        Actor(f"{profile.name}|{_text(a.sub, 'act')}", "service" if a.type == "service" else "agent") for a in actors
    )
    return (subject, *named)


def _client(claims: Mapping[str, JSON], profile: IssuerProfile) -> str:
    names = (profile.client_claim,) if profile.client_claim else _CLIENT_CLAIMS
    for name in names:
        value = claim(claims, name)
        if value is not None:
            return _text(value, "client")
    if profile.client_claim:
        raise Malformed("jwt_claims", "client")
    return ""


def _tenant(claims: Mapping[str, JSON], profile: IssuerProfile) -> str:
    if not profile.tenant_claim:
        return profile.tenant
    value = claim(claims, profile.tenant_claim)
    tenant = profile.tenants.get(value) if isinstance(value, str) else None
    if tenant is None:
        raise Malformed("jwt_claims", "tenant")
    return tenant


def _scopes(claims: Mapping[str, JSON], profile: IssuerProfile, known: tuple[str, ...]) -> frozenset[str]:
    value = claim(claims, profile.scope_claim)
    told: list[JSON] = (
        list(oauth.parse_scope(value)) if isinstance(value, str) else value if isinstance(value, list) else []
    )
    if len(told) > SCOPES:
        raise Malformed("jwt_claims", "scope")
    found: set[str] = set()
    for one in told:
        if isinstance(one, str):
            found.update(profile.scopes.get(one, ()) if profile.scopes else (one,))
    return frozenset(found.intersection(known))


def _roles(claims: Mapping[str, JSON], profile: IssuerProfile) -> tuple[str, ...]:
    if not profile.groups_claim:
        return ()
    try:
        groups = groups_of(claims, profile.groups_claim)
    except Malformed:
        raise Malformed("jwt_claims", "groups") from None
    return tuple(dict.fromkeys(role for group in groups for role in profile.roles.get(group, ())))


def _text(value: JSON, kind: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARS or not value.isprintable():
        raise Malformed("jwt_claims", kind)
    return value
