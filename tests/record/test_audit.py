"""The audit writer: what was acknowledged is there, and nothing moves when nothing can be written."""

from __future__ import annotations

import asyncio
import collections
import errno
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from firewall.core.errors import AuditUnavailable
from firewall.core.record_form import Filled, Form
from firewall.net.runtime import FakeClock
from firewall.record import log as log_module
from firewall.record.log import Log, Syncing, iter_bundles
from firewall.record.merkle import Frontier
from firewall.record.note import Checkpoint
from firewall.record.proof import check_proof, entry_of, prove
from firewall.record.record import validate_record
from firewall.record.verify import verify

from .conftest import KEY, Make, decision, outcome


def entries(directory: Path) -> list[dict[str, Any]]:
    return [orjson.loads(e) for _, bundle, _ in iter_bundles(directory) for e in bundle]


def test_a_record_gets_its_place_and_its_bytes_are_canonical(make: Make, tmp_path: Path) -> None:
    writer = make()
    receipt = writer.append(decision(7))
    stored = entry_of(tmp_path / "audit", receipt.uid)
    record = orjson.loads(stored)
    validate_record(record)
    assert record["uid"] == receipt.uid == f"{writer.log_id}.{receipt.index}"
    assert record["seq"] == receipt.index
    assert record["log"] == f"fw.example/audit/{writer.log_id}"
    assert (record["node"], record["exchange"]) == ("n1", "x_7")
    assert list(record) == sorted(record)
    rfc8785 = pytest.importorskip("rfc8785")
    assert rfc8785.dumps(record) == stored


def _open_at_once(directory: str, start: Any, done: Any, failed: Any) -> None:
    from firewall.net.runtime import RandomIds
    from firewall.record.audit import AuditWriter, Settings

    for turn in range(12):
        start.wait(20)
        settings = Settings(deployment="fw.example", node="n1", checkpoint_s=0.05, anchor_s=0.05)
        try:
            writer = AuditWriter(
                Path(directory) / str(turn), KEY, FakeClock(), RandomIds(), hmac_key=b"h" * 32, settings=settings
            )
        except AuditUnavailable:
            failed.value = turn + 1
        done.wait(20)  # every log is held until all are open: each worker has one of its own
        if not failed.value:
            writer.close()


