"""Work that one process does for all: the lock ends with its holder, and nobody waits for ever."""

import os
import signal
from pathlib import Path

from firewall.net.spawn import Job
from firewall.state.once import one_at_a_time
from tests.state.lock_holder import hold


def test_one_at_a_time_and_who_waits_too_long_goes_on_without(tmp_path: Path) -> None:
    with one_at_a_time(tmp_path / "a.lock") as first:
        assert first
        with one_at_a_time(tmp_path / "a.lock", wait_s=0.05) as second:
            assert not second
        with one_at_a_time(tmp_path / "b.lock", wait_s=0.05) as other:
            assert other
    with one_at_a_time(tmp_path / "a.lock", wait_s=0) as again:
        assert again
    assert (tmp_path / "a.lock").stat().st_mode & 0o777 == 0o600


def test_a_lock_that_cannot_be_made_stops_nobody(tmp_path: Path) -> None:
    with one_at_a_time(tmp_path / "missing" / "a.lock") as held:
        assert not held
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with one_at_a_time(tmp_path / "link") as held:
        assert not held
    assert not (tmp_path / "elsewhere").exists()


def test_a_killed_holder_gives_the_lock_back(tmp_path: Path) -> None:
    told, tell = os.pipe()
    job = Job(hold, tmp_path / "a.lock")
    try:
        child = job.start(tell, shared=(tell,))
        assert os.read(told, 1) == b"h"
        with one_at_a_time(tmp_path / "a.lock", wait_s=0) as held:
            assert not held, "the twin: while it lives, it holds"
        child.send_signal(signal.SIGKILL)
        child.wait(30)
        with one_at_a_time(tmp_path / "a.lock", wait_s=0) as held:
            assert held
    finally:
        job.close()
        os.close(told)
        os.close(tell)
