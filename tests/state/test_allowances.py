"""What workers spend together: never more than the ceiling, however closely they race and however they end."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from firewall.core.errors import StateUnavailable
from firewall.state import allowances
from firewall.state.allowances import SharedAllowances

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import hashlib, sys
from firewall.state import allowances
from firewall.state.allowances import SharedAllowances
allowances.PATIENCE_S = 20  # they do nothing but race, on a machine that may have little time for them
shared = SharedAllowances(sys.argv[1], slots=1 << 10)
keys = [hashlib.sha256(b"%d" % n).digest()[:16] for n in range(50)]
print("ready", flush=True)
sys.stdin.readline()
print(sum(shared.take(key, 7, 3, ceiling=40) for _ in range(20) for key in keys), flush=True)
"""


def key(n: int) -> bytes:
    return hashlib.sha256(b"%d" % n).digest()[:16]


def test_four_processes_together_spend_exactly_the_ceiling(tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        spent = sum(int(child.communicate(timeout=30)[0]) for child in children)
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert spent == 50 * 40  # 4 x 50 x 60 were asked for
    late = SharedAllowances(tmp_path, slots=1 << 10)
    assert late.take(key(1), 7, 1, ceiling=40) == 0
    late.close()


def test_the_last_of_a_window_is_granted_in_part_and_the_next_window_begins_anew() -> None:
    shared = SharedAllowances(None, slots=8)
    assert [shared.take(key(1), 1, 4, ceiling=6) for _ in range(3)] == [4, 2, 0]
    assert shared.take(key(2), 1, 4, ceiling=6) == 4  # another caller's is its own
    assert shared.take(key(1), 2, 4, ceiling=6) == 4
    assert shared.take(key(1), 1, 4, ceiling=6) == 0  # a worker that is a moment behind still counts there
    assert shared.take(key(1), 3, 4, ceiling=6) == 4


def test_a_full_window_refuses_who_is_new_and_nobody_else() -> None:
    shared = SharedAllowances(None, slots=8)
    assert [shared.take(key(n), 1, 1, ceiling=2) for n in range(6)] == [1] * 6
    with pytest.raises(StateUnavailable):
        shared.take(key(7), 1, 1, ceiling=2)
    assert shared.take(key(0), 1, 1, ceiling=2) == 1
    assert shared.take(key(7), 2, 1, ceiling=2) == 1


def test_a_worker_that_stands_still_with_the_lock_stops_no_other_for_long_and_a_dead_one_gives_it_back(
    tmp_path: Path,
) -> None:
    shared = SharedAllowances(tmp_path)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, os, sys, time\nh = os.open(sys.argv[1], os.O_RDWR)\nfcntl.flock(h, fcntl.LOCK_EX)\n"
            "print('held', flush=True)\ntime.sleep(60)\n",
            str(tmp_path / "allowances"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(StateUnavailable):
            shared.take(key(1), 1, 1, ceiling=1)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    assert shared.take(key(1), 1, 1, ceiling=1) == 1
    shared.close()
    with pytest.raises(StateUnavailable):
        shared.take(key(1), 1, 1, ceiling=1)


def test_without_the_lock_two_workers_would_spend_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: the lock is what keeps a count whole, so another's holding it must be seen."""
    shared = SharedAllowances(tmp_path)
    handle = os.open(tmp_path / "allowances", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(StateUnavailable):
        shared.take(key(1), 1, 1, ceiling=1)
    monkeypatch.setattr(allowances.SharedAllowances, "_wait", lambda _self: None)
    assert shared.take(key(1), 1, 1, ceiling=1) == 1  # though another worker is in the middle of its own
    os.close(handle)
    shared.close()


def test_a_file_of_another_layout_begins_anew_and_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "allowances").write_bytes(b"\xff" * 5000)
    shared = SharedAllowances(tmp_path, slots=8)
    assert shared.take(key(1), 1, 1, ceiling=1) == 1
    shared.close()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "allowances").symlink_to(tmp_path / "target")
    with pytest.raises(StateUnavailable):
        SharedAllowances(tmp_path / "elsewhere")
