"""Segments: a log ends and another goes on; what is missing is told, what was retired leaves its checkpoint."""

from __future__ import annotations

import asyncio
import base64
import collections
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from firewall.core.errors import AuditUnavailable, Malformed
from firewall.net.runtime import FakeClock, RandomIds, SystemClock
from firewall.record import rotation, segments
from firewall.record.anchor import Anchor
from firewall.record.audit import AuditWriter, Settings
from firewall.record.index import Index
from firewall.record.log import Log, iter_bundles
from firewall.record.note import Checkpoint, Signer
from firewall.record.place import Place
from firewall.record.proof import check_proof, entry_of, prove
from firewall.record.record import LOG_RETIRED, LOG_SEALED, validate_record
from firewall.record.rotation import Rotation
from firewall.record.segments import SegmentSettings
from firewall.record.verify import Report, verify

from .conftest import KEY, Make, decision
from .test_verify import VKEY, rewrite

SMALL = SegmentSettings(bytes=4_000, hours=0)
DAY_US = 24 * 3600 * 1_000_000


def entries(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(e) for _, bundle, _ in iter_bundles(folder) for e in bundle]


def fill(writer: AuditWriter, *, logs: int, limit_s: float = 20) -> list[str]:
    """Append until the writer is in its n-th log; return the uids of what it acknowledged."""
    uids, seen, until = [], {writer.log_id}, time.monotonic() + limit_s
    while len(seen) < logs:
        assert time.monotonic() < until, "it did not go on in another log"
        uids.append(writer.append(decision(len(uids))).uid)
        seen.add(writer.log_id)
        time.sleep(0.001)
    return uids


@pytest.fixture
def three(make: Make, tmp_path: Path) -> tuple[Path, list[str]]:
    """An audit directory of two sealed segments and one that was closed, and their ids in order."""
    writer = make(segments=SMALL, group_ms=1)
    fill(writer, logs=3)
    writer.close()
    directory = tmp_path / "audit"
    follows = {r["after"]: f.name for f in directory.glob("log_*") for r in entries(f)[:1] if "after" in r}
    (first,) = {f.name for f in directory.glob("log_*")} - set(follows.values())
    order = [first]
    while order[-1] in follows:
        order.append(follows[order[-1]])
    return directory, order


def codes(directory: Path) -> set[str]:
    return {problem.code for problem in verify(directory, [VKEY]).problems}


def states(report: Report) -> dict[str, str]:
    return {log.log: log.state for log in report.logs if log.log != "anchor"}


def test_a_long_log_is_sealed_and_another_goes_on_with_every_record_in_one_of_them(make: Make, tmp_path: Path) -> None:
    writer = make(segments=SMALL, group_ms=1)
    uids = fill(writer, logs=4)
    writer.close()
    report = verify(tmp_path / "audit", [VKEY])
    assert report.ok, report.text()
    assert sorted(states(report).values()) == ["closed", "sealed", "sealed", "sealed"]
    records = [r for folder in (tmp_path / "audit").glob("log_*") for r in entries(folder)]
    assert sorted(r["uid"] for r in records if r["kind"] == "decision") == sorted(uids)
    for record in records:
        validate_record(record)
    sealed = next(log for log in report.logs if log.state == "sealed")
    assert (
        f"{sealed.log}: {sealed.size} records, {sealed.size} under a signed checkpoint; sealed, log_" in report.text()
    )


def test_a_log_goes_on_in_another_when_it_is_old_unless_nothing_happened(make: Make, tmp_path: Path) -> None:
    clock = FakeClock()
    writer = make(segments=SegmentSettings(hours=24), clock=clock, group_ms=1, checkpoint_s=0.01)
    first = writer.log_id
    clock.advance(25 * 3600)
    idle = make(directory=tmp_path / "idle", segments=SegmentSettings(hours=24), clock=clock, checkpoint_s=0.01)
    for n in range(5):
        writer.append(decision(n))
    until = time.monotonic() + 10
    while writer.log_id == first and time.monotonic() < until:
        time.sleep(0.01)
    assert writer.log_id != first
    begun = idle.log_id
    clock.advance(25 * 3600)
    time.sleep(0.1)
    assert idle.log_id == begun, "it holds nothing but its own opening"


