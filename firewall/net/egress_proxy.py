"""The only way out for stdio children: a small forward proxy, one door (listening socket) per child.

CONNECT for TLS, absolute-form GET and HEAD for plain HTTP, one request per connection, nothing kept.
Who asks is known by the door, never by what is said through it. Each connection is put to the injected
``decide`` first, with the class of the address that it would reach, and dialled through the Dialler
under exactly that class; link-local, metadata and reserved addresses stay closed whatever it answers.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

from firewall.core.bounds import HEADER_COUNT, KIB, MIB
from firewall.core.errors import Malformed, UpstreamFault
from firewall.net.address import AddressClass, Network
from firewall.net.dial import Dialler
from firewall.net.runtime import Tasks
from firewall.wire.http import URL, is_field_value, is_token, parse_host, parse_url

Decide = Callable[[str, str, int, AddressClass], Awaitable[bool]]
"""(child, host, port, class of its addresses) → may it connect. An exception means no."""

_READ: Final = 64 * KIB
_NETWORKS: Final = frozenset({"public", "private", "loopback"})
_METHODS: Final = frozenset({b"GET", b"HEAD"})
# Fields about this hop (RFC 9110 7.6.1), and those that we write ourselves.
_DROPPED: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"host",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_REASONS: Final = {
    400: b"Bad Request",
    403: b"Forbidden",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    502: b"Bad Gateway",
    504: b"Gateway Timeout",
}


@dataclass(frozen=True, slots=True)
class EgressSettings:
    """connections: at once, per child. head_s, idle_s, total_s: seconds. max_bytes: one connection, each way."""

    connections: int = 64
    head_bytes: int = 16 * KIB
    head_s: float = 5.0
    idle_s: float = 60.0
    total_s: float = 600.0
    max_bytes: int = 256 * MIB


class _Stop(Exception):
    """End a connection with a status of ours."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Wanted:
    host: str
    port: int
    head: bytes  # what to send first; empty for CONNECT


class Door:
    """One child's listening socket. `close` ends it with everything that goes through it."""

    def __init__(self, child: str, server: asyncio.Server, tasks: Tasks) -> None:
        self.child = child
        self._server = server
        self._tasks = tasks

    @property
    def connections(self) -> int:
        """Connections under way."""
        return len(self._tasks)

    async def close(self) -> None:
        """Stop listening and drop every connection of the child."""
        self._server.close()
        await self._tasks.close()


class EgressProxy:
    """Opens doors. decide: see `Decide`; it is the enforcement call (point egress.connect)."""

    def __init__(self, dialler: Dialler, decide: Decide, settings: EgressSettings | None = None) -> None:
        self._dialler = dialler
        self._decide = decide
        self._settings = settings or EgressSettings()

    async def open(self, child: str, sock: socket.socket) -> Door:
        """Serve one child on a bound stream socket (`unix_door`, `loopback_door`, or one made in its namespace)."""
        tasks = Tasks()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if len(tasks) >= self._settings.connections:
                    raise RuntimeError("too many connections")
                tasks.spawn(self._serve(child, reader, writer), f"egress.{child}")
            except RuntimeError:
                writer.close()

        limit = self._settings.head_bytes
        if sock.family == socket.AF_UNIX:
            server = await asyncio.start_unix_server(connected, sock=sock, limit=limit)
        else:
            server = await asyncio.start_server(connected, sock=sock, limit=limit)
        return Door(child, server, tasks)

    async def _serve(self, child: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._settings.total_s):
                wanted = await self._wanted(reader)
                answers, upstream = await self._dial(child, wanted)
                if wanted.head:
                    upstream.write(wanted.head)
                else:
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await self._relay(reader, writer, answers, upstream, both=not wanted.head)
        except _Stop as stop:
            writer.write(
                b"HTTP/1.1 %d %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                % (stop.status, _REASONS[stop.status])
            )
        except (OSError, TimeoutError):
            pass  # a side is gone or too slow; both are closed below
        finally:
            for side in (writer, upstream):
                if side is not None:
                    side.close()

    async def _wanted(self, reader: asyncio.StreamReader) -> _Wanted:
        try:
            async with asyncio.timeout(self._settings.head_s):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            raise _Stop(408) from None
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise _Stop(400) from None
        return parse_proxy_request(head)

    async def _dial(self, child: str, wanted: _Wanted) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            found, addresses = await self._dialler.locate(wanted.host)
            allowed = await self._ask(child, wanted, found)
            if not allowed or found not in _NETWORKS:
                raise _Stop(403)
            return await self._dialler.connect_to(addresses, wanted.port, cast("Network", found))
        except UpstreamFault as fault:
            raise _Stop({"blocked_address": 403, "timeout": 504}.get(fault.code, 502)) from None

    async def _ask(self, child: str, wanted: _Wanted, found: AddressClass) -> bool:
        try:
            return await self._decide(child, wanted.host, wanted.port, found) is True
        except Exception:  # noqa: BLE001 -- an enforcer that fails has not permitted anything
            return False

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
        *,
        both: bool,
    ) -> None:
        tasks = Tasks()
        try:
            down = tasks.spawn(self._pump(answers, writer), "egress.down")
            if both:
                tasks.spawn(self._pump(reader, upstream), "egress.up")
            else:
                # No body may follow a GET: the child's side is read only to see it leave.
                gone = tasks.spawn(reader.read(1), "egress.gone")
                gone.add_done_callback(lambda _: down.cancel())
            await asyncio.wait({down})
        finally:
            await tasks.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        left = self._settings.max_bytes
        while left > 0:
            async with asyncio.timeout(self._settings.idle_s):
                chunk = await source.read(_READ)
                if not chunk:
                    break
                left -= len(chunk)
                sink.write(chunk)
                await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()


def parse_proxy_request(head: bytes) -> _Wanted:
    """Return what a proxy request asks for; raises _Stop 400 or 405. One spelling only, nothing repaired."""
    lines = head[:-4].split(b"\r\n")
    parts = lines[0].split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0") or len(lines) > HEADER_COUNT:
        raise _Stop(400)
    fields: list[tuple[bytes, bytes]] = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not is_token(name) or not is_field_value(value):
            raise _Stop(400)
        fields.append((name, value))
    method, target, _ = parts
    try:
        if method == b"CONNECT":
            host, port = parse_host(target)
            if port is None:
                raise _Stop(400)
            return _Wanted(host, port, b"")
        url = parse_url(target.decode("ascii"))
    except (Malformed, UnicodeDecodeError):
        raise _Stop(400) from None
    if method not in _METHODS:
        raise _Stop(405)
    if url.scheme != "http" or any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in fields):
        raise _Stop(400)
    return _Wanted(url.host, url.port, _request(method, url, fields))


def _request(method: bytes, url: URL, fields: list[tuple[bytes, bytes]]) -> bytes:
    named = b",".join(value for name, value in fields if name.lower() == b"connection").lower()
    dropped = _DROPPED | {option.strip(b" \t") for option in named.split(b",")}
    kept = b"".join(b"%b: %b\r\n" % field for field in fields if field[0].lower() not in dropped)
    return b"%b %b HTTP/1.1\r\nHost: %b\r\n%bConnection: close\r\n\r\n" % (
        method,
        url.target.encode(),
        url.authority.encode(),
        kept,
    )


def unix_door(path: str) -> socket.socket:
    """Return a bound unix socket that only its owner can reach; the path must not exist."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def loopback_door() -> socket.socket:
    """Return a socket bound to a free port of 127.0.0.1. Every local user can reach it: prefer `unix_door`."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock
