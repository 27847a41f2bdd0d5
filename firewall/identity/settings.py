"""What the front door is told by configuration. Frozen values; only `firewall.config` reads files."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

from firewall.core.bounds import (
    CODE_LIFETIME_S,
    REFRESH_IDLE_S,
    REFRESH_LIFETIME_S,
    RUN_LIFETIME_S,
    TOKEN_LIFETIME_S,
)
from firewall.core.errors import ConfigFault, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.step_up import StepUp
from firewall.net.address import Network
from firewall.wire import jwt, oauth
from firewall.wire.oauth import OAuthError

# record(event, facts): writes one identity event (OP-06). Facts hold ids, never secrets. May raise AuditUnavailable.
Record = Callable[[str, JSONObject], None]
# noted(event, address, facts): the same for what a stranger was refused or began; only so many a minute have a record.
Noted = Callable[[str, str, JSONObject], None]
TokenBytes = Callable[[int], bytes]

AuthMethod = Literal["none", "private_key_jwt", "client_secret_basic", "workload"]

TRUST_DOMAIN_SET: Final = frozenset(string.ascii_lowercase + string.digits + "-_.")
TENANT_SET: Final = frozenset(string.ascii_lowercase + string.digits + "-_")
CIMD_HOSTS: Final = ("claude.ai", "vscode.dev", "chatgpt.com", "zed.dev")
LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
# Digests of what examples and hurried people write for a secret: known to everybody, so none at all (OP-03).
KNOWN_SECRETS: Final = frozenset(
    hashlib.sha256(word).hexdigest()
    for word in (
        *(b"", b"foo", b"bar", b"test", b"demo", b"example", b"secret", b"s3cret", b"supersecret", b"client_secret"),
        *(b"client-secret", b"changeme", b"change-me", b"change_me", b"password", b"admin", b"default", b"bartizan"),
    )
)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """A client that an operator registered.

    scopes: patterns the client may ever have (`wire.oauth.scope_allowed`); the client's side of the
        intersection. tenant: whose people may use it and whose resources its own tokens
        reach; "" means people of every tenant, and no tokens of its own.
    secret_sha256: lower-case hex digest of a random secret of at least 128 bits (client_secret_basic).
    first_party: the operator vouches for it: no consent page (UI-01).
    resource: path of the protected resource that the client stands behind, ``/a2a/planner``; it may exchange
        tokens for that audience (TX-01). may_act: client that may exchange the tokens people give to this one.
    orchestrator: may begin runs by token exchange (DESIGN §6b-1); a confidential client only.
    dpop: gets tokens that are bound to its key and no others (``dpop_bound_access_tokens``, RFC 9449 §5.2).
    pushed_only: asks for authorization by pushed requests alone (RFC 9126 §6).
    network: the one class of address that the host of ``jwks_uri`` may have.
    """

    client_id: str
    name: str
    redirect_uris: tuple[str, ...] = ()
    auth_method: AuthMethod = "none"
    grant_types: tuple[str, ...] = ("authorization_code", "refresh_token")
    scopes: tuple[str, ...] = ("*",)
    tenant: str = "default"
    jwks: JSON = None
    jwks_uri: str = ""
    secret_sha256: str = ""
    first_party: bool = False
    resource: str = ""
    may_act: str = ""
    orchestrator: bool = False
    dpop: bool = False
    pushed_only: bool = False
    network: Network = "public"


@dataclass(frozen=True, slots=True)
class WorkloadSettings:
    """An issuer of workload credentials that we take as client authentication (method ``workload``).

    kind: ``spiffe`` (JWT-SVIDs; issuer is a trust domain, ``prod.example``) or ``kubernetes`` (service account
        tokens; issuer is the cluster's exact ``iss``).
    clients: subject → client id, ``spiffe://prod.example/batch`` or ``system:serviceaccount:<ns>:<name>``, each
        written out: a workload that is not named is nobody.
    Keys: exactly one of ``jwks``, ``jwks_file`` (a JWK Set or SPIFFE bundle, read again as it changes) and ``jwks_uri``,
        which ``network`` may reach under the roots of ``ca_file``. max_age_s: longest accepted ``exp − iat``. once: demand a ``jti`` and
        take each credential a single time; for issuers whose tokens are made per request.
    """

    name: str
    kind: Literal["spiffe", "kubernetes"]
    issuer: str
    clients: Mapping[str, str]
    jwks: JSON = None
    jwks_file: str = ""
    jwks_uri: str = ""
    network: Network = "public"
    ca_file: str = ""
    max_age_s: int = 3900
    once: bool = False


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    """An identity provider whose identity assertions (ID-JAG) are taken as authorization grants.

    issuer: its exact issuer identifier. tenant: our tenant whose people it vouches for. Keys: exactly one of
    ``jwks`` and ``jwks_uri``. algorithms: which signatures count. clients: who may present its assertions, ()
    for every client that has the grant. scopes: patterns of the most it may let anybody ask for.
    realms: its own tenants that are believed; () takes only assertions that name none.
    max_lifetime_s: longest accepted ``exp − iat``. reusable: one assertion may be presented again until it expires.
    create: an unknown person gets an account at first contact, with ``roles`` and ``account_scopes``.
    acr_of: what its authentication contexts (``acr``) are called here; another one proves nothing (RFC 9470).
    network: the one class of address that the host of ``jwks_uri`` may have.
    """

    issuer: str
    tenant: str
    jwks: JSON = None
    jwks_uri: str = ""
    algorithms: tuple[str, ...] = ("ES256", "RS256", "PS256", "Ed25519")
    clients: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ("*",)
    realms: tuple[str, ...] = ()
    max_lifetime_s: int = 600
    reusable: bool = False
    create: bool = False
    roles: tuple[str, ...] = ()
    account_scopes: tuple[str, ...] = ()
    acr_of: Mapping[str, str] = field(default_factory=dict)
    network: Network = "public"


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """One thing that has its own audience: ``/mcp/<name>``, ``/mcp``, ``/a2a/<name>``, ``/v1``.

    scopes: all that exist here. default_scopes: the minimal useful set; told in metadata and
    challenges, and meant when a client asks for none. along: those of its scopes that are of other resources, for
    the agent behind it to exchange (RFC 8693). tenants: () means all. step_up: what it asks of the
    sign-in behind a token. dpop_required: bearer tokens are refused here (RFC 9728 §2).
    """

    path: str
    title: str
    scopes: tuple[str, ...]
    default_scopes: tuple[str, ...]
    tenants: tuple[str, ...] = ()
    step_up: tuple[StepUp, ...] = ()
    dpop_required: bool = False
    along: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Settings of the front door. Durations in seconds, limits per minute and address.

    public_url: the bare origin that clients see, ``https://fw.example``; also the issuer. Never
        derived from a request. http only on loopback.
    run_lifetime_s: how long a run lasts at most. runs_per_hour: how many a client may begin in a tenant.
    registration: whether clients may register themselves at ``/register`` (RFC 7591); registration_cap: how
        many such clients are kept, the least recently used goes first.
    workloads: issuers of workload credentials, for clients of method ``workload``.
    cimd_policy: which client id hosts may be fetched at all; judged before any network (`cimd.trust`).
    cimd_hosts: names, or ``*.name`` for all below it. cimd_ports: allowed beside 443.
    device_grant: whether programs without a browser may ask by a code that a person types (RFC 8628).
    cimd_pinned: documents that stand in configuration (or names of their files) instead of being fetched,
        by client id URL.
    """

    public_url: str
    resources: tuple[ProtectedResource, ...] = ()
    clients: tuple[ClientSettings, ...] = ()
    trusted_issuers: tuple[TrustedIssuer, ...] = ()
    workloads: tuple[WorkloadSettings, ...] = ()
    default_tenant: str = "default"
    cimd_policy: Literal["allowlist", "any", "off", "policy"] = "allowlist"
    cimd_hosts: tuple[str, ...] = CIMD_HOSTS
    cimd_ports: frozenset[int] = frozenset()
    registration: bool = False
    registration_cap: int = 1000
    cimd_pinned: Mapping[str, JSON] = field(default_factory=dict)
    token_lifetime_s: int = TOKEN_LIFETIME_S
    code_lifetime_s: int = CODE_LIFETIME_S
    refresh_lifetime_s: int = REFRESH_LIFETIME_S
    refresh_idle_s: int = REFRESH_IDLE_S
    refresh_grace_s: int = 30
    session_lifetime_s: int = 8 * 3600
    transaction_lifetime_s: int = 600
    consent_lifetime_s: int = 90 * 24 * 3600
    device_grant: bool = False
    device_lifetime_s: int = 600
    operator_token_lifetime_s: int = 3600
    run_lifetime_s: int = RUN_LIFETIME_S
    runs_per_hour: int = 600
    dpop_nonce_required: bool = False
    min_password_chars: int = 12
    authorize_per_minute: int = 60
    token_per_minute: int = 300
    login_per_minute: int = 20
    client_per_minute: int = 600
    # Work factor of password hashes: 2**14 is about 30 ms; OWASP's floor for scrypt is 2**17 with r=8 or
    # 2**14 with p=5. Tests lower it.
    scrypt_n: int = 2**15

    def __post_init__(self) -> None:
        check_public_url(self.public_url)
        if not is_tenant(self.default_tenant):
            raise ConfigFault("tenant_name", "default_tenant", fix="use a–z, 0–9, - and _, at most 63")
        paths = [resource.path for resource in self.resources]
        if len(set(paths)) != len(paths):
            raise ConfigFault("resource_twice", "two protected resources share a path")
        for client in self.clients:
            check_client(client)
        for workload in self.workloads:
            _check_workload(workload)
        if len({(w.kind, w.issuer) for w in self.workloads}) != len(self.workloads):
            raise ConfigFault("workload_twice", "two workload issuers are the same")
        for trusted in self.trusted_issuers:
            _check_issuer(trusted)
        if len({trusted.issuer for trusted in self.trusted_issuers}) != len(self.trusted_issuers):
            raise ConfigFault("issuer_twice", "two trusted issuers are the same")

    @property
    def secure(self) -> bool:
        """Whether the public origin is https: then cookies are ``__Host-`` and Secure."""
        return self.public_url.startswith("https://")

    def cookie(self, name: str) -> str:
        """Return the cookie name; browsers take the prefix (and Secure) only over https."""
        return f"__Host-{name}" if self.secure else name


def is_tenant(name: str) -> bool:
    """Return whether a tenant name may stand in a key, a token and an opaque handle."""
    return 0 < len(name) <= 63 and TENANT_SET.issuperset(name)


def check_public_url(url: str) -> None:
    """Raise ConfigFault unless ``url`` is a bare origin: https, or http on loopback (OP-03)."""
    fix = "set public_url to the origin that clients use, such as https://fw.example, without a path or trailing slash"
    try:
        parts = urlsplit(url)
        bare = f"{parts.scheme}://{parts.netloc}" == url and url == url.lower() and parts.port != 0
    except ValueError:
        raise ConfigFault("public_url", "not a URL", fix=fix) from None
    if not bare or not parts.hostname or "@" in parts.netloc:
        raise ConfigFault("public_url", "not a bare origin", fix=fix)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return
    raise ConfigFault("public_url", "plain http is for loopback only", fix=fix)


def check_client(client: ClientSettings) -> None:
    """Raise ConfigFault when a registered client contradicts itself."""
    where = f"client {client.client_id!r}"
    if client.client_id.startswith("https://"):
        raise ConfigFault(
            "client_id", where, fix="ids that start with https:// are metadata documents; pin them in cimd_pinned"
        )
    if client.auth_method == "client_secret_basic":
        digest = client.secret_sha256.lower()
        if len(digest) != 64 or not set(digest) <= set(string.hexdigits):
            raise ConfigFault("client_secret", where, fix="give secret_sha256, 64 hex characters")
        if digest in KNOWN_SECRETS:
            raise ConfigFault("client_secret", where, fix="choose a secret of 32 random bytes, not one of an example")
    if client.auth_method == "private_key_jwt" and (client.jwks is None) == (not client.jwks_uri):
        raise ConfigFault("client_keys", where, fix="give exactly one of jwks and jwks_uri")
    if client.jwks is not None:
        try:
            jwt.keys_of(client.jwks)
        except Malformed as error:
            fix = "give a JWK Set with public signature keys, such as {keys: [{kty: EC, …}]}"
            raise ConfigFault("client_keys", f"{where}: {error.detail}", fix=fix) from None
    for uri in client.redirect_uris:
        try:
            oauth.check_redirect_uri(uri)
        except OAuthError:
            fix = "https, http on loopback, or an application's own scheme with a dot in it; no fragment and no *"
            raise ConfigFault("client_redirect", f"{where}: {uri!r}", fix=fix) from None
    if "client_credentials" in client.grant_types and client.auth_method == "none":
        raise ConfigFault("client_method", where, fix="client_credentials needs private_key_jwt or client_secret_basic")
    if client.orchestrator and client.auth_method == "none":
        raise ConfigFault("client_method", where, fix="an orchestrator needs private_key_jwt or client_secret_basic")
    if client.resource and not client.resource.startswith("/"):
        raise ConfigFault("client_resource", where, fix="give the path of its resource, such as /a2a/planner")
    if not is_tenant(client.tenant) and (client.tenant or "client_credentials" in client.grant_types):
        raise ConfigFault("tenant_name", where, fix="use a–z, 0–9, - and _, at most 63")


def _check_issuer(trusted: TrustedIssuer) -> None:
    where = f"trusted issuer {trusted.issuer!r}"
    parts = urlsplit(trusted.issuer)
    here = trusted.network == "loopback" and parts.scheme == "http" and parts.hostname in LOOPBACK
    if (
        not (parts.scheme == "https" or here)
        or not parts.hostname
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
    ):
        raise ConfigFault("issuer_url", where, fix="give the issuer as its assertions name it, an https URL")
    if (trusted.jwks is None) == (not trusted.jwks_uri):
        raise ConfigFault("issuer_keys", where, fix="give exactly one of jwks and jwks_uri")
    if not trusted.algorithms or not set(trusted.algorithms) <= {"ES256", "RS256", "PS256", "Ed25519"}:
        raise ConfigFault("issuer_algorithms", where, fix="choose from ES256, RS256, PS256 and Ed25519")
    if not is_tenant(trusted.tenant):
        raise ConfigFault("tenant_name", where, fix="use a–z, 0–9, - and _, at most 63")
    if not 0 < trusted.max_lifetime_s <= 3600:
        raise ConfigFault("issuer_lifetime", where, fix="1 to 3600 seconds")


def _check_workload(workload: WorkloadSettings) -> None:
    where = f"workloads {workload.name!r}"
    if sum(map(bool, (workload.jwks, workload.jwks_file, workload.jwks_uri))) != 1:
        raise ConfigFault("workload_keys", where, fix="give exactly one of jwks, jwks_file and jwks_uri")
    if not 60 <= workload.max_age_s <= 86_400:
        raise ConfigFault("workload_lifetime", where, fix="60 to 86400 seconds")
    if workload.kind == "spiffe":
        good = bool(workload.issuer) and TRUST_DOMAIN_SET.issuperset(workload.issuer) and len(workload.issuer) <= 255
        start, fix = f"spiffe://{workload.issuer}/", "give the trust domain alone, such as prod.example"
    else:
        good = workload.issuer.startswith("https://") and workload.issuer.isascii()
        start, fix = "system:serviceaccount:", "give the cluster's issuer, an https URL, exactly as its tokens name it"
    if not good:
        raise ConfigFault("workload_issuer", where, fix=fix)
    for subject in workload.clients:
        parts = subject.removeprefix(start).split("/" if workload.kind == "spiffe" else ":")
        whole = all(parts) and not {".", "..", "*"} & set(parts) and (workload.kind == "spiffe" or len(parts) == 2)
        if not subject.startswith(start) or not whole:
            raise ConfigFault("workload_subject", f"{where}: {subject!r}", fix=f"write subjects out: {start}…")
