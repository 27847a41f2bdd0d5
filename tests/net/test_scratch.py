"""A process's own directory: gone with it, or swept by the next of its kind when it was killed."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from firewall.net.scratch import Scratch

HOLDS = """
import sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from firewall.net.scratch import Scratch

print(Scratch("test").path, flush=True)
time.sleep(60)
"""


def old(path: Path) -> None:
    os.utime(path, (time.time() - 3600,) * 2)


def test_who_is_killed_is_swept_by_the_next_and_who_lives_is_not(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    theirs = Path(other.stdout.readline().strip())
    (theirs / "child.sock").touch()
    elsewhere = tmp_path / "kept"
    elsewhere.mkdir()
    (tmp_path / "bartizan-test-link").symlink_to(elsewhere)
    young, another = tmp_path / "bartizan-test-young", tmp_path / "bartizan-other-kind"
    for path in (young, another):
        path.mkdir()
    for path in (theirs, elsewhere, another):
        old(path)
    try:
        mine = Scratch("test")
        assert theirs.is_dir(), "its process lives"
    finally:
        other.kill()
        other.communicate()
    assert mine.path.stat().st_mode & 0o077 == 0
    Scratch("test").close()
    assert not theirs.exists()
    assert all(path.is_dir() for path in (mine.path, young, another, elsewhere))
    mine.close()
    assert not mine.path.exists()
