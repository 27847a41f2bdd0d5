"""Translates ``identity``, and who may reach what, into the front door's settings. Pure, as `rooms` is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from firewall.config.identity import DAY_S, ClientConfig
from firewall.config.model import A2AUpstream, Config, MCPUpstream
from firewall.config.rooms import tenants
from firewall.core.errors import ConfigFault
from firewall.core.step_up import StepUp
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.oidc.settings import ClaimNames, ProviderSettings
from firewall.identity.settings import (
    CIMD_HOSTS,
    AuthMethod,
    ClientSettings,
    IdentitySettings,
    ProtectedResource,
    TrustedIssuer,
    WorkloadSettings,
)
from firewall.identity.ssf.settings import Transmitter
from firewall.identity.upstream.credentials import CredentialSettings
from firewall.identity.upstream.settings import Secret, UpstreamAuth
from mcp_gateway.settings import UpstreamSpec

# What other enforcers ask for (AuthZEN): an audience of its own.
AUTHZEN = ProtectedResource("/access", "Decisions for other enforcers", ("access:evaluate",), ("access:evaluate",))
# Names in the file of the grant types that are URNs (RFC 8693 §2.1, RFC 7523 §2.1).
GRANT_TYPES = {
    "token_exchange": "urn:ietf:params:oauth:grant-type:token-exchange",
    "jwt_bearer": "urn:ietf:params:oauth:grant-type:jwt-bearer",
    "device_code": "urn:ietf:params:oauth:grant-type:device_code",
}


def protected_resources(
    config: Config, mcp: Iterable[UpstreamSpec], agents: Iterable[tuple[str, str]]
) -> tuple[ProtectedResource, ...]:
    """Return every resource: one per upstream, the aggregate, and the LLM routes (DESIGN §6b-8).

    agents: names and titles.
    """
    found: list[ProtectedResource] = []
    reads: list[str] = []
    scopes: list[str] = []
    asked = step_up(config)
    steps: list[StepUp] = []
    for spec in mcp:
        read, write = f"{spec.name}:read", f"{spec.name}:write"
        title = (config.mcp[spec.name].title if spec.name in config.mcp else "") or spec.name
        allowed = () if "*" in spec.tenants else spec.tenants
        along = config.mcp[spec.name].delegates if spec.name in config.mcp else ()
        rules = _rules(asked, spec.name)
        found.append(
            ProtectedResource(f"/mcp/{spec.name}", title, (read, write, *along), (read,), allowed, rules, along=along)
        )
        steps += _rules(asked, spec.name)
        reads.append(read)
        scopes += (read, write)
    if reads:
        found.append(ProtectedResource("/mcp", "All MCP servers", tuple(scopes), tuple(reads), (), tuple(steps)))
    for name, title in agents:
        send, along = f"{name}:send", config.a2a[name].delegates if name in config.a2a else ()
        rules = _rules(asked, name)
        found.append(ProtectedResource(f"/a2a/{name}", title or name, (send, *along), (send,), (), rules, along=along))
    if config.authzen.enforcers:
        found.append(AUTHZEN)
    if config.llm.models:
        found.append(ProtectedResource("/v1", "Language models", ("llm:invoke",), ("llm:invoke",)))
    bound = frozenset(config.identity.dpop.required_at)
    return tuple(replace(one, dpop_required=True) if one.path in bound else one for one in found)


def step_up(config: Config) -> dict[str, StepUp]:
    """Return the sign-in that each upstream asks of its callers."""
    upstreams: Mapping[str, MCPUpstream | A2AUpstream] = {**config.mcp, **config.a2a}
    return {
        name: StepUp(given.step_up.scope, given.step_up.acr, given.step_up.max_age_s)
        for name, given in upstreams.items()
        if given.step_up is not None
    }


def _rules(asked: Mapping[str, StepUp], name: str) -> tuple[StepUp, ...]:
    return (asked[name],) if name in asked else ()


def identity(config: Config, resources: tuple[ProtectedResource, ...]) -> IdentitySettings:
    """Return the front door's settings. Raises ConfigFault."""
    hosted = {client_id for given in config.identity.workloads.values() for client_id in given.clients.values()}
    clients = tuple(
        ClientSettings(
            client_id=client_id,
            name=given.name or client_id,
            redirect_uris=given.redirect_uris,
            auth_method=_auth_method(client_id, given, hosted),
            grant_types=tuple(GRANT_TYPES.get(name, name) for name in given.grants),
            scopes=given.scopes or ("*",),
            tenant=config.tenant,
            jwks=given.jwks,
            jwks_uri=given.jwks_uri,
            network=given.network,
            secret_sha256=given.secret_sha256,
            resource=given.resource,
            may_act=given.may_act,
            orchestrator=given.orchestrator,
            dpop=given.dpop,
            pushed_only=given.pushed_only,
        )
        for client_id, given in config.identity.clients.items()
    )
    cimd = config.identity.cimd
    return IdentitySettings(
        public_url=config.public_url,
        resources=resources,
        clients=clients,
        trusted_issuers=_trusted_issuers(config),
        run_lifetime_s=config.identity.runs.lifetime_s,
        runs_per_hour=config.identity.runs.per_hour,
        default_tenant=config.tenant,
        cimd_policy=cimd.policy,
        cimd_hosts=cimd.hosts or CIMD_HOSTS,
        cimd_ports=frozenset(cimd.ports),
        cimd_pinned=cimd.pinned,
        registration=config.identity.registration == "on",
        workloads=tuple(
            WorkloadSettings(name=name, **given.model_dump()) for name, given in config.identity.workloads.items()
        ),
        token_lifetime_s=config.identity.access_token_s,
        refresh_lifetime_s=config.identity.refresh_days * DAY_S,
        refresh_idle_s=config.identity.refresh_idle_days * DAY_S,
        dpop_nonce_required=config.identity.dpop.nonces,
        device_grant=config.identity.device_grant,
        client_per_minute=config.identity.client_per_minute,
    )


