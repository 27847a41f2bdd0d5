"""The part that every composition shares: state, keys, audit log, policy, inspection, and the guard made of them.

`firewall.app` puts all rooms around it, `firewall.guarded` one MCP server. It decides nothing itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Final

from firewall.core.errors import ConfigFault
from firewall.core.ports import PolicyEngine, RemotePolicyEngine
from firewall.decide import bundle as policy_bundle
from firewall.detect.scan import PatternScanner
from firewall.enforce.guard import Guard, GuardSettings
from firewall.enforce.kill_switch import KillSwitch
from firewall.enforce.labels import FlowLabels
from firewall.enforce.limits import Limits, LimitSettings
from firewall.enforce.pins import PinRules, Pins
from firewall.enforce.registry import Registry
from firewall.net.runtime import RandomIds, SystemClock, Tasks
from firewall.record.audit import AuditWriter
from firewall.record.audit import Settings as AuditSettings
from firewall.record.telemetry import GuardTelemetry
from firewall.state.allowances import SharedAllowances
from firewall.state.keys import KeyRing
from firewall.state.shared import SharedMarks
from firewall.state.sqlite import SQLiteStore
from firewall.state.unlock import unlock_secret

VERSION: Final = installed_version("bartizan")

OnFault = Callable[[str, str], None]
Engine = PolicyEngine | RemotePolicyEngine


@dataclass(frozen=True, slots=True)
class Paths:
    """Where a node keeps what, under its state directory; children live beside it, never inside.

    shared_cache: a cache that several nodes of one user share; ``cache`` in the state directory without it.
    """

    state: Path
    shared_cache: Path | None = None

    @property
    def keys(self) -> Path:
        """Signing and sealing keys, 0700."""
        return self.state / "keys"

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.state / "state.db"

    @property
    def shared(self) -> Path:
        """The node's shared memory."""
        return self.state / "shared"

    @property
    def run(self) -> Path:
        """Sockets and leases of the workers that run now."""
        return self.state / "run"

    @property
    def cache(self) -> Path:
        """Compiled patterns and policy; may be deleted."""
        return self.shared_cache or self.state / "cache"

    @property
    def metrics(self) -> Path:
        """Each worker's counters."""
        return self.state / "metrics"

    @property
    def admin_socket(self) -> Path:
        """The operator's socket."""
        return self.state / "admin.sock"

    @property
    def children(self) -> Path:
        """Working directories of local programs."""
        return self.state.parent / f"{self.state.name}-children"

    def make(self) -> None:
        """Create the directories, owner only. Raises ConfigFault("state_dir")."""
        try:
            for path in (self.state, self.shared, self.cache, self.metrics, self.children):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.state.stat().st_mode & 0o077:
                self.state.chmod(0o700)
        except OSError as error:
            raise ConfigFault(
                "state_dir", f"{self.state}: {error.strerror}", fix="set state_dir to a directory that you may write"
            ) from None


def make_audit(*places: Path | None) -> None:
    """Make a directory for the log; one is enough. Raises ConfigFault: without any, worker after worker would end."""
    reasons = []
    for place in filter(None, places):
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            reasons.append(f"{place}: {error.strerror}")
        else:
            return
    told = "; ".join(reasons)
    raise ConfigFault("audit_directory", told, fix="set audit.directory to a directory that you may write")


@dataclass(frozen=True, slots=True)
class NucleusSettings:
    """workers: processes that may share the state directory at once. bundle: a policy directory, None for ours.

    pins: what a changed definition means, and the lock that is in force. decides: False where only state
    is read and moved; the policy is then not compiled.
    """

    paths: Paths
    audit_dir: Path
    audit: AuditSettings
    guard: GuardSettings
    limits: LimitSettings
    workers: int = 1
    bundle: Path | None = None
    pins: PinRules = PinRules()  # noqa: RUF009  frozen
    decides: bool = True


@dataclass(frozen=True, slots=True)
class Nucleus:
    """What `build` made; each object's own room documents it."""

    clock: SystemClock
    ids: RandomIds
    tasks: Tasks
    keys: KeyRing
    store: SQLiteStore
    marks: SharedMarks
    allowances: SharedAllowances
    audit: AuditWriter
    bundle: policy_bundle.Bundle
    engine: Engine
    telemetry: GuardTelemetry
    guard: Guard
    registry: Registry
    pins: Pins

    def close(self) -> None:
        """Write the last checkpoint and close files; after everything that uses them has ended."""
        self.telemetry.close()
        self.audit.close()
        self.store.close()
        self.allowances.close()
        self.marks.close()


def build(
    settings: NucleusSettings,
    *,
    clock: SystemClock,
    engine: Callable[[policy_bundle.Bundle], Engine],
    telemetry: GuardTelemetry,
    labels: Callable[[SharedMarks, SQLiteStore], FlowLabels] | None = None,
    on_fault: OnFault,
) -> Nucleus:
    """Return the nucleus of one process. Raises ConfigFault, StateUnavailable, AuditUnavailable.

    labels: where flow labels live; in the node's shared memory and its store without it.
    """
    paths = settings.paths
    paths.make()
    ids, tasks = RandomIds(), Tasks()
    keys = KeyRing(paths.keys, unlock=unlock_secret(os.environ, paths.keys, make=True))
    keys.seal_all()
    store = SQLiteStore(paths.store, clock=clock)
    marks = SharedMarks(paths.shared, workers=settings.workers)
    allowances = SharedAllowances(paths.shared)
    audit = AuditWriter(
        settings.audit_dir,
        keys.ed25519("audit"),
        clock,
        ids,
        hmac_key=keys.secret("audit-hmac"),
        settings=settings.audit,
        older=tuple(key.public_key() for key in keys.ed25519_keys("audit")[1:]),
        on_fault=on_fault,
    )
    read = policy_bundle.read
    bundle = policy_bundle.load(settings.bundle, state_dir=paths.cache) if settings.decides else read(settings.bundle)
    telemetry.watch_audit(audit)
    telemetry.watch_marks(marks)
    deciding = engine(bundle)
    guard = Guard(
        engine=deciding,
        scanner=PatternScanner(cache=paths.cache, digest=audit.hmac),
        labels=labels(marks, store) if labels else _kept_labels(marks, store, clock),
        limits=Limits(allowances, settings.limits),
        kill_switch=KillSwitch(store.collection("kill"), marks, clock),
        audit=audit,
        telemetry=telemetry,
        clock=clock,
        ids=ids,
        settings=settings.guard,
        on_internal=lambda error: on_fault("internal", type(error).__name__),
    )
    registry = Registry(store.collection("registry"), marks, clock, audit.append)
    pins = Pins(store.collection("pins"), marks, clock, settings.pins, audit.append)
    return Nucleus(
        clock, ids, tasks, keys, store, marks, allowances, audit, bundle, deciding, telemetry, guard, registry, pins
    )


def _kept_labels(marks: SharedMarks, store: SQLiteStore, clock: SystemClock) -> FlowLabels:
    kept = FlowLabels(marks, store.collection("labels"), clock)
    kept.restore()
    return kept
