"""A leash ends its block and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from mcp_gateway.leash import Leash


async def test_a_block_that_is_not_pulled_knows_nothing_of_its_leash() -> None:
    leash = Leash()
    with leash:
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match="mine"):
        with leash:
            raise ValueError("mine")
    leash.pull()  # late: there is nothing to end
    await asyncio.sleep(0)


async def test_pulling_ends_the_block_at_its_wait_and_the_task_goes_on() -> None:
    leash = Leash()
    asyncio.get_running_loop().call_soon(leash.pull)
    with leash:
        await asyncio.sleep(5)
        pytest.fail("the block went on")
    assert leash.pulled
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_leash_that_was_pulled_before_ends_the_block_at_once() -> None:
    leash = Leash()
    leash.pull()
    with leash:
        await asyncio.sleep(5)
        pytest.fail("the block went on")


async def test_pulling_twice_or_from_within_is_pulling_once() -> None:
    leash = Leash()
    with leash:
        leash.pull()
        leash.pull()
        await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_block_that_waits_for_nothing_more_leaves_no_cancellation_behind() -> None:
    leash = Leash()
    with leash:
        leash.pull()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_a_cancellation_from_elsewhere_goes_through_and_so_does_one_beside_a_pull() -> None:
    for pulled in (False, True):
        leash = Leash()
        started = asyncio.Event()

        async def held(leash: Leash = leash, started: asyncio.Event = started) -> None:
            with leash:
                started.set()
                await asyncio.sleep(5)

        task = asyncio.ensure_future(held())
        await started.wait()
        if pulled:
            leash.pull()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
