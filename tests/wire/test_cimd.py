"""Client ID Metadata Documents: URL and document rules."""

import json

import pytest
from joserfc.jwk import ECKey

from firewall.core.errors import Malformed
from firewall.wire import cimd

URL = "https://app.example/oauth/client.json"
KEY = ECKey.generate_key("P-256", private=True)
DOCUMENT = {"client_id": URL, "client_name": "App", "redirect_uris": ["http://127.0.0.1/cb"]}
JWKS = {"keys": [dict(KEY.as_dict(private=False))]}


def parse(**changes: object) -> cimd.ClientDocument:
    value = {k: v for k, v in {**DOCUMENT, **changes}.items() if v is not None}
    return cimd.parse_document(URL, json.dumps(value).encode())


@pytest.mark.parametrize("url", [URL, "https://claude.ai/oauth/claude-code-client-metadata", "https://a.b-c.example/x"])
def test_a_client_id_url_names_its_host(url: str) -> None:
    assert cimd.check_client_url(url) == url.split("/")[2]


@pytest.mark.parametrize(
    "url",
    [
        "http://app.example/c",
        "HTTPS://app.example/c",
        "https://app.example",
        "https://app.example/",
        "https://APP.example/c",
        "https://app.example:8443/c",
        "https://app.example:443/c",
        "https://user@app.example/c",
        "https://app.example/c#f",
        "https://app.example/c?x=1",
        "https://app.example/a/../c",
        "https://app.example/./c",
        "https://app.example/%2e%2e/c",
        "https://app.example/%2E/c",
        "https://app.example/.%2e/c",
        "https://app.example/a%2fb",
        "https://app.example/a\\b",
        "https://app.example/a b",
        "https://app.example/é",
        "https://localhost/c",
        "https://127.0.0.1/c",
        "https://2130706433/c",
        "https://0x7f.0.0.1/c",
        "https://[::1]/c",
        "https://a..example/c",
        "https://-a.example/c",
        "https://app.example./c",
        "https://app_x.example/c",
        "https://app.example/" + "x" * 512,
    ],
)
def test_cl_01_another_url_is_refused_before_any_network(url: str) -> None:
    with pytest.raises(Malformed, match="cimd_url"):
        cimd.check_client_url(url)


def test_a_port_is_allowed_one_by_one() -> None:
    assert cimd.check_client_url("https://app.example:8443/c", ports=frozenset({8443})) == "app.example"


def test_a_document_is_read_and_unknown_members_are_ignored() -> None:
    document = parse(grant_types=["authorization_code", "refresh_token", "password"], scope="a b", contacts=["x"])
    assert document.grant_types == ("authorization_code", "refresh_token")
    assert document.scope == ("a", "b")
    assert document.auth_method == "none"


def test_a_missing_method_is_none_or_where_keys_are_given_private_key_jwt() -> None:
    assert parse(jwks=JWKS).auth_method == "private_key_jwt"
    assert parse(jwks_uri="https://app.example/jwks.json").auth_method == "private_key_jwt"


@pytest.mark.parametrize(
    "client_id", [URL + "/", URL + "x", "https://app.example:443/oauth/client.json", URL.upper(), None, 1]
)
def test_cl_02_a_document_of_another_client_is_refused(client_id: object) -> None:
    with pytest.raises(Malformed, match="cimd_document"):
        parse(client_id=client_id)


@pytest.mark.parametrize(
    "change",
    [
        {"client_secret": "x"},
        {"client_secret_expires_at": 0},
        {"token_endpoint_auth_method": "client_secret_basic"},
        {"token_endpoint_auth_method": "client_secret_post"},
        {"token_endpoint_auth_method": 1},
        {"token_endpoint_auth_method": "private_key_jwt"},
        {"jwks": JWKS, "jwks_uri": "https://app.example/jwks.json"},
        {"jwks_uri": "http://app.example/jwks.json"},
        {"jwks_uri": "https://127.0.0.1/jwks.json"},
        {"redirect_uris": []},
        {"redirect_uris": None},
        {"redirect_uris": "http://127.0.0.1/cb"},
        {"redirect_uris": ["http://127.0.0.1/cb", 1]},
        {"redirect_uris": ["https://*.app.example/cb"]},
        {"redirect_uris": ["javascript:alert(1)"]},
        {"redirect_uris": ["http://app.example/cb"]},
        {"redirect_uris": ["https://app.example/cb"] * 21},
        {"client_name": "x" * 2049},
        {"client_name": ["x"]},
        {"grant_types": "authorization_code"},
        {"scope": 'a"'},
    ],
)
def test_a_document_with_one_fault_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Malformed, match="cimd_document"):
        parse(**change)


def test_private_keys_in_a_document_are_refused() -> None:
    with pytest.raises(Malformed, match="jwks_invalid"):
        parse(jwks={"keys": [dict(KEY.as_dict(private=True))]})


@pytest.mark.parametrize("data", [b"", b"[]", b'{"client_id":1,"client_id":2}', b"{" * 50, b"x", b" " * 5121])
def test_a_document_that_is_no_strict_object_or_too_large_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="cimd_document"):
        cimd.parse_document(URL, data)


def test_the_size_limit_is_inclusive() -> None:
    data = json.dumps({**DOCUMENT, "pad": ""}).encode()
    padding = 5120 - len(data)
    assert padding > 0
    assert cimd.parse_document(URL, data + b" " * padding).client_id == URL
    with pytest.raises(Malformed):
        cimd.parse_document(URL, data + b" " * (padding + 1))


def test_ui_01_the_digest_changes_with_what_was_agreed_to_and_with_nothing_else() -> None:
    before = parse().digest
    assert parse(contacts=["x"]).digest == before
    for change in (
        {"client_name": "Other"},
        {"redirect_uris": ["http://127.0.0.1/cb2"]},
        {"logo_uri": "https://x.example/l"},
    ):
        assert parse(**change).digest != before


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 3600),
        ("max-age=60", 300),
        ("public, max-age=1000", 1000),
        ("max-age=9999999", 86400),
        ("no-store", 300),
        ("max-age=x", 3600),
    ],
)
def test_a_document_is_kept_within_our_bounds(header: str, seconds: int) -> None:
    assert cimd.cache_seconds(header) == seconds
