"""AS-04…AS-07, AS-11, AS-12, AS-21, AS-23, AS-24: codes and refresh tokens under attack, in the real store, in several workers at once."""

from __future__ import annotations

import string
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Barrier, local

import httpx2
import pytest

from firewall.identity.oauth21 import refresh as refresh_module
from firewall.identity.oauth21.codes import CodeFacts
from firewall.state import contention
from firewall.state.memory import MemoryCollection
from firewall.state.sqlite import SQLiteCollection, SQLiteStore
from firewall.wire import jwt
from tests.support.door import (
    CIMD_URL,
    GIT,
    TIME,
    VERIFIER,
    Browser,
    Door,
    authorize_query,
    callback_of,
    challenge_of,
    inputs_of,
    make_door,
    redeem,
    refresh,
)
from tests.support.racing import EACH, WORKERS, Node, first_tokens, nothing_works


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(contention, "LOOP_S", contention.THREAD_S)  # who races here shares a machine with many others
    return Node(tmp_path)


# -- AS-04, AS-05: PKCE ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"code_challenge": "-"},
        {"code_challenge": "-", "code_challenge_method": "-"},
        {"code_challenge_method": "-"},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "s256"},
        {"code_challenge_method": "S256 "},
        {"code_challenge_method": "S512"},
        {"code_challenge": "A" * 42},
        {"code_challenge": "A" * 44},
        {"code_challenge": "A" * 42 + "="},
        {"code_challenge": "A" * 42 + "."},
        {"code_challenge": VERIFIER, "code_challenge_method": "plain"},
    ],
)
@pytest.mark.parametrize("client_id", [CIMD_URL, "tool"])
async def test_as_04_every_downgrade_of_the_challenge_is_refused(changes: dict[str, str], client_id: str) -> None:
    door = make_door()
    async with door.http() as http:
        answer = callback_of(await Browser(http).open(authorize_query(client_id=client_id, **changes)))
    assert answer["error"] == "invalid_request"
    assert "code" not in answer


@pytest.mark.parametrize("name", ["code_challenge", "code_challenge_method"])
async def test_as_04_a_repeated_challenge_is_refused(name: str) -> None:
    door = make_door()
    async with door.http() as http:
        query = httpx2.QueryParams([*authorize_query().items(), (name, authorize_query()[name])])
        answer = callback_of(await http.get(f"/authorize?{query}", headers={"Sec-Fetch-Site": "none"}))
    assert answer["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("challenge", "verifier", "good"),
    [
        (challenge_of(VERIFIER), VERIFIER, True),
        (challenge_of(VERIFIER), "", False),
        (challenge_of(VERIFIER), challenge_of(VERIFIER), False),
        (challenge_of(VERIFIER), VERIFIER + "v", False),
        ("", VERIFIER, False),
        ("", "", False),
        (VERIFIER, VERIFIER, False),
    ],
)
async def test_as_05_challenge_and_verifier_come_as_a_pair_or_not_at_all(
    challenge: str, verifier: str, good: bool
) -> None:
    door = make_door()
    user = await door.user()
    parts = door.identity.front_door._routes["/token"]["POST"].__self__._parts  # type: ignore[attr-defined]
    facts = CodeFacts(
        "acme", user.subject, "tool", "Tool", "https://tool.example/cb", challenge, TIME, ("time:read",), "g_1", "s", 0, "pwd"
    )  # fmt: skip
    facts = replace(facts, standing=parts.grants.standing.of("acme", user.subject, TIME, ("time:read",)))
    form = {"client_id": "tool", "redirect_uri": "-", "code_verifier": verifier or "-"}
    async with door.http() as http:
        assert (await redeem(http, parts.codes.issue(facts), **form)).status_code == (200 if good else 400)


# -- AS-06: resources -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "resource",
    ["-", TIME + "//", TIME + "/x", TIME.upper(), "https://other.example/mcp/time", TIME + "#x", TIME + "?x#y"],
)
async def test_as_06_exactly_one_known_resource_may_be_asked_for(resource: str) -> None:
    door = make_door()
    async with door.http() as http:
        answer = callback_of(await Browser(http).open(authorize_query(resource=resource)))
    assert answer["error"] == "invalid_target"


