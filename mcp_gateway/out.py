"""The answer to one POST: plain JSON, or a stream from the first notification on.

In the legacy era a stream is one of its session's: its events are numbered and wait for a client that
left (MCP 2025-11-25, resumability and polling; SEP-1699). In the modern era a broken stream is a lost
request (MCP 2026-07-28, transports).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Final

from firewall.core.action import Headers, Resource
from firewall.core.permit import Cleared, FixedReply
from firewall.net import asgi
from firewall.net.runtime import Tasks
from mcp_gateway.pipe import KEEP_ALIVE_S, Pipe
from mcp_gateway.session import Session
from mcp_gateway.streams import PRIMED, Stream

OPEN_AFTER_S: Final = 1.0  # a legacy answer that takes longer becomes a stream: its client may leave and come back


class Out:
    """The answer to one POST: plain JSON, or a stream from the first notification on.

    streams: the client named ``text/event-stream`` first, so a cleared answer is a stream at once.
    about: returns the present facts of what a result is about, for a later replay. on_open: told when a stream
    opens before there is a result.
    """

    def __init__(self, send: asgi.Send, tasks: Tasks, *, streams: bool = False) -> None:
        self._send = send
        self._tasks = tasks
        self._streams = streams
        self._stream: asgi.EventStream | None = None
        self._beat: asyncio.Task[None] | None = None
        self.about: Callable[[], Resource] | None = None
        self.on_open: Callable[[], None] | None = None
        self.done = False

    @property
    def streaming(self) -> bool:
        """Whether an event stream is open to the client."""
        return self._stream is not None

    def begin(self) -> None:
        """Say that the upstream has been asked: from here on an answer needs no status of its own."""

    def let_go(self) -> None:
        """Let the client leave for a while, as the upstream did with us (SEP-1699); nothing for a modern one."""

    async def notice(self, *cleared: Cleared) -> None:
        """Write notifications that are there together; the first one opens the stream."""
        if self._stream is None:
            self._stream = asgi.EventStream(self._send)
            await self._stream.open()
            self._beat = self._tasks.spawn(self._keep_alive(self._stream), "mcp.keep_alive")
            if self.on_open is not None:
                self.on_open()
        await self._stream.messages(cleared)

    def final(
        self, answer: Cleared | FixedReply, *, status: int = 200, extra: Headers = ()
    ) -> Coroutine[None, None, None]:
        """Write the response and end. status: of a plain cleared answer; a stream has sent its own by then."""
        self.done = True
        if isinstance(answer, Cleared):
            if self._stream is None and (not self._streams or status != 200):
                return asgi.write_cleared(self._send, answer, status=status, extra=extra)
        elif self._stream is None:
            return asgi.write_fixed(self._send, answer)
        return self._last(answer, extra)

    async def _last(self, answer: Cleared | FixedReply, extra: Headers) -> None:
        """Write the response as the stream's last event."""
        if self._stream is None:
            self._stream = asgi.EventStream(self._send)
            await self._stream.open(extra)
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

    @property
    def streaming(self) -> bool:
        """See Out.streaming; one that the client left for a while is not open."""
        return self._line is not None and self._line.pipe is not None

    def begin(self) -> None:
        """See Out.begin: an answer that takes a while becomes a stream for whoever can take one up again."""
        if self._line is None and self._timer is None and self._session.version in PRIMED:
            self._timer = asyncio.get_running_loop().call_later(OPEN_AFTER_S, lambda: self._open())

    def let_go(self) -> None:
        """See Out.let_go: the events from here on wait for a GET that names the last one."""
        if self._session.version in PRIMED and not self.done:
            self._open().detach()

    async def notice(self, *cleared: Cleared) -> None:
        """Write notifications or a question; the first one opens the stream. A log below the set level is dropped."""
        for one in cleared:
            if self._session.wants(one.body):
                line = self._open()
                line.emit(one)
                if (pipe := line.pipe) is not None:
                    await pipe.room()

    def final(
        self, answer: Cleared | FixedReply, *, status: int = 200, extra: Headers = ()
    ) -> Coroutine[None, None, None]:
        """See Out.final."""
        self.done = True
        self.stop()
        if self._line is None and self._streams and isinstance(answer, Cleared) and status == 200:
            self._open(extra)
        if self._line is None:
            return super().final(answer, status=status, extra=extra)
        self._line.emit(answer)
        return self._close(self._line)

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
            if self.on_open is not None and not self.done:
                self.on_open()
        return self._line

    async def _close(self, line: Stream) -> None:
        line.finish()
        if self._pipe is not None:
            await self._pipe.closed()
