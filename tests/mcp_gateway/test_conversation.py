"""Parked exchanges: one owner, one taker, bounds in number and time, and an upstream that is told of the end."""

import asyncio

import pytest

from firewall.core.errors import UpstreamFault
from firewall.net.runtime import RandomIds, Tasks
from mcp_gateway.conversation import Conversations, Parked


class Held:
    """An upstream exchange that notes its end."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.left = asyncio.Event()
        self.cancelled = 0
        self.stuck = stuck

    @property
    def messages(self):
        raise AssertionError("nobody reads here")

    async def __aenter__(self):
        raise AssertionError("it was entered before")

    async def __aexit__(self, *_):
        await self.aclose()

    async def aclose(self):
        self.left.set()

    async def cancel(self) -> None:
        self.cancelled += 1
        if self.stuck:
            await asyncio.sleep(30)


def parked(held: Held, owner: str = "alice") -> Parked:
    return Parked(owner, None, held, 7, {}, held.cancel)  # type: ignore[arg-type]


@pytest.fixture
async def tasks():
    found = Tasks()
    yield found
    await found.close()


async def test_a_conversation_is_its_owners_alone_and_is_taken_once(tasks):
    table = Conversations(tasks, RandomIds())
    held = Held()
    name = table.park(parked(held))
    assert table.take("bob", name) is None
    assert table.take("alice", name + "x") is None
    found = table.take("alice", name)
    assert found is not None
    assert found.exchange is held
    assert table.take("alice", name) is None
    assert not held.left.is_set()


async def test_its_end_in_time_cancels_upstream_and_stops_listening(tasks):
    table = Conversations(tasks, RandomIds(), ttl_s=0.02)
    held = Held()
    name = table.park(parked(held))
    async with asyncio.timeout(2):
        await held.left.wait()
    assert held.cancelled == 1
    assert table.take("alice", name) is None


async def test_without_an_end_in_time_it_would_wait_on(tasks):
    """The negative twin of the test above."""
    table = Conversations(tasks, RandomIds(), ttl_s=3600)
    held = Held()
    table.park(parked(held))
    await asyncio.sleep(0.05)
    assert not held.left.is_set()
    await table.close()


async def test_one_caller_cannot_take_the_place_of_others(tasks):
    table = Conversations(tasks, RandomIds(), per_caller=2, per_worker=3)
    for _ in range(2):
        table.park(parked(Held()))
    with pytest.raises(UpstreamFault):
        table.park(parked(Held()))
    theirs = table.park(parked(Held(), "bob"))
    with pytest.raises(UpstreamFault):
        table.park(parked(Held(), "carol"))
    assert table.take("bob", theirs) is not None
    table.park(parked(Held(), "carol"))
    await table.close()


async def test_the_workers_end_ends_every_conversation_even_at_an_upstream_that_hangs(tasks):
    table = Conversations(tasks, RandomIds())
    held = [Held(), Held(stuck=True), Held()]
    for one in held:
        table.park(parked(one))
    async with asyncio.timeout(2):
        await table.close()
    assert all(one.left.is_set() and one.cancelled == 1 for one in held)
    assert len(table) == 0


async def test_names_are_unguessable(tasks):
    table = Conversations(tasks, RandomIds())
    names = {table.park(parked(Held(), str(n))) for n in range(50)}
    assert len(names) == 50
    assert all(len(name) >= 26 for name in names)
    await table.close()
