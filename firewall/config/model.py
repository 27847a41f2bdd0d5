"""The shape of ``bartizan.yaml``: every key, its type, its bounds and its default. Unknown keys are errors.

Secrets are never written in the file: a credential names an environment variable, or a file that
only its owner can read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from firewall.config.identity import IdentityConfig
from firewall.config.part import EffectClass, Name, Network, NodeName, Part, not_in_clear
from firewall.core.errors import Malformed
from firewall.enforce.pins import OnChange
from firewall.enforce.registry import check_name
from firewall.wire.http import parse_url


class TLS(Part):
    """Certificate and key files of a listener; ``client_ca`` turns on mutual TLS."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class ListenerConfig(Part):
    """Where a listener binds. Port 0 takes a free one. names: further Host values that reach it."""

    host: str = "127.0.0.1"
    port: int = Field(ge=0, le=65535)
    names: tuple[str, ...] = ()
    tls: TLS | None = None


class Listeners(Part):
    """data: agents connect here. admin: people and metrics; its own port and cookie scope."""

    data: ListenerConfig = ListenerConfig(port=8700)
    admin: ListenerConfig = ListenerConfig(port=8701)


class OPAServer(Part):
    """An OPA server, by unix socket or loopback URL."""

    url: str = "http://127.0.0.1:8181"
    unix_socket: Path | None = None
    timeout_ms: int = Field(default=250, ge=1, le=10_000)


class PolicyConfig(Part):
    """engine: ``regorus`` is embedded. bundle: a policy directory; default is the packaged one."""

    engine: Literal["regorus", "opa-server"] = "regorus"
    mode: Literal["auto", "compiled", "interpreter"] = "auto"
    bundle: Path | None = None
    opa: OPAServer = OPAServer()


class AuditConfig(Part):
    """durability ``disk`` waits for fdatasync before anything is forwarded."""

    durability: Literal["batch", "disk"] = "batch"
    directory: Path | None = None
    spool: Path | None = None
    max_bytes: int = Field(default=10 * 1024**3, ge=16 * 1024**2)
    segment_bytes: int = Field(default=1024**3, ge=1024**2)
    segment_hours: int = Field(default=24, ge=0, le=8760)
    retain_days: int = Field(default=0, ge=0, le=36_500)


class LimitsConfig(Part):
    """Node-wide ceilings per caller."""

    calls_per_minute: int = Field(default=6_000, ge=0)
    tokens_per_day: int = Field(default=5_000_000, ge=0)
    usd_per_day: float = Field(default=20.0, ge=0)


class Credential(Part):
    """What we present upstream: a header whose value comes from the environment or a file."""

    header: str = "Authorization"
    scheme: str = "Bearer"
    env: str = ""
    file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Credential:
        if bool(self.env) == bool(self.file):
            raise ValueError("give exactly one of env and file")
        return self


class StepUpConfig(Part):
    """The sign-in that an upstream asks of its callers. scope: for what needs this scope; "" for everything."""

    scope: str = ""
    acr: str = ""
    max_age_s: int = Field(default=-1, ge=-1)

    @model_validator(mode="after")
    def _asks(self) -> StepUpConfig:
        if not self.acr and self.max_age_s < 0:
            raise ValueError("give acr, max_age_s, or both")
        return self


class UpstreamTLS(Part):
    """PEM files for one upstream: its authority, and our client certificate with its key."""

    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""


class UpstreamSignIn(Part):
    """How we obtain tokens for an upstream; see `identity.upstream.settings.UpstreamAuth`."""

    ways: tuple[Literal["exchange", "id_jag", "user", "client"], ...] = ("user",)
    issuer: str = ""
    network: Network | None = None
    scopes: tuple[str, ...] = ()
    client_id: str = ""
    secret_env: str = ""
    secret_file: Path | None = None
    method: Literal["", "none", "private_key_jwt", "client_secret_basic", "client_secret_post"] = ""
    assertion_env: str = ""
    assertion_file: Path | None = None
    s256_assumed: bool = False
    origins: tuple[str, ...] = ()
    resource: str = ""
    send_resource: bool = True
    expected_audience: str = ""
    parameters: dict[str, str] = {}
    dpop: Literal["auto", "on", "off"] = "auto"
    group: str = ""
    idp: str = ""
    idp_client_id: str = ""
    idp_secret_env: str = ""
    idp_secret_file: Path | None = None


class _Upstream(Part):
    """network: the one class of address it may resolve to. tenants: whom it serves; none means ours."""

    network: Network = "public"
    trust: Literal["trusted", "untrusted"] = "untrusted"
    tenants: tuple[str, ...] = ()
    credential: Credential | None = None
    auth: UpstreamSignIn | None = None
    tls: UpstreamTLS = UpstreamTLS()
    title: str = ""


LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class MCPUpstream(_Upstream):
    """An MCP server: ``url`` for Streamable HTTP, or ``command`` for a local program.

    tools: effect class of each tool, ``write`` for the rest. pins ``tofu`` trusts clean definitions
    at first contact, ``strict`` waits for a person; on_change says what a later change means. read, write: absolute paths that a local program
    may read, or read and write, beside system libraries and its scratch directory. asks: which
    questions it may put to its callers, none by default. transport ``sse`` is the deprecated HTTP+SSE.
    """

    delegates: tuple[str, ...] = ()
    url: str = ""
    transport: Literal["auto", "sse"] = "auto"
    legacy_sse: bool = False
    asks: tuple[Literal["sampling", "elicitation", "roots"], ...] = ()
    lists: Literal["granted", "grantable"] = "grantable"
    answer_s: float = Field(default=300.0, gt=0, le=3600)
    roots: tuple[str, ...] = ()
    app_domains: tuple[str, ...] = ()
    app_permissions: tuple[Literal["camera", "microphone", "geolocation", "clipboardWrite"], ...] = ()
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    era: Literal["auto", "modern", "legacy"] = "auto"
    pins: Literal["tofu", "strict"] = "tofu"
    step_up: StepUpConfig | None = None
    on_change: OnChange = "block"
    tools: dict[str, EffectClass] = {}
    sandbox: Literal["auto", "required", "off"] = "auto"
    unsandboxed: bool = False
    deadline_s: float = Field(default=60.0, gt=0, le=600)

    @model_validator(mode="after")
    def _one_target(self) -> MCPUpstream:
        if bool(self.url) == bool(self.command):
            raise ValueError("give exactly one of url and command")
        if self.auth is not None and self.command:
            raise ValueError("auth is for servers with a url; a local program gets secrets by env")
        if self.sandbox == "off" and not self.unsandboxed:
            raise ValueError("sandbox: off needs unsandboxed: true beside it")
        if (self.transport == "sse") != self.legacy_sse or (self.legacy_sse and not self.url):
            raise ValueError("transport: sse needs a url and legacy_sse: true beside it")
        not_in_clear(self.url, self.network)
        return self


class A2AUpstream(_Upstream):
    """A remote agent: where its card is, and the JWK Set whose keys may have signed it."""

    delegates: tuple[str, ...] = ()
    card_url: str
    step_up: StepUpConfig | None = None
    on_change: OnChange = "block"
    keys: dict[str, Any] | None = None
    origins: tuple[str, ...] = ()
    public_card: bool = False
    extensions: tuple[str, ...] = ()


class Provider(_Upstream):
    """An LLM provider that speaks a protocol natively."""

    base_url: str
    protocol: Literal["openai", "anthropic"] = "openai"

    @model_validator(mode="after")
    def _guarded_road(self) -> Provider:
        not_in_clear(self.base_url, self.network)
        return self


class Model(Part):
    """A model that clients may name; prices in US dollars per million tokens. ``free`` says that zero is meant."""

    provider: str
    model: str
    input_usd: float = Field(ge=0)
    output_usd: float = Field(ge=0)
    free: bool = False
    max_output_tokens: int = Field(default=4096, ge=1)


class LLMConfig(Part):
    """The LLM side."""

    providers: dict[Name, Provider] = {}
    models: dict[str, Model] = {}


class TelemetryConfig(Part):
    """otlp_endpoint: where spans go; empty sends none."""

    otlp_endpoint: str = ""
    sample_ratio: float = Field(default=0.01, ge=0, le=1)


FourEyes = Literal["registry.approve", "pins.approve", "kill.lift", "users.admin"]  # admin.rights.SECOND
EnforcerDuty = Literal["redact", "clean", "replace", "drop_item", "taint", "notify", "mask_log"]


class AdminConfig(Part):
    """People of the console: how long their sessions last, and which acts need two of them."""

    four_eyes: tuple[FourEyes, ...] = ()
    approval_hours: int = Field(default=24, ge=1, le=7 * 24)
    idle_minutes: int = Field(default=30, ge=1, le=8 * 60)
    session_hours: int = Field(default=8, ge=1, le=24)


class EnforcerConfig(Part):
    """Another enforcer that asks our policy; see `adapters.authzen.settings.Enforcer`."""

    obligations: tuple[EnforcerDuty, ...] = ()
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    strangers: bool = False


class AuthZENConfig(Part):
    """The policy decision point for other enforcers (AuthZEN Authorization API 1.0): there while one is named."""

    enforcers: dict[str, EnforcerConfig] = {}


