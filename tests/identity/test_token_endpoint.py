"""Token and revocation endpoints: codes, refresh tokens, client authentication."""

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from firewall import config as configuration
from firewall.config import front_door
from firewall.core.errors import ConfigFault, Unauthenticated
from firewall.core.ports import Store
from firewall.identity.authorization_server import build_identity
from firewall.identity.settings import ClientSettings
from firewall.net.dial import Fetched, Purpose
from firewall.net.runtime import RandomIds
from firewall.state.shared import SharedMarks
from firewall.state.sqlite import SQLiteStore
from firewall.wire import strict_json
from tests.support.door import (
    CIMD_URL,
    GIT,
    ORIGIN,
    SERVER_KEY,
    TIME,
    Browser,
    Door,
    assertion,
    authorize_query,
    client_credentials,
    make_door,
    public_jwks,
    redeem,
    refresh,
)


async def tokens(door: Door) -> dict[str, str]:
    async with door.http() as http:
        body = (await redeem(http, (await Browser(http).code())["code"])).json()
    return {"access": body["access_token"], "refresh": body["refresh_token"]}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code": "bzc_" + "A" * 43 + ".acme"}, "invalid_grant"),
        ({"code": "nonsense"}, "invalid_grant"),
        ({"code": "-"}, "invalid_grant"),
        ({"code_verifier": "-"}, "invalid_grant"),
        ({"code_verifier": "w" * 43}, "invalid_grant"),
        ({"redirect_uri": "http://127.0.0.1:51005/callback"}, "invalid_grant"),
        ({"client_id": "tool"}, "invalid_grant"),
        ({"resource": GIT}, "invalid_target"),
        ({"resource": TIME + "//"}, "invalid_target"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "-"}, "invalid_request"),
        ({"grant_type": "client_credentials"}, "unauthorized_client"),
    ],
)
async def test_as_09_a_code_is_bound_to_all_that_was_agreed(changes: dict[str, str], error: str) -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        reply = await redeem(http, code, **changes)
    assert reply.status_code == 400
    assert reply.json()["error"] == error
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"


async def test_as_09_a_code_lives_for_sixty_seconds() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        one, two = (await browser.code())["code"], (await browser.code())["code"]
        door.clock.advance(59)
        assert (await redeem(http, one)).status_code == 200
        door.clock.advance(1)
        assert (await redeem(http, two)).status_code == 400


async def test_redirect_and_resource_may_be_left_out_at_the_token_endpoint() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        reply = await redeem(http, (await Browser(http).code())["code"], redirect_uri="-", resource="-")
    assert reply.status_code == 200
    door.verified(reply.json()["access_token"], TIME)


async def test_as_07_a_repeated_parameter_is_refused_at_the_token_endpoint() -> None:
    door = make_door()
    async with door.http() as http:
        body = f"grant_type=authorization_code&code=a&code=b&client_id={CIMD_URL}"
        reply = await http.post("/token", content=body, headers={"content-type": "application/x-www-form-urlencoded"})
        assert reply.json()["error"] == "invalid_request"
        reply = await http.post("/token", json={"grant_type": "authorization_code"})
        assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")


async def test_rs_18_nothing_in_the_store_is_a_code_or_token() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        body = (await redeem(http, code)).json()
        body2 = (await refresh(http, body["refresh_token"])).json()
    kept = b"".join(
        entry.key.encode() + entry.value
        for name in ("oauth_codes", "oauth_codes_issued", "oauth_refresh", "oauth_grants", "login_sessions")
        for tenant in ("acme", "_node")
        for entry in door.store.collection(name).scan(tenant)
    )
    for secret in (code, body["refresh_token"], body2["refresh_token"], body["access_token"]):
        assert secret.partition(".")[0].encode() not in kept


