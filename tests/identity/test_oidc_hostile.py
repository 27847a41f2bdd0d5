"""Whatever a provider or a browser sends, the answer is a value, a listed refusal or a page: never a fault of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall.core.errors import Malformed
from firewall.identity.oidc.id_token import auth_time, check_access_hash
from firewall.identity.oidc.mapping import import_claims
from firewall.identity.oidc.metadata import parse_metadata
from firewall.identity.oidc.settings import ClaimNames
from firewall.net.dial import Fetched
from firewall.wire import strict_json
from tests.support.door import Browser, authorize_query
from tests.support.idp import ISSUER, Idp, come_back, corp, leave, make_stage

TEXT = st.text(max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
NAMES = ("sub", "name", "groups", "acr", "amr", "auth_time", "at_hash", "_claim_names", "org", "realm_access", "email")
CLAIMS = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, JSON))


def tried(call: Callable[[], Any]) -> tuple[Any, str]:
    """Return the value of a call and "", or None and the code of its refusal; anything else is a fault."""
    try:
        return call(), ""
    except Malformed as refused:
        return None, refused.code


@given(
    CLAIMS, st.sampled_from(["groups", "realm_access.roles", "https://x.example/g", ""]), st.sampled_from(["", "org"])
)
def test_any_claims_are_somebody_or_a_refusal(claims: dict[str, Any], groups: str, tenant: str) -> None:
    names = ClaimNames(groups=groups, tenant=tenant)
    provider = corp(claims=names, tenants={"a": "acme"} if tenant else {})
    who, refused = tried(lambda: import_claims({**claims, "iss": ISSUER}, provider, default_acr="pwd"))
    if who is None:
        assert refused == "idp_claims"
        return
    # Nothing that the provider says becomes a right of ours by itself.
    assert who.tenant == "acme"
    assert set(who.roles) <= {"dev"}
    assert set(who.scopes) <= {"time:*"}
    assert who.acr in ("pwd", "mfa")
    assert who.issuer == ISSUER


@given(CLAIMS)
def test_any_times_and_hashes_are_read_or_refused(claims: dict[str, Any]) -> None:
    for read in (lambda: auth_time(claims, 100), lambda: check_access_hash(claims, "ES256", "at")):
        value, refused = tried(read)
        assert refused in ("", "jwt_claims")
        assert value is None or 0 <= value <= 100


DOCUMENT = Idp().document()


@given(st.dictionaries(st.sampled_from(sorted(DOCUMENT)), JSON, max_size=3))
def test_metadata_with_anything_in_it_is_whole_or_refused(changes: dict[str, Any]) -> None:
    found, refused = tried(lambda: parse_metadata(strict_json.dumps({**DOCUMENT, **changes}), corp()))
    if found is None:
        assert refused == "idp_metadata"
        return
    assert found.issuer == ISSUER
    for url in (found.authorization_endpoint, found.token_endpoint, found.jwks_uri):
        assert url.startswith("https://")
        assert url.isascii()
        assert url.isprintable()


@given(st.binary(max_size=200))
def test_metadata_of_any_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="idp_metadata"):
        parse_metadata(data, corp())


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["code", "state", "iss", "error", "x"]), TEXT), max_size=6))
async def test_any_query_at_a_callback_is_answered_with_a_page(query: list[tuple[str, str]]) -> None:
    stage = make_stage(authorize_per_minute=10_000)
    async with stage.door.http() as http:
        back = await come_back(Browser(http), urlencode(query, encoding="utf-8", errors="replace"))
    assert back.status_code in (400, 403)
    assert "set-cookie" not in back.headers
    assert not stage.idps.fetched


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>sign in</html>"),
        (200, b"[]"),
        (200, b"null"),
        (200, b'{"id_token": 7}'),
        (200, b'{"id_token": ""}'),
        (200, b'{"id_token": "a.b"}'),
        (200, b'{"id_token": "a.b.c"}'),
        (200, b'{"id_token": "a.b.c", "access_token": []}'),
        (200, b'{"id_token": "a.b.c", "id_token": "a.b.c"}'),
        (200, b'{"id_token": "' + b"a" * 20_000 + b'.b.c"}'),
        (200, b"\xff\xfe"),
        (302, b""),
        (400, b'{"error": "<script>alert(1)</script>"}'),
        (500, b"Internal Server Error"),
    ],
)
async def test_any_answer_of_a_token_endpoint_is_told_in_our_own_words(status: int, body: bytes) -> None:
    stage = make_stage()
    plain = stage.idp.answer
    stage.idp.answer = lambda url, headers, sent: (  # type: ignore[method-assign]
        Fetched(status, {"location": "https://evil.example"}, body)
        if url.endswith("/token")
        else plain(url, headers, sent)
    )
    async with stage.door.http() as http:
        browser = Browser(http)
        away = await leave(browser, await browser.open(authorize_query()))
        back = await come_back(browser, stage.idp.authorize(away.headers["location"]))
    assert back.status_code in (403, 502)
    assert "You are not signed in" in back.text
    assert "<script>" not in back.text + repr(stage.door.events)
    assert not stage.door.named("identity.failure")
    assert not stage.door.named("identity.login")
