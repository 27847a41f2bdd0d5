"""Clients that leave while their call runs: one timer for all calls, a task only for those that take a while."""

import asyncio

from firewall.net.runtime import Tasks
from mcp_gateway import leaving
from mcp_gateway.leash import Leash
from mcp_gateway.leaving import Leaving


class Client:
    """What a server tells of a client: that it left, once it did."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.asked = 0

    async def receive(self):
        self.asked += 1
        await self.left.wait()
        return {"type": "http.disconnect"}


async def held(leash: Leash) -> bool:
    with leash:
        await asyncio.sleep(5)
    return leash.pulled


async def test_a_client_that_leaves_ends_its_call_and_no_other(monkeypatch):
    monkeypatch.setattr(leaving, "WATCH_AFTER_S", 0.002)
    tasks = Tasks()
    watched = Leaving(tasks)
    clients, leashes = [Client(), Client()], [Leash(), Leash()]
    for client, leash in zip(clients, leashes, strict=True):
        watched.watch(client.receive, leash)
    calls = [asyncio.ensure_future(held(leash)) for leash in leashes]
    while not all(client.asked for client in clients):
        await asyncio.sleep(0.001)
    clients[0].left.set()
    assert await calls[0]
    assert not calls[1].done()
    calls[1].cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    for leash in leashes:
        watched.stop(leash)
    assert not watched._waiting
    assert not watched._watched
    await tasks.close()


async def test_a_call_that_is_over_in_time_costs_no_task(monkeypatch):
    monkeypatch.setattr(leaving, "WATCH_AFTER_S", 0.002)
    tasks = Tasks()
    watched, short, long = Leaving(tasks), Client(), Client()
    over, lasting = Leash(), Leash()
    watched.watch(short.receive, over)
    watched.stop(over)
    watched.watch(long.receive, lasting)
    while not long.asked:
        await asyncio.sleep(0.001)
    assert short.asked == 0
    watched.stop(lasting)
    await tasks.close()


async def test_a_call_that_begins_after_a_pause_is_watched_too(monkeypatch):
    monkeypatch.setattr(leaving, "WATCH_AFTER_S", 0.002)
    tasks = Tasks()
    watched = Leaving(tasks)
    for _ in range(2):
        client, one = Client(), Leash()
        watched.watch(client.receive, one)
        while not client.asked:
            await asyncio.sleep(0.001)
        watched.stop(one)
        await asyncio.sleep(0.005)
    await tasks.close()
