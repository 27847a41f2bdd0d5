"""What a node would refuse to start with, found without starting one: no network, no keys, nothing written.

The same constructors that `app.build` calls are called here with throw-away parts. First each entry of the file
alone, so that a fault is told where it stands; then everything together, for what two entries contradict.
What `app` refuses and this does not see is a defect: tests/flow/test_rehearsal.py holds both to one table.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path as Directory
from typing import Any, Final

from joserfc.jwk import ECKey

from firewall.config import Config, front_door, named_clients, rooms
from firewall.core.errors import ConfigFault
from firewall.decide import bundle as policy_bundle
from firewall.decide.opa_server import OpaServerEngine
from firewall.identity.authorization_server import build_identity
from firewall.identity.clients.registered import registered_tenant
from firewall.identity.issuers.preflight import Preflights
from firewall.identity.issuers.tokens import ForeignTokens
from firewall.identity.oidc.build import ProvidersGiven
from firewall.identity.oidc.redemption import ClientKey
from firewall.identity.oidc.secret import secret_reader
from firewall.identity.resources import Resources
from firewall.identity.upstream.build import UpstreamsGiven
from firewall.identity.upstream.credentials import check_credential
from firewall.net.asgi import Receive, Scope, Send
from firewall.net.dial import Dialler
from firewall.net.edge import Edge
from firewall.net.runtime import RandomIds, SystemClock
from firewall.net.server import server_tls
from firewall.nucleus import Paths
from firewall.record.tracing import check_endpoint
from firewall.state.memory import MemoryStore
from firewall.state.shared import SharedMarks
from firewall.state.sqlite import SQLiteStore
from firewall.state.unlock import secret_places
from mcp_gateway import sandbox
from mcp_gateway.stdio import lacking_walls

Path = tuple[str, ...]

# Parts of the file whose entries have names, each with the parts that its entries cannot do without.
SECTIONS: Final[Mapping[Path, tuple[Path, ...]]] = {
    ("identity", "providers"): (),
    ("identity", "issuers"): (),
    ("identity", "trusted_issuers"): (),
    ("identity", "workloads"): (),
    ("identity", "clients"): (("identity", "workloads"),),
    ("identity", "signals"): (),
    ("identity", "cimd", "pinned"): (),
    ("mcp",): (),
    ("a2a",): (),
    ("llm", "providers"): (),
}
# Where it stands what no single entry is to blame for, by the first word of its code, the longest that fits.
PARTS: Final[Mapping[str, Path]] = {
    "edge_host": ("hosts",),
    "edge_proxy": ("trusted_proxies",),
    "idp": ("identity", "providers"),
    "idp_none": ("identity", "passwords"),
    "issuer": ("identity", "issuers"),
    "lock": ("lock",),
    "otlp_endpoint": ("telemetry", "otlp_endpoint"),
    "policy": ("policy", "bundle"),
    "policy_opa": ("policy", "opa"),
    "public_url": ("public_url",),
    "tenant_name": ("tenant",),
    "workload": ("identity", "workloads"),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One fault, and the path of keys to what is to blame; () where none is."""

    place: Path
    fault: ConfigFault


def refusals(config: Config, *, machine: bool = True) -> list[Refusal]:
    """Return why no node would start with this configuration, each reason once, in the order of the file's parts.

    machine: look also at what stands outside the file: certificates, policies, a lock, walls of this kernel,
    and which issuers were proved here. Without it an answer is the same on every machine.
    """
    found: list[Refusal] = []
    known: set[tuple[str, str]] = set()

    def attempt(act: Callable[[], object], place: Path = ()) -> bool:
        try:
            act()
        except ConfigFault as fault:
            if (fault.code, fault.detail) not in known:
                known.add((fault.code, fault.detail))
                found.append(Refusal(place or _part(fault.code), fault))
            return False
        return True

    bare = Config.model_construct(
        public_url=config.public_url, tenant=config.tenant, state_dir=config.state_dir, demo=config.demo
    )
    if not attempt(lambda: _together(bare, machine)):
        return found
    for section, needed in SECTIONS.items():
        needs = {path: _at(config, path) for path in needed}
        for name, given in _at(config, section).items():
            alone = _with(bare, {**needs, section: {name: given}})
            attempt(lambda alone=alone: _together(alone, machine), (*section, name))  # type: ignore[misc]
    if not found:
        attempt(lambda: _together(config, machine))
    for act, place in _beside(config, machine):
        attempt(act, place)
    return found


