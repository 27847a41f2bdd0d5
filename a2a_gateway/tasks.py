"""Task and context ids: whose they are, what they are called here, and in which order things happen.

The agent behind us sees one caller, us; so ownership is kept here (a2a reference §5.2):

- An id of ours is a keyed digest of (tenant, subject, client, agent, kind, upstream id): one
  object has one id for its owner, it cannot be guessed, and for anyone else it means nothing.
- An id that leads back to an upstream id stands in the collection; whether it is the caller's own
  is checked by making it again, so that no second copy of the owner exists to disagree with.
- The first caller to whom an agent shows an id owns it; an agent that shows it to a second one is
  in error (context and task smuggling, A2A-03).
- A task that a caller was shown before any agent had one (`parked`) keeps its id: it is an alias of the
  agent's, in both directions, under keys that hold a digest of its owner.
- An unknown, a tampered and a foreign id are told apart by nobody: ``task_unknown``.

`Progress` is the state order of one answer or stream (spec §3.1.2, §4.1.3). No I/O but the
injected collection; time is the injected clock.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from a2a_gateway.message import Event
from a2a_gateway.shapes import HISTORY
from firewall.core.errors import Conflict, Malformed
from firewall.core.ports import Clock, Collection
from firewall.core.principal import Principal

IdKind = Literal["task", "context"]

COLLECTION: Final = "a2a_tasks"
# Whose an upstream id is stands under one key for all tenants: an agent that shows one tenant's
# task to another tenant is found out. The row holds keyed digests only.
NODE: Final = "~node"
DAY_S: Final = 24 * 3600
_SHAPE: Final = (8, 4, 4, 4, 12)
_HEX: Final = frozenset("0123456789abcdef")

TERMINAL: Final = frozenset({"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"})
# The only state that nothing leads back to but a new task.
FIRST_ONLY: Final = "TASK_STATE_SUBMITTED"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who owns ids: one principal at one agent."""

    tenant: str
    subject: str
    client: str
    agent: str

    @classmethod
    def of(cls, principal: Principal, agent: str) -> Caller:
        """Return the caller that a principal is at an agent."""
        return cls(principal.tenant, principal.subject, principal.client_id, agent)