class EgressConfig(Part):
    """How our own fetches (metadata, keys, documents of clients) leave: directly, or through an HTTP proxy."""

    proxy: str = ""
    network: Network = "private"

    @field_validator("proxy")
    @classmethod
    def _bare(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (f"{parts.scheme}://{parts.netloc}" != value or parts.scheme not in ("http", "https")):
            raise ValueError("give scheme, host and port of the proxy, such as http://proxy.example:3128")
        if "@" in parts.netloc or (value and not parts.hostname):
            raise ValueError("a proxy without user information is needed")
        return value


class SessionsConfig(Part):
    """Bounds of MCP sessions, and of the streams that callers hold open."""

    ttl_s: int = Field(default=8 * 3600, ge=60, le=30 * 86_400)
    idle_s: int = Field(default=1800, ge=10, le=30 * 86_400)
    most: int = Field(default=10_000, ge=1, le=200_000)
    per_caller: int = Field(default=256, ge=1)
    streams_per_caller: int = Field(default=64, ge=1, le=4_096)

    @model_validator(mode="after")
    def _nested(self) -> SessionsConfig:
        given = self.model_fields_set  # a default that is above what was written follows it (`rooms`)
        if "idle_s" in given and self.idle_s > self.ttl_s:
            raise ValueError("idle_s is longer than ttl_s, so it would never count")
        if "per_caller" in given and self.per_caller > self.most:
            raise ValueError("per_caller is above most, so one caller could take the place of all")
        return self


class Config(Part):
    """The whole of ``bartizan.yaml``."""

    version: Literal[1] = 1
    public_url: str = "http://127.0.0.1:8700"
    state_dir: Path = Path("~/.local/state/bartizan")
    tenant: str = "default"
    node: NodeName = "node-1"
    listeners: Listeners = Listeners()
    workers: int = Field(default=1, ge=1, le=64)
    trusted_proxies: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    policy: PolicyConfig = PolicyConfig()
    audit: AuditConfig = AuditConfig()
    limits: LimitsConfig = LimitsConfig()
    identity: IdentityConfig = IdentityConfig()
    mcp: dict[Name, MCPUpstream] = {}
    mcp_origins: tuple[str, ...] = ()
    mcp_catalog: Literal["full", "search"] = "full"
    mcp_sessions: SessionsConfig = SessionsConfig()
    a2a: dict[Name, A2AUpstream] = {}
    llm: LLMConfig = LLMConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    admin: AdminConfig = AdminConfig()
    egress: EgressConfig = EgressConfig()
    authzen: AuthZENConfig = AuthZENConfig()
    lock: Path | None = None
    demo: bool = False

    @field_validator("public_url")
    @classmethod
    def _bare_origin(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query or parts.fragment:
            raise ValueError("a bare origin is needed, such as https://fw.example (no path, no trailing slash)")
        if "@" in parts.netloc:
            raise ValueError("no user information in an origin")
        return value

    @field_validator("mcp_origins")
    @classmethod
    def _page_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            try:
                exact = parse_url(origin).origin == origin
            except Malformed:
                exact = False
            # Whoever can change a page on its way is the page: in clear on the person's own computer alone.
            if not exact or (origin.startswith("http:") and urlsplit(origin).hostname not in LOOPBACK):
                raise ValueError("each is one origin as browsers write it, such as https://inspector.example; never *")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for name in (*self.mcp, *self.a2a):
            try:
                check_name(name)
            except Malformed:
                raise ValueError(f"the upstream name {name!r} may hold a-z, 0-9 and single hyphens only") from None
        both = self.mcp.keys() & self.a2a.keys()
        if both:
            raise ValueError(f"the same name stands under mcp and a2a: {', '.join(sorted(both))}")
        if self.mcp.keys() & {"llm"} or self.a2a.keys() & {"llm"}:
            raise ValueError("the name llm is taken by the LLM routes")
        known = {*self.mcp, *self.a2a, "llm"}
        upstreams: dict[str, MCPUpstream | A2AUpstream] = {**self.mcp, **self.a2a}
        for name, given in upstreams.items():
            strange = [scope for scope in given.delegates if scope.partition(":")[0] not in known - {name}]
            if strange:
                raise ValueError(f"{name!r} delegates a scope of no other upstream: {strange[0]!r}")
            secret = given.credential
            taken = given.auth is not None or (secret is not None and secret.header.lower() == "authorization")
            if given.delegates and taken:
                raise ValueError(
                    f"{name!r} delegates: its Authorization header holds the handed token and nothing else"
                )
        for alias, model in self.llm.models.items():
            if model.provider not in self.llm.providers:
                raise ValueError(f"model {alias!r} names a provider that is not configured: {model.provider!r}")
        host = urlsplit(self.public_url).hostname or ""
        if self.public_url.startswith("http://") and host not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError("public_url must be https unless it is a loopback address")
        return self

    @property
    def state(self) -> Path:
        """The state directory, expanded."""
        return self.state_dir.expanduser()

    @property
    def audit_dir(self) -> Path:
        """Where the audit logs stand."""
        return (self.audit.directory or self.state / "audit").expanduser()
