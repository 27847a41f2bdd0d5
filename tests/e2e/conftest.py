"""Real upstream processes, and a real ``bartizan up`` with one or with four workers in front of them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.composed import ROOT, Started, settings, started

TOOLS = {"list_notes": "read", "read_page": "read", "write_note": "write", "send_note": "send", "delete_all": "destroy"}


@contextlib.contextmanager
def example(script: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """Run one of ``examples/`` for the length of a block; yield the line of JSON that it prints."""
    child = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / script), "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        assert line, f"{script} did not start"
        yield json.loads(line)
    finally:
        child.terminate()
        try:
            child.wait(timeout=3)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


@dataclass(frozen=True)
class Upstreams:
    """Where the real servers listen."""

    notes: dict[str, Any]
    agent: dict[str, Any]
    provider: dict[str, Any]

    def config(self) -> dict[str, Any]:
        """The part of the configuration that names them. The notes are trusted, so that only what is found taints."""
        model = {"provider": "demo", "model": "demo-small", "input_usd": 1.0, "output_usd": 1.0}
        provider = {"base_url": self.provider["url"], "network": "loopback"}
        notes = {"url": self.notes["url"], "network": "loopback", "trust": "trusted", "tools": TOOLS}
        agent = {"card_url": self.agent["card_url"], "keys": self.agent["jwks"], "network": "loopback"}
        return {
            "mcp": {"notes": notes},
            "a2a": {"echo": agent},
            "llm": {
                "providers": {"demo": provider, "messages": {**provider, "protocol": "anthropic"}},
                "models": {"demo": model, "demo-messages": {**model, "provider": "messages"}},
            },
        }


@pytest.fixture(scope="session")
def upstreams() -> Iterator[Upstreams]:
    """Start the demonstration's own servers once."""
    with (
        example("demo_mcp_server.py", "--control-port", "0") as notes,
        example("demo_a2a_agent.py") as agent,
        example("demo_provider.py") as provider,
    ):
        yield Upstreams(notes, agent, provider)


@pytest.fixture(scope="session", params=[1, 4], ids=["1 worker", "4 workers"])
def firewall(
    request: pytest.FixtureRequest, upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    """A running command, kept for the tests that leave it as it was."""
    directory: Path = tmp_path_factory.mktemp("up")
    config = settings(directory / "state", workers=request.param, **upstreams.config())
    config["mcp"]["time"] = program("mcp_server_time", get_current_time="read", convert_time="read")
    with started(config, directory) as run:
        run.workers = request.param  # type: ignore[attr-defined]
        yield run


def program(module: str, **tools: str) -> dict[str, Any]:
    """The configuration of a Python program of this environment as a local server."""
    paths = sorted({sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)})
    command = [sys.executable, "-m", module]
    return {"command": command, "read": paths, "trust": "trusted", "unsandboxed": True, "tools": tools}


def bartizan(run: Started, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command against a running node."""
    config = run.log.parent / "bartizan.yaml"
    return subprocess.run(
        [sys.executable, "-m", "firewall.cli.main", "--config", str(config), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
