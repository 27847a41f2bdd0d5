"""Reading challenges and metadata of upstreams: pure, and hostile input first."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import Malformed
from firewall.identity.upstream import metadata
from firewall.identity.upstream.metadata import Challenge, parse_challenge

ISSUER = "https://as.example"
URL = "https://files.example/mcp"


def server(**changes: object) -> bytes:
    told = {
        "issuer": ISSUER,
        "authorization_endpoint": f"{ISSUER}/authorize",
        "token_endpoint": f"{ISSUER}/token",
        "code_challenge_methods_supported": ["S256"],
        **changes,
    }
    return json.dumps({k: v for k, v in told.items() if v is not None}).encode()


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ('Bearer resource_metadata="https://a/x", scope="a b"', Challenge("https://a/x", "a b")),
        ("bearer scope=a", Challenge("", "a")),
        ('Basic realm="x, Bearer scope=evil", Bearer scope="good"', Challenge("", "good")),
        ('Bearer error="insufficient_scope", scope="w", scope="second"', Challenge("", "w", "insufficient_scope")),
        ('Bearer error_description="a scope=admin", scope="read"', Challenge("", "read")),
        (r'Bearer scope="a\"b"', Challenge("", 'a"b')),
        ("Negotiate YWJj==, Bearer scope=x", Challenge("", "x")),
        ('DPoP algs="ES256", Bearer scope="x"', Challenge("", "x")),
        ('Bearer scope="x", DPoP error="use_dpop_nonce", scope="y"', Challenge("", "x", "use_dpop_nonce")),
        ("", Challenge()),
        ('Bearer scope="never closed', Challenge()),
        ("Bearer scope=ä", Challenge()),
        ("x" * 9000, Challenge()),
    ],
)
def test_a_challenge_is_read_parameter_by_parameter_and_never_guessed_at(value: str, wanted: Challenge):
    assert parse_challenge(value) == wanted


@given(st.text(max_size=200))
def test_no_challenge_breaks_the_reader(value: str):
    assert isinstance(parse_challenge(value), Challenge)


def test_metadata_is_looked_for_where_mcp_says_and_in_that_order():
    assert metadata.resource_metadata_urls("https://a.example/mcp/x") == (
        "https://a.example/.well-known/oauth-protected-resource/mcp/x",
        "https://a.example/.well-known/oauth-protected-resource",
    )
    assert metadata.server_metadata_urls("https://a.example/t") == (
        "https://a.example/.well-known/oauth-authorization-server/t",
        "https://a.example/.well-known/openid-configuration/t",
        "https://a.example/t/.well-known/openid-configuration",
    )
    assert metadata.server_metadata_urls("https://a.example") == (
        "https://a.example/.well-known/oauth-authorization-server",
        "https://a.example/.well-known/openid-configuration",
    )


@pytest.mark.parametrize(
    ("resource", "good"),
    [
        (URL, True),
        (URL + "/", True),
        ("https://files.example", True),
        ("https://files.example/", True),
        ("HTTPS://FILES.example/mcp", True),
        ("https://files.example/mc", False),
        ("https://files.example/mcp/deeper", False),
        ("https://files.example:8443/mcp", False),
        ("http://files.example/mcp", False),
        ("https://evil.example/mcp", False),
        ("https://files.example.evil.example/mcp", False),
        ("https://files.example/mcp?x=1", False),
        ("https://user@files.example/mcp", False),
        ("", False),
    ],
)
def test_a_resource_is_ours_or_a_parent_of_it_and_nothing_fuzzy(resource: str, good: bool):
    data = json.dumps({"resource": resource, "authorization_servers": [ISSUER]}).encode()
    if good:
        assert metadata.parse_resource_metadata(data, URL).issuers == (ISSUER,)
    else:
        with pytest.raises(Malformed, match="resource_metadata"):
            metadata.parse_resource_metadata(data, URL)


@pytest.mark.parametrize("servers", [None, [], "https://as.example", [ISSUER] * 9])
def test_a_resource_names_its_authorization_servers(servers: object):
    data = json.dumps({"resource": URL, "authorization_servers": servers}).encode()
    with pytest.raises(Malformed, match="resource_metadata"):
        metadata.parse_resource_metadata(data, URL)


@pytest.mark.parametrize(
    "issuer", [ISSUER + "/", "https://AS.example", "http://as.example", "https://evil.example", "", None, 1]
)
def test_cl_04_an_issuer_that_differs_by_a_byte_is_another(issuer: object):
    with pytest.raises(Malformed, match="server_metadata"):
        metadata.parse_server_metadata(server(issuer=issuer), ISSUER)
    assert metadata.parse_server_metadata(server(), ISSUER).issuer == ISSUER  # the twin: the right one is taken


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "registration_endpoint", "jwks_uri"])
def test_cl_04_every_endpoint_is_https(name: str):
    clear = server(**{name: "http://as.example/x"})
    with pytest.raises(Malformed, match="endpoint_clear"):
        metadata.parse_server_metadata(clear, ISSUER)
    if name != "jwks_uri":  # the twin: with that check off, another one still sees that it is another origin
        with pytest.raises(Malformed, match="endpoint_foreign"):
            metadata.parse_server_metadata(clear, ISSUER, clear=True)
    metadata.parse_server_metadata(clear, ISSUER, clear=True, origins=("http://as.example",))


@pytest.mark.parametrize(
    "name", ["authorization_endpoint", "token_endpoint", "registration_endpoint", "revocation_endpoint"]
)
@pytest.mark.parametrize(
    "url", ["https://evil.example/token", "https://as.example.evil.example/token", "https://as.example:8443/token"]
)
def test_cl_07_an_endpoint_on_another_origin_is_refused_unless_an_operator_named_it(name: str, url: str):
    with pytest.raises(Malformed, match="endpoint_foreign"):
        metadata.parse_server_metadata(server(**{name: url}), ISSUER)
    origin = url.removesuffix("/token")
    assert metadata.parse_server_metadata(server(**{name: url}), ISSUER, origins=(origin,))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"issuer":"https://as.example","issuer":"https://as.example","token_endpoint":"https://as.example/token"}',
        server(token_endpoint=None),
        server(token_endpoint=7),
        server(token_endpoint="https://as.example/a/../token"),
        server(token_endpoint="https://u:p@as.example/token"),
    ],
)
def test_metadata_of_another_shape_is_refused(data: bytes):
    with pytest.raises(Malformed):
        metadata.parse_server_metadata(data, ISSUER)


def test_what_is_kept_of_metadata_reads_back_as_it_was():
    read = metadata.parse_server_metadata(
        server(
            revocation_endpoint=f"{ISSUER}/revoke",
            jwks_uri="https://keys.example/jwks",
            scopes_supported=["a", "b"],
            token_endpoint_auth_methods_supported=["none"],
            authorization_response_iss_parameter_supported=True,
            client_id_metadata_document_supported=True,
            dpop_signing_alg_values_supported=["ES256"],
        ),
        ISSUER,
    )
    assert metadata.parse_server_metadata(json.dumps(read.to_json()).encode(), ISSUER) == read
