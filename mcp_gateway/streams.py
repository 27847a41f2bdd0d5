"""Event streams towards clients: the answer to a POST, and what a legacy client may take up again.

    Out         one answer: plain JSON, or a stream from the first notification on
    LegacyOut   the same inside a session: its events are numbered and wait for a client that left
    Stream      one numbered stream; ``<session>.<stream>.<number>`` is an event's id
    Pipe        the open HTTP response that a stream writes to at the moment, or none

A client that reads slowly never holds up an upstream: a pipe has a bounded queue, and beyond it the
pipe is dropped while the events stay in the journal. Kept events are bytes of an earlier decision;
`resume` decides about each again before it is sent a second time (DESIGN §6b-4). One that the journal
had to forget makes its stream unknown: a stream with a gap would be another message.

Source: MCP 2025-11-25 transports (resumability, polling; SEP-1699), 2026-07-28 transports.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from firewall.core.action import Action, Headers, Resource
from firewall.core.bounds import KIB, MIB
from firewall.core.errors import Malformed, StateUnavailable
from firewall.core.permit import Cleared, FixedReply, Refusal
from firewall.net import asgi
from firewall.net.runtime import Tasks
from firewall.wire import strict_json

if TYPE_CHECKING:
    from mcp_gateway.sessions import Session

KEEP_ALIVE_S: Final = 15.0
OPEN_AFTER_S: Final = 1.0  # a legacy answer that takes longer becomes a stream: its client may leave and come back
RETRY_MS: Final = 1_000
QUEUED_EVENTS: Final = 256
QUEUED_BYTES: Final = 1 * MIB  # beyond the event that is being written
PATIENCE_S: Final = 2.0  # how long a full queue may hold up what fills it
STALL_S: Final = 30.0  # one event's write; a reader that takes none of it for so long is gone
KEPT_EVENTS: Final = 512
KEPT_BYTES: Final = 2 * MIB
OVERHEAD: Final = 1 * KIB  # what a kept event costs beside its bytes
PRIMED: Final = frozenset({"2025-11-25"})  # revisions whose clients can read an event without data


class Out:
    """The answer to one POST: plain JSON, or a stream from the first notification on.

    streams: the client named ``text/event-stream`` first, so a cleared answer is a stream at once.
    about: returns the present facts of what a result is about, for a later replay.
    """

    def __init__(self, send: asgi.Send, tasks: Tasks, *, streams: bool = False) -> None:
        self._send = send
        self._tasks = tasks
        self._streams = streams
        self._stream: asgi.EventStream | None = None
        self._beat: asyncio.Task[None] | None = None
        self.about: Callable[[], Resource] | None = None
        self.done = False

    def begin(self) -> None:
        """Say that the upstream has been asked: from here on an answer needs no status of its own."""

    def let_go(self) -> None:
        """Let the client leave for a while, as the upstream did with us (SEP-1699); nothing for a modern one."""

    async def notice(self, cleared: Cleared) -> None:
        """Write a notification; the first one opens the stream."""
        if self._stream is None:
            self._stream = asgi.EventStream(self._send)
            await self._stream.open()
            self._beat = self._tasks.spawn(self._keep_alive(self._stream), "mcp.keep_alive")
        await self._stream.event(cleared, event="message")

    async def final(self, answer: Cleared | FixedReply, *, status: int = 200, extra: Headers = ()) -> None:
        """Write the response and end. status: of a plain cleared answer; a stream has sent its own by then."""
        self.done = True
        if self._stream is None and self._streams and isinstance(answer, Cleared) and status == 200:
            self._stream = asgi.EventStream(self._send)
            await self._stream.open(extra)
        if self._stream is None:
            await self._plain(answer, status, extra)
            return
        if isinstance(answer, Cleared):
            await self._stream.event(answer, event="message")
        else:
            await self._stream.fixed_event(answer, event="message")
        await self.end()

    async def end(self) -> None:
        """End without a response: the request was cancelled, and a cancelled request gets none."""
        self.done = True
        self.stop()
        if self._stream is None:
            self._stream = asgi.EventStream(self._send)
        await self._stream.close()

    def stop(self) -> None:
        """Stop the keep-alive; nobody reads any more."""
        if self._beat is not None:
            self._beat.cancel()

    async def _plain(self, answer: Cleared | FixedReply, status: int, extra: Headers) -> None:
        if isinstance(answer, Cleared):
            await asgi.write_cleared(self._send, answer, status=status, extra=extra)
        else:
            await asgi.write_fixed(self._send, answer)

    @staticmethod
    async def _keep_alive(stream: asgi.EventStream) -> None:
        with contextlib.suppress(RuntimeError, OSError):
            while True:
                await asyncio.sleep(KEEP_ALIVE_S)
                await stream.comment()


class LegacyOut(Out):
    """The answer to one POST of a session. A client that leaves cancels nothing: its events are kept."""

    def __init__(self, send: asgi.Send, tasks: Tasks, session: Session, *, streams: bool = False) -> None:
        super().__init__(send, tasks, streams=streams)
        self._session = session
        self._line: Stream | None = None
        self._pipe: Pipe | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """See Out.begin: an answer that takes a while becomes a stream for whoever can take one up again."""
        if self._line is None and self._timer is None and self._session.version in PRIMED:
            self._timer = asyncio.get_running_loop().call_later(OPEN_AFTER_S, lambda: self._open())

    def let_go(self) -> None:
        """See Out.let_go: the events from here on wait for a GET that names the last one."""
        if self._session.version in PRIMED and not self.done:
            self._open().detach()

    async def notice(self, cleared: Cleared) -> None:
        """Write a notification or a question; the first one opens the stream. A log below the set level is dropped."""
        if self._session.wants(cleared.body):
            line = self._open()
            line.emit(cleared)
            if (pipe := line.pipe) is not None:
                await pipe.room()

    async def final(self, answer: Cleared | FixedReply, *, status: int = 200, extra: Headers = ()) -> None:
        """See Out.final."""
        self.done = True
        self.stop()
        if self._line is None and self._streams and isinstance(answer, Cleared) and status == 200:
            self._open(extra)
        if self._line is None:
            await self._plain(answer, status, extra)
            return
        self._line.emit(answer)
        await self._close(self._line)

    async def end(self) -> None:
        """See Out.end."""
        self.done = True
        self.stop()
        if self._line is None:
            await super().end()
            return
        await self._close(self._line)

    def stop(self) -> None:
        """Start no stream any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _open(self, extra: Headers = ()) -> Stream:
        """Return the answer's stream, opened and primed once."""
        if self._line is None:
            self._line = self._session.new_stream()
            self._line.about = self.about
            self._pipe = Pipe(asgi.EventStream(self._send), self._tasks, extra=extra)
            self._line.attach(self._pipe)
            self._session.prime(self._line)
        return self._line

    async def _close(self, line: Stream) -> None:
        line.finish()
        if self._pipe is not None:
            await self._pipe.closed()


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


