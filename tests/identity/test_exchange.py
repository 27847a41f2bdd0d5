"""Token exchange (RFC 8693): who may exchange what, and that it only ever becomes less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from firewall.core.errors import Unauthenticated
from firewall.core.label import label_of
from firewall.identity.rfc8693 import grant as exchange_grant
from firewall.identity.rfc8693 import narrowing
from firewall.identity.rfc8693.delegation import Delegation
from firewall.identity.settings import ClientSettings
from firewall.wire import oauth
from tests.support.chain import (
    ACCESS_TOKEN,
    BOOKER,
    EXCHANGE,
    PLANNER,
    SECRET,
    chain_door,
    claims_in,
    confidential,
    exchange,
    several,
    token_of,
    why,
)
from tests.support.door import CALLBACK, GIT, TIME, VERIFIER, Browser, Door, authorize_query, redeem, refresh
from tests.support.dpop import Holder

UNTRUSTED = label_of(["untrusted"])
SECRETS = label_of(["secret"])


async def people(door: Any) -> Any:
    return await door.user(scopes=("*",))


# -- what it gives ----------------------------------------------------------------------------------------


async def test_a_client_goes_on_as_itself_with_the_persons_token() -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        answer = await exchange(http, token_of(door, ada))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["issued_token_type"] == ACCESS_TOKEN
    assert body["token_type"] == "Bearer"
    assert body["scope"] == "time:read"
    assert "refresh_token" not in body
    assert answer.headers["cache-control"] == "no-store"
    claims = claims_in(body["access_token"])
    assert (claims["sub"], claims["client_id"], claims["aud"]) == (ada.subject, "planner", TIME)
    assert claims["act"] == {"sub": "planner", "act": {"sub": "desk"}}, "outermost is the current actor"
    assert (claims["gid"], claims["sid"], claims["hop"], claims["acr"]) == ("g_1", "s_1", 1, "pwd")
    principal = door.verified(body["access_token"])
    assert [(a.sub, a.type) for a in principal.chain] == [
        (ada.subject, "user"),
        ("desk", "agent"),
        ("planner", "agent"),
    ]
    assert door.named("identity.token.issued")[-1]["chain"] == ["desk", "planner"]


async def test_the_whole_chain_from_a_real_sign_in_to_the_third_hop() -> None:
    door = chain_door()
    await people(door)
    async with door.http() as http:
        query = authorize_query(client_id="desk", resource=PLANNER, scope="planner:send booker:send time:read")
        code = (await Browser(http).code(query))["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": "desk"}
        first = (await http.post("/token", data={**form, "code_verifier": VERIFIER})).json()
        second = (await exchange(http, first["access_token"], resource=BOOKER, scope="booker:send time:read")).json()
        third = (await exchange(http, second["access_token"], client="booker", scope="time:read")).json()
        principal = door.verified(third["access_token"])
        assert [a.sub for a in principal.chain[1:]] == ["desk", "planner", "booker"]
        one, two = claims_in(second["access_token"]), claims_in(third["access_token"])
        assert (one["hop"], two["hop"]) == (1, 2)
        assert one["txn"] == two["txn"]
        # The person ends what was given to the first client: the whole chain is over, at once.
        ended = await http.post("/revoke", data={"token": first["refresh_token"], "client_id": "desk"})
        assert ended.status_code == 200
        for token, resource in ((second["access_token"], BOOKER), (third["access_token"], TIME)):
            with pytest.raises(Unauthenticated):
                door.verified(token, resource)
        assert (await refresh(http, first["refresh_token"], client_id="desk")).status_code == 400


async def test_without_a_target_it_is_the_same_resource_with_less() -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        answer = await exchange(http, token_of(door, ada), resource="-", scope="planner:send")
        assert claims_in(answer.json()["access_token"])["aud"] == PLANNER
        both = await exchange(http, token_of(door, ada), audience=TIME, scope="-")
        assert claims_in(both.json()["access_token"])["scope"] == "time:read"


async def test_metadata_names_the_grant() -> None:
    door = chain_door()
    async with door.http() as http:
        metadata = (await http.get("/.well-known/oauth-authorization-server")).json()
    assert EXCHANGE in metadata["grant_types_supported"]
    assert "run" not in metadata["scopes_supported"], "nobody asks for a run by accident"


# -- TX-01 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["stranger", "booker"])
async def test_tx_01_a_token_for_another_resource_is_not_exchanged(client: str) -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        answer = await exchange(http, token_of(door, ada), client=client)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert why(door) == "exchange_not_allowed"


async def test_tx_01_who_may_not_exchange_a_token_is_told_that_and_nothing_about_the_token() -> None:
    """The twin is a request that is not well formed: it is told something else."""
    door = chain_door()
    ada = await people(door)
    live = token_of(door, ada)
    async with door.http() as http:
        told = [
            (await exchange(http, token, client="stranger")).json()["error_description"]
            for token in (live, token_of(door, ada, sub="u_gone"), live[:-4] + "AAAA", "no token")
        ]
        shape = (await exchange(http, live, subject_token_type="x")).json()["error_description"]
    assert len(set(told)) == 1
    assert "may not exchange it" in told[0]
    assert "may not exchange it" not in shape


async def test_tx_01_the_client_a_token_was_given_to_may_not_exchange_it_either() -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        assert (await exchange(http, token_of(door, ada, client_id="stranger", aud=TIME), client="stranger")).is_error
    assert why(door) == "exchange_not_allowed"


@pytest.mark.parametrize(
    ("may_act", "allowed"),
    [
        ({"sub": "stranger"}, True),
        ({"sub": "planner"}, False),
        ({"sub": "stranger", "iss": "https://other.example"}, False),
        ({"client_id": "stranger"}, False),
        ({"sub": ["stranger"]}, False),
        ("stranger", False),
        ([{"sub": "stranger"}], False),
        (None, False),
    ],
)
async def test_tx_01_may_act_must_name_the_client_and_nothing_else(may_act: Any, allowed: bool) -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        answer = await exchange(http, token_of(door, ada, may_act=may_act), client="stranger")
    assert answer.is_success == allowed


async def test_tx_01_the_operator_says_who_may_act_and_the_token_says_it_on() -> None:
    door = chain_door()
    await people(door)
    async with door.http() as http:
        code = (await Browser(http).code(authorize_query(client_id="lent")))["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": "lent"}
        first = (await http.post("/token", data={**form, "code_verifier": VERIFIER})).json()
        assert claims_in(first["access_token"])["may_act"] == {"sub": "conductor"}
        assert (await exchange(http, first["access_token"], client="conductor")).is_success
        assert (await exchange(http, first["access_token"], client="stranger")).is_error
        renewed = (await refresh(http, first["refresh_token"], client_id="lent")).json()
        assert claims_in(renewed["access_token"])["may_act"] == {"sub": "conductor"}


def nightly(tenant: str = "acme") -> ClientSettings:
    """A client that an operator registers by command under the name that the file lends to."""
    return replace(confidential("nightly"), tenant=tenant, secret_sha256="")


LENDING = ClientSettings(
    "lent", "A desk that lets go", redirect_uris=("http://127.0.0.1/callback",), tenant="acme", may_act="nightly"
)


async def lent(door: Door, http: httpx2.AsyncClient) -> str:
    """Return a token of a person for the client that lets the nightly one act."""
    code = (await Browser(http).code(authorize_query(client_id="lent")))["code"]
    return str((await redeem(http, code, client_id="lent")).json()["access_token"])


async def exchanged(http: httpx2.AsyncClient, token: str, secret: str) -> httpx2.Response:
    form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN, "scope": "time:read"}
    return await http.post("/token", data={**form, "resource": TIME}, auth=("nightly", secret))


async def test_tx_01_a_client_that_is_registered_by_command_may_act_from_then_on() -> None:
    door = chain_door(clients=(LENDING,))
    await people(door)
    async with door.http() as http:
        early = await lent(door, http)
        assert "may_act" not in claims_in(early)  # nobody has the name yet: no token is for whoever takes it
        made = door.identity.registered.add(nightly(), by="me")
        assert (await exchanged(http, early, made.secret)).is_error
        token = await lent(door, http)
        assert claims_in(token)["may_act"] == {"sub": "nightly"}
        assert (await exchanged(http, token, made.secret)).is_success
        door.identity.registered.remove("acme", "nightly", by="me")
        assert "may_act" not in claims_in(await lent(door, http))


@pytest.mark.parametrize("control", ["on", "off"])
async def test_tx_01_another_tenants_client_of_that_name_may_not(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if control == "off":
        monkeypatch.setattr(Delegation, "is_there", lambda *_: True)
    door = chain_door(clients=(LENDING,))
    await people(door)
    door.identity.registered.add(nightly("beta"), by="eve")
    async with door.http() as http:
        assert ("may_act" in claims_in(await lent(door, http))) is (control == "off")


async def test_tx_01_twin_without_the_check_a_stranger_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrowing, "check_may_exchange", lambda *_a: None)
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        assert (await exchange(http, token_of(door, ada), client="stranger")).is_success


# -- TX-02 ------------------------------------------------------------------------------------------------


async def test_tx_02_no_scope_beyond_the_subject_tokens() -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        for scope in ("time:write", "time:read time:write", "git:read"):
            answer = await exchange(http, token_of(door, ada), scope=scope)
            assert answer.json()["error"] == "invalid_scope"
        assert (await exchange(http, token_of(door, ada), resource=GIT, scope="-")).json()["error"] == "invalid_scope"


async def test_tx_02_twin_without_the_check_a_scope_is_won(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth, "check_not_wider", lambda *_a: None)
    monkeypatch.setattr(
        narrowing, "narrowed", lambda _given, wanted, target, allowed: oauth.intersect(wanted, target, *allowed)
    )
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        assert (await exchange(http, token_of(door, ada), scope="time:write")).json()["scope"] == "time:write"


@pytest.mark.parametrize("left_s", [1, 40, 299, 300, 3600])
async def test_tx_02_it_ends_no_later_than_the_subject_token(left_s: int) -> None:
    door = chain_door()
    ada = await people(door)
    now_s = door.clock.now_us() // 1_000_000
    async with door.http() as http:
        body = (await exchange(http, token_of(door, ada, exp=now_s + left_s))).json()
    assert body["expires_in"] == min(left_s, 300)
    assert claims_in(body["access_token"])["exp"] == now_s + min(left_s, 300)


async def test_tx_02_twin_without_the_bound_a_token_outlives_the_one_it_came_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    issue = exchange_grant.ExchangeGrant.issue
    monkeypatch.setattr(
        exchange_grant.ExchangeGrant, "issue", lambda self, facts, *, until_s, **more: issue(self, facts, **more)
    )
    door = chain_door()
    ada = await people(door)
    now_s = door.clock.now_us() // 1_000_000
    async with door.http() as http:
        body = (await exchange(http, token_of(door, ada, exp=now_s + 40))).json()
    assert claims_in(body["access_token"])["exp"] == now_s + 300


async def test_tx_02_twin_without_the_thread_a_transaction_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is exchanged then counts as the first hop of something new: the chain has no end."""
    issue = exchange_grant.ExchangeGrant.issue
    monkeypatch.setattr(
        exchange_grant.ExchangeGrant,
        "issue",
        lambda self, facts, **more: issue(self, replace(facts, txn=self.parts.ids.new("txn"), hop=1), **more),
    )
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        held = token_of(door, ada, scope="planner:send", txn="txn_1", hop=3)
        for _ in range(9):
            held = (await exchange(http, held, resource=PLANNER, scope="-")).json()["access_token"]
        claims = claims_in(held)
    assert (claims["txn"] == "txn_1", claims["hop"]) == (False, 1)