def test_workers_that_start_at_once_open_a_log_each(tmp_path: Path) -> None:
    """They share a directory and its `vkey`; none may trip over a file that another renames in it."""
    context = multiprocessing.get_context("fork")
    start, done, failed = context.Barrier(4), context.Barrier(4), context.Value("i", 0)
    args = (str(tmp_path), start, done, failed)
    children = [context.Process(target=_open_at_once, args=args) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 4
    assert not failed.value
    for turn in range(12):
        assert len(list((tmp_path / str(turn)).glob("log_*"))) == 4
        assert not list((tmp_path / str(turn)).glob(".*"))


def test_a_closed_log_verifies_and_a_reopened_one_goes_on(make: Make, tmp_path: Path) -> None:
    uids = []
    for _ in range(3):
        writer = make()
        uids += [writer.append(decision(n)).uid for n in range(300)]
        uids += [writer.append(outcome(n)).uid for n in range(300)]
        writer.close()
    assert len(list((tmp_path / "audit").glob("log_*"))) == 1
    assert len(set(uids)) == 1800
    report = verify(tmp_path / "audit", [writer.vkey])
    assert report.ok, report.text()
    assert report.open_intents == []
    assert (report.records, report.logs[1].size) == (1803, 1803)
    assert report.logs[1].closed
    folder = next((tmp_path / "audit").glob("log_*"))
    assert sorted(p.name for p in (folder / "tile" / "entries").iterdir()) == [f"{n:03}" for n in range(7)]
    assert sorted(p.name for p in (folder / "tile" / "0").iterdir()) == [f"{n:03}" for n in range(7)]
    assert not [p for p in (tmp_path / "audit").rglob("*") if p.is_file() and p.stat().st_mode & 0o077]


def test_the_verifier_key_stands_beside_the_logs(make: Make, tmp_path: Path) -> None:
    assert (tmp_path / "audit" / "vkey").exists() is False
    writer = make()
    assert (tmp_path / "audit" / "vkey").read_text() == writer.vkey + "\n"


def test_two_writers_take_two_logs(make: Make, tmp_path: Path) -> None:
    a, b = make(), make()
    a.append(decision(1))
    b.append(decision(2))
    assert a.log_id != b.log_id
    a.close()
    b.close()
    assert verify(tmp_path / "audit", [a.vkey]).ok
    c = make()
    assert c.log_id in (a.log_id, b.log_id)


async def test_durable_returns_after_the_sync_of_its_group(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    real = os.fdatasync

    def watch(handle: int) -> None:
        real(handle)
        synced.set()

    writer = make()
    monkeypatch.setattr(log_module.os, "fdatasync", watch)
    receipts = [writer.append(decision(n)) for n in range(10)]
    await asyncio.wait_for(asyncio.gather(*(writer.durable(r) for r in receipts)), 5)
    assert synced.is_set()
    await asyncio.wait_for(writer.durable(receipts[0]), 5)


def test_appending_from_many_threads_keeps_every_record(make: Make, tmp_path: Path) -> None:
    writer = make()
    got: list[str] = []

    def work(base: int) -> None:
        got.extend(writer.append(decision(base + n)).uid for n in range(200))

    threads = [threading.Thread(target=work, args=(k * 1000,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert len(set(got)) == 800
    assert verify(tmp_path / "audit", [writer.vkey]).ok


def test_the_limit_of_a_record_is_65535_bytes(make: Make) -> None:
    writer = make()
    base = len(entry_of(writer._places[0].directory, writer.append({"v": 1, "kind": "admin", "text": ""}).uid))
    room = 65_535 - base - 10
    writer.append({"v": 1, "kind": "admin", "text": "x" * room})
    with pytest.raises(AuditUnavailable) as caught:
        writer.append({"v": 1, "kind": "admin", "text": "x" * (room + 20)})
    assert caught.value.code == "record_too_long"
    writer.append(decision())


@pytest.mark.parametrize("value", ["\ud800", 2**70, object()])
def test_what_has_no_json_form_is_refused_and_the_log_goes_on(make: Make, tmp_path: Path, value: Any) -> None:
    writer = make()
    with pytest.raises(AuditUnavailable):
        writer.append({"v": 1, "kind": "admin", "text": value})
    writer.append(decision())
    writer.close()
    assert verify(tmp_path / "audit", [writer.vkey]).ok


class Disk:
    """A writer whose disk fails on order; everything else is the real thing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error, self.part, self.under = 0, 0, ""
        self.real = os.write
        monkeypatch.setattr(log_module.os, "write", self.write)

    def write(self, handle: int, data: bytes) -> int:
        if self.error and self.under in os.readlink(f"/proc/self/fd/{handle}"):
            if self.part:
                return self.real(handle, data[: self.part])
            raise OSError(self.error, "planted")
        return self.real(handle, data)


@pytest.mark.parametrize(("error", "part"), [(errno.ENOSPC, 0), (errno.ENOSPC, 100), (errno.EIO, 0), (errno.EROFS, 0)])
def test_a_failing_disk_refuses_until_it_takes_records_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, part: int
) -> None:
    told: list[str] = []
    writer = make(on_fault=lambda code, _detail: told.append(code), checkpoint_s=60.0, group_ms=1)
    writer.append(decision(1))
    disk = Disk(monkeypatch)
    disk.error, disk.part = error, part
    for n in (2, 3):
        with pytest.raises(AuditUnavailable) as caught:
            writer.append(decision(n))
        assert caught.value.code == "audit_write"
    assert told
    assert writer.stats()["writable"] == 0
    disk.error = 0
    with pytest.raises(AuditUnavailable):  # it is not asked again within a second
        writer.append(decision(4))
    writer._places[0].failed_at -= 1
    writer.append(decision(5))
    writer.close()
    report = verify(tmp_path / "audit", [writer.vkey])
    assert report.ok, report.text()
    folder = tmp_path / "audit" / writer.log_id
    assert [r["exchange"] for r in entries(folder) if r["kind"] == "decision"] == ["x_1", "x_5"]


def test_the_spool_takes_over_at_once_and_gives_back(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make(spool=tmp_path / "spool", checkpoint_s=60.0, group_ms=1)
    writer.append(decision(1))
    disk = Disk(monkeypatch)
    disk.error, disk.under = errno.ENOSPC, str(tmp_path / "audit")
    spooled = writer.append(decision(2))
    assert writer.stats()["spooling"] == 1
    assert entry_of(tmp_path / "spool", spooled.uid)
    disk.error = 0
    writer._places[0].failed_at -= 2
    writer._return_home()
    assert writer.stats()["spooling"] == 0
    home = writer.append(decision(3))
    assert entry_of(tmp_path / "audit", home.uid)
    writer.close()
    for place in ("audit", "spool"):
        report = verify(tmp_path / place, [writer.vkey])
        assert report.ok, report.text()


def test_a_filled_form_that_the_spool_takes_says_what_the_record_says(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make(spool=tmp_path / "spool", checkpoint_s=60.0, group_ms=1)
    form = Form(decision(1, decision_id="d_1"))
    values = (77, "h:11", 9, "d_2", "x_2", "", "", "", "", "", "")
    homed = writer.append(Filled((form, values)))
    disk = Disk(monkeypatch)
    disk.error, disk.under = errno.ENOSPC, str(tmp_path / "audit")
    spooled = writer.append(Filled((form, values)))
    disk.error = 0
    home, away = (
        orjson.loads(entry_of(tmp_path / where, one.uid)) for where, one in (("audit", homed), ("spool", spooled))
    )
    assert away["uid"] == spooled.uid
    assert (home["args"], home["exchange"], home["decision_id"]) == ({"bytes": 77, "hmac": "h:11"}, "x_2", "d_2")
    own = ("uid", "seq", "log", "time_us")
    assert {**home, **dict.fromkeys(own)} == {**away, **dict.fromkeys(own)}


def test_a_half_record_that_cannot_be_cut_off_ends_the_log(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make(checkpoint_s=60.0, group_ms=1)
    writer.append(decision(1))
    signed = tmp_path / "audit" / writer.log_id / "checkpoint"
    until = time.monotonic() + 10
    while not signed.exists() and time.monotonic() < until:
        time.sleep(0.005)  # the flusher's only checkpoint: it must not meet the planted fault
    disk = Disk(monkeypatch)
    disk.error, disk.part = errno.ENOSPC, 100

    def fail(_handle: int, _size: int) -> None:
        raise OSError(errno.EIO, "planted")

    monkeypatch.setattr(log_module.os, "ftruncate", fail)
    with pytest.raises(AuditUnavailable):
        writer.append(decision(2))
    monkeypatch.undo()
    writer._places[0].failed_at -= 1
    writer.append(decision(3))
    writer.close()
    folder = tmp_path / "audit" / writer.log_id
    found = entries(folder)
    assert [r["exchange"] for r in found if r["kind"] == "decision"] == ["x_1", "x_3"]
    assert "log.recovered" in {r["kind"] for r in found}
    assert verify(tmp_path / "audit", [writer.vkey]).ok


async def test_a_failed_sync_ends_the_log_and_tells_who_waits(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make(checkpoint_s=60.0, group_ms=20)
    first = writer.log_id

    def fail(_handle: int) -> None:
        raise OSError(errno.EIO, "planted")

    monkeypatch.setattr(log_module.os, "fdatasync", fail)
    receipt = writer.append(decision(1))
    with pytest.raises(AuditUnavailable):
        await asyncio.wait_for(writer.durable(receipt), 5)
    with pytest.raises(AuditUnavailable):
        writer.append(decision(2))
    monkeypatch.undo()
    writer._places[0].failed_at -= 1
    writer.append(decision(3))
    writer.close()
    assert verify(tmp_path / "audit", [writer.vkey]).ok
    assert first  # the log may be resumed: every byte of it is checked against its checkpoint


def test_records_that_are_there_together_are_written_at_once_and_verify_like_any_others(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make(checkpoint_s=60.0, group_ms=1)
    writes: list[int] = []
    real = os.write

    def count(handle: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("/live"):
            writes.append(len(data))
        return real(handle, data)

    monkeypatch.setattr(log_module.os, "write", count)
    receipts = [r for first in range(0, 600, 60) for r in writer.append_all([decision(first + n) for n in range(60)])]
    assert len(writes) == 10 + 2  # one each, and one more where a bundle of 256 is full
    receipts.append(writer.append(decision(600)))
    assert writer.append_all([]) == []
    writer.close()
    folder = tmp_path / "audit" / writer.log_id
    found = entries(folder)
    assert [r["exchange"] for r in found if r["kind"] == "decision"] == [f"x_{n}" for n in range(601)]
    assert [found[r.index]["uid"] for r in receipts] == [r.uid for r in receipts]
    for record in found:
        validate_record(record)
    report = verify(tmp_path / "audit", [writer.vkey])
    assert report.ok, report.text()
    proof = prove(tmp_path / "audit", receipts[300].uid)
    assert check_proof(proof, entry_of(tmp_path / "audit", receipts[300].uid), writer.vkey)


@pytest.mark.parametrize(("error", "part"), [(errno.ENOSPC, 0), (errno.ENOSPC, 1500), (errno.EIO, 0)])
def test_a_disk_that_takes_a_part_of_them_acknowledges_none(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, part: int
) -> None:
    writer = make(checkpoint_s=60.0, group_ms=1)
    writer.append(decision(1))
    disk = Disk(monkeypatch)
    disk.error, disk.part = error, part
    with pytest.raises(AuditUnavailable):
        writer.append_all([decision(n) for n in range(2, 9)])
    assert writer.stats()["writable"] == 0
    disk.error = 0
    writer._places[0].failed_at -= 1
    writer.append_all([decision(9), decision(10)])
    writer.close()
    report = verify(tmp_path / "audit", [writer.vkey])
    assert report.ok, report.text()
    folder = tmp_path / "audit" / writer.log_id
    assert [r["exchange"] for r in entries(folder) if r["kind"] == "decision"] == ["x_1", "x_9", "x_10"]


@pytest.mark.parametrize("wrong", [{"fault": object()}, {"fault": "x" * 70_000}])
def test_one_record_that_has_no_form_keeps_the_others_of_its_group_out(
    make: Make, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    writer = make()
    with pytest.raises(AuditUnavailable):
        writer.append_all([decision(1), decision(2, **wrong), decision(3)])
    writer.append(decision(4))
    writer.close()
    folder = tmp_path / "audit" / writer.log_id
    assert [r["exchange"] for r in entries(folder) if r["kind"] == "decision"] == ["x_4"]
    assert verify(tmp_path / "audit", [writer.vkey]).ok


async def test_a_checkpoint_covers_what_was_synced_and_nothing_that_came_meanwhile(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make(checkpoint_s=60.0, group_ms=1)
    await writer.durable(writer.append(decision(0)))
    place = writer._places[0]
    synced, signed = [place.synced], list[int]()
    finish, sign = Log.finish_sync, Log.sign

    def meanwhile(log: Log, begun: Syncing) -> None:
        finish(log, begun)
        synced.append(begun.size)
        writer.append(decision(len(synced)))

    def note(log: Log, frontier: Frontier) -> Checkpoint:
        signed.append(frontier.size)
        return sign(log, frontier)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "finish_sync", meanwhile)
        patch.setattr(Log, "sign", note)
        for n in range(10, 310):  # more than a bundle, and than one group
            receipt = writer.append(decision(n))
            if n % 50 == 0:
                place.checkpoint_at = -60.0
                await writer.durable(receipt)
    writer.close()
    assert signed
    assert set(signed) <= set(synced)
    assert verify(tmp_path / "audit", [writer.vkey]).ok


def test_local_max_counts_as_a_full_disk(make: Make, tmp_path: Path) -> None:
    writer = make(local_max=20_000)
    room = (20_000 - int(writer.stats()["bytes"])) // 700
    for n in range(room):
        writer.append(decision(n))
    with pytest.raises(AuditUnavailable):
        collections.deque((writer.append(decision(n)) for n in range(20)), 0)
    assert writer.stats()["appended"] > 5
    writer.close()
    assert verify(tmp_path / "audit", [writer.vkey]).ok


def test_a_torn_tail_is_cut_off_and_recorded(make: Make, tmp_path: Path) -> None:
    writer = make()
    writer.append(decision(1))
    writer.close()
    folder = tmp_path / "audit" / writer.log_id
    for tail in (b"\x03", b"\x03\x00{half", b"\x00\x00" * 40, b"\x00\x02no"):
        with (folder / "live").open("ab") as file:
            file.write(tail)
        make().close()
        assert entries(folder)[-2]["kind"] == "log.recovered"
        assert entries(folder)[-2]["dropped_bytes"] == len(tail)
    assert verify(tmp_path / "audit", [writer.vkey]).ok


def test_a_log_that_contradicts_its_checkpoint_is_never_continued(make: Make, tmp_path: Path) -> None:
    writer = make()
    for n in range(20):
        writer.append(decision(n))
    writer.close()
    live = tmp_path / "audit" / writer.log_id / "live"
    data = bytearray(live.read_bytes())
    data[data.index(b"user:alice")] ^= 1
    live.write_bytes(data)
    told: list[str] = []
    again = make(on_fault=lambda code, _detail: told.append(code))
    assert again.log_id != writer.log_id
    assert told == ["log_changed"]
    again.close()
    codes = {p.code for p in verify(tmp_path / "audit", [writer.vkey]).problems}
    assert codes == {"root_mismatch"}


def test_a_rolled_back_log_is_never_continued(make: Make, tmp_path: Path) -> None:
    writer = make()
    writer.append(decision(1))
    writer.close()
    folder = tmp_path / "audit" / writer.log_id
    kept = {name: (folder / name).read_bytes() for name in ("live", "checkpoint")}
    make().close()
    for name, data in kept.items():
        (folder / name).write_bytes(data)
    again = make()
    assert again.log_id != writer.log_id
    again.close()
    assert "log_rolled_back" in {p.code for p in verify(tmp_path / "audit", [writer.vkey]).problems}


def test_a_clock_that_jumps_is_recorded(make: Make, tmp_path: Path) -> None:
    clock = FakeClock()
    writer = make(clock=clock)
    clock._now_us += 5_000_000
    writer._watch_clock()
    writer._watch_clock()
    writer.close()
    jumps = [r["jump_us"] for r in entries(tmp_path / "audit" / writer.log_id) if r["kind"] == "log.clock"]
    assert jumps == [5_000_000]


def test_the_keyed_digest_differs_by_tenant_and_secret(make: Make, tmp_path: Path) -> None:
    writer = make()
    assert writer.hmac("a", b"x") == writer.hmac("a", b"x")
    assert len({writer.hmac("a", b"x"), writer.hmac("b", b"x"), writer.hmac("a", b"y")}) == 3
    assert writer.hmac("a", b"x").startswith("h:")
    assert len(writer.hmac("a", b"x")) == 34


def test_closing_twice_is_harmless_and_a_closed_writer_refuses(make: Make) -> None:
    writer = make()
    writer.close()
    writer.close()
    with pytest.raises(AuditUnavailable):
        writer.append(decision())


def _load(directory: str, pipe: Any) -> None:
    from firewall.net.runtime import RandomIds, SystemClock
    from firewall.record.audit import AuditWriter, Settings

    writer = AuditWriter(
        directory,
        KEY,
        SystemClock(),
        RandomIds(),
        hmac_key=b"h" * 32,
        settings=Settings(deployment="fw.example", checkpoint_s=0.02, anchor_s=0.02),
    )
    n = 0
    while True:
        uid = writer.append(decision(n)).uid
        os.write(pipe, uid.encode() + b"\n")
        n += 1


@pytest.mark.slow
def test_sigkill_loses_no_acknowledged_record(tmp_path: Path, make: Make) -> None:
    """Operations §1.10 item 5: ten kills under load; what `append` had returned is there, and proven."""
    directory = tmp_path / "audit"
    context = multiprocessing.get_context("fork")
    acknowledged: list[str] = []
    for kill in range(10):
        read, write = os.pipe()
        child = context.Process(target=_load, args=(str(directory), write))
        child.start()
        os.close(write)
        seen = b""
        while seen.count(b"\n") < 60 + 97 * kill:
            seen += os.read(read, 65536)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        while chunk := os.read(read, 65536):
            seen += chunk
        os.close(read)
        child.join(10)
        acknowledged += seen.decode().split("\n")[:-1]
    writer = make()
    writer.close()
    report = verify(directory, [writer.vkey])
    assert report.ok, report.text()
    assert len(report.logs) == 2  # the anchor and the one log that every restart went on with
    stored = {r["uid"] for r in entries(directory / writer.log_id)}
    assert len(acknowledged) > 4000
    assert set(acknowledged) <= stored
    assert report.open_intents
    uid = acknowledged[-1]
    check_proof(prove(directory, uid), entry_of(directory, uid), writer.vkey)
