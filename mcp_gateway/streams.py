"""The numbered streams of a legacy session, and what is kept of them for a client that comes back.

    Stream     one numbered stream; ``<session>.<stream>.<number>`` is an event's id
    Journal    the kept events of one session, bounded
    resume     writes them again, each decided again

Kept events are bytes of an earlier decision, so each is decided about again before it is sent a second
time (DESIGN §6b-4). One that the journal had to forget makes its stream unknown from there on: a stream
with a gap would be another message.

Source: MCP 2025-11-25 transports (resumability, polling; SEP-1699).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, replace
from typing import Final

from firewall.core.action import Action, Resource
from firewall.core.bounds import KIB, MIB
from firewall.core.errors import Malformed, StateUnavailable
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.wire import strict_json
from mcp_gateway.pipe import Pipe

RETRY_MS: Final = 1_000
KEPT_EVENTS: Final = 512
KEPT_BYTES: Final = 2 * MIB
OVERHEAD: Final = 1 * KIB  # what a kept event costs beside its bytes
PRIMED: Final = frozenset({"2025-11-25"})  # revisions whose clients can read an event without data


@dataclass(slots=True)
class Kept:
    """One event that may be sent again. action: None for our own words, whose reply is kept instead."""

    line: Stream
    number: int
    payload: bytes
    action: Action | None
    reply: FixedReply | None

    @property
    def cost(self) -> int:
        """What keeping it costs, bytes."""
        return len(self.payload) + OVERHEAD


class Budget:
    """Bytes that all journals of a worker may keep together."""

    __slots__ = ("left",)

    def __init__(self, total: int) -> None:
        self.left = total


class Journal:
    """The kept events of one session, oldest first; bounded in number and bytes."""

    __slots__ = ("_budget", "_bytes", "kept")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = 0
        self.kept: list[Kept] = []  # an empty deque is ten times as large

    def keep(self, event: Kept) -> None:
        """Keep an event; forget the oldest ones, or this one, where there is no room."""
        while self.kept and (
            len(self.kept) >= KEPT_EVENTS or self._bytes + event.cost > KEPT_BYTES or event.cost > self._budget.left
        ):
            self._forget(self.kept.pop(0))
        if event.cost > KEPT_BYTES or event.cost > self._budget.left:
            event.line.lost = event.number
            return
        self._bytes += event.cost
        self._budget.left -= event.cost
        self.kept.append(event)

    def drop(self, line: Stream | None = None) -> None:
        """Forget the events of one stream, or all."""
        for event in [e for e in self.kept if line is None or e.line is line]:
            self.kept.remove(event)
            self._forget(event)

    def _forget(self, event: Kept) -> None:
        event.line.lost = event.number
        self._bytes -= event.cost
        self._budget.left += event.cost


class Stream:
    """One numbered stream of a session: the answer to one POST, or what one GET opened.

    lost: the last event that can no longer be sent again. about: present facts for a replay's decision.
    """

    __slots__ = ("_journal", "_pipe", "_tag", "about", "done", "done_ns", "last", "lost", "number")

    def __init__(self, tag: str, number: int, journal: Journal) -> None:
        self._tag = tag
        self._journal = journal
        self._pipe: Pipe | None = None
        self.number = number
        self.last = 0
        self.lost = 0
        self.done = False
        self.done_ns = 0
        self.about: Callable[[], Resource] | None = None

    @property
    def pipe(self) -> Pipe | None:
        """The response that it writes to, if one is open."""
        if self._pipe is not None and (self._pipe.over or self._pipe.ending):
            self._pipe = None
        return self._pipe

    def id_of(self, number: int) -> str:
        """Return the id of an event."""
        return f"{self._tag}.{self.number}.{number}"

    def attach(self, pipe: Pipe) -> None:
        """Write to this response from now on; an earlier one ends."""
        self.detach()
        self._pipe = pipe
        if self.done:
            pipe.end()

    def detach(self) -> None:
        """End the response, not the stream: what follows waits in the journal."""
        if self._pipe is not None:
            self._pipe.end()
            self._pipe = None

    def emit(self, item: Cleared | FixedReply) -> None:
        """Number an event, keep it, and write it where somebody reads."""
        self.last += 1
        if isinstance(item, Cleared):
            action = item.action.of(None) if item.action is not None else None
            kept = Kept(self, self.last, item.payload, action, None)
        else:
            kept = Kept(self, self.last, item.body, None, item)
        self._journal.keep(kept)
        if (pipe := self.pipe) is not None:
            pipe.put(item, self.id_of(self.last))

    def finish(self) -> None:
        """End the stream; whoever comes back still gets what was kept of it."""
        self.done = True
        self.detach()

    def after(self, number: int) -> Kept | None:
        """Return the next kept event. Raises Malformed("stream_unknown") where it was forgotten."""
        if number < self.lost:
            raise Malformed("stream_unknown")
        return next((e for e in self._journal.kept if e.line is self and e.number > number), None)


Recheck = Callable[[Action], Awaitable[Cleared | Refusal]]


async def resume(
    line: Stream,
    after: int,
    pipe: Pipe,
    *,
    recheck: Recheck,
    told: Callable[[Action, Refusal], FixedReply],
    questions: Container[str],
    primed: bool,
) -> None:
    """Write what a stream carried after an event, each event decided again, then what it carries from now on.

    recheck: decides about one Action. told: our words in place of a response that is refused now; a
    notification or a question that is refused now is left out, and so is a question that is not in
    ``questions`` any more. Where an event was forgotten meanwhile, the response breaks off.
    """
    line.detach()
    if primed:
        pipe.put(RETRY_MS, line.id_of(after))
    else:
        pipe.open()
    try:
        while (kept := line.after(after)) is not None and not pipe.over:
            after = kept.number
            item = kept.reply or await _again(kept, line, recheck, told, questions)
            if item is not None:
                pipe.put(item, line.id_of(after))
    except (Malformed, StateUnavailable):
        pipe.drop()
    line.attach(pipe)


async def _again(
    kept: Kept,
    line: Stream,
    recheck: Recheck,
    told: Callable[[Action, Refusal], FixedReply],
    questions: Container[str],
) -> Cleared | FixedReply | None:
    if kept.action is None:
        raise Malformed("stream_unknown")
    body = strict_json.loads(kept.payload)
    asks = isinstance(body, dict) and "method" in body
    if asks and isinstance(body, dict) and "id" in body and body["id"] not in questions:
        return None
    action = replace(kept.action, body=body, resource=_facts(kept.action.resource, line.about))
    verdict = await recheck(action)
    if isinstance(verdict, Cleared):
        return verdict
    return None if asks else told(action, verdict)


def _facts(then: Resource, about: Callable[[], Resource] | None) -> Resource:
    """Return a resource with its present facts; the verdict of a schema is a fact of the kept bytes."""
    now = about() if about is not None else None
    if now is None or (now.type, now.id) != (then.type, then.id):
        return then
    facts = dict(now.properties)
    if "schema" in then.properties:
        facts["schema"] = then.properties["schema"]
    return Resource(now.type, now.id, now.upstream, facts)
