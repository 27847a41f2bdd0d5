"""AS-19: what one client may ask for in a minute, and that nobody who is not that client can use it up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from firewall.identity import client_limits
from firewall.identity.client_limits import ClientLimits
from firewall.state.shared import SharedMarks
from firewall.state.sqlite import SQLiteStore
from tests.identity.test_token_endpoint import worker
from tests.support.door import CIMD_URL, TIME, Door, assertion, authorize_query, client_credentials, make_door, redeem

HERE, ELSEWHERE = "192.0.2.7", "198.51.100.9"
BASIC = ("svc-basic", "a-long-random-secret")
CONTROL = pytest.mark.parametrize("control", ["on", "off"])


@asynccontextmanager
async def at(door: Door, address: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Yield a program that asks from an address."""
    transport = httpx2.ASGITransport(app=door.identity.front_door, client=(address, 4000))
    async with httpx2.AsyncClient(transport=transport, base_url=door.origin) as http:
        yield http


async def ask(http: httpx2.AsyncClient, auth: tuple[str, str] = BASIC) -> httpx2.Response:
    form = {"grant_type": "client_credentials", "resource": TIME, "scope": "time:read"}
    return await http.post("/token", data=form, auth=auth)


# -- a client that proved who it is ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
async def test_as_19_a_client_has_one_count_at_every_address_and_every_worker(workers: int, tmp_path: Path) -> None:
    base = make_door(client_per_minute=6)
    stores = [SQLiteStore(tmp_path / "state.db", clock=base.clock) for _ in range(workers)]
    marks = [SharedMarks(tmp_path, workers=workers) for _ in range(workers)]
    doors = [worker(base, store, mark) for store, mark in zip(stores, marks, strict=True)]
    try:
        statuses = []
        for number in range(8):
            async with at(doors[number % workers], f"198.51.100.{number}") as http:
                last = await ask(http)
                statuses.append(last.status_code)
        assert statuses == [200] * 6 + [429] * 2
        assert (last.json()["error"], last.headers["retry-after"]) == ("slow_down", "60")
        async with at(doors[0], HERE) as http:  # another client is another matter
            assert (await client_credentials(http, assertion(base))).status_code == 200
        assert base.named("identity.client.busy") == [{"client_id": "svc-basic", "per_minute": 6}]
        base.clock.advance(60)
        async with at(doors[0], HERE) as http:
            assert (await ask(http)).status_code == 200
    finally:
        for store, mark in zip(stores, marks, strict=True):
            store.close()
            mark.close()


