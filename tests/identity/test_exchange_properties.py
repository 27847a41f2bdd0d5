"""TX-02 for every sequence of exchanges: scope, end and audience only narrow; the transaction stays."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from firewall.core.bounds import ACTOR_CHAIN
from firewall.core.principal import Actor, act_of_chain, chain_from_act
from tests.support.chain import BOOKER, PLANNER, chain_door, claims_in, confidential, exchange, token_of
from tests.support.door import GIT, TIME, Door

SCOPES = ("planner:send", "booker:send", "time:read", "time:write", "git:read", "llm:invoke")
TARGETS = ("-", PLANNER, BOOKER, TIME, GIT)
ALLOWED = {
    "planner": ("*",),
    "booker": ("booker:*", "time:*"),
    "narrow": ("planner:*", "time:read"),
    "conductor": ("*",),
}
CLIENTS = tuple(
    confidential(
        name,
        scopes=scopes,
        resource="/a2a/booker" if name == "booker" else "/a2a/planner",
        orchestrator=name == "conductor",
    )
    for name, scopes in ALLOWED.items()
)

Step = tuple[str, str, frozenset[str], int, bool]
steps = st.lists(
    st.tuples(
        st.sampled_from(sorted(ALLOWED)),
        st.sampled_from(TARGETS),
        st.frozensets(st.sampled_from(SCOPES), max_size=3),
        st.integers(0, 90),
        st.booleans(),
    ),
    max_size=10,
)


async def walk(door: Door, subject: str, scopes: frozenset[str], path: list[Step]) -> int:
    """Exchange along a path, going on with every token that is given; return how many were."""
    ada = door.identity.users.get("acme", subject)
    assert ada is not None
    token = token_of(door, ada, scope=" ".join(sorted(scopes)), client_id="planner")
    given = 0
    async with door.http() as http:
        for client, target, wanted, pause_s, run in path:
            door.clock.advance(pause_s)
            before = claims_in(token)
            asked = [*sorted(wanted), *(["run"] if run else [])]
            answer = await exchange(http, token, client=client, resource=target, scope=" ".join(asked) or "-")
            if answer.is_error:
                assert answer.status_code in (400, 503)
                assert "access_token" not in answer.text
                continue
            given += 1
            body = answer.json()
            token = body["access_token"]
            after = claims_in(token)
            assert set(after["scope"].split()) <= set(before["scope"].split()) & scopes
            assert set(after["scope"].split()) == set(body["scope"].split())
            assert after["exp"] <= before["exp"]
            assert after["hop"] == before.get("hop", 0) + 1 < ACTOR_CHAIN
            assert after["txn"] == before.get("txn", after["txn"])
            for name in ("sub", "tenant", "gid", "sid", "acr", "auth_time", "sub_type"):
                assert after[name] == before[name]
            # The audience: only what the exchanging client was let into by the token that it showed.
            own = BOOKER if client == "booker" else PLANNER
            assert before["aud"] == own
            assert after["aud"] == (before["aud"] if target == "-" else target)
            if run:
                assert client == "conductor"
                assert after["run"] != before.get("run")
            else:
                assert after.get("run") in (None, before.get("run"))
            chain = [a.sub for a in door.verified(token, after["aud"]).chain]
            assert chain[0] == subject
            assert chain[-1] == after["client_id"] == client
            assert len(chain) <= ACTOR_CHAIN
            assert len(set(chain)) == len(chain)
    return given


@settings(max_examples=60, deadline=None)
@given(st.frozensets(st.sampled_from(SCOPES), min_size=1), steps)
def test_tx_02_no_sequence_of_exchanges_widens_anything(scopes: frozenset[str], path: list[Step]) -> None:
    async def run() -> None:
        door = chain_door(clients=CLIENTS, token_per_minute=100_000)
        ada = await door.user(scopes=("*",))
        await walk(door, ada.subject, scopes, path)

    asyncio.run(run())


def test_the_walk_does_reach_something() -> None:
    path: list[Step] = [
        ("planner", PLANNER, frozenset(), 0, False),
        ("conductor", BOOKER, frozenset({"booker:send", "time:read"}), 1, True),
        ("booker", TIME, frozenset({"time:read"}), 1, False),
    ]

    async def run() -> int:
        door = chain_door(clients=CLIENTS)
        ada = await door.user(scopes=("*",))
        return await walk(door, ada.subject, frozenset(SCOPES), path)

    assert asyncio.run(run()) == 3


@given(st.lists(st.builds(Actor, st.text(min_size=1, max_size=8), st.sampled_from(["agent", "service"])), max_size=7))
def test_a_chain_and_its_act_claim_are_two_spellings_of_one_thing(actors: list[Actor]) -> None:
    subject = Actor("u_1", "user")
    assert chain_from_act(subject, act_of_chain(actors)) == (subject, *actors)
