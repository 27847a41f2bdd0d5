"""OAuth rules: parameters, PKCE, redirect URIs, resources, scopes."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.wire import oauth
from firewall.wire.oauth import OAuthError

VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"  # RFC 7636 appendix B
REQUEST = {
    "response_type": "code",
    "client_id": "c",
    "redirect_uri": "https://c.example/cb",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
    "scope": "a:read b:read a:read",
    "state": "s t~",
    "resource": "https://fw.example/mcp/a",
}


def form(**changes: str) -> oauth.Form:
    return oauth.Form({**REQUEST, **changes}, frozenset())


def test_a_form_is_decoded_and_repeats_are_kept_out() -> None:
    parsed = oauth.parse_form(b"a=1&b=%C3%A9+x&a=2&c=&a=3")
    assert parsed.get("a") == ""
    assert parsed.get("b") == "é x"
    assert parsed.get("c") == parsed.get("nothing") == ""
    assert parsed.repeated == {"a"}
    with pytest.raises(OAuthError, match="parameter_repeated"):
        oauth.refuse_repeated(parsed)


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"resource=a&resource=a", "invalid_target"), (b"resource=a&resource=b&x=1&x=1", "invalid_request")],
)
def test_as_06_a_second_resource_is_no_target(data: bytes, error: str) -> None:
    with pytest.raises(OAuthError) as caught:
        oauth.refuse_repeated(oauth.parse_form(data))
    assert caught.value.error == error


@pytest.mark.parametrize(
    "data", [b"a=%FF", b"a=%00", b"a=%0A", b"\xe9=1", b"&".join([b"a=1"] * 65), b"a=" + b"x" * 8193]
)
def test_a_form_that_cannot_be_read_exactly_is_refused(data: bytes) -> None:
    with pytest.raises(OAuthError) as caught:
        oauth.parse_form(data)
    assert caught.value.error == "invalid_request"


@given(st.binary(max_size=200))
def test_any_bytes_give_a_form_or_one_error(data: bytes) -> None:
    code = "form_invalid"
    try:
        oauth.parse_form(data)
    except OAuthError as error:
        code = error.code
    assert code == "form_invalid"


def test_a_request_is_parsed_whole() -> None:
    asked = oauth.parse_authorization_request(form(prompt="login consent", max_age="60"))
    assert asked.scope == ("a:read", "b:read")
    assert asked.prompt == {"login", "consent"}
    assert asked.max_age == 60
    assert oauth.parse_authorization_request(form()).max_age == -1


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": ""}, "invalid_request"),
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code token"}, "unsupported_response_type"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"request_uri": "https://x"}, "invalid_request"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge": "x" * 42}, "invalid_request"),
        ({"code_challenge": "x" * 44}, "invalid_request"),
        ({"code_challenge": "x" * 42 + "="}, "invalid_request"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"prompt": "dance"}, "invalid_request"),
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "1e3"}, "invalid_request"),
        ({"max_age": "١"}, "invalid_request"),
        ({"state": "é"}, "invalid_request"),
        ({"state": "x" * 2049}, "invalid_request"),
        ({"scope": 'a"b'}, "invalid_scope"),
        ({"scope": "a  b"}, "invalid_scope"),
        ({"scope": " ".join(f"s{i}" for i in range(65))}, "invalid_scope"),
        ({"client_id": ""}, "invalid_request"),
        ({"redirect_uri": ""}, "invalid_request"),
    ],
)
def test_as_04_as_07_a_request_with_one_fault_is_refused(changes: dict[str, str], error: str) -> None:
    with pytest.raises(OAuthError) as caught:
        oauth.parse_authorization_request(form(**changes))
    assert caught.value.error == error


def test_a_redirect_keeps_what_the_uri_had() -> None:
    assert oauth.build_redirect("https://c.example/cb", {"code": "a b", "state": ""}) == "https://c.example/cb?code=a+b"
    assert oauth.build_redirect("https://c.example/cb?x=1", {"code": "a&b"}) == "https://c.example/cb?x=1&code=a%26b"


def test_as_05_the_verifier_of_rfc_7636_fits_its_challenge() -> None:
    oauth.check_verifier(VERIFIER, CHALLENGE)


@pytest.mark.parametrize(
    "verifier", ["", VERIFIER[:-1], VERIFIER[:-1] + "j", "x" * 42, "x" * 129, VERIFIER[:-1] + "é", CHALLENGE]
)
def test_as_05_another_verifier_does_not_fit(verifier: str) -> None:
    with pytest.raises(OAuthError) as caught:
        oauth.check_verifier(verifier, CHALLENGE)
    assert caught.value.error == "invalid_grant"


def test_as_05_a_verifier_without_a_challenge_is_refused() -> None:
    with pytest.raises(OAuthError):
        oauth.check_verifier(VERIFIER, "")


@given(st.text("abcXYZ019-._~", min_size=43, max_size=128))
def test_every_legal_verifier_fits_its_own_challenge(verifier: str) -> None:
    digest = hashlib.sha256(verifier.encode()).digest()
    oauth.check_verifier(verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode())


REGISTERED = (
    "https://app.example/cb",
    "https://app.example/cb?x=1",
    "http://127.0.0.1/callback",
    "http://localhost:7777/callback",
    "http://[::1]/callback",
    "com.example.app:/cb",
    "vscode://host.ext/cb",
)


@pytest.mark.parametrize(
    "uri",
    [
        *REGISTERED,
        "http://127.0.0.1:51004/callback",
        "http://localhost/callback",
        "http://localhost:1/callback",
        "http://[::1]:65535/callback",
    ],
)
def test_as_02_a_registered_redirect_matches_with_any_loopback_port(uri: str) -> None:
    assert oauth.redirect_matches(REGISTERED, uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://app.example/cb/",
        "https://app.example/cb?x=2",
        "https://app.example/cb#f",
        "https://app.example/cb?x=1&y=2",
        "https://app.example:443/cb",
        "https://APP.example/cb",
        "HTTPS://app.example/cb",
        "https://app.example/%63b",
        "https://app.example/a/../cb",
        "https://app.example/%2e%2e/cb",
        "https://app.example.evil/cb",
        "https://app.example@evil.example/cb",
        "https://user@app.example/cb",
        "https://app.example\\@evil.example/cb",
        "http://app.example/cb",
        "//app.example/cb",
        "http://127.0.0.1:51004/callback/",
        "http://127.0.0.1:51004/callback?x",
        "http://127.0.0.1:/callback",
        "http://127.0.0.1:0/callback",
        "http://127.0.0.1:65536/callback",
        "http://127.0.0.1:123456/callback",
        "http://127.0.0.1:80@evil.example/callback",
        "http://127.0.0.1@evil.example/callback",
        "http://127.0.0.1.nip.io/callback",
        "http://127.0.0.2/callback",
        "http://2130706433/callback",
        "http://localhost.evil.example/callback",
        "http://LOCALHOST/callback",
        "http://localhost./callback",
        "http://[::ffff:127.0.0.1]/callback",
        "https://127.0.0.1/callback",
        "com.example.app:/cb2",
        "com.example.other:/cb",
        " https://app.example/cb",
        "https://app.example/cb\n",
    ],
)
def test_as_02_anything_else_does_not_match(uri: str) -> None:
    assert not oauth.redirect_matches(REGISTERED, uri)


@pytest.mark.parametrize("uri", REGISTERED)
def test_as_02_one_character_more_less_or_other_is_another_uri_but_for_the_port_of_a_loopback_one(uri: str) -> None:
    """Each position in turn: a character of the kinds that end a component, or that look the same to a parser."""
    host = next((h for h in oauth.LOOPBACK_HOSTS if uri.startswith(f"http://{h}")), "")
    matched = set()
    for at in range(len(uri) + 1):
        for other in ("", *"/\\?#@:.%*;& \t\n\0", *"aA0", "%2e", "é", "\u2024"):
            for mutant in (uri[:at] + other + uri[at + 1 :], uri[:at] + other + uri[at:]):
                if mutant != uri and oauth.redirect_matches([uri], mutant):
                    matched.add(mutant)
    for mutant in matched:
        start, end = f"http://{host}", uri.partition(host)[2].lstrip(":0123456789") if host else ""
        port = mutant.removeprefix(start).removesuffix(end).removeprefix(":")
        assert host, mutant
        assert mutant in (f"{start}{end}", f"{start}:{port}{end}"), mutant
        assert port == "" or (port.isascii() and port.isdigit()), mutant


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "blob:https://x/1",
        "vbscript:x",
        "http://app.example/cb",
        "https:///cb",
        "https://*.example/cb",
        "https://app.example:x/cb",
        "https:app.example/cb",
        "myapp:/cb",
        "MyApp.x:/cb",
        "https://app.example/<script>",
        "https://é.example/cb",
        "x" * 1025,
        "1.x:/cb",
        "com.example.app://[x",
        "com.example.app://a]b/cb",
        "https://[x/cb",
    ],
)
def test_as_03_such_a_uri_is_never_registered_and_never_redirected_to(uri: str) -> None:
    with pytest.raises(OAuthError):
        oauth.check_redirect_uri(uri)
    assert not oauth.redirect_matches([uri], uri)


def test_a_destination_is_shown_by_host_or_scheme() -> None:
    assert oauth.redirect_host("http://localhost:51004/cb") == "localhost"
    assert oauth.redirect_host("https://app.example:8443/cb") == "app.example"
    assert oauth.redirect_host("com.example.app:/cb") == "com.example.app:"
    assert oauth.is_loopback_redirect("http://[::1]:9/x")
    assert not oauth.is_loopback_redirect("https://localhost/x")


def test_as_06_a_resource_is_one_of_the_known_in_a_spelling_that_means_the_same() -> None:
    known = {"https://fw.example/mcp/a": 1, "https://fw.example/mcp": 2}
    for same in (
        "https://fw.example/mcp",
        "https://fw.example/mcp/",
        "https://FW.example/mcp",
        "HTTPS://fw.EXAMPLE/mcp/",
        "https://fw.example/mcp?x=1",
        "https://fw.example/mcp/?",
    ):
        assert oauth.check_resource(same, known) == "https://fw.example/mcp"
    for other in (
        "",
        "https://fw.example",
        "https://fw.example/",
        "https://fw.example/mcp//",
        "https://fw.example//mcp",
        "https://fw.example/MCP",
        "https://fw.example/mcp/b",
        "https://fw.example/mcp#",
        "https://fw.example/mcp?x=1#",
        "https://fw.example?/mcp",
        "https://fw.example/?/mcp",
        "https://fw.example./mcp",
        "https://fw.example:443/mcp",
        "https://ada@fw.example/mcp",
        "https://fw.example\\mcp",
        "fw.example/mcp/",
        " https://fw.example/mcp",
        "https://fw.example/mcp/a/../",
        "https://fw.example/%6dcp",
    ):
        with pytest.raises(OAuthError) as caught:
            oauth.check_resource(other, known)
        assert caught.value.error == "invalid_target"


def test_as_06_without_a_resource_the_only_one_is_meant() -> None:
    assert oauth.check_resource("", {"https://fw.example/mcp/a": 1}) == "https://fw.example/mcp/a"


@pytest.mark.parametrize(
    ("scope", "patterns", "covered"),
    [
        ("time:read", ("*",), True),
        ("time:read", ("time:*",), True),
        ("time:read", ("*:read",), True),
        ("time:read", ("time:read",), True),
        ("time:read", ("time:write", "git:*"), False),
        ("time:tool:x", ("time:*",), False),
        ("time", ("time:*",), False),
        ("timer:read", ("time:*",), False),
        ("time:read", (), False),
    ],
)
def test_a_pattern_covers_segment_by_segment(scope: str, patterns: tuple[str, ...], covered: bool) -> None:
    assert oauth.scope_allowed(scope, patterns) is covered


def test_what_is_given_is_what_all_sides_allow_in_the_order_asked() -> None:
    assert oauth.intersect(("b:x", "a:x", "c:x"), ("*",), ("a:x", "b:*"), ("*:x",)) == ("b:x", "a:x")
    assert oauth.intersect(("a:x",), ()) == ()
    with pytest.raises(OAuthError):
        oauth.check_not_wider(("a", "b"), ("a",))


def test_as_06_a_letter_that_becomes_one_of_ours_in_lower_case_is_another_letter() -> None:
    kelvin = "https://wor\u212a.example/mcp"
    assert kelvin.lower() == "https://work.example/mcp"
    assert oauth.canonical_resource(kelvin) == kelvin
    with pytest.raises(OAuthError):
        oauth.check_resource(kelvin, {"https://work.example/mcp": 1})
