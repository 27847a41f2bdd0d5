"""Pictures of clients: our own copy or none, never a remote image, and nothing that a browser would run (UI-04)."""

from __future__ import annotations

import asyncio
import struct
import zlib

import httpx2
import pytest

from firewall.core.errors import UpstreamFault
from firewall.identity.cimd import logos as client_logos
from firewall.identity.cimd.images import media_type
from firewall.identity.clients.registry import Client, from_document
from firewall.net.dial import Fetched, Purpose
from firewall.wire import cimd, strict_json
from tests.support.door import CIMD_DOCUMENT, CIMD_URL, Browser, Door, authorize_query, inputs_of, make_door

LOGO = "https://app.example/logo.png"


def png(width: int = 32, height: int = 32) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 33 * 32)) + chunk(b"IEND", b"")


def jpeg(width: int = 32, height: int = 32) -> bytes:
    tables = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xdb\x00\x43" + b"\0" * 65
    return b"\xff\xd8" + tables + b"\xff\xc0\x00\x11\x08" + struct.pack(">HH", height, width) + b"\x03" + b"\0" * 20


def webp(form: bytes, data: bytes) -> bytes:
    body = b"WEBP" + form + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


LOSSY = webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 32, 32) + b"\0" * 20)
LOSSLESS = webp(b"VP8L", b"\x2f" + struct.pack("<I", 31 | 31 << 14) + b"\0" * 20)
EXTENDED = webp(b"VP8X", b"\0\0\0\0" + b"\x1f\0\0" + b"\x1f\0\0" + b"\0" * 20)
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
        (jpeg(), "image/jpeg"),
        (LOSSY, "image/webp"),
        (LOSSLESS, "image/webp"),
        (EXTENDED, "image/webp"),
        (png(1024, 1024), "image/png"),
        (png(1025, 1), ""),
        (png(100_000, 100_000), ""),
        (png(0, 1), ""),
        (jpeg(1, 1025), ""),
        (jpeg()[:40], ""),
        (b"\xff\xd8\xff" + b"\xff" * 200, ""),
        (webp(b"VP8X", b"\0\0\0\0" + b"\xff\xff\xff" + b"\0\0\0" + b"\0" * 20), ""),
        (webp(b"ALPH", b"\0" * 40), ""),
        (LOSSY[:29], ""),
        (png()[:32], ""),
        (SVG, ""),
        (b"GIF89a" + b"\1" * 60, ""),
        (b"BM" + b"\1" * 60, ""),
        (b"<!doctype html>", ""),
        (b"", ""),
        (b"\x89PNG\r\n\x1a\n<script>alert(1)</script>" + b" " * 40, ""),
    ],
)
def test_a_picture_is_what_its_first_bytes_say(data: bytes, kind: str) -> None:
    assert media_type(data) == kind


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
        again = await browser.get(f"/consent?txn={inputs_of(page.text)['txn']}")
        assert (again.status_code, "has not registered" in again.text) == (400, True)