@pytest.mark.parametrize("spelling", [TIME + "/", TIME.replace("fw.example", "FW.Example"), TIME + "?x=1", TIME])
async def test_as_06_a_client_that_writes_a_slash_capitals_or_a_query_gets_a_token_for_our_own_spelling(
    spelling: str,
) -> None:
    """Real clients do (oauth reference section 13, 3 and 4): at /authorize, and again at /token, for the code and for its renewal."""
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code(authorize_query(resource=spelling)))["code"]
        body = (await redeem(http, code, resource=spelling)).json()
        assert door.verified(body["access_token"], TIME).audience == TIME
        again = (await refresh(http, body["refresh_token"], resource=spelling)).json()
        assert door.verified(again["access_token"], TIME).audience == TIME
        assert (await refresh(http, again["refresh_token"], resource=GIT + "/")).json()["error"] == "invalid_target"


async def test_as_06_two_resources_are_one_too_many() -> None:
    door = make_door()
    async with door.http() as http:
        query = httpx2.QueryParams([*authorize_query().items(), ("resource", GIT)])
        answer = callback_of(await http.get(f"/authorize?{query}"))
    assert answer["error"] == "invalid_target"


async def test_as_06_the_single_resource_of_a_node_is_meant_when_none_is_named() -> None:
    door = make_door(resources=make_door().identity.settings.resources[:1])
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code(authorize_query(resource="-")))["code"]
        body = (await redeem(http, code, resource="-")).json()
    assert door.verified(body["access_token"], TIME)


# -- AS-07, AS-08 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scope", "state", "prompt", "code_challenge", "nonce"])
async def test_as_07_as_08_a_repeated_parameter_is_told_by_redirect_with_state_and_iss(name: str) -> None:
    door = make_door()
    async with door.http() as http:
        query = httpx2.QueryParams([*authorize_query().items(), (name, "a"), (name, "b")])
        answer = callback_of(await http.get(f"/authorize?{query}"))
    assert answer["error"] == "invalid_request"
    assert answer["iss"] == door.origin


async def test_as_07_an_unknown_parameter_is_ignored() -> None:
    door = make_door()
    async with door.http() as http:
        assert (await Browser(http).open({**authorize_query(), "audience": "x", "nonce": "y"})).status_code == 200


# -- AS-11, AS-12: refresh tokens -------------------------------------------------------------------------------


def test_as_11_concurrent_refreshes_in_four_workers_give_one_successor(node: Node) -> None:
    first = node.in_one(first_tokens)["refresh_token"]
    answers = node.at_once(lambda http: refresh(http, first))
    assert {status for status, _ in answers} == {200}
    assert len({body["refresh_token"] for _, body in answers}) == 1

    async def after(door: Door) -> dict[str, str]:
        async with door.http() as http:
            body: dict[str, str] = (await refresh(http, answers[0][1]["refresh_token"])).json()
            return body

    assert node.in_one(after)["refresh_token"] not in (first, answers[0][1]["refresh_token"])


@pytest.mark.parametrize("claimed", [True, False])
def test_as_11_workers_that_read_the_token_at_the_same_moment_agree_by_the_claim(
    node: Node, monkeypatch: pytest.MonkeyPatch, claimed: bool
) -> None:
    """Every worker has read the unused token before any writes; the twin writes without asking what it replaces."""
    met, seen, seal, put = Barrier(WORKERS), local(), refresh_module._seal, SQLiteCollection.put

    def together(*given: object) -> str:
        if not hasattr(seen, "once"):
            seen.once = True
            met.wait(10)
        return seal(*given)  # type: ignore[arg-type]

    def careless(self: SQLiteCollection, tenant: str, key: str, value: bytes, **more: int) -> int:
        return put(self, tenant, key, value, expires_us=more.get("expires_us", 0))

    monkeypatch.setattr(refresh_module, "_seal", together)
    if not claimed:
        monkeypatch.setattr(SQLiteCollection, "put", careless)
    first = node.in_one(first_tokens)["refresh_token"]
    answers = node.at_once(lambda http: refresh(http, first))
    successors = {body["refresh_token"] for status, body in answers if status == 200}
    assert (len(successors) == 1) is claimed


