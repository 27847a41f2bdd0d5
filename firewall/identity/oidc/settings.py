"""What the operator says about an identity provider, and what is known of the common ones (oauth reference §10).

A *shape* fills in what one product does differently; whatever the file says itself wins. Nothing of a
shape ever weakens a check: where a product leaves something out of its metadata, the shape says so by
name (`unadvertised_s256`), as an administrator would.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal
from urllib.parse import urlsplit

from firewall.core.errors import ConfigFault
from firewall.identity.settings import LOOPBACK, is_tenant
from firewall.net.address import Network

Shape = Literal["generic", "keycloak", "entra", "okta", "auth0", "google"]
ClientAuth = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]
Create = Literal["never", "mapped", "always"]

NAME_SET: Final = frozenset(string.ascii_lowercase + string.digits + "-")
NAME_CHARS: Final = 40
TAKEN: Final = ("code",)  # /login/code is a page of ours
EVERYBODY: Final = "*"
ENTRA_TENANT: Final = "{tenantid}"
# Parameters of the request that are ours: an operator's extra ones never replace them.
OWN_PARAMETERS: Final = frozenset(
    {
        "response_type",
        "response_mode",
        "client_id",
        "redirect_uri",
        "scope",
        "state",
        "nonce",
        "code_challenge",
        "code_challenge_method",
        "max_age",
        "request",
        "request_uri",
        "claims",
    }
)


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Which claims say what. A name may lead into objects by dots (``realm_access.roles``).

    subject: what names a person for ever within the issuer. name: shown to the person, never matched.
    tenant: "" where the provider's people all belong to one tenant of ours.
    """

    subject: str = "sub"
    name: str = "name"
    groups: str = "groups"
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """One provider.

    name: stands in its callback path, ``/callback/<name>``. issuer: exactly what its tokens say, or, for
        many-tenant Entra, the same with ``{tenantid}``. discovery: where its metadata stands when not
        under the issuer.
    secret: ``env:NAME`` or ``file:/path``; never the secret itself.
    roles, scopes_of: what membership of a group gives; the group ``*`` means everybody who may sign in.
    tenants: value of the tenant claim → tenant of ours; without a tenant claim unused.
    create: whether somebody unknown gets an account: never, if a group of theirs is mapped, or always.
    forced_for: tenants whose people sign in here and nowhere else.
    acr_of: the provider's ``acr`` → ours. parameters: further ones for the authorization request.
    unadvertised_s256: PKCE is sent although the metadata does not say that it is understood (CL-05).
    trusted_audiences: others that may stand beside us in an ID token's ``aud``.
    recheck_s: seconds that what it said about a person holds; then they sign in again, or are gone. 0: for ever.
    """

    name: str
    issuer: str
    client_id: str
    title: str = ""
    shape: Shape = "generic"
    secret: str = ""
    client_auth: ClientAuth = "client_secret_basic"
    discovery: str = ""
    scopes: tuple[str, ...] = ("openid", "profile")
    claims: ClaimNames = ClaimNames()
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    scopes_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tenant: str = "default"
    tenants: Mapping[str, str] = field(default_factory=dict)
    create: Create = "mapped"
    forced_for: tuple[str, ...] = ()
    acr_of: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    userinfo: bool = False
    sign_out: bool = True
    network: Network = "public"
    unadvertised_s256: bool = False
    trusted_audiences: tuple[str, ...] = ()
    issuer_aliases: tuple[str, ...] = ()
    timeout_s: float = 5.0
    recheck_s: int = 7 * 24 * 3600

    def __post_init__(self) -> None:
        check(self)

    @property
    def callback_path(self) -> str:
        """The provider's own callback: an answer of another one never arrives here (AS-17)."""
        return f"/callback/{self.name}"

    @property
    def metadata_url(self) -> str:
        """Where the metadata stands (OpenID Connect Discovery §4: appended to the issuer)."""
        return self.discovery or f"{self.issuer.rstrip('/')}/.well-known/openid-configuration"


def shaped(given: ProviderSettings) -> ProviderSettings:
    """Return the settings with what their shape knows, wherever the file said nothing.

    - ``entra``: people are named by ``oid`` (``sub`` differs per application), S256 is not advertised,
      and for many tenants the issuer is a template; each tenant must then be listed in ``tenants``.
    - ``okta``: groups come with a scope of that name. ``auth0``: the issuer ends in a slash.
    - ``keycloak``: the name that people know is ``preferred_username``.
    - ``google``: tokens may name the issuer without a scheme; Workspace domains are the claim ``hd``.
    """
    none, names = ClaimNames(), given.claims
    scopes = given.scopes
    if given.shape == "entra":
        names = replace(
            names,
            subject="oid" if names.subject == none.subject else names.subject,
            tenant="tid" if ENTRA_TENANT in given.issuer else names.tenant,
        )
        return replace(given, claims=names, unadvertised_s256=True)
    if given.shape == "okta" and (given.roles or given.scopes_of) and "groups" not in scopes:
        return replace(given, scopes=(*scopes, "groups"))
    if given.shape == "keycloak" and names.name == none.name:
        return replace(given, claims=replace(names, name="preferred_username"))
    if given.shape == "google":
        return replace(given, issuer_aliases=("accounts.google.com",), sign_out=False)
    return given


def check(given: ProviderSettings) -> None:
    """Raise ConfigFault for a provider that could not work, or not safely."""
    where = f"identity provider {given.name!r}"
    if not 0 < len(given.name) <= NAME_CHARS or not NAME_SET.issuperset(given.name) or given.name in TAKEN:
        raise ConfigFault("idp_name", where, fix="use a–z, 0–9 and -, at most 40, and not the word code")
    for url in (given.issuer, given.discovery or given.issuer):
        _check_url(url, given.network, where)
    if urlsplit(given.issuer).hostname == "github.com":
        raise ConfigFault("idp_issuer", where, fix="GitHub signs no ID tokens: put a provider in between that does")
    if ENTRA_TENANT in given.issuer and (given.shape != "entra" or not given.tenants or not given.discovery):
        raise ConfigFault(
            "idp_issuer",
            where,
            fix="an issuer with {tenantid} needs shape: entra, discovery, and every permitted tenant id in tenants",
        )
    if "openid" not in given.scopes:
        raise ConfigFault("idp_scopes", where, fix="the scopes must hold openid")
    kind, _, source = given.secret.partition(":")
    needed = given.client_auth in ("client_secret_basic", "client_secret_post")
    if needed and (kind not in ("env", "file") or not source):
        raise ConfigFault("idp_secret", where, fix="write client_secret: env:NAME or file:/path, never the secret")
    if OWN_PARAMETERS & given.parameters.keys():
        raise ConfigFault("idp_parameters", where, fix="parameters may not replace those of the protocol")
    if given.claims.tenant and not given.tenants:
        raise ConfigFault("idp_tenants", where, fix="say in tenants which value of the claim is which tenant")
    for tenant in (given.tenant, *given.tenants.values(), *given.forced_for):
        if not is_tenant(tenant):
            raise ConfigFault("tenant_name", where, fix="use a–z, 0–9, - and _, at most 63")


def _check_url(url: str, network: Network, where: str) -> None:
    fix = "give the issuer exactly as its tokens do: https, no query; http on a loopback address only"
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        raise ConfigFault("idp_issuer", where, fix=fix) from None
    plain = parts.scheme == "http" and network == "loopback" and parts.hostname in LOOPBACK
    if not good or (parts.scheme != "https" and not plain):
        raise ConfigFault("idp_issuer", where, fix=fix)
