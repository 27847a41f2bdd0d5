"""What one worker knows, all know before the next byte moves: labels, revocations, stops (DESIGN §6b-2)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Upstreams, bartizan, program
from tests.support.composed import (
    ROOT,
    Answer,
    Started,
    raw_exchange,
    request_bytes,
    settings,
    started,
    warm_cache,
)
from tests.support.world import tool, world

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


# -- what lives in one worker ---------------------------------------------------------------------------------


INFO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}


async def legacy(
    firewall: Started, path: str, method: str, token: str, session: str = "", rpc_id: int | None = 1, **params: Any
) -> Answer:
    """Send one message of a legacy client on a connection of its own."""
    body = {"jsonrpc": "2.0", "method": method, "params": params, **({} if rpc_id is None else {"id": rpc_id})}
    headers = {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"} if session else {}
    return await firewall.post(path, body, token=token, headers=headers)


async def opened(firewall: Started, path: str, token: str) -> str:
    answer = await legacy(firewall, path, "initialize", token, **INFO)
    assert answer.status == 200, answer.text
    session = answer.header("mcp-session-id")
    assert session, answer.text
    assert (await legacy(firewall, path, "notifications/initialized", token, session, None)).status == 202
    return session


def processes(firewall: Started, *words: str) -> list[int]:
    """Return the processes below the firewall whose command line has all of these words."""
    found = []
    for pid in firewall.children():
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if all(any(word in part for part in line) for word in words):
                found.append(pid)
    return found


def owners(firewall: Started, program: str) -> set[int]:
    """Return the workers below which processes of a program run."""
    workers = set(processes(firewall, "spawned.py"))
    found = set()
    for pid in processes(firewall, program):
        while pid > 1 and pid not in workers:
            with contextlib.suppress(OSError):
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])  # its parent
                continue
            break
        found |= {pid} & workers
    return found


async def test_a_legacy_session_is_served_by_every_worker_and_ended_by_any(firewall: Started) -> None:
    token = await firewall.sign_in("/mcp/notes", "notes:read", client="other")
    session = await opened(firewall, "/mcp/notes", token)
    asked = [
        legacy(firewall, "/mcp/notes", "tools/call", token, session, n, name="list_notes", arguments={})
        for n in range(24)
    ]
    answers = await asyncio.gather(*asked)
    assert [a.json["id"] for a in answers] == list(range(24))
    assert not any(denied(a) for a in answers)
    foreign = await firewall.sign_in("/mcp/notes", "notes:read", client="svc")
    for _ in range(6):
        assert (await legacy(firewall, "/mcp/notes", "ping", foreign, session)).status == 404
    head = [("authorization", f"Bearer {token}"), ("mcp-session-id", session)]
    ended = await raw_exchange(firewall.port, request_bytes("/mcp/notes", firewall.url[7:], head, b"", verb="DELETE"))
    assert ended.status == 200
    for _ in range(8):
        assert (await legacy(firewall, "/mcp/notes", "ping", token, session)).status == 404


async def test_a_local_program_runs_once_and_answers_through_every_worker(firewall: Started) -> None:
    token = await firewall.sign_in("/mcp/time", "time:read", client="other")
    zone = {"timezone": "Europe/Vienna"}
    calls = (firewall.call("time", "get_current_time", zone, token=token) for _ in range(24))
    answers = await asyncio.gather(*calls)
    assert all("Vienna" in a.json["result"]["content"][0]["text"] for a in answers)
    assert len(owners(firewall, "mcp_server_time")) == 1


async def test_a_label_raised_by_a_handed_over_call_binds_all_workers(firewall: Started) -> None:
    token = await firewall.sign_in("/mcp/notes", "notes:read", "notes:write", client="third")
    session = await opened(firewall, "/mcp/notes", token)
    call = {"name": "read_page", "arguments": {"name": "welcome"}}
    page = await legacy(firewall, "/mcp/notes", "tools/call", token, session, 7, **call)
    assert page.json["result"]["content"][0]["text"] == "Welcome to the notebook."
    assert all(denied(answer) for answer in await many(firewall, "delete_all", token))


async def test_when_the_owner_is_killed_its_sessions_are_unknown_and_its_program_starts_again(
    tmp_path: Path, upstreams: Upstreams
) -> None:
    config = settings(tmp_path / "state", workers=3, mcp={"time": program("mcp_server_time", get_current_time="read")})
    with started(config, tmp_path) as firewall:
        token = await firewall.sign_in("/mcp/time", "time:read")
        sessions = [
            await opened(firewall, "/mcp/time", token) for _ in range(30)
        ]  # on all three workers, but for chance
        zone = {"timezone": "Europe/Vienna"}
        assert (await firewall.call("time", "get_current_time", zone, token=token)).json["result"]
        (owner,) = owners(firewall, "mcp_server_time")
        os.kill(owner, signal.SIGKILL)
        until = time.monotonic() + 45
        answered = 0
        while answered < 12 and time.monotonic() < until:
            with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError):
                answer = await firewall.call("time", "get_current_time", zone, token=token)
                answered = answered + 1 if "result" in answer.json else 0
        assert answered == 12, "the program was not started again"
        (heir,) = owners(firewall, "mcp_server_time")
        assert heir != owner
        told = [(await legacy(firewall, "/mcp/time", "ping", token, session)).status for session in sessions]
        assert set(told) == {200, 404}, "some sessions died with their worker, the others did not"
        fresh = await opened(firewall, "/mcp/time", token)
        assert (await legacy(firewall, "/mcp/time", "ping", token, fresh)).status == 200


async def test_a_stream_is_taken_up_again_through_another_worker(tmp_path: Path) -> None:
    async with world() as upstreams:
        slow = {"url": upstreams.add_mcp("slow", tools=[tool("note", "mark")]), "network": "loopback"}
        config = settings(tmp_path / "state", workers=4, mcp={"slow": {**slow, "tools": {"note": "read"}}})
        with started(config, tmp_path) as firewall:
            token = await firewall.sign_in("/mcp/slow", "slow:read")
            session = await opened(firewall, "/mcp/slow", token)
            call = {"name": "note", "arguments": {"mark": "held"}}
            assert (await legacy(firewall, "/mcp/slow", "tools/call", token, session, 1, **call)).status == 200
            upstreams.hold = asyncio.Event()
            before = len(upstreams.calls())
            head = [
                ("authorization", f"Bearer {token}"),
                ("mcp-session-id", session),
                ("mcp-protocol-version", "2025-11-25"),
                ("content-type", "application/json"),
                ("accept", "text/event-stream, application/json"),
            ]
            body = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", firewall.port)
            writer.write(request_bytes("/mcp/slow", firewall.url[7:], head, body))
            async with asyncio.timeout(10):
                while not (line := await reader.readline()).startswith(b"id:"):
                    assert line, "the stream was not primed"
            writer.close()  # leaving is no cancel in this era: the call goes on
            while len(upstreams.calls()) == before:
                await asyncio.sleep(0.01)
            upstreams.hold.set()
            # Every worker knows where the stream is: the same place in it, from one connection after another.
            resumed = [*head[:3], ("accept", "text/event-stream"), ("last-event-id", line[3:].strip().decode())]
            for _ in range(6):
                asked = request_bytes("/mcp/slow", firewall.url[7:], resumed, b"", verb="GET")
                answer = await raw_exchange(firewall.port, asked)
                assert answer.status == 200, answer.text
                assert answer.events[-1]["id"] == 2
                assert not denied(answer)


def test_a_port_that_is_taken_ends_all_workers_with_one_clear_message(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = settings(tmp_path / "state", workers=2)
        config["listeners"]["data"]["port"] = taken.getsockname()[1]
        path = tmp_path / "bartizan.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "firewall.cli.main", "--config", str(path), "up"]
        with warm_cache(tmp_path / "state"):  # a first start's compilations are those of tests/cli/test_up.py
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 4, done.stderr
    assert done.stderr.count("cannot bind") == 1
