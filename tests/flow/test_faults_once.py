"""What every worker of a node finds is told by one of them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from firewall import config as configuration
from firewall.state.lease import Leases
from firewall.worker import Worker

CONFIG = configuration.build(
    {
        "public_url": "https://fw.example",
        "mcp": {"far": {"url": "https://m.example/mcp"}, "own": {"command": ["/bin/false"]}},
    }
)


class Gateway:
    async def warm(self, _tenant: str) -> dict[str, str]:
        return {"far": "unreachable", "own": "cut_stream", "good": "", "added": "unreachable"}


def worker(leases: Leases | None, told: list[str]) -> Any:
    made = Worker.__new__(Worker)
    near: Any = SimpleNamespace(leases=leases) if leases else None
    mcp: Any = Gateway()
    made.config, made.mcp, made.near = CONFIG, mcp, near
    made.on_fault = lambda code, detail: told.append(f"{code} {detail}")
    return made


async def test_an_upstream_that_cannot_be_reached_is_told_once_however_many_workers_find_it(tmp_path: Path) -> None:
    told: list[str] = []
    held = [Leases(tmp_path / "leases", index) for index in range(4)]
    for leases in held:
        await worker(leases, told)._warm()
    assert [line.split(":")[0] for line in told] == ["upstream far", "upstream own", "upstream added"]
    assert told[2].removeprefix("upstream added") == told[0].removeprefix("upstream far")  # added while it ran: a URL
    assert "could not be reached" in told[0]
    assert "its command" in told[1]
    held[0].close()  # whoever told it has ended: the next one that finds it tells it again
    await worker(held[1], told)._warm()
    assert len(told) == 6


async def test_without_leases_each_tells_it(tmp_path: Path) -> None:
    """The twin: a worker that is alone, and workers whose leases do not answer."""
    told: list[str] = []
    await worker(None, told)._warm()
    (tmp_path / "file").touch()
    await worker(Leases(tmp_path / "file" / "below", 0), told)._warm()
    assert len(told) == 6
