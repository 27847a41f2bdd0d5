"""What the admin room is given by the composition root."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from firewall.admin.definitions import Definitions
from firewall.config import Config
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import AuditLog, Clock, SharedMarks, Store
from firewall.decide.bundle import Bundle
from firewall.enforce.admin_gate import AdminGate
from firewall.enforce.kill_switch import KillSwitch
from firewall.enforce.pins import Pins
from firewall.enforce.registry import Registry
from firewall.identity.authorization_server import Identity
from firewall.identity.rfc9068.rotation import KeyRotation
from firewall.identity.settings import Noted
from firewall.state.resealing import EnvelopeRotation


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Durations in seconds. A session ends after ``idle_s`` without a page, and after ``session_s`` in any case.

    fresh_s: for how long a person's proof of who they are counts as fresh. four_eyes: acts of `rights.SECOND` that
    need another person's agreement; approval_s: for how long a request for it waits.
    """

    idle_s: int = 30 * 60
    session_s: int = 8 * 3600
    fresh_s: int = 5 * 60
    four_eyes: frozenset[str] = frozenset()
    approval_s: int = 24 * 3600
    sign_in_per_minute: int = 20
    bearer_s: int = 24 * 3600
    longest_bearer_s: int = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class AdminParts:
    """The objects that the admin room shows and moves; all of them belong to the composition root.

    gate: asks policy about acts of people, with the engine of the guard.
    metrics: renders the Prometheus text; called in a thread. audit_stats: `AuditWriter.stats`.
    vkeys: verifier keys of the audit log, newest first. walls_missing: upstream → what its cage lacks.
    rotation: of the keys that sign tokens, None where nothing is signed. envelope: of those that seal upstream
        credentials, None where there are none.
    noted: records what strangers are refused, within bounds (`record.refused.StrangerLog`); None records each.
    on_fault: told a code and an exception's type when a handler of ours fails.
    """

    config: Config
    version: str
    clock: Clock
    store: Store
    marks: SharedMarks
    audit: AuditLog
    audit_stats: Callable[[], Mapping[str, int | float]]
    vkeys: tuple[str, ...]
    identity: Identity
    registry: Registry
    pins: Pins
    kill_switch: KillSwitch
    policy: Bundle
    gate: AdminGate
    metrics: Callable[[], bytes]
    definitions: Definitions
    rotation: KeyRotation | None = None
    envelope: EnvelopeRotation | None = None
    noted: Noted | None = None
    walls_missing: Callable[[], Mapping[str, tuple[str, ...]]] = dict
    on_fault: Callable[[str, str], None] = lambda _code, _detail: None
    token_bytes: Callable[[int], bytes] = os.urandom
    settings: AdminSettings = field(default_factory=AdminSettings)

    def note(self, event: str, address: str, facts: JSONObject) -> None:
        """Record a refusal that cost a stranger nothing, or count it."""
        if self.noted is not None:
            self.noted(event, address, facts)
        else:
            self.audit.append({"v": 1, "kind": "auth", "event": event, **facts})