class TaskBook:
    """The book of ids. secret: 32 bytes of the node's own, the same in every worker.

    lifetime_s: how long an id leads back; replay_s: how long a message id may not come again,
    0 turns that check off (a conformance suite repeats its ids).
    """

    def __init__(
        self, rows: Collection, secret: bytes, clock: Clock, *, lifetime_s: int = 30 * DAY_S, replay_s: int = 600
    ) -> None:
        self._rows = rows
        self._secret = secret
        self._clock = clock
        self._lifetime_us = lifetime_s * 1_000_000
        self._replay_us = replay_s * 1_000_000

    def ours(self, caller: Caller, kind: IdKind, theirs: str) -> str:
        """Return the id that stands for an upstream id towards this caller: its digest; makes and reads no row."""
        mac = self._mac((kind, caller.tenant, caller.subject, caller.client, caller.agent, theirs))
        return shaped(mac)

    def shown(self, caller: Caller, kind: IdKind, theirs: str) -> str:
        """Return the id that an upstream id is shown under: the one it was `adopt`ed under, or else `ours`."""
        ours = self.ours(caller, kind, theirs)
        row = self._rows.get(caller.tenant, f"{caller.agent}/{kind}/by/{ours}")
        return ours if row is None else row.value.decode()

    def claim(self, caller: Caller, kind: IdKind, theirs: str) -> str:
        """Return the id that it is shown under and note that it leads back.

        Raises Malformed("agent_response") when the upstream id is another caller's.
        """
        ours = self.ours(caller, kind, theirs)
        self._own(caller, kind, theirs, ours)
        alias = self._rows.get(caller.tenant, f"{caller.agent}/{kind}/by/{ours}")
        if alias is None:
            return ours
        self._alias(caller, kind, alias.value.decode(), theirs, ours)  # lives as long as what it stands for
        return alias.value.decode()

    def adopt(self, caller: Caller, kind: IdKind, own: str, theirs: str) -> str:
        """Return the id that an upstream id is shown under from now on: ``own``, if nobody was shown it before.

        own: an id that we gave the caller before there was an agent's. It leads to the upstream id in any case.
        Raises Malformed("agent_response") as `claim`, and for a task that is not new: one task has one id.
        """
        ours = self.ours(caller, kind, theirs)
        new = self._own(caller, kind, theirs, ours)
        if kind == "task" and not new:
            raise Malformed("agent_response", "an old task for a new message")
        if new:
            self._alias(caller, kind, own, theirs, ours)
            return own
        until = self._clock.now_us() + self._lifetime_us
        self._rows.put(caller.tenant, self._as(caller, kind, own), theirs.encode(), expires_us=until)
        return self.shown(caller, kind, theirs)

    def _own(self, caller: Caller, kind: IdKind, theirs: str, ours: str) -> bool:
        """Note whose an upstream id is; return whether it is new. Raises Malformed("agent_response")."""
        until = self._clock.now_us() + self._lifetime_us
        owner = f"{caller.agent}/{kind}/of/{self._mac((theirs,))[:32]}"
        new = True
        try:
            self._rows.put(NODE, owner, ours.encode(), expires_us=until, if_version=0)
        except Conflict:
            new = False
            known = self._rows.get(NODE, owner)
            if known is None or not hmac.compare_digest(known.value, ours.encode()):
                raise Malformed("agent_response", "an id of another caller") from None
        self._rows.put(caller.tenant, f"{caller.agent}/{kind}/is/{ours}", theirs.encode(), expires_us=until)
        return new

    def _alias(self, caller: Caller, kind: IdKind, own: str, theirs: str, ours: str) -> None:
        until = self._clock.now_us() + self._lifetime_us
        self._rows.put(caller.tenant, self._as(caller, kind, own), theirs.encode(), expires_us=until)
        self._rows.put(caller.tenant, f"{caller.agent}/{kind}/by/{ours}", own.encode(), expires_us=until)

    def _as(self, caller: Caller, kind: IdKind, own: str) -> str:
        """Return the key of an alias: whoever does not own it asks for another row."""
        return f"{caller.agent}/{kind}/as/{self.owned(caller, (kind, own))}"

    def owned(self, caller: Caller, parts: Iterable[str]) -> str:
        """Return 32 hex characters that stand for something of one caller's and nobody else's."""
        return self._mac(("owned", caller.tenant, caller.subject, caller.client, caller.agent, *parts))[:32]

    def theirs(self, caller: Caller, kind: IdKind, ours: str) -> str:
        """Return the upstream id behind one of the caller's own ids; raises Malformed("task_unknown")."""
        if len(ours) != 36 or not set(ours.replace("-", "")) <= _HEX:
            raise Malformed("task_unknown")
        row = self._rows.get(caller.tenant, f"{caller.agent}/{kind}/is/{ours}")
        if row is None:
            alias = self._rows.get(caller.tenant, self._as(caller, kind, ours))
            if alias is None:
                raise Malformed("task_unknown")
            return alias.value.decode()
        theirs = row.value.decode()
        if not hmac.compare_digest(self.ours(caller, kind, theirs), ours):
            raise Malformed("task_unknown")
        return theirs

    def all_theirs(self, caller: Caller, kind: IdKind, ours: Iterable[str]) -> tuple[str, ...]:
        """Return the upstream ids behind several; raises Malformed("task_unknown")."""
        return tuple(self.theirs(caller, kind, one) for one in ours)

    def first(self, caller: Caller, message_id: str) -> str:
        """Note that a message is about to be sent, once; return the key for `undo`.

        Raises Malformed("message_replayed") within the replay window (A2A-03, GW-24).
        """
        if not self._replay_us:
            return ""
        key = self._message(caller, message_id)
        try:
            self._rows.put(caller.tenant, key, b"1", expires_us=self._clock.now_us() + self._replay_us, if_version=0)
        except Conflict:
            raise Malformed("message_replayed") from None
        return key

    def undo(self, caller: Caller, key: str) -> None:
        """Forget a message that never left."""
        if key:
            self._rows.delete(caller.tenant, key)

    def keep(self, caller: Caller, message_id: str, task_id: str, until_us: int) -> None:
        """Note in which task of ours a message waits. task_id: "" for one that has left, and may not come again."""
        if self._replay_us:
            until_us = until_us if task_id else self._clock.now_us() + self._replay_us
            value = task_id.encode() or b"1"
            self._rows.put(caller.tenant, self._message(caller, message_id), value, expires_us=until_us)

    def forget(self, caller: Caller, message_id: str) -> None:
        """Forget a message that waited and will not leave."""
        self.undo(caller, self._message(caller, message_id))

    def waits_in(self, caller: Caller, message_id: str) -> str:
        """Return the task of ours in which a message waits (`keep`), or ""."""
        row = self._rows.get(caller.tenant, self._message(caller, message_id))
        return "" if row is None or row.value == b"1" else row.value.decode()

    def _message(self, caller: Caller, message_id: str) -> str:
        return f"{caller.agent}/message/{self._mac((caller.subject, caller.client, message_id))[:32]}"

    def _mac(self, parts: Iterable[str]) -> str:
        # Each part carries its length: no two lists of parts have one encoding.
        data = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
        return hmac.new(self._secret, b"a2a-id\x00" + data, hashlib.sha256).hexdigest()


