"""The composition root: configuration → rooms → one ASGI callable per listener. Builds objects; decides nothing.

    data listener  ─ Edge ─ DataPlane ─┬─ /mcp…        mcp_gateway
                                       ├─ /a2a/…       a2a_gateway
                                       ├─ /v1/…        llm_router
                                       └─ the rest     front door (exact table, else 404)
    admin listener ─ Edge ─ admin app; the same API on a unix socket that only the owner reaches

A `worker.Worker` is one process's share. Each runs in a child of `net.workers.Supervisor`, a single one too, so
that one that hangs is ended and started again. Several agree through the store and the shared memory, and
hand each other by private sockets what only one of them can serve (`net.handover`, `mcp_gateway.owner`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Final

from joserfc.jwk import ECKey

from a2a_gateway.inventory import CardKey
from a2a_gateway.inventory import Inventory as AgentInventory
from a2a_gateway.parked import Parking
from a2a_gateway.serve import A2AGateway
from a2a_gateway.tasks import TaskBook
from a2a_gateway.upstream import Upstream as AgentUpstream
from firewall import admin, nucleus, rehearsal
from firewall.adapters.authzen import build as authzen
from firewall.config import Config, front_door, named_clients, rooms
from firewall.core.errors import CONFIG_EXIT, ConfigFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import PolicyEngine, RemotePolicyEngine
from firewall.decide import bundle as policy_bundle
from firewall.decide.opa_server import OpaServerEngine
from firewall.decide.regorus import RegorusEngine
from firewall.decide.sampler import SampledEngine
from firewall.detect.tool_review import review
from firewall.doors import ChildDoors
from firewall.enforce.admin_gate import AdminGate
from firewall.enforce.client_gate import ClientGate
from firewall.enforce.egress import EgressGate
from firewall.enforce.guard import Guard, GuardSettings
from firewall.enforce.limits import LimitSettings
from firewall.enforce.registry import Registry
from firewall.identity.authorization_server import build_identity
from firewall.identity.issuers.direct import DirectGiven
from firewall.identity.oidc.build import ProvidersGiven
from firewall.identity.oidc.redemption import ClientKey
from firewall.identity.oidc.secret import secret_reader
from firewall.identity.rfc9068.rotation import KeyRotation
from firewall.identity.ssf import build as ssf
from firewall.identity.throttle import network_of
from firewall.identity.upstream.build import SEALED, UpstreamsGiven
from firewall.net import server as net_server
from firewall.net.asgi import App
from firewall.net.channel import Peers, Seat
from firewall.net.cors import CrossOrigin
from firewall.net.dial import Dialler
from firewall.net.egress_proxy import EgressProxy
from firewall.net.handover import Handover
from firewall.net.heartbeat import Heartbeat
from firewall.net.renewing import RenewingClient
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.upstream import PooledClient
from firewall.nucleus import VERSION, NucleusSettings, OnFault, Paths
from firewall.record.audit import Settings as AuditSettings
from firewall.record.metrics import Metrics
from firewall.record.note import Verifier
from firewall.record.refused import RefusalLog, StrangerLog
from firewall.record.segments import SegmentSettings
from firewall.record.telemetry import METRICS, GuardTelemetry
from firewall.record.tracing import Tracer
from firewall.state import resealing
from firewall.state.envelope import Envelopes
from firewall.state.keys import KeyRing, thumbprint
from firewall.state.lease import Leases
from firewall.state.replays import UsedOnce
from firewall.state.unlock import secret_places
from firewall.state.vault import Sealer
from firewall.worker import DataPlane, Worker, mcp_specs, serve
from llm_router.meter import Meter
from llm_router.relay import Relay as LLMRelay
from llm_router.serve import LLMRouter, RouterSettings
from mcp_gateway import sandbox
from mcp_gateway.owner import Neighbours
from mcp_gateway.serve import MCPGateway

FIRST_CONTACT_FILE: Final = "first-contact.txt"  # in the state directory, where no terminal shows the code
SAMPLE_EVERY: Final = 256  # compiled decisions asked again of the strict interpreter, one in so many


def audit_settings(config: Config) -> AuditSettings:
    """Return the audit log's names and places."""
    return AuditSettings(
        deployment=f"{config.node}.bartizan",
        node=config.node,
        version=VERSION,
        spool=config.audit.spool,
        local_max=config.audit.max_bytes,
        segments=SegmentSettings(config.audit.segment_bytes, config.audit.segment_hours, config.audit.retain_days),
    )


