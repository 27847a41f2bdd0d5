"""Translates the file into each room's settings. Pure but for names of files, which rooms open themselves."""

from __future__ import annotations

from urllib.parse import urlsplit

from a2a_gateway.inventory import AgentSpec, InventorySettings
from firewall.config.model import A2AUpstream, Config, ListenerConfig, MCPUpstream
from firewall.core.errors import ConfigFault
from firewall.core.jsonvalue import JSONObject
from firewall.enforce import lock
from firewall.enforce.pins import PinRules
from firewall.enforce.registry import RegistryEntry
from firewall.identity.serve import OPEN_TO_BROWSERS
from firewall.net.dial import DiallerSettings
from firewall.net.edge import EdgeSettings
from firewall.net.server import TLSSettings
from llm_router.choose import Model, Models, Provider
from llm_router.meter import Budget, Price
from mcp_gateway.apps import Rights
from mcp_gateway.settings import Bounds, UpstreamSpec
from mcp_gateway.settings import Settings as MCPSettings


def tls(listener: ListenerConfig) -> TLSSettings | None:
    """Return the TLS files of a listener, or None for plain HTTP."""
    if listener.tls is None:
        return None
    return TLSSettings(str(listener.tls.cert), str(listener.tls.key), str(listener.tls.client_ca or ""))


def edge(config: Config, listener: ListenerConfig, port: int, *, public: bool) -> EdgeSettings:
    """Return which hosts and origins a listener serves; ``port`` is the bound one."""
    # Port 0: which one it gets is not known yet, so any port of our own names counts.
    hosts = {f"{name}:{port}" if port else name for name in _local_names(listener.host)} | set(listener.names)
    scheme = "https" if listener.tls else "http"
    origins = {f"{scheme}://{host}" for host in hosts}
    if public:
        hosts.add(urlsplit(config.public_url).netloc)
        hosts.update(config.hosts)
        origins = {config.public_url, *config.origins}
    open_to_all = OPEN_TO_BROWSERS if public else ()
    pages = frozenset(config.mcp_origins) if public else frozenset[str]()
    return EdgeSettings(frozenset(hosts), frozenset(origins), open_to_all, config.trusted_proxies, page_origins=pages)


def _local_names(host: str) -> tuple[str, ...]:
    if host in ("127.0.0.1", "::1", "localhost"):
        return ("127.0.0.1", "localhost", "[::1]")
    return (host,) if host not in ("0.0.0.0", "::") else ()  # noqa: S104  compared, not bound


def way_out(config: Config) -> DiallerSettings:
    """Return how the node's own fetches leave. Whoever examines the node fetches as it does."""
    ports = DiallerSettings().fetch_ports | set(config.identity.cimd.ports)
    return DiallerSettings(fetch_ports=ports, proxy=config.egress.proxy, proxy_network=config.egress.network)


