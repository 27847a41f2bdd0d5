"""Header values, hosts, paths and URLs: exactly one reading, or none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import decode_header_value as sdk_decode
from mcp.shared.inbound import encode_header_value as sdk_encode

from firewall.core.errors import Malformed
from firewall.wire import http


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=24))
def test_header_values_are_encoded_as_the_sdk_encodes_them(text: str) -> None:
    wire = http.encode_header_value(text)
    assert wire.decode() == sdk_encode(text)
    assert http.is_field_value(wire)
    assert http.decode_header_value(b" \t" + wire + b" ") == text


@given(st.one_of(st.text(max_size=20), st.text("=?base64AQ/+", max_size=12).map(lambda t: f"=?base64?{t}?=")))
def test_header_values_that_the_sdk_does_not_decode_are_not_decoded_here(text: str) -> None:
    try:
        ours: str | None = http.decode_header_value(text.encode("utf-8", "surrogatepass"))
    except Malformed:
        ours = None
    if ours is not None:
        assert ours == sdk_decode(text.strip(" \t"))


@pytest.mark.parametrize(
    "value",
    [b"=?base64?QQ?=", b"=?base64?QR==?=", b"=?base64?/w==?=", b"=?base64?Q Q==?=", b"caf\xe9", b"a\x00b", b"a\x7f"],
)
def test_a_corrupt_value_matches_nothing(value: bytes) -> None:
    with pytest.raises(Malformed):
        http.decode_header_value(value)


@pytest.mark.parametrize(
    "path", [b"/", b"/mcp", b"/mcp/", b"/mcp/time", b"/a/b.c/-_~!$&'()*+,;=:@", b"/.well-known/x", b"/a..b/...c"]
)
def test_a_normal_path_is_accepted(path: bytes) -> None:
    assert http.is_normal_path(path)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"mcp",
        b"*",
        b"//",
        b"/a//b",
        b"/./a",
        b"/a/.",
        b"/a/..",
        b"/../a",
        b"/%6dcp",
        b"/a%2fb",
        b"/a%",
        b"/a\\b",
        b"/a b",
        b"/a\tb",
        b"/a\x00",
        b"/\xc3\xa9",
        b"/a#b",
        b"/a?b",
        b"/a|b",
        b'/a"b',
        b"/" + b"a" * 8192,
    ],
)
def test_a_path_with_two_readings_is_not_normal(path: bytes) -> None:
    assert not http.is_normal_path(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"example.com", ("example.com", None)),
        (b"EXAMPLE.com:8443", ("example.com", 8443)),
        (b"127.0.0.1:1", ("127.0.0.1", 1)),
        (b"[::1]:65535", ("::1", 65535)),
        (b"[2001:db8::1]", ("2001:db8::1", None)),
        (b"a_b.internal", ("a_b.internal", None)),
        (b"localhost", ("localhost", None)),
    ],
)
def test_hosts_come_out_in_normal_form(value: bytes, expected: tuple[str, int | None]) -> None:
    assert http.parse_host(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        b"", b":80", b"a:", b"a:0", b"a:080", b"a:65536", b"a:+1", b"a:1_0", b"a b", b"a..b", b".a", b"a.", b"a@b", b"a/b", b"a,b", b"-a", b"a-", b"caf\xe9", b"a%2eb",
        b"127.1", b"0177.0.0.1", b"2130706433", b"0x7f.1", b"0x7f000001", b"127.0.0.01", b"256.1.1.1", b"1.2.3.4.5",
        b"[::1", b"::1", b"[::1]x", b"[::1%eth0]", b"[0:0::1]", b"[::FFFF:127.0.0.1%25]", b"[127.0.0.1]", b"a" * 64, b"a." * 127 + b"a",
    ],
)  # fmt: skip
def test_a_host_with_two_readings_is_refused(value: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        http.parse_host(value)
    assert caught.value.code == "http_desync"


@pytest.mark.parametrize(
    ("text", "normal", "target"),
    [
        ("https://Example.com", "https://example.com/", "/"),
        ("https://example.com:443/a?b=c%20d", "https://example.com/a?b=c%20d", "/a?b=c%20d"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x", "/x"),
        ("https://e.com?x", "https://e.com/?x", "/?x"),
        ("https://e.com/a%20b", "https://e.com/a%20b", "/a%20b"),
    ],
)
def test_urls_come_out_in_normal_form(text: str, normal: str, target: str) -> None:
    url = http.parse_url(text)
    assert str(url) == normal
    assert url.target == target


@pytest.mark.parametrize(
    "text",
    [
        "", "example.com", "//example.com/", "ftp://a/", "file:///etc/passwd", "javascript:1", "https:/a", "https://", "https://a#f", "https://a/#", "https://u@a/", "https://u:p@a/",
        "https://a\\@b/", "https://a/\\b", "https://a/b c", "https://a/\n", " https://a/", "https://é.example/", "https://a//b", "https://a/../b", "https://a/%2e%2e/b", "https://a/%2fb", "https://a/%5cb",
        "https://a/%00", "https://a/%0d", "https://a/%zz", "https://a/%2", "https://a/%+1", "https://a/%25252e", "https://127.1/", "https://2130706433/", "https://0x7f.1/", "https://[::1%25eth0]/", "https://a:99999/", "https://a/" + "a" * 8192,
    ],
)  # fmt: skip
def test_a_url_with_two_readings_is_refused(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        http.parse_url(text)
    assert caught.value.code == "url_invalid"


def test_the_reason_for_refusing_numeric_hosts_is_the_resolver() -> None:
    """Twin: what we refuse, the system's resolver reads as loopback."""
    import socket

    for text in ("127.1", "2130706433", "0x7f.1", "0177.0.0.1"):
        assert socket.getaddrinfo(text, 80, proto=socket.IPPROTO_TCP)[0][4][0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("accept", "wanted", "expected"),
    [
        (b"application/json, text/event-stream", b"text/event-stream", True),
        (b"*/*", b"application/json", True),
        (b"application/*;q=0.5", b"application/json", True),
        (b"application/json;q=0", b"application/json", False),
        (b"application/json;q=0.000, */*", b"application/json", False),
        (b"text/html", b"application/json", False),
        (b"", b"application/json", False),
    ],
)
def test_accept_is_read_as_the_rfc_says(accept: bytes, wanted: bytes, expected: bool) -> None:
    assert http.accepts(accept, wanted) is expected


def test_media_types_lose_their_parameters_and_case() -> None:
    assert http.media_type(b"Application/JSON; charset=utf-8") == "application/json"
    assert http.media_type(b"nonsense") == ""
    assert http.media_type(b"a/b/c") == ""


def test_tokens_are_those_of_the_rfc() -> None:
    assert http.is_token(b"Mcp-Name")
    assert not any(http.is_token(name) for name in (b"", b"a b", b"a:", b"a\x00", b"\xe9", b"a(b"))