async def test_tx_02_it_ends_no_later_than_the_actor_token() -> None:
    door = chain_door()
    ada = await people(door)
    now_s = door.clock.now_us() // 1_000_000
    own = {"sub": "planner", "client_id": "planner", "sub_type": "service", "aud": TIME, "exp": now_s + 20}
    async with door.http() as http:
        more = {"actor_token": token_of(door, ada, **own), "actor_token_type": ACCESS_TOKEN}
        assert (await exchange(http, token_of(door, ada), **more)).json()["expires_in"] == 20


async def test_tx_02_the_transaction_stays_and_the_hops_are_counted_to_an_end() -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        held = token_of(door, ada, scope="planner:send", txn="txn_1", hop=3)
        first = (await exchange(http, held, resource=PLANNER, scope="-")).json()["access_token"]
        assert (claims_in(first)["txn"], claims_in(first)["hop"]) == ("txn_1", 4)
        hops, token = 4, first
        while (answer := await exchange(http, token, resource=PLANNER, scope="-")).is_success:
            token, hops = answer.json()["access_token"], hops + 1
            assert claims_in(token)["hop"] == hops
    assert hops == 7
    assert why(door) == "chain_long"


async def test_tx_02_a_chain_has_an_end_and_goes_round_nowhere() -> None:
    names = [f"agent-{n}" for n in range(9)]
    door = chain_door(clients=(*(confidential(name, resource="/a2a/planner") for name in names), confidential("desk")))
    ada = await people(door)
    async with door.http() as http:
        token = token_of(door, ada, scope="planner:send")
        for number, name in enumerate(names):
            answer = await exchange(http, token, client=name, resource=PLANNER, scope="-")
            if number == 6:
                break
            token = answer.json()["access_token"]
            assert len(door.verified(token, PLANNER).chain) == number + 3
        assert answer.is_error
        assert why(door) == "chain_long"
        assert (await exchange(http, token, client="agent-2", resource=PLANNER, scope="-")).is_error
        assert why(door) in ("chain_loop", "chain_long")
        early = token_of(
            door, ada, scope="planner:send", client_id="agent-1", act={"sub": "agent-1", "act": {"sub": "agent-0"}}
        )
        assert (await exchange(http, early, client="agent-0", resource=PLANNER, scope="-")).is_error
        assert why(door) == "chain_loop"


