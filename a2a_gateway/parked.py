"""Messages that wait for their caller to connect an account, as tasks of our own: rows, bounds, transitions.

    parked ──▶ started ──▶ (adopted: the agent's task, under the same id; the row is gone)
      │  ▲        │
      │  └────────┤ nothing was sent
      ▼           ▼
    canceled    failed | answered

- A row holds what was asked, sealed (AES-256-GCM, `firewall.state.vault`), under a key that is a digest of
  task id and owner (tenant, subject, client, agent): who does not own it asks for another row.
- INVARIANT: ``parked`` → ``started`` is one compare-and-set in the store that the node's workers share, and
  nothing leads back but the word that nothing was sent. A message leaves at most once.
- The state authorizes nothing (A2A §7.6.4): it says where a message waits. Whether there is a credential is
  the broker's to say, whether the message may go the guard's, both anew.
- Bounds: bytes of one message, tasks parked within a lifetime by one person, in one tenant and on the node. What
  does not fit is not parked, and its caller is told the plain error.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from a2a_gateway.message import Event, Send
from a2a_gateway.tasks import NODE, Caller, TaskBook, shaped
from firewall.core.bounds import KIB, STREAM_TOTAL_S
from firewall.core.errors import FAULTS, Conflict, Malformed, StateUnavailable
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock, Collection
from firewall.wire import strict_json

State = Literal["parked", "started", "failed", "canceled", "answered"]

TASK_STATES: Final[dict[State, str]] = {
    "parked": "TASK_STATE_AUTH_REQUIRED",
    "started": "TASK_STATE_WORKING",
    "failed": "TASK_STATE_FAILED",
    "canceled": "TASK_STATE_CANCELED",
    "answered": "TASK_STATE_COMPLETED",
}
ENDED: Final[frozenset[State]] = frozenset({"failed", "canceled", "answered"})
# What is said of a task whose worker or caller went away between start and answer.
INTERRUPTED: Final = "interrupted"
INTERRUPTED_TEXT: Final = "It is not known whether the agent received the message; it is not sent again."
CONNECT: Final = "/upstream/connect/"
PURPOSE: Final = "a2a.parked"
_CALL_US: Final = int(STREAM_TOTAL_S * 1_000_000)
_ASK: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class Seals(Protocol):
    """What `firewall.state.vault.Sealer` does."""

    def seal(self, purpose: str, tenant: str, value: JSON, *, ttl_s: int, owner: str = "") -> str:
        """Return a token; raises Malformed("handle_too_large")."""

    def open(self, purpose: str, tenant: str, token: str, *, owner: str = "") -> JSON:
        """Return what was sealed; raises Malformed("handle_invalid")."""


@dataclass(frozen=True, slots=True)
class ParkingSettings:
    """Seconds that a task waits and is remembered; bytes of one message as JSON; tasks begun within that time."""

    lifetime_s: int = 3600
    message_bytes: int = 32 * KIB
    per_person: int = 16
    per_tenant: int = 256
    per_node: int = 1024


@dataclass(frozen=True, slots=True)
class Parked:
    """One task of ours.

    since_us: of its state. until_us: when it is forgotten. own_context: whether we made the context's id. sealed: the
    message and what else was asked. why: a fault's code for ``failed``. version: of its row.
    """

    task_id: str
    context_id: str
    state: State
    since_us: int
    until_us: int
    own_context: bool
    message_id: str
    sealed: str
    why: str = ""
    version: int = 0

    @property
    def text(self) -> str:
        """Why it failed, in our own fixed words; "" otherwise."""
        if self.why == INTERRUPTED:
            return INTERRUPTED_TEXT
        return FAULTS[self.why].text if self.why in FAULTS else ""


@dataclass(frozen=True, slots=True)
class Asked:
    """What waits. params: as they were read, with the caller's ids. extensions: that the request activated."""

    params: JSONObject
    extensions: tuple[str, ...] = ()