class Pipe:
    """One open SSE response. Its writer lives only while something waits; an idle pipe has no task.

    still: whether its caller may still be written to; asked before every event.
    on_closed: called once, when nothing more will be written.
    """

    __slots__ = (
        "_drained", "_events", "_extra", "_on_closed", "_queue", "_size", "_still", "_tasks", "_waiter", "_writer",
        "ending", "over",
    )  # fmt: skip

    def __init__(
        self,
        events: asgi.EventStream,
        tasks: Tasks,
        *,
        extra: Headers = (),
        still: Callable[[], bool] | None = None,
        on_closed: Callable[[], None] | None = None,
    ) -> None:
        self._events = events
        self._extra = extra
        self._tasks = tasks
        self._still = still
        self._on_closed = on_closed
        self._queue: deque[tuple[Cleared | FixedReply | int | None, str]] | None = None
        self._size = 0
        self._writer: asyncio.Task[None] | None = None
        self._drained: asyncio.Event | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.ending = False
        self.over = False

    def put(self, item: Cleared | FixedReply | int | None, event_id: str = "") -> None:
        """Queue an event, a priming event (its retry, milliseconds) or a keep-alive (None); drop a pipe that is full."""
        if self.over or self.ending:
            return
        if self._still is not None and not self._still():
            self.end()
            return
        waiting = len(self._queue) if self._queue else 0
        if waiting and (waiting >= QUEUED_EVENTS or self._size > QUEUED_BYTES):
            self.drop()
            return
        if item is None and self._writer is not None:
            return  # whoever has not read the last events needs no keep-alive
        if self._queue is None:
            self._queue = deque()
        self._size += _size(item)
        self._queue.append((item, event_id))
        self._wake()

    def open(self) -> None:
        """Send the head, whether or not there is an event yet."""
        self._wake()

    def end(self) -> None:
        """Write what waits, then close the response."""
        if not self.over and not self.ending:
            self.ending = True
            self._wake()

    def drop(self) -> None:
        """Write nothing more. What waits is lost to this response, and kept by the stream's journal."""
        if not self.over:
            self.over = True
            self._queue = None
            self._release()
            if self._writer is not None and self._writer is not asyncio.current_task():
                self._writer.cancel()
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)
            if self._on_closed is not None:
                self._on_closed()

    async def room(self) -> None:
        """Return when there is room again; a reader that makes none in `PATIENCE_S` is dropped, not waited for.

        Without this, what an upstream sends at once would fill the queue before its writer ever ran.
        """
        if self._queue and (len(self._queue) > QUEUED_EVENTS // 2 or self._size > QUEUED_BYTES // 2):
            self._drained = asyncio.Event()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._drained.wait()
            except TimeoutError:
                self.drop()

    async def closed(self) -> None:
        """Return when nothing more will be written."""
        if not self.over:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _release(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def _wake(self) -> None:
        if self._writer is None:
            self._writer = self._tasks.spawn(self._write(), "mcp.write")

    async def _write(self) -> None:
        events = self._events
        try:
            async with asyncio.timeout(None) as limit:
                loop = asyncio.get_running_loop()
                limit.reschedule(loop.time() + STALL_S)
                if not events.opened:
                    await events.open(self._extra)
                while self._queue:
                    item, event_id = self._queue.popleft()
                    self._size -= _size(item)
                    limit.reschedule(loop.time() + STALL_S)
                    if isinstance(item, Cleared):
                        await events.event(item, event="message", id=event_id)
                    elif isinstance(item, FixedReply):
                        await events.fixed_event(item, event="message", id=event_id)
                    elif item is None:
                        await events.comment()
                    else:
                        await events.prime(event_id, item)
                self._queue = None
                self._release()
                if self.ending:
                    await events.close()
            self._writer = None
            if self.ending:
                self.drop()
        except BaseException as error:
            self._writer = None
            self.drop()
            if not isinstance(error, (TimeoutError, RuntimeError, OSError)):
                raise


def _size(item: Cleared | FixedReply | int | None) -> int:
    if isinstance(item, Cleared):
        return len(item.payload)
    return len(item.body) if isinstance(item, FixedReply) else 0


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
            action = replace(item.action, body=None) if item.action is not None else None
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