def audit_vkeys(config: Config, keys: KeyRing) -> tuple[str, ...]:
    """Return the verifier keys of the audit log, newest first."""
    name = f"{audit_settings(config).deployment}/audit"
    return tuple(Verifier.of(name, key.public_key()).vkey() for key in keys.ed25519_keys("audit"))


def admin_settings(config: Config) -> admin.AdminSettings:
    """Return how long the console's sessions last, and what needs two people."""
    given = config.admin
    return admin.AdminSettings(
        idle_s=given.idle_minutes * 60,
        session_s=given.session_hours * 3600,
        four_eyes=frozenset(given.four_eyes),
        approval_s=given.approval_hours * 3600,
    )


def load_policy(config: Config, paths: Paths) -> policy_bundle.Bundle:
    """Return the policy bundle, linted and self-tested. Raises ConfigFault."""
    return policy_bundle.load(config.policy.bundle, state_dir=paths.cache)


def _engine(
    config: Config, bundle: policy_bundle.Bundle, on_fault: Callable[[str, str], None]
) -> PolicyEngine | RemotePolicyEngine:
    if config.policy.engine == "opa-server":
        opa = config.policy.opa
        address = f"unix:{opa.unix_socket}" if opa.unix_socket else opa.url
        return OpaServerEngine(address, bundle.revision, deadline_s=opa.timeout_ms / 1000)
    engine = RegorusEngine(bundle, config.policy.mode)
    if engine.mode != "compiled":
        return engine
    return SampledEngine(
        engine,
        bundle,
        every=SAMPLE_EVERY,
        alarm=lambda difference: on_fault("policy_difference", str(difference.point)),
    )


