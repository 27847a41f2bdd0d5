"""Whose tasks are whose: our own unguessable ids in front of the upstreams' (mcp reference §5.7).

- A row stands under (tenant, owner, id of ours). The owner is a digest of issuer, subject, client and
  endpoint, so a lookup with another principal's token, or at another endpoint, finds nothing: foreign,
  expired and unknown are told apart by nobody (``handle_invalid``).
- An upstream's id belongs to the first owner that it was shown to. An upstream that shows one caller's
  task to another is in error, and the second caller never learns the id (``result_shape``).
- Rows live in the node's store, so workers agree; they end with the task's own time, at most
  `tasks.TTL_MS_MAX` after its creation. What a task says (its text, its result) is never stored: it is
  read again from the upstream and judged again each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from firewall.core.errors import Conflict, Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock, Collection, Ids
from firewall.core.principal import Principal
from firewall.wire import strict_json
from mcp_gateway import tasks
from mcp_gateway.tasks import CORE, EXTENSION, Shape, Task

COLLECTION: Final = "mcp_tasks"
TASKS_PER_OWNER: Final = 256
_ID_CHARS: Final = 64
_TRIES: Final = 8  # of a change, while other workers change the same row


@dataclass(frozen=True, slots=True)
class Entry:
    """One task that a caller has.

    id: ours. theirs: the upstream's. upstream, key: which link leads there. tool: the upstream's own
    name. decision: of the call that began it. status, created, updated, ttl_ms, poll_ms: as last told.
    asks: key → what an answer to that open question is judged by (`questions.Question.sealed`).
    """

    id: str
    owner: str
    endpoint: str
    upstream: str
    key: str
    theirs: str
    tool: str
    shape: Shape
    decision: str
    status: str
    created: str
    updated: str
    ttl_ms: int | None
    poll_ms: int | None
    expires_us: int
    asks: JSONObject = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The task's last known state, without its text and payload."""
        return Task(self.theirs, self.status, self.created, self.updated, self.ttl_ms, self.poll_ms)


