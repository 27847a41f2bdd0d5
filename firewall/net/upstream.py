"""The upstream port and its implementation: pooled HTTP/1.1 that sends Cleared and nothing else.

Rules: no redirects, no cookies, no proxies of the environment, no content codings, bounded answers,
one deadline per call, and only addresses that the dialler permits. What a peer did wrong becomes one
of six codes; its own words stay out of them.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Protocol, TypeAlias

from firewall.core.action import Headers
from firewall.core.errors import ConfigFault, Malformed, UpstreamFault
from firewall.core.permit import Cleared
from firewall.net.address import Network
from firewall.net.dial import Dialler
from firewall.net.http1 import Connection, Pool
from firewall.wire.http import URL, parse_url

Method: TypeAlias = Literal["POST", "GET", "DELETE"]
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # RFC 9110 5.6.2
# What frames or routes a request is written here and nowhere else.
_JSON: Final = (b"content-type", b"application/json")
_BLOCKS: Final = 256
_BLOCK_BYTES: Final = 1024
_OURS: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"accept-encoding", b"te"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where an upstream stands, from configuration alone; never from a message.

    url: absolute http(s) URL in normal form. network: the one class of address it may resolve to.
    ca_file: PEM bundle instead of the system's roots; client_cert, client_key: PEM files for mTLS.
    """

    url: str
    network: Network = "public"
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""


@dataclass(frozen=True, slots=True)
class UpstreamReply:
    """A whole answer; header names in lower case, the first of repeated ones."""

    status: int
    headers: dict[str, str]
    body: bytes


class UpstreamStream(Protocol):
    """An answer that is still arriving."""

    status: int
    headers: dict[str, str]

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield bytes as they come; raises UpstreamFault timeout, cut_stream, malformed. Read it once."""

    async def whole(self, max_bytes: int) -> bytes:
        """Return the rest in one piece; raises as `chunks`, and UpstreamFault too_large."""


class UpstreamClient(Protocol):
    """The port: two methods. Raises UpstreamFault: unreachable, timeout, malformed, too_large, cut_stream, blocked_address."""

    async def request(
        self,
        cleared: Cleared,
        target: Target,
        *,
        headers: Headers = (),
        deadline_s: float,
        max_bytes: int,
        method: Method = "POST",
    ) -> UpstreamReply:
        """Send the payload and return the whole answer within deadline_s (seconds) and max_bytes."""

    def stream(
        self,
        cleared: Cleared,
        target: Target,
        *,
        headers: Headers = (),
        deadline_s: float,
        idle_s: float,
        method: Method = "POST",
        lasting: bool = False,
    ) -> AbstractAsyncContextManager[UpstreamStream]:
        """Send the payload and yield the answer as it comes; leaving the block early cancels the upstream.

        deadline_s bounds the whole stream, idle_s the wait for its head and between two chunks. lasting: it stays
        open while nothing is under way, so its connection is none of those that calls wait for.
        """


class PooledClient:
    """UpstreamClient on `net.http1`: one pool per origin, network permission and TLS identity.

    Credentials are the caller's business: they travel in ``headers`` of one call and stay in no pool
    (HTTP/1.1 connections carry no identity of their own; TLS client certificates are part of the key).
    """

    def __init__(self, dialler: Dialler, *, connections: int = 100, streams: int = 1000) -> None:
        """connections, streams: of one origin at a time, for calls and for streams that last."""
        self._dialler = dialler
        self._limits = (connections, streams)
        self._places: dict[tuple[Target, bool], tuple[Pool, bytes]] = {}
        self._pools: dict[tuple[str, Network, str, str, str, bool], Pool] = {}
        self._blocks = _Blocks()

    async def request(
        self,
        cleared: Cleared,
        target: Target,
        *,
        headers: Headers = (),
        deadline_s: float,
        max_bytes: int,
        method: Method = "POST",
    ) -> UpstreamReply:
        """See UpstreamClient.request."""
        pool, place = self._place(target)
        until = pool.loop.time() + deadline_s
        message = self._blocks.written(cleared, headers, method, place)
        connection = await pool.take(until)
        try:
            connection.send(message)
            await connection.head(until)
            _check(connection)
            length = connection.headers.get("content-length", "")
            if length.isdigit() and int(length) > max_bytes:
                raise UpstreamFault("too_large")
            parts: list[bytes] = []
            total = 0
            while data := await connection.body(until):
                total += len(data)
                if total > max_bytes:
                    raise UpstreamFault("too_large")
                parts.append(data)
            body = parts[0] if len(parts) == 1 else b"".join(parts)
            return UpstreamReply(connection.status, connection.headers, body)
        finally:
            pool.give(connection)

    def stream(
        self,
        cleared: Cleared,
        target: Target,
        *,
        headers: Headers = (),
        deadline_s: float,
        idle_s: float,
        method: Method = "POST",
        lasting: bool = False,
    ) -> AbstractAsyncContextManager[UpstreamStream]:
        """See UpstreamClient.stream."""
        pool, place = self._place(target, lasting)
        return _Stream(pool, self._blocks.written(cleared, headers, method, place), deadline_s, idle_s)

    async def close(self) -> None:
        """Close every pool."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self._places.clear()

    def _place(self, target: Target, lasting: bool = False) -> tuple[Pool, bytes]:
        """Return a target's pool, and what stands in each of its requests: target, host, no coding.

        Streams that last have a pool of their own: callers that listen would leave none for those that call.
        """
        known = self._places.get((target, lasting))
        if known is not None:
            return known
        url = checked_url(target)
        key = (url.origin, target.network, target.ca_file, target.client_cert, target.client_key, lasting)
        pool = self._pools.get(key)
        if pool is None:
            tls = tls_of(target) if url.scheme == "https" else None
            pool = self._pools[key] = Pool(self._dialler, url, target.network, tls, limit=self._limits[lasting])
        line = f"{url.target} HTTP/1.1\r\nhost: {url.authority}\r\naccept-encoding: identity\r\n".encode("ascii")
        self._places[target, lasting] = (pool, line)
        return pool, line


