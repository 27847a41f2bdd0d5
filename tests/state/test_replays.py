"""The memory of used proofs across processes: a key is new to at most one of them, however closely they race."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

from firewall.state.replays import UsedOnce

ROOT = Path(__file__).resolve().parents[2]
KEYS = 3000
WORKERS = 4

CHILD = """
import hashlib, sys
from firewall.state.replays import UsedOnce
directory, worker = sys.argv[1], int(sys.argv[2])
used = UsedOnce(directory, worker=worker, workers=4, slots=1 << 13)
print("ready", flush=True)
sys.stdin.readline()
print(*(n for n in range(3000) if used.first(hashlib.sha256(b"%d" % n).digest()[:16], 1000)), flush=True)
"""


def test_rs_13_of_four_processes_that_get_the_same_keys_at_once_no_two_take_one(tmp_path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(n)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(WORKERS)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        taken = [child.communicate(timeout=30)[0].split() for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    counts = Counter(int(key) for keys in taken for key in keys)
    assert max(counts.values()) == 1
    assert len(counts) > KEYS // 2  # a race may leave a key to nobody: both refuse
    late = UsedOnce(tmp_path, worker=0, workers=WORKERS, slots=1 << 13)
    assert not any(late.first(hashlib.sha256(b"%d" % n).digest()[:16], 1000) for n in counts)
    late.close()
