"""Token → Principal: what is accepted, what is cached and for how long, and the challenges byte for byte."""

from __future__ import annotations

import pytest

from firewall.core.bounds import TOKEN_BYTES
from firewall.core.errors import Malformed, Unauthenticated
from firewall.core.principal import Actor
from firewall.identity.grants import OAuthGrants, mark_key
from firewall.identity.rfc6750.resource_server import BearerResourceServer, credentials
from firewall.identity.rfc9068.tokens import SigningKeys
from firewall.wire import jwt
from tests.support.door import GIT, ORIGIN, SERVER_KEY, TIME, Door, make_door


def mint(door: Door, typ: str = "at+jwt", kid: str = "", **changes: object) -> str:
    now_s = door.clock.now_us() // 1_000_000
    claims = {
        "iss": ORIGIN,
        "aud": TIME,
        "sub": "u_1",
        "client_id": "tool",
        "scope": "time:read",
        "iat": now_s,
        "exp": now_s + 300,
        "jti": "j",
        "gid": "g",
        "tenant": "acme",
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.sign(claims, SERVER_KEY, alg="ES256", typ=typ, kid=kid or SERVER_KEY.thumbprint())  # type: ignore[arg-type]


def refused(door: Door, token: str, resource: str = TIME) -> str:
    with pytest.raises(Unauthenticated) as caught:
        door.verified(token, resource)
    assert caught.value.code == "token_invalid"
    assert caught.value.scope == "time:read"
    return caught.value.detail


def test_no_authorization_header_is_told_apart_from_a_bad_one() -> None:
    server = make_door().identity.resource_server
    with pytest.raises(Unauthenticated) as caught:
        server.authenticate({b"cookie": b"x"}, TIME, default_scope="time:read")
    assert (caught.value.code, caught.value.scope) == ("token_missing", "time:read")


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"Bearer ", b"Basic eDp5", b"DPoP x", b"Bearer  x.y.z", b"Bearer x.y.z, Bearer x.y.z"]
)
def test_rs_12_anything_but_one_bearer_token_is_invalid(value: bytes) -> None:
    server = make_door().identity.resource_server
    with pytest.raises(Unauthenticated) as caught:
        server.authenticate({b"authorization": value}, TIME, default_scope="")
    assert caught.value.code == "token_invalid"


def test_the_scheme_is_compared_without_case_and_the_size_is_bounded() -> None:
    assert credentials(b"bEaReR abc") == (b"bearer", b"abc")
    assert credentials(b"Bearer " + b"x" * TOKEN_BYTES)
    with pytest.raises(Malformed):
        credentials(b"Bearer " + b"x" * (TOKEN_BYTES + 1))


@pytest.mark.parametrize(
    "typ", ["JWT", "id_token", "oauth-id-jag+jwt", "logout+jwt", "dpop+jwt", "client-authentication+jwt", "at+jwtx"]
)
def test_rs_07_only_access_tokens_are_access_tokens(typ: str) -> None:
    door = make_door()
    assert refused(door, mint(door, typ=typ)) == "jwt_claims typ"


def test_rs_07_the_media_type_may_be_written_out() -> None:
    door = make_door()
    assert door.verified(mint(door, typ="application/at+jwt")).subject == "u_1"


@pytest.mark.parametrize("kid", ["../../x", "' OR 1=1", "x" * 128])
def test_rs_03_an_unknown_key_id_is_only_unknown(kid: str) -> None:
    door = make_door()
    assert refused(door, mint(door, kid=kid)) == "jwt_key kid"
    assert door.fetcher.asked == []


@pytest.mark.parametrize(
    "aud", [ORIGIN, ORIGIN + "/mcp", TIME + "/", TIME + "/x", GIT, "time", [TIME], [TIME, GIT], "", None, TIME.upper()]
)
def test_rs_09_the_audience_is_this_resource_and_nothing_like_it(aud: object) -> None:
    door = make_door()
    refused(door, mint(door, aud=aud))


@pytest.mark.parametrize(
    "change",
    [
        {"iss": ORIGIN + "/"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"exp": "9999999999"},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"client_id": ""},
        {"jti": None},
        {"gid": None},
        {"tenant": None},
        {"tenant": "a/b"},
        {"sub_type": "root"},
        {"sub_type": ["user"]},
        {"scope": ["a"]},
        {"scope": 'a"b'},
        {"roles": "admin"},
        {"cnf": {"jkt": "x"}},
        {"act": "x"},
        {"act": {"sub": ""}},
    ],
)
def test_rs_08_10_13_one_wrong_claim_is_enough(change: dict[str, object]) -> None:
    door = make_door()
    refused(door, mint(door, **change))


def test_the_actor_chain_runs_from_the_person_to_the_immediate_caller() -> None:
    door = make_door()
    act = {"sub": "agent-b", "act": {"sub": "agent-a"}}
    chain = door.verified(mint(door, act=act)).chain
    assert chain == (Actor("u_1", "user"), Actor("agent-a", "agent"), Actor("agent-b", "agent"))


def test_a_cached_token_is_bound_to_its_resource_and_its_time() -> None:
    door = make_door()
    token = mint(door)
    first = door.verified(token)
    assert door.verified(token) is first
    refused(door, token, GIT)
    assert door.verified(token) is first
    door.clock.advance(59)
    assert door.verified(token) is first
    door.clock.advance(1)
    again = door.verified(token)
    assert again == first
    assert again is not first
    door.clock.advance(240)
    refused(door, token)


