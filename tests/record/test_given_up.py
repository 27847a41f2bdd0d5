"""A directory that fails in the middle of what the flusher does there."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from firewall.record.log import Log, LogDamaged, Syncing
from firewall.record.place import Ending, Place
from firewall.record.rotation import Rotation
from firewall.record.segments import SegmentSettings
from firewall.record.verify import verify

from .conftest import Make, decision


def test_a_sync_of_a_log_that_was_given_up_says_nothing_of_the_next_ones_records(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next log may be shorter, and what the first one's sync covered covers none of its records."""
    writer = make(checkpoint_s=60.0, group_ms=1)
    place, finish = writer._places[0], Log.finish_sync
    under_way, go_on = threading.Event(), threading.Event()
    after: list[tuple[int, int]] = []

    def slow(log: Log, begun: Syncing) -> None:
        if begun.size > 40 and not under_way.is_set():
            under_way.set()
            go_on.wait(10)
        finish(log, begun)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "finish_sync", slow)
        writer.append_all([decision(n) for n in range(50)])
        assert under_way.wait(10)
        first = place.log
        assert first is not None
        with writer._lock:
            (tmp_path / "audit" / writer.log_id / "damaged").write_text("planted\n")
            first.broken = True  # what a record that could not be cut off leaves
            writer._failed(place, "OSError")
        place.failed_at -= 1
        receipt = writer.append(decision(99))
        assert receipt.index < 40
        ends, tick = threading.Event(), writer._watch_clock

        def watched() -> None:
            after.append((place.synced, place.log.size if place.log else 0))
            tick()
            ends.set()

        patch.setattr(writer, "_watch_clock", watched)
        go_on.set()
        assert ends.wait(10)
    assert after[0][0] <= after[0][1]


def test_the_spool_says_nothing_of_a_segment_that_ended_in_the_other_directory(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verifier of the spool would miss it there, and call that a log that does not hold."""
    told: list[str] = []
    writer = make(
        spool=tmp_path / "spool",
        segments=SegmentSettings(bytes=4_000, hours=0),
        group_ms=1,
        on_fault=lambda code, _detail: told.append(code),
    )
    end, ended = Rotation._end, threading.Event()

    def fail_first(rotation: Rotation, place: Place, ending: Ending) -> None:
        with writer._lock:
            writer._failed(place, "OSError")
        writer.append(decision(99))
        assert writer.stats()["spooling"] == 1
        end(rotation, place, ending)
        ended.set()

    monkeypatch.setattr(Rotation, "_end", fail_first)
    writer.append_all([decision(n) for n in range(20)])
    assert ended.wait(10)
    writer.close()
    for place in ("audit", "spool"):
        report = verify(tmp_path / place, [writer.vkey])
        assert report.ok, report.text()
    assert "audit_rotate" in told


def test_a_tree_that_lost_an_entry_is_never_signed_and_the_log_goes_on_from_its_entries(
    make: Make, tmp_path: Path
) -> None:
    """An interrupt or a want of memory may break off the tree's growth between taking an entry and hashing it."""
    writer = make(checkpoint_s=60.0, group_ms=1)
    place = writer._places[0]
    log = place.log
    assert log is not None
    with writer._lock, log._growing:
        log.append(b'{"lost":1}')
        log._waiting.clear()
    with pytest.raises(LogDamaged, match="tree_miscounted"):
        writer._flush(place, sign=True)
    writer._give_up(place, "LogDamaged")
    place.failed_at -= 1
    receipt = writer.append(decision(1))
    writer.close()
    assert receipt.uid.startswith(writer.log_id)
    assert place.synced > receipt.index
    assert b'{"lost":1}' in (tmp_path / "audit" / writer.log_id / "live").read_bytes()
