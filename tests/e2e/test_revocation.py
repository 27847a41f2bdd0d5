"""A revocation is in force in every worker of a node as soon as it was answered, and within a second of being asked for."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from firewall.record.log import iter_bundles
from tests.e2e.test_token_workers import Client
from tests.support.composed import settings, started
from tests.support.ending import in_time, watch
from tests.support.world import tool, world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ROUNDS = 3
WORKERS = 4


def served(log: Path) -> int:
    """Return how many calls a worker's log tells of."""
    entries = [json.loads(entry) for _, bundle, _ in iter_bundles(log) for entry in bundle]
    return sum(entry.get("action", {}).get("method") == "tools/call" for entry in entries)


async def test_a_revocation_reaches_the_cached_tokens_of_every_worker_within_a_second(tmp_path: Path) -> None:
    async with world() as upstreams:
        demo = {"url": upstreams.add_mcp("demo", tools=[tool("note", "mark")]), "network": "loopback"}
        config = settings(tmp_path / "state", workers=WORKERS, mcp={"demo": {**demo, "tools": {"note": "read"}}})
        with started(config, tmp_path) as wall:
            seen = []
            for _ in range(ROUNDS):
                ended, kept = Client(wall), Client(wall)
                await ended.sign_in()
                await kept.sign_in()
                assert set(await ended.many()) == set(await kept.many()) == {200}  # cached wherever they were

                async def call(client: Client = ended) -> int:
                    return (await client.call()).status

                async def revoke(client: Client = ended) -> None:
                    await wall.revoke(client.token)

                seen.append(await watch(call, revoke))
                assert set(await kept.many()) == {200}  # the twin: nothing else was ended
            # Whoever is told that a token is over may rely on it, however slow the machine is.
            assert {status for one in seen for status in one.after} == {401}
            assert in_time([one.late_s for one in seen], 1.0, pace_s=max(one.pace_s for one in seen)), seen
            # Each worker writes a log of its own: all of them had served these tokens.
            assert sum(served(log) > 0 for log in wall.audit.glob("log_*")) == WORKERS


@pytest.mark.parametrize("slow_s", [0.0, 0.4])
async def test_an_ending_that_answers_before_it_holds_is_seen(slow_s: float) -> None:
    """The twin of the measurement: what it is told first, and what holds only later."""
    holds = float("inf")

    async def call() -> int:
        await asyncio.sleep(0.001)
        return 200 if time.monotonic() < holds else 401

    async def end() -> None:
        nonlocal holds
        holds = time.monotonic() + slow_s

    seen = await watch(call, end)
    assert (200 in seen.after) is bool(slow_s)
    assert in_time([seen.told_late_s], 0.2, pace_s=0.0) is not bool(slow_s)