def _auth_method(client_id: str, given: ClientConfig, hosted: set[str]) -> AuthMethod:
    ways: dict[AuthMethod, bool] = {
        "private_key_jwt": bool(given.jwks or given.jwks_uri),
        "client_secret_basic": bool(given.secret_sha256),
        "workload": client_id in hosted,
    }
    chosen = [method for method, told in ways.items() if told]
    if len(chosen) > 1:
        raise ConfigFault(
            "client_method", f"client {client_id!r}", fix="one way to authenticate: keys, a secret or a workload"
        )
    return chosen[0] if chosen else "none"


def identity_providers(config: Config) -> tuple[ProviderSettings, ...]:
    """Return the identity providers that people sign in at. Raises ConfigFault."""
    return tuple(
        ProviderSettings(
            name=name,
            issuer=given.issuer,
            client_id=given.client_id,
            title=given.title,
            shape=given.shape,
            secret=given.client_secret,
            client_auth=given.client_auth,
            discovery=given.discovery,
            scopes=given.scopes,
            claims=ClaimNames(**given.claims.model_dump()),
            roles=_by_group(given.roles),
            scopes_of=_by_group(given.scopes_of),
            tenant=config.tenant,
            tenants=given.tenants,
            create=given.create,
            forced_for=given.forced_for,
            recheck_s=given.recheck_hours * 3600,
            acr_of=given.acr,
            parameters=given.parameters,
            userinfo=given.userinfo,
            sign_out=given.sign_out,
            network=given.network,
            unadvertised_s256=given.unadvertised_s256,
            trusted_audiences=given.trusted_audiences,
        )
        for name, given in config.identity.providers.items()
    )


def issuers(config: Config) -> tuple[IssuerProfile, ...]:
    """Return the issuers whose access tokens are taken as they are. Raises ConfigFault."""
    return tuple(
        IssuerProfile(
            name=name,
            issuer=given.issuer,
            jwks_uri=given.jwks_uri,
            algorithms=given.algorithms,
            typ=given.typ,
            audiences=_by_group(given.audiences),
            several=given.several_audiences,
            scope_claim=given.scope_claim,
            scopes=_by_group(given.scopes),
            subject_claim=given.subject_claim,
            client_claim=given.client_claim,
            tenant=config.tenant,
            tenant_claim=given.tenant_claim,
            tenants=given.tenants,
            groups_claim=given.groups_claim,
            roles=_by_group(given.roles),
            max_age_s=given.max_age_s,
            kind="opaque" if given.introspection else "jwt",
            introspection_url=given.introspection.url if given.introspection else "",
            client_id=given.introspection.client_id if given.introspection else "",
            secret=given.introspection.client_secret if given.introspection else "",
            network=given.network,
        )
        for name, given in config.identity.issuers.items()
    )


