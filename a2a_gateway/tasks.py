"""Task and context ids: whose they are, what they are called here, and in which order things happen.

The agent behind us sees one caller, us; so ownership is kept here (a2a reference §5.2):

- An id of ours is a keyed digest of (tenant, subject, client, agent, kind, upstream id): one
  object has one id for its owner, it cannot be guessed, and for anyone else it means nothing.
- An id that leads back to an upstream id stands in the collection; whether it is the caller's own
  is checked by making it again, so that no second copy of the owner exists to disagree with.
- The first caller to whom an agent shows an id owns it; an agent that shows it to a second one is
  in error (context and task smuggling, A2A-03).
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
        """Return the id that stands for an upstream id towards this caller; makes no row."""
        mac = self._mac((kind, caller.tenant, caller.subject, caller.client, caller.agent, theirs))
        text, out = mac[:32], []
        for length in _SHAPE:
            out.append(text[:length])
            text = text[length:]
        return "-".join(out)

    def claim(self, caller: Caller, kind: IdKind, theirs: str) -> str:
        """Return our id and note that it leads back.

        Raises Malformed("agent_response") when the upstream id is another caller's.
        """
        ours = self.ours(caller, kind, theirs)
        until = self._clock.now_us() + self._lifetime_us
        owner = f"{caller.agent}/{kind}/of/{self._mac((theirs,))[:32]}"
        try:
            self._rows.put(NODE, owner, ours.encode(), expires_us=until, if_version=0)
        except Conflict:
            known = self._rows.get(NODE, owner)
            if known is None or not hmac.compare_digest(known.value, ours.encode()):
                raise Malformed("agent_response", "an id of another caller") from None
        self._rows.put(caller.tenant, f"{caller.agent}/{kind}/is/{ours}", theirs.encode(), expires_us=until)
        return ours

    def theirs(self, caller: Caller, kind: IdKind, ours: str) -> str:
        """Return the upstream id behind one of the caller's own ids; raises Malformed("task_unknown")."""
        if len(ours) != 36 or not set(ours.replace("-", "")) <= _HEX:
            raise Malformed("task_unknown")
        row = self._rows.get(caller.tenant, f"{caller.agent}/{kind}/is/{ours}")
        if row is None:
            raise Malformed("task_unknown")
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
        mac = self._mac((caller.subject, caller.client, message_id))[:32]
        key = f"{caller.agent}/message/{mac}"
        try:
            self._rows.put(caller.tenant, key, b"1", expires_us=self._clock.now_us() + self._replay_us, if_version=0)
        except Conflict:
            raise Malformed("message_replayed") from None
        return key

    def undo(self, caller: Caller, key: str) -> None:
        """Forget a message that never left."""
        if key:
            self._rows.delete(caller.tenant, key)

    def _mac(self, parts: Iterable[str]) -> str:
        # Each part carries its length: no two lists of parts have one encoding.
        data = b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)
        return hmac.new(self._secret, b"a2a-id\x00" + data, hashlib.sha256).hexdigest()


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
