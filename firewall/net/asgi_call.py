"""One request on its way through the application: its body in, the response out (ASGI 3, HTTP spec version 2.3).

The head of a response that says its length waits for the body, so that they leave in one piece; every other head leaves
at once. A body longer or shorter than its head said is an error of the application and ends the connection: nothing after
it could be framed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from typing import TYPE_CHECKING, Final

from firewall.core.errors import FAULTS
from firewall.net.asgi import App, Message, Scope
from firewall.net.edge import edge_words
from firewall.net.head import response_head

if TYPE_CHECKING:
    from firewall.net.protocol import StrictProtocol

_LOG: Final = logging.getLogger("bartizan.listener")
_HIGH_WATER: Final = 65536  # of a body that nobody takes; from there on the client waits
_RESET: Final = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER of no time: the peer is told that it was cut
_ONE_PIECE: Final = 65536  # beyond it a body is not copied to stand behind its head


class Call:
    """One request. The connection feeds it; the application gets `receive` and `send`."""

    __slots__ = (
        "_body",
        "_connection",
        "_expects",
        "_head",
        "_head_only",
        "_held",
        "_left",
        "_more",
        "_news",
        "_old",
        "_waiting",
        "complete",
        "disconnected",
        "keep_alive",
        "started",
        "task",
        "written",
    )

    def __init__(self, connection: StrictProtocol, keep_alive: bool, head_only: bool, expects: bool, old: bool) -> None:
        """old: the request was HTTP/1.0, which ends with its connection."""
        self._connection = connection
        self._head_only = head_only
        self._expects = expects  # the client waits for 100 Continue before it sends the body
        self._body: list[bytes] = []  # parts that nobody has taken; joined once, however small a client made them
        self._held = 0  # bytes in them
        self._more = True
        self._old = old
        self._news = False  # something arrived that `receive` has not told
        self._waiting: list[asyncio.Future[None]] = []
        self._head = b""  # of a response whose body is still to come
        self._left = 0  # bytes that the response still owes; below 0 as of `head.Framing`
        self.task: asyncio.Task[None] | None = None  # what runs it, one of the listener's until it ends
        self.keep_alive = keep_alive
        self.disconnected = False
        self.started = False
        self.written = False  # some of the response may have left
        self.complete = False

    # -- fed by the connection -------------------------------------------------------------------

    def feed(self, body: bytes) -> bool:
        """Take a part of the body; return whether the client should wait."""
        self._body.append(body)
        self._held += len(body)
        self._news = True
        if self._waiting:
            self.wake()
        return self._held > _HIGH_WATER

    def feed_end(self) -> None:
        """The body is whole."""
        self._more = False
        self._news = True
        if self._waiting:
            self.wake()

    def leave(self) -> None:
        """The client is gone, or sent what cannot be read: nothing more is told it."""
        self.disconnected = True
        self.wake()

    def wake(self) -> None:
        """Let whoever waits in `receive` look again."""
        self._news = True
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    # -- given to the application ----------------------------------------------------------------

    async def run(self, app: App, scope: Scope) -> None:
        """Call the application and make good what it leaves undone."""
        try:
            await app(scope, self.receive, self.send)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            self._fail()
            raise
        except BaseException as error:  # noqa: BLE001  a panic of a native library is no Exception
            # Where, never what: the text of an exception may quote whatever it failed on.
            _LOG.error("a request ended in an error of the application: %s", _place(error))
            self._fail()
        else:
            if not self.complete and not self.disconnected:
                _LOG.error("a request ended without a whole response")
                self._fail()
        finally:
            task, self.task = self.task, None
            if task is not None:  # a callback of the task's would cost a step of the loop
                self._connection.state.tasks.discard(task)

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client is gone or answered (``http.disconnect``)."""
        connection = self._connection
        if self._expects:
            self._expects = False
            nothing_came = self._more and not self._held
            if nothing_came and not self.disconnected and not connection.transport.is_closing():
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if connection.reading_paused:
            connection.resume_reading()
        while not (self._news or self.disconnected or self.complete):
            future = connection.loop.create_future()
            self._waiting.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future in self._waiting:
                    self._waiting.remove(future)
                raise
        if self.disconnected or self.complete:
            return {"type": "http.disconnect"}
        self._news = False
        parts, self._body, self._held = self._body, [], 0
        return {"type": "http.request", "body": b"".join(parts), "more_body": self._more}

    async def send(self, message: Message) -> None:
        """Send the head of the response, then its body. Raises RuntimeError where a message is out of turn."""
        connection = self._connection
        if connection.write_paused and not self.disconnected:
            await connection.drained()
        if self.disconnected:
            return
        if not self.started:
            if message["type"] != "http.response.start":
                raise RuntimeError("a response begins with its head")
            self._start(message)
        elif not self.complete:
            if message["type"] != "http.response.body":
                raise RuntimeError("a response has one head")
            self._continue(message.get("body", b""), bool(message.get("more_body", False)))
        else:
            raise RuntimeError("the response is complete")

    def _start(self, message: Message) -> None:
        connection = self._connection
        status = message["status"]
        if self._expects and self._more:
            # Never told to go on, the client may send its body or leave it out: what comes next has two readings.
            self.keep_alive = False
        head, self._left, close = response_head(
            status,
            message.get("headers", ()),
            date=connection.state.date,
            keep_alive=self.keep_alive,
            bodiless=self._head_only,
            old=self._old,
        )
        self.started, self._expects = True, False
        self.keep_alive = not close
        if self._left > 0:
            self._head = head
        else:
            self.written = True
            connection.transport.write(head)

    def _continue(self, body: bytes, more: bool) -> None:
        transport = self._connection.transport
        if self._head_only:
            body = b""
        elif self._left == -1:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        elif self._left >= 0 and len(body) > self._left:
            raise RuntimeError("the body is longer than its head says")
        elif self._left > 0:
            self._left -= len(body)
        if not more and self._left > 0:
            raise RuntimeError("the body is shorter than its head says")
        if self._head:
            head, self._head = self._head, b""
            if len(body) > _ONE_PIECE:
                transport.write(head)
            else:
                body = head + body
        if body:
            self.written = True
            transport.write(body)
        if not more:
            self.complete = True
            if self._waiting:
                self.wake()
            if not self.keep_alive:
                transport.close()
            self._connection.answered()

    def _fail(self) -> None:
        """Say that it went wrong where nothing was said yet, and end the connection."""
        if self.complete:
            return
        if not self.written and not self.disconnected:
            fault = FAULTS["internal"]
            body = edge_words(fault)
            headers = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
            head, _, _ = response_head(
                fault.status, headers, date=self._connection.state.date, keep_alive=False, bodiless=self._head_only
            )
            self._connection.transport.write(head + (b"" if self._head_only else body))
        self.started = self.complete = True
        self.wake()
        transport = self._connection.transport
        if self._left < -1:  # its end is the connection's: an orderly one would make a part of a body a whole one
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        else:
            transport.close()


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    at = f" at {trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{at}"
