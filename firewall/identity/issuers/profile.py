"""What an operator says about an issuer whose access tokens are taken as they are. Frozen values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from firewall.core.errors import ConfigFault
from firewall.core.jsonvalue import JSON
from firewall.identity.settings import LOOPBACK, is_tenant
from firewall.net.address import Network
from firewall.wire import jwt, strict_json

LONGEST_TOKEN_S: Final = 24 * 3600
NAME_CHARS: Final = 40
MARK: Final = "|"  # between the name and what the issuer says; in a name it would make two issuers' people one


@dataclass(frozen=True, slots=True)
class IssuerProfile:
    """How tokens of one issuer are checked, and what their claims mean here.

    name: ours for it; subjects and clients of its tokens are named ``<name>|<theirs>``, so that none of them
        is ever somebody of ours. issuer: exact string of ``iss``. jwks_uri: "" takes what its metadata says.
    typ: ``at+jwt`` (RFC 9068), or ``any`` for issuers that mark their tokens ``JWT``.
    audiences: path of a resource of ours → the ``aud`` values that mean it. several: a token may name others too.
    scope_claim: a string or a list. scopes: their scope → ours; without one, scopes of the same name count.
    tenant: ours for all of them; or tenant_claim and tenants, their value → ours.
    groups_claim, roles: their group → roles of ours. client_claim: "" takes the first of client_id, azp, appid, cid.
    max_age_s: longest accepted ``exp − iat``.
    kind: ``jwt``, or ``opaque`` for tokens that only the issuer can read: introspection (RFC 7662) at
        introspection_url, as client_id with the secret that ``secret`` names (``env:NAME``, ``file:/path``).
    """

    name: str
    issuer: str
    jwks_uri: str = ""
    algorithms: tuple[str, ...] = jwt.ALGORITHMS
    typ: Literal["at+jwt", "any"] = "at+jwt"
    audiences: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    several: bool = False
    scope_claim: str = "scope"
    scopes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    subject_claim: str = "sub"
    client_claim: str = ""
    tenant: str = "default"
    tenant_claim: str = ""
    tenants: Mapping[str, str] = field(default_factory=dict)
    groups_claim: str = ""
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    max_age_s: int = LONGEST_TOKEN_S
    kind: Literal["jwt", "opaque"] = "jwt"
    introspection_url: str = ""
    client_id: str = ""
    secret: str = ""
    network: Network = "public"

    def __post_init__(self) -> None:
        """Raise ConfigFault for a profile that could not work, or not safely."""
        where = f"issuer {self.name!r}"
        if not self.name.isprintable() or not 0 < len(self.name) <= NAME_CHARS or MARK in self.name:
            raise ConfigFault("issuer_name", where, fix=f"at most {NAME_CHARS} printable characters without {MARK}")
        for url in (self.issuer, self.introspection_url if self.kind == "opaque" else self.jwks_uri or self.issuer):
            check_url(url, self.network, where)
        if not self.algorithms or not set(self.algorithms) <= set(jwt.ALGORITHMS):
            raise ConfigFault("issuer_algorithms", where, fix=f"choose from {', '.join(jwt.ALGORITHMS)}")
        if not self.audiences or not all(self.audiences.values()):
            raise ConfigFault("issuer_audiences", where, fix="say for each resource which aud means it")
        if any(not path.startswith("/") for path in self.audiences):
            raise ConfigFault("issuer_audiences", where, fix="name resources by their path, such as /mcp/files")
        if bool(self.tenant_claim) != bool(self.tenants):
            raise ConfigFault("issuer_tenants", where, fix="give tenant_claim and tenants together, or neither")
        for tenant in (self.tenant, *self.tenants.values()):
            if not is_tenant(tenant):
                raise ConfigFault("tenant_name", where, fix="use a–z, 0–9, - and _, at most 63")
        if not 0 < self.max_age_s <= LONGEST_TOKEN_S:
            raise ConfigFault("issuer_lifetime", where, fix=f"1 to {LONGEST_TOKEN_S} seconds")
        kind, _, source = self.secret.partition(":")
        if self.kind == "opaque" and (not self.client_id or kind not in ("env", "file") or not source):
            raise ConfigFault(
                "issuer_secret", where, fix="introspection needs client_id and secret: env:NAME or file:/path"
            )

    def digest(self) -> str:
        """Return the hex SHA-256 of the whole profile: what a preflight proved is this, and nothing changed since."""
        return hashlib.sha256(strict_json.dumps(_sorted(asdict(self)))).hexdigest()


def _sorted(value: Any) -> JSON:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(one) for one in value] if isinstance(value, (list, tuple)) else value


def check_url(url: str, network: Network, where: str) -> None:
    """Raise ConfigFault("issuer_url") unless a URL is https, or http on loopback where that is permitted."""
    fix = "give https URLs, the issuer exactly as its tokens do; http on loopback alone, with network: loopback"
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and not (parts.fragment or "@" in parts.netloc)
    except ValueError:
        raise ConfigFault("issuer_url", where, fix=fix) from None
    plain = parts.scheme == "http" and network == "loopback" and parts.hostname in LOOPBACK
    if not good or (parts.scheme != "https" and not plain):
        raise ConfigFault("issuer_url", where, fix=fix)