def build(config: Config, *, on_fault: OnFault = lambda _code, _detail: None, seat: Seat | None = None) -> Worker:
    """Return one process's objects. seat: its place among several. Raises ConfigFault."""
    paths = Paths(config.state)
    paths.make()
    clock = SystemClock()
    core = nucleus.build(
        NucleusSettings(
            paths,
            config.audit_dir,
            audit_settings(config),
            GuardSettings(config.audit.durability, front_door.step_up(config)),
            LimitSettings(config.limits.calls_per_minute),
            config.workers,
            config.policy.bundle,
            rooms.pin_rules(config),
        ),
        clock=clock,
        engine=lambda bundle: _engine(config, bundle, on_fault),
        telemetry=_telemetry(config, paths, clock),
        on_fault=on_fault,
    )
    ids, tasks, keys, store, marks, audit = core.ids, core.tasks, core.keys, core.store, core.marks, core.audit
    bundle, engine, telemetry, guard = core.bundle, core.engine, core.telemetry, core.guard
    registry, pins = core.registry, core.pins
    _configure(config, registry)
    dialler = Dialler(clock, rooms.way_out(config))
    client = RenewingClient(PooledClient(dialler))
    specs = mcp_specs(config, registry)
    named_clients.check(config)
    resources = front_door.protected_resources(config, specs, [(n, a.title) for n, a in config.a2a.items()])

    def record(event: str, facts: JSONObject) -> None:
        audit.append({"v": 1, "kind": "auth", "event": event, **facts})

    sealer = Sealer(keys.secret("seal"), clock)
    refusals = RefusalLog(audit, clock, ids, network_of)
    strangers = StrangerLog(audit, clock, network_of)
    rotation = KeyRotation(keys, store, marks, clock, record)
    envelope = resealing.EnvelopeRotation(
        keys, store, Envelopes(store, lambda: keys.secrets(resealing.NAME), SEALED), clock, record
    )
    used = UsedOnce(paths.shared, worker=marks.worker, workers=config.workers)
    identity = build_identity(
        front_door.identity(config, resources),
        store=store,
        marks=marks,
        clock=clock,
        ids=ids,
        fetcher=dialler,
        signing_key=rotation.keys,
        record=record,
        labels=guard.labels,
        sealer=sealer,
        client_trust=ClientGate(guard, clock, config.tenant) if config.identity.cimd.policy == "policy" else None,
        idps=_idps(config, dialler, keys),
        direct=DirectGiven(front_door.issuers(config), dialler, secret_reader(os.environ)),
        used=used,
        nonce_keys=tuple(keys.secrets("dpop-nonce")),
        upstreams=_upstreams(config, dialler, keys, guard),
        refusals=refusals,
        noted=strangers.note,
    )
    identity.first_contact.file = config.state / FIRST_CONTACT_FILE
    assert identity.credentials is not None
    credentials = identity.credentials
    support = sandbox.detect()
    parts: dict[str, Any] = {
        "client": client,
        "dialler": dialler,
        "credentials": credentials,
        "telemetry": telemetry,
        "keys": keys,
        "rotation": rotation,
        "envelope": envelope,
        "used": used,
        "refusals": refusals,
        "strangers": strangers,
    }
    if config.identity.signals:
        parts["signals"] = ssf.build(
            front_door.transmitters(config),
            users=identity.users,
            links=identity.links,
            standing=identity.grants.standing,
            store=store,
            clock=clock,
            fetcher=dialler,
            secret=secret_reader(os.environ),
            record=record,
            noted=strangers.note,
            on_fault=on_fault,
        )
        identity.front_door.mount(parts["signals"].routes)
    near = _near(paths, tasks, seat)
    doors = _doors(config, paths, guard, clock, dialler, near)
    if doors is not None:
        parts["egress"] = doors
    definitions = admin.Definitions(store.collection("definitions"))
    mcp = MCPGateway(
        rooms.mcp_settings(
            config,
            specs,
            scratch=str(paths.children),
            egress_socket=doors.pattern if doors else "",
            private=secret_places(os.environ),
        ),
        guard=guard,
        auth=identity.resource_server,
        credentials=credentials,
        client=client,
        pins=pins,
        registry=registry,
        review=definitions.noting(review),
        sealer=sealer,
        clock=clock,
        tasks=tasks,
        support=support,
        near=near,
        task_rows=store.collection("mcp_tasks"),
        burnt=store.collection("mcp_request_state"),
        reachable=identity.reachable,
        word_rows=store.collection("mcp_child_words"),
    )
    card_key = keys.ec_signing_key("card")
    inventory = AgentInventory(
        registry=registry,
        pins=pins,
        dialler=dialler,
        review=review,
        clock=clock,
        signing=CardKey(ECKey.import_key(card_key), thumbprint(card_key)),
        settings=rooms.inventory_settings(config),
    )
    task_rows = store.collection("a2a_tasks")
    book = TaskBook(task_rows, keys.secret("a2a"), clock)
    a2a = A2AGateway(
        guard=guard,
        resource_server=identity.resource_server,
        inventory=inventory,
        book=book,
        parking=Parking(task_rows, book, sealer, clock, os.urandom),
        upstream=AgentUpstream(client, credentials),
        tasks=tasks,
    )
    parts["agents"] = inventory
    if isinstance(engine, SampledEngine):
        parts["sampler"] = engine
    if isinstance(engine, OpaServerEngine):
        parts["opa"] = engine
    parts["admin"] = admin.build(
        admin.AdminParts(
            config=config,
            version=VERSION,
            clock=clock,
            store=store,
            marks=marks,
            audit=audit,
            audit_stats=audit.stats,
            vkeys=audit_vkeys(config, keys),
            identity=identity,
            registry=registry,
            pins=pins,
            kill_switch=guard.kill_switch,
            policy=bundle,
            gate=AdminGate(
                engine,
                audit,
                telemetry,
                clock,
                ids,
                on_internal=lambda error: on_fault("admin_gate", type(error).__name__),
            ),
            metrics=telemetry.prometheus,
            definitions=definitions,
            rotation=rotation,
            envelope=envelope,
            noted=strangers.note,
            walls_missing=lambda: mcp.sandbox_missing,
            on_fault=on_fault,
            settings=admin_settings(config),
        )
    )
    parts["admin_socket"] = admin.OperatorSocket(
        paths.admin_socket, parts["admin"], tasks, background=(definitions.keep,)
    )
    llm = None
    if config.llm.models:
        llm = LLMRouter(
            guard=guard,
            resource_server=identity.resource_server,
            models=rooms.llm_models(config),
            meter=Meter(store.collection("budgets"), clock, rooms.llm_budget(config)),
            relay=LLMRelay(client, credentials),
            clock=clock,
            tasks=tasks,
            settings=RouterSettings(config.public_url),
            on_spent=lambda spent: telemetry.inference(
                spent.model.provider.name,
                spent.model.alias,
                duration_us=spent.duration_us,
                input_tokens=spent.usage.input,
                output_tokens=spent.usage.output,
                micro_usd=spent.micro_usd,
            ),
        )
    decides = None
    if config.authzen.enforcers:
        decides = authzen.build(
            config,
            guard=guard,
            identity=identity,
            registry=registry,
            pins=pins,
            specs=lambda: mcp_specs(config, registry),
            definition=definitions.get,
            audit=audit,
            ids=ids,
            on_fault=on_fault,
        )
    kill_switch = guard.kill_switch
    return Worker(
        config,
        paths,
        clock,
        tasks,
        store,
        marks,
        audit,
        guard,
        registry,
        pins,
        kill_switch,
        identity,
        mcp,
        DataPlane(page_face(mcp, config), a2a, llm, identity.front_door, decides),
        bundle,
        parts,
        near,
        on_fault=on_fault,
    )