def test_a_sealed_segment_is_never_continued(make: Make, three: tuple[Path, list[str]]) -> None:
    _, order = three
    again = make()
    assert again.log_id == order[-1]
    other = make()
    assert other.log_id not in order, "the twin of a log that was only closed, which the first one took"


async def test_who_waits_for_the_disk_is_told_across_the_end_of_a_segment(make: Make) -> None:
    writer = make(segments=SMALL, group_ms=1)
    seen = set()
    for n in range(120):
        receipt = writer.append(decision(n))
        seen.add(receipt.uid.partition(".")[0])
        async with asyncio.timeout(10):
            await writer.durable(receipt)
        if len(seen) > 2:
            break
    assert len(seen) > 2


def test_a_proof_of_a_record_in_a_sealed_segment_holds(three: tuple[Path, list[str]]) -> None:
    directory, order = three
    uid = f"{order[0]}.1"
    check_proof(prove(directory, uid), entry_of(directory, uid), VKEY)


# -- what is done to segments is told ------------------------------------------------------------------


def test_a_missing_segment_is_told_by_the_anchor_log_and_by_the_segment_that_goes_on(
    three: tuple[Path, list[str]],
) -> None:
    directory, order = three
    shutil.rmtree(directory / order[0])
    assert codes(directory) == {"log_missing", "segment_missing"}


def test_a_missing_segment_is_told_where_the_anchor_log_was_made_anew(three: tuple[Path, list[str]]) -> None:
    directory, order = three
    shutil.rmtree(directory / order[0])
    shutil.rmtree(directory / "anchor")
    assert "segment_missing" in codes(directory)


def test_a_cut_segment_is_told_by_the_segment_that_goes_on(three: tuple[Path, list[str]]) -> None:
    """Without the log's own checkpoint and the anchor log, the next one still has its size and root."""
    directory, order = three
    rewrite(directory / order[0], lambda found: found[:-1])
    assert "tail_missing" in codes(directory)
    (directory / order[0] / "checkpoint").unlink()
    shutil.rmtree(directory / "anchor")
    assert "segment_differs" in codes(directory)


def test_records_added_to_a_sealed_segment_are_told(three: tuple[Path, list[str]]) -> None:
    directory, order = three
    rewrite(directory / order[0], lambda found: [*found, found[-1]])
    assert {"tail_after_close", "segment_differs"} <= codes(directory)


# -- retirement -------------------------------------------------------------------------------------------


def place_of(directory: Path) -> Place:
    return Place(directory, Signer("fw.example/audit", KEY), (), FakeClock(), "n1", lambda _c, _d: None)


def retire(directory: Path, days: float, keep: int = 7) -> list[str]:
    """Retire as a writer does that many days after the segments were sealed."""
    now_us = FakeClock().now_us() + int(days * DAY_US)
    return [name for name, _ in segments.retire(place_of(directory), SegmentSettings(retain_days=keep), now_us)]


def test_a_retired_segment_leaves_its_signed_checkpoint_and_the_log_holds(three: tuple[Path, list[str]]) -> None:
    directory, order = three
    assert retire(directory, 6.9) == []
    assert retire(directory, 10_000, keep=0) == [], "0 keeps all"
    assert sorted(retire(directory, 7.1)) == sorted(order[:2])
    assert sorted(p.name for p in (directory / order[0]).iterdir()) == ["checkpoint", "lock"]
    report = verify(directory, [VKEY])
    assert report.ok, report.text()
    assert states(report) == {order[0]: "retired", order[1]: "retired", order[2]: "closed"}
    assert "were under its signed checkpoint" in report.text()
    assert retire(directory, 7.1) == []


def test_the_same_deletion_without_the_anchors_word_is_told(three: tuple[Path, list[str]]) -> None:
    """The twin."""
    directory, order = three
    segments._delete(directory / order[0])
    assert "tail_missing" in codes(directory)