async def test_op_05_no_event_holds_a_secret() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        callback = await Browser(http).code()
        body = (await redeem(http, callback["code"])).json()
        await redeem(http, callback["code"])
    text = str(door.events)
    assert body["access_token"] not in text
    assert body["refresh_token"] not in text
    assert callback["code"] not in text
    assert [facts["grant_type"] for facts in door.named("identity.token.issued")] == ["authorization_code"]
    assert door.named("identity.grant.revoked")[0]["reason"] == "code_replayed"


# -- refresh ------------------------------------------------------------------------------------------


async def test_as_11_within_the_grace_a_repeat_gets_the_same_successor() -> None:
    door = make_door()
    await door.user()
    first = await tokens(door)
    async with door.http() as http:
        replies = await asyncio.gather(*(refresh(http, first["refresh"]) for _ in range(10)))
        assert {reply.status_code for reply in replies} == {200}
        assert len({reply.json()["refresh_token"] for reply in replies}) == 1
        door.clock.advance(29)
        late = await refresh(http, first["refresh"])
        assert late.json()["refresh_token"] == replies[0].json()["refresh_token"]


async def test_as_11_reuse_outside_the_grace_ends_the_family_and_its_access_tokens() -> None:
    door = make_door()
    await door.user()
    first = await tokens(door)
    async with door.http() as http:
        second = (await refresh(http, first["refresh"])).json()
        assert door.verified(second["access_token"])
        door.clock.advance(31)
        assert (await refresh(http, first["refresh"])).json()["error"] == "invalid_grant"
        assert (await refresh(http, second["refresh_token"])).json()["error"] == "invalid_grant"
    with pytest.raises(Unauthenticated):
        door.verified(second["access_token"])
    assert door.named("identity.grant.revoked")[0]["reason"] == "refresh_reused"


async def test_as_11_another_client_gets_nothing_and_breaks_nothing() -> None:
    door = make_door()
    await door.user()
    first = await tokens(door)
    async with door.http() as http:
        assert (await refresh(http, first["refresh"], client_id="tool")).json()["error"] == "invalid_grant"
        assert (await refresh(http, first["refresh"])).status_code == 200


async def test_a_request_beyond_the_grant_reads_that_it_was_too_wide_and_not_that_nothing_can_be_given() -> None:
    door = make_door()
    await door.user()
    first = await tokens(door)
    async with door.http() as http:
        answer = (await refresh(http, first["refresh"], scope="time:read time:write")).json()
    assert answer["error"] == "invalid_scope"
    assert "goes beyond what was granted" in answer["error_description"]
    assert "time:" not in answer["error_description"]  # neither what is held nor what there is


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"resource": GIT}, "invalid_target"),
        ({"scope": "time:read time:write"}, "invalid_scope"),
        ({"scope": "git:read"}, "invalid_scope"),
        ({"refresh_token": "bzr_" + "A" * 43 + ".acme"}, "invalid_grant"),
        ({"refresh_token": ""}, "invalid_grant"),
    ],
)
async def test_as_12_a_refresh_never_widens(changes: dict[str, str], error: str) -> None:
    door = make_door()
    await door.user()
    first = await tokens(door)
    async with door.http() as http:
        assert (await refresh(http, first["refresh"], **changes)).json()["error"] == error


async def test_as_12_idle_and_absolute_limits_hold() -> None:
    door = make_door(refresh_idle_s=100, refresh_lifetime_s=250)
    await door.user()
    token = (await tokens(door))["refresh"]
    async with door.http() as http:
        for _ in range(2):
            door.clock.advance(99)
            token = (await refresh(http, token)).json()["refresh_token"]
        door.clock.advance(53)
        assert (await refresh(http, token)).json()["error"] == "invalid_grant"
    second = await tokens(door)
    door.clock.advance(101)
    async with door.http() as http:
        assert (await refresh(http, second["refresh"])).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(("idle", "days", "ends_after"), [(3, 10, 3), (20, 5, 5), (14, 30, 14)])
