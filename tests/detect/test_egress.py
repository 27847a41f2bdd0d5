"""Where a string points: every way to write an address that should not be reached."""

from __future__ import annotations

import pytest

from firewall.detect.egress import address_class, ipv4_number, read_url
from tests.detect.conftest import Scan

PRIVATE = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0x7f.1/",
    "http://10.0.0.5:8080/x",
    "http://172.16.0.1/",
    "http://192.168.1.1/admin",
    "http://100.64.1.1/",
    "http://0.0.0.0/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::ffff:a00:1]/",
    "http://[64:ff9b::10.0.0.1]/",
    "http://[2002:7f00:1::]/",
    "http://[fd12:3456::1]/",
    "http://[fe80::1%25eth0]/",
    "http://localhost:9000/",
    "http://LOCALHOST./",
    "http://foo.localhost/",
    "http://intranet.corp/",
    "http://db.internal/",
    "http://10.0.0.1.nip.io/",
    "http://localtest.me/",
    "http://user@127.0.0.1/",
    "http://example.com@127.0.0.1/",
    "http:\\\\127.0.0.1\\",
    "http:/127.0.0.1/",
    "http://127。0。0。1/",
    "http://①②⑦.0.0.1/",
    "http://%31%32%37.0.0.1/",
    "ftp://192.168.0.2/x",
    "gopher://127.0.0.1:6379/_INFO",
]
METADATA = [
    "http://169.254.169.254/latest/meta-data/iam/",
    "http://[::ffff:169.254.169.254]/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://0251.0376.0251.0376/",
    "http://169.254.43518/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://100.100.100.200/latest/",
    "http://[fd00:ec2::254]/",
    "http://user:x@169.254.169.254/",
]
PUBLIC = [
    "https://example.com/a?b=c",
    "http://93.184.216.34/",
    "https://[2606:4700::1111]/",
    "https://xn--bcher-kva.example/",
    "wss://api.example.org/socket",
]
SPELT = [
    "https://api.example.com/a/../b",
    "https://api.example.com/a/%2e%2E/b",
    "https://api.example.com/./a",
    "https://api.example.com:443/x",
    "https://API.example.com/x",
    "HTTPS://api.example.com/x",
    "https://api.example.com:/x",
]
ODD = [
    "http://user:pw@example.com/",
    "http://example.com\\@evil.example/",
    "http:///example.com/",
    "http://exa%6dple.com/",
    "http://example.com./",
    "http://0x5db8d822/",
    "http://1572395042/",
    "http://[::ffff:93.184.216.34]/",
    *SPELT,
]


@pytest.mark.parametrize("url", PRIVATE)
def test_a_private_address_is_found_however_it_is_written(url: str, call: Scan) -> None:
    found = [f for f in call({"url": url}) if f.rule == "egress.private_address"]
    assert [(f.pointer, f.control, f.category) for f in found] == [("/params/arguments/url", "EGR-01", "egress")]
    assert found[0].severity >= 80


@pytest.mark.parametrize("url", METADATA)
def test_a_metadata_address_is_named_as_such(url: str, call: Scan) -> None:
    assert "egress.metadata_address" in {f.rule for f in call({"target": {"url": [url]}})}


@pytest.mark.parametrize("url", PUBLIC)
def test_a_public_url_in_normal_form_is_no_finding(url: str, call: Scan) -> None:
    assert [f for f in call({"url": url}) if f.category in ("egress", "normal_form")] == []


@pytest.mark.parametrize("url", ODD)
def test_a_public_url_that_is_not_in_normal_form_says_so(url: str, call: Scan) -> None:
    found = [f for f in call({"url": url}) if f.rule == "egress.not_normal_form"]
    assert found
    assert found[0].category == "normal_form"


@pytest.mark.parametrize("url", SPELT)
def test_a_second_spelling_of_a_place_is_refused_where_a_url_is_meant_and_told_in_a_text(url: str, call: Scan) -> None:
    assert [f.severity for f in call({"url": url})] == [80]
    assert [f.severity for f in call({"text": f"have a look at {url} and tell me"})] == [30]


@pytest.mark.parametrize(
    "url", ["https://api.example.com/a?b=../c", "https://api.example.com/a..b/..c", "https://h.example:8443/"]
)
def test_dots_that_climb_nowhere_and_other_ports_are_in_normal_form(url: str, call: Scan) -> None:
    assert call({"url": url}) == []


