"""What a person could still give: an intersection, and only where a person could be asked at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from firewall.core.principal import Actor, Principal
from firewall.core.tool_details import ToolDetail
from tests.support.door import CIMD_DOCUMENT, CIMD_URL, GIT, ORIGIN, TIME, Door, make_door, registered_clients


async def caller(door: Door, **changes: Any) -> Principal:
    user = await door.user()
    made = Principal(
        tenant="acme",
        issuer=ORIGIN,
        subject=user.subject,
        client_id=CIMD_URL,
        scopes=frozenset({"time:read"}),
        audience=TIME,
        chain=(Actor(user.subject, "user"),),
        expires_at=0,
        grant_id="g_1",
    )
    return replace(made, **changes)


def beyond(door: Door, who: Principal) -> set[str]:
    assert door.identity.reachable is not None
    return set(door.identity.reachable.beyond(who))


async def test_a_persons_own_client_could_get_what_all_three_allow() -> None:
    door = make_door()
    assert beyond(door, await caller(door)) == {"time:write"}
    assert door.fetcher.asked == []


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://idp.example"},
        {"kind": "service"},
        {"kind": "local"},
        {"grant_id": ""},
        {"hop": 1},
        {"run": "r_1"},
        {"details": (ToolDetail((TIME,), ("now",)),)},
        {"chain": (Actor("u", "user"), Actor("agent", "agent"))},
        {"subject": "u_nobody"},
        {"tenant": "globex"},
        {"client_id": "unknown"},
        {"client_id": "https://never.example/seen.json"},
        {"audience": f"{ORIGIN}/mcp/gone"},
        {"scopes": frozenset({"time:read", "time:write"})},
    ],
)
async def test_whoever_has_nobody_to_ask_could_get_nothing(changes: dict[str, Any]) -> None:
    door = make_door()
    who = await caller(door, **changes)
    assert beyond(door, who) == set()
    assert door.fetcher.asked == []


async def test_another_resource_has_its_own_scopes() -> None:
    door = make_door()
    who = await caller(door, audience=GIT, scopes=frozenset({"git:read"}))
    assert beyond(door, who) == set()  # this person may give what belongs to time
    door.identity.users.update("acme", who.subject, roles=(), scopes=("*",))
    assert beyond(door, who) == {"git:write"}


async def test_the_persons_and_the_clients_most_count() -> None:
    door = make_door(cimd_pinned={CIMD_URL: {**CIMD_DOCUMENT, "scope": "time:read"}})
    assert beyond(door, await caller(door)) == set()
    door = make_door()
    who = await caller(door)
    users = door.identity.users
    users.update("acme", who.subject, roles=(), scopes=("time:read",))
    assert beyond(door, who) == set()
    users.update("acme", who.subject, roles=(), scopes=("*",), disabled=True)
    assert beyond(door, who) == set()


async def test_a_client_that_cannot_ask_a_person_could_get_nothing() -> None:
    door = make_door(clients=registered_clients())
    services = [c for c in registered_clients() if not {"authorization_code", "device_code"} & set(c.grant_types)]
    assert services
    for one in services:
        assert beyond(door, await caller(door, client_id=one.client_id)) == set()
        break
