"""Pictures of clients: our own copy or none, never a remote image, and nothing that a browser would run (UI-04)."""

from __future__ import annotations

import asyncio
import struct
import zlib

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import UpstreamFault
from firewall.identity.cimd import logos as client_logos
from firewall.identity.cimd.images import parse_picture
from firewall.identity.clients.registry import Client, from_document
from firewall.net.dial import Fetched, Purpose
from firewall.wire import cimd, strict_json
from tests.support.door import CIMD_DOCUMENT, CIMD_URL, Browser, Door, authorize_query, make_door

LOGO = "https://app.example/logo.png"


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int = 32, height: int = 32, *more: bytes) -> bytes:
    """more: chunks behind the header."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    drawn = chunk(b"IDAT", zlib.compress(b"\0" * 33 * 32))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + drawn + chunk(b"IEND")


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


TABLE = segment(0xDB, b"\0" * 65)
SCAN = segment(0xDA, b"\x01\x01\0\0?\0") + b"\x12\xff\0\x34\xff\xd0\x56"


def jpeg(width: int = 32, height: int = 32, *more: bytes, frame: int = 0xC0, scan: bytes = SCAN) -> bytes:
    """more: segments before the frame."""
    size = segment(frame, b"\x08" + struct.pack(">HH", height, width) + b"\x01\x01\x11\0")
    return b"\xff\xd8" + b"".join(more) + TABLE + size + scan + b"\xff\xd9"


def part(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def webp(*parts: bytes) -> bytes:
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extended(flags: int = 0, width: int = 32, height: int = 32) -> bytes:
    return part(b"VP8X", bytes((flags, 0, 0, 0)) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3])


def lossy(width: int = 32, height: int = 32) -> bytes:
    return part(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height) + b"\0" * 21)


LOSSLESS = part(b"VP8L", b"\x2f" + struct.pack("<I", 31 | 31 << 14) + b"\0" * 20)
SECRET = b"carried along"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def describing(door: Door, logo: str | None = LOGO) -> Client:
    document = cimd.check_document(CIMD_URL, {**CIMD_DOCUMENT, **({"logo_uri": logo} if logo else {})})
    return from_document(document)


def answers(door: Door, body: bytes, uri: str = LOGO, status: int = 200) -> None:
    door.fetcher.answers[uri] = Fetched(status, {"content-type": "text/html"}, body)


async def get(door: Door, path: str) -> httpx2.Response:
    async with door.http() as http:
        return await http.get(path)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (png(), "image/png"),
        (png(1024, 1024), "image/png"),
        (jpeg(), "image/jpeg"),
        (jpeg(frame=0xC2, scan=SCAN + segment(0xC4, b"\0" * 20) + SCAN), "image/jpeg"),
        (webp(lossy()), "image/webp"),
        (webp(LOSSLESS), "image/webp"),
        (webp(extended(0x10), part(b"ALPH", b"\0" * 9), lossy()), "image/webp"),
        (png(1025, 1), ""),
        (png(100_000, 100_000), ""),
        (png(0, 1), ""),
        (png()[:32], ""),
        (png()[:-1], ""),
        (png()[:-12], ""),
        (png().replace(b"IDAT", b"IDAU"), ""),
        (png()[:40] + b"\1" + png()[41:], ""),
        (png(32, 32, chunk(b"QUUX", b"critical, and nobody knows it")), ""),
        (png(32, 32, chunk(b"IHDR", b"\0" * 13)), ""),
        (png(32, 32, *(chunk(b"tEXt"),) * 2000), ""),
        (jpeg(1, 1025), ""),
        (jpeg()[:40], ""),
        (jpeg()[:-2], ""),
        (jpeg(frame=0xC9), ""),
        (jpeg(scan=b""), ""),
        (jpeg(32, 32, segment(0xC0, b"\x08\0\1\0\1\x01\x01\x11\0")), ""),
        (jpeg(32, 32, b"\xff\xe0\0\0"), ""),
        (b"\xff\xd8\xff" + b"\xff" * 200, ""),
        (webp(extended(0, 1 << 24, 1), lossy()), ""),
        (webp(extended(), lossy(1025, 1)), ""),
        (webp(extended(0x02), lossy()), ""),
        (webp(extended(), lossy(), lossy()), ""),
        (webp(extended()), ""),
        (webp(part(b"ALPH", b"\0" * 40)), ""),
        (webp(lossy())[:29], ""),
        (SVG, ""),
        (b"GIF89a" + b"\1" * 60, ""),
        (b"BM" + b"\1" * 60, ""),
        (b"<!doctype html>", ""),
        (b"", ""),
        (b"\x89PNG\r\n\x1a\n<script>alert(1)</script>" + b" " * 40, ""),
    ],
)
def test_a_picture_is_what_its_bytes_say(data: bytes, kind: str) -> None:
    picture = parse_picture(data)
    assert (picture.kind if picture else "") == kind
    if picture is not None:
        assert parse_picture(picture.data) == picture


@pytest.mark.parametrize(
    ("loaded", "plain"),
    [
        (png() + SECRET, png()),
        (png(32, 32, chunk(b"tEXt", b"Comment\0" + SECRET)), png()),
        (png(32, 32, chunk(b"eXIf", SECRET)), png()),
        (png(32, 32, chunk(b"acTL", b"\0\0\0\2\0\0\0\0"), chunk(b"fdAT", SECRET)), png()),
        (png(32, 32, chunk(b"tRNS", b"\0\0"), chunk(b"iCCP", SECRET)), png(32, 32, chunk(b"tRNS", b"\0\0"))),
        (jpeg() + SECRET, jpeg()),
        (jpeg().replace(TABLE, b"\xff\xff" + TABLE), jpeg()),
        (jpeg(32, 32, segment(0xE1, b"Exif\0\0" + SECRET), segment(0xFE, SECRET)), jpeg()),
        (jpeg(32, 32, segment(0xEE, b"Adobe" + b"\0" * 7 + SECRET)), jpeg()),
        (jpeg(32, 32, segment(0xEE, b"Adobe" + b"\0" * 7)), jpeg(32, 32, segment(0xEE, b"Adobe" + b"\0" * 7))),
        (webp(lossy()) + SECRET, webp(lossy())),
        (webp(lossy(), part(b"EXIF", SECRET)), webp(lossy())),
        (webp(extended(0x2C), part(b"ICCP", SECRET), lossy(), part(b"XMP ", SECRET)), webp(extended(), lossy())),
        (webp(extended(0x10), LOSSLESS), webp(extended(0x10), LOSSLESS)),
    ],
)
def test_ui_04_nothing_that_does_not_draw_is_carried_along(loaded: bytes, plain: bytes) -> None:
    picture = parse_picture(loaded)
    assert picture is not None
    assert picture.data == plain


@given(st.binary(max_size=200), st.sampled_from([png(), jpeg(), webp(extended(0x10), lossy())]), st.integers(0, 300))
def test_any_bytes_are_a_picture_or_none_and_what_is_kept_is_one(noise: bytes, base: bytes, at: int) -> None:
    for data in (noise, base[:at] + noise, base[:at] + noise + base[at:], base[:at] + noise + base[at + len(noise) :]):
        picture = parse_picture(data)
        if picture is not None:
            assert len(picture.data) <= len(data) + 1  # a missing last byte of padding
            assert parse_picture(picture.data) == picture


async def test_the_copy_is_served_from_our_origin_under_a_random_name_and_sandboxed() -> None:
    door = make_door()
    answers(door, png())
    path = await door.identity.logos.path_for(describing(door))
    assert path.startswith("/client-logo/")
    assert len(path.removeprefix("/client-logo/")) == 32  # 128 random bits
    reply = await get(door, path)
    assert (reply.status_code, reply.content) == (200, png())
    assert reply.headers["content-type"] == "image/png"  # what it is, not what its host called it
    assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-disposition"] == "attachment"
    assert reply.headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in reply.headers


async def test_a_picture_is_fetched_once_a_day_and_by_no_other_worker_again() -> None:
    door = make_door()
    answers(door, png())
    first = await door.identity.logos.path_for(describing(door))
    for _ in range(5):
        assert await door.identity.logos.path_for(describing(door)) == first
    assert door.fetcher.asked == [(Purpose.LOGO, LOGO)]
    door.clock.advance(24 * 3600)
    second = await door.identity.logos.path_for(describing(door))
    assert second != first
    assert (await get(door, first)).status_code == 200  # a page that was rendered a moment ago
    door.clock.advance(3600)
    assert (await get(door, first)).status_code == 404


@pytest.mark.parametrize("body", [SVG, b"", b"<html>", b"GIF89a", png(5000, 5000)])
async def test_ui_04_what_is_no_small_picture_is_not_kept_and_not_shown(body: bytes) -> None:
    door = make_door()
    answers(door, body)
    assert await door.identity.logos.path_for(describing(door)) == ""
    assert await door.identity.logos.path_for(describing(door)) == ""
    assert len(door.fetcher.asked) == 1


async def test_a_picture_of_more_than_64_kib_is_not_read() -> None:
    door = make_door()
    answers(door, png() + b"\0" * 65_536)
    assert await door.identity.logos.path_for(describing(door)) == ""


@pytest.mark.parametrize("status", [301, 302, 404, 500])
async def test_cl_01_a_redirect_or_an_error_is_no_picture(status: int) -> None:
    door = make_door()
    answers(door, png(), status=status)
    assert await door.identity.logos.path_for(describing(door)) == ""


@pytest.mark.parametrize(
    "uri",
    [
        "http://app.example/logo.png",
        "https://127.0.0.1/logo.png",
        "https://2130706433/logo.png",
        "https://[::1]/logo.png",
        "https://localhost/logo.png",
        "https://user@app.example/logo.png",
        "https://app.example:8080/logo.png",
        "https://app.example/../logo.png",
        "https://evil.example/logo.png",
        "https://app.example.evil.example/logo.png",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "//app.example/logo.png",
        "https://app.example/" + "x" * 600,
    ],
)
async def test_cl_01_a_picture_from_elsewhere_is_not_fetched(uri: str) -> None:
    door = make_door()
    answers(door, png(), uri)
    assert await door.identity.logos.path_for(describing(door, uri)) == ""
    assert door.fetcher.asked == []


@pytest.mark.parametrize("uri", ["https://cdn.app.example/logo.png", "https://static.corp.example/l?size=64"])
async def test_a_picture_may_stand_below_the_client_s_host_or_at_a_listed_one(uri: str) -> None:
    door = make_door(cimd_hosts=("app.example", "*.corp.example"))
    answers(door, png(), uri)
    assert await door.identity.logos.path_for(describing(door, uri))


async def test_registered_clients_and_those_without_a_picture_have_none() -> None:
    door = make_door()
    tool = await door.identity.clients.find("tool")
    assert tool is not None
    assert await door.identity.logos.path_for(tool) == ""
    assert await door.identity.logos.path_for(describing(door, None)) == ""
    assert door.fetcher.asked == []


@pytest.mark.parametrize(
    "name", ["", "x", "0" * 32, "..%2fassets%2ffront-door.css", "0" * 200, "uri", "%00", "copy/x", "a" * 31 + "\u00e9"]
)
async def test_a_guessed_name_leads_nowhere(name: str) -> None:
    door = make_door()
    assert (await get(door, f"/client-logo/{name}")).status_code == 404


async def test_the_table_of_pictures_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_logos, "LOGOS", 10)
    door = make_door()
    for number in range(30):
        uri = f"https://app.example/{number}.png"
        answers(door, png(), uri)
        door.clock.advance(1)
        assert await door.identity.logos.path_for(describing(door, uri))
    assert sum(1 for _ in door.store.collection("client_logos").scan("_node", "copy/")) == 10


async def test_a_slow_picture_does_not_hold_up_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_logos, "FETCH_S", 0.05)
    door = make_door()

    async def never(*_args: object, **_more: object) -> Fetched:
        await asyncio.Event().wait()
        raise UpstreamFault("timeout")

    monkeypatch.setattr(door.fetcher, "fetch", never)
    assert await door.identity.logos.path_for(describing(door)) == ""


async def test_ui_04_the_consent_page_shows_our_copy_and_no_remote_image() -> None:
    door = make_door(cimd_pinned={CIMD_URL: {**CIMD_DOCUMENT, "logo_uri": LOGO}})
    await door.user()
    answers(door, png())
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
    assert '<img class="logo" src="/client-logo/' in page.text
    assert LOGO not in page.text
    assert "img-src 'self'" in page.headers["content-security-policy"]


async def test_ui_01_a_document_that_changed_is_asked_about_again() -> None:
    """Consent depends on a digest of what was shown: another name, redirect, key or picture is another question."""
    door = make_door(cimd_pinned={})
    await door.user()
    body = {**CIMD_DOCUMENT, "client_name": "Example Agent"}
    async with door.http() as http:
        browser = Browser(http)
        publish(door, body)
        assert "code" in await browser.code()
        again = await browser.open(authorize_query())
        assert again.status_code == 303  # remembered
        door.clock.advance(3601)
        publish(door, {**body, "contacts": ["x"]})
        assert (await browser.open(authorize_query())).status_code == 303
        door.clock.advance(3601)
        publish(door, {**body, "client_name": "Another Agent"})
        page = await browser.open(authorize_query())
        assert page.status_code == 200
        assert "Another Agent" in page.text


def publish(door: Door, body: dict[str, object]) -> None:
    data = strict_json.dumps(body)  # type: ignore[arg-type]
    door.fetcher.answers[CIMD_URL] = Fetched(200, {"content-type": "application/json"}, data)


async def test_ui_01_a_document_that_changes_after_it_was_shown_was_not_agreed_to() -> None:
    door = make_door(cimd_pinned={})
    await door.user()
    publish(door, dict(CIMD_DOCUMENT))
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.sign_in(await browser.open(authorize_query()))
        assert "Example Agent" in page.text
        door.clock.advance(301)
        publish(door, {**CIMD_DOCUMENT, "client_name": "Bank"})
        door.identity.clients._documents._kept.clear()
        assert (await browser.approve(page)).status_code == 403
        door.clock.advance(31)
        publish(door, {**CIMD_DOCUMENT, "redirect_uris": ["http://127.0.0.1/elsewhere"]})
        door.identity.clients._documents._kept.clear()
        again = await browser.get("/consent")
        assert (again.status_code, "has not registered" in again.text) == (400, True)
