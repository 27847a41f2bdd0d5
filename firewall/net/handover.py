"""Whole ASGI requests to the worker that owns their live state, and its answer back (DESIGN §6b-2).

The worker that a connection happened to reach reads and bounds the body, sees whose request it is, and
gives it on: method, target, header fields and the client's address, as its own edge made them true. The
owner treats it as if it had come to its own listener: it authenticates, decides, records and answers; the
asking worker decides nothing about it and writes only what the owner's writers wrote, byte for byte. The
token travels in that request on the private channel (`net.channel`) and nowhere else.

- A request is handed over once: what came by hand-over is answered where it is.
- A client that leaves closes the channel, and the owner sees ``http.disconnect``; an owner that ends
  closes it too. Then nothing was answered (`WorkerGone`: the caller says what that means in its
  protocol), or an answer under way is cut, as the client of a dead process would see it.
- Both directions wait for a slow reader: the owner's `send` returns when the asking worker has room,
  which has it when the client has.
- There is no time-out of the answer beside the owner's own: a stuck owner is killed by the watchdog, and
  its channels end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

import orjson

from firewall.core.bounds import HEADER_BYTES, HEADER_COUNT
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.net import asgi
from firewall.net.asgi import App, Message, Receive, Scope, Send
from firewall.net.channel import Channel, Kind, Peers, WorkerGone
from firewall.net.runtime import Tasks

SERVICE: Final = "http"
HANDED: Final = "bartizan.handed_over"  # a member of the scope, which no client can write
WATCH_AFTER_S: Final = 0.05  # most requests are over by then and need no task that watches for the client


class CutAnswer(Exception):
    """The owner ended within its answer; the server cuts the connection, so that the client sees it too."""


class Handover:
    """One worker's side: sends requests away with `to`, and serves those that come to it."""

    def __init__(self, peers: Peers, tasks: Tasks) -> None:
        self._peers = peers
        self._tasks = tasks
        self._app: App | None = None
        peers.offer(SERVICE, self._serve)

    @property
    def worker(self) -> int:
        """This worker's number; handles that it seals name it."""
        return self._peers.seat.index

    def use(self, app: App) -> None:
        """Give what comes by hand-over to an application, the one behind the edge of the data listener."""
        self._app = app

    async def to(self, worker: int, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Have another worker answer a request. body: all of it, already bounded.

        Raises WorkerGone before anything was sent to the client: unreachable, ended, no such worker, or the
        request was handed over before. Raises CutAnswer afterwards.
        """
        if scope.get(HANDED):
            raise WorkerGone("handed over before")
        channel = await self._peers.open(worker, SERVICE, _head(scope))
        whole = False
        watch = _Watch(self._tasks, receive, channel)
        try:
            await channel.send(Kind.DATA, body)
            whole = await _copy(channel, send)
        except (WorkerGone, CutAnswer):
            if not watch.left:
                raise
        finally:
            watch.stop()
            self._peers.done(worker, channel, whole=whole)

    async def _serve(self, channel: Channel, head: JSONObject) -> None:
        scope = _scope(head)
        body = await channel.expect(Kind.DATA)
        if self._app is None:
            raise WorkerGone("not ready")
        answer = _Answer(channel, body)
        # The answer may be whole while its application goes on: a client that was let go comes back later.
        work = self._tasks.spawn(_run(self._app, scope, answer), "net.handover.serve")
        try:
            await asyncio.wait({work, answer.over}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            work.cancel()
            raise
        if not answer.complete:
            raise WorkerGone("no whole answer")


async def _run(app: App, scope: Scope, answer: _Answer) -> None:
    with contextlib.suppress(Exception):  # an application's error: what it began ends here, as at a listener
        await app(scope, answer.receive, answer.send)


class _Answer:
    """The owner's ASGI side of one request."""

    __slots__ = ("_body", "_channel", "complete", "over")

    def __init__(self, channel: Channel, body: bytes) -> None:
        self._channel = channel
        self._body: bytes | None = body
        self.over = asyncio.get_running_loop().create_future()
        self.complete = False

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self.complete:
            await asyncio.wait({self._channel.lost, self.over}, return_when=asyncio.FIRST_COMPLETED)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._channel.lost.done() or self.complete:
            return  # nobody reads any more, as at a listener
        try:
            if message["type"] == "http.response.start":
                pairs = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in message.get("headers", ())]
                self._channel.put(Kind.HEAD, orjson.dumps([message["status"], pairs]))
                return
            body = message.get("body", b"")
            self.complete = not message.get("more_body", False)
            if body or self.complete:
                await self._channel.send(Kind.LAST if self.complete else Kind.DATA, body)
            if self.complete and not self.over.done():
                self.over.set_result(None)
        except WorkerGone:
            return