async def test_as_12_the_file_says_how_long_a_connection_lasts(idle: int, days: int, ends_after: int) -> None:
    """Idle and absolute limits of the configuration reach the tokens, whichever comes first."""
    made = configuration.build(
        {"version": 1, "public_url": ORIGIN, "identity": {"refresh_idle_days": idle, "refresh_days": days}}
    )
    given = front_door.identity(made, ())
    door = make_door(refresh_idle_s=given.refresh_idle_s, refresh_lifetime_s=given.refresh_lifetime_s)
    await door.user()
    token = (await tokens(door))["refresh"]
    async with door.http() as http:
        door.clock.advance(ends_after * 86_400 - 1)
        token = (await refresh(http, token)).json()["refresh_token"]
        door.clock.advance(min(idle, days) * 86_400 + 1)
        assert (await refresh(http, token)).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(("name", "days"), [("refresh_days", 91), ("refresh_idle_days", 91), ("refresh_days", 0)])
def test_as_12_no_connection_lasts_for_more_than_ninety_days(name: str, days: int) -> None:
    with pytest.raises(ConfigFault):
        configuration.build({"version": 1, "public_url": ORIGIN, "identity": {name: days}})


async def test_as_12_a_connection_keeps_the_end_that_it_was_given_when_longer_ones_are_allowed_later() -> None:
    """Else it would go on where its person no longer finds it to end it."""
    door = make_door(refresh_idle_s=100_000, refresh_lifetime_s=100_000)
    ada = await door.user()
    token = (await tokens(door))["refresh"]
    kept = door.identity.front_door._routes["/token"]["POST"].__self__._parts.refresh  # type: ignore[attr-defined]
    kept._settings = replace(door.identity.settings, refresh_idle_s=10**7, refresh_lifetime_s=10**7)
    async with door.http() as http:
        door.clock.advance(99_000)
        token = (await refresh(http, token)).json()["refresh_token"]
        door.clock.advance(5_000)
        assert (await refresh(http, token)).json()["error"] == "invalid_grant"
    assert door.identity.grants.of_subject("acme", ada.subject) == []


async def test_as_12_a_changed_user_ends_what_was_given_and_a_disabled_one_cannot_come_back() -> None:
    door = make_door()
    user = await door.user()
    first = await tokens(door)
    assert door.verified(first["access"])
    door.identity.users.update("acme", user.subject, roles=(), scopes=("git:*",), disabled=True)
    with pytest.raises(Unauthenticated):
        door.verified(first["access"])
    async with door.http() as http:
        assert (await refresh(http, first["refresh"])).json()["error"] == "invalid_grant"
        reply = await Browser(http).sign_in(await Browser(http).open(authorize_query()))
        assert reply.status_code == 403


# -- client authentication -------------------------------------------------------------------------------


async def test_a_service_with_a_signed_assertion_gets_a_token_of_its_own_and_no_refresh_token() -> None:
    door = make_door()
    async with door.http() as http:
        reply = await client_credentials(http, assertion(door))
    body = reply.json()
    assert "refresh_token" not in body
    principal = door.verified(body["access_token"])
    assert (principal.subject, principal.client_id, principal.kind) == ("svc-batch", "svc-batch", "service")
    assert principal.tenant == "acme"
    assert not principal.cimd_verified


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": f"{ORIGIN}/token"},
        {"aud": [ORIGIN]},
        {"aud": [ORIGIN, "https://other.example"]},
        {"aud": None},
        {"iss": "other"},
        {"sub": "svc-basic"},
        {"exp": None},
        {"jti": None},
        {"jti": ""},
        {"exp": 1},
        {"exp": 9_999_999_999},
        {"iat": "now"},
    ],
)
async def test_as_20_an_assertion_with_one_wrong_claim_is_refused(changes: dict[str, object]) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await client_credentials(http, assertion(door, **changes))  # type: ignore[arg-type]
    assert (reply.status_code, reply.json()["error"]) == (401, "invalid_client")