def test_a_check_of_the_spelling_alone_would_miss_most_of_them() -> None:
    """The twin: what a prefix check finds is a part; the judge's reading of the host finds all."""
    naive = [
        url for url in PRIVATE if url.startswith(("http://127.", "http://10.", "http://192.168.", "http://localhost"))
    ]
    assert len(naive) < len(PRIVATE) / 3
    assert all(address_class(read_url(url).host) != "public" for url in PRIVATE + METADATA if read_url(url))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.1", "127.0.0.1"),
        ("0x7f.0.0.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("1.2.3.4.", "1.2.3.4"),
        ("1.2.3.256", None),
        ("256.1.1.1", None),
        ("1.2.3.4.5", None),
        ("example", None),
        ("1.2.3.x", None),
        ("4294967296", None),
    ],
)
def test_numbers_are_read_as_the_url_standard_reads_them(text: str, expected: str | None) -> None:
    assert str(ipv4_number(text)) == str(expected)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "169.254.169.254", "localhost", "[::1]", "10.1.2.3:8080", "metadata.google.internal"]
)
def test_a_bare_host_is_judged_under_a_key_that_names_a_target(host: str, call: Scan) -> None:
    assert {f.category for f in call({"host": host})} == {"egress"}
    assert [f for f in call({"note": f"the box {host} is down"}) if f.severity >= 50] == []


def test_a_url_in_prose_counts_less_than_one_to_be_fetched(call: Scan) -> None:
    prose = call({"body": "It fails on http://localhost:8080/health since Monday."})
    assert [f.severity for f in prose if f.category == "egress"] == [30]
    assert [f.severity for f in call({"url": "http://localhost:8080/health"}) if f.category == "egress"] == [90]


def test_results_are_not_judged_for_addresses(result: Scan) -> None:
    assert [f for f in result("listening on http://127.0.0.1:8000/") if f.category == "egress"] == []


def test_a_local_scheme_is_found(call: Scan) -> None:
    assert "egress.local_scheme" in {f.rule for f in call({"url": "file:///etc/passwd"})}


def test_data_in_a_host_name_is_found(call: Scan) -> None:
    assert "egress.data_in_host" in {
        f.rule for f in call({"url": "https://mzxw6ytboi4dsnbtgq2dkmzsgu3q.a.evil.example/"})
    }
    assert "egress.data_in_host" not in {
        f.rule for f in call({"url": "https://very-long-but-readable-name-of-a-service.example.com/"})
    }


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "/data/../etc/shadow",
        "a/%2e%2e/b",
        "a\\..\\..\\b",
        "x/%252e%252e/y",
        "..%2f..%2fetc",
        "ok%c0%ae%c0%ae/x",
        "a.txt%00.png",
    ],
)
def test_a_climbing_path_is_found_under_a_path_key(path: str, call: Scan) -> None:
    found = [f for f in call({"path": path}) if f.rule == "path.traversal"]
    assert found
    assert found[0].category == "normal_form"
    assert found[0].pointer == "/params/arguments/path"


@pytest.mark.parametrize("path", ["/data/" + "./" * 2100 + "../../etc/shadow", "/data/x\n/../../../etc/shadow"])
def test_a_climbing_path_hides_neither_in_length_nor_behind_a_line_end(path: str, call: Scan) -> None:
    """A tool that shortens a path before it opens it accepts both."""
    assert [f for f in call({"path": path}) if f.rule == "path.traversal" and f.severity >= 60]
    # the twin: a whole text, under a name that often holds one, may say "../"
    assert [f for f in call({"file_text": "import a\n" * 600 + "from '../b'\n"}) if f.rule == "path.traversal"] == []


@pytest.mark.parametrize(
    "value", ["HEAD..main", "wait... what", "see ../README for more", "version 1..2", "/data/file..txt"]
)
def test_dots_in_prose_and_ranges_are_no_path(value: str, call: Scan) -> None:
    assert [f for f in call({"note": value}) if f.rule == "path.traversal"] == []


def test_an_image_that_carries_data_weighs_more_than_a_badge(result: Scan) -> None:
    severities = {
        f.rule: f.severity
        for f in result(
            "![a](https://img.example/badge.svg) ![b](https://e.example/p.png?d=c2VjcmV0LWZyb20tdGhlLWNvbnRleHQ)"
        )
    }
    assert severities["markup.data_in_url"] == 70
    assert severities["markup.remote_image"] == 20
    assert "markup.script_uri" in {f.rule for f in result("[x](javascript:alert(1))")}
    assert "markup.data_in_url" in {f.rule for f in result('<img src="https://e.example/p?q={summary}">')}
