"""UpstreamClient on aiohttp: the conservative twin of `net.upstream.PooledClient`, under the same contract tests.

Not the default: it costs several times the CPU. It is here so that a fault of ours can be told from a
fault of an upstream by exchanging one line of `app.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import yarl
from multidict import CIMultiDict

from firewall.core.action import Headers
from firewall.core.errors import UpstreamFault
from firewall.core.permit import Cleared
from firewall.net.address import Network
from firewall.net.connector import check_identity, fault_for, open_session, read_bounded
from firewall.net.dial import Dialler
from firewall.net.upstream import Method, Target, UpstreamReply, UpstreamStream, checked_url, tls_of

_REDIRECTS: Final = range(300, 400)
_ERRORS: Final = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


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
        url = checked_url(target)
        key = (url.origin, target.network, target.ca_file, target.client_cert, target.client_key)
        session = self._sessions.get(key)
        if session is None:
            tls: ssl.SSLContext | None = tls_of(target) if url.scheme == "https" else None
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
