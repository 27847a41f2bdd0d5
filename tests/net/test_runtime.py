"""Clocks, identifiers and supervised tasks."""

import asyncio

import pytest

from firewall.net.runtime import FakeClock, RandomIds, SystemClock, Tasks


def test_identifiers_are_130_bits_in_crockford_base32() -> None:
    ids = {RandomIds().new("dec") for _ in range(1000)}
    assert len(ids) == 1000
    for made in ids:
        prefix, _, text = made.partition("_")
        assert prefix == "dec"
        assert len(text) == 26
        assert set(text) <= set("0123456789ABCDEFGHJKMNPQRSTVWXYZ")
    # Every character varies: no part of the randomness is cut off.
    assert all(len({made[4 + at] for made in ids}) > 16 for at in range(26))


def test_the_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock()
    before = (clock.now_us(), clock.monotonic_ns())
    clock.advance(1.5)
    assert (clock.now_us() - before[0], clock.monotonic_ns() - before[1]) == (1_500_000, 1_500_000_000)


def test_the_system_clock_has_its_units() -> None:
    assert 10**15 < SystemClock().now_us() < 10**16
    assert SystemClock().monotonic_ns() <= SystemClock().monotonic_ns()


async def test_close_cancels_what_runs_and_waits_for_it() -> None:
    ended: list[str] = []
    tasks = Tasks()

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(name)

    for name in ("a", "b"):
        tasks.spawn(work(name), name)
    await asyncio.sleep(0)
    await tasks.close()
    assert sorted(ended) == ["a", "b"]
    assert len(tasks) == 0
    with pytest.raises(RuntimeError):
        tasks.spawn(work("late"), "late")


async def test_a_failed_task_is_reported_once_and_a_cancelled_one_is_not() -> None:
    errors: list[tuple[str, str]] = []
    tasks = Tasks(lambda name, error: errors.append((name, str(error))))

    async def fail() -> None:
        raise ValueError("boom")

    task = tasks.spawn(fail(), "failing")
    with pytest.raises(ValueError, match="boom"):
        await task
    tasks.spawn(asyncio.sleep(60), "sleeping")
    await tasks.close()
    assert errors == [("failing", "boom")]