def _by_group(table: Mapping[str, str | tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {group: (given,) if isinstance(given, str) else given for group, given in table.items()}


def _trusted_issuers(config: Config) -> tuple[TrustedIssuer, ...]:
    return tuple(
        TrustedIssuer(
            issuer=issuer,
            tenant=config.tenant,
            jwks=given.jwks,
            jwks_uri=given.jwks_uri,
            algorithms=given.algorithms,
            clients=given.clients,
            scopes=given.scopes,
            realms=given.realms,
            max_lifetime_s=given.max_lifetime_s,
            reusable=given.reusable,
            create=given.create,
            roles=given.roles,
            account_scopes=given.account_scopes,
            acr_of=given.acr_of,
            network=given.network,
        )
        for issuer, given in config.identity.trusted_issuers.items()
    )


def sign_ins(config: Config) -> dict[str, UpstreamAuth]:
    """Return how we obtain tokens for upstreams, for those that have a sign-in. Raises ConfigFault: upstream_auth."""
    urls = {name: ("mcp", given.url) for name, given in config.mcp.items()}
    # An agent's card names where it is called; its resource identifier, where that differs, is configuration.
    urls |= {
        name: ("a2a", given.auth.resource if given.auth and given.auth.resource else given.card_url)
        for name, given in config.a2a.items()
    }
    urls |= {name: ("llm", given.base_url) for name, given in config.llm.providers.items()}
    upstreams = {**config.mcp, **config.a2a, **config.llm.providers}
    found: dict[str, UpstreamAuth] = {}
    for name, given in upstreams.items():
        own = given.auth
        if own is None:
            continue
        kind, url = urls[name]
        found[name] = UpstreamAuth(
            url=url,
            ways=own.ways,
            kind=kind,  # type: ignore[arg-type]
            title=given.title,
            network=own.network or given.network,
            ca_file=given.tls.ca_file,
            issuer=own.issuer,
            scopes=own.scopes,
            client_id=own.client_id,
            secret=Secret(own.secret_env, str(own.secret_file or "")),
            method=own.method,
            assertion=Secret(own.assertion_env, str(own.assertion_file or "")),
            s256_assumed=own.s256_assumed,
            origins=own.origins,
            expected_audience=own.expected_audience,
            resource=own.resource,
            send_resource=own.send_resource,
            parameters=own.parameters,
            dpop=own.dpop,
            group=own.group,
            tenants=tenants(config, given.tenants),
            idp=own.idp,
            idp_client_id=own.idp_client_id,
            idp_secret=Secret(own.idp_secret_env, str(own.idp_secret_file or "")),
        )
        found[name].check(name)
    return found


def credentials(config: Config) -> dict[str, CredentialSettings]:
    """Return what we present to each upstream."""
    upstreams = {**config.mcp, **config.a2a, **config.llm.providers}
    found: dict[str, CredentialSettings] = {}
    for name, given in upstreams.items():
        own = given.credential
        if own is None:
            found[name] = CredentialSettings()
        else:
            prefix = f"{own.scheme} " if own.scheme else ""
            kind, source = ("env", own.env) if own.env else ("file", str(own.file))
            found[name] = CredentialSettings(kind, source, own.header, prefix)  # type: ignore[arg-type]
    return found


def transmitters(config: Config) -> tuple[Transmitter, ...]:
    """Return who may tell us of security events. Raises ConfigFault."""
    return tuple(
        Transmitter(
            name=name,
            issuer=given.issuer,
            audience=given.audience or config.public_url,
            tenant=config.tenant,
            jwks=given.jwks,
            jwks_uri=given.jwks_uri,
            push_secret=given.push_secret,
            poll_url=given.poll_url,
            poll_secret=given.poll_secret,
            poll_s=given.poll_seconds,
            accounts=given.accounts,
            email=given.email,
            window_s=given.window_minutes * 60,
            silent_s=given.silent_minutes * 60,
            network=given.network,
        )
        for name, given in config.identity.signals.items()
    )
