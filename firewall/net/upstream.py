"""The upstream port and its first implementation: pooled HTTP/1.1 that sends Cleared and nothing else.

Rules: no redirects, no cookies, no proxies of the environment, no content codings, bounded answers,
one deadline per call, and only addresses that the dialler permits. What a peer did wrong becomes one
of six codes; its own words stay out of them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

import aiohttp
import yarl
from multidict import CIMultiDict

from firewall.core.action import Headers
from firewall.core.errors import ConfigFault, Malformed, UpstreamFault
from firewall.core.permit import Cleared
from firewall.net.address import Network
from firewall.net.connector import check_identity, fault_for, open_session, read_bounded
from firewall.net.dial import Dialler
from firewall.wire.http import parse_url

Method: TypeAlias = Literal["POST", "GET", "DELETE"]
_REDIRECTS: Final = range(300, 400)
_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


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
    ) -> AbstractAsyncContextManager[UpstreamStream]:
        """Send the payload and yield the answer as it comes; leaving the block early cancels the upstream.

        deadline_s bounds the whole stream, idle_s the wait for its head and between two chunks.
        """


class AiohttpClient:
    """UpstreamClient on aiohttp: one pool per origin, network permission and TLS identity.

    Credentials are the caller's business: they travel in ``headers`` of one call and stay in no pool
    (HTTP/1.1 connections carry no identity of their own; TLS client certificates are part of the key).
    """

    def __init__(self, dialler: Dialler, *, connections: int = 100) -> None:
        self._dialler = dialler
        self._connections = connections
        self._pools: dict[Target, tuple[aiohttp.ClientSession, yarl.URL]] = {}
        self._sessions: dict[tuple[str, Network, str, str, str], aiohttp.ClientSession] = {}

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
        session, url = self._pool(target)
        try:
            async with asyncio.timeout(deadline_s):
                response = await session.request(
                    method,
                    url,
                    data=_payload(cleared, method),
                    headers=_headers(cleared, headers),
                    allow_redirects=False,
                )
                try:
                    _check_status(response)
                    body = await read_bounded(response, max_bytes)
                except BaseException:
                    response.close()  # the rest of the answer must not meet the next caller
                    raise
                response.release()
        except UpstreamFault:
            raise
        except _ERRORS as error:
            raise fault_for(error) from None
        return UpstreamReply(response.status, _lower(response), body)

    @asynccontextmanager
    async def stream(
        self,
        cleared: Cleared,
        target: Target,
        *,
        headers: Headers = (),
        deadline_s: float,
        idle_s: float,
        method: Method = "POST",
    ) -> AsyncGenerator[UpstreamStream]:
        """See UpstreamClient.stream."""
        session, url = self._pool(target)
        ends_at = asyncio.get_running_loop().time() + deadline_s
        try:
            async with asyncio.timeout(min(idle_s, deadline_s)):
                response = await session.request(
                    method,
                    url,
                    data=_payload(cleared, method),
                    headers=_headers(cleared, headers),
                    allow_redirects=False,
                )
        except _ERRORS as error:
            raise fault_for(error) from None
        try:
            _check_status(response)
            check_identity(response)
            yield _AiohttpStream(response, ends_at, idle_s)
        finally:
            # Closing instead of releasing tells the upstream that nobody reads on (MCP: it is a cancellation).
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def close(self) -> None:
        """Close every pool."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        self._pools.clear()
        for session in sessions:
            await session.close()

    def _pool(self, target: Target) -> tuple[aiohttp.ClientSession, yarl.URL]:
        known = self._pools.get(target)
        if known is not None:
            return known
        try:
            url = parse_url(target.url)
        except Malformed:
            raise UpstreamFault("blocked_address", "the upstream's URL is not in normal form") from None
        key = (url.origin, target.network, target.ca_file, target.client_cert, target.client_key)
        session = self._sessions.get(key)
        if session is None:
            tls = _tls(target) if url.scheme == "https" else None
            session = open_session(self._dialler, target.network, tls=tls, limit=self._connections)
            self._sessions[key] = session
        pool = (session, yarl.URL(str(url), encoded=True))
        self._pools[target] = pool
        return pool


class _AiohttpStream:
    __slots__ = ("_ends_at", "_idle_s", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse, ends_at: float, idle_s: float) -> None:
        self.status = response.status
        self.headers = _lower(response)
        self._response = response
        self._ends_at = ends_at
        self._idle_s = idle_s

    async def chunks(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        content = self._response.content
        try:
            while True:
                async with asyncio.timeout_at(min(self._ends_at, loop.time() + self._idle_s)):
                    chunk = await content.readany()
                if not chunk:
                    return
                yield chunk
        except _ERRORS as error:
            raise fault_for(error) from None


def _payload(cleared: Cleared, method: Method) -> bytes | None:
    if not isinstance(cleared, Cleared):
        raise TypeError("only what the guard cleared may leave")
    return cleared.payload if method == "POST" else None


def _headers(cleared: Cleared, extra: Headers) -> CIMultiDict[str]:
    out: CIMultiDict[str] = CIMultiDict()
    for name, value in (*cleared.headers, *extra):
        if b"\r" in value or b"\n" in value or b"\0" in value:
            raise UpstreamFault("malformed", "a header value of ours holds a line end")
        out[name.decode("latin-1")] = value.decode("latin-1")
    out.setdefault("Content-Type", "application/json")
    out["Accept-Encoding"] = "identity"
    return out


def _lower(response: aiohttp.ClientResponse) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, value in response.headers.items():
        out.setdefault(name.lower(), value)
    return out


def _check_status(response: aiohttp.ClientResponse) -> None:
    # A redirect names a place that nobody checked; it is neither followed nor passed on (MCP reference 3.6).
    if response.status in _REDIRECTS:
        raise UpstreamFault("malformed", "the upstream answered with a redirect")


def _tls(target: Target) -> ssl.SSLContext:
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
