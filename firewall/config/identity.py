"""The shape of ``identity`` in ``bartizan.yaml``: clients, providers, issuers, and what the front door offers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from firewall.config.part import Keyed, Name, Network, Part
from firewall.core.bounds import REFRESH_IDLE_S, REFRESH_LIFETIME_S, REFRESH_LONGEST_S

DAY_S = 24 * 3600

GrantName = Literal[
    "authorization_code", "refresh_token", "client_credentials", "token_exchange", "jwt_bearer", "device_code"
]


class ClientConfig(Keyed):
    """A pre-registered OAuth client. Give ``jwks`` or ``jwks_uri`` for private_key_jwt, ``secret_sha256`` for

    client_secret_basic, name it in ``workloads`` for a platform's credentials; none of these for a public client.
    pushed_only, resource, may_act, orchestrator: see `identity.settings.ClientSettings`.
    """

    name: str = ""
    redirect_uris: tuple[str, ...] = ()
    grants: tuple[GrantName, ...] = (
        "authorization_code",
        "refresh_token",
    )
    scopes: tuple[str, ...] = ()
    jwks: dict[str, Any] | None = None
    jwks_uri: str = ""
    network: Network = "public"
    secret_sha256: str = ""
    pushed_only: bool = False
    resource: str = ""
    may_act: str = ""
    orchestrator: bool = False
    dpop: bool = False


class DPoPConfig(Part):
    """Tokens bound to a key (RFC 9449). required_at: paths of resources where bearer tokens are refused."""

    nonces: bool = False
    required_at: tuple[str, ...] = ()


class IntrospectionConfig(Part):
    """Where tokens that only their issuer can read are asked about (RFC 7662)."""

    url: str
    client_id: str
    client_secret: str


# One name, or several: `agents: dev` is `agents: [dev]`.
Names = str | tuple[str, ...]


class IssuerConfig(Keyed):
    """An issuer whose access tokens are taken as they are (direct mode); see `identity.issuers.profile`."""

    issuer: str
    jwks_uri: str = ""
    algorithms: tuple[Literal["ES256", "RS256", "PS256", "Ed25519"], ...] = ("ES256", "RS256", "PS256", "Ed25519")
    typ: Literal["at+jwt", "any"] = "at+jwt"
    audiences: dict[str, Names]
    several_audiences: bool = False
    scope_claim: str = "scope"
    scopes: dict[str, Names] = {}
    subject_claim: str = "sub"
    client_claim: str = ""
    tenant_claim: str = ""
    tenants: dict[str, str] = {}
    groups_claim: str = ""
    roles: dict[str, Names] = {}
    max_age_s: int = Field(default=24 * 3600, ge=1, le=24 * 3600)
    introspection: IntrospectionConfig | None = None
    network: Network = "public"


class TrustedIssuerConfig(Keyed):
    """An identity provider whose identity assertions (ID-JAG) are accepted; see `identity.settings.TrustedIssuer`."""

    jwks: dict[str, Any] | None = None
    jwks_uri: str = ""
    algorithms: tuple[Literal["ES256", "RS256", "PS256", "Ed25519"], ...] = ("ES256", "RS256", "PS256", "Ed25519")
    clients: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ("*",)
    realms: tuple[str, ...] = ()
    max_lifetime_s: int = Field(default=600, ge=1, le=3600)
    reusable: bool = False
    create: bool = False
    roles: tuple[str, ...] = ()
    account_scopes: tuple[str, ...] = ()
    acr_of: dict[str, str] = {}
    network: Network = "public"


class RunsConfig(Part):
    """Runs: clean contexts for flow labels."""

    lifetime_s: int = Field(default=8 * 3600, ge=60, le=24 * 3600)
    per_hour: int = Field(default=600, ge=0, le=1500)


class CIMDConfig(Part):
    """Client id metadata documents: which hosts are fetched at all, and documents pinned by hand."""

    policy: Literal["allowlist", "any", "off", "policy"] = "allowlist"
    hosts: tuple[str, ...] = ()
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = ()
    pinned: dict[str, dict[str, Any] | str] = {}


class WorkloadConfig(Keyed):
    """An issuer of workload credentials as client authentication; see `identity.settings.WorkloadSettings`."""

    kind: Literal["spiffe", "kubernetes"]
    issuer: str
    clients: dict[str, str]
    jwks: dict[str, Any] | None = None
    jwks_file: str = ""
    jwks_uri: str = ""
    network: Network = "public"
    ca_file: str = ""
    max_age_s: int = Field(default=3900, ge=60, le=86_400)
    once: bool = False


class ProviderClaims(Part):
    """Which claims of a provider say what."""

    subject: str = "sub"
    name: str = "name"
    groups: str = "groups"
    tenant: str = ""


class ProviderConfig(Part):
    """An identity provider that people sign in at; see `identity.oidc.settings.ProviderSettings`."""

    issuer: str
    title: str = ""
    shape: Literal["generic", "keycloak", "entra", "okta", "auth0", "google"] = "generic"
    client_id: str
    client_secret: str = ""
    client_auth: Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"] = "client_secret_basic"
    discovery: str = ""
    scopes: tuple[str, ...] = ("openid", "profile")
    claims: ProviderClaims = ProviderClaims()
    roles: dict[str, Names] = {}
    scopes_of: dict[str, Names] = {}
    tenants: dict[str, str] = {}
    create: Literal["never", "mapped", "always"] = "mapped"
    forced_for: tuple[str, ...] = ()
    recheck_hours: int = Field(default=7 * 24, ge=0, le=90 * 24)
    acr: dict[str, str] = {}
    parameters: dict[str, str] = {}
    userinfo: bool = False
    sign_out: bool = True
    network: Network = "public"
    unadvertised_s256: bool = False
    trusted_audiences: tuple[str, ...] = ()


class TransmitterConfig(Keyed):
    """Who sends us security events (Shared Signals); see `identity.ssf.settings.Transmitter`."""

    issuer: str
    audience: str = ""
    jwks: dict[str, Any] | None = None
    jwks_uri: str = ""
    push_secret: str = ""
    poll_url: str = ""
    poll_secret: str = ""
    poll_seconds: int = Field(default=15, ge=1, le=3600)
    accounts: str = ""
    email: bool = False
    window_minutes: int = Field(default=60, ge=1, le=24 * 60)
    silent_minutes: int = Field(default=0, ge=0, le=7 * 24 * 60)
    network: Network = "public"

    @model_validator(mode="after")
    def _whole(self) -> TransmitterConfig:
        if (self.jwks is None) == (not self.jwks_uri):
            raise ValueError("give exactly one of jwks and jwks_uri")
        if not self.push_secret and not self.poll_url:
            raise ValueError("give push_secret, poll_url, or both")
        if self.poll_url and not self.poll_secret:
            raise ValueError("poll_url needs poll_secret")
        for source in (self.push_secret, self.poll_secret):
            if source and not source.startswith(("env:", "file:")):
                raise ValueError("write env:NAME or file:/path, never the secret")
        return self


class IdentityConfig(Part):
    """The embedded authorization server."""

    access_token_s: int = Field(default=300, ge=30, le=3600)
    refresh_days: int = Field(default=REFRESH_LIFETIME_S // DAY_S, ge=1, le=REFRESH_LONGEST_S // DAY_S)
    refresh_idle_days: int = Field(default=REFRESH_IDLE_S // DAY_S, ge=1, le=REFRESH_LONGEST_S // DAY_S)
    client_per_minute: int = Field(default=600, ge=1, le=1_000_000)
    device_grant: bool = False
    passwords: Literal["on", "off"] = "on"
    providers: dict[Name, ProviderConfig] = {}
    clients: dict[str, ClientConfig] = {}
    issuers: dict[Name, IssuerConfig] = {}
    dpop: DPoPConfig = DPoPConfig()
    trusted_issuers: dict[str, TrustedIssuerConfig] = {}
    runs: RunsConfig = RunsConfig()
    signals: dict[Name, TransmitterConfig] = {}
    cimd: CIMDConfig = CIMDConfig()
    registration: Literal["on", "off"] = "off"
    workloads: dict[Name, WorkloadConfig] = {}

    @field_validator("passwords", "registration", mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value  # YAML reads them so
