"""Leases: one worker at a time, given back by the kernel however their holder ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from firewall.core.errors import StateUnavailable
from firewall.state import lease
from firewall.state.lease import Leases


def test_a_lease_has_one_holder_at_a_time_and_says_who(tmp_path: Path) -> None:
    one, two = Leases(tmp_path, 1), Leases(tmp_path, 2)
    assert one.hint("t/x") is None
    assert one.take("t/x")
    assert one.take("t/x")  # it has it already
    assert not two.take("t/x")
    assert two.hint("t/x") == 1
    assert two.take("t/y")  # another name is another lease
    one.release("t/x")
    assert two.take("t/x")
    assert one.hint("t/x") == 2
    two.close()
    assert one.take("t/y")
    one.close()


def test_a_killed_holder_gives_its_leases_back(tmp_path: Path, root: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom firewall.state.lease import Leases\n"
        "held = Leases(Path(sys.argv[1]), 3)\nprint(held.take('t/x'), flush=True)\ntime.sleep(60)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    mine = Leases(tmp_path, 1)
    assert not mine.take("t/x")
    assert mine.hint("t/x") == 3
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert mine.take("t/x")
    mine.close()


def test_names_never_leave_the_directory_and_rubbish_is_no_hint(tmp_path: Path) -> None:
    held = Leases(tmp_path / "leases", 1)
    assert held.take("../../etc/passwd\0x")
    (path,) = (tmp_path / "leases").iterdir()
    for rubbish in (b"", b"-1", b"99999", b"one", "²".encode()):
        path.write_bytes(rubbish)
        assert held.hint("../../etc/passwd\0x") is None
    held.close()


def test_beyond_the_bound_and_without_a_directory_it_fails_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASES", 1)
    held = Leases(tmp_path, 1)
    assert held.take("a")
    with pytest.raises(StateUnavailable):
        held.take("b")
    held.close()
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnavailable):
        Leases(tmp_path / "file", 1).take("a")