class _Stream:
    """One exchange; an asynchronous context that is its own UpstreamStream."""

    __slots__ = (
        "_connection",
        "_deadline_s",
        "_ends_at",
        "_idle_s",
        "_loop",
        "_message",
        "_over",
        "_pool",
        "headers",
        "status",
    )

    def __init__(self, pool: Pool, message: bytes, deadline_s: float, idle_s: float) -> None:
        self._pool = pool
        self._message = message
        self._deadline_s = deadline_s
        self._idle_s = idle_s
        self._loop = pool.loop
        self._over = False
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> _Stream:
        now = self._loop.time()
        self._ends_at = now + self._deadline_s
        until = now + min(self._idle_s, self._deadline_s)
        pool = self._pool
        connection = self._connection = pool.kept() or await pool.opened(until)
        try:
            connection.send(self._message)
            await connection.head(until)
            _check(connection)
        except BaseException:
            pool.give(connection)
            raise
        self.status, self.headers = connection.status, connection.headers
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True  # the connection is somebody else's now
        # An answer that was not read to its end closes: the upstream sees that nobody reads on (MCP: cancelled).
        self._pool.give(self._connection)

    def chunks(self) -> AsyncIterator[bytes]:
        """See UpstreamStream.chunks."""
        return self

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        try:
            data = await self._connection.body(min(self._ends_at, self._loop.time() + self._idle_s))
        except BaseException:
            self._over = True
            raise
        if not data:
            self._over = True
            raise StopAsyncIteration
        return data

    async def whole(self, max_bytes: int) -> bytes:
        """See UpstreamStream.whole."""
        if self._over:
            raise UpstreamFault("cut_stream")
        self._over = True
        connection, loop = self._connection, self._loop
        parts = [connection.arrived()]  # nearly always all of it: it came with its head
        total = len(parts[0])
        while total <= max_bytes:
            if connection.read:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            data = await connection.body(min(self._ends_at, loop.time() + self._idle_s))
            total += len(data)
            parts.append(data)
        raise UpstreamFault("too_large")


