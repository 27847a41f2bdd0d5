"""Ending: killed under load no record of a forwarded call is lost; told to stop, everything is gone in two seconds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from firewall.record.verify import verify
from tests.e2e.conftest import program
from tests.support.composed import Started, modern, request_bytes, settings, started
from tests.support.pace import slack_s
from tests.support.world import World, tool, world

# Beside the outside suites, where nothing else is timed: these load a node, kill and interrupt it.
pytestmark = [pytest.mark.e2e, pytest.mark.conformance, pytest.mark.timeout(120)]


def config_for(upstreams: World, directory: Path, workers: int = 1) -> dict[str, Any]:
    count = {"url": upstreams.add_mcp("count", tools=[tool("note", "mark")]), "network": "loopback"}
    return settings(directory / "state", workers=workers, mcp={"count": {**count, "tools": {"note": "read"}}})


def vkeys(run: Started) -> list[str]:
    return (run.audit / "vkey").read_text().split()


@pytest.mark.parametrize("workers", [1, 4])
async def test_kill_9_under_load_loses_no_record_of_a_call_that_was_forwarded(tmp_path: Path, workers: int) -> None:
    async with world() as upstreams:
        config = config_for(upstreams, tmp_path, workers)
        with started(config, tmp_path) as run:
            token = await run.sign_in("/mcp/count", "count:read")
            stop = asyncio.Event()

            async def load(lane: int) -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
                        await run.call("count", "note", {"mark": f"m-{lane}-{number}"}, token=token)

            lanes = [asyncio.create_task(load(lane)) for lane in range(8)]
            while len(upstreams.calls()) < 150:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(run.kill)
            stop.set()
            await asyncio.gather(*lanes)
            forwarded = len(upstreams.calls())
        # Beside each other: what the upstream got, and what stands in the log. Started again, it opens and verifies.
        with started(config, tmp_path) as again:
            token = await again.sign_in("/mcp/count", "count:read")
            assert (await again.call("count", "note", {"mark": "after"}, token=token)).json["result"]
            keys = vkeys(again)
        records = again.records("decision")
        intents = [r for r in records if r["point"] == "mcp.tool.call" and r["phase"] == "intent"]
        assert forwarded >= 150
        assert len(intents) >= len(upstreams.calls())
        sizes = sorted(r["args"]["bytes"] for r in intents)
        got = sorted(len(s.raw) for s in upstreams.calls())
        for size in set(got):  # each forwarded call has an intent of its own, of exactly its length
            assert sizes.count(size) >= got.count(size)
        report = verify(again.audit, keys)
        assert report.ok, report.text()


@pytest.mark.parametrize("workers", [1, 4])
async def test_an_interrupt_with_open_streams_ends_everything_within_two_seconds(tmp_path: Path, workers: int) -> None:
    async with world() as upstreams:
        with started(config_for(upstreams, tmp_path, workers), tmp_path) as run:
            token = await run.sign_in("/mcp/count", "count:read")
            assert (await run.call("count", "note", {"mark": "first"}, token=token)).status == 200
            upstreams.hold = asyncio.Event()  # from here on the upstream keeps everybody waiting
            body, headers = modern("tools/call", {"name": "note", "arguments": {"mark": "held"}})
            sent = {**headers, "authorization": f"Bearer {token}"}
            data = request_bytes("/mcp/count", run.url[7:], list(sent.items()), json.dumps(body).encode())
            streams = []
            for _ in range(12):
                _, writer = await asyncio.open_connection("127.0.0.1", run.port)
                writer.write(data)
                streams.append(writer)
            while len(upstreams.calls()) < 13:
                await asyncio.sleep(0.01)
            below = run.children()
            assert len(below) >= (4 if workers == 4 else 0)
            took = await asyncio.to_thread(run.interrupt)
            upstreams.hold.set()
            for writer in streams:
                writer.close()
            assert took < 2.0 + slack_s(), f"{took:.2f} s"
            # Python's own resource tracker ends when it notices that its parent is gone: a moment later.
            until = time.monotonic() + 2.0
            while any(alive(pid) for pid in below) and time.monotonic() < until:
                await asyncio.sleep(0.02)
            assert not [pid for pid in below if alive(pid)]
            assert run.process.returncode == 0
            keys = vkeys(run)
        report = verify(run.audit, keys)
        assert report.ok, report.text()


@pytest.mark.parametrize("workers", [1, 4])
async def test_an_interrupt_under_load_ends_programs_and_sessions_too(tmp_path: Path, workers: int) -> None:
    async with world() as upstreams:
        config = config_for(upstreams, tmp_path, workers)
        config["mcp"]["time"] = program("mcp_server_time", get_current_time="read")
        with started(config, tmp_path) as run:
            tokens = {name: await run.sign_in(f"/mcp/{name}", f"{name}:read") for name in ("count", "time")}
            zone = {"timezone": "Europe/Vienna"}
            assert (await run.call("time", "get_current_time", zone, token=tokens["time"])).json["result"]
            stop, done = asyncio.Event(), 0

            async def load(lane: int) -> None:
                nonlocal done
                while not stop.is_set():
                    with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
                        if lane % 2:
                            await run.call("time", "get_current_time", zone, token=tokens["time"])
                        else:
                            await run.call("count", "note", {"mark": "x"}, token=tokens["count"])
                        done += 1

            lanes = [asyncio.create_task(load(lane)) for lane in range(8)]
            while done < 40:
                await asyncio.sleep(0.01)
            below = run.children()
            took = await asyncio.to_thread(run.interrupt)
            stop.set()
            await asyncio.gather(*lanes)
            assert took < 2.0 + slack_s(), f"{took:.2f} s"
            until = time.monotonic() + 2.0
            while any(alive(pid) for pid in below) and time.monotonic() < until:
                await asyncio.sleep(0.02)
            assert not [pid for pid in below if alive(pid)]
            assert run.process.returncode == 0
            keys = vkeys(run)
        report = verify(run.audit, keys)
        assert report.ok, report.text()


async def test_a_single_worker_that_stands_still_is_killed_and_replaced(tmp_path: Path) -> None:
    async with world() as upstreams:
        with started(config_for(upstreams, tmp_path), tmp_path) as run:
            token = await run.sign_in("/mcp/count", "count:read")
            (worker,) = workers_of(run)
            os.kill(worker, signal.SIGSTOP)  # as an engine that does not come back: its loop turns no more
            until = time.monotonic() + 20
            while alive(worker) and time.monotonic() < until:
                await asyncio.sleep(0.1)
            assert not alive(worker)
            answer = None
            while answer is None and time.monotonic() < until:
                with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
                    answer = await run.call("count", "note", {"mark": "x"}, token=token)
            assert answer is not None
            assert answer.status == 200
            assert workers_of(run) != [worker]
            assert "worker_stuck" in run.log.read_text()


def workers_of(run: Started) -> list[int]:
    """Return the worker processes."""
    return [pid for pid in run.children() if b"\0worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_killed_worker_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    async with world() as upstreams:
        with started(config_for(upstreams, tmp_path, 2), tmp_path) as run:
            token = await run.sign_in("/mcp/count", "count:read")
            workers = [pid for pid in run.children() if b"\0worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            assert len(workers) == 2
            os.kill(workers[0], signal.SIGKILL)
            until = time.monotonic() + 10
            answered = 0
            while time.monotonic() < until and answered < 20:
                with contextlib.suppress(OSError, EOFError, asyncio.IncompleteReadError):
                    answered += (await run.call("count", "note", {"mark": "x"}, token=token)).status == 200
            assert answered == 20
            while time.monotonic() < until:
                now = [pid for pid in run.children() if b"\0worker\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
                if len(now) == 2 and workers[0] not in now:
                    break
                await asyncio.sleep(0.1)
            else:
                pytest.fail("the killed worker was not replaced")
            assert (await run.call("count", "note", {"mark": "y"}, token=token)).status == 200
