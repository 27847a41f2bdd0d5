"""A rotation whose writer was killed in the middle is finished by whoever comes by, and by nobody too early."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from firewall.net.runtime import SystemClock
from firewall.record.place import Place
from firewall.record.record import LOG_SEALED
from firewall.record.rotation import Rotation
from firewall.record.segments import SegmentSettings
from firewall.record.verify import verify

from .conftest import Make, decision
from .test_segments import SMALL, _write_until_killed, entries, fill, states
from .test_verify import VKEY


def test_a_rotation_that_another_worker_was_killed_in_is_finished_by_one_that_runs(make: Make, tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    beside = make(segments=SegmentSettings(), clock=SystemClock(), group_ms=1, checkpoint_s=0.01)
    beside.append(decision(1))
    read, write = os.pipe()
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_write_until_killed, args=(str(directory), "switched", write))
    child.start()
    os.close(write)
    while os.read(read, 65536):
        pass
    os.close(read)
    child.join(20)
    assert "sealed" not in states(verify(directory, [VKEY])).values()
    beside._rotation._retire_at = 0  # an hour later
    until = time.monotonic() + 10
    while "sealed" not in states(verify(directory, [VKEY])).values() and time.monotonic() < until:
        time.sleep(0.02)
    beside.close()
    report = verify(directory, [VKEY])
    assert report.ok, report.text()
    (segment,) = [log for log in report.logs if log.state == "sealed"]
    (said,) = [r for r in entries(directory / beside.log_id) if r["kind"] == LOG_SEALED]
    assert (said["segment"], said["size"]) == (segment.log, segment.size)


def test_a_segment_that_its_writer_still_holds_is_not_sealed_for_it(make: Make, tmp_path: Path) -> None:
    """Between going on and sealing, a rotation holds the segment's lock: whoever starts then leaves it alone."""
    writer = make(segments=SMALL, group_ms=1)
    held = threading.Event()
    go_on = threading.Event()
    end = Rotation._end

    def slow(self: Rotation, place: Place, ending: Any) -> None:
        held.set()
        assert go_on.wait(10)
        end(self, place, ending)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Rotation, "_end", slow)
        fill(writer, logs=2)
        assert held.wait(10)
        other = make(segments=SegmentSettings())
        assert "sealed" not in states(verify(tmp_path / "audit", [VKEY])).values()
        go_on.set()
        writer.close()
    other.close()
    report = verify(tmp_path / "audit", [VKEY])
    assert report.ok, report.text()
    said = [r for f in (tmp_path / "audit").glob("log_*") for r in entries(f) if r["kind"] == LOG_SEALED]
    assert len(said) == list(states(report).values()).count("sealed") >= 1
