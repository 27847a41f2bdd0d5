"""Direct mode: tokens of other issuers, their keys through rotation, floods and outages, and what their claims become."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, RSAKey

from firewall import config as configuration
from firewall.config import front_door
from firewall.core.action import Headers
from firewall.core.errors import ConfigFault, Malformed, Unauthenticated, UpstreamFault
from firewall.core.principal import Actor, Principal
from firewall.enforce.kill_switch import KillSwitch
from firewall.identity import standing
from firewall.identity.issuers import claims as reading
from firewall.identity.issuers.direct import DirectGiven, build_direct
from firewall.identity.issuers.preflight import Preflights
from firewall.identity.issuers.profile import IssuerProfile
from firewall.identity.rfc6750.resource_server import BearerResourceServer, NotYet
from firewall.identity.rfc9068.tokens import SigningKeys
from firewall.identity.throttle import NODE
from firewall.net.dial import Fetched, Purpose
from firewall.wire import jwt
from tests.support.door import GIT, ORIGIN, SERVER_KEY, TIME, Door, make_door, public_jwks
from tests.support.dpop import Holder

CORP = "https://idp.corp.example"
JWKS_URI = f"{CORP}/jwks"
KEY, NEXT_KEY = ECKey.generate_key("P-256", private=True), ECKey.generate_key("P-256", private=True)
RSA = RSAKey.generate_key(2048, private=True)
PROFILE = IssuerProfile(
    "corp",
    CORP,
    JWKS_URI,
    audiences={"/mcp/time": ("api://time",)},
    scopes={"Time.Read": ("time:read",), "Everything": ("time:read", "time:write", "git:write")},
    tenant="acme",
    groups_claim="groups",
    roles={"eng": ("dev",)},
)


def key_set(*keys: tuple[str, ECKey | RSAKey]) -> bytes:
    listed: list[Any] = []
    for kid, key in keys:
        facts = key.as_dict(private=False)
        listed.append({**{k: v for k, v in facts.items() if k in ("kty", "crv", "x", "y", "n", "e")}, "kid": kid})
    return orjson.dumps({"keys": listed})


class Provider:
    """Answers fetches of keys and introspection; can be slow, broken, or hang."""

    def __init__(self) -> None:
        self.keys = key_set(("k1", KEY))
        self.status = 200
        self.hangs = False
        self.asked: list[tuple[Purpose, str]] = []
        self.tokens: dict[str, Any] = {}
        self.documents: dict[str, bytes] = {}
        self.forms: list[tuple[bytes, Headers]] = []

    async def fetch(
        self,
        purpose: Purpose,
        url: str,
        *,
        network: str = "public",
        max_bytes: int,
        timeout_s: float,
        headers: Headers = (),
        body: bytes | None = None,
    ) -> Fetched:
        self.asked.append((purpose, url))
        await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        if self.status == 0:
            raise UpstreamFault("unreachable")
        if purpose is Purpose.IDP_METADATA:
            return Fetched(200 if url in self.documents else 404, {}, self.documents.get(url, b""))
        if body is not None:
            self.forms.append((body, headers))
            token = body.split(b"&")[0].removeprefix(b"token=").decode()
            return Fetched(self.status, {}, orjson.dumps(self.tokens.get(token, {"active": False})))
        if len(self.keys) > max_bytes:
            raise UpstreamFault("too_large")
        return Fetched(self.status, {}, self.keys)


class Direct:
    """A door beside whose own tokens those of ``profiles`` count."""

    def __init__(self, *profiles: IssuerProfile, entries: int = 1000) -> None:
        self.door: Door = make_door()
        self.provider = Provider()
        given = DirectGiven(profiles or (PROFILE,), self.provider, lambda _source: "s3cret")  # type: ignore[arg-type]
        identity = self.door.identity
        for profile in given.profiles:
            Preflights(self.door.store, self.door.clock).write(profile, ())
        others = build_direct(given, identity.resources, self.door.store, self.door.clock)
        self.server = BearerResourceServer(
            identity.resources,
            SigningKeys(SERVER_KEY),
            identity.grants,
            self.door.marks,
            self.door.clock,
            others=others,
            entries=entries,
        )

    @property
    def fetches(self) -> int:
        return sum(purpose is Purpose.JWKS for purpose, _ in self.provider.asked)

    async def admit(self, token: str, resource: str = TIME, *, address: str = "192.0.2.7") -> Principal:
        headers = {b"authorization": f"Bearer {token}".encode()}
        return await self.server.admit(headers, resource, default_scope="time:read", address=address)

    def now(self, token: str, resource: str = TIME) -> Principal:
        headers = {b"authorization": f"Bearer {token}".encode()}
        return self.server.authenticate(headers, resource, default_scope="time:read")

    async def refused(self, token: str, resource: str = TIME) -> str:
        with pytest.raises(Unauthenticated) as caught:
            await self.admit(token, resource)
        return caught.value.detail

    def token(self, *, key: Any = KEY, kid: str = "k1", typ: str = "at+jwt", alg: str = "ES256", **changes: Any) -> str:
        now_s = self.door.clock.now_us() // 1_000_000
        claims = {
            "iss": CORP,
            "aud": "api://time",
            "sub": "00u1",
            "client_id": "agent",
            "scope": "Time.Read openid",
            "iat": now_s,
            "exp": now_s + 3600,
            "jti": "j1",
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.sign(claims, key, alg=alg, typ=typ, kid=kid)


# -- what a token becomes --------------------------------------------------------------------------------------


async def test_a_token_of_a_configured_issuer_becomes_a_principal_that_is_nobody_of_ours() -> None:
    direct = Direct()
    found = await direct.admit(direct.token(groups=["eng", "sales"], acr="mfa", auth_time=7))
    assert (found.subject, found.client_id, found.issuer) == ("corp|00u1", "corp|agent", CORP)
    assert (found.tenant, found.scopes, found.roles) == ("acme", frozenset({"time:read"}), ("dev",))
    assert (found.kind, found.acr, found.auth_time, found.audience) == ("user", "mfa", 7, TIME)
    assert found.chain == (Actor("corp|00u1", "user"),)
    assert not found.cimd_verified


async def test_scopes_stay_within_what_the_resource_has() -> None:
    direct = Direct()
    assert (await direct.admit(direct.token(scope="Everything time:admin"))).scopes == {"time:read", "time:write"}


async def test_without_a_map_scopes_of_the_same_name_count() -> None:
    direct = Direct(IssuerProfile("corp", CORP, JWKS_URI, audiences={"/mcp/time": ("api://time",)}, scope_claim="scp"))
    assert (await direct.admit(direct.token(scope=None, scp=["time:write", "x", 7]))).scopes == {"time:write"}


async def test_a_tenant_comes_from_the_table_and_never_from_the_claim_itself() -> None:
    profile = IssuerProfile(
        "corp",
        CORP,
        JWKS_URI,
        audiences={"/mcp/time": ("api://time",)},
        tenant_claim="tid",
        tenants={"t-1": "acme"},
    )
    direct = Direct(profile)
    assert (await direct.admit(direct.token(tid="t-1"))).tenant == "acme"
    for wrong in ("acme", "t-2", None, ["t-1"]):
        assert await direct.refused(direct.token(tid=wrong)) == "jwt_claims tenant"


async def test_a_token_of_a_clients_own_is_a_service() -> None:
    direct = Direct()
    assert (await direct.admit(direct.token(sub="agent"))).kind == "service"


async def test_our_own_tokens_work_as_before_beside_them() -> None:
    direct = Direct()
    now_s = direct.door.clock.now_us() // 1_000_000
    own = {
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
    }
    token = jwt.sign(own, SERVER_KEY, alg="ES256", typ="at+jwt", kid=SERVER_KEY.thumbprint())
    assert direct.now(token).subject == "u_1"
    assert direct.fetches == 0


async def test_metadata_names_the_issuers_of_a_resource() -> None:
    direct = Direct()
    direct.door.identity.front_door.others_at = lambda path: (CORP,) if path == "/mcp/time" else ()
    async with direct.door.http() as http:
        told = (await http.get("/.well-known/oauth-protected-resource/mcp/time")).json()
    assert told["authorization_servers"] == [ORIGIN, CORP]


# -- what is refused ---------------------------------------------------------------------------------------------


async def test_rs_01_only_the_issuers_own_algorithms_reach_its_keys() -> None:
    direct = Direct(IssuerProfile("corp", CORP, JWKS_URI, ("RS256",), audiences={"/mcp/time": ("api://time",)}))
    direct.provider.keys = key_set(("k1", KEY), ("r1", RSA))
    assert await direct.refused(direct.token()) == "jwt_alg"
    assert direct.fetches == 0
    assert await direct.admit(direct.token(key=RSA, kid="r1", alg="RS256"))


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "HS256", "HS384", "ES384", ""])
async def test_rs_01_other_algorithms_are_refused_before_keys_are_touched(alg: str) -> None:
    direct = Direct()
    head, body, signature = direct.token().split(".")
    forged = base64.urlsafe_b64encode(orjson.dumps({"alg": alg, "typ": "at+jwt", "kid": "k1"})).rstrip(b"=").decode()
    assert await direct.refused(f"{forged}.{body}.{signature}") == "jwt_alg"
    assert direct.fetches == 0
    assert head


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c", "crit"])
async def test_rs_02_keys_come_from_the_configured_place_alone(name: str) -> None:
    direct = Direct()
    _, body, signature = direct.token().split(".")
    value = {"jwk": KEY.as_dict(private=False), "jku": "https://evil.example/jwks"}.get(name, ["x"])
    head = {"alg": "ES256", "typ": "at+jwt", "kid": "k1", name: value}
    forged = base64.urlsafe_b64encode(orjson.dumps(head)).rstrip(b"=").decode()
    assert await direct.refused(f"{forged}.{body}.{signature}") == "jwt_header"
    assert direct.provider.asked == []


async def test_rs_03_a_thousand_random_key_ids_cost_the_issuer_one_fetch_in_thirty_seconds() -> None:
    direct = Direct()
    await direct.admit(direct.token())
    direct.door.clock.advance(31)
    flood = [direct.token(kid=f"random-{n}") for n in range(1000)]
    await asyncio.gather(*(direct.refused(token) for token in flood))
    assert direct.fetches == 2
    direct.door.clock.advance(29)
    await direct.refused(direct.token(kid="one-more"))
    assert direct.fetches == 2
    direct.door.clock.advance(2)
    await direct.refused(direct.token(kid="and-another"))
    assert direct.fetches == 3


@pytest.mark.parametrize("kid", ["../../x", "' OR 1=1 --", "x" * 128, ""])
async def test_rs_03_a_key_id_is_only_a_name(kid: str) -> None:
    direct = Direct()
    direct.provider.keys = key_set(("k1", KEY), ("k2", NEXT_KEY))
    assert (await direct.refused(direct.token(kid=kid))).startswith("jwt_key")
    assert direct.provider.asked == [(Purpose.JWKS, JWKS_URI)]


@pytest.mark.parametrize(
    "change",
    [{"use": "enc"}, {"alg": "ES384"}, {"kty": "oct", "k": "AAAA"}, {"crv": "P-384"}, {"d": "AAAA"}],
)
async def test_rs_04_a_published_key_that_does_not_fit_is_not_used(change: dict[str, str]) -> None:
    direct = Direct()
    published: Any = public_jwks(KEY, "k1")
    published["keys"][0].update(change)
    direct.provider.keys = orjson.dumps(published)
    assert (await direct.refused(direct.token())).startswith("jwt_key")


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
async def test_rs_04_a_short_rsa_key_is_not_used() -> None:
    direct = Direct()
    short = RSAKey.generate_key(1024, private=True)
    direct.provider.keys = key_set(("r1", short))
    head = base64.urlsafe_b64encode(b'{"alg":"RS256","typ":"at+jwt","kid":"r1"}').rstrip(b"=").decode()
    _, body, _ = direct.token().split(".")
    assert (await direct.refused(f"{head}.{body}.AAAA")).startswith("jwt_key")


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        (b"", 200),
        (b"<html>", 200),
        (b"{}", 200),
        (b'{"keys":[]}', 200),
        (b'{"keys":[{"kty":"EC"}]}', 200),
        (b'{"keys":' + b"[" * 1000, 200),
        (b" " * 65_537, 200),
        (key_set(*((f"k{n}", KEY) for n in range(51))), 200),
        (key_set(("k1", KEY), ("k1", NEXT_KEY)), 200),
        (key_set(("k1", NEXT_KEY)), 500),
        (key_set(("k1", NEXT_KEY)), 302),
        (b"", 0),
    ],
)
async def test_rs_05_nothing_bad_replaces_what_was_good_for_a_day(keys: bytes, status: int) -> None:
    direct = Direct()
    await direct.admit(direct.token())
    direct.provider.keys, direct.provider.status = keys, status
    for _ in range(3):
        direct.door.clock.advance(3600)
        assert await direct.admit(direct.token())
    direct.door.clock.advance(24 * 3600)
    assert (await direct.refused(direct.token())).startswith("jwt_key")


async def test_rs_06_a_key_that_is_gone_is_not_believed_after_ten_minutes_even_from_the_cache() -> None:
    direct = Direct()
    old = direct.token()
    await direct.admit(old)
    direct.provider.keys = key_set(("k2", NEXT_KEY))
    direct.door.clock.advance(301)
    assert await direct.admit(direct.token())  # still believed, and its set is fetched beside the request
    await asyncio.sleep(0.01)
    assert direct.fetches == 2
    assert (await direct.refused(old)).startswith("jwt_key")
    direct.door.clock.advance(31)
    assert await direct.admit(direct.token(key=NEXT_KEY, kid="k2"))


async def test_rs_06_after_ten_quiet_minutes_the_set_is_fetched_before_anything_is_believed() -> None:
    direct = Direct()
    await direct.admit(direct.token())
    direct.provider.keys = key_set(("k2", NEXT_KEY))
    direct.door.clock.advance(601)
    assert (await direct.refused(direct.token())).startswith("jwt_key")


async def test_rs_06_a_new_key_works_at_first_sight_once_thirty_seconds_have_passed() -> None:
    direct = Direct()
    await direct.admit(direct.token())
    direct.provider.keys = key_set(("k1", KEY), ("k2", NEXT_KEY))
    direct.door.clock.advance(31)
    assert await direct.admit(direct.token(key=NEXT_KEY, kid="k2"))


async def test_rs_06_another_key_under_a_known_id_ends_what_was_cached_of_its_issuer() -> None:
    direct = Direct()
    old = direct.token()
    await direct.admit(old)
    direct.provider.keys = key_set(("k1", NEXT_KEY))
    direct.door.clock.advance(31)
    await direct.refused(direct.token(kid="unknown"))  # brings the new set
    assert await direct.refused(old) == "jwt_signature"


@pytest.mark.parametrize(
    "typ", ["JWT", "", "id_token+jwt", "oauth-id-jag+jwt", "logout+jwt", "dpop+jwt", "client-authentication+jwt"]
)
async def test_rs_07_an_rfc_9068_issuer_must_mark_its_tokens(typ: str) -> None:
    direct = Direct()
    assert await direct.refused(direct.token(typ=typ)) == "jwt_claims typ"


async def test_rs_07_an_issuer_without_marks_needs_other_signs_that_it_is_no_id_token() -> None:
    profile = IssuerProfile("corp", CORP, JWKS_URI, typ="any", audiences={"/mcp/time": ("api://time", "agent")})
    direct = Direct(profile)
    assert await direct.admit(direct.token(typ="JWT"))
    for typ in ("oauth-id-jag+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt", "client-authentication+jwt"):
        assert await direct.refused(direct.token(typ=typ)) == "jwt_claims typ"
    for claim in ("nonce", "at_hash", "c_hash", "events"):
        assert await direct.refused(direct.token(typ="JWT", **{claim: "x"})) == "jwt_claims id token"
    assert await direct.refused(direct.token(typ="JWT", aud="agent")) == "jwt_claims id token"


@pytest.mark.parametrize(
    "iss",
    [
        CORP + "/",
        CORP.upper(),
        "https://idp.corp.example.evil.example",
        "https://іdp.corp.example",
        ORIGIN,
        "",
        None,
        7,
    ],
)
async def test_rs_08_the_profile_is_found_by_exactly_its_issuer_and_nothing_is_fetched_for_another(iss: Any) -> None:
    direct = Direct()
    await direct.refused(direct.token(iss=iss))
    assert direct.provider.asked == []


async def test_rs_08_a_token_of_one_issuer_is_not_verified_with_the_keys_of_another() -> None:
    other = IssuerProfile("other", "https://other.example", JWKS_URI + "2", audiences=PROFILE.audiences)
    direct = Direct(PROFILE, other)
    await direct.admit(direct.token())
    direct.provider.keys = key_set(("k1", NEXT_KEY))
    assert await direct.refused(direct.token(iss="https://other.example")) == "jwt_signature"


@pytest.mark.parametrize(
    "aud", ["api://tim", "api://time/", "API://time", TIME, ORIGIN, [], ["api://time", "x"], [["api://time"]], None, 7]
)
async def test_rs_09_the_audience_is_one_of_the_configured_and_the_only_one(aud: Any) -> None:
    direct = Direct()
    assert await direct.refused(direct.token(aud=aud)) == "jwt_claims aud"


async def test_rs_09_an_audience_means_one_resource_and_a_list_of_it_is_the_same() -> None:
    direct = Direct()
    assert await direct.admit(direct.token(aud=["api://time"]))
    assert await direct.refused(direct.token(), GIT) == "jwt_claims aud"


async def test_rs_09_several_audiences_count_only_where_the_operator_said_so() -> None:
    direct = Direct(IssuerProfile("corp", CORP, JWKS_URI, audiences=PROFILE.audiences, several=True))
    assert await direct.admit(direct.token(aud=["x", "api://time"]))
    assert await direct.refused(direct.token(aud=["x", "y"])) == "jwt_claims aud"


@pytest.mark.parametrize(
    "change",
    [
        {"exp": None},
        {"exp": "9999999999"},
        {"exp": 9e9},
        {"exp": True},
        {"exp": 1},
        {"exp": 4_000_000_000},
        {"iat": None},
        {"iat": "1"},
        {"nbf": 4_000_000_000},
        {"nbf": "x"},
    ],
)
async def test_rs_10_times_are_integers_and_within_bounds(change: dict[str, Any]) -> None:
    direct = Direct()
    assert (await direct.refused(direct.token(**change))).startswith("jwt_claims")


@pytest.mark.parametrize(("ahead", "good"), [(30, True), (31, False)])
async def test_rs_10_a_clock_may_be_thirty_seconds_ahead(ahead: int, good: bool) -> None:
    direct = Direct()
    token = direct.token(iat=direct.door.clock.now_us() // 1_000_000 + ahead)
    if good:
        assert await direct.admit(token)
    else:
        assert await direct.refused(token) == "jwt_claims iat"


async def test_rs_10_an_issuer_may_be_held_to_shorter_tokens() -> None:
    direct = Direct(IssuerProfile("corp", CORP, JWKS_URI, audiences=PROFILE.audiences, max_age_s=600))
    assert await direct.refused(direct.token()) == "jwt_claims iat"


@pytest.mark.parametrize(
    "change",
    [
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 513},
        {"sub": ["x"]},
        {"client_id": ["x"]},
        {"cnf": {"x5t#S256": "x"}},
        {"cnf": {"jkt": "short"}},
        {"cnf": {"jkt": "x" * 43, "jku": "x"}},
        {"act": "x"},
        {"groups": "eng" * 100},
        {"groups": [7]},
    ],
)
async def test_one_claim_of_a_wrong_shape_is_enough(change: dict[str, Any]) -> None:
    direct = Direct()
    await direct.refused(direct.token(**change))


async def test_rs_13_a_bound_token_of_another_issuer_needs_its_proof_too() -> None:
    direct = Direct()
    bound = direct.token(cnf={"jkt": Holder().thumbprint})
    assert await direct.refused(bound) == "jwt_claims cnf"


async def test_rs_17_an_unknown_key_of_an_issuer_costs_one_verification_like_a_bad_signature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    direct = Direct()
    await direct.admit(direct.token())
    await direct.refused(direct.token(kid="asked-already"))
    calls: list[int] = []
    real = jwt.verify
    monkeypatch.setattr(jwt, "verify", lambda *args: (calls.append(1), real(*args))[1])
    for wrong in (direct.token(kid="nobody"), direct.token(key=NEXT_KEY), direct.token(exp=1), direct.token(aud="x")):
        calls.clear()
        await direct.refused(wrong)
        assert len(calls) == 1


# -- outages and floods ------------------------------------------------------------------------------------------


async def test_a_call_that_cannot_wait_is_refused_and_one_that_can_is_served() -> None:
    direct = Direct()
    token = direct.token()
    with pytest.raises(NotYet):
        direct.now(token)
    await direct.admit(token)
    assert direct.now(token).subject == "corp|00u1"


async def test_op_08_an_issuer_that_hangs_holds_up_its_own_newcomers_and_nobody_else() -> None:
    other = IssuerProfile("other", "https://other.example", JWKS_URI, audiences=PROFILE.audiences)
    direct = Direct(PROFILE, other)
    known = direct.token()
    await direct.admit(known)
    direct.provider.hangs = True
    waiting = asyncio.create_task(direct.admit(direct.token(iss="https://other.example")))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    direct.door.clock.advance(301)
    assert await asyncio.wait_for(direct.admit(direct.token(jti="j2")), 0.1)  # refreshed beside the request
    assert direct.now(direct.token(jti="j3"))
    waiting.cancel()


async def test_one_issuer_cannot_push_out_the_tokens_of_another_or_ours() -> None:
    other = IssuerProfile("other", "https://other.example", JWKS_URI, audiences=PROFILE.audiences)
    direct = Direct(PROFILE, other, entries=16)
    token = direct.token()
    mine = await direct.admit(token)
    for n in range(20):
        await direct.admit(direct.token(iss="https://other.example", jti=f"j{n}"))
    assert (await direct.admit(token)) == mine
    assert len(direct.server._cache) <= 16
    assert sum(entry.principal.issuer == "https://other.example" for entry in direct.server._cache.values()) == 4


def described(**changes: Any) -> bytes:
    return orjson.dumps({"issuer": CORP + "/a", "jwks_uri": JWKS_URI, **changes})


async def test_without_an_address_of_its_keys_an_issuers_own_metadata_says_it_and_is_kept_for_an_hour() -> None:
    direct = Direct(IssuerProfile("corp", CORP + "/a", audiences=PROFILE.audiences))
    direct.provider.documents[f"{CORP}/.well-known/openid-configuration/a"] = described()
    assert await direct.admit(direct.token(iss=CORP + "/a"))
    assert [url for _, url in direct.provider.asked] == [
        f"{CORP}/.well-known/oauth-authorization-server/a",
        f"{CORP}/.well-known/openid-configuration/a",
        JWKS_URI,
    ]
    direct.door.clock.advance(601)
    assert await direct.admit(direct.token(iss=CORP + "/a"))
    assert [url for _, url in direct.provider.asked[3:]] == [JWKS_URI]


@pytest.mark.parametrize(
    "document",
    [
        described(issuer=CORP),
        described(issuer=CORP + "/a/"),
        described(jwks_uri="http://idp.corp.example/jwks"),
        described(jwks_uri="https://user@idp.corp.example/jwks"),
        described(jwks_uri=None),
        b"[]",
        b"<html>",
        b'{"issuer":"x","issuer":"y"}',
    ],
)
async def test_cl_04_metadata_that_is_not_this_issuers_leads_to_no_keys(document: bytes) -> None:
    direct = Direct(IssuerProfile("corp", CORP + "/a", audiences=PROFILE.audiences))
    for place in ("oauth-authorization-server/a", "openid-configuration/a"):
        direct.provider.documents[f"{CORP}/.well-known/{place}"] = document
    direct.provider.documents[f"{CORP}/a/.well-known/openid-configuration"] = document
    assert (await direct.refused(direct.token(iss=CORP + "/a"))).startswith("jwt_key")
    assert direct.fetches == 0


# -- endings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        standing.issuer(CORP),
        standing.person(CORP, "00u1"),
        standing.session("s1", CORP),
        standing.client("corp|agent"),
    ],
)
async def test_an_ending_ends_cached_tokens_and_those_issued_before_it(name: str) -> None:
    direct = Direct()
    token, later = direct.token(sid="s1"), direct.token(sid="s1", jti="j2")
    await direct.admit(token)
    endings = direct.door.identity.grants.standing
    endings.end(NODE, standing.person(CORP, "somebody else"))
    assert await direct.admit(token)
    endings.end(NODE, name)
    assert await direct.refused(token) == "ended"
    assert await direct.refused(later) == "ended"
    direct.door.clock.advance(1)
    assert await direct.admit(direct.token(sid="s1"))


async def test_one_token_of_another_issuer_can_be_revoked() -> None:
    direct = Direct()
    token, other = direct.token(), direct.token(jti="j2")
    found = await direct.admit(token)
    direct.door.identity.grants.revoke("acme", found.subject, found.grant_id, reason="test")
    assert await direct.refused(token) == "grant_revoked"
    assert await direct.admit(other)


async def test_actors_of_another_issuer_are_never_clients_or_people_of_ours() -> None:
    direct = Direct()
    act = {"sub": "svc-batch", "sub_type": "user", "act": {"sub": "relay", "sub_type": "service"}}
    found = await direct.admit(direct.token(act=act))
    assert found.chain == (
        Actor("corp|00u1", "user"),
        Actor("corp|relay", "service"),
        Actor("corp|svc-batch", "agent"),
    )
    kill = KillSwitch(direct.door.store.collection("kill"), direct.door.marks, direct.door.clock)
    kill.pull("acme", "client", "svc-batch", by="ann")
    assert not kill.stopped(found)
    kill.pull("acme", "client", "corp|relay", by="ann")
    assert kill.stopped(found)
    for sub in ("x" * 513, "a\nb", "\u202e"):
        assert await direct.refused(direct.token(act={"sub": sub})) == "jwt_claims act"


# -- tokens that only their issuer can read ----------------------------------------------------------------------


def opaque(**changes: Any) -> Direct:
    values: dict[str, Any] = {
        "audiences": {"/mcp/time": ("api://time",)},
        "kind": "opaque",
        "introspection_url": f"{CORP}/introspect",
        "client_id": "fw",
        "secret": "env:X",
        **changes,
    }
    direct = Direct(IssuerProfile("corp", CORP, **values))
    now_s = direct.door.clock.now_us() // 1_000_000
    direct.provider.tokens["good"] = {
        "active": True,
        "sub": "00u1",
        "client_id": "agent",
        "aud": "api://time",
        "scope": "time:read",
        "iat": now_s,
        "exp": now_s + 600,
    }
    return direct


async def test_an_opaque_token_is_asked_about_once_in_thirty_seconds_with_our_credential() -> None:
    direct = opaque()
    for _ in range(5):
        assert (await direct.admit("good")).scopes == {"time:read"}
    assert len(direct.provider.forms) == 1
    body, headers = direct.provider.forms[0]
    assert b"token=good" in body
    assert dict(headers)[b"authorization"] == b"Basic " + base64.b64encode(b"fw:s3cret")
    direct.door.clock.advance(30)
    direct.provider.tokens.clear()
    assert await direct.refused("good") == "jwt_claims inactive"


@pytest.mark.parametrize(
    "change",
    [
        {"active": False},
        {"active": "true"},
        {"iss": "https://evil.example"},
        {"aud": "api://other"},
        {"aud": None},
        {"exp": 1},
        {"sub": None},
    ],
)
async def test_an_opaque_token_is_only_as_good_as_its_answer(change: dict[str, Any]) -> None:
    direct = opaque()
    direct.provider.tokens["good"].update(change)
    await direct.refused("good")


@pytest.mark.parametrize("silent", [(), ("iat",), ("iat", "exp")])
async def test_an_ending_is_not_outlived_by_an_answer_that_does_not_say_when_the_token_was_issued(
    silent: tuple[str, ...],
) -> None:
    direct = opaque()
    for name in silent:
        del direct.provider.tokens["good"][name]
    assert await direct.admit("good")
    direct.door.clock.advance(5)
    assert await direct.admit("good")
    direct.door.identity.grants.standing.end(NODE, standing.person(CORP, "00u1"))
    for _ in range(3):
        assert await direct.refused("good") == "ended"
        direct.door.clock.advance(31)


async def test_rs_19_a_stream_of_an_opaque_token_ends_after_its_issuer_says_that_it_is_over() -> None:
    direct = opaque()
    found = await direct.admit("good")
    headers = {b"authorization": b"Bearer good"}
    assert direct.server.still(headers, TIME, found)
    direct.door.clock.advance(31)
    assert direct.server.still(headers, TIME, found)  # asked about now
    direct.provider.tokens.clear()
    await asyncio.sleep(0.01)
    assert not direct.server.still(headers, TIME, found)


# -- configuration and proof -------------------------------------------------------------------------------------


def test_an_issuer_that_nobody_proved_is_refused_at_start_with_what_to_run() -> None:
    door = make_door()
    given = DirectGiven((PROFILE,), Provider(), lambda _source: "")  # type: ignore[arg-type]

    def build() -> object:
        return build_direct(given, door.identity.resources, door.store, door.clock)

    proofs = Preflights(door.store, door.clock)
    with pytest.raises(ConfigFault) as caught:
        build()
    assert caught.value.code == "issuer_unproved"
    assert caught.value.fix == f"run `bartizan doctor idp {CORP}`"
    proofs.write(PROFILE, ("s256", "audience"))
    with pytest.raises(ConfigFault, match="issuer_unproved") as caught:
        build()
    assert "s256, audience" in caught.value.detail
    proofs.write(PROFILE, ())
    assert build() is not None
    changed = IssuerProfile("corp", CORP, JWKS_URI, audiences={"/mcp/time": ("api://time", "api://more")})
    proofs.write(changed, ())
    with pytest.raises(ConfigFault, match="issuer_unproved"):
        build()


def profile(**changes: Any) -> Callable[[], IssuerProfile]:
    values: dict[str, Any] = {
        "name": "corp",
        "issuer": CORP,
        "jwks_uri": JWKS_URI,
        "audiences": {"/mcp/time": ("x",)},
        **changes,
    }
    return lambda: IssuerProfile(**values)


@pytest.mark.parametrize(
    "wrong",
    [
        profile(name="corp|x"),
        profile(name=""),
        profile(name="a\nb"),
        profile(name="c" * 41),
        profile(issuer="http://idp.corp.example"),
        profile(issuer="https://user@idp.corp.example"),
        profile(jwks_uri="http://127.0.0.1/jwks"),
        profile(algorithms=("HS256",)),
        profile(algorithms=()),
        profile(audiences={}),
        profile(audiences={"/mcp/time": ()}),
        profile(audiences={"time": ("x",)}),
        profile(tenant_claim="tid"),
        profile(tenants={"a": "b"}),
        profile(tenant="A B"),
        profile(max_age_s=0),
        profile(max_age_s=10**9),
        profile(kind="opaque", introspection_url=f"{CORP}/i", client_id="x", secret="literal"),
        profile(kind="opaque", introspection_url="", client_id="x", secret="env:X"),
    ],
)
def test_a_profile_that_could_not_work_safely_is_a_config_fault(wrong: Callable[[], IssuerProfile]) -> None:
    with pytest.raises(ConfigFault):
        wrong()


def test_a_loopback_issuer_may_be_plain_http_for_tests() -> None:
    assert profile(issuer="http://127.0.0.1:1", jwks_uri="http://127.0.0.1:1/jwks", network="loopback")()


# -- twins -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["on", "off"])
@pytest.mark.parametrize(
    ("changes", "owner", "name", "value"),
    [
        ({"typ": "JWT"}, reading, "check_type", lambda *_: None),
        ({"aud": "api://other"}, reading, "audience_of", lambda claims, *_: claims["aud"]),
        ({"exp": 1, "iat": 0}, jwt, "check_claims", lambda *_: None),
        ({"key": NEXT_KEY}, jwt, "verify", lambda token, _key: token.claims),
    ],
    ids=["rs_07", "rs_09", "rs_10", "rs_02"],
)
async def test_an_attack_fails_with_its_control_and_works_without(
    changes: dict[str, Any], owner: Any, name: str, value: Any, control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = Direct()
    token = direct.token(**changes)
    if control == "on":
        await direct.refused(token)
        return
    monkeypatch.setattr(owner, name, value)
    # A token that is over is cached for no time at all: its principal is what shows that it was let in.
    assert (await direct.admit(token)).subject == "corp|00u1"


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [
        "sub",
        "client_id",
        "azp",
        "scope",
        "groups",
        "exp",
        "auth_time",
        "acr",
        "act",
        "cnf",
        "jti",
        "sid",
        "aud",
        "idtyp",
    ]
)


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_any_claims_become_a_principal_of_the_profile_or_are_refused(claims: dict[str, Any]) -> None:
    try:
        reading.check_type("at+jwt", claims, PROFILE)
        reading.audience_of(claims, PROFILE, "/mcp/time")
        found = reading.principal_of(claims, PROFILE, TIME, ("time:read",), "x")
    except Malformed:
        return
    assert found.subject.startswith("corp|")
    assert found.tenant == "acme"
    assert found.scopes <= {"time:read"}
    assert set(found.roles) <= {"dev"}


def test_another_error_than_ours_never_comes_out_of_a_key_set() -> None:
    with pytest.raises(Malformed):
        jwt.parse_jwks(b'{"keys":[{"kty":"EC","crv":"P-256","x":"!","y":"!"}]}')


def test_one_name_in_the_file_is_a_list_of_one() -> None:
    given = {"issuer": "https://idp.acme.example", "audiences": {"/mcp/time": "api"}, "groups_claim": "groups"}
    one = {**given, "scopes": {"r": "time:read"}, "roles": {"staff": "dev"}}
    many = {**given, "audiences": {"/mcp/time": ["api"]}, "scopes": {"r": ["time:read"]}, "roles": {"staff": ["dev"]}}
    found = [front_door.issuers(configuration.build({"identity": {"issuers": {"corp": raw}}})) for raw in (one, many)]
    assert found[0] == found[1]
    assert found[0][0].digest() == found[1][0].digest()  # and what was proved of one is proved of the other
