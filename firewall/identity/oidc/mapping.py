"""From verified claims to somebody of ours: tenant, name, roles, scopes, strength of the sign-in. Pure.

A claim only selects what the operator wrote down: no value of a token becomes a tenant, a role, a scope
or an authentication context by itself. Nobody is recognised by name or address (`people.links`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.step_up import SECOND_FACTOR
from firewall.identity.oidc.id_token import SUBJECT_CHARS
from firewall.identity.oidc.settings import ENTRA_TENANT, EVERYBODY, ProviderSettings

GROUPS: Final = 1000
GROUP_CHARS: Final = 256
AMR: Final = 16
# Kinds of factors (RFC 8176 §2): what one knows, has, is. Methods of two kinds are several factors.
FACTORS: Final = (
    frozenset({"pwd", "pin", "kba"}),
    frozenset({"otp", "sms", "tel", "hwk", "swk", "pop", "sc", "fido"}),
    frozenset({"face", "fpt", "iris", "retina", "vbm"}),
)


@dataclass(frozen=True, slots=True)
class Imported:
    """Who the provider says it is, in our terms.

    issuer, subject: the link. name: a claim about oneself, for display only. mapped: whether any group
    of theirs means something here. counted: those that do, in the words of the settings. acr: ours. amr: the provider's, known words only.
    """

    issuer: str
    subject: str
    tenant: str
    name: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    mapped: bool
    acr: str
    amr: tuple[str, ...]
    counted: tuple[str, ...] = ()


def import_claims(claims: JSONObject, settings: ProviderSettings, *, default_acr: str) -> Imported:
    """Return who this is. claims: of a verified ID token, with those of userinfo beside them.

    Raises Malformed("idp_claims") with the claim's kind as detail: subject, tenant, groups.
    """
    names = settings.claims
    subject = claim(claims, names.subject)
    if not isinstance(subject, str) or not 0 < len(subject) <= SUBJECT_CHARS:
        raise Malformed("idp_claims", "subject")
    groups = groups_of(claims, names.groups)
    roles = _given(settings.roles, groups)
    scopes = _given(settings.scopes_of, groups)
    # INVARIANT: of the operator's own words only; what else a token calls a group goes nowhere.
    known = dict.fromkeys((*settings.roles, *settings.scopes_of))
    counted = tuple(g for g in known if g != EVERYBODY and g in groups)
    name = claim(claims, names.name)
    amr = claims.get("amr")
    methods = tuple(m for m in amr[:AMR] if isinstance(m, str) and m in AMR_WORDS) if isinstance(amr, list) else ()
    acr = claims.get("acr")
    ours = settings.acr_of.get(acr, "") if isinstance(acr, str) else ""
    return Imported(
        # One name per issuer: an alias must not make a second person of anybody.
        issuer=str(claims["iss"]) if ENTRA_TENANT in settings.issuer else settings.issuer,
        subject=subject,
        tenant=_tenant(claims, settings),
        name=name if isinstance(name, str) else "",
        roles=roles,
        scopes=scopes,
        mapped=bool(counted),
        acr=ours or (SECOND_FACTOR if _several(methods) else default_acr),
        amr=methods,
        counted=counted,
    )


def claim(claims: Mapping[str, JSON], name: str) -> JSON:
    """Return a claim by name; a name that is no claim itself leads into objects by its dots.

    Names that are URLs (Auth0's namespaced claims) hold dots and stand for themselves.
    """
    if not name or name in claims or "://" in name:
        return claims.get(name)
    value: JSON = dict(claims)
    for part in name.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def groups_of(claims: Mapping[str, JSON], name: str) -> tuple[str, ...]:
    """Return the groups; a single string is a group of its own.

    Raises Malformed("idp_claims", "groups"): too many, of a wrong shape, or left out for their number
    (Entra's overage: ``_claim_names`` points to another service instead). Half of somebody's groups
    could be worse than none, so nobody signs in with them.
    """
    if isinstance(names := claims.get("_claim_names"), dict) and name in names:
        raise Malformed("idp_claims", "groups")
    value = claim(claims, name)
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) > GROUPS:
        raise Malformed("idp_claims", "groups")
    groups = tuple(g for g in listed if isinstance(g, str) and 0 < len(g) <= GROUP_CHARS)
    if len(groups) != len(listed):
        raise Malformed("idp_claims", "groups")
    return groups


def _tenant(claims: Mapping[str, JSON], settings: ProviderSettings) -> str:
    if not settings.claims.tenant:
        return settings.tenant
    value = claim(claims, settings.claims.tenant)
    if ENTRA_TENANT in settings.issuer and claims.get("iss") != settings.issuer.replace(ENTRA_TENANT, str(value)):
        raise Malformed("idp_claims", "tenant")  # one tenant vouching for another's people
    tenant = settings.tenants.get(value) if isinstance(value, str) else None
    if tenant is None:
        raise Malformed("idp_claims", "tenant")
    return tenant


def _several(methods: Iterable[str]) -> bool:
    """Return whether the methods are more than one factor."""
    used = set(methods)
    return "mfa" in used or sum(bool(used & kind) for kind in FACTORS) > 1


def _given(table: Mapping[str, tuple[str, ...]], groups: Iterable[str]) -> tuple[str, ...]:
    """Return what the groups give together, in the table's order, without repetition."""
    mine = {EVERYBODY, *(g for g in groups if g != EVERYBODY)}
    return tuple(dict.fromkeys(one for group, given in table.items() if group in mine for one in given))


# The registered authentication methods (RFC 8176 §2) and two that Entra and Okta use.
AMR_WORDS: Final = frozenset(
    {
        "face",
        "fpt",
        "geo",
        "hwk",
        "iris",
        "kba",
        "mca",
        "mfa",
        "otp",
        "pin",
        "pop",
        "pwd",
        "rba",
        "retina",
        "sc",
        "sms",
        "swk",
        "tel",
        "user",
        "vbm",
        "wia",
        "fido",
        "rsa",
    }
)