class _Blocks:
    """Writes requests. Header fields that were checked and written once are kept, since most requests bear the same.

    Kept is what was made from a cleared body, never a credential; `_BLOCKS` of them, of `_BLOCK_BYTES` each at most.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[Headers, tuple[frozenset[bytes], bytes]] = {}

    def written(self, cleared: Cleared, extra: Headers, method: Method, place: bytes) -> bytes:
        """Return the whole request. Later fields replace earlier ones of the same name. Raises UpstreamFault malformed."""
        if not isinstance(cleared, Cleared):
            raise TypeError("only what the guard cleared may leave")
        names, lines = self._kept.get(cleared.headers) or self._made(cleared.headers)
        if extra:
            more = _fields(extra)
            if names.isdisjoint(more):
                lines += _lines(more)
            else:
                lines = _lines(_fields((_JSON, *cleared.headers, *extra)))
        if method != "POST":
            return b"%b %b%b\r\n" % (method.encode(), place, lines)
        payload = cleared.payload
        return b"POST %b%bcontent-length: %d\r\n\r\n%b" % (place, lines, len(payload), payload)

    def _made(self, headers: Headers) -> tuple[frozenset[bytes], bytes]:
        fields = _fields((_JSON, *headers))
        made = (frozenset(fields), _lines(fields))
        if len(made[1]) <= _BLOCK_BYTES:
            if len(self._kept) >= _BLOCKS:
                self._kept.clear()
            self._kept[headers] = made
        return made


def _fields(headers: Headers) -> dict[bytes, bytes]:
    """Return fields by lower-case name, the last of repeated ones. Raises UpstreamFault malformed."""
    fields: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        if name in _OURS or not name or name.translate(None, _TOKEN):
            raise UpstreamFault("malformed", "a header of ours has no name that may be sent")
        fields[name] = value
    return fields


def _lines(fields: dict[bytes, bytes]) -> bytes:
    """Return fields as they are sent. Raises UpstreamFault malformed."""
    lines = b"".join([b"%b: %b\r\n" % field for field in fields.items()])
    # One look at all values: a line end of theirs would be one more than ours.
    if lines.count(b"\n") != len(fields) or lines.count(b"\r") != len(fields) or lines.count(b"\0"):
        raise UpstreamFault("malformed", "a header value of ours holds a line end")
    return lines


def _check(connection: Connection) -> None:
    # A redirect names a place that nobody checked; it is neither followed nor passed on (MCP reference 3.6).
    if 300 <= connection.status < 400:
        raise UpstreamFault("malformed", "the upstream answered with a redirect")
    # We asked for no coding, and inspect no archive bombs.
    if connection.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise UpstreamFault("malformed", "the answer has a content coding that was not asked for")


def checked_url(target: Target) -> URL:
    """Return a target's URL: in normal form, and https where it is public. Raises UpstreamFault blocked_address."""
    try:
        url = parse_url(target.url)
    except Malformed:
        raise UpstreamFault("blocked_address", "the upstream's URL is not in normal form") from None
    if url.scheme != "https" and target.network == "public":
        raise UpstreamFault("blocked_address", "a public upstream needs https")
    return url


def tls_of(target: Target) -> ssl.SSLContext:
    """Return the client side of TLS for a target: verified, TLS 1.2 or newer. Raises ConfigFault("upstream_tls")."""
    try:
        context = ssl.create_default_context(cafile=target.ca_file or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if target.client_cert:
            context.load_cert_chain(target.client_cert, target.client_key or None)
    except (OSError, ssl.SSLError):
        raise ConfigFault(
            "upstream_tls", "a TLS file of an upstream cannot be read", fix="check ca_file, client_cert and client_key"
        ) from None
    return context
