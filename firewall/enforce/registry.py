"""Registry: which MCP servers and A2A agents are known, and in which state (SUP-02).

    register ─▶ pending ─approve▶ approved ─suspend▶ suspended ─approve▶ approved
                   └──────────── revoke ─▶ revoked (final: the name must be registered anew)

Transitions are the table `MOVES`; anything else raises Conflict. Only ``approved`` entries may be
called: that rule is policy's, over the fact ``resource.properties.state``. Every change bumps the
node's epoch, so that no worker decides on an old state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import orjson

from firewall.core.errors import Conflict, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Collection, Entry, SharedMarks

Kind = Literal["mcp", "a2a"]
State = Literal["pending", "approved", "suspended", "revoked"]
Verb = Literal["approve", "suspend", "revoke"]

MOVES: Final[dict[tuple[str, str], State]] = {
    ("pending", "approve"): "approved",
    ("suspended", "approve"): "approved",
    ("approved", "suspend"): "suspended",
    ("pending", "revoke"): "revoked",
    ("approved", "revoke"): "revoked",
    ("suspended", "revoke"): "revoked",
}

NAME_CHARS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
NAME_MAX: Final = 40


def check_name(name: str) -> str:
    """Return the name; raises Malformed("name_invalid").

    Lower-case letters, digits and single hyphens, 1–40 characters, starting with a letter:
    it stands in paths, scopes (``name:read``) and aggregated tool names (``name__tool``).
    """
    if (
        not 1 <= len(name) <= NAME_MAX
        or not set(name) <= NAME_CHARS
        or not name[0].isalpha()
        or name[-1] == "-"
        or "--" in name
    ):
        raise Malformed("name_invalid", "a-z, 0-9 and single hyphens, a letter first, at most 40 of them")
    return name


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One server or agent. ``spec`` is its configuration (never a secret)."""

    tenant: str
    kind: Kind
    name: str
    state: State
    spec: JSONObject
    by: str
    since_us: int
    version: int


class Registry:
    """The four first verbs, for both kinds alike; ``record`` is called with every change."""

    def __init__(
        self,
        entries: Collection,
        marks: SharedMarks,
        clock: Clock,
        record: Callable[[JSONObject], object],
    ) -> None:
        self._entries = entries
        self._marks = marks
        self._clock = clock
        self._record = record
        self._epoch = -1
        self._states: dict[tuple[str, str, str], State] = {}

    def register(self, tenant: str, kind: Kind, name: str, spec: JSONObject, *, by: str) -> RegistryEntry:
        """Add a pending entry; a revoked name may be registered anew. Raises Conflict, Malformed."""
        check_name(name)
        old = self._entries.get(tenant, f"{kind}/{name}")
        if old is not None and _entry(tenant, old).state != "revoked":
            raise Conflict("this name is registered")
        return self._store(tenant, kind, name, "pending", spec, by, old.version if old else 0, "register")

    def configure(self, tenant: str, kind: Kind, name: str, spec: JSONObject) -> RegistryEntry:
        """Bring an entry that stands in the configuration file up to date; called at every start.

        A new name is approved (who may write the file may decide that); a known one keeps its
        state, so that a suspension or revocation outlives a restart. Raises Malformed.
        """
        check_name(name)
        while True:
            old = self.get(tenant, kind, name)
            if old is not None and old.spec == spec:
                return old
            state: State = old.state if old else "approved"
            try:
                return self._store(
                    tenant, kind, name, state, spec, "configuration", old.version if old else 0, "configure"
                )
            except Conflict:
                continue  # another worker starts at the same time

    def approve(self, tenant: str, kind: Kind, name: str, *, by: str) -> RegistryEntry:
        """Let a pending or suspended entry be called."""
        return self._move(tenant, kind, name, "approve", by)

    def suspend(self, tenant: str, kind: Kind, name: str, *, by: str) -> RegistryEntry:
        """Stop an approved entry until it is approved again."""
        return self._move(tenant, kind, name, "suspend", by)

    def revoke(self, tenant: str, kind: Kind, name: str, *, by: str) -> RegistryEntry:
        """End an entry for good."""
        return self._move(tenant, kind, name, "revoke", by)

    def get(self, tenant: str, kind: str, name: str) -> RegistryEntry | None:
        """Return one entry."""
        entry = self._entries.get(tenant, f"{kind}/{name}")
        return _entry(tenant, entry) if entry else None

    def list(self, tenant: str, kind: Kind | None = None) -> list[RegistryEntry]:
        """Return entries by kind and name."""
        return [_entry(tenant, e) for e in self._entries.scan(tenant, f"{kind}/" if kind else "")]

    def state(self, tenant: str, kind: str, name: str) -> State:
        """Return the state for the data path: cached until the node's epoch moves; unknown is revoked.

        Raises StateUnavailable.
        """
        epoch = self._marks.epoch()
        if epoch != self._epoch:
            self._states.clear()
            self._epoch = epoch
        key = (tenant, kind, name)
        found = self._states.get(key)
        if found is None:
            entry = self.get(tenant, kind, name)
            found = self._states[key] = entry.state if entry else "revoked"
        return found

    def _move(self, tenant: str, kind: Kind, name: str, verb: Verb, by: str) -> RegistryEntry:
        entry = self.get(tenant, kind, name)
        if entry is None:
            raise Conflict("this name is not registered")
        to = MOVES.get((entry.state, verb))
        if to is None:
            raise Conflict(f"a {entry.state} entry cannot be moved by {verb}")
        return self._store(tenant, kind, name, to, entry.spec, by, entry.version, verb)

    def _store(
        self, tenant: str, kind: Kind, name: str, state: State, spec: JSONObject, by: str, version: int, verb: str
    ) -> RegistryEntry:
        now = self._clock.now_us()
        # Recorded before it takes effect: a change that cannot be recorded does not happen.
        self._record(
            {"kind": "registry", "tenant": tenant, "verb": verb, "object": f"{kind}/{name}", "state": state, "by": by}
        )
        value = orjson.dumps({"state": state, "spec": spec, "by": by, "since_us": now})
        new = self._entries.put(tenant, f"{kind}/{name}", value, if_version=version)
        self._marks.bump()
        return RegistryEntry(tenant, kind, name, state, spec, by, now, new)


def _entry(tenant: str, entry: Entry) -> RegistryEntry:
    prefix, _, name = entry.key.partition("/")
    kind: Kind = "mcp" if prefix == "mcp" else "a2a"
    raw = orjson.loads(entry.value)
    return RegistryEntry(
        tenant,
        kind,
        name,
        raw["state"],
        raw["spec"],
        raw["by"],
        raw["since_us"],
        entry.version,
    )
