"""The open HTTP response that a stream writes to: a bounded queue, and a writer that lives only while something waits.

A client that reads slowly never holds up an upstream for long: what fills the queue waits a moment for
its reader, then the pipe is dropped. Its stream lives on, and keeps what the client has not read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from firewall.core.action import Headers
from firewall.core.bounds import KIB, MIB
from firewall.core.permit import Cleared, FixedReply
from firewall.net import asgi
from firewall.net.runtime import Tasks

KEEP_ALIVE_S: Final = 15.0
QUEUED_EVENTS: Final = 256
QUEUED_BYTES: Final = 1 * MIB  # beyond the event that is being written
PATIENCE_S: Final = 2.0  # how long a full queue may hold up what fills it
PIECE_BYTES: Final = 64 * KIB  # of events that wait and are written in one go, or one event
STALL_S: Final = 30.0  # one piece's write; a reader that takes none of it for so long is gone


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
                    limit.reschedule(loop.time() + STALL_S)
                    if (piece := self._taken()) is not None:
                        await events.events(piece)
                        continue
                    item, event_id = self._queue.popleft()
                    if item is None:
                        await events.comment()
                    else:
                        assert isinstance(item, int)  # `_taken` takes everything else
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

    def _taken(self) -> list[tuple[Cleared | FixedReply, str, str]] | None:
        """Take the events that stand first in the queue, as much of them as one piece holds; None where none does."""
        piece: list[tuple[Cleared | FixedReply, str, str]] = []
        size = 0
        while self._queue and size < PIECE_BYTES:
            item, event_id = self._queue[0]
            if not isinstance(item, (Cleared, FixedReply)):
                break
            self._queue.popleft()
            size += _size(item)
            piece.append((item, "message", event_id))
        self._size -= size
        return piece or None


def _size(item: Cleared | FixedReply | int | None) -> int:
    if isinstance(item, Cleared):
        return len(item.payload)
    return len(item.body) if isinstance(item, FixedReply) else 0
