"""Invariant 2: a raised label or epoch is readable by every worker before the bytes that caused it are released.

Two workers of one node in this process: the same state directory, a port each.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from firewall.enforce.labels import FlowLabels
from tests.invariants.conftest import HIDDEN, house_config
from tests.support.composed import Answer, Composed, composed, free_port
from tests.support.kit import LocalMarks
from tests.support.world import World, world

pytestmark = pytest.mark.flow


@contextlib.asynccontextmanager
async def node(state: Path) -> AsyncIterator[tuple[Composed, Composed, World]]:
    async with world() as upstreams:
        config = house_config(upstreams, state, workers=2)
        second = {**config, "listeners": {"data": {"port": free_port()}, "admin": {"port": free_port()}}}
        second["hosts"] = [f"127.0.0.1:{second['listeners']['data']['port']}"]
        async with composed(config) as one, composed(second) as two:
            yield one, two, upstreams


def token(wall: Composed, subject: str = "u_ann") -> str:
    return wall.mint("/mcp/demo", "demo:read", "demo:write", sub=subject)


async def read_hidden(wall: Composed, upstreams: World) -> Answer:
    upstreams.mcp["demo"].answer = {"content": [{"type": "text", "text": HIDDEN}]}
    answer = await wall.call("demo", "echo", {"text": "x"}, token=token(wall))
    upstreams.mcp["demo"].answer = None
    assert answer.json["result"]["content"][0]["text"] == "Welcome."
    return answer


def refused(answer: Answer) -> bool:
    return bool(answer.json["result"].get("isError"))


async def test_what_one_worker_saw_binds_the_other(tmp_path: Path) -> None:
    async with node(tmp_path / "state") as (one, two, upstreams):
        assert not refused(await two.call("demo", "wipe", {}, token=token(two)))
        await read_hidden(one, upstreams)
        assert refused(await two.call("demo", "wipe", {}, token=token(two)))
        assert not refused(await two.call("demo", "wipe", {}, token=token(two, "u_bob")))


async def test_the_other_worker_knows_before_the_bytes_are_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node(tmp_path / "state") as (one, two, upstreams):
        seen: list[int] = []
        commit = type(one.worker.guard).commit

        def watched(self, permit, exchange):  # type: ignore[no-untyped-def]
            if permit.action.point == "mcp.tool.result":
                seen.append(int(two.worker.guard._labels.current(permit.action.principal)))
            return commit(self, permit, exchange)

        monkeypatch.setattr(type(one.worker.guard), "commit", watched)
        await read_hidden(one, upstreams)
        assert seen
        assert seen[-1] != 0, "the record was written, and then the bytes, before the other worker could know"


async def test_with_private_memory_the_other_worker_would_let_it_through(tmp_path: Path) -> None:
    async with node(tmp_path / "state") as (one, two, upstreams):
        two.worker.guard._labels = FlowLabels(LocalMarks(), two.worker.store.collection("private"))
        await read_hidden(one, upstreams)
        assert not refused(await two.call("demo", "wipe", {}, token=token(two)))


async def test_a_stop_and_a_revocation_count_in_the_other_worker_at_once(tmp_path: Path) -> None:
    async with node(tmp_path / "state") as (one, two, _):
        held = token(two)
        assert not refused(await two.call("demo", "echo", {"text": "x"}, token=held))
        one.worker.kill_switch.pull("default", "upstream", "demo", by="test")
        assert refused(await two.call("demo", "echo", {"text": "x"}, token=held))
        one.worker.kill_switch.release("default", "upstream", "demo")
        assert not refused(await two.call("demo", "echo", {"text": "x"}, token=held))
        one.worker.identity.grants.revoke("default", "u_ann", "g_u_ann", reason="test")
        assert (await two.call("demo", "echo", {"text": "x"}, token=held)).status == 401


async def test_without_the_epoch_the_other_worker_would_go_on_believing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node(tmp_path / "state") as (one, two, _):
        held = token(two)
        assert not refused(await two.call("demo", "echo", {"text": "x"}, token=held))
        still = two.worker.marks.epoch()
        monkeypatch.setattr(type(two.worker.marks), "epoch", lambda _self: still)
        one.worker.kill_switch.pull("default", "upstream", "demo", by="test")
        one.worker.identity.grants.revoke("default", "u_ann", "g_u_ann", reason="test")
        assert not refused(await two.call("demo", "echo", {"text": "x"}, token=held))
