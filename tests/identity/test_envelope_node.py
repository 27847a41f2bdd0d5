"""A whole node: the envelope secret is replaced by command while its workers run, and none of them is restarted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from firewall.cli import main as command
from firewall.identity.upstream.grants import Place, UpstreamGrant, UpstreamGrants
from firewall.state import resealing
from firewall.worker import Worker
from tests.invariants.conftest import house_config
from tests.support.composed import composed
from tests.support.world import world

pytestmark = pytest.mark.flow


def grants_of(worker: Worker) -> UpstreamGrants:
    """Return the very rows that the worker's broker reads."""
    upstreams = worker.identity.upstreams
    assert upstreams is not None
    return upstreams.grants


def place(name: str) -> Place:
    return Place("default", name, "demo", "https://up.example/mcp", "https://as.example", "app")


def grant(name: str) -> UpstreamGrant:
    return UpstreamGrant(place(name), f"ug_{name}", f"at-{name}", f"rt-{name}", 1, 2, ("read",), 1)


@pytest.mark.parametrize("workers", [1, 4])
async def test_every_worker_reads_and_seals_on_under_the_new_secret_without_a_restart(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    async with world() as upstreams, composed(house_config(upstreams, state), workers=workers) as wall:
        rows = [grants_of(worker) for worker in wall.everyone]
        assert len(rows) == workers
        rows[0].save(grant("ada"))
        before = rows[-1].find(place("ada"))  # the last worker has opened the old key
        assert before is not None
        code = await asyncio.to_thread(
            command.main, ["--state-dir", str(state), "keys", "rotate", "--envelope", "--json"]
        )
        told = orjson.loads(capsys.readouterr().out)
        assert (code, told["state"], told["left"], told["generations"]) == (0, "settling", 0, [1, 2])
        for n, own in enumerate(rows):
            assert own.find(place("ada")) == before  # its version too: whoever was renewing it still can
            own.save(grant(f"new-{n}"))
        renewed = rows[-1].save(before, if_version=before.version)
        monkeypatch.setattr(resealing, "SETTLES_S", 0)
        for worker in wall.everyone:  # what each worker's timer does
            await asyncio.to_thread(worker.parts["envelope"].step)
        assert sorted(path.name for path in (state / "keys").glob("secret-envelope.*")) == ["secret-envelope.2"]
        for own in rows:
            assert own.find(place("ada")) == renewed
            assert all(own.find(place(f"new-{n}")) is not None for n in range(workers))
        assert wall.faults == []
        told_of = [r for r in wall.records() if str(r.get("event", "")).startswith("identity.envelope.")]
        assert [(r["event"], r["generation"]) for r in told_of] == [
            ("identity.envelope.rotated", 2),
            ("identity.envelope.retired", 2),
        ]
        assert told_of[0]["by"]
        assert told_of[1]["rows"] == 1
