"""The dialler: the only way out. Resolve, classify, pin, connect (operations reference 6.2; SSRF).

Order: one strict URL parser → resolve once (A and AAAA, bounded) → **every** answer must be of the
permitted network → connect to those addresses and no others → check the peer's address → no
redirects → bounded answer. Proxy variables of the environment are never read.

Our own fetches (metadata, keys, cards) go through `Dialler.fetch` with a purpose of the closed list;
governed traffic goes through `net.upstream`, which accepts nothing but Cleared. Both use the same pin.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from firewall.core.action import Headers
from firewall.core.bounds import UPSTREAM_CONNECT_S
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.ports import Clock
from firewall.net.address import AddressClass, Network, classify, permits, unwrap
from firewall.wire.http import URL, parse_url

if TYPE_CHECKING:
    from firewall.net.fetch import Fetcher

__all__ = [
    "AddressClass",
    "Dialler",
    "DiallerSettings",
    "Fetched",
    "Network",
    "Purpose",
    "Resolver",
    "classify",
    "system_resolver",
]

Resolver = Callable[[str], Awaitable[list[str]]]
"""Name → textual addresses, A and AAAA. Raises OSError."""

_NANOSECONDS: Final = 1_000_000_000


class Purpose(StrEnum):
    """Why we fetch something ourselves; a fetch without a purpose does not exist."""

    CIMD = "cimd"  # client id metadata document
    LOGO = "logo"  # a client's picture, to be copied
    JWKS = "jwks"
    AGENT_CARD = "agent_card"
    IDP_METADATA = "idp_metadata"
    RESOURCE_METADATA = "resource_metadata"  # RFC 9728 of an upstream
    TOKEN = "token"  # noqa: S105 -- a token endpoint of an upstream's authorization server
    SIGNALS = "signals"  # security events of a transmitter that we poll (RFC 8936)
    WEBHOOK = "webhook"
    POLICY_BUNDLE = "policy_bundle"
    HEALTH = "health"


@dataclass(frozen=True, slots=True)
class DiallerSettings:
    """resolve_s, cache_s: seconds. answers: most addresses a name may have.

    fetch_ports: ports that a public URL of a fetch may name; a URL that others choose must not reach
    an arbitrary service.
    proxy: of our own fetches from public addresses, ``http://proxy.example:3128``, on ``proxy_network``; it then
    resolves names itself, so which addresses they may lead to is its to say.
    """

    resolve_s: float = 2.0
    cache_s: float = 30.0
    cache_names: int = 1024
    answers: int = 8
    connect_s: float = UPSTREAM_CONNECT_S
    fetch_ports: frozenset[int] = frozenset({443, 8443})
    proxy: str = ""
    proxy_network: Network = "private"


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer to our own fetch; header names in lower case."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


async def system_resolver(name: str) -> list[str]:
    """Return what the system's resolver says; one lookup for both families."""
    infos = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


