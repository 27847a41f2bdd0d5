"""Invariant 7: a local program sees neither keys nor state nor policy, nor our environment; its cage is configured, or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from firewall import app, config
from firewall.core.errors import ConfigFault
from mcp_gateway import sandbox
from tests.support.composed import composed, settings, warm_cache

pytestmark = pytest.mark.flow
CHILD = Path(__file__).parents[1] / "mcp_gateway" / "child.py"
WALLS = sandbox.detect()
LANDLOCK = "this kernel has no Landlock: children are kept from our files by nothing here (bartizan doctor says so)"


def child(secret: Path, **changes: Any) -> dict[str, Any]:
    paths = sorted({sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent), str(CHILD.parent)})
    given = {"command": [sys.executable, str(CHILD), str(secret)], "read": paths, "unsandboxed": True}
    return {**given, "tools": {"report": "read"}, **changes}


async def report(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    state = tmp_path / "state"
    secret = state / "keys" / "seal.key"
    given = settings(state, mcp={"local": child(secret, **changes)})
    async with composed(given) as wall:
        kept = sorted((state / "keys").iterdir())
        assert kept
        if not secret.exists():
            secret.write_text("a key")
        answer = await wall.call("local", "report", {}, token=wall.mint("/mcp/local", "local:read"))
        return dict(json.loads(answer.json["result"]["content"][0]["text"]))


@pytest.mark.skipif("landlock" in WALLS.missing, reason=LANDLOCK)
async def test_a_child_cannot_read_our_keys_and_without_the_cage_it_could(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BARTIZAN_TEST_SECRET", "not for children")
    caged = await report(tmp_path / "caged")
    assert caged["secret"] == "PermissionError"
    assert "BARTIZAN_TEST_SECRET" not in caged["environment"]
    assert not [name for name in caged["environment"] if name.startswith("BARTIZAN")]
    free = await report(tmp_path / "free", sandbox="off")
    assert free["secret"] == "allowed", "the cage is not what keeps it out"


async def test_the_environment_is_minimal_even_without_a_cage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BARTIZAN_TEST_SECRET", "not for children")
    said = await report(tmp_path, sandbox="off", env={"NOTE": "given"})
    assert "BARTIZAN_TEST_SECRET" not in said["environment"]
    assert "NOTE" in said["environment"]


@pytest.mark.skipif("network namespace" in WALLS.missing, reason="this kernel gives no network namespace")
async def test_a_child_reaches_nothing_by_itself(tmp_path: Path) -> None:
    assert (await report(tmp_path))["network"] != "allowed"


@pytest.mark.parametrize("reach", [".", "keys", ".."])
def test_a_child_may_not_be_given_our_state(tmp_path: Path, reach: str) -> None:
    state = tmp_path / "deep" / "state"
    given = settings(state, mcp={"local": child(state, read=[str((state / reach).resolve())])})
    with warm_cache(state), pytest.raises(ConfigFault, match="sandbox_private"):
        app.build(config.build(given))


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.skipif("landlock" in WALLS.missing, reason=LANDLOCK)
async def test_a_program_whose_own_directory_reaches_our_state_is_refused_and_would_read_our_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    """Its directory is granted without being asked for: a server that lies in a home would see what else lies there."""
    program = tmp_path / "home" / "server"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {CHILD} $1\n")
    program.chmod(0o700)
    refused = tmp_path / "home" / "refused"
    named = program
    if linked:
        (tmp_path / "bin").mkdir()
        named = tmp_path / "bin" / "server"
        named.symlink_to(program)
    command = [str(named), str(tmp_path / "home" / "state" / "keys" / "seal.key")]
    with warm_cache(refused), pytest.raises(ConfigFault, match="sandbox_private"):
        app.build(config.build(settings(refused, mcp={"local": child(refused, command=command)})))
    monkeypatch.setattr("mcp_gateway.stdio._overlap", lambda _a, _b: False)
    assert (await report(tmp_path / "home", command=command))["secret"] == "allowed"


def test_running_without_any_wall_must_be_written_down(tmp_path: Path) -> None:
    with pytest.raises(ConfigFault) as told:
        config.build(settings(tmp_path / "state", mcp={"local": child(tmp_path, sandbox="off", unsandboxed=False)}))
    assert "unsandboxed: true" in told.value.detail


def test_a_command_never_comes_through_the_registry(tmp_path: Path) -> None:
    """ISO-02: an API body may name an address, never a program."""
    import asyncio

    async def go() -> None:
        async with composed(settings(tmp_path / "state")) as wall:
            spec = {"command": ["/bin/sh", "-c", "id"], "unsandboxed": True}
            wall.worker.registry.register("default", "mcp", "evil", spec, by="test")
            wall.worker.registry.approve("default", "mcp", "evil", by="test")
            wall.worker.refresh()
            answer = await wall.call("evil", "run", {}, token=wall.mint("/mcp/evil", "evil:read"))
            assert answer.status == 404

    asyncio.run(go())