async def test_tx_02_twin_without_the_cap_the_chain_grows_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrowing, "ACTOR_CHAIN", 100)
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        held = token_of(door, ada, scope="planner:send", hop=9)
        assert (await exchange(http, held, resource=PLANNER, scope="-")).is_success


# -- the subject token is judged as at a resource ---------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exp": 1_790_000_000}, "jwt_claims"),
        ({"iss": "https://other.example"}, "jwt_claims"),
        ({"aud": "https://fw.example/mcp/nothing"}, "jwt_claims"),
        ({"aud": [PLANNER]}, "jwt_claims"),
        ({"gid": None}, "jwt_claims"),
        ({"tenant": "acme/../beta"}, "jwt_claims"),
        ({"hop": -1}, "jwt_claims"),
        ({"hop": True}, "jwt_claims"),
        ({"hop": "1"}, "jwt_claims"),
        ({"cnf": {"jkt": "A" * 43}}, "subject_proof"),
        ({"cnf": {"x5t#S256": "A" * 43}}, "jwt_claims"),
        ({"sub_type": "local", "sub": "local:uid:0", "client_id": "bartizan-cli"}, "chain_gone"),
        ({"sub": "u_nobody"}, "subject_gone"),
        ({"client_id": "nobody"}, "chain_gone"),
        ({"act": {"sub": "nobody"}, "client_id": "desk"}, "chain_gone"),
        ({"act": {"sub": ""}}, "actor_chain_shape"),
        ({"run": "run_forever"}, "jwt_claims"),
    ],
)
async def test_rs_07_to_10_what_no_resource_would_accept_is_not_exchanged(changes: dict[str, Any], code: str) -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        answer = await exchange(http, token_of(door, ada, **changes))
        assert answer.json()["error"] == "invalid_request"
        assert why(door) == code
        assert (await exchange(http, token_of(door, ada))).is_success, "the twin"