def test_an_expired_token_dies_in_the_cache_to_the_second() -> None:
    door = make_door()
    now_s = door.clock.now_us() // 1_000_000
    token = mint(door, exp=now_s + 2)
    door.verified(token)
    door.clock.advance(1.9)
    door.verified(token)
    door.clock.advance(0.1)
    refused(door, token)


def test_a_moved_epoch_asks_about_the_grant_again_and_only_the_revoked_one_dies() -> None:
    door = make_door()
    one, two = mint(door, gid="g1"), mint(door, gid="g2")
    first = door.verified(one)
    door.verified(two)
    door.identity.grants.revoke("acme", "u_1", "g2", reason="test")
    assert door.verified(one) is first
    assert refused(door, two) == "grant_revoked"
    assert refused(door, two) == "grant_revoked"


def test_another_tenants_grant_of_the_same_id_is_another_grant() -> None:
    door = make_door()
    token = mint(door)
    door.identity.grants.revoke("other", "u_1", "g", reason="test")
    assert door.verified(token)
    assert mark_key("acme", "g") != mark_key("other", "g")


def test_a_full_table_of_marks_does_not_save_a_revoked_token() -> None:
    door = make_door()
    token = mint(door)
    door.verified(token)

    class FullMarks:
        def __init__(self) -> None:
            self.now = 5

        def read(self, key: bytes) -> int:
            return 0

        def raise_(self, key: bytes, marks: int) -> None:
            from firewall.core.errors import StateUnavailable

            raise StateUnavailable("full")

        def epoch(self) -> int:
            return self.now

        def bump(self) -> int:
            self.now += 1
            return self.now

    marks = FullMarks()
    grants = OAuthGrants(door.store, marks, door.clock, lambda *_: None, lifetime_s=300)
    server = BearerResourceServer(door.identity.resources, SigningKeys(SERVER_KEY), grants, marks, door.clock)
    headers = {b"authorization": f"Bearer {token}".encode()}
    assert server.authenticate(headers, TIME, default_scope="")
    grants.revoke("acme", "u_1", "g", reason="test")
    with pytest.raises(Unauthenticated):
        server.authenticate(headers, TIME, default_scope="")


def test_unreadable_marks_count_as_revoked() -> None:
    door = make_door()
    token = mint(door)
    assert door.verified(token)
    fresh = mint(door, jti="j2")
    door.marks.close()
    for one in (token, fresh):
        with pytest.raises(Exception, match=r"state_unavailable|token_invalid"):
            door.verified(one)


def test_the_cache_is_bounded_and_the_oldest_goes_first() -> None:
    door = make_door()
    identity = door.identity
    server = BearerResourceServer(
        identity.resources, SigningKeys(SERVER_KEY), identity.grants, door.marks, door.clock, entries=2
    )
    values = [f"Bearer {mint(door, jti=f'j{i}')}".encode() for i in range(3)]
    found = [server.authenticate({b"authorization": v}, TIME, default_scope="") for v in values]
    again = [server.authenticate({b"authorization": v}, TIME, default_scope="") for v in reversed(values)]
    assert again[0] is found[2]
    assert again[1] is found[1]
    assert again[2] is not found[0]
    assert len(server._cache) == 2


def test_a_bad_signature_is_not_verified_again_for_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    good = mint(door)
    bad = good[:-8] + ("A" * 8 if not good.endswith("A" * 8) else "B" * 8)
    calls: list[int] = []
    real = jwt.verify
    monkeypatch.setattr(jwt, "verify", lambda *args: (calls.append(1), real(*args))[1])
    for _ in range(5):
        refused(door, bad)
    assert len(calls) == 1
    door.clock.advance(5)
    refused(door, bad)
    assert len(calls) == 2


def test_a_key_that_is_only_published_still_verifies_and_one_that_is_gone_does_not() -> None:
    from joserfc.jwk import ECKey

    old, new = ECKey.generate_key("P-256", private=True), ECKey.generate_key("P-256", private=True)
    keys = SigningKeys(new, old)
    assert keys.kid == new.thumbprint()
    assert set(keys.by_kid) == {old.thumbprint(), new.thumbprint()}


def test_the_three_challenges_are_exactly_as_the_reference_has_them() -> None:
    server = make_door().identity.resource_server
    metadata = b'Bearer resource_metadata="https://fw.example/.well-known/oauth-protected-resource/mcp/time", scope="time:read"'
    assert server.challenge(TIME, "token_missing", "time:read") == metadata
    assert server.challenge(TIME, "token_invalid", "time:read") == (
        metadata + b', error="invalid_token", error_description="The access token is not valid for this resource"'
    )
    assert server.challenge(TIME, "scope_missing", "time:read") == (
        metadata + b', error="insufficient_scope", error_description="More permission is needed for this operation"'
    )
    assert b"scope" not in server.challenge(TIME, "token_missing", "")


@pytest.mark.parametrize("code", ["token_missing", "token_invalid", "scope_missing"])
def test_the_official_client_reads_the_challenge_as_meant(code: str) -> None:
    import httpx2
    from mcp.client.auth.utils import extract_resource_metadata_from_www_auth, extract_scope_from_www_auth

    value = make_door().identity.resource_server.challenge(TIME, code, "time:read time:write")  # type: ignore[arg-type]
    reply = httpx2.Response(401, headers={"www-authenticate": value.decode()})
    assert extract_scope_from_www_auth(reply) == "time:read time:write"
    assert extract_resource_metadata_from_www_auth(reply) == f"{ORIGIN}/.well-known/oauth-protected-resource/mcp/time"
