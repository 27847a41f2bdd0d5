"""A block that ends with a token, and what it must not swallow."""

from __future__ import annotations

import asyncio

import pytest

from firewall.net.tenure import Tenure, TokenWatch


async def test_rs_19_a_block_ends_when_its_token_does() -> None:
    good = True
    asked: list[bool] = []

    def still() -> bool:
        asked.append(good)
        return good

    async def turn() -> bool:
        async with Tenure(still, every_s=0.005) as tenure:
            await asyncio.Event().wait()
        return tenure.over

    task = asyncio.create_task(turn())
    await asyncio.sleep(0.03)
    assert not task.done()
    assert len(asked) >= 2
    good = False
    assert await asyncio.wait_for(task, 1)
    before = len(asked)
    await asyncio.sleep(0.02)
    assert len(asked) == before


async def test_a_block_that_ends_by_itself_asks_no_more_and_is_not_over() -> None:
    asked: list[int] = []
    async with Tenure(lambda: not asked.append(1), every_s=0.005) as tenure:  # type: ignore[func-returns-value]
        pass
    await asyncio.sleep(0.02)
    assert (tenure.over, asked) == (False, [])


@pytest.mark.parametrize("error", [TimeoutError, ValueError])
async def test_an_error_of_the_block_goes_through(error: type[Exception]) -> None:
    with pytest.raises(error):
        async with Tenure(lambda: True):
            raise error


async def test_a_cancellation_from_elsewhere_goes_through() -> None:
    async def turn() -> None:
        async with Tenure(lambda: True, every_s=0.005):
            await asyncio.Event().wait()

    task = asyncio.create_task(turn())
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_watch_says_once_that_it_is_over() -> None:
    told: list[int] = []
    watch = TokenWatch(lambda: False, lambda: told.append(1), every_s=0.005)
    watch.start()
    watch.start()
    await asyncio.sleep(0.03)
    watch.stop()
    assert told == [1]


async def test_rs_19_a_look_that_fails_is_a_no() -> None:
    """Who cannot say that a token is good lets nothing go on; in a timer nobody else would hear of it."""

    def still() -> bool:
        raise KeyError

    async with Tenure(still, every_s=0.005) as tenure:
        await asyncio.wait_for(asyncio.Event().wait(), 1)
    assert tenure.over