async def test_rs_01_and_07_other_kinds_of_jwt_are_not_exchanged() -> None:
    door = chain_door()
    ada = await people(door)
    good = token_of(door, ada)
    async with door.http() as http:
        for token in ("", "x", good + "A", good[:-8], "..", "e30.e30.", good.replace(".", "..", 1)):
            assert (await exchange(http, token)).json()["error"] == "invalid_request"
        assert (await exchange(http, good)).is_success


async def test_a_disabled_person_and_an_ended_session_or_client_are_over() -> None:
    door = chain_door()
    ada = await people(door)
    grants = door.identity.grants
    async with door.http() as http:
        for end in ("client/desk", "client/planner-of-before", "session/s_1"):
            token = token_of(door, ada)
            grants.standing.end("acme", end)
            answer = await exchange(http, token)
            assert answer.is_success == (end == "client/planner-of-before")
            door.clock.advance(2)
        fresh = (await exchange(http, token_of(door, ada, client_id="desk", sid="s_2"))).json()["access_token"]
        assert door.verified(fresh)
        # Ended after the exchange: the first client of the chain ends what the next one got.
        grants.standing.end("acme", "client/desk")
        with pytest.raises(Unauthenticated):
            door.verified(fresh)
        door.clock.advance(2)
        door.identity.users.update("acme", ada.subject, roles=(), scopes=("*",), disabled=True)
        assert (await exchange(http, token_of(door, ada))).is_error


