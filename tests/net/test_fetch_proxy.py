"""Our own fetches through an HTTP proxy: it is reached on its own network, TLS goes through it, and nothing goes past it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from firewall import config as configuration
from firewall.core.errors import ConfigFault, UpstreamFault
from firewall.net.dial import Dialler, DiallerSettings, Purpose
from firewall.net.runtime import SystemClock
from tests.net.certificates import Files, authority
from tests.support.site import site

HOST = "app.example"


@dataclass
class Proxy:
    """A CONNECT proxy that leads every name to one port of loopback."""

    to: int
    port: int = 0
    status: str = "200 OK"
    asked: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b"\r\n")[0].decode())
        writer.write(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
        if not self.status.startswith("200"):
            writer.close()
            return
        there, back = await asyncio.open_connection("127.0.0.1", self.to)
        await asyncio.gather(_pipe(reader, back), _pipe(there, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def proxy(to: int) -> AsyncIterator[Proxy]:
    made = Proxy(to)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


def dialler(made: Proxy, port: int, lookups: list[str], network: str = "loopback") -> Dialler:
    async def resolve(name: str) -> list[str]:
        lookups.append(name)
        return ["127.0.0.1"]

    settings = DiallerSettings(
        fetch_ports=frozenset({port}),
        proxy=f"http://127.0.0.1:{made.port}",
        proxy_network=network,  # type: ignore[arg-type]
    )
    return Dialler(SystemClock(), settings, resolver=resolve)


async def fetched(found: Dialler, files: Files, url: str) -> str:
    try:
        reply = await found.fetch(Purpose.CIMD, url, max_bytes=1000, timeout_s=5, ca_file=str(files.ca))
    except UpstreamFault as fault:
        return fault.code
    finally:
        await found.close()
    return reply.body.decode()


async def test_a_public_document_comes_through_the_proxy_which_resolves_its_name(tmp_path: Path) -> None:
    files, lookups = authority(tmp_path, HOST), list[str]()
    async with site(files) as there, proxy(there.port) as made:
        there.says("/c", b"{}")
        assert await fetched(dialler(made, there.port, lookups), files, f"https://{HOST}:{there.port}/c") == "{}"
        assert made.asked == [f"CONNECT {HOST}:{there.port} HTTP/1.1"]
        assert there.names == [HOST]  # the certificate is checked end to end
        assert lookups == []


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "169.254.169.254", "10.0.0.1", "[::1]", "localhost", "metadata.google.internal", "db.internal"],
)
async def test_cl_01_what_is_written_as_a_special_host_is_not_asked_of_the_proxy(tmp_path: Path, host: str) -> None:
    files = authority(tmp_path, HOST)
    async with proxy(1) as made:
        assert await fetched(dialler(made, 443, []), files, f"https://{host}/c") == "blocked_address"
        assert made.asked == []


async def test_a_proxy_of_another_network_than_was_written_down_is_not_reached(tmp_path: Path) -> None:
    files = authority(tmp_path, HOST)
    async with proxy(1) as made:
        assert await fetched(dialler(made, 443, [], "private"), files, f"https://{HOST}/c") == "blocked_address"
        assert made.asked == []


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"])
async def test_a_proxy_that_refuses_is_an_unreachable_host(tmp_path: Path, status: str) -> None:
    files = authority(tmp_path, HOST)
    async with proxy(1) as made:
        made.status = status
        assert await fetched(dialler(made, 443, []), files, f"https://{HOST}/c") == "unreachable"


async def test_without_the_proxy_nothing_is_sent_directly(tmp_path: Path) -> None:
    files, lookups = authority(tmp_path, HOST), list[str]()
    async with proxy(1) as made:
        found = dialler(made, 443, lookups)
    assert await fetched(found, files, f"https://{HOST}/c") == "unreachable"
    assert lookups == []


async def test_what_is_fetched_on_a_written_down_network_does_not_take_the_proxy(tmp_path: Path) -> None:
    files = authority(tmp_path, HOST)
    async with site(files) as there, proxy(there.port) as made:
        there.says("/c", b"{}")
        found = dialler(made, there.port, [])
        url = f"https://{HOST}:{there.port}/c"
        reply = await found.fetch(
            Purpose.JWKS, url, network="loopback", max_bytes=100, timeout_s=5, ca_file=str(files.ca)
        )
        await found.close()
        assert (reply.body, made.asked) == (b"{}", [])


@pytest.mark.parametrize(
    "given", ["proxy:3128", "http://u:p@proxy:3128", "http://proxy:3128/", "socks5://proxy:1080", "http://", "proxy"]
)
def test_a_proxy_that_is_no_bare_address_is_refused(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigFault):
        configuration.build({"state_dir": str(tmp_path), "egress": {"proxy": given}})