class _Watch:
    """Closes the channel when the client leaves. Starts its task only for requests that take a while."""

    __slots__ = ("_channel", "_receive", "_task", "_tasks", "_timer", "left")

    def __init__(self, tasks: Tasks, receive: Receive, channel: Channel) -> None:
        self._tasks = tasks
        self._receive = receive
        self._channel = channel
        self._task: asyncio.Task[None] | None = None
        self.left = False
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)

    def _start(self) -> None:
        with contextlib.suppress(RuntimeError):  # the worker is ending, and its channels with it
            self._task = self._tasks.spawn(self._run(), "net.handover.gone")

    async def _run(self) -> None:
        await asgi.disconnected(self._receive)
        self.left = True
        self._channel.close()

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


async def _copy(channel: Channel, send: Send) -> bool:
    """Write the owner's answer to the client. Raises WorkerGone before its head, CutAnswer after."""
    status, pairs = orjson.loads(await channel.expect(Kind.HEAD))
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    try:
        while True:
            kind, payload = await channel.receive()
            if kind not in (Kind.DATA, Kind.LAST):
                raise WorkerGone("a frame out of order")
            # INVARIANT: the last bytes and the end of the answer are one message. A client that has read the whole
            # length may send its next request at once; an answer that still lacked its end would make that pipelining.
            await send({"type": "http.response.body", "body": payload, "more_body": kind == Kind.DATA})
            if kind == Kind.LAST:
                break
    except WorkerGone:
        raise CutAnswer from None
    try:
        await channel.expect(Kind.END)
    except WorkerGone:
        return False  # the answer is whole; the channel carries no other
    return True


def _head(scope: Scope) -> JSONObject:
    client = scope.get("client") or ("", 0)
    headers: list[JSON] = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in scope["headers"]]
    return {
        "method": scope["method"],
        "path": scope["path"],
        "raw_path": scope.get("raw_path", scope["path"].encode()).decode("latin-1"),
        "query": scope.get("query_string", b"").decode("latin-1"),
        "scheme": scope.get("scheme", "http"),
        "client": [client[0], client[1]],
        "headers": headers,
    }


def _scope(head: JSONObject) -> Scope:
    """Return the scope of a handed-over request: nothing in it but what a listener of ours makes."""
    given: Any = head
    try:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given["headers"]]
        # The asking worker's listener held these bounds; they are held again, so that no code need know it.
        if len(headers) > HEADER_COUNT or sum(len(n) + len(v) for n, v in headers) > HEADER_BYTES:
            raise Malformed("headers_too_large")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": str(given["method"]),
            "scheme": str(given["scheme"]),
            "path": str(given["path"]),
            "raw_path": str(given["raw_path"]).encode("latin-1"),
            "query_string": str(given["query"]).encode("latin-1"),
            "root_path": "",
            "headers": headers,
            "client": (str(given["client"][0]), int(given["client"][1])),
            "server": None,
            HANDED: True,
        }
    except (KeyError, TypeError, ValueError, Malformed) as error:
        raise WorkerGone(type(error).__name__) from None
