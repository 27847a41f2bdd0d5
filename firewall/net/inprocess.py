"""Calls of an ASGI application in this process: the same road as a request from the network, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from firewall.core.bounds import UPSTREAM_BODY_BYTES
from firewall.core.errors import Malformed
from firewall.net.asgi import App, Message, Scope
from firewall.wire import sse

Write = Callable[[bytes], Awaitable[None]]


@dataclass(slots=True)
class Reply:
    """One call: what came back so far, and the way to leave it early (``left.set()`` is a client that went away).

    plain: the body, where it is no event stream. last: data of the newest event; event_id: its id.
    """

    body: bytes
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    plain: bytearray = field(default_factory=bytearray)
    parser: sse.Parser | None = None
    last: bytes = b""
    event_id: str = ""
    retry_s: float = 0.0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def answer(self) -> bytes:
        """The response, in whichever form it came."""
        return bytes(self.plain) or self.last


async def ask(
    app: App, verb: str, target: str, headers: Sequence[tuple[bytes, bytes]], reply: Reply, sink: Write
) -> None:
    """Call the application with ``reply.body``; fill the reply, and hand each event's data to ``sink`` as it comes.

    target: path, and query behind ``?``. Events without data (a priming event) carry their id and nothing else.
    Raises Malformed for a stream that is none, and whatever ``sink`` raises.
    """
    path, _, query = target.partition("?")
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": verb,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": list(headers),
        "client": None,
        "server": None,
    }
    read = False

    async def receive() -> Message:
        nonlocal read
        if not read:
            read = True
            return {"type": "http.request", "body": reply.body, "more_body": False}
        await reply.left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            reply.status = message["status"]
            reply.headers = {name.lower(): value for name, value in message["headers"]}
            if reply.headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                reply.parser = sse.Parser(UPSTREAM_BODY_BYTES)
            return
        body: bytes = message.get("body", b"")
        if reply.parser is None:
            reply.plain += body
            return
        for event in reply.parser.feed(body):
            if isinstance(event, Malformed):
                raise event
            reply.event_id = event.id or reply.event_id
            if event.retry_ms is not None:
                reply.retry_s = event.retry_ms / 1000
            if event.data:
                reply.last = event.data
                if not reply.left.is_set():
                    await sink(event.data)

    await app(scope, receive, send)