async def test_as_20_an_assertion_signed_by_another_key_or_typed_as_a_token_is_refused() -> None:
    door = make_door()
    async with door.http() as http:
        for signed in (
            assertion(door, key=ECKey.generate_key("P-256", private=True)),
            assertion(door, typ="at+jwt"),
            "a.b.c",
            "x",
        ):
            assert (await client_credentials(http, signed)).status_code == 401
        assert (await client_credentials(http, assertion(door), client_assertion_type="jwt")).status_code == 401


async def test_as_20_a_replayed_assertion_is_refused_for_as_long_as_it_lives() -> None:
    door = make_door()
    async with door.http() as http:
        proof = assertion(door)
        assert (await client_credentials(http, proof)).status_code == 200
        door.clock.advance(59)
        assert (await client_credentials(http, proof)).status_code == 401
        assert (await client_credentials(http, assertion(door, jti="two"))).status_code == 200


@pytest.mark.parametrize(
    ("form", "auth"),
    [
        ({}, None),
        ({"client_id": "svc-basic"}, None),
        ({"client_id": "svc-batch"}, None),
        ({"client_id": "svc-basic", "client_secret": "a-long-random-secret"}, None),
        ({}, ("svc-basic", "wrong")),
        ({}, ("svc-batch", "a-long-random-secret")),
        ({}, ("nobody", "x")),
        ({"client_id": "tool"}, ("svc-basic", "a-long-random-secret")),
        ({}, ("tool", "")),
    ],
)
async def test_as_21_only_the_registered_method_counts(form: dict[str, str], auth: tuple[str, str] | None) -> None:
    door = make_door()
    async with door.http() as http:
        data = {"grant_type": "client_credentials", "resource": TIME, **form}
        reply = await http.post("/token", data=data, auth=auth)  # type: ignore[arg-type]
    assert (reply.status_code, reply.json()["error"]) == (401, "invalid_client")
    assert ("www-authenticate" in reply.headers) is (auth is not None)


async def test_as_21_the_registered_secret_works_once_form_decoded() -> None:
    secret = "p%: +"
    client = ClientSettings(
        "a:b",
        "B",
        auth_method="client_secret_basic",
        grant_types=("client_credentials",),
        tenant="acme",
        secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
    )
    door = make_door(clients=(client,))
    async with door.http() as http:
        data = {"grant_type": "client_credentials", "resource": TIME, "scope": "time:write git:read"}
        reply = await http.post("/token", data=data, auth=("a%3Ab", "p%25%3A+%2B"))
    assert reply.json()["scope"] == "time:write"


async def test_client_credentials_are_limited_to_the_client_and_the_resource() -> None:
    door = make_door()
    async with door.http() as http:
        reply = await client_credentials(http, assertion(door), resource=GIT, scope="git:read")
        assert reply.json()["error"] == "invalid_scope"
        reply = await client_credentials(http, assertion(door, jti="2"), resource="")
        assert reply.json()["error"] == "invalid_target"
        assert "parameter resource" in reply.json()["error_description"]
        other = await client_credentials(http, assertion(door, jti="3"), resource=TIME + "//")
        assert "not known" in other.json()["error_description"]
        assert "/mcp/time" not in reply.text  # which ones there are is no answer to a mistake


