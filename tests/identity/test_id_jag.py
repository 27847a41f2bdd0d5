"""Identity assertions (ID-JAG): who may say what about whom, and that it is believed once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc.jwk import ECKey, RSAKey

from firewall.core.errors import ConfigFault, Unauthenticated
from firewall.identity.engine import registered
from firewall.identity.id_jag import assertion as assertion_rules
from firewall.identity.people.links import Links
from firewall.identity.people.users import User
from firewall.identity.rfc7523.assertions import UsedOnce
from firewall.identity.rfc7523.client_keys import NETWORKS
from firewall.identity.settings import ClientSettings, TrustedIssuer
from firewall.net.dial import Fetched
from firewall.wire import jwt
from tests.support.chain import SECRET, claims_in, confidential, several, why
from tests.support.door import GIT, ORIGIN, TIME, Door, make_door, public_jwks

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
IDP = "https://idp.acme.example"
OTHER = "https://idp.other.example"
JWKS_URI = "https://idp.other.example/keys"
IDP_KEY = ECKey.generate_key("P-256", private=True)
OTHER_KEY = RSAKey.generate_key(2048, private=True)
CLIENTS = (
    confidential("app", grant_types=(GRANT,), scopes=("time:*", "git:read")),
    confidential("second", grant_types=(GRANT,), tenant=""),
    confidential("foreign", grant_types=(GRANT,), tenant="beta"),
    confidential("unasked"),
    ClientSettings("open", "Public", grant_types=(GRANT,), tenant="acme"),
)


def issuers(**changes: Any) -> tuple[TrustedIssuer, ...]:
    values: dict[str, Any] = {"issuer": IDP, "tenant": "acme", "jwks": public_jwks(IDP_KEY), **changes}
    return (TrustedIssuer(**values), TrustedIssuer(OTHER, "acme", jwks_uri=JWKS_URI, algorithms=("RS256",)))


def id_jag_door(**changes: Any) -> Door:
    more = {name: changes.pop(name) for name in ("clients",) if name in changes}
    return make_door(**{"clients": CLIENTS, "trusted_issuers": issuers(**changes), **more})


async def linked(door: Door, **more: Any) -> User:
    user = await door.user(**more)
    door.identity.links.link("acme", IDP, "00u1", user.subject)
    return user


def id_jag(door: Door, *, key: Any = IDP_KEY, alg: str = "ES256", typ: str = "oauth-id-jag+jwt", **changes: Any) -> str:
    now_s = door.clock.now_us() // 1_000_000
    claims: dict[str, Any] = {
        "iss": IDP,
        "sub": "00u1",
        "aud": ORIGIN,
        "client_id": "app",
        "jti": f"jti-{now_s}",
        "iat": now_s,
        "exp": now_s + 300,
        "resource": TIME,
        "scope": "time:read time:write",
        "email": "ada@acme.example",
        "auth_time": now_s - 60,
        **changes,
    }
    return jwt.sign({k: v for k, v in claims.items() if v is not None}, key, alg=alg, typ=typ, kid="c1")


async def present(http: httpx2.AsyncClient, text: str, /, client: str = "app", **changes: str) -> httpx2.Response:
    form = {"grant_type": GRANT, "assertion": text, **changes}
    if client == "open":
        return await http.post("/token", data={**form, "client_id": client})
    return await http.post("/token", data=form, auth=(client, SECRET))


# -- what it gives ----------------------------------------------------------------------------------------


async def test_an_assertion_becomes_an_access_token_and_nothing_else() -> None:
    door = id_jag_door()
    ada = await linked(door)
    async with door.http() as http:
        answer = await present(http, id_jag(door))
        metadata = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["scope"], body["token_type"], "refresh_token" in body) == ("time:read time:write", "Bearer", False)
    principal = door.verified(body["access_token"])
    assert (principal.subject, principal.client_id, principal.roles) == (ada.subject, "app", ("dev",))
    assert claims_in(body["access_token"])["auth_time"] == door.clock.now_us() // 1_000_000 - 60
    assert GRANT in metadata["grant_types_supported"]
    assert metadata["authorization_grant_profiles_supported"] == ["urn:ietf:params:oauth:grant-profile:id-jag"]
    assert door.named("identity.token.issued")[-1]["issuer"] == IDP


async def test_without_a_configured_issuer_there_is_no_such_grant() -> None:
    door = make_door(clients=CLIENTS)
    async with door.http() as http:
        answer = await present(http, id_jag(door))
        metadata = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert answer.json()["error"] == "unsupported_grant_type"
    assert "authorization_grant_profiles_supported" not in metadata
    assert GRANT not in registered.grant_types(door.identity.settings)


async def test_the_person_sees_it_ends_it_and_it_is_over() -> None:
    door = id_jag_door()
    ada = await linked(door)
    async with door.http() as http:
        token = (await present(http, id_jag(door))).json()["access_token"]
        (grant,) = door.identity.grants.of_subject("acme", ada.subject)
        door.identity.grants.revoke("acme", ada.subject, grant.grant_id, reason="test")
        with pytest.raises(Unauthenticated):
            door.verified(token)
        fresh = (await present(http, id_jag(door, jti="another"))).json()["access_token"]
        assert door.verified(fresh)
        assert door.identity.links.unlink("acme", IDP, "00u1")
        with pytest.raises(Unauthenticated):
            door.verified(fresh)
    door.clock.advance(3 * 3600)
    assert door.identity.grants.of_subject("acme", ada.subject) == [], "kept no longer than its token can live"


async def test_scope_and_resource_may_be_narrowed_and_are_told() -> None:
    door = id_jag_door()
    await linked(door)
    async with door.http() as http:
        narrow = await present(http, id_jag(door, jti="1"), scope="time:read offline_access", resource=TIME)
        assert narrow.json()["scope"] == "time:read"
        many = id_jag(door, jti="2", resource=[TIME, GIT], scope="time:read git:read")
        assert claims_in((await present(http, many, resource=GIT)).json()["access_token"])["aud"] == GIT
        free = id_jag(door, jti="3", resource=None, scope=None)
        assert (await present(http, free, resource=GIT)).json()["scope"] == "git:read"


@pytest.mark.parametrize(
    ("claims", "asked", "error"),
    [
        ({"scope": "time:read"}, {"scope": "time:write"}, "invalid_scope"),
        ({"scope": "time:read"}, {"scope": "time:read git:read"}, "invalid_scope"),
        ({"scope": "git:write", "resource": GIT}, {}, "invalid_scope"),
        ({"scope": "nothing:read"}, {}, "invalid_scope"),
        ({"scope": "time:read  x"}, {}, "invalid_scope"),
        ({}, {"resource": GIT}, "invalid_target"),
        ({"resource": ORIGIN + "/mcp/nothing"}, {}, "invalid_target"),
        ({"resource": [TIME, GIT]}, {}, "invalid_target"),
        ({"resource": None}, {}, "invalid_target"),
        ({"resource": []}, {}, "invalid_grant"),
        ({"resource": {"uri": TIME}}, {}, "invalid_grant"),
        ({"scope": ["time:read"]}, {}, "invalid_grant"),
        ({}, {"scope": "run time:read"}, "invalid_scope"),
        ({"authorization_details": [{"type": "payment"}]}, {}, "invalid_authorization_details"),
    ],
)
async def test_as_12_nothing_beyond_what_was_asserted(
    claims: dict[str, Any], asked: dict[str, str], error: str
) -> None:
    door = id_jag_door()
    await linked(door, scopes=("*",))
    async with door.http() as http:
        assert (await present(http, id_jag(door, **claims), **asked)).json()["error"] == error
        assert (await present(http, id_jag(door, jti="twin"))).is_success, "the twin"


async def test_design_6b_6_issuer_client_and_person_each_have_their_say() -> None:
    for change, expected in (
        ({"scopes": ("time:read",)}, "time:read"),
        ({}, "time:read time:write"),
    ):
        door = id_jag_door(**change)
        await linked(door, scopes=("*",))
        async with door.http() as http:
            assert (await present(http, id_jag(door))).json()["scope"] == expected
    door = id_jag_door()
    await linked(door, scopes=("time:write",))
    async with door.http() as http:
        assert (await present(http, id_jag(door))).json()["scope"] == "time:write"


async def test_a_context_of_the_issuer_means_what_the_operator_says() -> None:
    both = "time:read stepup:mfa"
    for acr_of, acr, expected in (
        ({"urn:idp:strong": "mfa"}, "urn:idp:strong", "mfa"),
        ({"urn:idp:strong": "mfa"}, "mfa", ""),
        ({}, "mfa", ""),
        ({"urn:idp:strong": "mfa"}, None, ""),
    ):
        door = id_jag_door(acr_of=acr_of, scopes=("time:*",))
        await linked(door)
        async with door.http() as http:
            body = (await present(http, id_jag(door, acr=acr, scope=both))).json()
        assert claims_in(body["access_token"]).get("acr", "") == expected
        assert body["scope"] == (both if expected else "time:read")


@pytest.mark.parametrize(("age_s", "fresh"), [(60, True), (3600, False), (None, False)])
async def test_an_assertion_of_an_old_sign_in_is_not_fresh(age_s: int | None, fresh: bool) -> None:
    door = id_jag_door(acr_of={"gold": "mfa"})
    await linked(door)
    auth_time = None if age_s is None else door.clock.now_us() // 1_000_000 - age_s
    async with door.http() as http:
        text = id_jag(door, acr="gold", auth_time=auth_time, scope="time:read stepup:mfa stepup:fresh")
        body = (await present(http, text)).json()
    assert body["scope"] == "time:read stepup:mfa" + (" stepup:fresh" if fresh else "")


async def test_details_of_an_assertion_bind_the_token() -> None:
    door = id_jag_door()
    await linked(door)
    details = [{"type": "mcp_tool", "locations": [TIME], "actions": ["call"], "tools": ["now"]}]
    async with door.http() as http:
        body = (await present(http, id_jag(door, authorization_details=details))).json()
    assert claims_in(body["access_token"])["authorization_details"] == details == body["authorization_details"]


# -- the assertion itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"typ": "JWT"},
        {"typ": "at+jwt"},
        {"typ": "application/jwt"},
        {"iss": "https://idp.acme.example/"},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "https://fw.example/"},
        {"aud": "https://fw.example/token"},
        {"aud": [ORIGIN, "https://other.example"]},
        {"aud": []},
        {"aud": None},
        {"sub": ""},
        {"sub": None},
        {"jti": None},
        {"jti": "j" * 257},
        {"client_id": None},
        {"client_id": "second"},
        {"exp": None},
        {"exp": 2_000_000_000},
        {"exp": 1_789_999_000, "iat": 1_789_998_900},
        {"exp": "1790000300"},
        {"iat": 1_790_000_100},
        {"iat": None},
        {"nbf": 1_790_000_200},
        {"cnf": {"jkt": "A" * 43}},
        {"cnf": None, "act": {"sub": "agent"}},
        {"tenant": "their-tenant"},
        {"tenant": 5},
        {"aud_tenant": "beta"},
        {"aud_sub": "u_somebody_else"},
        {"sub": "00u2"},
    ],
)
async def test_rs_07_to_10_an_assertion_that_is_not_exactly_right_is_no_grant(changes: dict[str, Any]) -> None:
    door = id_jag_door()
    await linked(door)
    async with door.http() as http:
        answer = await present(http, id_jag(door, **changes))
        assert answer.json()["error"] == "invalid_grant", answer.text
        assert answer.json()["error_description"] == (await present(http, "x")).json()["error_description"]
        assert (await present(http, id_jag(door, jti="twin"))).is_success, "the twin"
    assert door.fetcher.asked == []


async def test_rs_01_and_02_signatures_of_nobody_and_keys_of_the_attacker() -> None:
    door = id_jag_door()
    await linked(door)
    mallory = ECKey.generate_key("P-256", private=True)
    good = id_jag(door)
    head, body, _ = good.split(".")
    async with door.http() as http:
        for text in (
            id_jag(door, key=mallory),
            id_jag(door, iss=OTHER, key=mallory),
            f"eyJhbGciOiJub25lIn0.{body}.",
            f"eyJhbGciOiJub25lIn0.{body}.AA",
            f"{head}.{body}.AAAA",
            f"{head}.{body}",
            "",
        ):
            assert (await present(http, text)).json()["error"] in ("invalid_grant", "invalid_request")
        assert (await present(http, good)).is_success


async def test_rs_03_keys_of_an_issuer_are_fetched_guarded_and_seldom() -> None:
    door = id_jag_door()
    await linked(door)
    door.identity.links.link("acme", OTHER, "x1", (await door.user("bob")).subject)
    keys = {"keys": [{**OTHER_KEY.as_dict(private=False), "kid": "c1"}]}
    door.fetcher.answers[JWKS_URI] = Fetched(200, {"content-type": "application/json"}, json.dumps(keys).encode())
    async with door.http() as http:
        signed = {"iss": OTHER, "sub": "x1", "key": OTHER_KEY, "alg": "RS256"}
        assert (await present(http, id_jag(door, **signed))).is_success
        for n in range(20):
            text = id_jag(door, jti=f"{n}", **signed)
            assert (await present(http, text)).is_success
        assert len(door.fetcher.asked) == 1
        # An algorithm that the issuer is not configured for never reaches a key.
        assert (await present(http, id_jag(door, iss=OTHER, sub="x1"))).json()["error"] == "invalid_grant"
        assert why(door) == "jwt_alg"
        assert len(door.fetcher.asked) == 1


async def test_keys_of_an_issuer_on_a_private_network_are_fetched_there_and_nowhere_else() -> None:
    for network in NETWORKS:
        trusted = TrustedIssuer(OTHER, "acme", jwks_uri=JWKS_URI, algorithms=("RS256",), network=network)
        door = make_door(clients=CLIENTS, trusted_issuers=(trusted,))
        door.identity.links.link("acme", OTHER, "x1", (await door.user("bob")).subject)
        keys = {"keys": [{**OTHER_KEY.as_dict(private=False), "kid": "c1"}]}
        door.fetcher.answers[JWKS_URI] = Fetched(200, {"content-type": "application/json"}, json.dumps(keys).encode())
        async with door.http() as http:
            text = id_jag(door, iss=OTHER, sub="x1", key=OTHER_KEY, alg="RS256")
            assert (await present(http, text)).is_success
        assert door.fetcher.networks == [network]


def test_an_issuer_over_plain_http_is_one_of_this_machine_and_says_so() -> None:
    for issuer, network, fine in (
        ("http://127.0.0.1:9", "loopback", True),
        ("http://127.0.0.1:9", "public", False),
        ("http://127.0.0.1:9", "private", False),
        ("http://idp.example", "loopback", False),
        ("https://idp.example", "public", True),
    ):
        trusted = TrustedIssuer(issuer, "acme", jwks=public_jwks(IDP_KEY), network=network)  # type: ignore[arg-type]
        if fine:
            assert make_door(clients=CLIENTS, trusted_issuers=(trusted,))
        else:
            with pytest.raises(ConfigFault, match="issuer_url"):
                make_door(clients=CLIENTS, trusted_issuers=(trusted,))


async def test_an_unreachable_issuer_is_a_refusal_and_not_a_failure() -> None:
    door = id_jag_door()
    async with door.http() as http:
        answer = await present(http, id_jag(door, iss=OTHER, key=OTHER_KEY, alg="RS256"))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


# -- once ---------------------------------------------------------------------------------------------------


async def test_as_20_an_assertion_is_used_once_whoever_races() -> None:
    door = id_jag_door()
    await linked(door)
    text = id_jag(door)
    async with door.http() as http:
        answers = await asyncio.gather(*(present(http, text) for _ in range(20)))
        assert [answer.status_code for answer in answers].count(200) == 1
        assert why(door) == "assertion_replayed"
        door.clock.advance(320)
        assert (await present(http, text)).is_error, "still within the leeway of its end"
        # The same jti of another issuer, and of a client's own assertion, is another one.
        UsedOnce(door.store).burn("app", "x", door.clock.now_us() // 1_000_000 + 60)
        assert (await present(http, id_jag(door, jti="x"))).is_success


@pytest.mark.parametrize("workers", [1, 4])
async def test_as_20_an_assertion_is_used_once_on_the_whole_node(workers: int, tmp_path: Path) -> None:
    with several(id_jag_door(create=True, account_scopes=("*",)), workers, tmp_path) as doors:
        text = id_jag(doors[0])
        answers = []
        for door in doors * 2:
            async with door.http() as http:
                answers.append((await present(http, text)).status_code)
        assert answers == [200] + [400] * (2 * workers - 1)
        assert len(doors[0].identity.users.list("acme")) == 1


async def test_as_20_twin_where_the_operator_allows_it_an_assertion_serves_until_it_ends() -> None:
    door = id_jag_door(reusable=True)
    await linked(door)
    text = id_jag(door)
    async with door.http() as http:
        assert (await present(http, text)).is_success
        assert (await present(http, text)).is_success
        door.clock.advance(331)
        assert (await present(http, text)).is_error


# -- who presents it ------------------------------------------------------------------------------------------


async def test_as_21_only_a_confidential_client_with_the_grant_and_the_right_name() -> None:
    door = id_jag_door()
    await linked(door)
    async with door.http() as http:
        for client, error in (
            ("open", "unauthorized_client"),
            ("unasked", "unauthorized_client"),
            ("second", "invalid_grant"),
            ("foreign", "invalid_grant"),
        ):
            text = id_jag(door, client_id="app" if client == "second" else client)
            assert (await present(http, text, client=client)).json()["error"] == error
        nobody = await http.post("/token", data={"grant_type": GRANT, "assertion": id_jag(door)})
        assert nobody.status_code == 401
        assert (await present(http, id_jag(door, client_id="second"), client="second")).is_success


async def test_the_operator_says_which_clients_may_come_from_an_issuer() -> None:
    door = make_door(clients=CLIENTS, trusted_issuers=issuers(clients=("app",)))
    await linked(door)
    async with door.http() as http:
        assert (await present(http, id_jag(door, client_id="second"), client="second")).is_error
        assert why(door) == "assertion_client"
        assert (await present(http, id_jag(door))).is_success


# -- whom it speaks of ------------------------------------------------------------------------------------------


async def test_an_equal_address_links_nobody() -> None:
    door = id_jag_door()
    await door.user("ada@acme.example", scopes=("*",))
    async with door.http() as http:
        assert (await present(http, id_jag(door))).json()["error"] == "invalid_grant"
        assert why(door) == "assertion_subject"
    opened = id_jag_door(create=True, roles=("guest",), account_scopes=("time:read",))
    ada = await opened.user("ada@acme.example", scopes=("*",))
    async with opened.http() as http:
        body = (await present(http, id_jag(opened))).json()
    principal = opened.verified(body["access_token"])
    assert principal.subject != ada.subject
    assert (principal.roles, body["scope"]) == (("guest",), "time:read")


async def test_the_same_subject_of_another_issuer_or_realm_is_somebody_else() -> None:
    door = id_jag_door(realms=("", "their-tenant"))
    await linked(door)
    async with door.http() as http:
        assert (await present(http, id_jag(door, tenant="their-tenant"))).is_error
        assert why(door) == "assertion_subject"
        assert (await present(http, id_jag(door, jti="2"))).is_success
        assert (await present(http, id_jag(door, jti="3", tenant="not-believed"))).is_error
        assert why(door) == "assertion_realm"


async def test_twin_linked_by_address_somebody_elses_account_would_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    door = id_jag_door()
    ada = await door.user("ada@acme.example", scopes=("*",))
    monkeypatch.setattr(Links, "admit", lambda *_a, **_m: ada)
    async with door.http() as http:
        assert (await present(http, id_jag(door, sub="mallory"))).is_success


async def test_a_disabled_person_gets_nothing_and_no_second_account() -> None:
    door = id_jag_door(create=True, account_scopes=("*",))
    async with door.http() as http:
        made = door.verified((await present(http, id_jag(door))).json()["access_token"])
        door.identity.users.update("acme", made.subject, roles=(), scopes=("*",), disabled=True)
        assert (await present(http, id_jag(door, jti="2"))).json()["error"] == "invalid_grant"
    assert len(door.identity.users.list("acme")) == 1


async def test_what_ended_at_the_issuer_is_no_grant_any_more() -> None:
    door = id_jag_door()
    await linked(door)
    for number, name in enumerate((f"issuer/{IDP}", f"person/{IDP} 00u1", "client/app")):
        async with door.http() as http:
            text = id_jag(door, jti=f"old-{number}")
            door.identity.grants.standing.end("acme", name)
            assert (await present(http, text)).is_error
            assert why(door) == "grant_ended"
            door.clock.advance(2)
            assert (await present(http, id_jag(door, jti=f"new-{number}"))).is_success


# -- twins of the rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "limit"),
    [({"exp": 2_000_000_000}, "max_lifetime_s"), ({"aud": [ORIGIN, "https://other.example"]}, "audience")],
)
async def test_twins_without_the_tightened_rules_pitfall_12_is_open(
    changes: dict[str, Any], limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = id_jag_door()
    await linked(door)
    monkeypatch.setattr(assertion_rules.jwt, "check_claims", lambda *_a: None)
    async with door.http() as http:
        assert (await present(http, id_jag(door, **changes))).is_success, limit


def test_a_trusted_issuer_is_configured_wholly_or_not_at_all() -> None:
    for wrong in (
        {"issuer": "http://idp.acme.example"},
        {"jwks": None},
        {"jwks_uri": "https://idp.acme.example/keys"},
        {"algorithms": ()},
        {"algorithms": ("HS256",)},
        {"tenant": "no tenant"},
        {"max_lifetime_s": 86_400},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}},
    ):
        with pytest.raises(ConfigFault):
            id_jag_door(**wrong)


async def test_op_05_no_assertion_and_no_address_in_events() -> None:
    door = id_jag_door(create=True)
    text = id_jag(door)
    async with door.http() as http:
        await present(http, text)
        await present(http, text)
    assert text not in repr(door.events)
    assert "ada@" not in repr(door.events)
