"""Runs: a clean context begins with a person's own fresh sign-in, or at an orchestrator; nowhere else (DESIGN §6b-1)."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from firewall.core.errors import Unauthenticated
from firewall.core.jsonvalue import JSONObject
from firewall.core.label import label_of
from firewall.core.run import run_ends_s
from firewall.identity.oauth21 import authorize
from firewall.identity.rfc8693 import grant as exchange_grant
from firewall.identity.run_tokens import runs as runs_module
from tests.identity.test_device import ask, decided, device_door, poll, signed_in
from tests.support.chain import PLANNER, chain_door, claims_in, exchange, token_of, why
from tests.support.door import (
    CIMD_DOCUMENT,
    CIMD_URL,
    TIME,
    Browser,
    authorize_query,
    callback_of,
    make_door,
    redeem,
    refresh,
)

UNTRUSTED = label_of(["untrusted"])
SECRETS = label_of(["secret"])
RUN = "run time:read"


async def begin(http: httpx2.AsyncClient, **changes: str) -> dict[str, Any]:
    """Sign in for a run and return the token response."""
    code = (await Browser(http).code(authorize_query(scope=RUN, **changes)))["code"]
    return dict((await redeem(http, code)).json())


# -- (a) the person ------------------------------------------------------------------------------------------


async def test_a_person_begins_a_run_and_it_stays_the_same_run() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        first = await begin(http)
        claims = claims_in(first["access_token"])
        now_s = door.clock.now_us() // 1_000_000
        assert run_ends_s(claims["run"]) == now_s + 8 * 3600
        assert first["scope"] == "time:read", "a run is no permission"
        assert door.named("identity.token.issued")[-1]["run"] == claims["run"]
        renewed = (await refresh(http, first["refresh_token"])).json()
        assert claims_in(renewed["access_token"])["run"] == claims["run"]
        assert door.verified(renewed["access_token"]).run == claims["run"]
        assert claims_in((await begin(http))["access_token"])["run"] != claims["run"]
    assert [facts["by"] for facts in door.named("identity.run.begun")] == ["person", "person"]


async def test_without_the_word_there_is_no_run() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        assert "run" not in claims_in((await redeem(http, code)).json()["access_token"])


async def test_a_run_begins_clean_and_what_it_learns_counts_outside() -> None:
    door = make_door()
    await door.user()
    assert door.labels is not None
    async with door.http() as http:
        plain = door.verified((await redeem(http, (await Browser(http).code())["code"])).json()["access_token"])
        door.labels.raise_(plain, UNTRUSTED)
        run = door.verified((await begin(http))["access_token"])
        assert run.key == plain.key
        assert door.labels.current(run) == 0
        door.labels.raise_(run, SECRETS)
        assert door.labels.current(run) == SECRETS
        assert door.labels.current(plain) == UNTRUSTED | SECRETS
        again = door.verified((await begin(http))["access_token"])
        assert door.labels.current(again) == 0


async def test_a_session_that_is_open_begins_no_run_however_fresh_it_is() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()  # signed in, agreed, this second
        page = await browser.open(authorize_query(scope=RUN))
        assert 'action="/login"' in page.text
        # Without the password nothing follows: not by going on to the consent page, not by sending its form.
        txn = page.text.split('name="txn" value="')[1].split('"')[0]
        assert 'action="/login"' in (await browser.get("/consent")).text
        sent = await browser.post("/consent", {"txn": txn, "csrf": "x", "decision": "approve", "scope.0": "time:read"})
        assert sent.status_code == 403
        wrong = await browser.sign_in(page, password="not the password")
        assert wrong.status_code == 403
    assert door.named("identity.run.begun") == []


async def test_a_person_is_told_and_asked_whatever_was_agreed_before() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        page = await browser.sign_in(await browser.open(authorize_query(scope=RUN)))
        assert page.status_code == 200, "agreed before is not agreed to a run"
        plain = (await browser.open(authorize_query(prompt="consent"))).text
        assert "begins a new run" in page.text
        assert "begins a new run" not in plain
        assert ("ends after 8 hours" in page.text, "30 days at most" in page.text) == (True, False)
        assert ("ends after 8 hours" in plain, "30 days at most" in plain) == (False, True)
        assert callback_of(await browser.approve(page, "deny"))["error"] == "access_denied"
    assert door.named("identity.run.begun") == []


@pytest.mark.parametrize(
    ("lifetime_s", "told"), [(3600, "after 1 hour."), (5400, "after 90 minutes."), (60, "after 1 minute.")]
)
async def test_a_person_is_told_when_the_run_ends(lifetime_s: int, told: str) -> None:
    door = make_door(run_lifetime_s=lifetime_s)
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        assert told in (await browser.sign_in(await browser.open(authorize_query(scope=RUN)))).text


async def test_as_18_where_nobody_may_be_asked_no_run_begins() -> None:
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        silent = await browser.open(authorize_query(scope=RUN, prompt="none"))
        assert callback_of(silent)["error"] == "login_required"
        assert "code" in callback_of(await browser.open(authorize_query(prompt="none"))), "the twin"


async def test_twin_without_the_demand_for_a_sign_in_an_open_session_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        authorize, "anew", lambda asked: authorize.replace(asked, scope=(*asked.scope, runs_module.RUN_SCOPE))
    )
    door = make_door()
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        await browser.code()
        # The second lock: even then, without a sign-in of this very request there is no run.
        assert callback_of(await browser.open(authorize_query(scope=RUN)))["error"] == "login_required"
        monkeypatch.setattr(
            authorize.Authorization,
            "_begun",
            lambda self, _t, session, client: self._parts.runs.begin(
                "acme", session.user.subject, client.client_id, by="person"
            ),
        )
        code = callback_of(await browser.open(authorize_query(scope=RUN)))["code"]
        assert "run" in claims_in((await redeem(http, code)).json()["access_token"])


async def test_a_run_ends_and_its_tokens_with_it() -> None:
    door = make_door(run_lifetime_s=400)
    await door.user()
    async with door.http() as http:
        first = await begin(http)
        door.clock.advance(250)
        second = (await refresh(http, first["refresh_token"])).json()
        assert second["expires_in"] == 150
        door.clock.advance(151)
        assert (await refresh(http, second["refresh_token"])).json()["error"] == "invalid_grant"
        assert why(door) == "run_ended"
        door.clock.advance(60)
        with pytest.raises(Unauthenticated):
            door.verified(second["access_token"])


async def test_runs_are_counted_for_each_person_and_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_module, "PER_PERSON_AND_HOUR", 2)
    door = make_door(authorize_per_minute=1000, login_per_minute=1000)
    await door.user()
    await door.user("bob")
    async with door.http() as http:
        for _ in range(2):
            assert claims_in((await begin(http))["access_token"])["run"]
        answer = await Browser(http).code(authorize_query(scope=RUN))
        assert answer["error"] == "temporarily_unavailable"
        door.clock.advance(3600)
        assert claims_in((await begin(http))["access_token"])["run"]


# -- (b) the orchestrator --------------------------------------------------------------------------------------


async def test_an_orchestrator_begins_a_run_by_exchange() -> None:
    door = chain_door()
    ada = await door.user(scopes=("*",))
    assert door.labels is not None
    async with door.http() as http:
        held = token_of(door, ada)
        door.labels.raise_(door.verified(held, PLANNER), UNTRUSTED)
        plain = door.verified((await exchange(http, held, client="conductor")).json()["access_token"])
        assert door.labels.current(plain) == UNTRUSTED
        begun = door.verified((await exchange(http, held, client="conductor", scope=RUN)).json()["access_token"])
        assert begun.run
        assert door.labels.current(begun) == 0
        assert [a.sub for a in begun.chain[1:]] == ["desk", "conductor"]
        other = door.verified((await exchange(http, held, client="conductor", scope=RUN)).json()["access_token"])
        assert other.run != begun.run
        door.labels.raise_(begun, SECRETS)
        assert door.labels.current(other) == 0
        assert door.labels.current(plain) == UNTRUSTED | SECRETS
    assert [facts["by"] for facts in door.named("identity.run.begun")] == ["orchestrator", "orchestrator"]


@pytest.mark.parametrize("client", ["planner", "narrow"])
async def test_an_agent_with_a_stolen_token_begins_none(client: str) -> None:
    door = chain_door()
    ada = await door.user(scopes=("*",))
    async with door.http() as http:
        answer = await exchange(http, token_of(door, ada), client=client, scope=RUN)
        assert answer.json()["error"] == "invalid_scope"
        assert why(door) == "run_not_allowed"
        stolen = await exchange(http, token_of(door, ada, aud=TIME), client="conductor", scope=RUN)
        assert stolen.is_error, "not even at an orchestrator that it was not given to"
        assert why(door) == "exchange_not_allowed"
        for grant_type in ("client_credentials", "refresh_token"):
            form = {"grant_type": grant_type, "scope": RUN, "resource": TIME, "refresh_token": "x"}
            reply = await http.post("/token", data=form, auth=(client, "a-long-random-secret"))
            assert reply.is_error or "run" not in claims_in(reply.json()["access_token"])
    assert door.named("identity.run.begun") == []


async def test_twin_without_the_operators_word_every_client_would_begin_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_grant.ExchangeGrant, "validate_token_request", lambda _self: None)
    door = chain_door()
    ada = await door.user(scopes=("*",))
    async with door.http() as http:
        answer = await exchange(http, token_of(door, ada), scope=RUN)
        assert claims_in(answer.json()["access_token"])["run"]


async def test_another_client_does_not_come_into_a_run_by_exchange() -> None:
    door = chain_door()
    ada = await door.user(scopes=("*",))
    assert door.labels is not None
    run = "run_" + "0" * 26 + f".{door.clock.now_us() // 1_000_000 + 3600}"
    async with door.http() as http:
        held = token_of(door, ada, run=run)
        door.labels.raise_(door.verified(held, PLANNER), SECRETS)
        taken = door.verified((await exchange(http, held)).json()["access_token"])
        assert taken.run == ""
        assert door.labels.current(taken) == SECRETS, "what the run learned comes along"
        door.labels.raise_(taken, UNTRUSTED)
        assert door.labels.current(door.verified(held, PLANNER)) == SECRETS
        own = token_of(door, ada, run=run, client_id="planner", act={"sub": "planner", "act": {"sub": "desk"}})
        assert door.verified((await exchange(http, own)).json()["access_token"]).run == run, "the client's own run"


async def test_a_token_from_a_run_does_not_outlive_it() -> None:
    door = chain_door()
    ada = await door.user(scopes=("*",))
    now_s = door.clock.now_us() // 1_000_000
    async with door.http() as http:
        own = token_of(door, ada, run="run_" + "0" * 26 + f".{now_s + 33}", client_id="planner", act={"sub": "planner"})
        assert (await exchange(http, own)).json()["expires_in"] == 33


async def test_runs_of_an_orchestrator_are_bounded() -> None:
    door = chain_door(runs_per_hour=3)
    ada = await door.user(scopes=("*",))
    async with door.http() as http:
        answers = [await exchange(http, token_of(door, ada), client="conductor", scope=RUN) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 503]
    assert why(door) == "runs_many"


async def test_what_a_client_says_of_itself_makes_it_no_orchestrator() -> None:
    boast: JSONObject = {"orchestrator": True, "resource": "/a2a/planner", "may_act": CIMD_URL}
    door = make_door(cimd_pinned={CIMD_URL: {**CIMD_DOCUMENT, **boast}})
    await door.user()
    async with door.http() as http:
        held = (await redeem(http, (await Browser(http).code())["code"])).json()["access_token"]
        assert "may_act" not in claims_in(held)
        answer = await exchange(http, held, client="open", client_id=CIMD_URL, scope=RUN)
    assert answer.json()["error"] == "unauthorized_client"


@pytest.mark.parametrize("run", ["", "run_x", 5, ["run_"], "run_" + "0" * 26, "run_" + "o" * 26 + ".1990000000"])
async def test_a_token_with_something_else_for_a_run_is_no_token(run: Any) -> None:
    door = chain_door()
    ada = await door.user(scopes=("*",))
    held = token_of(door, ada, run=run)
    if run == "":
        assert door.verified(held, PLANNER).run == ""
        return
    with pytest.raises(Unauthenticated):
        door.verified(held, PLANNER)


async def test_a_device_begins_none() -> None:
    door = device_door()
    await door.user()
    async with door.http() as http:
        asked = (await ask(http, scope=RUN)).json()
        browser = Browser(http)
        await signed_in(browser)
        await decided(browser, asked["user_code"])
        answer = (await poll(http, asked["device_code"])).json()
    assert answer["scope"] == "time:read"
    assert "run" not in claims_in(answer["access_token"])
    assert door.named("identity.run.begun") == []
