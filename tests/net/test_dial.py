"""The SSRF guard: the table of operations reference 6.2 times the ways an address can arrive."""

import asyncio
import ipaddress

import pytest

from firewall.core.errors import UpstreamFault
from firewall.net.address import classify, classify_ip, permits
from firewall.net.dial import Dialler, DiallerSettings, Purpose, system_resolver
from firewall.net.runtime import FakeClock, SystemClock
from tests.sim.misbehaving import misbehaving

BLOCKED = {
    "64:ff9b::a9fe:a9fe": "metadata",  # NAT64 of 169.254.169.254
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b:1::1": "reserved",
    "2002:a00:1::": "reserved",
    "2001:0:a00:1::": "reserved",
    "::7f00:1": "reserved",
    "::": "reserved",
    "fec0::1": "reserved",
    "5f00::1": "reserved",
    "3fff::1": "reserved",
    "192.88.99.1": "reserved",
    "224.0.0.1": "reserved",
    "ff02::1": "reserved",
    "168.63.129.16": "metadata",
    "192.0.0.8": "reserved",
    "192.0.0.192": "metadata",
    "169.254.169.254": "metadata",
    "169.254.170.2": "metadata",
    "169.254.1.1": "link_local",
    "fd00:ec2::254": "metadata",
    "100.100.100.200": "metadata",
    "100.64.0.1": "private",
    "10.0.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "fc00::1": "private",
    "fe80::1": "link_local",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "::1": "loopback",
    "::ffff:10.0.0.1": "private",
    "::ffff:7f00:1": "loopback",
    "0.0.0.0": "reserved",
    "255.255.255.255": "reserved",
    "240.0.0.1": "reserved",
    "198.18.0.1": "reserved",
    "203.0.113.5": "reserved",
    "2001:db8::1": "reserved",
    "4000::1": "reserved",
}
INVALID = [
    "::ffff:1.1.1.1",
    "fe80::1%eth0",
    "::1%25lo",
    "0177.0.0.1",
    "2130706433",
    "127.1",
    "0x7f.1",
    "127.0.0.01",
    "",
    "a b",
    "a..b",
    "user@host",
    "::ffff:127.0.0.1 ",
]
PUBLIC = ["93.184.215.14", "1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "example.com", "8.8.8.8"]


@pytest.mark.parametrize(("address", "expected"), BLOCKED.items())
def test_every_row_of_the_table_has_its_class(address: str, expected: str) -> None:
    assert classify_ip(ipaddress.ip_address(address)) == expected
    assert classify(address) == ("invalid" if address.startswith("::ffff:") else expected)
    assert not permits("public", address)


@pytest.mark.parametrize("host", INVALID)
def test_what_has_two_readings_is_invalid(host: str) -> None:
    assert classify(host) == "invalid"


@pytest.mark.parametrize("host", PUBLIC)
def test_public_addresses_stay_public(host: str) -> None:
    assert classify(host) == "public"


def test_names_are_judged_by_their_form() -> None:
    assert classify("localhost") == classify("a.LOCALHOST") == "loopback"
    assert classify("metadata.google.internal") == "metadata"
    assert classify("db") == classify("db.internal") == classify("printer.local") == "private"


def test_python_alone_would_let_rows_of_the_table_through() -> None:
    """Twin: ``is_global`` is not a guard."""
    passed = [a for a in BLOCKED if ipaddress.ip_address(a).is_global]
    assert {"64:ff9b::a9fe:a9fe", "::7f00:1", "168.63.129.16", "224.0.0.1", "192.88.99.1"} <= set(passed)


class Stub:
    """A name server that says what it is told, one answer list per lookup."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize("address", list(BLOCKED))
@pytest.mark.parametrize("way", ["literal", "answer", "second_answer"])
async def test_no_way_leads_a_public_permission_to_a_blocked_address(address: str, way: str) -> None:
    stub = Stub({"literal": [], "answer": [address], "second_answer": ["1.1.1.1", address]}[way])
    dialler = Dialler(FakeClock(), resolver=stub)
    with pytest.raises(UpstreamFault, match="blocked_address"):
        await dialler.resolve(address if way == "literal" else "evil.example", "public")


@pytest.mark.parametrize("purpose", list(Purpose))
@pytest.mark.parametrize(
    "host", ["169.254.169.254", "127.0.0.1", "[64:ff9b::a9fe:a9fe]", "10.0.0.1", "evil.example", "127.1", "2130706433"]
)
async def test_no_purpose_fetches_from_a_blocked_address(purpose: Purpose, host: str) -> None:
    dialler = Dialler(FakeClock(), resolver=Stub(["192.168.0.1"]))
    with pytest.raises(UpstreamFault, match="blocked_address"):
        await dialler.fetch(purpose, f"https://{host}/", max_bytes=10, timeout_s=1)
    await dialler.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://example.com:22/",
        "https://u@example.com/",
        "https://example.com/#x",
        "file:///etc/passwd",
        "https://example.com\\@evil/",
        "https://[fe80::1%25eth0]/",
        "ftp://example.com/",
    ],
)
async def test_urls_out_of_form_scheme_or_port_are_not_fetched(url: str) -> None:
    dialler = Dialler(FakeClock(), resolver=Stub(["1.1.1.1"]))
    with pytest.raises(UpstreamFault, match="blocked_address"):
        await dialler.fetch(Purpose.CIMD, url, max_bytes=10, timeout_s=1)


async def test_a_permission_covers_its_own_class_only() -> None:
    dialler = Dialler(FakeClock(), resolver=Stub(["10.0.0.7"]))
    assert await dialler.resolve("db.corp", "private") == ("10.0.0.7",)
    for network in ("public", "loopback"):
        with pytest.raises(UpstreamFault, match="blocked_address"):
            await dialler.resolve("db.corp", network)  # type: ignore[arg-type]
    assert await dialler.resolve("127.0.0.1", "loopback") == ("127.0.0.1",)
    with pytest.raises(UpstreamFault, match="blocked_address"):
        await dialler.resolve("127.0.0.1", "private")


async def test_metadata_has_no_permission_at_all() -> None:
    for network in ("public", "private", "loopback"):
        for host in ("169.254.169.254", "metadata.google.internal", "fd00:ec2::254"):
            with pytest.raises(UpstreamFault, match="blocked_address"):
                await Dialler(FakeClock(), resolver=Stub(["10.0.0.1"])).resolve(host, network)  # type: ignore[arg-type]


async def test_an_answer_is_kept_for_a_moment_and_judged_again_when_it_changes() -> None:
    clock, stub = FakeClock(), Stub(["1.1.1.1"], ["127.0.0.1"])
    dialler = Dialler(clock, DiallerSettings(cache_s=30), resolver=stub)
    assert await dialler.resolve("rebind.example", "public") == ("1.1.1.1",)
    assert await dialler.resolve("rebind.example", "public") == ("1.1.1.1",)
    assert len(stub.asked) == 1
    clock.advance(31)
    with pytest.raises(UpstreamFault, match="blocked_address"):
        await dialler.resolve("rebind.example", "public")


async def test_a_rebinding_name_is_connected_only_to_what_was_checked() -> None:
    """The first answer is permitted, the second is not: one lookup is made, and its answer is the one dialled."""
    async with misbehaving() as server:
        stub = Stub(["127.0.0.1"], ["169.254.169.254"])
        dialler = Dialler(FakeClock(), resolver=stub)
        fetched = await dialler.fetch(
            Purpose.AGENT_CARD, f"http://rebind.test:{server.port}/", network="loopback", max_bytes=100, timeout_s=2
        )
        assert (fetched.status, fetched.body) == (200, b"{}")
        assert stub.asked == ["rebind.test"]
        await dialler.close()


async def test_without_a_pin_the_second_lookup_would_reach_another_address() -> None:
    """Twin: a client that checks and then connects by name asks twice, and is answered otherwise."""
    stub = Stub(["1.1.1.1"], ["127.0.0.1"])
    assert permits("public", (await stub("rebind.example"))[0])
    assert not permits("public", (await stub("rebind.example"))[0])


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/hang", "timeout"),
        ("/endless", "too_large"),
        ("/gzip", "malformed"),
        ("/cut-body", "cut_stream"),
        ("/rubbish", "malformed"),
    ],
)
async def test_a_fetch_is_bounded_in_time_and_size(path: str, code: str) -> None:
    async with misbehaving() as server:
        dialler = Dialler(SystemClock())
        with pytest.raises(UpstreamFault, match=code):
            await dialler.fetch(
                Purpose.HEALTH,
                server.url(path),
                network="loopback",
                max_bytes=1000,
                timeout_s=0.2 if code == "timeout" else 5,
            )
        await dialler.close()


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with misbehaving() as server:
        dialler = Dialler(SystemClock())
        fetched = await dialler.fetch(
            Purpose.CIMD, server.url("/redirect"), network="loopback", max_bytes=1000, timeout_s=2
        )
        assert fetched.status == 307
        assert len(server.seen.requests) == 1
        await dialler.close()


async def test_a_fetch_with_a_body_is_a_post_and_carries_its_purpose() -> None:
    async with misbehaving() as server:
        dialler = Dialler(SystemClock())
        fetched = await dialler.fetch(
            Purpose.TOKEN,
            server.url("/"),
            network="loopback",
            max_bytes=1000,
            timeout_s=2,
            headers=((b"content-type", b"application/x-www-form-urlencoded"),),
            body=b"a=b",
        )
        assert fetched.body == b"a=b"
        assert server.seen.requests[0].startswith(b"POST / ")
        assert b"bartizan (token)" in server.seen.requests[0]
        await dialler.close()


async def test_names_that_do_not_resolve_end_with_a_code() -> None:
    async def never(_name: str) -> list[str]:
        await asyncio.Event().wait()
        return []

    async def fails(_name: str) -> list[str]:
        raise OSError("NXDOMAIN")

    for resolver, code in (
        (never, "timeout"),
        (fails, "unreachable"),
        (Stub([]), "unreachable"),
        (Stub(["1.1.1.1"] * 9), "unreachable"),
        (Stub(["no address"]), "blocked_address"),
    ):
        with pytest.raises(UpstreamFault, match=code):
            await Dialler(FakeClock(), DiallerSettings(resolve_s=0.05), resolver=resolver).resolve(
                "x.example", "public"
            )


async def test_connect_gives_a_stream_to_a_checked_peer() -> None:
    async with misbehaving() as server:
        dialler = Dialler(FakeClock(), resolver=Stub(["127.0.0.1"]))
        reader, writer = await dialler.connect("service.test", server.port, "loopback")
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        with pytest.raises(UpstreamFault, match="unreachable"):
            await dialler.connect("service.test", 1, "loopback")


async def test_the_system_resolver_answers_for_localhost() -> None:
    assert set(await system_resolver("localhost")) <= {"127.0.0.1", "::1"}