def test_a_retired_segment_without_its_checkpoint_or_with_another_is_told(three: tuple[Path, list[str]]) -> None:
    directory, order = three
    retire(directory, 8)
    kept = (directory / order[0] / "checkpoint").read_bytes()
    (directory / order[0] / "checkpoint").unlink()
    assert "checkpoint_missing" in codes(directory)
    (directory / order[0] / "checkpoint").write_bytes((directory / order[1] / "checkpoint").read_bytes())
    assert "checkpoint_foreign" in codes(directory)
    (directory / order[0] / "checkpoint").write_bytes(kept)
    assert not codes(directory)
    shutil.rmtree(directory / order[0])
    assert "log_missing" in codes(directory)


def test_a_copy_that_was_made_before_still_verifies_whole_beside_the_newer_anchor_log(
    three: tuple[Path, list[str]], tmp_path: Path
) -> None:
    directory, order = three
    archive = tmp_path / "archive"
    shutil.copytree(directory, archive)
    retire(directory, 8)
    shutil.rmtree(archive / "anchor")
    shutil.copytree(directory / "anchor", archive / "anchor")
    report = verify(archive, [VKEY])
    assert report.ok, report.text()
    assert states(report) == {order[0]: "sealed", order[1]: "sealed", order[2]: "closed"}


def forge(directory: Path, *marks: dict[str, Any]) -> None:
    """Add entries to the anchor log as somebody who may write its files and has no key."""
    folder = directory / "anchor"
    (before,) = entries(folder)[-1:]
    forged = [{**before, **mark, "seq": before["seq"] + 1 + n} for n, mark in enumerate(marks)]
    rewrite(folder, lambda known: known + [orjson.dumps(mark) for mark in forged])


def said_of(directory: Path, name: str) -> dict[str, Any]:
    """Return what the anchor log says last of a log."""
    return [mark for mark in entries(directory / "anchor") if mark["of"].endswith(name)][-1]


@pytest.mark.parametrize("signed_later", [False, True], ids=["unsigned", "signed-later"])
def test_a_word_of_retirement_that_the_writer_did_not_sign_excuses_no_missing_records(
    three: tuple[Path, list[str]], signed_later: bool
) -> None:
    directory, order = three
    forge(directory, {**said_of(directory, order[0]), "kind": LOG_RETIRED})
    assert verify(directory, [VKEY]).ok, "an anchor entry that a crash left is no problem"
    (directory / order[0] / "live").unlink()
    shutil.rmtree(directory / order[0] / "tile", ignore_errors=True)
    if signed_later:  # the next entry's signature covers the forged one as well
        place_of(directory).anchor.append(LOG_SEALED, Checkpoint("fw.example/audit/log_X", 0, b""))
    assert "tail_missing" in codes(directory)


def test_what_the_anchor_log_was_not_signed_with_does_not_open_a_closed_log_again(
    three: tuple[Path, list[str]],
) -> None:
    directory, order = three
    forge(directory, {"of": said_of(directory, order[2])["of"], "kind": "log.damaged", "size": 0, "root": ""})

    def one_more(known: list[bytes]) -> list[bytes]:
        record = {**orjson.loads(known[-1]), "seq": len(known), "uid": f"{order[2]}.{len(known)}"}
        return [*known, orjson.dumps(record)]

    rewrite(directory / order[2], one_more)
    assert "tail_after_close" in codes(directory)


def test_a_log_that_had_more_records_than_were_retired_is_told(three: tuple[Path, list[str]]) -> None:
    directory, order = three
    said = said_of(directory, order[0])
    forge(directory, {**said, "kind": "log.checkpoint", "size": said["size"] + 1})
    retire(directory, 8)
    assert "log_rolled_back" in codes(directory)


def test_entries_that_a_crash_left_unsigned_are_set_aside_once_and_the_node_goes_on(
    three: tuple[Path, list[str]],
) -> None:
    directory, order = three
    forge(directory, {**said_of(directory, order[0]), "kind": LOG_RETIRED})
    assert len(retire(directory, 8)) == 2
    kinds = [mark["kind"] for mark in entries(directory / "anchor")]
    assert kinds.count("log.unsigned") == 1
    assert kinds.count(LOG_RETIRED) == 3, "the one that was not signed, and two by the writer"
    report = verify(directory, [VKEY])
    assert report.ok, report.text()
    assert states(report) == {order[0]: "retired", order[1]: "retired", order[2]: "closed"}