@CONTROL
async def test_as_19_a_client_that_runs_wild_is_told_to_wait(control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if control == "off":
        monkeypatch.setattr(ClientLimits, "checked", lambda _self, client: client)
    door = make_door(client_per_minute=3)
    async with at(door, HERE) as http:
        statuses = [(await ask(http)).status_code for _ in range(5)]
    assert statuses == ([200] * 5 if control == "off" else [200, 200, 200, 429, 429])


async def test_as_19_pushed_requests_count_as_tokens_do() -> None:
    door = make_door(client_per_minute=2)
    async with at(door, HERE) as http:
        statuses = [(await http.post("/par", data={"resource": TIME}, auth=BASIC)).status_code for _ in range(3)]
        assert (statuses[:2], statuses[2]) == ([400, 400], 429)
        assert (await ask(http)).status_code == 429


@CONTROL
async def test_as_19_who_lacks_a_clients_credentials_takes_nothing_of_its_allowance(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control is that a client is counted after it proved who it is; off, its name is counted wherever it comes from."""
    if control == "off":
        real = ClientLimits.admits

        def counted(self: ClientLimits, what: str, form: Any, address: str, *, per_minute: int) -> bool:
            return self._throttle.allow("client", "svc-basic", per_minute=3) and real(
                self, what, form, address, per_minute=per_minute
            )

        monkeypatch.setattr(ClientLimits, "admits", counted)
    door = make_door(client_per_minute=3)
    for number in range(10):
        async with at(door, f"203.0.113.{number}") as http:
            await ask(http, ("svc-basic", "a wrong guess"))
    async with at(door, HERE) as http:
        assert (await ask(http)).status_code == (429 if control == "off" else 200)


# -- a name that everybody can send ----------------------------------------------------------------------------


async def codes(http: httpx2.AsyncClient, client_id: str, number: int) -> list[int]:
    return [(await redeem(http, "x", client_id=client_id)).status_code for _ in range(number)]


@CONTROL
async def test_as_19_a_flood_under_a_public_name_is_no_matter_elsewhere(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control is the network in the key of the count; off, any stranger's flood locks the client's people out."""
    if control == "off":
        monkeypatch.setattr(client_limits, "network_of", lambda _address: "anywhere")
    door = make_door(token_per_minute=10)
    async with at(door, ELSEWHERE) as http:
        assert (await codes(http, CIMD_URL, 9))[7:] == [400, 429]
    async with at(door, HERE) as http:
        assert await codes(http, CIMD_URL, 1) == [429 if control == "off" else 400]


@CONTROL
async def test_as_19_a_public_client_that_runs_wild_leaves_the_others_of_its_address_a_fifth(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if control == "off":
        monkeypatch.setattr(client_limits, "SHARE", (1, 1))
    door = make_door(token_per_minute=10)
    async with at(door, HERE) as http:
        await codes(http, CIMD_URL, 50)  # what goes beyond the share costs the network nothing
        others = await codes(http, "tool", 3)
    assert others == ([429] * 3 if control == "off" else [400, 400, 429])


async def test_as_19_authorize_has_the_same_shares() -> None:
    door = make_door(authorize_per_minute=5)
    query, other = authorize_query(), authorize_query(client_id="tool", redirect_uri="https://tool.example/cb")
    async with at(door, ELSEWHERE) as http:
        asked = [(await http.get("/authorize", params=query)).status_code for _ in range(6)]
        assert asked == [200] * 4 + [429] * 2
        assert [(await http.get("/authorize", params=other)).status_code for _ in range(2)] == [200, 429]
    async with at(door, HERE) as http:
        assert (await http.get("/authorize", params=query)).status_code == 200


async def test_as_19_what_names_nobody_is_counted_by_its_address_alone() -> None:
    door = make_door(token_per_minute=3, authorize_per_minute=3)
    async with at(door, HERE) as http:
        kinds = {"content-type": "application/x-www-form-urlencoded"}
        assert [(await http.post("/token", content=b"a=%ff", headers=kinds)).status_code for _ in range(4)][3] == 429
        assert [(await http.get("/authorize?client_id=a&client_id=%ff")).status_code for _ in range(4)][3] == 429


async def test_as_19_a_small_allowance_is_not_divided_to_nothing() -> None:
    door = make_door(token_per_minute=1, client_per_minute=1)
    async with at(door, HERE) as http:
        assert await codes(http, CIMD_URL, 2) == [400, 429]


async def test_as_19_a_public_client_has_no_count_of_its_own_that_others_could_fill() -> None:
    door = make_door(client_per_minute=1)
    for number in range(5):
        async with at(door, f"203.0.113.{number}") as http:
            assert await codes(http, CIMD_URL, 1) == [400]


@CONTROL
async def test_as_19_made_up_names_fill_no_more_rows_than_their_network_has_requests(
    control: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control is the order: the network is counted before the name. Off, the store grows with the flood."""
    if control == "off":

        def admits(self: ClientLimits, what: str, form: Any, address: str, *, per_minute: int) -> bool:
            return self._throttle.allow(f"{what}.name", form.get("client_id"), per_minute=per_minute) and (
                self._throttle.allow(what, address, per_minute=per_minute)
            )

        monkeypatch.setattr(ClientLimits, "admits", admits)
    door = make_door(token_per_minute=5)
    async with at(door, HERE) as http:
        for number in range(40):
            await redeem(http, "x", client_id=f"made-up-{number}")
    rows = [entry.key for entry in door.store.collection("throttle_counts").scan("_node")]
    assert len(rows) == (41 if control == "off" else 6)
