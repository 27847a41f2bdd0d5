"""aiohttp, held: one session per (origin, network, TLS) that can reach checked addresses only.

Three independent holds, since a pool hides when it dials: the resolver is the dialler; the socket is
made only for a permitted address (this covers IP literals, which skip resolvers); the peer's name is
looked at before the first request byte of every request.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_reqrep import ClientRequest, ClientResponse
from aiohttp.connector import Connection

from firewall.core.bounds import HEADER_COUNT, KIB
from firewall.core.errors import UpstreamFault
from firewall.net.address import Network, permits
from firewall.net.dial import Dialler, check_peer, unwrap_text

_CONNECTIONS: Final = 100
_FIELD_BYTES: Final = 16 * KIB
_READ_BYTES: Final = 64 * KIB
# Below the 5 s after which uvicorn and Node close an idle connection: a POST that meets a closing one is
# not repeated, since nobody knows whether it was done.
_KEEP_S: Final = 4.0
_NO_AUTO: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Blocked(OSError):
    """A connection to an address that was not permitted; becomes UpstreamFault blocked_address."""


class _Resolver(AbstractResolver):
    """aiohttp's resolver port, answered by the dialler under one permission."""

    def __init__(self, dialler: Dialler, network: Network) -> None:
        self._dialler = dialler
        self._network = network

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            addresses = await self._dialler.resolve(host, self._network)
        except UpstreamFault as fault:
            if fault.code == "blocked_address":
                raise Blocked(fault.detail) from None
            raise OSError(fault.code) from None
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        return None


def _request_class(network: Network) -> type[ClientRequest]:
    class PinnedRequest(ClientRequest):
        async def send(self, conn: Connection) -> ClientResponse:
            transport = conn.transport
            if transport is None or not check_peer(transport.get_extra_info("peername"), network):
                raise Blocked("the peer is not the address that was checked")
            return await super().send(conn)

    return PinnedRequest


def open_session(dialler: Dialler, network: Network, *, tls: ssl.SSLContext | None = None) -> aiohttp.ClientSession:
    """Return a session whose every connection is to a permitted address."""

    def make_socket(info: Any) -> socket.socket:
        family, kind, proto, _, address = info
        if not permits(network, unwrap_text(str(address[0]))):
            raise Blocked("not a permitted address")
        made = socket.socket(family, kind, proto)
        made.setblocking(False)
        return made

    connector = aiohttp.TCPConnector(
        resolver=_Resolver(dialler, network),
        use_dns_cache=False,
        socket_factory=make_socket,
        limit=_CONNECTIONS,
        limit_per_host=_CONNECTIONS,
        keepalive_timeout=_KEEP_S,
        ssl=tls if tls is not None else True,
    )
    return aiohttp.ClientSession(
        connector=connector,
        request_class=_request_class(network),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_NO_AUTO,
        auto_decompress=False,
        trust_env=False,
        raise_for_status=False,
        read_bufsize=_READ_BYTES,
        max_line_size=_FIELD_BYTES,
        max_field_size=_FIELD_BYTES,
        max_headers=HEADER_COUNT,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=dialler.settings.connect_s),
    )


def fault_for(error: BaseException) -> UpstreamFault:
    """Return the UpstreamFault that stands for an error of aiohttp or of the network; never with a peer's text."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, Blocked):
            return UpstreamFault("blocked_address", str(seen))
        seen = seen.__cause__ or getattr(seen, "os_error", None)
    if isinstance(error, TimeoutError):
        return UpstreamFault("timeout")
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return UpstreamFault("unreachable", "TLS was not accepted")
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamFault("unreachable")
    if isinstance(
        error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError
    ):
        return UpstreamFault("cut_stream")
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientError | asyncio.IncompleteReadError | ValueError):
        return UpstreamFault("malformed")
    return UpstreamFault("unreachable")


async def read_bounded(response: ClientResponse, max_bytes: int) -> bytes:
    """Return a whole body of at most max_bytes; raises UpstreamFault too_large or malformed (encoded)."""
    check_identity(response)
    if response.content_length is not None and response.content_length > max_bytes:
        raise UpstreamFault("too_large")
    parts: list[bytes] = []
    total = 0
    while chunk := await response.content.readany():
        total += len(chunk)
        if total > max_bytes:
            raise UpstreamFault("too_large")
        parts.append(chunk)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def check_identity(response: ClientResponse) -> None:
    """Raise UpstreamFault malformed for a content coding: we asked for none, and inspect no archive bombs."""
    if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UpstreamFault("malformed", "the answer has a content coding that was not asked for")