def tenants(config: Config, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return whom an upstream serves: our own tenant unless the file says otherwise."""
    return given or (config.tenant,)


def pin_rules(config: Config) -> PinRules:
    """Return what a changed definition means, and the lock in force. Raises ConfigFault: lock_missing, lock_invalid."""
    on_change = {name: given.on_change for name, given in config.mcp.items()}
    on_change |= {name: given.on_change for name, given in config.a2a.items()}
    return PinRules(on_change, lock.read(config.lock.expanduser()) if config.lock is not None else None)


# -- MCP ------------------------------------------------------------------------------------------------


def mcp_spec(config: Config, name: str, given: MCPUpstream) -> UpstreamSpec:
    """Return one MCP upstream's settings. Raises ConfigFault."""
    return UpstreamSpec(
        name=name,
        transport="stdio" if not given.url else "sse" if given.legacy_sse else "http",
        url=given.url,
        network=given.network,
        ca_file=given.tls.ca_file,
        client_cert=given.tls.client_cert,
        client_key=given.tls.client_key,
        command=given.command,
        env=given.env,
        read=given.read,
        write=given.write,
        sandbox=given.sandbox,
        unsandboxed=given.unsandboxed,
        trust=given.trust,
        tenants=tenants(config, given.tenants),
        effects=given.tools,
        pins=given.pins,
        era=given.era,
        deadline_s=given.deadline_s,
        asks=frozenset(given.asks),
        lists=given.lists,
        answer_s=given.answer_s,
        roots=given.roots,
        apps=Rights(frozenset(given.app_domains), frozenset(given.app_permissions)),
        legacy_sse=given.legacy_sse,
    )


def mcp_record(given: MCPUpstream) -> JSONObject:
    """Return what the registry keeps of a configured MCP server: where it is, never its environment."""
    return {"url": given.url, "command": list(given.command[:1]), "network": given.network, "trust": given.trust}


def mcp_registered(entry: RegistryEntry) -> UpstreamSpec:
    """Return the settings of a server that was registered by API: by URL only, never a command (ISO-02).

    Raises ConfigFault("registry_spec").
    """
    try:
        given = MCPUpstream.model_validate(entry.spec)
    except ValueError:
        raise ConfigFault("registry_spec", entry.name) from None
    if given.step_up is not None:
        raise ConfigFault("registry_spec", entry.name, fix="step_up stands in the configuration file only")
    if given.command or given.env or given.read or given.write:
        raise ConfigFault(
            "registry_spec", entry.name, fix="local programs are started from the configuration file only"
        )
    return UpstreamSpec(
        name=entry.name,
        url=given.url,
        network=given.network,
        trust=given.trust,
        tenants=given.tenants or (entry.tenant,),
        effects=given.tools,
        pins=given.pins,
        era=given.era,
        deadline_s=given.deadline_s,
        asks=frozenset(given.asks),
        lists=given.lists,
        answer_s=given.answer_s,
        roots=given.roots,
        apps=Rights(frozenset(given.app_domains), frozenset(given.app_permissions)),
    )


def mcp_settings(
    config: Config,
    specs: tuple[UpstreamSpec, ...],
    *,
    scratch: str,
    egress_socket: str,
    private: tuple[str, ...] = (),
) -> MCPSettings:
    """Return the MCP gateway's settings. private: paths beside the state directory that no child may be given."""
    return MCPSettings(
        public_url=config.public_url,
        upstreams=specs,
        catalog=config.mcp_catalog,
        workers=config.workers,
        sessions=Bounds(
            ttl_s=config.mcp_sessions.ttl_s,
            idle_s=min(config.mcp_sessions.idle_s, config.mcp_sessions.ttl_s),
            sessions=config.mcp_sessions.most,
            per_caller=min(config.mcp_sessions.per_caller, config.mcp_sessions.most),
            streams=config.mcp_sessions.streams_per_caller,
        ),
        scratch=scratch,
        private=(str(config.state.resolve()), *private),
        egress_socket=egress_socket,
    )


# -- A2A ---------------------------------------------------------------------------------------------------


def agent_spec(config: Config, given: A2AUpstream) -> AgentSpec:
    """Return one agent's spec, as its registry entry keeps it."""
    return AgentSpec(
        card_url=given.card_url,
        keys=given.keys,
        network=given.network,
        trust=given.trust,
        tenants=tenants(config, given.tenants),
        origins=given.origins,
        public_card=given.public_card,
        extensions=given.extensions,
        ca_file=given.tls.ca_file,
        client_cert=given.tls.client_cert,
        client_key=given.tls.client_key,
    )


def inventory_settings(config: Config) -> InventorySettings:
    """Return the agent inventory's settings."""
    return InventorySettings(config.public_url, home_tenant=config.tenant, device_grant=config.identity.device_grant)


# -- LLM -----------------------------------------------------------------------------------------------------


def llm_models(config: Config) -> Models:
    """Return the models by alias, each with its provider and price. Raises ConfigFault."""
    providers = {
        name: Provider(
            name,
            given.base_url,
            given.protocol,
            given.network,
            given.trust,
            tenants(config, given.tenants),
        )
        for name, given in config.llm.providers.items()
    }
    return Models(
        Model(
            alias,
            providers[given.provider],
            given.model,
            Price.of_usd(given.input_usd, given.output_usd, free=given.free),
            given.max_output_tokens,
        )
        for alias, given in config.llm.models.items()
    )


def llm_budget(config: Config) -> Budget:
    """Return the daily ceilings of one caller."""
    return Budget(config.limits.tokens_per_day, _micro(config.limits.usd_per_day))


def _micro(dollars: float) -> int:
    return round(dollars * 1_000_000)
