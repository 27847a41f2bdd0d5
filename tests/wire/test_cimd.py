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


# -- what real clients publish ------------------------------------------------------------------------------

CLAUDE_CODE = {
    "client_id": "https://claude.ai/oauth/claude-code-client-metadata",
    "client_name": "Claude Code",
    "client_uri": "https://claude.ai",
    "redirect_uris": ["http://localhost/callback", "http://127.0.0.1/callback"],
    "grant_types": ["authorization_code", "refresh_token"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
}
# Shapes: an editor with a site of its own, a scheme and loopback ports; a hosted client that names no method and
# adds members that no registry knows; a workload that never sends anybody through a browser.
EDITOR = {
    "client_id": "https://vscode.dev/oauth/client-metadata.json",
    "client_name": "An editor",
    "application_type": "native",
    "redirect_uris": ["https://vscode.dev/redirect", "http://127.0.0.1:33418/", "vscode://auth/callback"],
    "grant_types": ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
    "response_types": ["code"],
    "token_endpoint_auth_method": "none",
}
HOSTED = {
    "client_id": "https://chatgpt.com/oauth/client.json",
    "client_name": "A hosted client",
    "redirect_uris": ["https://chatgpt.com/connector_platform_oauth_redirect"],
    "grant_types": ["authorization_code", "refresh_token"],
    "logo_uri": "https://cdn.chatgpt.com/logo.png?size=64",
    "tos_uri": "not a url",
    "contacts": ["x@example.com"],
    "x_vendor": {"nested": [1, 2, {"deep": True}]},
}
SERVICE = {
    "client_id": "https://agents.example/planner.json",
    "client_name": "Planner",
    "grant_types": ["urn:ietf:params:oauth:grant-type:jwt-bearer", "client_credentials"],
    "jwks_uri": "https://agents.example/jwks.json",
}


@pytest.mark.parametrize("document", [CLAUDE_CODE, EDITOR, HOSTED, SERVICE], ids=lambda d: str(d["client_name"]))
def test_documents_of_the_shapes_that_real_clients_publish_are_read(document: dict[str, object]) -> None:
    url = str(document["client_id"])
    read = cimd.parse_document(url, json.dumps(document, indent=2).encode())
    assert read.client_id == url
    assert read.redirect_uris == tuple(document.get("redirect_uris", ()))  # type: ignore[arg-type]


def test_a_client_that_names_no_method_is_public_unless_it_has_keys() -> None:
    assert cimd.check_document(str(HOSTED["client_id"]), HOSTED).auth_method == "none"  # type: ignore[arg-type]
    assert cimd.check_document(str(SERVICE["client_id"]), SERVICE).auth_method == "private_key_jwt"  # type: ignore[arg-type]


def test_grants_that_a_document_cannot_have_are_left_out() -> None:
    """Its own tokens need a tenant, which no document has; assertions and exchange need a key."""
    read = cimd.check_document(str(SERVICE["client_id"]), SERVICE)  # type: ignore[arg-type]
    assert read.grant_types == ("urn:ietf:params:oauth:grant-type:jwt-bearer",)
    everything = [*cimd.GRANTS, *cimd.SIGNED_GRANTS, "client_credentials", "password", "implicit"]
    assert parse(grant_types=everything).grant_types == cimd.GRANTS


def test_redirect_uris_are_asked_of_whoever_uses_a_browser() -> None:
    with pytest.raises(Malformed, match="cimd_document"):
        parse(grant_types=["authorization_code"], redirect_uris=None)
    with pytest.raises(Malformed, match="cimd_document"):
        parse(grant_types=["refresh_token"], redirect_uris=[])


@pytest.mark.parametrize(
    "jwks", [{"keys": []}, {"keys": [dict(ECKey.generate_key("P-384", private=True).as_dict(private=False))]}, {}, "x"]
)
def test_keys_that_a_public_client_has_no_use_for_do_not_count_against_it(jwks: object) -> None:
    assert parse(token_endpoint_auth_method="none", jwks=jwks).auth_method == "none"
    with pytest.raises(Malformed):
        parse(token_endpoint_auth_method="private_key_jwt", jwks=jwks)


@pytest.mark.parametrize("member", ["d", "k", "p", "q", "dp", "dq", "qi", "oth"])
def test_secret_material_is_refused_in_every_key_even_of_a_public_client(member: str) -> None:
    entry = {**KEY.as_dict(private=False), member: "AAAA"}
    with pytest.raises(Malformed, match="jwks_invalid"):
        parse(token_endpoint_auth_method="none", jwks={"keys": [dict(KEY.as_dict(private=False)), entry]})
    with pytest.raises(Malformed, match="jwks_invalid"):
        parse(token_endpoint_auth_method="none", jwks={"keys": [{"kty": "oct", "kid": "x"}]})


@pytest.mark.parametrize("value", ["x" * 2049, ["x" * 2049], {"a": {"b": "x" * 2049}}])
def test_a_long_string_anywhere_is_refused(value: object) -> None:
    with pytest.raises(Malformed, match="cimd_document"):
        parse(unknown=value)


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("https://app.example/logo.png", True),
        ("https://cdn.app.example/logo.png?v=2", True),
        ("http://app.example/logo.png", False),
        ("https://127.0.0.1/logo.png", False),
        ("https://app.example/../x", False),
        ("https://app.example/a?b#c", False),
        ("https://app.example/a?b c", False),
        ("data:image/png;base64,AA", False),
        (7, False),
        (None, False),
    ],
)
def test_a_logo_that_could_not_be_fetched_costs_the_client_its_picture_and_nothing_else(
    uri: object, kept: bool
) -> None:
    assert parse(logo_uri=uri).logo_uri == (uri if kept else "")


NOW = 1_795_000_000
AT = "Wed, 18 Nov 2026 11:06:40 GMT"  # NOW


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 3600),
        ({"cache-control": "max-age=600"}, 600),
        ({"cache-control": 'public, max-age="600"'}, 600),
        ({"cache-control": "max-age=600, max-age=400"}, 400),
        ({"cache-control": "max-age=900", "age": "500"}, 400),
        ({"cache-control": "max-age=900", "age": "x"}, 900),
        ({"cache-control": "max-age=1"}, 300),
        ({"cache-control": "max-age=99999999999999"}, 86_400),
        ({"cache-control": "no-store, max-age=900"}, 300),
        ({"cache-control": "max-age=900, no-cache"}, 300),
        ({"cache-control": "max-age=900", "expires": "0"}, 900),
        ({"expires": "0"}, 300),
        ({"expires": "-1"}, 300),
        ({"expires": "Wed, 18 Nov 2026 11:26:40 GMT", "date": AT}, 1200),
        ({"expires": "Wed, 18 Nov 2026 11:26:40 GMT"}, 1200),
        ({"expires": "Wed, 18 Nov 2026 11:26:40 GMT", "date": "rubbish"}, 1200),
        ({"expires": "Wed, 18 Nov 2026 11:26:40 GMT", "age": "600"}, 600),
        ({"expires": "Wed, 18 Nov 1026 13:46:40 GMT"}, 300),
        ({"expires": "Fri, 31 Feb 2026 25:61:61 GMT"}, 300),
        ({"cache-control": "x" * 10_000 + ",max-age=900"}, 3600),
    ],
)
def test_freshness_follows_rfc_9111_within_our_bounds(headers: dict[str, str], seconds: int) -> None:
    assert cimd.fresh_seconds(headers, NOW) == seconds