class Parking:
    """The parked tasks of a node. Shares the rows of ``book``; raises StateUnavailable where they cannot be had."""

    def __init__(
        self,
        rows: Collection,
        book: TaskBook,
        sealer: Seals,
        clock: Clock,
        token_bytes: Callable[[int], bytes],
        settings: ParkingSettings | None = None,
    ) -> None:
        self._rows = rows
        self._book = book
        self._sealer = sealer
        self._clock = clock
        self._settings = settings or ParkingSettings()
        self._token_bytes = token_bytes

    def park(self, caller: Caller, asked: Asked, read: Send) -> Parked | None:
        """Return a new task in which a message waits; None where it is too large or there are too many."""
        if len(strict_json.dumps(asked.params)) > self._settings.message_bytes or not self._room(caller):
            return None
        now_us = self._clock.now_us()
        until_us = now_us + self._settings.lifetime_s * 1_000_000
        task_id = shaped(self._token_bytes(16).hex())
        context_id = read.context_id or shaped(self._token_bytes(16).hex())
        value: JSON = {"params": asked.params, "extensions": list(asked.extensions)}
        sealed = self._seal(caller, task_id, value)
        if not sealed:
            return None
        parked = Parked(task_id, context_id, "parked", now_us, until_us, not read.context_id, read.message_id, sealed)
        parked = replace(parked, version=self._put(caller, parked, if_version=0))
        self._book.keep(caller, read.message_id, task_id, until_us)
        return parked

    def find(self, caller: Caller, task_id: str) -> Parked | None:
        """Return a caller's own parked task, None for one that is unknown, over or another's."""
        entry = self._rows.get(caller.tenant, self._key(caller, task_id))
        if entry is None:
            return None
        parked = _read(task_id, entry.value, entry.version)
        if parked.state == "started" and self._clock.now_us() - parked.since_us > _CALL_US:
            return self.fail(caller, parked, INTERRUPTED)
        return parked

    def holding(self, caller: Caller, read: Send) -> Parked | None:
        """Return the task in which this very message waits: the same id, and all the rest of it the same too."""
        task_id = self._book.waits_in(caller, read.message_id)
        parked = self.find(caller, task_id) if task_id else None
        if parked is None or parked.state != "parked":
            return None
        same = strict_json.dumps(self.asked(caller, parked).params) == strict_json.dumps(read.params)
        return parked if same else None

    def asked(self, caller: Caller, parked: Parked) -> Asked:
        """Return what waits. Raises StateUnavailable for a row that does not open."""
        value = self._open(caller, parked)
        params, extensions = value.get("params"), value.get("extensions")
        if not isinstance(params, dict) or not isinstance(extensions, list):
            raise StateUnavailable("a parked task cannot be read")
        return Asked(params, tuple(str(uri) for uri in extensions))

    def told(self, caller: Caller, parked: Parked) -> JSONObject | None:
        """Return the message that an agent answered with, where it was kept."""
        if parked.state != "answered" or not parked.sealed:
            return None
        message = self._open(caller, parked).get("message")
        return message if isinstance(message, dict) else None

    # -- transitions ------------------------------------------------------------------------------------

    def start(self, caller: Caller, parked: Parked) -> Parked | None:
        """Return the task as started by this very call; None when another was first, or it is over."""
        if parked.state != "parked":
            return None
        # Remembered for longer than a call can last: nobody sends the same message anew beside it.
        until_us = max(parked.until_us, self._clock.now_us() + 2 * _CALL_US)
        started = self._move(caller, replace(parked, until_us=until_us), "started")
        if started is not None:
            self._book.keep(caller, parked.message_id, parked.task_id, until_us)
        return started

    def release(self, caller: Caller, parked: Parked) -> Parked:
        """Return a started task to where it was: nothing of it was sent."""
        return self._move(caller, parked, "parked") or parked

    def fail(self, caller: Caller, parked: Parked, why: str, *, left: bool = True) -> Parked:
        """End a task. why: a fault's code, or `INTERRUPTED`. left: its message may have been sent, and may not be again."""
        if left:
            self._book.keep(caller, parked.message_id, "", 0)
        else:
            self._book.forget(caller, parked.message_id)
        return self._move(caller, parked, "failed", sealed="", why=why) or parked

    def cancel(self, caller: Caller, parked: Parked) -> Parked | None:
        """End a task that waits; None when it does not wait any more."""
        canceled = self._move(caller, parked, "canceled", sealed="") if parked.state == "parked" else None
        if canceled is not None:
            self._book.forget(caller, parked.message_id)
        return canceled

    def answer(self, caller: Caller, parked: Parked, message: JSONObject | None, context_id: str) -> Parked:
        """End a task whose agent answered with a message. message: as its caller sees it; kept if it fits."""
        self._book.keep(caller, parked.message_id, "", 0)
        sealed = self._seal(caller, parked.task_id, {"message": message}) if message is not None else ""
        moved = self._move(caller, replace(parked, context_id=context_id), "answered", sealed=sealed)
        return moved or parked

    def adopt(self, caller: Caller, parked: Parked, event: Event) -> dict[tuple[str, str], str]:
        """Give the ids of a started task to what its agent showed; return (kind, upstream id) → our id.

        Where the agent has a task, there is none of ours any more. Raises Malformed("agent_response").
        """
        named: dict[tuple[str, str], str] = {}
        if event.context_id and parked.own_context:
            named["context", event.context_id] = self._book.adopt(
                caller, "context", parked.context_id, event.context_id
            )
        if event.kind == "task":
            named["task", event.task_id] = self._book.adopt(caller, "task", parked.task_id, event.task_id)
            self._book.keep(caller, parked.message_id, "", 0)
            self._rows.delete(caller.tenant, self._key(caller, parked.task_id))
        return named

    # -- inside -----------------------------------------------------------------------------------------

    def _move(
        self, caller: Caller, parked: Parked, state: State, *, sealed: str | None = None, why: str = ""
    ) -> Parked | None:
        kept = parked.sealed if sealed is None else sealed
        moved = replace(parked, state=state, since_us=self._clock.now_us(), sealed=kept, why=why)
        try:
            return replace(moved, version=self._put(caller, moved, if_version=parked.version))
        except Conflict:
            return None

    def _put(self, caller: Caller, parked: Parked, *, if_version: int) -> int:
        row: JSONObject = {
            "context_id": parked.context_id,
            "state": parked.state,
            "since_us": parked.since_us,
            "until_us": parked.until_us,
            "own_context": parked.own_context,
            "message_id": parked.message_id,
            "sealed": parked.sealed,
            "why": parked.why,
        }
        key = self._key(caller, parked.task_id)
        return self._rows.put(
            caller.tenant, key, strict_json.dumps(row), expires_us=parked.until_us, if_version=if_version
        )

    def _room(self, caller: Caller) -> bool:
        """Count one more task in this window of a lifetime; return whether there was room for it.

        What waits at once is at most twice a ceiling: two windows of it.
        """
        settings = self._settings
        now_us, span_us = self._clock.now_us(), settings.lifetime_s * 1_000_000
        window, until_us = now_us // span_us, (now_us // span_us + 1) * span_us
        person = self._book.owned(replace(caller, client="", agent=""), ("person",))
        taken: list[tuple[str, str]] = []
        for tenant, slot, ceiling in (
            (caller.tenant, person, settings.per_person),
            (caller.tenant, "tenant", settings.per_tenant),
            (NODE, "node", settings.per_node),
        ):
            key = f"~parked/{window}/{slot}"
            if self._rows.add(tenant, key, 1, ceiling=ceiling, expires_us=until_us) != 1:
                for where, other in taken:
                    self._rows.add(where, other, -1, ceiling=ceiling)
                return False
            taken.append((tenant, key))
        return True

    def _key(self, caller: Caller, task_id: str) -> str:
        return f"{caller.agent}/parked/{self._book.owned(caller, ('parked', task_id))}"

    def _seal(self, caller: Caller, task_id: str, value: JSON) -> str:
        with suppress(Malformed):  # too large for a sealed row
            return self._sealer.seal(PURPOSE, caller.tenant, value, ttl_s=0, owner=self._key(caller, task_id))
        return ""

    def _open(self, caller: Caller, parked: Parked) -> JSONObject:
        owner = self._key(caller, parked.task_id)
        try:
            value = self._sealer.open(PURPOSE, caller.tenant, parked.sealed, owner=owner)
        except Malformed:
            raise StateUnavailable("a parked task does not open") from None
        if not isinstance(value, dict):
            raise StateUnavailable("a parked task cannot be read")
        return value


def _read(task_id: str, data: bytes, version: int) -> Parked:
    row = strict_json.loads(data)
    match row:
        case {
            "context_id": str(context_id),
            "state": "parked" | "started" | "failed" | "canceled" | "answered" as state,
            "since_us": int(since_us),
            "until_us": int(until_us),
            "own_context": bool(own_context),
            "message_id": str(message_id),
            "sealed": str(sealed),
            "why": str(why),
        }:
            return Parked(task_id, context_id, state, since_us, until_us, own_context, message_id, sealed, why, version)
    raise StateUnavailable("a parked task cannot be read")


def own_link(link: str, public_url: str, agent: str) -> bool:
    """Return whether an address is exactly our own page where people connect an account at this agent."""
    page = f"{public_url}{CONNECT}{agent}"
    ask = link.removeprefix(f"{page}?ask=")
    return link == page or (ask != link and 0 < len(ask) <= 64 and set(ask) <= _ASK)
