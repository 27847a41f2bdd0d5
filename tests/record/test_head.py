"""The anchor log's head: who starts reads what came after it, finds what a whole reading finds, and believes no other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from firewall.net.runtime import FakeClock
from firewall.record import anchor as anchors
from firewall.record import head as heads
from firewall.record.anchor import Anchor, Known
from firewall.record.log import Log, LogDamaged, iter_bundles
from firewall.record.merkle import Frontier
from firewall.record.note import Checkpoint, Signer
from firewall.record.record import LOG_CHECKPOINT, LOG_OPEN, LOG_RETIRED, LOG_SEALED
from firewall.record.tiles import WIDTH, Tiler
from firewall.record.verify import verify

from .conftest import KEY
from .test_verify import VKEY

SIGNER = Signer("fw.example/audit", KEY)
ORIGIN = "fw.example/audit/anchor"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "HEAD_EVERY", 1)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of entries, none of which has to outlast a power cut."""
    monkeypatch.setattr("os.fdatasync", lambda _handle: None)


def begin(directory: Path) -> Anchor:
    """Return the anchor of a process that has just started."""
    return Anchor(directory, SIGNER, (), FakeClock(), "n")


def about(log: str, size: int) -> Checkpoint:
    return Checkpoint(f"fw.example/audit/{log}", size, bytes([size % 256]) * 32)


def write(directory: Path, entries: int, *, first: int = 0) -> Anchor:
    """Let a node run for so many entries: segments begin, come to something, are sealed and retired."""
    anchor = begin(directory)
    for n in range(first, first + entries):
        segment, step = divmod(n, 40)
        log, before = f"log_{segment}", f"log_{segment - 1}"
        if step == 0:
            anchor.append(LOG_OPEN, about(log, 0), after=before)
        elif step == 1 and segment:
            anchor.append(LOG_SEALED, about(before, 39), next=log)
        elif step == 2 and segment > 3:
            anchor.append(LOG_RETIRED, about(f"log_{segment - 3}", 39))
        else:
            anchor.append(LOG_CHECKPOINT, about(log, step))
    return anchor