def page_face(mcp: App, config: Config) -> App:
    """Return MCP's application as pages of other origins may call it, where configuration names any."""
    return CrossOrigin(mcp, config.mcp_origins) if config.mcp_origins else mcp


def _idps(config: Config, dialler: Dialler, keys: KeyRing) -> ProvidersGiven:
    """Return what the front door needs to know of identity providers."""
    key = keys.ec_signing_key("client")
    return ProvidersGiven(
        front_door.identity_providers(config),
        dialler,
        secret_reader(os.environ),
        passwords=config.identity.passwords == "on",
        key=ClientKey(ECKey.import_key(key), thumbprint(key)),
    )


def _upstreams(config: Config, dialler: Dialler, keys: KeyRing, guard: Guard) -> UpstreamsGiven:
    """Return what the front door needs to sign in to upstreams. Raises ConfigFault."""
    key, *older = (ECKey.import_key(key) for key in keys.ec_signing_keys("client"))
    return UpstreamsGiven(
        front_door.sign_ins(config),
        front_door.credentials(config),
        dialler,
        key,
        lambda: keys.secrets(resealing.NAME),
        keys.secret("upstream-dpop"),
        guard.kill_switch.stopped,
        tuple(older),
    )


def _telemetry(config: Config, paths: Paths, clock: SystemClock) -> GuardTelemetry:
    endpoint = config.telemetry.otlp_endpoint
    service = {"service.name": "bartizan", "service.version": VERSION, "service.instance.id": config.node}
    return GuardTelemetry(
        Metrics(paths.metrics, METRICS),
        upstreams=(*config.mcp, *config.a2a, *config.llm.providers, "llm"),
        tracer=Tracer(endpoint, service) if endpoint else None,
        ratio=config.telemetry.sample_ratio,
        clock=clock,
    )


def _configure(config: Config, registry: Registry) -> None:
    for name, given in config.mcp.items():
        for tenant in rooms.tenants(config, given.tenants):
            registry.configure(tenant, "mcp", name, rooms.mcp_record(given))
    for name, agent in config.a2a.items():
        registry.configure(config.tenant, "a2a", name, rooms.agent_spec(config, agent).to_json())


def _near(paths: Paths, tasks: Tasks, seat: Seat | None) -> Neighbours | None:
    """Return how this worker reaches the others, None where it is alone."""
    if seat is None or seat.workers == 1:
        return None
    peers = Peers(seat, tasks)
    return Neighbours(peers, Handover(peers, tasks), Leases(paths.run / "leases", seat.index))


def _doors(
    config: Config,
    paths: Paths,
    guard: Guard,
    clock: SystemClock,
    dialler: Dialler,
    near: Neighbours | None,
) -> ChildDoors | None:
    """Return the doors of local programs, or None when there are none. Each worker has its own for its own children."""
    networks = {name: given.network for name, given in config.mcp.items() if given.command}
    if not networks:
        return None
    gate = EgressGate(guard, clock, config.tenant, dict(networks))
    mark = f".w{near.worker}" if near is not None else ""
    return ChildDoors(paths.children, tuple(networks), EgressProxy(dialler, gate.permits), mark=mark)


# -- processes ---------------------------------------------------------------------------------------------


def check(config: Config) -> None:
    """Raise ConfigFault for what no worker could start with: a parent would start it again and again."""
    for refusal in rehearsal.refusals(config):
        raise refusal.fault
    paths = Paths(config.state)
    paths.make()
    nucleus.make_audit(config.audit_dir, config.audit.spool and config.audit.spool.expanduser())
    load_policy(config, paths)


def work(index: int, heartbeat: Heartbeat, argument: Any) -> None:
    """Be one worker until told to end: what `parent` starts in a process of its own."""
    config, on_ready, on_fault = argument

    def fault(code: str, detail: str) -> None:
        on_fault(code, detail if config.workers == 1 else f"worker {index}: {detail}")

    try:
        seat = Seat(index, config.workers, Paths(config.state).run, heartbeat.secret)
        worker = build(config, on_fault=fault, seat=seat)
        net_server.run(lambda: serve(worker, on_ready if index == 0 else None, heartbeat))
    except ConfigFault as error:
        if heartbeat.first("fault"):  # each of them finds the same
            print(f"bartizan: {error.diagnostics()}", file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(CONFIG_EXIT)