async def test_rs_03_keys_of_a_client_are_fetched_and_refetched_at_most_every_thirty_seconds() -> None:
    client = ClientSettings(
        "svc-batch",
        "Batch",
        auth_method="private_key_jwt",
        grant_types=("client_credentials",),
        tenant="acme",
        jwks_uri="https://svc.example/jwks.json",
    )
    door = make_door(clients=(client,))
    key = ECKey.generate_key("P-256", private=True)
    async with door.http() as http:
        assert (await client_credentials(http, assertion(door, key=key))).status_code == 401
        door.clock.advance(30)  # a failure is remembered as long as an unknown key is
        body = strict_json.dumps(public_jwks(key))
        door.fetcher.answers["https://svc.example/jwks.json"] = Fetched(200, {}, body)
        assert (await client_credentials(http, assertion(door, key=key))).status_code == 200
        door.fetcher.asked.clear()
        other = ECKey.generate_key("P-256", private=True)
        door.fetcher.answers["https://svc.example/jwks.json"] = Fetched(
            200, {}, strict_json.dumps(public_jwks(other, "c2"))
        )
        for number in range(20):
            reply = await client_credentials(http, assertion(door, key=key, jti=f"n{number}"))
            assert reply.status_code == 200
        assert door.fetcher.asked == []
        door.clock.advance(601)
        del door.fetcher.answers["https://svc.example/jwks.json"]
        assert (await client_credentials(http, assertion(door, key=key, jti="late"))).status_code == 200
        assert door.fetcher.asked == [(Purpose.JWKS, "https://svc.example/jwks.json")]


# -- revocation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["access", "refresh"])
async def test_revoking_either_token_ends_both(which: str) -> None:
    door = make_door()
    await door.user()
    first = await tokens(door)
    assert door.verified(first["access"])
    async with door.http() as http:
        reply = await http.post("/revoke", data={"token": first[which], "client_id": CIMD_URL})
        assert reply.status_code == 200
        assert (await refresh(http, first["refresh"])).status_code == 400
    with pytest.raises(Unauthenticated):
        door.verified(first["access"])


@pytest.mark.parametrize("token", ["x", "bzr_" + "A" * 43 + ".acme", "a.b.c"])
async def test_an_unknown_token_is_answered_like_a_known_one(token: str) -> None:
    door = make_door()
    async with door.http() as http:
        reply = await http.post("/revoke", data={"token": token, "client_id": CIMD_URL})
    assert (reply.status_code, reply.json()) == (200, {})


async def test_only_the_owning_client_can_revoke() -> None:
    door = make_door()
    await door.user()
    first = await tokens(door)
    async with door.http() as http:
        for token in first.values():
            await http.post("/revoke", data={"token": token, "client_id": "tool"})
        assert (await http.post("/revoke", data={"client_id": CIMD_URL})).status_code == 400
        assert (await http.post("/revoke", data={"token": "x", "client_id": "nobody"})).status_code == 401
        assert door.verified(first["access"])
        assert (await refresh(http, first["refresh"])).status_code == 200


# -- several workers -------------------------------------------------------------------------------------------


def worker(base: Door, store: Store, marks: SharedMarks) -> Door:
    identity = build_identity(
        base.identity.settings,
        store=store,
        marks=marks,
        clock=base.clock,
        ids=RandomIds(),
        fetcher=base.fetcher,
        signing_key=SERVER_KEY,
        record=lambda event, facts: base.events.append((event, facts)),
    )
    return Door(identity, base.clock, base.store, marks, base.fetcher, base.events)


@pytest.mark.parametrize("workers", [1, 4])
async def test_design_6b_2_a_revoked_grant_dies_in_every_worker_and_a_code_is_redeemed_in_one(
    workers: int, tmp_path: Path
) -> None:
    base = make_door()
    stores = [SQLiteStore(tmp_path / "state.db", clock=base.clock) for _ in range(workers)]
    marks = [SharedMarks(tmp_path, workers=workers) for _ in range(workers)]
    doors = [worker(base, store, mark) for store, mark in zip(stores, marks, strict=True)]
    try:
        await doors[0].user()
        async with doors[0].http() as http:
            code = (await Browser(http).code())["code"]
        async with doors[0].http() as http:
            body = (await redeem(http, code)).json()
        for door in doors:
            assert door.verified(body["access_token"])
        async with doors[-1].http() as http:
            assert (await redeem(http, code)).status_code == 400
        for door in doors:
            with pytest.raises(Unauthenticated):
                door.verified(body["access_token"])
    finally:
        for store, mark in zip(stores, marks, strict=True):
            store.close()
            mark.close()