async def test_revoking_an_exchanged_token_ends_that_transaction_and_not_the_persons_grant() -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        first = token_of(door, ada, scope="planner:send booker:send time:read")
        second = (await exchange(http, first, resource=BOOKER, scope="-")).json()["access_token"]
        third = (await exchange(http, second, client="booker")).json()["access_token"]
        sibling = (await exchange(http, first)).json()["access_token"]
        await http.post("/revoke", data={"token": second}, auth=("booker", SECRET))
        assert door.verified(second, BOOKER), "a stranger ends nothing"
        await http.post("/revoke", data={"token": second}, auth=("planner", SECRET))
        for token, resource in ((second, BOOKER), (third, TIME)):
            with pytest.raises(Unauthenticated):
                door.verified(token, resource)
        assert door.verified(first, PLANNER)
        assert door.verified(sibling)
        assert (await exchange(http, second, client="booker")).is_error


# -- who asks ---------------------------------------------------------------------------------------------


async def test_as_21_a_public_client_and_one_without_the_grant_exchange_nothing() -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        for client in ("open", "unasked"):
            answer = await exchange(http, token_of(door, ada), client=client)
            assert answer.json()["error"] == "unauthorized_client"


async def test_as_23_a_client_of_another_tenant_exchanges_nothing() -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        assert (await exchange(http, token_of(door, ada), client="elsewhere")).is_error
    assert why(door) == "exchange_tenant"


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "planner", "client_id": "stranger", "sub_type": "service"},
        {"sub": "stranger", "client_id": "stranger", "sub_type": "service"},
        {"client_id": "planner"},
        {"sub": "planner", "client_id": "planner", "sub_type": "service", "act": {"sub": "desk"}},
        {"sub": "planner", "client_id": "planner", "sub_type": "service", "tenant": "beta"},
    ],
)
async def test_an_actor_token_must_be_the_clients_own(changes: dict[str, Any]) -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        actor = token_of(door, ada, **{"aud": TIME, **changes})
        answer = await exchange(http, token_of(door, ada), actor_token=actor, actor_token_type=ACCESS_TOKEN)
    assert answer.json()["error"] == "invalid_request"
    assert why(door) == "actor_foreign"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"subject_token_type": "-"}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"),
        ({"subject_token": "-"}, "invalid_request"),
        ({"actor_token": "x"}, "invalid_request"),
        ({"actor_token_type": ACCESS_TOKEN}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:id-jag"}, "invalid_request"),
        ({"resource": "https://fw.example/mcp/nothing"}, "invalid_target"),
        ({"resource": "https://fw.example"}, "invalid_target"),
        ({"resource": TIME + "//"}, "invalid_target"),
        ({"audience": GIT}, "invalid_target"),
        ({"scope": "time:read  time:write"}, "invalid_scope"),
    ],
)
async def test_as_06_and_07_a_request_that_is_not_exactly_right_is_refused(changes: dict[str, str], error: str) -> None:
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        assert (await exchange(http, token_of(door, ada), **changes)).json()["error"] == error