async def test_as_11_a_repeat_in_the_moment_of_the_claim_finds_the_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    door = make_door()
    first = (await first_tokens(door))["refresh_token"]
    tokens = door.identity.front_door._routes["/token"]["POST"].__self__._parts.refresh  # type: ignore[attr-defined]
    met: list[str] = []
    put = MemoryCollection.put

    def claimed(self: MemoryCollection, tenant: str, key: str, value: bytes, **more: int) -> int:
        version = put(self, tenant, key, value, **more)
        if b'"successor":"' in value and not met:
            met.append(tokens.rotate(first))
            tokens.find(met[0], CIMD_URL)
        return version

    monkeypatch.setattr(MemoryCollection, "put", claimed)
    async with door.http() as http:
        assert (await refresh(http, first)).json()["refresh_token"] == met[0]
    assert len(list(door.store.collection("oauth_refresh").scan("acme"))) == 2


def test_as_11_who_loses_the_claim_leaves_no_token_behind(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    met, seen, seal = Barrier(WORKERS), local(), refresh_module._seal

    def together(*given: object) -> str:
        if not hasattr(seen, "once"):
            seen.once = True
            met.wait(10)
        return seal(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(refresh_module, "_seal", together)
    first = node.in_one(first_tokens)["refresh_token"]
    node.at_once(lambda http: refresh(http, first))
    with closing(SQLiteStore(node.directory / "state.db", clock=node.base.clock)) as store:
        assert len(list(store.collection("oauth_refresh").scan("acme"))) == 2


async def test_as_11_the_successor_is_kept_sealed_under_the_old_token_alone() -> None:
    door = make_door()
    first = (await first_tokens(door))["refresh_token"]
    async with door.http() as http:
        second = (await refresh(http, first)).json()["refresh_token"]
    kept = list(door.store.collection("oauth_refresh").scan("acme"))
    assert len(kept) == 2
    for entry in kept:
        for secret in (first, second):
            assert secret.encode() not in entry.value
            assert secret[4:40].encode() not in entry.value


async def test_as_11_a_late_repeat_ends_the_newest_token_of_the_family_too() -> None:
    door = make_door()
    chain = [(await first_tokens(door))["refresh_token"]]
    async with door.http() as http:
        for _ in range(3):
            chain.append((await refresh(http, chain[-1])).json()["refresh_token"])
            door.clock.advance(1)
        door.clock.advance(30)
        assert (await refresh(http, chain[1])).json()["error"] == "invalid_grant"
        assert (await refresh(http, chain[-1])).json()["error"] == "invalid_grant"
    assert [facts["reason"] for facts in door.named("identity.grant.revoked")] == ["refresh_reused"]


def test_as_11_a_late_repeat_races_the_newest_token_in_four_workers_and_nothing_is_left(node: Node) -> None:
    """Whoever is answered meanwhile holds tokens of a grant that is over."""
    first = node.in_one(first_tokens)["refresh_token"]

    async def once(door: Door) -> dict[str, str]:
        async with door.http() as http:
            body: dict[str, str] = (await refresh(http, first)).json()
            return body

    second = node.in_one(once)
    newest = second["refresh_token"]
    node.base.clock.advance(31)
    turn = count()
    answers = node.at_once(lambda http: refresh(http, newest if next(turn) % 4 == 0 else first))
    assert {status for status, _ in answers} <= {200, 400}
    assert [status for status, _ in answers].count(400) >= EACH * WORKERS * 3 // 4
    for body in [body for status, body in answers if status == 200]:
        assert node.in_one(partial(nothing_works, won=body))["error"] == "invalid_grant"
    assert node.in_one(partial(nothing_works, won=second))["error"] == "invalid_grant"


async def test_as_11_another_client_within_the_grace_gets_no_successor() -> None:
    door = make_door()
    first = (await first_tokens(door))["refresh_token"]
    async with door.http() as http:
        second = (await refresh(http, first)).json()["refresh_token"]
        reply = await refresh(http, first, client_id="tool")
        assert (reply.json()["error"], second in reply.text) == ("invalid_grant", False)
        assert (await refresh(http, first)).json()["refresh_token"] == second


async def test_as_12_a_refresh_token_ends_with_the_consent() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        body = (await redeem(http, (await browser.code())["code"])).json()
        page = await browser.get("/account/grants")
        form = next(form for form in page.text.split("<form")[1:] if 'action="/account/grants"' in form)
        ended = await browser.post("/account/grants", inputs_of("<form" + form))
        assert ended.status_code == 303
        assert (await refresh(http, body["refresh_token"])).json()["error"] == "invalid_grant"


async def test_as_12_a_refresh_token_ends_with_the_password() -> None:
    door = make_door()
    user = await door.user()
    async with door.http() as http:
        body = (await redeem(http, (await Browser(http).code())["code"])).json()
        await door.identity.users.set_password("acme", user.subject, "a whole new horse battery")
        assert (await refresh(http, body["refresh_token"])).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("scope", ["time:write", "time:read time:write", "time:*", "*", "git:read", "TIME:READ"])
async def test_as_12_no_scope_that_was_not_given_comes_by_refreshing(scope: str) -> None:
    door = make_door()
    first = (await first_tokens(door))["refresh_token"]
    async with door.http() as http:
        assert (await refresh(http, first, scope=scope)).json()["error"] == "invalid_scope"
        # What was refused has used nothing up.
        assert (await refresh(http, first, scope="time:read offline_access")).status_code == 200


# -- AS-21 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Basic", "Bearer", "Digest"])
async def test_as_21_an_authorization_header_is_credentials_and_is_never_overlooked(method: str) -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        form = {"grant_type": "authorization_code", "code": code, "client_id": CIMD_URL, "code_verifier": VERIFIER}
        reply = await http.post("/token", data=form, headers={"Authorization": f"{method} eDp5"})
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, 'Basic realm="token"')
        # Nobody who is not the client has used the code up.
        assert (await redeem(http, code)).status_code == 200


# -- AS-23, AS-24 --------------------------------------------------------------------------------------------------


async def test_as_23_a_code_or_refresh_token_leads_nowhere_under_another_tenants_name() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        assert code.endswith(".acme")
        for other in (code.removesuffix("acme") + "umbrella", code.removesuffix(".acme"), code + "x"):
            assert (await redeem(http, other)).json()["error"] == "invalid_grant"
        body = (await redeem(http, code)).json()
        moved = body["refresh_token"].removesuffix("acme") + "umbrella"
        assert (await refresh(http, moved)).json()["error"] == "invalid_grant"
        assert (await refresh(http, body["refresh_token"])).status_code == 200


async def test_as_23_what_one_tenant_keeps_is_not_there_for_another() -> None:
    door = make_door()
    await first_tokens(door)
    for name in ("oauth_codes", "oauth_codes_issued", "oauth_refresh", "oauth_grants", "users"):
        collection = door.store.collection(name)
        assert list(collection.scan("umbrella")) == [], name
    assert list(door.store.collection("oauth_refresh").scan("acme"))


async def test_as_24_secrets_have_256_bits_and_ids_at_least_128_and_none_repeats() -> None:
    door = make_door()
    await door.user()
    seen: dict[str, list[str]] = {name: [] for name in ("code", "refresh_token", "jti", "gid", "sid")}
    alphabet = set(string.ascii_letters + string.digits + "-_")
    rounds = 8
    async with door.http() as one:
        for _ in range(rounds):
            code = (await Browser(one).code())["code"]
            body = (await redeem(one, code)).json()
            claims = jwt.parse_compact(body["access_token"].encode()).claims
            for name, text in (("code", code), ("refresh_token", body["refresh_token"])):
                secret = text.partition("_")[2].partition(".")[0]
                assert len(secret) == 43
                assert set(secret) <= alphabet
                seen[name].append(secret)
            for name in ("jti", "gid"):
                # 26 characters of Crockford's base32 are 130 bits.
                assert len(str(claims[name]).partition("_")[2]) == 26
                seen[name].append(str(claims[name]))
            seen["sid"].append(str(claims["sid"]))
    for name in ("code", "refresh_token", "jti", "gid"):
        assert len(set(seen[name])) == rounds, name
        assert seen[name] not in (sorted(seen[name]), sorted(seen[name], reverse=True)), "in the order of their making"
    assert all(len(sid.partition("_")[2]) == 26 for sid in seen["sid"])


async def test_as_24_no_url_carries_an_id_but_codes_and_names_of_transactions() -> None:
    door = make_door()
    await door.user()
    urls: list[str] = []
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        urls.append(str(page.url))
        page = await browser.sign_in(page)
        urls.append(str(page.url))
        final = await browser.approve(page)
        urls.append(final.headers["location"])
        body = (await redeem(http, callback_of(final)["code"])).json()
        urls.append(str((await browser.get("/account/grants")).url))
    claims = jwt.parse_compact(body["access_token"].encode()).claims
    for url in urls:
        for name in ("sid", "gid", "jti", "sub"):
            assert str(claims[name]) not in url
        for cookie in http.cookies.values():
            assert cookie not in url
