"""A loopback HTTP server that misbehaves on demand: the path of the request names what goes wrong.

Raw sockets on purpose: a real server library would refuse to do most of this. Every connection ends
when the server is closed; nothing waits longer than the test that asked for it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def whole(body: bytes, extra: bytes = b"") -> bytes:
    return HEAD + extra + b"Content-Length: %d\r\n\r\n" % len(body) + body


# What is said at once, byte for byte; then the connection is closed.
SAYS: dict[str, bytes] = {
    "/cut-body": HEAD + b"Content-Length: 100\r\n\r\n{",
    "/cut-head": HEAD[:20],
    "/cut-chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
    "/cut-sse": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
    "/silent-close": b"",
    "/rubbish": b"\x16\x03\x01\x02\x00 this is not HTTP\r\n\r\n",
    "/bad-chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "/two-lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "/length-and-chunked": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "/huge-header": HEAD + b"X-Big: " + b"a" * 100_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    "/many-headers": HEAD + b"".join(b"X-%d: 1\r\n" % i for i in range(1000)) + b"Content-Length: 2\r\n\r\n{}",
    "/huge-length": HEAD + b"Content-Length: 1000000000\r\n\r\n{",
    "/gzip": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "/redirect": b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
    "/cookie": whole(b"{}", b"Set-Cookie: a=b\r\n"),
    "/error": b"HTTP/1.1 503 Oops\r\nContent-Length: 2\r\n\r\n{}",
}


@dataclass
class Seen:
    """What the server saw: raw request heads with bodies, and connections that the client closed early."""

    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)


class Misbehaving:
    """One server; `url(path)` names a behaviour."""

    def __init__(self) -> None:
        self.seen = Seen()
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._closing = asyncio.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._closing.set()
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen.connections += 1
        self._writers.add(writer)
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            self.seen.left.set()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        if path == "/early":  # the answer is out before the body is read
            writer.write(whole(b'{"early":true}'))
            await writer.drain()
            self.seen.requests.append(head)
            return False
        body = await reader.readexactly(_length(head))
        self.seen.requests.append(head + body)
        if path in SAYS:
            writer.write(SAYS[path])
            await writer.drain()
            return path in ("/cookie", "/error", "/redirect", "/gzip")
        if path == "/hang":
            await self._until_client_leaves(reader)
            return False
        if path == "/slow":  # one byte at a time, for ever
            writer.write(HEAD + b"Content-Length: 1000\r\n\r\n")
            while not self._closing.is_set():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
            return False
        if path == "/endless":
            writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            while not self._closing.is_set():
                writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                await writer.drain()
            return False
        if path == "/sse-then-hang":
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"
            )
            await self._until_client_leaves(reader)
            return False
        if path == "/sse":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            for number in range(3):
                event = b"data: %d\n\n" % number
                writer.write(b"%x\r\n" % len(event) + event + b"\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        writer.write(whole(body or b"{}"))  # a good server: the echo
        await writer.drain()
        return True

    async def _until_client_leaves(self, reader: asyncio.StreamReader) -> None:
        if await reader.read(1) == b"":
            self.seen.left.set()


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


@asynccontextmanager
async def misbehaving() -> AsyncIterator[Misbehaving]:
    """Run one server for the length of the block."""
    server = Misbehaving()
    await server.start()
    try:
        yield server
    finally:
        await server.close()
