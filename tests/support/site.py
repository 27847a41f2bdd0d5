"""A web site with a certificate on loopback, and a dialler that reaches it: what leaves us is looked at on the wire."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from firewall.core.action import Headers
from firewall.net.dial import Dialler, Fetched, Network, Purpose
from tests.net.certificates import Files

Behaviour = Callable[["Site", asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Site:
    """A site: what it says by path, and what was asked of it."""

    files: Files
    port: int = 0
    answers: dict[str, bytes | Behaviour] = field(default_factory=dict)
    heads: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    sent: int = 0
    open: int = 0
    most_open: int = 0

    def says(self, path: str, body: bytes, *headers: str, status: str = "200 OK") -> None:
        head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "content-type: application/json", *headers]
        self.answers[path] = "\r\n".join(head).encode() + b"\r\n\r\n" + body

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            path = head.split(b" ")[1].decode()
            answer = self.answers.get(path, b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(self, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def site(files: Files) -> AsyncIterator[Site]:
    """Serve a site with the server certificate of `tests.net.certificates.authority`."""
    made = Site(files)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    context.sni_callback = lambda _sock, name, _context: made.names.append(name)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


class LoopbackFetcher:
    """The real dialler and fetcher, allowed onto loopback and trusting the test authority; nothing else is changed."""

    def __init__(self, dialler: Dialler, files: Files) -> None:
        self._dialler = dialler
        self._files = files
        self.asked: list[str] = []

    async def fetch(
        self,
        purpose: Purpose,
        url: str,
        *,
        network: Network = "public",
        max_bytes: int,
        timeout_s: float,
        headers: Headers = (),
        ca_file: str = "",
    ) -> Fetched:
        self.asked.append(url)
        return await self._dialler.fetch(
            purpose,
            url,
            network="loopback",
            max_bytes=max_bytes,
            timeout_s=timeout_s,
            headers=headers,
            ca_file=str(self._files.ca),
        )

    async def close(self) -> None:
        await self._dialler.close()
