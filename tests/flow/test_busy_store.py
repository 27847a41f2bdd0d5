"""A whole node while another program holds the write lock of its state: what was verified goes on, new things wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from firewall.state import contention
from tests.invariants.conftest import house_config
from tests.state.test_contention import foreign_writer
from tests.support.composed import Answer, Composed, composed, modern
from tests.support.world import world

pytestmark = pytest.mark.flow


async def test_known_callers_go_on_and_what_must_be_written_first_is_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contention, "LOOP_S", 0.02)
    async with world() as upstreams, composed(house_config(upstreams, tmp_path / "state")) as wall:
        caller = wall.mint("/mcp/demo", "demo:read", "demo:write")
        chatter = wall.mint("/v1", "llm:invoke")

        async def call() -> int:
            return (await wall.call("demo", "echo", {"text": "x"}, token=caller)).status

        async def listing() -> int:
            body, headers = modern("tools/list")
            return (await wall.post("/mcp/demo", body, token=caller, headers=headers)).status

        async def chat() -> Answer:
            asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            return await wall.post("/v1/chat/completions", asked, token=chatter)

        assert [await call(), await listing()] == [200, 200]
        with foreign_writer(tmp_path / "state" / "state.db"):
            assert [await one() for _ in range(3) for one in (call, listing)] == [200] * 6
            assert (await chat()).status == 503  # its budget is reserved durably first
            assert await _sign_in(wall) == 503
        assert (await chat()).status == 200
        assert await _sign_in(wall) == 200
        assert await call() == 200


async def _sign_in(wall: Composed) -> int:
    try:
        await wall.sign_in("/mcp/demo", "demo:read")
    except AssertionError as refused:
        return 503 if "temporarily_unavailable" in str(refused) else 0
    return 200
