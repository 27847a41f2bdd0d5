"""A process that stands still ends itself, told and with its children; one that works or was stopped goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from firewall.net.watchdog import EXIT_CODE

# A guard with a child that dies with it (prctl 1: PR_SET_PDEATHSIG), as the cage makes them.
PROGRAM = """
import asyncio, ctypes, signal, subprocess, sys, time
from firewall.net.watchdog import Watchdog

async def main():
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"],
        preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL),
    )
    said = lambda silent: print(f"stuck {silent:.1f}", flush=True)
    dog = Watchdog(float(sys.argv[1]), said)
    if sys.argv[2] == "on":
        dog.start()
    print(child.pid, flush=True)
    await asyncio.sleep(0.3)
    HANG
    print("went on", flush=True)
    dog.stop()
    await asyncio.sleep(600)

asyncio.run(main())
"""
HANGS = {
    "a call that blocks": "time.sleep(600)",
    "a loop of our own": "while True: pass",
    "native code that holds the lock": "sum(range(10**13))",
}


def program(hang: str, stuck_s: float = 1.0, *, on: bool = True) -> subprocess.Popen[str]:
    source = textwrap.dedent(PROGRAM).replace("HANG", hang)
    argv = [sys.executable, "-c", source, str(stuck_s), "on" if on else "off"]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    found: list[subprocess.Popen[str]] = []
    yield found
    for one in found:
        one.kill()
        one.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def gone(pid: int) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_a_process_whose_loop_stands_still_ends_with_its_child(started: list, hang: str) -> None:
    process = program(hang)
    started.append(process)
    child = int(first_line(process))
    out, err = process.communicate(timeout=60)
    assert gone(child)
    if "sum" in hang:
        assert process.returncode == -signal.SIGPROF, "no thread of ours could run"
        assert 'File "<string>"' in err, "and where it stood is told"
    else:
        assert process.returncode == EXIT_CODE
        assert out.startswith("stuck ")
    assert "went on" not in out


@pytest.mark.parametrize(
    ("what", "hang", "on"),
    [
        ("work in pieces", "[await asyncio.sleep(0.05) for _ in range(30)]", True),
        ("control off", "time.sleep(1.6)", False),
    ],
)
def test_a_process_that_works_and_one_that_nobody_watches_go_on(started: list, what: str, hang: str, on: bool) -> None:
    process = program(hang, on=on)
    started.append(process)
    first_line(process)
    assert first_line(process) == "went on"


def test_a_process_that_was_stopped_goes_on(started: list) -> None:
    process = program("[await asyncio.sleep(0.05) for _ in range(40)]")
    started.append(process)
    first_line(process)
    os.kill(process.pid, signal.SIGSTOP)
    signal.sigtimedwait([], 1.5)
    os.kill(process.pid, signal.SIGCONT)
    assert first_line(process) == "went on"
