"""The state of one guarded server: opened by its runs, and by its owner between them.

All runs of a name share it: keys, store, pins, audit log. Between runs `ask_desk` reads and moves it by the same
admin room that a run serves on its socket; nothing else of a node is there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from firewall import nucleus
from firewall.admin.definitions import Definitions
from firewall.core.jsonvalue import JSONObject
from firewall.decide.bundle import Bundle
from firewall.decide.regorus import RegorusEngine
from firewall.enforce.admin_gate import AdminGate
from firewall.enforce.guard import GuardSettings
from firewall.enforce.labels import FlowLabels
from firewall.enforce.limits import LimitSettings
from firewall.net.asgi import Receive, Scope, Send
from firewall.net.dial import Dialler
from firewall.net.inprocess import Reply, ask
from firewall.net.runtime import SystemClock
from firewall.nucleus import VERSION, Nucleus, NucleusSettings, OnFault, Paths
from firewall.record.audit import Settings as AuditSettings
from firewall.record.metrics import Metrics
from firewall.record.telemetry import METRICS, GuardTelemetry
from firewall.state.memory import MemoryStore
from firewall.state.shared import SharedMarks

if TYPE_CHECKING:
    from firewall.admin.serve import AdminApp

TENANT: Final = "default"
NODE: Final = "node-1"  # both as in a configuration without them, so that every command reads this state
AT_ONCE: Final = 16  # runs of one name
CALLS_PER_MINUTE: Final = 6_000


def open_state(paths: Paths, name: str, on_fault: OnFault, *, decides: bool = True) -> Nucleus:
    """Return the nucleus over a run's state. decides: whether its policy has to be compiled. Raises ConfigFault."""
    clock = SystemClock()
    paths.make()
    return nucleus.build(
        NucleusSettings(
            paths,
            paths.state / "audit",
            AuditSettings(deployment=f"{NODE}.bartizan", node=NODE, version=VERSION),
            GuardSettings(),
            LimitSettings(CALLS_PER_MINUTE),
            workers=AT_ONCE,
            decides=decides,
        ),
        clock=clock,
        engine=_engine,
        telemetry=GuardTelemetry(Metrics(paths.metrics, METRICS), upstreams=(name,) if name else (), clock=clock),
        # Private memory: another run of the same name is another conversation of the user's.
        labels=lambda _marks, _store: FlowLabels(SharedMarks(None), MemoryStore(clock).collection("labels")),
        on_fault=on_fault,
    )


def _engine(bundle: Bundle) -> RegorusEngine:
    return RegorusEngine(bundle, "auto")


def desk(
    core: Nucleus,
    paths: Paths,
    definitions: Definitions,
    fetcher: Dialler,
    walls_missing: Callable[[], Mapping[str, tuple[str, ...]]],
    on_fault: OnFault,
) -> AdminApp:
    """Return the admin room over a run's state: pins, registry, stops, for its owner alone."""
    from firewall import admin, config
    from firewall.config import front_door
    from firewall.identity.authorization_server import build_identity

    made = config.build({"state_dir": str(paths.state), "tenant": TENANT, "node": NODE})
    signing = core.keys.ec_signing_keys("as")

    def record(event: str, facts: JSONObject) -> None:
        core.audit.append({"v": 1, "kind": "auth", "event": event, **facts})

    identity = build_identity(
        front_door.identity(made, ()),
        store=core.store,
        marks=core.marks,
        clock=core.clock,
        ids=core.ids,
        fetcher=fetcher,
        signing_key=signing[0],
        other_keys=tuple(signing[1:]),
        record=record,
    )
    return admin.build(
        admin.AdminParts(
            config=made,
            version=VERSION,
            clock=core.clock,
            store=core.store,
            marks=core.marks,
            audit=core.audit,
            audit_stats=core.audit.stats,
            vkeys=(core.audit.vkey,),
            identity=identity,
            registry=core.registry,
            pins=core.pins,
            kill_switch=core.guard.kill_switch,
            policy=core.bundle,
            gate=AdminGate(core.engine, core.audit, core.telemetry, core.clock, core.ids),
            metrics=core.telemetry.prometheus,
            definitions=definitions,
            walls_missing=walls_missing,
            on_fault=on_fault,
        )
    )


async def ask_desk(paths: Paths, verb: str, target: str, body: bytes | None) -> tuple[int, bytes]:
    """Ask the admin room of a state that no run serves now, as its owner; return status and body.

    What it changes stands in the store, where the next run finds it, and in the log. Raises ConfigFault.
    """
    core = open_state(paths, "", lambda _code, _detail: None, decides=False)
    dialler = Dialler(core.clock)
    try:
        definitions = Definitions(core.store.collection("definitions"))
        app = desk(core, paths, definitions, dialler, dict, lambda _code, _detail: None)
        reply = Reply(body or b"")
        headers = [(b"host", b"localhost"), (b"content-length", b"%d" % len(reply.body))]
        if body is not None:
            headers.append((b"content-type", b"application/json"))

        async def as_owner(scope: Scope, receive: Receive, send: Send) -> None:
            await app.as_operator(f"uid:{os.geteuid()}", scope, receive, send)

        async def drop(_data: bytes) -> None:
            return

        await ask(as_owner, verb, target, headers, reply, drop)
        return reply.status, reply.answer
    finally:
        await core.tasks.close()
        await dialler.close()
        core.close()