class Dialler:
    """Resolve and connect under a permission. One per process; holds a bounded, short-lived name cache."""

    def __init__(
        self, clock: Clock, settings: DiallerSettings | None = None, *, resolver: Resolver = system_resolver
    ) -> None:
        self.settings = settings or DiallerSettings()
        self._clock = clock
        self._resolver = resolver
        self._cache: dict[str, tuple[int, tuple[str, ...]]] = {}
        self._fetcher: Fetcher | None = None

    async def resolve(self, host: str, network: Network) -> tuple[str, ...]:
        """Return the pinned addresses of a host (a name or a canonical address), IPv4 unwrapped.

        Every answer must be of ``network``: a name with one good and one bad address is refused.
        Raises UpstreamFault: blocked_address, unreachable, timeout.
        """
        if (written := classify(host)) in ("invalid", "metadata"):
            raise UpstreamFault("blocked_address", f"the host is {written}")
        answers = (host,) if _is_ip(host) else await self._lookup(host)
        pinned = tuple(str(unwrap(ipaddress.ip_address(answer))) if _is_ip(answer) else "" for answer in answers)
        for address in pinned:
            if not permits(network, address):
                # The class is ours to tell an operator; the address was chosen by a peer's name server.
                raise UpstreamFault(
                    "blocked_address", f"resolves to a {classify(address)} address; permitted: {network}"
                )
        return pinned

    async def locate(self, host: str) -> tuple[AddressClass, tuple[str, ...]]:
        """Return the class of a host and its pinned addresses, without a permission: for asking a policy.

        A name whose answers differ in class, or which is written badly, is ``invalid``; only public,
        private and loopback ones have addresses here. Raises UpstreamFault: unreachable, timeout.
        """
        if (written := classify(host)) in ("invalid", "metadata"):
            return written, ()
        answers = (host,) if _is_ip(host) else await self._lookup(host)
        pinned = tuple(unwrap_text(answer) for answer in answers)
        classes = {classify(address) for address in pinned}
        found = classes.pop() if len(classes) == 1 else "invalid"
        return found, pinned if found in ("public", "private", "loopback") else ()

    async def connect(
        self, host: str, port: int, network: Network
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a TCP stream to a pinned address of the host; see `connect_to`."""
        return await self.connect_to(await self.resolve(host, network), port, network)

    async def connect_to(
        self, addresses: tuple[str, ...], port: int, network: Network
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a TCP stream to the first address that answers; each is judged again, and so is the peer.

        Raises UpstreamFault: blocked_address, unreachable (or too slow).
        """
        for address in addresses:
            if not permits(network, address):
                raise UpstreamFault("blocked_address")
            try:
                async with asyncio.timeout(self.settings.connect_s):
                    reader, writer = await asyncio.open_connection(address, port)
            except (OSError, TimeoutError):
                continue
            if check_peer(writer.get_extra_info("peername"), network):
                return reader, writer
            writer.close()
            raise UpstreamFault("blocked_address", "the peer is not the address that was checked")
        raise UpstreamFault("unreachable")

    async def fetch(
        self,
        purpose: Purpose,
        url: str,
        *,
        network: Network = "public",
        max_bytes: int,
        timeout_s: float,
        headers: Headers = (),
        body: bytes | None = None,
        ca_file: str = "",
    ) -> Fetched:
        """Return the answer of a GET, or of a POST when there is a body. Redirects are answers, never followed.

        url: https; http only where ``network`` is private or loopback, which is written down one by
        one. Public URLs may name the ports of the settings only. ca_file: PEM bundle instead of the system's roots.
        Raises UpstreamFault: blocked_address, unreachable, timeout, malformed, too_large, cut_stream.
        """
        parsed = self.check_url(url, network)
        if self._fetcher is None:
            from firewall.net.fetch import Fetcher  # aiohttp is loaded when first used

            self._fetcher = Fetcher(self)
        return await self._fetcher.fetch(
            purpose,
            parsed,
            network=network,
            max_bytes=max_bytes,
            timeout_s=timeout_s,
            headers=headers,
            body=body,
            ca_file=ca_file,
        )

    def check_url(self, url: str, network: Network) -> URL:
        """Return the parsed URL of a fetch; raises UpstreamFault blocked_address."""
        try:
            parsed = parse_url(url)
        except Malformed:
            raise UpstreamFault("blocked_address", "the URL is not in normal form") from None
        if network == "public" and (parsed.scheme != "https" or parsed.port not in self.settings.fetch_ports):
            raise UpstreamFault("blocked_address", "only https on a permitted port")
        return parsed

    async def close(self) -> None:
        """Close the connections of our own fetches."""
        if self._fetcher is not None:
            await self._fetcher.close()
            self._fetcher = None

    async def _lookup(self, name: str) -> tuple[str, ...]:
        now = self._clock.monotonic_ns()
        cached = self._cache.get(name)
        if cached is not None and cached[0] > now:
            return cached[1]
        try:
            async with asyncio.timeout(self.settings.resolve_s):
                answers = tuple(await self._resolver(name))
        except TimeoutError:
            raise UpstreamFault("timeout", "the name did not resolve in time") from None
        except (OSError, UnicodeError):
            raise UpstreamFault("unreachable", "the name does not resolve") from None
        if not 0 < len(answers) <= self.settings.answers:
            raise UpstreamFault("unreachable", "the name has no address, or too many")
        while len(self._cache) >= self.settings.cache_names:
            del self._cache[next(iter(self._cache))]
        self._cache[name] = (now + int(self.settings.cache_s * _NANOSECONDS), answers)
        return answers


def check_peer(peername: object, network: Network) -> bool:
    """Return whether a connected socket's peer (``getpeername``) is of the permitted network."""
    return isinstance(peername, tuple) and bool(peername) and permits(network, str(unwrap_text(str(peername[0]))))


def unwrap_text(address: str) -> str:
    """Return a textual address with IPv4 unwrapped; unchanged when it is none."""
    return str(unwrap(ipaddress.ip_address(address))) if _is_ip(address) else address


def _is_ip(text: str) -> bool:
    if "%" in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
