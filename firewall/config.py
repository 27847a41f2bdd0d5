"""Configuration: one YAML file and the environment → typed settings. Unknown keys are errors.

Only this module reads the file and the environment; every room gets its own frozen settings from
`firewall.app`. Secrets are never written in the file: a credential names an environment variable
or a file that only its owner can read. ``schema()`` is published as ``docs/bartizan.schema.json``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from firewall.core.errors import ConfigFault, Malformed
from firewall.enforce.registry import check_name

EffectClass = Literal["read", "write", "destroy", "send", "pay", "exec", "admin"]
Network = Literal["public", "private", "loopback"]
Name = Annotated[str, Field(min_length=1, max_length=40)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TLS(_Model):
    """Certificate and key files of a listener; ``client_ca`` turns on mutual TLS."""

    cert: Path
    key: Path
    client_ca: Path | None = None


class ListenerConfig(_Model):
    """Where a listener binds. Port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = Field(ge=0, le=65535)
    tls: TLS | None = None


class Listeners(_Model):
    """data: agents connect here. admin: people and metrics; its own port and cookie scope."""

    data: ListenerConfig = ListenerConfig(port=8700)
    admin: ListenerConfig = ListenerConfig(port=8701)


class OPAServer(_Model):
    """An OPA server, by unix socket or loopback URL."""

    url: str = "http://127.0.0.1:8181"
    unix_socket: Path | None = None
    timeout_ms: int = Field(default=250, ge=1, le=10_000)


class PolicyConfig(_Model):
    """engine: ``regorus`` is embedded. bundle: a policy directory; default is the packaged one."""

    engine: Literal["regorus", "opa-server"] = "regorus"
    mode: Literal["auto", "compiled", "interpreter"] = "auto"
    bundle: Path | None = None
    opa: OPAServer = OPAServer()


class AuditConfig(_Model):
    """durability ``disk`` waits for fdatasync before anything is forwarded."""

    durability: Literal["batch", "disk"] = "batch"
    directory: Path | None = None
    spool: Path | None = None


class LimitsConfig(_Model):
    """Node-wide ceilings per caller."""

    calls_per_minute: int = Field(default=6_000, ge=0)
    tokens_per_day: int = Field(default=5_000_000, ge=0)
    usd_per_day: float = Field(default=20.0, ge=0)


class ClientConfig(_Model):
    """A pre-registered OAuth client. Give ``jwks`` for private_key_jwt; none for a public client."""

    name: str = ""
    redirect_uris: tuple[str, ...] = ()
    grants: tuple[Literal["authorization_code", "refresh_token", "client_credentials"], ...] = (
        "authorization_code",
        "refresh_token",
    )
    scopes: tuple[str, ...] = ()
    jwks: dict[str, Any] | None = None


class CIMDConfig(_Model):
    """Client id metadata documents: which hosts are trusted, and documents pinned by hand."""

    enabled: bool = True
    allow_domains: tuple[str, ...] = ()
    pinned: dict[str, dict[str, Any]] = {}


class IdentityConfig(_Model):
    """The embedded authorization server."""

    access_token_s: int = Field(default=300, ge=30, le=3600)
    clients: dict[str, ClientConfig] = {}
    cimd: CIMDConfig = CIMDConfig()


class Credential(_Model):
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


class _Upstream(_Model):
    network: Network = "public"
    trust: Literal["trusted", "untrusted"] = "untrusted"
    tenants: tuple[str, ...] = ("default",)
    credential: Credential | None = None
    title: str = ""


class MCPUpstream(_Upstream):
    """An MCP server: ``url`` for Streamable HTTP, or ``command`` for a local program.

    tools: effect class of each tool; ``default_class`` for the rest. pins ``tofu`` trusts clean
    definitions at first contact, ``strict`` waits for a person.
    """

    url: str = ""
    command: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: Path | None = None
    era: Literal["auto", "modern", "legacy"] = "auto"
    pins: Literal["tofu", "strict"] = "tofu"
    default_class: EffectClass = "write"
    tools: dict[str, EffectClass] = {}
    sandbox: Literal["auto", "required", "off"] = "auto"
    unsandboxed: bool = False
    egress: tuple[str, ...] = ()
    deadline_s: float = Field(default=60.0, gt=0, le=600)

    @model_validator(mode="after")
    def _one_target(self) -> MCPUpstream:
        if bool(self.url) == bool(self.command):
            raise ValueError("give exactly one of url and command")
        if self.sandbox == "off" and not self.unsandboxed:
            raise ValueError("sandbox: off needs unsandboxed: true beside it")
        return self


class A2AUpstream(_Upstream):
    """A remote agent: where its card is, and the public key (JWK) that must have signed it."""

    card_url: str
    key: dict[str, Any] | None = None
    pins: Literal["tofu", "strict"] = "tofu"
    deadline_s: float = Field(default=120.0, gt=0, le=600)


class Provider(_Upstream):
    """An LLM provider that speaks a protocol natively."""

    base_url: str
    protocol: Literal["openai", "anthropic"] = "openai"


class Model(_Model):
    """A model that clients may name; prices in US dollars per million tokens."""

    provider: str
    model: str
    input_usd: float = Field(ge=0)
    output_usd: float = Field(ge=0)
    max_output_tokens: int = Field(default=4096, ge=1)


class LLMConfig(_Model):
    """The LLM side."""

    providers: dict[Name, Provider] = {}
    models: dict[str, Model] = {}


class TelemetryConfig(_Model):
    """otlp_endpoint: where spans go; empty sends none."""

    otlp_endpoint: str = ""
    sample_ratio: float = Field(default=0.01, ge=0, le=1)


class Config(_Model):
    """The whole of ``bartizan.yaml``."""

    version: Literal[1] = 1
    public_url: str = "http://127.0.0.1:8700"
    state_dir: Path = Path("~/.local/state/bartizan")
    tenant: str = "default"
    node: str = "node-1"
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
    a2a: dict[Name, A2AUpstream] = {}
    llm: LLMConfig = LLMConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
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


ENVIRONMENT: Mapping[str, str] = {
    "BARTIZAN_PUBLIC_URL": "public_url",
    "BARTIZAN_STATE_DIR": "state_dir",
    "BARTIZAN_WORKERS": "workers",
}


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration of a file (None: defaults), with the environment's overrides.

    Raises ConfigFault: config_missing, config_unreadable, config_invalid. Each problem is one
    line of ``detail``: where it stands and what is wrong.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        raw = _read(path)
    for variable, key in ENVIRONMENT.items():
        if variable in environ:
            raw[key] = environ[variable]
    return build(raw)


def build(raw: dict[str, Any]) -> Config:
    """Return the configuration of an already parsed document. Raises ConfigFault("config_invalid")."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            where = ".".join(str(p) for p in problem["loc"]) or "(top)"
            lines.append(f"{where}: {problem['msg']}")
        raise ConfigFault(
            "config_invalid", "\n".join(lines), fix="see docs/configuration.md, or run: bartizan config schema"
        ) from None


def schema() -> dict[str, Any]:
    """Return the JSON Schema of ``bartizan.yaml``."""
    made = Config.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "bartizan.yaml", **made}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigFault("config_missing", f"there is no file {path}", fix="run: bartizan init") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFault("config_unreadable", f"{path}: {type(error).__name__}") from None
    try:
        raw = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader that also refuses repeated keys
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigFault("config_invalid", f"{where}: {getattr(error, 'problem', 'not YAML')}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigFault("config_invalid", f"{path}: a mapping is expected at the top")
    return raw


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; raises ConstructorError on a repeated key."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, "a key is written twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