async def test_as_07_a_repeated_parameter_is_refused() -> None:
    door = chain_door()
    ada = await people(door)
    body = f"grant_type={EXCHANGE}&subject_token={token_of(door, ada)}&subject_token_type={ACCESS_TOKEN}"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with door.http() as http:
        good = await http.post("/token", content=f"{body}&resource={TIME}", headers=headers, auth=("planner", SECRET))
        assert good.is_success
        for name, error in (
            (f"resource={TIME}&resource={GIT}", "invalid_target"),
            (f"audience={TIME}&audience={TIME}", "invalid_request"),
            ("scope=a&scope=b", "invalid_request"),
        ):
            bad = await http.post("/token", content=f"{body}&{name}", headers=headers, auth=("planner", SECRET))
            assert bad.json()["error"] == error


# -- DESIGN §6b-6: an intersection over the whole chain ---------------------------------------------------


async def test_design_6b_6_every_client_of_the_chain_must_be_allowed() -> None:
    everything = "planner:send time:read time:write"
    door = chain_door()
    ada = await people(door)
    async with door.http() as http:
        wide = await exchange(http, token_of(door, ada, scope=everything), scope="-")
        assert wide.json()["scope"] == "time:read time:write"
        own = await exchange(http, token_of(door, ada, scope=everything), client="narrow", scope="-")
        assert own.json()["scope"] == "time:read"
        behind = token_of(door, ada, scope=everything, client_id="narrow", act={"sub": "narrow"})
        assert (await exchange(http, behind, scope="-")).json()["scope"] == "time:read"
        deep = token_of(door, ada, scope=everything, client_id="desk", act={"sub": "desk", "act": {"sub": "narrow"}})
        assert (await exchange(http, deep, scope="-")).json()["scope"] == "time:read"


async def test_design_6b_6_what_the_person_lost_is_lost_to_the_chain() -> None:
    door = chain_door()
    ada = await door.user(scopes=("planner:send", "time:read"))
    async with door.http() as http:
        answer = await exchange(http, token_of(door, ada, scope="planner:send time:read time:write"), scope="-")
    assert answer.json()["scope"] == "time:read"


async def test_details_that_were_agreed_for_one_resource_do_not_leave_it() -> None:
    door = chain_door()
    ada = await people(door)
    details = [{"type": "mcp_tool", "locations": [PLANNER], "actions": ["call"], "tools": ["x"]}]
    async with door.http() as http:
        held = token_of(door, ada, authorization_details=details)
        assert (await exchange(http, held)).json()["error"] == "invalid_target"
        same = await exchange(http, held, resource=PLANNER, scope="planner:send")
        assert claims_in(same.json()["access_token"])["authorization_details"] == details


async def test_op_05_no_token_in_events() -> None:
    door = chain_door()
    ada = await people(door)
    held = token_of(door, ada)
    async with door.http() as http:
        given = (await exchange(http, held)).json()["access_token"]
        await exchange(http, held, client="stranger")
    assert held not in repr(door.events)
    assert given not in repr(door.events)


# -- labels go along (DESIGN §6b-1) ----------------------------------------------------------------------


async def test_design_6b_1_a_chain_cannot_be_used_to_shed_labels() -> None:
    door = chain_door()
    ada = await people(door)
    assert door.labels is not None
    async with door.http() as http:
        held = token_of(door, ada)
        door.labels.raise_(door.verified(held, PLANNER), UNTRUSTED)
        taken = door.verified((await exchange(http, held)).json()["access_token"])
        assert taken.key != door.verified(held, PLANNER).key
        assert door.labels.current(taken) == UNTRUSTED


