"""What one worker knows, all know before the next byte moves: labels, revocations, stops (DESIGN §6b-2)."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Upstreams, bartizan
from tests.support.composed import ROOT, Answer, Started, settings

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def denied(answer: Answer) -> bool:
    return bool(answer.json.get("result", {}).get("isError"))


async def many(firewall: Started, tool: str, token: str, count: int = 24) -> list[Answer]:
    """Call on connections of their own, so that the kernel spreads them over the workers."""
    return list(await asyncio.gather(*(firewall.call("notes", tool, {}, token=token) for _ in range(count))))


def logs_of(firewall: Started, subject: str, fault: str = "") -> set[str]:
    """Return the logs, one per worker, in which a caller's tool calls stand."""
    calls = [r for r in firewall.records("decision") if r["point"] == "mcp.tool.call" and r["subject"] == subject]
    return {r["log"] for r in calls if not fault or r.get("fault") == fault}


async def test_a_label_raised_by_one_worker_binds_all_before_its_bytes_are_out(firewall: Started) -> None:
    tainted = await firewall.sign_in("/mcp/notes", "notes:read", "notes:write", client="svc")
    clean = await firewall.sign_in("/mcp/notes", "notes:read", "notes:write", client="other")
    await many(firewall, "list_notes", tainted)  # every worker has met this caller, unlabelled
    if firewall.workers > 1:  # type: ignore[attr-defined]
        for _ in range(20):  # the first worker says "up" for all; the others may open their port a moment later
            if len(logs_of(firewall, "svc")) > 1:
                break
            await asyncio.sleep(0.25)
            await many(firewall, "list_notes", tainted)
        assert len(logs_of(firewall, "svc")) > 1, "the calls did not reach several workers"
    page = await firewall.call("notes", "read_page", {"name": "welcome"}, token=tainted)
    assert page.json["result"]["content"][0]["text"] == "Welcome to the notebook."
    answers = await many(firewall, "delete_all", tainted)
    assert all(denied(answer) for answer in answers)
    # The twin: the same calls of a caller that read nothing hidden go through, everywhere.
    assert not any(denied(answer) for answer in await many(firewall, "delete_all", clean))


async def test_a_revoked_token_dies_in_every_worker_within_a_second(firewall: Started) -> None:
    token = await firewall.sign_in("/mcp/notes", "notes:read")
    kept = await firewall.sign_in("/mcp/notes", "notes:read")
    assert {a.status for a in await many(firewall, "list_notes", token)} == {200}
    await firewall.revoke(token)
    began = time.monotonic()
    answers = await many(firewall, "list_notes", token)
    assert time.monotonic() - began < 5
    assert {answer.status for answer in answers} == {401}
    assert {a.status for a in await many(firewall, "list_notes", kept)} == {200}


async def test_the_kill_switch_stops_every_worker_and_lets_go_again(firewall: Started) -> None:
    token = await firewall.sign_in("/mcp/notes", "notes:read", client="other")
    assert not any(denied(a) for a in await many(firewall, "list_notes", token))
    pulled = await asyncio.to_thread(bartizan, firewall, "kill", "pull", "--upstream", "notes", "--reason", "test")
    assert pulled.returncode == 0, pulled.stderr
    assert all(denied(a) for a in await many(firewall, "list_notes", token))
    released = await asyncio.to_thread(bartizan, firewall, "kill", "release", "--upstream", "notes")
    assert released.returncode == 0, released.stderr
    assert not any(denied(a) for a in await many(firewall, "list_notes", token))


def test_several_workers_refuse_a_stdio_server_and_say_why(tmp_path: Path, upstreams: Upstreams) -> None:
    config = settings(
        tmp_path / "state", workers=2, mcp={"time": {"command": [sys.executable, "-m", "mcp_server_time"]}}
    )
    path = tmp_path / "bartizan.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "firewall.cli.main", "--config", str(path), "up"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 4, done.stderr
    assert "workers: 1" in done.stderr