class TaskTable:
    """The table. rows: the collection `COLLECTION` of the node's store. Every method raises StateUnavailable."""

    def __init__(self, rows: Collection, clock: Clock, ids: Ids, *, bound: int = TASKS_PER_OWNER) -> None:
        self._rows = rows
        self._clock = clock
        self._ids = ids
        self._bound = bound

    def room(self, principal: Principal, endpoint: str) -> bool:
        """Return whether a caller may have one more task here."""
        prefix = f"is/{owner_of(principal, endpoint)}/"
        return sum(1 for _ in self._rows.scan(principal.tenant, prefix)) < self._bound

    def claim(
        self,
        principal: Principal,
        endpoint: str,
        task: Task,
        *,
        upstream: str,
        key: str,
        tool: str,
        shape: Shape,
        decision: str,
    ) -> Entry:
        """Note a task that an upstream just made for a caller, and return it with an id of ours.

        Raises Malformed: result_shape (the upstream's id is in use already), over_limit (no room).
        """
        if not self.room(principal, endpoint):
            raise Malformed("over_limit")
        expires_us = self._clock.now_us() + tasks.lifetime_ms(task) * 1000
        entry = Entry(
            id=self._ids.new("task"),
            owner=owner_of(principal, endpoint),
            endpoint=endpoint,
            upstream=upstream,
            key=key,
            theirs=task.id,
            tool=tool,
            shape=shape,
            decision=decision,
            status=task.status,
            created=task.created,
            updated=task.updated,
            ttl_ms=task.ttl_ms,
            poll_ms=task.poll_ms,
            expires_us=expires_us,
        )
        back = f"{entry.owner}/{entry.id}".encode()
        try:
            self._rows.put(
                principal.tenant, _reverse(upstream, key, task.id), back, expires_us=expires_us, if_version=0
            )
        except Conflict:
            raise Malformed("result_shape", "an upstream showed one task twice") from None
        self._put(principal.tenant, entry)
        return entry

    def find(self, principal: Principal, endpoint: str, ours: str) -> Entry:
        """Return a caller's own task. Raises Malformed("handle_invalid"): unknown, expired, another's, elsewhere."""
        if not 0 < len(ours) <= _ID_CHARS or not ours.isascii() or not ours.replace("_", "").isalnum():
            raise Malformed("handle_invalid")
        return self._get(principal.tenant, owner_of(principal, endpoint), ours)

    def heard(self, tenant: str, upstream: str, key: str, theirs: str) -> Entry | None:
        """Return the task that an upstream's notification is about, whoever has it, or None."""
        row = self._rows.get(tenant, _reverse(upstream, key, theirs))
        if row is None:
            return None
        owner, _, ours = row.value.decode().partition("/")
        try:
            return self._get(tenant, owner, ours)
        except Malformed:
            return None

    def update(self, tenant: str, entry: Entry, task: Task, *, asks: JSONObject | None = None) -> Entry:
        """Note a task's new state, and with ``asks`` its open questions; return it.

        A task that is over stays as it ended. When its row ends was settled when it began: else an
        upstream could keep one forever. What is changed is the row as it stands: ``entry`` was read before
        the upstream was asked, and a question that was closed since then stays closed. A row that is gone
        stays gone.
        """
        now = entry
        for _ in range(_TRIES):
            row = self._rows.get(tenant, f"is/{entry.owner}/{entry.id}")
            if row is None:
                return entry
            now = _decoded(entry.owner, entry.id, row.value)
            if now.status in tasks.TERMINAL:
                return now
            if asks is None:
                told = now.asks if task.status == "input_required" else {}  # nobody waits for the others any more
            else:
                told = {key: one for key, one in asks.items() if key in now.asks or key not in entry.asks}
            fresh = replace(
                now,
                status=task.status,
                updated=task.updated,
                ttl_ms=task.ttl_ms,
                poll_ms=task.poll_ms,
                asks=told,
            )
            if fresh == now:
                return now
            try:
                self._put(tenant, fresh, if_version=row.version)
            except Conflict:
                continue
            return fresh
        return now  # others keep telling its state

    def close(self, tenant: str, entry: Entry, keys: Iterable[str]) -> bool:
        """Close open questions of a task, all of them or none; return whether they were open.

        Of two answers to one question, here or in another worker, at most one gets True.
        """
        row = self._rows.get(tenant, f"is/{entry.owner}/{entry.id}")
        if row is None:
            return False
        now, spent = _decoded(entry.owner, entry.id, row.value), set(keys)
        if not spent <= now.asks.keys():
            return False
        left = {key: kept for key, kept in now.asks.items() if key not in spent}
        try:
            self._put(tenant, replace(now, asks=left), if_version=row.version)
        except Conflict:
            return False
        return True

    def of(self, principal: Principal, endpoint: str, after: str, size: int) -> tuple[Sequence[Entry], str]:
        """Return a page of a caller's core tasks by id, and the id after which the next page starts ("" at the end)."""
        owner = owner_of(principal, endpoint)
        found = [
            _decoded(owner, row.key.rpartition("/")[2], row.value)
            for row in self._rows.scan(principal.tenant, f"is/{owner}/")
        ]
        mine = [entry for entry in found if entry.shape == CORE and entry.id > after]
        page = mine[:size]
        return page, page[-1].id if len(mine) > size else ""

    def forget(self, tenant: str, entry: Entry) -> None:
        """Drop a task that its upstream no longer knows."""
        self._rows.delete(tenant, f"is/{entry.owner}/{entry.id}")
        self._rows.delete(tenant, _reverse(entry.upstream, entry.key, entry.theirs))

    # -- rows -----------------------------------------------------------------------------------------

    def _get(self, tenant: str, owner: str, ours: str) -> Entry:
        row = self._rows.get(tenant, f"is/{owner}/{ours}")
        if row is None:
            raise Malformed("handle_invalid")
        return _decoded(owner, ours, row.value)

    def _put(self, tenant: str, entry: Entry, *, if_version: int | None = None) -> None:
        value: JSONObject = {name: getattr(entry, name) for name in _STORED}
        key = f"is/{entry.owner}/{entry.id}"
        self._rows.put(tenant, key, strict_json.dumps(value), expires_us=entry.expires_us, if_version=if_version)


_STORED: Final = (
    "endpoint", "upstream", "key", "theirs", "tool", "shape", "decision",
    "status", "created", "updated", "ttl_ms", "poll_ms", "expires_us", "asks",
)  # fmt: skip


def owner_of(principal: Principal, endpoint: str) -> str:
    """Return who has what at an endpoint: 64 hex characters; parts carry their length, so none runs into the next."""
    parts = (principal.issuer, *principal.key, endpoint)
    data = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (part.encode() for part in parts))
    return hashlib.sha256(b"mcp-task-owner\x00" + data).hexdigest()


def _reverse(upstream: str, key: str, theirs: str) -> str:
    data = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (part.encode() for part in (upstream, key, theirs)))
    return "of/" + hashlib.sha256(b"mcp-task-upstream\x00" + data).hexdigest()


def _decoded(owner: str, ours: str, raw: bytes) -> Entry:
    value = strict_json.loads(raw)
    assert isinstance(value, dict)  # our own bytes

    def text(name: str) -> str:
        told: JSON = value[name]
        assert isinstance(told, str)
        return told

    def number(name: str) -> int | None:
        told: JSON = value[name]
        return told if isinstance(told, int) else None

    return Entry(
        id=ours,
        owner=owner,
        endpoint=text("endpoint"),
        upstream=text("upstream"),
        key=text("key"),
        theirs=text("theirs"),
        tool=text("tool"),
        shape=CORE if value["shape"] == CORE else EXTENSION,
        decision=text("decision"),
        status=text("status"),
        created=text("created"),
        updated=text("updated"),
        ttl_ms=number("ttl_ms"),
        poll_ms=number("poll_ms"),
        expires_us=number("expires_us") or 0,
        asks=asks if isinstance(asks := value["asks"], dict) else {},
    )
