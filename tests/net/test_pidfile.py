"""What a process leaves behind says that it did not stop by itself, and whether it stood still; once, to one who looks."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from firewall.net.pidfile import FILE_BYTES, Left, PidFile, left_behind

RUNS = """
import signal, sys
from pathlib import Path
from firewall.net.pidfile import PidFile
file = PidFile(Path(sys.argv[1]), 1700)
{does}
print("on", flush=True)
signal.pause()
"""


def process(directory: Path, does: str = "") -> subprocess.Popen[bytes]:
    source = textwrap.dedent(RUNS).format(does=does)
    started = subprocess.Popen([sys.executable, "-c", source, str(directory)], stdout=subprocess.PIPE)
    assert started.stdout is not None
    assert started.stdout.readline() == b"on\n"
    return started


def killed(directory: Path, does: str = "") -> int:
    with process(directory, does) as one:
        one.send_signal(signal.SIGKILL)
    return one.pid


def test_a_process_that_runs_or_stopped_by_itself_leaves_nothing(tmp_path: Path) -> None:
    own = PidFile(tmp_path, 5)
    other = process(tmp_path)
    try:
        assert list(left_behind(tmp_path)) == []
        assert len(list(tmp_path.iterdir())) == 2
        assert stat.S_IMODE(own.path.stat().st_mode) == 0o600
    finally:
        other.kill()
        other.communicate()
    own.close()
    own.close()
    assert [left.pid for left in left_behind(tmp_path)] == [other.pid]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("does", "stuck", "silent_s"),
    [
        ("", False, 0),
        ("file.stands_still(12.7)", True, 12),
        ("file.stands_still(3); file.goes_on()", False, 0),
        ("import os; os.write(file.fileno(), b'Current thread 0x1 (most recent call first):\\\\n  File x')", True, 0),
    ],
    ids=["killed", "noted", "taken back", "a trace of native code"],
)
def test_what_was_noted_of_a_process_that_was_killed_is_found_once(
    tmp_path: Path, does: str, stuck: bool, silent_s: int
) -> None:
    pid = killed(tmp_path, does)
    assert list(left_behind(tmp_path)) == [Left(pid, 1700, stuck, silent_s)]
    assert list(left_behind(tmp_path)) == []


def test_who_fails_while_looking_leaves_it_for_the_next_time(tmp_path: Path) -> None:
    killed(tmp_path)
    looked = left_behind(tmp_path)
    next(looked)
    assert list(left_behind(tmp_path)) == [], "another one who looks meanwhile does not get it as well"
    looked.close()
    assert len(list(left_behind(tmp_path))) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]\n", b'{"pid": "x"}\n', b"\xff" * (2 * FILE_BYTES), b"null\nstuck x\n"]
)
def test_a_file_that_says_nothing_is_told_of_and_gone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "1-x").write_bytes(content)
    (left,) = left_behind(tmp_path)
    assert (left.pid, left.begun_us, left.silent_s) == (0, 0, 0)
    assert list(tmp_path.iterdir()) == []


def test_links_folders_and_pipes_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "mine").write_text("precious")
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "mine")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    assert list(left_behind(folder)) == []
    assert (tmp_path / "mine").read_text() == "precious"
    assert len(list(folder.iterdir())) == 3
    assert list(left_behind(tmp_path / "none")) == []
