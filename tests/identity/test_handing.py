"""What an upstream agent is handed: for itself alone, no more than was given along, and each person's their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from firewall.core.action import Headers
from firewall.core.errors import StateUnavailable, Unauthenticated, UpstreamFault
from firewall.core.label import label_of
from firewall.core.ports import Labels
from firewall.core.principal import Principal
from firewall.core.tool_details import parse_details
from firewall.identity.rfc8693.handing import HandedTokens
from firewall.identity.rfc9068.tokens import SigningKeys, TokenIssuer
from firewall.identity.settings import ClientSettings
from firewall.identity.upstream.credentials import CredentialSettings
from firewall.net.runtime import RandomIds
from tests.support.chain import AGENTS, BOOKER, CLIENTS, PLANNER, chain_door, claims_in, exchange, token_of
from tests.support.door import ORIGIN, RESOURCES, SERVER_KEY, Door

UNTRUSTED = label_of(["untrusted"])
ALONG = tuple(replace(agent, along=("time:read", "time:write")) for agent in AGENTS)


class Behind:
    """The other sources of credentials: they present one word."""

    def __init__(self) -> None:
        self.added: list[str] = []

    async def headers_for(self, principal: Principal, upstream: str) -> Headers:
        return ((b"x-api-key", b"ours"),)

    def key_for(self, principal: Principal, upstream: str) -> str:
        return f"{principal.tenant}/static"

    def add(self, upstream: str, credential: CredentialSettings) -> None:
        self.added.append(upstream)


def room(
    door: Door, *, labels: Labels | None = None, clients: Iterable[ClientSettings] = CLIENTS
) -> tuple[HandedTokens, Behind]:
    behind = Behind()
    issuer = TokenIssuer(ORIGIN, SigningKeys(SERVER_KEY), door.clock, RandomIds(), lifetime_s=300)
    given = labels or door.labels
    assert given is not None
    identity = door.identity
    handed = HandedTokens(
        behind, issuer, identity.resources, identity.grants, door.clock, RandomIds(), door.record, given, clients
    )
    return handed, behind


async def token(handed: HandedTokens, who: Principal, upstream: str = "planner") -> str:
    """Return the token that is handed, "" when the others present theirs."""
    headers = dict(await handed.headers_for(who, upstream))
    return headers.get(b"authorization", b"").decode().removeprefix("Bearer ")


def made(**changes: Any) -> tuple[Door, Principal]:
    door = chain_door(resources=(*RESOURCES, *ALONG))
    now_s = door.clock.now_us() // 1_000_000
    claims: dict[str, Any] = {"scope": "planner:send time:read", "txn": "txn_1", "run": None, **changes}
    held = token_of(door, _Nobody(), exp=now_s + 200, **claims)  # type: ignore[arg-type]
    return door, door.verified(held, PLANNER)


class _Nobody:
    subject = "u_ada"


async def test_what_is_handed_says_what_was_given_along_and_no_more() -> None:
    door, who = made()
    handed, _ = room(door)
    claims = claims_in(await token(handed, who))
    assert (claims["aud"], claims["scope"], claims["client_id"], claims["sub"]) == (
        PLANNER,
        "time:read",
        "desk",
        "u_ada",
    )
    assert (claims["gid"], claims["sid"], claims["txn"], claims["exp"]) == ("g_1", "s_1", "txn_1", who.expires_at)
    assert "act" not in claims
    assert "hop" not in claims
    (event,) = [e for e in door.named("identity.token.issued") if e["grant_type"] == "handed"]
    assert (event["of"], event["upstream"]) == (who.token_id, "planner")


@pytest.mark.parametrize(
    ("changes", "upstream"),
    [
        ({"audience": f"{ORIGIN}/mcp"}, "planner"),
        ({"audience": BOOKER}, "planner"),
        ({}, "booker"),
        ({}, "time"),
        ({}, "nobody"),
        ({"scopes": frozenset({"planner:send"})}, "planner"),
        ({"auth_method": "local"}, "planner"),
        ({"kind": "local"}, "planner"),
        ({"issuer": "https://idp.example"}, "planner"),
        (
            {
                "details": parse_details(
                    [{"type": "mcp_tool", "locations": [PLANNER], "actions": ["call"], "tools": ["x"]}]
                )
            },
            "planner",
        ),
    ],
)
async def test_rs_16_nothing_is_handed_that_was_not_agreed_to_for_this(changes: dict[str, Any], upstream: str) -> None:
    door, who = made()
    handed, _ = room(door)
    other = replace(who, **changes)
    assert await token(handed, other, upstream) == ""
    assert await handed.headers_for(other, upstream) == ((b"x-api-key", b"ours"),)
    assert handed.key_for(other, upstream) == "acme/static"
    assert await token(handed, who) != "", "the twin"
    assert (b"x-api-key", b"ours") in await handed.headers_for(who, "planner"), "beside a secret in another header"


async def test_it_is_made_once_for_a_token_and_anew_while_half_of_its_life_is_left() -> None:
    door, who = made()
    handed, _ = room(door)
    first = await token(handed, who)
    assert await token(handed, who) == first
    assert await token(handed, replace(who, token_id="j_2")) != first
    door.clock.advance(101)
    assert await token(handed, who) != first


async def test_sessions_with_an_agent_are_one_persons_one_clients_one_runs() -> None:
    door, who = made()
    handed, behind = room(door)
    keys = {
        handed.key_for(other, "planner")
        for other in (
            who,
            replace(who, subject="u_bob"),
            replace(who, client_id="lent"),
            replace(who, grant_id="g_2"),
            replace(who, run="run_" + "0" * 26 + ".1990000000"),
            replace(who, tenant="beta"),
        )
    }
    assert len(keys) == 6
    handed.add("new", CredentialSettings())
    assert behind.added == ["new"]


async def test_a_chain_goes_on_through_what_is_handed() -> None:
    door, _ = made()
    ada = await door.user(scopes=("*",))
    held = token_of(
        door, ada, scope="booker:send time:read", aud=BOOKER, client_id="planner", hop=1, txn="txn_9",
        act={"sub": "planner", "act": {"sub": "desk"}},
    )  # fmt: skip
    handed, _ = room(door)
    to_booker = await token(handed, door.verified(held, BOOKER), "booker")
    async with door.http() as http:
        answer = await exchange(http, to_booker, client="booker")
    claims = claims_in(answer.json()["access_token"])
    assert claims["act"] == {"sub": "booker", "act": {"sub": "planner", "act": {"sub": "desk"}}}
    assert (claims["txn"], claims["hop"]) == ("txn_9", 2)


async def test_it_ends_with_the_grant_it_came_with() -> None:
    door, who = made()
    handed, _ = room(door)
    held = await token(handed, who)
    assert door.verified(held, PLANNER)
    door.identity.grants.revoke("acme", "u_ada", "g_1", reason="test")
    with pytest.raises(Unauthenticated):
        door.verified(held, PLANNER)


async def test_design_6b_1_labels_reach_every_client_behind_an_agent_and_nobody_else() -> None:
    door, who = made(scope="planner:send")
    assert door.labels is not None
    handed, _ = room(door)
    door.labels.raise_(who, UNTRUSTED)
    assert await token(handed, who) == "", "also with a message that hands no token"
    for client, reached in (("planner", True), ("conductor", True), ("booker", False), ("stranger", False)):
        assert (door.labels.current(replace(who, client_id=client)) == UNTRUSTED) == reached
    assert door.labels.current(replace(who, client_id="planner", subject="u_bob")) == 0


async def test_a_label_that_cannot_be_handed_on_holds_the_message_back() -> None:
    class Full:
        def current(self, principal: Principal) -> Any:
            return UNTRUSTED

        def raise_(self, principal: Principal, label: Any) -> None:
            raise StateUnavailable("labels")

    door, who = made()
    handed, _ = room(door, labels=Full())
    with pytest.raises(UpstreamFault):
        await handed.headers_for(who, "planner")
    nobody, _ = room(door, labels=Full(), clients=())
    assert await token(nobody, who) != "", "the twin: no client stands behind the agent"


@pytest.mark.parametrize("ended", [True, False])
async def test_who_is_ended_while_another_credential_is_fetched_is_ended_in_what_is_handed(ended: bool) -> None:
    door, who = made()
    handed, behind = room(door)

    async def slow(principal: Principal, upstream: str) -> Headers:
        if ended:
            door.identity.grants.standing.end_subject(principal.tenant, principal.subject)
        return ()

    behind.headers_for = slow  # type: ignore[method-assign]
    given = await token(handed, who)
    if not ended:
        assert door.verified(given, PLANNER).subject == "u_ada"
        return
    with pytest.raises(Unauthenticated):
        door.verified(given, PLANNER)
