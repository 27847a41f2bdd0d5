"""Live differential check: what differs is noticed, and the engine steps back to the strict one."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from firewall.core.points import Point
from firewall.decide import bundle as bundles
from firewall.decide.bundle import Bundle
from firewall.decide.regorus import RegorusEngine
from firewall.decide.sampler import QUEUE, Difference, SampledEngine
from tests.decide.samples import call, encoded, tool

CALL = Point.MCP_TOOL_CALL
CHANGED = encoded(call(resource=tool(pin="changed")))


def wrong_programs(bundle: Bundle) -> Bundle:
    """Return the bundle with programs that lost one finding rule and one half of the permission."""
    source = bundle.modules["firewall/rules/tools.rego"]
    loose = source.replace('if facts.pin == "changed"', "if false").replace(
        'pinned if facts.pin in {"approved", "warned"}', "pinned if true"
    )
    other = replace(bundle, modules={**bundle.modules, "firewall/rules/tools.rego": loose})
    return replace(bundle, programs=bundles.programs_of(other))


def test_a_wrong_program_is_caught_and_replaced(shipped: Bundle) -> None:
    alarms: list[Difference] = []
    broken = wrong_programs(shipped)
    engine = SampledEngine(RegorusEngine(broken), broken, every=10, alarm=alarms.append)
    assert b'"allow"' in engine.decide(CALL, CHANGED), "the planted fault must be one"
    assert engine.drain() == 1
    assert alarms == [Difference(CALL, "allow", "deny", shipped.revision)]
    assert engine.mode == "interpreter"
    assert engine.name.startswith("regorus/")
    assert b'"deny"' in engine.decide(CALL, CHANGED)


def test_a_right_program_raises_no_alarm(shipped: Bundle) -> None:
    alarms: list[Difference] = []
    engine = SampledEngine(RegorusEngine(shipped), shipped, every=1, alarm=alarms.append)
    for case in shipped.cases:
        engine.decide(case.point, case.document)
        assert engine.drain() == 1
    assert alarms == []
    assert engine.mode == "compiled"


def test_one_in_so_many_is_kept_and_the_queue_is_bounded(shipped: Bundle) -> None:
    engine = SampledEngine(RegorusEngine(shipped), shipped, every=5, alarm=pytest.fail)
    for _ in range(20):
        engine.decide(CALL, encoded(call()))
    assert engine.drain() == 4
    engine = SampledEngine(RegorusEngine(shipped), shipped, every=1, alarm=pytest.fail)
    for _ in range(QUEUE * 2):
        engine.decide(CALL, encoded(call()))
    assert engine.drain(QUEUE * 2) == QUEUE


@pytest.mark.anyio
async def test_the_task_drains_until_it_is_cancelled(shipped: Bundle) -> None:
    engine = SampledEngine(RegorusEngine(shipped), shipped, every=1, alarm=pytest.fail)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(engine.run())
        for _ in range(3):
            engine.decide(CALL, encoded(call()))
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert engine.sampled == 3
        task.cancel()