def test_a_search_finds_what_is_there_and_forgets_what_was_retired(three: tuple[Path, list[str]]) -> None:
    directory, order = three
    index = Index(directory)
    index.refresh()
    before = sum(1 for _ in index.find(kind="decision"))
    retire(directory, 8)
    index.refresh()
    left = list(index.find(kind="decision"))
    index.close()
    assert len(left) < before
    assert {str(r["uid"]).partition(".")[0] for r in left} <= {order[2]}
    with pytest.raises(Malformed):
        entry_of(directory, f"{order[0]}.1")


@pytest.mark.parametrize("step", ["told", "renamed", "tiles"])
def test_a_retirement_that_was_cut_off_holds_and_is_finished_by_the_next(
    three: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    directory, order = three
    for name in order[:2]:
        (directory / name / "tile").mkdir(exist_ok=True)
        (directory / name / "tile" / "x").write_text("")

    class Killed(Exception):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        match step:
            case "told":
                patched.setattr(segments, "_delete", killed)
            case "renamed":
                patched.setattr(shutil, "rmtree", killed)
            case "tiles":
                patched.setattr(Path, "unlink", killed)
        with pytest.raises(Killed):
            retire(directory, 8)
    assert verify(directory, [VKEY]).ok
    retire(directory, 8)
    for name in order[:2]:
        assert sorted(p.name for p in (directory / name).iterdir()) == ["checkpoint", "lock"]
    assert verify(directory, [VKEY]).ok


def test_a_writer_retires_by_itself_when_that_is_configured(make: Make, tmp_path: Path) -> None:
    clock = FakeClock()
    writer = make(segments=SMALL, group_ms=1, clock=clock)
    fill(writer, logs=2)
    writer.close()
    clock.advance(8 * 24 * 3600)
    later = make(segments=SegmentSettings(retain_days=7), clock=clock, checkpoint_s=0.01)
    until = time.monotonic() + 10
    while "retired" not in states(verify(tmp_path / "audit", [VKEY])).values() and time.monotonic() < until:
        time.sleep(0.02)
    later.close()
    report = verify(tmp_path / "audit", [VKEY])
    assert report.ok, report.text()
    assert "retired" in states(report).values()
    told = [r for r in entries(tmp_path / "audit" / later.log_id) if r["kind"] == LOG_RETIRED]
    assert len(told) == 1
    validate_record(told[0])


# -- trouble ---------------------------------------------------------------------------------------------------


def test_where_no_other_log_can_be_begun_the_present_one_goes_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def full(*_: Any) -> Any:
        raise OSError(28, "no space")

    monkeypatch.setattr(Place, "begin", full)
    writer = make(segments=SMALL, group_ms=1, on_fault=lambda code, _detail: told.append(code))
    for n in range(60):
        writer.append(decision(n))
        time.sleep(0.002)
    writer.close()
    assert told == ["audit_rotate"]
    report = verify(tmp_path / "audit", [VKEY])
    assert report.ok
    assert report.records == 61


def test_where_the_first_record_does_not_go_in_the_present_log_goes_on(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def refuse(_after: str) -> Any:
        raise OSError(28, "no space")

    monkeypatch.setattr(segments, "opening", refuse)
    writer = make(segments=SMALL, group_ms=1, on_fault=lambda code, _detail: told.append(code))
    first = writer.log_id
    for n in range(60):
        writer.append(decision(n))
        time.sleep(0.002)
    writer.close()
    assert told == ["audit_rotate"]
    assert len(entries(tmp_path / "audit" / first)) == 61
    assert verify(tmp_path / "audit", [VKEY]).ok


def _killed_at(step: str, writer: AuditWriter) -> None:
    """Arrange that this process ends, as by kill -9, at a step of its first rotation."""

    def kill(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)

    sign, anchor = Log.sign, Anchor.append
    first = f"/{writer.log_id}"

    def sign_last(log: Log, frontier: Any) -> Any:
        return kill() if log.origin.endswith(first) and writer.log_id not in log.origin else sign(log, frontier)

    def tell_sealed(self: Anchor, kind: str, *rest: Any, **more: Any) -> None:
        kill() if kind == LOG_SEALED else anchor(self, kind, *rest, **more)

    match step:
        case "made":
            writer._rotation._switch = kill  # type: ignore[assignment]
        case "switched":
            Rotation._end = kill  # type: ignore[method-assign]
        case "synced":
            Log.sign = sign_last  # type: ignore[method-assign]
        case "signed":
            Anchor.append = tell_sealed  # type: ignore[method-assign]
        case "sealed":
            writer._rotation._append = kill


def _write_until_killed(directory: str, step: str, pipe: int) -> None:
    settings = Settings(deployment="fw.example", checkpoint_s=0.02, anchor_s=0.02, group_ms=1, segments=SMALL)
    writer = AuditWriter(directory, KEY, SystemClock(), RandomIds(), hmac_key=b"h" * 32, settings=settings)
    _killed_at(step, writer)
    for n in range(100_000):
        os.write(pipe, writer.append(decision(n)).uid.encode() + b"\n")
        time.sleep(0.0005)


@pytest.mark.parametrize("step", ["made", "switched", "synced", "signed", "sealed"])
def test_kill_9_in_the_middle_of_a_rotation_loses_no_record_and_leaves_files_that_hold(
    make: Make, tmp_path: Path, step: str
) -> None:
    directory = tmp_path / "audit"
    read, write = os.pipe()
    child = multiprocessing.get_context("fork").Process(target=_write_until_killed, args=(str(directory), step, write))
    child.start()
    os.close(write)
    seen = b""
    while chunk := os.read(read, 65536):
        seen += chunk
    os.close(read)
    child.join(20)
    assert child.exitcode == -signal.SIGKILL, "it ended at that step"
    assert len(list(directory.glob("log_*"))) == 2
    assert not codes(directory), verify(directory, [VKEY]).text()
    cut = [note.log for note in verify(directory, [VKEY]).notes if note.code == "rotation_cut"]
    assert len(cut) == (step in ("switched", "synced", "signed"))
    writer = make(segments=SegmentSettings(), clock=SystemClock())  # and a node that starts again goes on
    writer.append(decision(1))
    writer.close()
    report = verify(directory, [VKEY])
    assert report.ok, report.text()
    stored = {r["uid"] for folder in directory.glob("log_*") for r in entries(folder)}
    assert set(seen.decode().split("\n")[:-1]) <= stored
    # The next start has sealed what was left, and said so in a record of its own. Before the switch nothing had ended:
    # which of the two the next start goes on in is open, and the other is sealed or stays as it is.
    assert "sealed" in states(report).values() or step == "made"
    if step not in ("made", "sealed"):
        (segment,) = [log for log in report.logs if log.state == "sealed"]
        (said,) = [r for folder in directory.glob("log_*") for r in entries(folder) if r["kind"] == LOG_SEALED]
        assert [said["segment"]] == [segment.log] == cut
        assert said["size"] == segment.size
        assert not [note for note in report.notes if note.code == "rotation_cut"]
        assert base64.b64decode(said["root"]).hex() == segment.root
        assert segment.signed == segment.size
        assert list(directory.glob(f"{segment.next}/live")), "the log that goes on is named"


def _rotate_often(directory: str, worker: int, start: Any) -> None:
    settings = Settings(deployment="fw.example", checkpoint_s=0.02, anchor_s=0.02, group_ms=1, segments=SMALL)
    start.wait(20)
    writer = AuditWriter(directory, KEY, SystemClock(), RandomIds(), hmac_key=b"h" * 32, settings=settings)
    uids = fill(writer, logs=3, limit_s=60)
    writer.close()
    Path(directory, f"uids-{worker}").write_text("\n".join(uids))


def test_four_workers_that_rotate_at_once_lose_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "audit"
    context = multiprocessing.get_context("fork")
    start = context.Barrier(4)
    children = [context.Process(target=_rotate_often, args=(str(directory), n, start)) for n in range(4)]
    directory.mkdir(mode=0o700)
    for child in children:
        child.start()
    for child in children:
        child.join(90)
    assert [child.exitcode for child in children] == [0] * 4
    report = verify(directory, [VKEY])
    assert report.ok, report.text()
    assert sum(state == "sealed" for state in states(report).values()) >= 8
    stored = {r["uid"] for folder in directory.glob("log_*") for r in entries(folder)}
    for n in range(4):
        assert set((directory / f"uids-{n}").read_text().split("\n")) <= stored


def test_verifying_beside_a_writer_that_rotates_finds_no_problem(make: Make, tmp_path: Path) -> None:
    writer = make(segments=SMALL, group_ms=1)
    for n in range(5):
        fill(writer, logs=2)
        report = verify(tmp_path / "audit", [VKEY])
        assert report.ok, (n, report.text())


def test_the_ceiling_counts_every_segment_and_is_refused_at_by_all(make: Make, tmp_path: Path) -> None:
    writer = make(segments=SMALL, group_ms=1, local_max=60_000, anchor_s=600.0)

    def write(n: int) -> None:
        time.sleep(0.001)
        writer.append(decision(n))

    with pytest.raises(AuditUnavailable):
        collections.deque((write(n) for n in range(2_000)), 0)
    assert len(list((tmp_path / "audit").glob("log_*"))) > 2
    assert sum(p.stat().st_size for p in (tmp_path / "audit").rglob("*") if p.is_file()) < 90_000
    writer.close()
    assert verify(tmp_path / "audit", [VKEY]).ok


def empty_logs_after_retries(make: Make, directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many logs a node at its ceiling leaves behind with nothing in them, while a rotation is due."""
    monkeypatch.setattr(rotation, "ROTATE_AGAIN_S", 0.0)
    told: list[str] = []
    writer = make(
        segments=SegmentSettings(bytes=1, hours=0),
        group_ms=1,
        checkpoint_s=0.01,
        local_max=30_000,
        on_fault=lambda code, _detail: told.append(code),
    )
    monkeypatch.setattr(segments, "is_due", lambda *_: False)
    with pytest.raises(AuditUnavailable):
        collections.deque((writer.append(decision(n)) for n in range(2_000)), 0)
    monkeypatch.setattr(segments, "is_due", lambda *_: True)
    before, deadline = len(list(directory.glob("log_*"))), time.monotonic() + 20

    def left() -> int:
        return len(list(directory.glob("log_*"))) - before

    while told.count("audit_rotate") < 3 and left() < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.close()
    assert told.count("audit_rotate") >= 3 or left() >= 2, "nothing was tried"
    return left()


def test_at_the_ceiling_a_rotation_that_is_due_leaves_no_empty_logs(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert empty_logs_after_retries(make, tmp_path / "audit", monkeypatch) == 0


def test_twin_begun_without_looking_each_try_leaves_an_empty_log(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AuditWriter, "_can_switch", lambda _self, _place: True)
    assert empty_logs_after_retries(make, tmp_path / "audit", monkeypatch) >= 2


def test_a_segment_that_cannot_even_begin_its_last_sync_ends_no_flusher(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors run out between two steps: what is lost is the seal, and nothing after it."""
    told: list[str] = []
    writer = make(segments=SMALL, group_ms=1, on_fault=lambda code, _detail: told.append(code))
    begin, first = Log.begin_sync, writer.log_id

    def none_left(log: Log) -> Any:
        if log.directory.name == first and writer.log_id != first:
            raise OSError(24, "too many open files")
        return begin(log)

    monkeypatch.setattr(Log, "begin_sync", none_left)
    fill(writer, logs=3)  # with the flusher gone there would be no third one
    writer.close()
    assert told == ["audit_sync"]
    assert verify(tmp_path / "audit", [VKEY]).ok
