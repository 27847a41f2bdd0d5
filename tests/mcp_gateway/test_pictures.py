"""Icons and web pages that a server names: a host opens them by itself, so only plain ones are told (SEP-973, UR-1)."""

import pytest

from mcp_gateway.apps import Rights
from mcp_gateway.pictures import DATA_CHARS, icons, web_address
from tests.support.mcp import spec

HOME = Rights(domains=frozenset({"https://cdn.example"}), home="https://notes.example/mcp")
PNG = "data:image/png;base64,iVBORw0KGgo="


@pytest.mark.parametrize(
    "src",
    [
        PNG,
        PNG.replace("png", "webp"),
        "https://notes.example/i.png",
        "https://notes.example:8443/i",
        "https://cdn.example/a?b=c",
    ],
)
def test_a_picture_inside_or_of_the_servers_own_host_or_of_a_named_origin_is_shown(src):
    assert icons([{"src": src, "sizes": ["48x48"], "mimeType": "image/png", "theme": "dark", "note": "x"}], HOME) == [
        {"src": src, "mimeType": "image/png", "sizes": ["48x48"], "theme": "dark"}
    ]


@pytest.mark.parametrize(
    "src",
    [
        "http://notes.example/i.png",
        "https://tracker.example/i.png?who=1",
        "https://notes.example.evil.example/i",
        "https://x.notes.example/i",
        "https://user@notes.example/i",
        "https://notes.example\\@evil.example/i",
        "https://notes.example/\u202ei",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:text/html;base64,PHN2Zy8+",
        "data:image/png;base64,not base64",
        "data:image/png,plain",
        "data:image/png;base64,",
        PNG + "A" * DATA_CHARS,
        7,
        None,
    ],
)
def test_every_other_address_is_left_out(src):
    assert icons([{"src": src}], HOME) == []


@pytest.mark.parametrize("value", [None, {}, "x", ["x"], [[]]])
def test_what_is_no_list_of_icons_shows_none(value):
    assert icons(value, HOME) == []


def test_a_server_over_http_is_its_own_home_and_a_program_has_none():
    assert spec("a", url="http://127.0.0.1:9/mcp").apps.home == "http://127.0.0.1:9/mcp"
    assert spec("a", transport="stdio", command=("x",)).apps.home == ""
    assert icons([{"src": "https://notes.example/i.png"}], Rights()) == []


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("https://notes.example/about", True),
        ("http://notes.example", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://u:p@notes.example/", False),
        ("https://n\u043etes.example/", False),
        ("https:notes.example", False),
        ("https://notes.example/ x", False),
        ("", False),
        (5, False),
    ],
)
def test_a_servers_web_page_is_a_plain_address(text, good):
    assert web_address(text) is good