async def test_design_6b_1_twin_without_handing_on_the_next_client_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_grant.ExchangeGrant, "_hand_on_labels", lambda *_a: None)
    door = chain_door()
    ada = await people(door)
    assert door.labels is not None
    async with door.http() as http:
        held = token_of(door, ada)
        door.labels.raise_(door.verified(held, PLANNER), UNTRUSTED)
        assert door.labels.current(door.verified((await exchange(http, held)).json()["access_token"])) == 0


async def test_a_scope_given_along_ends_with_the_upstream_that_it_is_of() -> None:
    door = chain_door()
    await people(door)
    async with door.http() as http:
        query = authorize_query(client_id="desk", resource=PLANNER, scope="planner:send time:read")
        code = (await Browser(http).code(query))["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "client_id": "desk"}
        held = (await http.post("/token", data={**form, "code_verifier": VERIFIER})).json()["access_token"]
        taken = (await exchange(http, held)).json()["access_token"]
        door.identity.grants.standing.end_upstream("acme", "mcp", "git")
        assert door.verified(taken)
        door.identity.grants.standing.end_upstream("acme", "mcp", "time")
        for token, resource in ((held, PLANNER), (taken, TIME)):
            with pytest.raises(Unauthenticated):
                door.verified(token, resource)
        assert (await exchange(http, held)).is_error


# -- tokens bound to a key (RS-13) ------------------------------------------------------------------------


async def bound_exchange(door: Any, http: Any, held: str, key: Holder | None) -> Any:
    form = {
        "grant_type": EXCHANGE,
        "subject_token": held,
        "subject_token_type": ACCESS_TOKEN,
        "resource": TIME,
        "scope": "time:read",
    }
    now_s = door.clock.now_us() // 1_000_000
    headers = {"DPoP": key.proof("POST", f"{door.origin}/token", now_s=now_s)} if key else {}
    return await http.post("/token", data=form, headers=headers, auth=("planner", SECRET))


async def test_rs_13_a_bound_token_is_exchanged_with_its_key_and_stays_bound() -> None:
    door = chain_door()
    ada = await people(door)
    key, other = Holder(), Holder()
    held = token_of(door, ada, cnf={"jkt": key.thumbprint})
    async with door.http() as http:
        for wrong in (None, other):
            assert (await bound_exchange(door, http, held, wrong)).json()["error"] == "invalid_request"
            assert why(door) == "subject_proof"
        body = (await bound_exchange(door, http, held, key)).json()
        assert body["token_type"] == "DPoP"
        assert claims_in(body["access_token"])["cnf"] == {"jkt": key.thumbprint}
        plain = (await bound_exchange(door, http, token_of(door, ada), other)).json()
        assert claims_in(plain["access_token"])["cnf"] == {"jkt": other.thumbprint}


# -- several workers (DESIGN §6b-2) -----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
async def test_design_6b_2_the_end_of_a_grant_ends_exchanged_tokens_in_every_worker(
    workers: int, tmp_path: Path
) -> None:
    with several(chain_door(), workers, tmp_path) as doors:
        ada = await people(doors[0])
        async with doors[0].http() as http:
            taken = (await exchange(http, token_of(doors[0], ada))).json()["access_token"]
        assert all(door.verified(taken) for door in doors)
        doors[-1].identity.grants.revoke("acme", ada.subject, "g_1", reason="test")
        for door in doors:
            with pytest.raises(Unauthenticated):
                door.verified(taken)
            async with door.http() as http:
                assert (await exchange(http, token_of(door, ada))).is_error


@pytest.mark.parametrize("workers", [1, 4])
async def test_design_6b_1_labels_go_along_from_one_worker_to_another(workers: int, tmp_path: Path) -> None:
    with several(chain_door(), workers, tmp_path) as doors:
        ada = await people(doors[0])
        first, last = doors[0], doors[-1]
        assert first.labels is not None
        assert last.labels is not None
        held = token_of(first, ada)
        first.labels.raise_(first.verified(held, PLANNER), UNTRUSTED)
        async with last.http() as http:
            taken = (await exchange(http, held)).json()["access_token"]
        for door in doors:
            assert door.labels is not None
            assert door.labels.current(door.verified(taken)) == UNTRUSTED
