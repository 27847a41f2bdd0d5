"""Every attack of ``cases/``, and its harmless twin, through the whole firewall and real sockets."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest

from tests.attack.runner import CLAUDE, MODEL, Case, Run, load
from tests.support.composed import Composed, composed, settings
from tests.support.world import LLMScript, World, world

pytestmark = [pytest.mark.flow, pytest.mark.timeout(120)]
CASES = load()
_numbers = itertools.count()


@pytest.fixture(scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Composed, World]]:
    """One firewall for all cases: each has its own upstream and its own callers."""
    async with world() as upstreams:
        upstreams.llm[MODEL] = LLMScript()
        provider = {"base_url": f"{upstreams.origin}/llm/{MODEL}", "network": "loopback"}
        model = {"provider": "up", "model": MODEL, "input_usd": 1.0, "output_usd": 1.0}
        config = settings(
            tmp_path_factory.mktemp("attack") / "state",
            mcp={"first": {"url": upstreams.add_mcp("first"), "network": "loopback", "tools": {"echo": "read"}}},
            llm={
                "providers": {"up": provider, "other": {**provider, "protocol": "anthropic"}},
                "models": {MODEL: model, CLAUDE: {**model, "provider": "other"}},
            },
        )
        async with composed(config) as wall:
            yield wall, upstreams


async def run(house: tuple[Composed, World], case: Case, *, twin: bool) -> None:
    """Take one half of a case under a name of its own."""
    wall, upstreams = house
    name = f"c{next(_numbers)}"
    await Run(wall, upstreams, case, name, twin).go()
    # Its server is nobody's any more: the next case does not go through all those before it.
    registry = wall.worker.registry
    for kind in ("mcp", "a2a"):
        entry = registry.get("default", kind, name)
        if entry is not None and entry.state != "revoked":
            registry.revoke("default", kind, name, by="test")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_the_attack_comes_to_nothing(house: tuple[Composed, World], case: Case) -> None:
    await run(house, case, twin=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
async def test_its_twin_passes(house: tuple[Composed, World], case: Case) -> None:
    await run(house, case, twin=True)
