"""AS-09, AS-10: a code is redeemed once, whoever races, and a second redemption ends what the first one got."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import httpx2
import pytest

from firewall.core.errors import Unauthenticated
from firewall.identity import standing
from firewall.identity.grants import REVOKED_MARK, OAuthGrants, mark_key
from firewall.identity.oauth21.codes import CodeFacts, Codes
from firewall.state import contention
from firewall.state.memory import MemoryCollection
from firewall.state.sqlite import SQLiteCollection
from firewall.wire import jwt
from firewall.wire.oauth import OAuthError
from tests.support.chain import PLANNER, chain_door, exchange
from tests.support.door import CIMD_URL, TIME, Browser, Door, authorize_query, make_door, redeem, refresh
from tests.support.racing import WORKERS, Ask, Node, a_code, nothing_works


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(contention, "LOOP_S", contention.THREAD_S)  # who races here shares a machine with many others
    return Node(tmp_path)


def redeeming(code: str) -> Ask:
    return lambda http: redeem(http, code)


async def four_codes(door: Door) -> dict[str, str]:
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        return {str(number): (await browser.code())["code"] for number in range(4)}


@pytest.mark.parametrize("workers", [1, WORKERS])
def test_as_09_of_fifty_redemptions_at_once_exactly_one_succeeds_and_as_10_its_tokens_are_over(
    node: Node, workers: int
) -> None:
    for code in node.in_one(four_codes).values():
        answers = node.at_once(redeeming(code), workers=workers)
        won = [body for status, body in answers if status == 200]
        assert len(won) == 1
        assert {body["error"] for status, body in answers if status != 200} == {"invalid_grant"}
        assert node.in_one(partial(nothing_works, won=won[0]))["error"] == "invalid_grant"


async def redeemed_while_replayed(monkeypatch: pytest.MonkeyPatch) -> tuple[Door, httpx2.Response]:
    """Redeem a code that somebody replays between its taking and the making of its tokens."""
    redeem_code = Codes.redeem

    def replayed(codes: Codes, text: str) -> CodeFacts:
        facts = redeem_code(codes, text)
        with pytest.raises(OAuthError, match="code_replayed"):
            redeem_code(codes, text)
        return facts

    monkeypatch.setattr(Codes, "redeem", replayed)
    door = make_door()
    await door.user()
    async with door.http() as http:
        return door, await redeem(http, (await Browser(http).code())["code"])


async def test_as_09_and_as_10_a_replay_during_a_redemption_takes_no_answer_and_leaves_no_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door, reply = await redeemed_while_replayed(monkeypatch)
    assert reply.status_code == 200
    assert (await nothing_works(door, reply.json()))["error"] == "invalid_grant"
    assert [facts["reason"] for facts in door.named("identity.grant.revoked")] == ["code_replayed"]


async def test_as_10_what_was_exchanged_for_a_token_of_a_replayed_code_is_over_and_nothing_more_is_exchanged() -> None:
    door = chain_door()
    await door.user(scopes=("*",))
    async with door.http() as http:
        query = authorize_query(client_id="desk", resource=PLANNER, scope="planner:send time:read")
        code = (await Browser(http).code(query))["code"]
        first = (await redeem(http, code, client_id="desk", resource=PLANNER)).json()["access_token"]
        second = (await exchange(http, first, scope="time:read")).json()["access_token"]
        assert door.verified(second, TIME)
        assert (await redeem(http, code, client_id="desk", resource=PLANNER)).status_code == 400
        with pytest.raises(Unauthenticated):
            door.verified(second, TIME)
        assert (await exchange(http, first, scope="time:read")).json()["error"] == "invalid_request"


async def test_as_10_a_flood_of_replays_writes_and_records_the_end_of_the_grant_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every write waits for the one lock of the state, and so would whoever redeems another code meanwhile."""
    door = make_door()
    await door.user()
    written: list[str] = []
    for name in ("put", "take"):
        real = getattr(MemoryCollection, name)
        monkeypatch.setattr(
            MemoryCollection,
            name,
            lambda *given, _name=name, _real=real, **more: (written.append(_name), _real(*given, **more))[1],
        )
    async with door.http() as http:
        code = (await Browser(http).code())["code"]
        assert (await redeem(http, code)).status_code == 200
        assert (await redeem(http, code)).status_code == 400
        written.clear()
        epoch = door.marks.epoch()
        for _ in range(20):
            assert (await redeem(http, code)).json()["error"] == "invalid_grant"
    assert written == []
    assert door.marks.epoch() > epoch  # each has every worker look again: it may have come before the first was done
    assert len(door.named("identity.grant.revoked")) == 1


async def test_a_grant_that_only_a_mark_calls_over_is_ended_durably_all_the_same() -> None:
    door = make_door()
    grants = door.identity.grants
    door.marks.raise_(mark_key("acme", "g_1"), REVOKED_MARK)
    assert grants.is_revoked("acme", "g_1")
    grants.revoke("acme", "u_1", "g_1", reason="test")
    assert door.store.collection("oauth_revoked").get("acme", "g_1")


async def test_as_10_twin_where_nobody_asks_for_the_mark_of_a_replay_its_tokens_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OAuthGrants, "is_revoked", lambda *_: False)
    door, reply = await redeemed_while_replayed(monkeypatch)
    user = door.verified(reply.json()["access_token"]).subject
    assert door.identity.grants.of_subject("acme", user)
    async with door.http() as http:
        assert (await refresh(http, reply.json()["refresh_token"])).status_code == 200


def test_as_10_whoever_redeemed_first_loses_everything_when_a_second_comes(node: Node) -> None:
    code = node.in_one(a_code)["code"]

    async def first(door: Door) -> dict[str, str]:
        async with door.http() as http:
            reply = await redeem(http, code)
            assert reply.status_code == 200
            body: dict[str, str] = reply.json()
            assert door.verified(body["access_token"])
            return body

    won = node.in_one(first)
    assert {status for status, _ in node.at_once(lambda http: redeem(http, code))} == {400}
    assert node.in_one(lambda door: nothing_works(door, won))["error"] == "invalid_grant"


def test_as_09_without_the_atomic_take_several_would_succeed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin of the two tests above."""
    monkeypatch.setattr(SQLiteCollection, "take", lambda self, tenant, key: self.get(tenant, key))
    code = node.in_one(a_code)["code"]
    assert [status for status, _ in node.at_once(lambda http: redeem(http, code))].count(200) > 1


async def test_as_09_a_code_ends_with_the_client_and_with_the_session() -> None:
    for ending in ("client", "session"):
        door = make_door()
        await door.user()
        async with door.http() as http:
            codes = [(await Browser(http).code())["code"] for _ in range(2)]
            first = (await redeem(http, codes[0])).json()
            claims = jwt.parse_compact(first["access_token"].encode()).claims
            name = standing.client(CIMD_URL) if ending == "client" else standing.session(str(claims["sid"]))
            door.identity.grants.standing.end("acme", name)
            door.clock.advance(1)
            assert (await redeem(http, codes[1])).json()["error"] == "invalid_grant"
            assert (await refresh(http, first["refresh_token"])).json()["error"] == "invalid_grant"