def _together(config: Config, machine: bool) -> None:
    """Make the objects of the data path. Raises ConfigFault as `app.build` would, where state plays no part."""
    if not machine:
        pinned = {url: given for url, given in config.identity.cimd.pinned.items() if not isinstance(given, str)}
        config = _with(config, {("identity", "cimd", "pinned"): pinned})
    specs = tuple(rooms.mcp_spec(config, name, given) for name, given in config.mcp.items())
    settings = rooms.mcp_settings(
        config,
        specs,
        scratch=str(Paths(config.state).children),
        egress_socket="",
        private=secret_places(os.environ) if machine else (),
    )
    if machine:
        support = sandbox.detect() if any(spec.transport == "stdio" for spec in specs) else None
        for spec in specs:
            if support is not None and spec.transport == "stdio":
                lacking_walls(spec, settings, support)
    rooms.llm_models(config)
    front_door.transmitters(config)
    for name, credential in front_door.credentials(config).items():
        check_credential(name, credential)
    resources = front_door.protected_resources(config, specs, [(n, a.title) for n, a in config.a2a.items()])
    clock, key = SystemClock(), ECKey.generate_key("P-256", private=True)
    dialler, secret = Dialler(clock), secrets.token_bytes(32)
    build_identity(
        front_door.identity(config, resources),
        store=MemoryStore(clock),
        marks=SharedMarks(None),
        clock=clock,
        ids=RandomIds(),
        fetcher=dialler,
        signing_key=key,
        record=lambda _event, _facts: None,
        idps=ProvidersGiven(
            front_door.identity_providers(config),
            dialler,
            secret_reader({}),
            passwords=config.identity.passwords == "on",
            key=ClientKey(key, "rehearsal"),
        ),
        upstreams=UpstreamsGiven(
            front_door.sign_ins(config),
            front_door.credentials(config),
            dialler,
            key,
            lambda: (secret,),
            secret,
            lambda _principal, _upstream: False,
            environment={},
        ),
    )
    ForeignTokens(
        front_door.issuers(config),
        Resources(config.public_url, resources),
        dialler,
        clock,
        secret=lambda _profile: "",
    )


def _beside(config: Config, machine: bool) -> Iterator[tuple[Callable[[], object], Path]]:
    """Yield what stands beside the data path: listeners, telemetry, policy, and what was proved at this node."""
    for name, listener in (("data", config.listeners.data), ("admin", config.listeners.admin)):
        hosts = rooms.edge(config, listener, listener.port, public=name == "data")
        yield lambda hosts=hosts: Edge(_nothing, hosts), ()  # type: ignore[misc]
        if machine and (files := rooms.tls(listener)) is not None:
            yield lambda files=files: server_tls(files), ("listeners", name, "tls")  # type: ignore[misc]
    if config.telemetry.otlp_endpoint:
        yield lambda: check_endpoint(config.telemetry.otlp_endpoint), ()
    if config.policy.engine == "opa-server":
        opa = config.policy.opa
        address = f"unix:{opa.unix_socket}" if opa.unix_socket else opa.url
        yield lambda: OpaServerEngine(address, ""), ()
    for at, fault in named_clients.unknown(config):
        yield lambda fault=fault: _refuse(fault), at  # type: ignore[misc]
    if not machine:
        return
    yield lambda: rooms.pin_rules(config), ()
    if (bundle := config.policy.bundle) is not None:
        yield lambda: policy_bundle.load(bundle, state_dir=_cache(config), wait=False), ()
    for name, given in config.identity.issuers.items():
        place = ("identity", "issuers", name)
        alone = _with(config, {("identity", "issuers"): {name: given}})
        yield lambda alone=alone: prove(alone), place  # type: ignore[misc]


def _refuse(fault: ConfigFault) -> None:
    raise fault


def prove(config: Config) -> None:
    """Raise ConfigFault("issuer_unproved") unless each issuer of the file was proved at this node, as it stands now.

    A profile that is itself refused is no matter of proof, and passes here.
    """
    try:
        profiles = front_door.issuers(config)
    except ConfigFault:
        return
    path, clock = Paths(config.state).store, SystemClock()
    here = path.is_file()  # no state is made to find that there is none
    store = SQLiteStore(path, clock=clock) if here else MemoryStore(clock)
    try:
        for profile in profiles:
            Preflights(store, clock).require(profile)
    finally:
        if isinstance(store, SQLiteStore):
            store.close()


def unregistered(config: Config) -> Iterator[tuple[Path, str]]:
    """Yield each place that names a client which neither the file nor this node has, and the name: it has nothing by that.

    Of another tenant counts as not there, as it does when it asks.
    """
    named = list(named_clients.elsewhere(config))
    path = Paths(config.state).store
    store = SQLiteStore(path, clock=SystemClock()) if named and path.is_file() else None
    try:
        for place, name in named:
            if store is None or registered_tenant(store, name) not in ("", config.tenant):
                yield place, name
    finally:
        if store is not None:
            store.close()


def _cache(config: Config) -> Directory | None:
    """Return where verdicts on policies are kept, where a node has run before."""
    cache = Paths(config.state).cache
    return cache if cache.is_dir() else None


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Serve nobody."""


def _part(code: str) -> Path:
    fitting = [name for name in PARTS if code == name or code.startswith(f"{name}_")]
    return PARTS[max(fitting, key=len)] if fitting else ()


def _at(config: Config, path: Path) -> Mapping[str, Any]:
    value: Any = config
    for key in path:
        value = getattr(value, key)
    found: Mapping[str, Any] = value
    return found


def _with(config: Config, changes: Mapping[Path, Mapping[str, Any]]) -> Config:
    """Return a copy with these parts in place of its own; they were validated where they came from."""

    def put(part: Any, path: Path, value: object) -> Any:
        inner = value if len(path) == 1 else put(getattr(part, path[0]), path[1:], value)
        return part.model_copy(update={path[0]: inner})

    for path, value in changes.items():
        config = put(config, path, value)
    return config
