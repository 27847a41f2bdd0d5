"""The children's way out: asked for every connection, dialled under the class that was decided, closed with the child."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from firewall.net.dial import Dialler
from firewall.net.egress_proxy import Door, EgressProxy, EgressSettings, loopback_door, unix_door
from firewall.net.runtime import SystemClock
from tests.sim.misbehaving import Misbehaving, misbehaving

Asked = tuple[str, str, int, str]


class Policy:
    """Says yes or no, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: object = True
        self.asked: list[Asked] = []

    async def __call__(self, child: str, host: str, port: int, found: str) -> bool:
        self.asked.append((child, host, port, found))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


NAMES = {"service.test": ["127.0.0.1"], "metadata.test": ["169.254.169.254"], "mixed.test": ["127.0.0.1", "1.1.1.1"]}


async def resolver(name: str) -> list[str]:
    if name not in NAMES:
        raise OSError(name)
    return NAMES[name]


@pytest.fixture
async def server() -> AsyncIterator[Misbehaving]:
    async with misbehaving() as running:
        yield running


@pytest.fixture
def policy() -> Policy:
    return Policy()


@pytest.fixture
async def door(policy: Policy, tmp_path: Path) -> AsyncIterator[Door]:
    proxy = EgressProxy(
        Dialler(SystemClock(), resolver=resolver), policy, EgressSettings(connections=4, head_s=0.2, idle_s=0.5)
    )
    made = await proxy.open("child-1", unix_door(str(tmp_path / "door")))
    yield made
    await made.close()


async def say(tmp_path: Path, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "door"))
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 3)
    finally:
        writer.close()


async def test_a_permitted_get_is_rewritten_and_answered(
    door: Door, policy: Policy, server: Misbehaving, tmp_path: Path
) -> None:
    head = b"GET http://service.test:%d/x?y=1 HTTP/1.1\r\nHost: evil.test\r\nX-Keep: 1\r\nX-Hop: 2\r\nConnection: keep-alive, x-hop\r\nProxy-Authorization: Basic eA==\r\n\r\n"
    task = asyncio.ensure_future(say(tmp_path, head % server.port))
    while not server.seen.requests:
        await asyncio.sleep(0.005)
    await server.close()  # the simulator keeps connections open; the answer ends with it
    answer = await task
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert server.seen.requests == [
        b"GET /x?y=1 HTTP/1.1\r\nHost: service.test:%d\r\nX-Keep: 1\r\nConnection: close\r\n\r\n" % server.port
    ]
    assert policy.asked == [("child-1", "service.test", server.port, "loopback")]


async def test_a_permitted_tunnel_carries_bytes_both_ways_until_either_side_ends(
    door: Door, server: Misbehaving, tmp_path: Path
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "door"))
    writer.write(b"CONNECT service.test:%d HTTP/1.1\r\nHost: service.test\r\n\r\n" % server.port)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
    for _ in range(2):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi")
        assert (await reader.readuntil(b"\r\n\r\nhi")).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    async with asyncio.timeout(2):
        while door.connections:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("answer", [False, None, 1, RuntimeError("down")])
async def test_anything_but_a_plain_yes_is_a_no(
    door: Door, policy: Policy, server: Misbehaving, tmp_path: Path, answer: object
) -> None:
    policy.answer = answer
    got = await say(tmp_path, b"CONNECT service.test:%d HTTP/1.1\r\n\r\n" % server.port)
    assert got.startswith(b"HTTP/1.1 403")
    assert server.seen.connections == 0


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("metadata.test", "metadata"),
        ("169.254.169.254", "metadata"),
        ("mixed.test", "invalid"),
        ("[fe80::1]", "link_local"),
        ("0.0.0.0", "reserved"),
        ("metadata.google.internal", "metadata"),
    ],
)
async def test_some_addresses_stay_closed_whatever_policy_says_but_it_is_asked(
    door: Door, policy: Policy, tmp_path: Path, host: str, found: str
) -> None:
    got = await say(tmp_path, f"CONNECT {host}:80 HTTP/1.1\r\n\r\n".encode())
    assert got.startswith(b"HTTP/1.1 403")
    assert [asked[3] for asked in policy.asked] == [found]


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"CONNECT service.test HTTP/1.1", 400),
        (b"CONNECT 127.1:80 HTTP/1.1", 400),
        (b"CONNECT user@service.test:80 HTTP/1.1", 400),
        (b"GET / HTTP/1.1", 400),
        (b"GET https://service.test/ HTTP/1.1", 400),
        (b"GET http://service.test/../x HTTP/1.1", 400),
        (b"GET http://service.test/ HTTP/1.1\r\nContent-Length: 5", 400),
        (b"GET http://service.test/ HTTP/1.1\r\nTransfer-Encoding: chunked", 400),
        (b"GET http://service.test/ HTTP/1.1\r\n folded", 400),
        (b"GET http://service.test/ HTTP/1.1\r\nX : 1", 400),
        (b"GET http://service.test/ HTTP/1.1\r\nX: a\rb", 400),
        (b"GET  http://service.test/ HTTP/1.1", 400),
        (b"GET http://service.test/ HTTP/2.0", 400),
        (b"GET http://service.test/ HTTP/1.1\r\nX: " + b"a" * 20_000, 400),
        (b"POST http://service.test/ HTTP/1.1", 405),
        (b"CONNECT nowhere.test:80 HTTP/1.1", 502),
        (b"CONNECT service.test:1 HTTP/1.1", 502),
    ],
)
async def test_what_is_asked_badly_or_leads_nowhere_has_its_status(
    door: Door, tmp_path: Path, head: bytes, status: int
) -> None:
    assert (await say(tmp_path, head + b"\r\n\r\n")).startswith(b"HTTP/1.1 %d " % status)


async def test_a_head_that_does_not_come_is_cut(door: Door, tmp_path: Path) -> None:
    assert (await say(tmp_path, b"CONNECT ")).startswith(b"HTTP/1.1 408")


async def test_a_silent_tunnel_is_cut(door: Door, server: Misbehaving, tmp_path: Path) -> None:
    got = await say(tmp_path, b"CONNECT service.test:%d HTTP/1.1\r\n\r\nPOST /hang HTTP/1.1\r\n\r\n" % server.port)
    assert got == b"HTTP/1.1 200 Connection established\r\n\r\n"


async def test_the_door_closes_with_all_that_goes_through_it(door: Door, server: Misbehaving, tmp_path: Path) -> None:
    opened = [await asyncio.open_unix_connection(str(tmp_path / "door")) for _ in range(4)]
    for reader, writer in opened:
        writer.write(b"CONNECT service.test:%d HTTP/1.1\r\n\r\n" % server.port)
        await reader.readuntil(b"\r\n\r\n")
    with contextlib.suppress(ConnectionError):  # one connection too many
        assert await say(tmp_path, b"CONNECT service.test:1 HTTP/1.1\r\n\r\n") == b""
    await door.close()
    for reader, writer in opened:
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_unix_connection(str(tmp_path / "door"))


async def test_a_unix_door_is_for_its_owner_and_a_port_works_too(
    policy: Policy, server: Misbehaving, tmp_path: Path
) -> None:
    sock = unix_door(str(tmp_path / "private"))
    assert (tmp_path / "private").stat().st_mode & 0o077 == 0
    sock.close()
    sock = loopback_door()
    port = sock.getsockname()[1]
    made = await EgressProxy(Dialler(SystemClock(), resolver=resolver), policy).open("c2", sock)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"CONNECT service.test:%d HTTP/1.1\r\n\r\n" % server.port)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()
    await made.close()