def whole(directory: Path) -> dict[str, Known]:
    """Return what is known by reading everything."""
    return anchors._folded({}, anchors.anchored(directory / "anchor", [SIGNER.verifier]))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bundles at which readings of the anchor log began."""
    begun: list[int] = []

    def noted(directory: Path, first: int = 0) -> Any:
        begun.append(first)
        return iter_bundles(directory, first)

    monkeypatch.setattr(anchors, "iter_bundles", noted)
    return begun


def size_of(directory: Path) -> int:
    head = heads.read(directory / "anchor", ORIGIN, [SIGNER.verifier])
    return 0 if head is None else head.size


def test_who_starts_reads_what_came_after_the_head_and_knows_the_same(tmp_path: Path, reads: list[int]) -> None:
    for part in range(4):  # four lives of a node
        write(tmp_path, 300, first=part * 300)
        reads.clear()
        known = begin(tmp_path).known()
        assert reads == [size_of(tmp_path) // WIDTH]
        assert (part + 1) * 300 - size_of(tmp_path) <= 2 * WIDTH
        assert known == whole(tmp_path)
    assert size_of(tmp_path) >= 3 * WIDTH
    assert any(log.sealed and log.retired and log.after for log in known.values())


def test_who_starts_opens_the_anchor_log_from_the_head_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 900)
    loaded: list[int] = []
    load = Log._load_bundle

    def noted(self: Log, n: int, checkpoint: Checkpoint) -> None:
        loaded.append(n)
        load(self, n, checkpoint)

    monkeypatch.setattr(Log, "_load_bundle", noted)
    begin(tmp_path).append(LOG_OPEN, about("log_x", 0))
    assert min(loaded, default=99) >= size_of(tmp_path) // WIDTH - 1 > 0
    report = verify(tmp_path, [VKEY])
    assert next(log for log in report.logs if log.log == "anchor").signed == 901


def test_without_heads_everything_is_read_and_with_them_a_start_reads_no_more_however_old_the_log_is(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchors, "HEAD_EVERY", 10**9)
    write(tmp_path, 1200)
    reads.clear()
    begin(tmp_path).known()
    assert reads == [0]
    monkeypatch.setattr(anchors, "HEAD_EVERY", 1)
    write(tmp_path, 1, first=1200)  # a log that is older than heads gets one with the next entry
    reads.clear()
    begin(tmp_path).known()
    assert reads == [1200 // WIDTH]


# -- heads that are not believed -----------------------------------------------------------------------------


def changed(directory: Path, change: Any) -> None:
    path = directory / "anchor" / "head"
    file = orjson.loads(path.read_bytes())
    change(file)
    path.write_bytes(orjson.dumps(file))


def rolled_back(file: dict[str, str]) -> None:
    """Say that every log had come to nothing."""
    body = orjson.loads(file["body"])
    body["logs"] = {origin: [0, *rest[1:]] for origin, rest in body["logs"].items()}
    file["body"] = orjson.dumps(body).decode()


def redigested(file: dict[str, str]) -> None:
    rolled_back(file)
    text, _, signatures = file["note"].partition("\n\n")
    lines = text.split("\n")
    file["note"] = "\n".join([*lines[:3], f"known {heads._digest(file['body'])}"]) + f"\n\n{signatures}"


def test_a_head_that_somebody_changed_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 600)
    right = whole(tmp_path)
    original = (tmp_path / "anchor" / "head").read_bytes()
    for change in (rolled_back, redigested, lambda f: f.pop("note"), lambda f: f.update(body="{}")):
        (tmp_path / "anchor" / "head").write_bytes(original)
        changed(tmp_path, change)
        assert size_of(tmp_path) == 0
        assert begin(tmp_path).known() == right
        begin(tmp_path).append(LOG_CHECKPOINT, about("log_x", 0))
        right = whole(tmp_path)
    for rubbish in (b"", b"{", b"[]", b"null", b"\xff" * 100, original[:-40]):
        (tmp_path / "anchor" / "head").write_bytes(rubbish)
        assert begin(tmp_path).known() == right


def test_twin_without_its_signature_a_changed_head_would_hide_a_rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 600)
    changed(tmp_path, redigested)
    monkeypatch.setattr(heads, "open_note", lambda note, _: note.partition("\n\n")[0] + "\n")
    told = begin(tmp_path).known()
    assert told["fw.example/audit/log_2"].size == 0
    assert whole(tmp_path)["fw.example/audit/log_2"].size == 39


def test_the_head_of_another_anchor_log_under_the_same_key_is_passed_over(tmp_path: Path) -> None:
    """The spool has an anchor log of its own, with the same name and key."""
    write(tmp_path / "spool", 700)
    write(tmp_path / "home", 600, first=10)
    right = whole(tmp_path / "home")
    shutil.copy(tmp_path / "spool/anchor/head", tmp_path / "home/anchor/head")
    assert size_of(tmp_path / "home") == 2 * WIDTH  # signed, and of this origin
    assert begin(tmp_path / "home").known() == right
    begin(tmp_path / "home").append(LOG_CHECKPOINT, about("log_x", 0))
    assert verify(tmp_path / "home", [VKEY]).problems
    assert {p.code for p in verify(tmp_path / "home", [VKEY]).problems} == {"log_missing"}  # the logs are made up


def test_of_an_anchor_log_that_was_rolled_back_behind_its_head_everything_is_read(tmp_path: Path) -> None:
    write(tmp_path, 300)
    shutil.copytree(tmp_path / "anchor", tmp_path / "earlier")
    write(tmp_path, 900, first=300)
    head = (tmp_path / "anchor/head").read_bytes()
    shutil.rmtree(tmp_path / "anchor")
    (tmp_path / "earlier").rename(tmp_path / "anchor")
    (tmp_path / "anchor/head").write_bytes(head)
    assert begin(tmp_path).known() == whole(tmp_path)
    begin(tmp_path).append(LOG_CHECKPOINT, about("log_x", 0))


def test_what_stands_in_a_file_and_not_in_the_tree_is_not_signed_as_known(tmp_path: Path) -> None:
    """Somebody without the key changes an entry before a head covers it: no head vouches for that."""
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patched:
        patched.setattr(anchors, "HEAD_EVERY", 10**9)
        write(tmp_path, 600)
    path = tmp_path / "anchor" / "tile/entries/000"
    data = path.read_bytes()
    assert data.count(b'"size":39') > 1
    path.write_bytes(data.replace(b'"size":39', b'"size":11'))
    write(tmp_path, 10, first=600)
    assert size_of(tmp_path) == 0
    assert "root_mismatch" in {p.code for p in verify(tmp_path, [VKEY]).problems}


def test_verification_reads_every_entry_and_never_the_head(tmp_path: Path) -> None:
    write(tmp_path, 600)
    before = verify(tmp_path, [VKEY]).as_json()
    changed(tmp_path, rolled_back)
    assert verify(tmp_path, [VKEY]).as_json() == before
    path = tmp_path / "anchor" / "tile/entries/000"
    path.write_bytes(path.read_bytes().replace(b'"size":39', b'"size":11'))
    assert "root_mismatch" in {p.code for p in verify(tmp_path, [VKEY]).problems}


def test_entries_that_nobody_signed_are_doubted_behind_a_head_as_well(tmp_path: Path) -> None:
    """The checkpoint is set back to an older one, so that the next writer doubts what stands behind it."""
    write(tmp_path, 260)
    checkpoint = (tmp_path / "anchor/checkpoint").read_bytes()
    write(tmp_path, 400, first=260)
    assert size_of(tmp_path) == 2 * WIDTH
    (tmp_path / "anchor/checkpoint").write_bytes(checkpoint)
    write(tmp_path, 30, first=660)
    right = whole(tmp_path)
    assert begin(tmp_path).known() == right
    assert right["fw.example/audit/log_9"].sealed is None, "what was sealed in between excuses nothing"
    write(tmp_path, 400, first=690)  # over several heads
    assert size_of(tmp_path) > 2 * WIDTH
    assert begin(tmp_path).known() == whole(tmp_path)
    assert whole(tmp_path)["fw.example/audit/log_9"].sealed is None


def test_a_bundle_that_is_lost_behind_the_head_is_found_by_verification(tmp_path: Path) -> None:
    write(tmp_path, 600)
    (tmp_path / "anchor/tile/entries/000").unlink()
    assert begin(tmp_path).known()
    assert not verify(tmp_path, [VKEY]).ok
    (tmp_path / "anchor/head").unlink()
    with pytest.raises(LogDamaged):
        begin(tmp_path).append(LOG_CHECKPOINT, about("log_x", 0))


# -- the tree's edge -----------------------------------------------------------------------------------------


def test_an_edge_and_a_row_of_tiles_come_back_as_they_were_and_no_other_shape_does() -> None:
    edge, tiler = Frontier(), Tiler()
    for n in range(700):
        edge.append(bytes([n % 256]) * 32)
        tiler.add_full(bytes([n % 256]) * 32)
        if n % 97 == 0 or n in (255, 256):
            again = Frontier.of(edge.size, edge.hashes())
            assert (again.root(), again.size) == (edge.root(), n + 1)
            back = Tiler.of(n + 1, tiler.rows())
            assert back.add_full(b"x" * 32) == tiler.copy().add_full(b"x" * 32)
    for size, hashes in ((700, edge.hashes()[1:]), (701, edge.hashes()), (-1, []), (1, [b"short"])):
        with pytest.raises(ValueError, match="frontier"):
            Frontier.of(size, hashes)
    for bundles, rows in ((699, tiler.rows()), (700, []), (700, tiler.rows()[:2]), (700, [[b"s"], *tiler.rows()[1:]])):
        with pytest.raises(ValueError, match="row"):
            Tiler.of(bundles, rows)
