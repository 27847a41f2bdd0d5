"""Our own fetches, behind `Dialler.fetch`: one connection each, no cookies, no redirects, bounded."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
import yarl

from firewall.core.action import Headers
from firewall.core.errors import UpstreamFault
from firewall.net.address import Network, classify
from firewall.net.connector import fault_for, open_session, read_bounded
from firewall.net.dial import Dialler, Fetched, Purpose
from firewall.net.upstream import Target, tls_of
from firewall.wire.http import URL

CONNECT_S: Final = 3.0  # less than for upstreams: what a stranger names does not get our patience


class Fetcher:
    """One session per network permission and bundle of roots."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._sessions: dict[tuple[Network, str], aiohttp.ClientSession] = {}

    async def fetch(
        self,
        purpose: Purpose,
        url: URL,
        *,
        network: Network,
        max_bytes: int,
        timeout_s: float,
        headers: Headers,
        body: bytes | None,
        ca_file: str = "",
    ) -> Fetched:
        """Return the answer; see `Dialler.fetch`."""
        settings = self._dialler.settings
        proxy = settings.proxy if network == "public" else ""
        if proxy and classify(url.host) != "public":
            # What a name leads to is the proxy's to judge; what is written is judged here as always.
            raise UpstreamFault("blocked_address", "the host is not a public one")
        session = self._session(str(url), settings.proxy_network if proxy else network, ca_file)
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        sent.setdefault("User-Agent", f"bartizan ({purpose.value})")
        sent["Accept-Encoding"] = "identity"
        # A kept connection would outlive the name's pin: these fetches are rare, so each dials anew.
        sent["Connection"] = "close"
        try:
            async with (
                asyncio.timeout(timeout_s),
                session.request(
                    "GET" if body is None else "POST",
                    yarl.URL(str(url), encoded=True),
                    headers=sent,
                    data=body,
                    allow_redirects=False,
                    proxy=proxy or None,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                ) as response,
            ):
                data = await read_bounded(response, max_bytes)
                told = {name.lower(): value for name, value in response.headers.items()}
                if "www-authenticate" in told:  # several challenges, one list (RFC 9110 §11.6.1, §5.3)
                    told["www-authenticate"] = ", ".join(response.headers.getall("WWW-Authenticate"))
                return Fetched(response.status, told, data)
        except UpstreamFault:
            raise
        except aiohttp.ClientHttpProxyError:
            raise UpstreamFault("unreachable", "the proxy did not connect") from None
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise fault_for(error) from None

    def _session(self, url: str, network: Network, ca_file: str) -> aiohttp.ClientSession:
        session = self._sessions.get((network, ca_file))
        if session is None:
            tls = tls_of(Target(url, network, ca_file)) if ca_file else None
            session = self._sessions[network, ca_file] = open_session(self._dialler, network, tls=tls)
        return session

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()