def shaped(digits: str) -> str:
    """Return the first 32 hex digits in the shape of a UUID."""
    text, out = digits[:32], []
    for length in _SHAPE:
        out.append(text[:length])
        text = text[length:]
    return "-".join(out)


@dataclass(slots=True)
class Progress:
    """The order of one answer or stream: feed each event before it goes on.

    task_id, context_id: upstream ids the request named, or "". A stream is one message, or a task
    and its updates; nothing of another task, nothing after a terminal state.
    """

    task_id: str = ""
    context_id: str = ""
    state: str = ""
    started: bool = False
    ended: bool = False
    artifacts: set[str] = field(default_factory=set)

    def feed(self, event: Event) -> None:
        """Advance; raises Malformed("agent_response") for an event that may not come now."""
        if self.ended:
            raise _wrong("after the end")
        if event.kind == "message":
            if self.started:
                raise _wrong("a message inside a task")
            self._same(event.task_id, event.context_id)
            self.started = self.ended = True
            return
        if event.kind != "task" and not self.started:
            raise _wrong("an update before its task")
        self._same(event.task_id, event.context_id)
        self.started = True
        self.task_id = event.task_id
        self.context_id = event.context_id or self.context_id
        if event.kind == "artifactUpdate":
            self._artifact(event)
        if event.state:
            if event.state == FIRST_ONLY and self.state not in ("", FIRST_ONLY):
                raise _wrong("back to the first state")
            self.state = event.state
            self.ended = event.state in TERMINAL
        if event.kind == "task":
            shown = event.body.get("artifacts")
            self.artifacts |= (
                {str(a["artifactId"]) for a in shown if isinstance(a, dict)} if isinstance(shown, list) else set()
            )

    def _same(self, task_id: str, context_id: str) -> None:
        if self.task_id and task_id and task_id != self.task_id:
            raise _wrong("another task")
        if self.context_id and context_id and context_id != self.context_id:
            raise _wrong("another context")

    def _artifact(self, event: Event) -> None:
        artifact = event.body["artifact"]
        name = str(artifact["artifactId"]) if isinstance(artifact, dict) else ""
        if event.body.get("append") is True:
            if name not in self.artifacts:
                raise _wrong("more of an artifact that was never begun")
        elif len(self.artifacts) >= HISTORY:
            raise _wrong("too many artifacts")
        self.artifacts.add(name)


def _wrong(detail: str) -> Malformed:
    return Malformed("agent_response", detail)
