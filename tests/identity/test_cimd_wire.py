"""Fetching a client's metadata document, on the wire: a real TLS server with a test authority, the real dialler.

CL-01: whatever the client's host, its name server or its document do, we reach no other address, follow no
redirect, read no more than 5 KiB and wait no longer than we said.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_bytes

import pytest

from firewall.core.errors import Malformed
from firewall.identity.cimd import documents as cimd_documents
from firewall.identity.cimd.documents import ClientDocuments
from firewall.identity.cimd.logos import Logos
from firewall.identity.cimd.trust import HostTrust
from firewall.identity.clients.registry import from_document
from firewall.identity.rfc7523.client_keys import ClientKeys
from firewall.identity.settings import IdentitySettings
from firewall.net import connector, dial
from firewall.net.dial import Dialler
from firewall.net.runtime import FakeClock, SystemClock
from firewall.state.memory import MemoryStore
from firewall.wire import cimd, strict_json
from tests.net.certificates import Files, authority
from tests.support.door import CIMD_DOCUMENT, CIMD_URL, ORIGIN
from tests.support.site import LoopbackFetcher, Site, site

HOST = "app.example"
PATH = "/oauth/client.json"


class Wire:
    """A client's site, and the front door's way to it."""

    def __init__(self, made: Site, *answers: list[str], trusts: Files | None = None) -> None:
        self.site = made
        self.lookups: list[str] = []
        self._answers = list(answers) or [["127.0.0.1"]]
        self.url = f"https://{HOST}:{made.port}{PATH}"
        self.fetcher = LoopbackFetcher(Dialler(SystemClock(), resolver=self._resolve), trusts or made.files)
        self.clock = FakeClock()
        settings = IdentitySettings(ORIGIN, cimd_hosts=(HOST,), cimd_ports=frozenset({made.port}))
        self.documents = ClientDocuments(settings, self.fetcher, self.clock)

    async def _resolve(self, name: str) -> list[str]:
        self.lookups.append(name)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    def publish(self, *headers: str, **changes: object) -> None:
        body = strict_json.dumps({**CIMD_DOCUMENT, "client_id": self.url, **changes})  # type: ignore[dict-item]
        self.site.says(PATH, body, *headers)

    async def refused(self) -> str:
        with pytest.raises(Malformed) as caught:
            await self.documents.get(self.url)
        return f"{caught.value.code} {caught.value.detail}"


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    async with site(authority(tmp_path, HOST)) as made:
        wire = Wire(made)
        yield wire
        await wire.fetcher.close()


async def test_the_checked_address_is_connected_under_the_name_of_the_host(wire: Wire) -> None:
    wire.publish()
    assert (await wire.documents.get(wire.url)).client_name == "Example Agent"
    assert wire.site.names == [HOST]
    head = wire.site.heads[0].lower()
    assert f"host: {HOST}:{wire.site.port}\r\n".encode() in head
    assert b"\r\naccept: application/json\r\n" in head
    assert b"\r\naccept-encoding: identity\r\n" in head
    assert b"cookie" not in head
    assert b"authorization" not in head
    assert wire.lookups == [HOST]


async def test_cl_01_a_certificate_for_another_name_is_not_accepted(tmp_path: Path) -> None:
    async with site(authority(tmp_path, "other.example")) as made:
        wire = Wire(made)
        wire.publish()
        assert await wire.refused() == "cimd_fetch unreachable"
        assert made.heads == []
        await wire.fetcher.close()


async def test_cl_01_an_unknown_authority_is_not_accepted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with site(authority(tmp_path / "a", HOST)) as made:
        wire = Wire(made, trusts=authority(tmp_path / "b", HOST))
        wire.publish()
        assert await wire.refused() == "cimd_fetch unreachable"
        assert made.heads == []
        await wire.fetcher.close()


async def test_cl_01_a_redirect_to_the_metadata_service_is_an_error_and_is_not_followed(wire: Wire) -> None:
    wire.site.answers[PATH] = (
        b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/meta-data/\r\ncontent-length: 0\r\n\r\n"
    )
    assert await wire.refused() == "cimd_fetch status"
    assert wire.lookups == [HOST]
    assert len(wire.site.heads) == 1


@pytest.mark.parametrize("status", ["301 Moved", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_cl_01_a_redirect_to_the_same_site_is_an_error_too(wire: Wire, status: str) -> None:
    wire.publish()
    good = wire.site.answers.pop(PATH)
    wire.site.answers["/there"] = good
    wire.site.says(PATH, b"", "location: /there", status=status)
    assert await wire.refused() == "cimd_fetch status"
    assert [head.split(b" ")[1] for head in wire.site.heads] == [PATH.encode()]


async def test_cl_01_an_endless_body_is_left_after_five_kib(wire: Wire) -> None:
    async def endless(made: Site, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n")
        for _ in range(100_000):  # 1 GB
            writer.write(b" " * 10_000)
            await writer.drain()
            made.sent += 10_000

    wire.site.answers[PATH] = endless
    assert await wire.refused() == "cimd_fetch too_large"
    assert wire.site.sent < 8_000_000  # what stood in the sockets' buffers when we closed


async def test_cl_01_a_length_that_is_too_large_is_not_waited_for(wire: Wire) -> None:
    async def announces(_site: Site, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n{")
        await asyncio.Event().wait()

    wire.site.answers[PATH] = announces
    assert await asyncio.wait_for(wire.refused(), 2) == "cimd_fetch too_large"


async def test_cl_01_a_length_that_lies_is_not_believed(wire: Wire) -> None:
    body = b" " * 5121
    wire.site.answers[PATH] = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1401\r\n"
        + body
        + b"\r\n0\r\n\r\n"
    )
    assert await wire.refused() == "cimd_fetch too_large"


async def test_cl_01_a_slow_body_ends_at_its_time(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cimd_documents, "FETCH_S", 0.1)

    async def slow(_site: Site, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    wire.site.answers[PATH] = slow
    assert await asyncio.wait_for(wire.refused(), 2) == "cimd_fetch timeout"


async def test_cl_01_a_gzip_bomb_is_not_unpacked(wire: Wire) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    wire.site.says(PATH, bomb[:4000], "content-encoding: gzip")
    assert await wire.refused() == "cimd_fetch malformed"


async def test_cl_01_a_name_that_changes_its_mind_is_connected_to_what_was_checked(tmp_path: Path) -> None:
    async with site(authority(tmp_path, HOST)) as made:
        wire = Wire(made, ["127.0.0.1"], ["169.254.169.254"])
        wire.publish()
        assert await wire.documents.get(wire.url)
        assert wire.lookups == [HOST]  # one lookup; there is no second one whose answer could differ
        await wire.fetcher.close()


async def test_at_most_four_documents_are_fetched_at_once(wire: Wire) -> None:
    gate = asyncio.Event()
    body = {path: f"/c{path}" for path in range(12)}

    async def held(_site: Site, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    for path in body.values():
        wire.site.answers[path] = held
    base = wire.url.removesuffix(PATH)
    fetches = [asyncio.create_task(wire.documents.get(base + path)) for path in body.values()]
    for _ in range(200):
        await asyncio.sleep(0.005)
        if len(wire.site.heads) >= 4:
            break
    await asyncio.sleep(0.05)
    assert wire.site.most_open == 4
    gate.set()
    await asyncio.gather(*fetches, return_exceptions=True)
    assert len(wire.site.heads) == 12


async def test_many_who_want_one_document_cause_one_request(wire: Wire) -> None:
    wire.publish()
    await asyncio.gather(*(wire.documents.get(wire.url) for _ in range(50)))
    assert len(wire.site.heads) == 1


async def test_an_entity_tag_is_sent_back_and_304_keeps_the_document(wire: Wire) -> None:
    wire.publish('etag: W/"v1"', "cache-control: max-age=600")
    first = await wire.documents.get(wire.url)
    wire.site.answers[PATH] = b'HTTP/1.1 304 Not Modified\r\netag: W/"v1"\r\ncache-control: max-age=900\r\n\r\n'
    wire.clock.advance(601)
    assert await wire.documents.get(wire.url) is first
    assert b'\r\nif-none-match: W/"v1"\r\n' in wire.site.heads[1].lower().replace(b'w/"v1"', b'W/"v1"')
    wire.clock.advance(899)
    await wire.documents.get(wire.url)
    assert len(wire.site.heads) == 2
    wire.clock.advance(2)
    await wire.documents.get(wire.url)
    assert len(wire.site.heads) == 3


async def test_304_that_nobody_asked_for_is_an_error(wire: Wire) -> None:
    wire.site.answers[PATH] = b"HTTP/1.1 304 Not Modified\r\n\r\n"
    assert await wire.refused() == "cimd_fetch status"


# -- where a public permission leads -------------------------------------------------------------------------

ADDRESSES = {
    "loopback": "127.0.0.1",
    "this host": "0.0.0.0",
    "private ten": "10.0.0.1",
    "private 172": "172.16.0.1",
    "private 192": "192.168.0.1",
    "carrier NAT": "100.64.0.1",
    "link local": "169.254.1.1",
    "cloud metadata": "169.254.169.254",
    "Azure host": "168.63.129.16",
    "documentation": "203.0.113.5",
    "benchmarking": "198.18.0.1",
    "multicast": "224.0.0.1",
    "broadcast": "255.255.255.255",
    "IPv6 loopback": "::1",
    "IPv6 unspecified": "::",
    "IPv6 link local": "fe80::1",
    "IPv6 unique local": "fd00::1",
    "IPv6 site local": "fec0::1",
    "IPv6 metadata": "fd00:ec2::254",
    "mapped": "::ffff:10.0.0.1",
    "compatible": "::127.0.0.1",
    "NAT64": "64:ff9b::a00:1",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe",
    "local NAT64": "64:ff9b:1::1",
    "6to4": "2002:a00:1::",
    "Teredo": "2001:0:a00:1::",
    "ISATAP": "fe80::5efe:10.0.0.1",
    "ORCHID": "2001:20::1",
    "segment routing": "5f00::1",
}


async def refused_in_public(answers: list[str]) -> str:
    async def resolve(_name: str) -> list[str]:
        return answers

    dialler = Dialler(FakeClock(), resolver=resolve)
    documents = ClientDocuments(IdentitySettings(ORIGIN, cimd_policy="any"), dialler, FakeClock())
    with pytest.raises(Malformed) as caught:
        await documents.get("https://client.example/c.json")
    await dialler.close()
    return f"{caught.value.code} {caught.value.detail}"


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES.keys())
@pytest.mark.parametrize("beside", [[], ["93.184.215.14"]], ids=["alone", "beside_a_public_one"])
async def test_cl_01_a_client_host_that_resolves_to_a_special_address_is_not_reached(
    address: str, beside: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connector.socket, "socket", _no_socket)
    assert await refused_in_public([*beside, address]) == "cimd_fetch blocked_address"


async def test_cl_01_twin_without_the_address_check_the_socket_would_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(connector.socket, "socket", lambda *args: opened.append(args) or _no_socket())
    monkeypatch.setattr(connector, "permits", lambda _network, _address: True)
    monkeypatch.setattr(dial, "permits", lambda _network, _address: True)
    assert await refused_in_public(["10.0.0.1"]) == "cimd_fetch unreachable"
    assert opened


def _no_socket(*_args: object) -> None:
    raise OSError("no socket is opened here")


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES.keys())
async def test_cl_01_no_address_inside_a_document_leads_to_a_special_one(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``jwks_uri`` and ``logo_uri`` are chosen by the same stranger, and go the same way out."""
    monkeypatch.setattr(connector.socket, "socket", _no_socket)
    lookups: list[str] = []

    async def resolve(name: str) -> list[str]:
        lookups.append(name)
        return [address]

    clock = FakeClock()
    dialler = Dialler(clock, resolver=resolve)
    document = {**CIMD_DOCUMENT, "client_id": CIMD_URL, "logo_uri": "https://logo.app.example/l.png"}
    client = from_document(
        cimd.check_document(
            CIMD_URL,
            {**document, "jwks_uri": "https://keys.app.example/k", "token_endpoint_auth_method": "private_key_jwt"},
        )
    )
    with pytest.raises(Malformed, match="jwt_key"):
        await ClientKeys(dialler, clock)._strangers.get(client.jwks_uri, "k")
    trust = HostTrust(IdentitySettings(ORIGIN), None)
    assert await Logos(MemoryStore(clock), dialler, trust, clock, token_bytes).path_for(client) == ""
    assert lookups == ["keys.app.example", "logo.app.example"]
    await dialler.close()
