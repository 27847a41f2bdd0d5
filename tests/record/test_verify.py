"""Verification names what was done to a log (operations §1.10 items 3 and 4)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firewall.core.errors import Malformed
from firewall.record.anchor import Anchor
from firewall.record.log import LogDamaged, iter_bundles
from firewall.record.merkle import Frontier, leaf_hash
from firewall.record.note import Checkpoint, Signer, Verifier
from firewall.record.tiles import WIDTH, encode_entry, entries_path
from firewall.record.verify import PROBLEMS, Report, check_proof, entry_of, prove, verify

from .conftest import KEY, Make, decision, outcome

VKEY = Verifier.of("fw.example/audit", KEY.public_key()).vkey()


@pytest.fixture
def audit(make: Make, tmp_path: Path) -> Path:
    """Two closed logs of 602 records each (601 and the opening)."""
    writers = [make(anchor_s=600.0), make(anchor_s=600.0)]
    for writer in writers:
        for n in range(300):
            writer.append(decision(n))
            writer.append(outcome(n))
        writer.append(decision(999, phase="refused"))
        writer.close()
    return tmp_path / "audit"


def logs(audit: Path) -> list[Path]:
    return sorted(audit.glob("log_*"))


def rewrite(folder: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the entries and store them again as a careful forger would: well-formed bundles, no hash tiles."""
    entries = change([e for _, bundle, _ in iter_bundles(folder) for e in bundle])
    shutil.rmtree(folder / "tile", ignore_errors=True)
    full = len(entries) // WIDTH
    for n in range(full):
        path = folder / entries_path(n)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(encode_entry(e) for e in entries[n * WIDTH : (n + 1) * WIDTH]))
    (folder / "live").write_bytes(b"".join(encode_entry(e) for e in entries[full * WIDTH :]))


def codes(audit: Path, **known: list[str]) -> set[str]:
    report = verify(audit, [VKEY], **known)
    assert report.ok is (not report.problems)
    for problem in report.problems:
        assert PROBLEMS[problem.code] in report.text()
    return {p.code for p in report.problems}


def test_an_untouched_directory_holds(audit: Path) -> None:
    report = verify(audit, [VKEY])
    assert report.ok, report.text()
    assert report.records == 1204
    assert report.open_intents == []
    assert orjson.loads(orjson.dumps(report.as_json()))["ok"] is True
    shutil.rmtree(logs(audit)[0] / "tile" / "0")  # hash tiles are no evidence: they can go
    assert verify(audit, [VKEY]).ok


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: e[:-1], {"tail_missing"}),
        (lambda e: e[:256], {"tail_missing"}),
        (lambda e: e[:100] + e[101:], {"record_missing", "tail_missing"}),
        (lambda e: [*e[:100], e[101], e[100], *e[102:]], {"record_reordered", "root_mismatch"}),
        (lambda e: [*e[:100], e[99], *e[101:]], {"record_missing", "record_duplicated", "root_mismatch"}),
        (lambda e: [*e[:300], e[300].replace(b"user:alice", b"user:malice"), *e[301:]], {"root_mismatch"}),
        (lambda e: [*e[:300], b"rubbish", *e[301:]], {"record_unreadable", "root_mismatch"}),
        (lambda e: [*e, e[-1].replace(b'"seq":601', b'"seq":602')], {"tail_after_close"}),
    ],
    ids=["last record", "last segment", "one record", "reorder", "duplicate", "change", "rubbish", "append"],
)
def test_each_change_of_the_entries_is_named(
    audit: Path, change: Callable[[list[bytes]], list[bytes]], expected: set[str]
) -> None:
    rewrite(logs(audit)[0], lambda entries: entries)
    assert codes(audit) == set()  # the twin: storing the same entries again changes nothing
    rewrite(logs(audit)[0], change)
    assert codes(audit) == expected


def test_a_record_of_another_log_is_named(audit: Path) -> None:
    one, other = logs(audit)
    foreign = entry_of(audit, f"{other.name}.50")
    rewrite(one, lambda e: [*e[:50], foreign, *e[51:]])
    assert codes(audit) == {"record_spliced", "root_mismatch"}


def test_a_deleted_log_is_named(audit: Path) -> None:
    shutil.rmtree(logs(audit)[0])
    assert codes(audit) == {"log_missing"}


def test_a_log_that_was_never_opened_is_named(audit: Path) -> None:
    twin = audit / "log_00000000000000000000000000"
    shutil.copytree(logs(audit)[0], twin)
    assert "log_unanchored" in codes(audit)


def test_a_deleted_anchor_is_named(audit: Path) -> None:
    shutil.rmtree(audit / "anchor")
    assert codes(audit) == {"anchor_missing"}
    for log in logs(audit):
        shutil.rmtree(log)
    assert codes(audit) == {"anchor_missing"}  # where nothing is, nothing holds


def test_a_log_rolled_back_with_its_checkpoint_is_named(audit: Path, make: Make, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(audit, old)
    writer = make()
    writer.append(decision(5))
    writer.close()
    folder = audit / writer.log_id
    shutil.rmtree(folder)
    shutil.copytree(old / writer.log_id, folder)
    assert codes(audit) == {"log_rolled_back"}


def test_a_directory_rolled_back_as_a_whole_needs_a_checkpoint_kept_elsewhere(
    audit: Path, make: Make, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(audit, old)
    writer = make()
    writer.append(decision(5))
    writer.close()
    kept = [(audit / writer.log_id / "checkpoint").read_text()]
    assert codes(audit, known=kept) == set()
    assert codes(old) == set()
    assert codes(old, known=kept) == {"log_rolled_back"}


def test_history_rewritten_with_the_stolen_key_contradicts_the_anchor(audit: Path) -> None:
    """Whoever holds the key can sign another history, but not one that the anchor log agrees with."""
    folder = logs(audit)[0]
    rewrite(folder, lambda e: [*e[:9], e[9].replace(b"alice", b"chloe"), *e[10:]])
    frontier = Frontier()
    for _, bundle, _ in iter_bundles(folder):
        for entry in bundle:
            frontier.append(leaf_hash(entry))
    checkpoint = Checkpoint(f"fw.example/audit/{folder.name}", frontier.size, frontier.root())
    (folder / "checkpoint").write_text(Signer("fw.example/audit", KEY).sign(checkpoint.text()))
    assert codes(audit) == {"root_mismatch"}


def test_checkpoints_that_do_not_count_are_named(audit: Path) -> None:
    one, other = logs(audit)
    note = (one / "checkpoint").read_text()
    for text, code in (
        (note.replace("\n602\n", "\n601\n"), "checkpoint_forged"),
        (
            Signer("fw.example/audit", Ed25519PrivateKey.generate()).sign(note[: note.index("\n\n") + 1]),
            "checkpoint_unsigned",
        ),
        ("rubbish", "checkpoint_invalid"),
        ((other / "checkpoint").read_text(), "checkpoint_foreign"),
    ):
        (one / "checkpoint").write_text(text)
        assert code in codes(audit)
    (one / "checkpoint").unlink()
    assert "checkpoint_missing" in codes(audit)


def test_a_damaged_bundle_is_named(audit: Path) -> None:
    path = logs(audit)[0] / entries_path(1)
    path.write_bytes(path.read_bytes()[:-3])
    assert "bundle_torn" in codes(audit)


def test_an_intent_without_outcome_is_reported_and_is_no_problem(make: Make, tmp_path: Path) -> None:
    writer = make()
    uid = writer.append(decision(1)).uid
    writer.append(decision(2))
    writer.append(outcome(2))
    writer.close()
    report = verify(tmp_path / "audit", [VKEY])
    assert report.ok
    assert report.open_intents == [uid]
    assert uid in report.text()


def test_verifying_beside_a_running_writer_finds_no_problem(make: Make, tmp_path: Path) -> None:
    writer = make()
    reports: list[Report] = []
    for n in range(3000):
        writer.append(decision(n))
        if n % 500 == 0:
            reports.append(verify(tmp_path / "audit", [VKEY]))
    assert all(r.ok for r in reports), [r.text() for r in reports if not r.ok]


def test_a_rotated_key_verifies_with_both_keys(make: Make, tmp_path: Path) -> None:
    make().close()
    new = Ed25519PrivateKey.generate()
    writer = make(key=new, older=(KEY.public_key(),))
    writer.append(decision(1))
    writer.close()
    assert len(logs(tmp_path / "audit")) == 1
    assert verify(tmp_path / "audit", [VKEY, writer.vkey]).ok
    assert {p.code for p in verify(tmp_path / "audit", [VKEY]).problems} == {"checkpoint_unsigned", "log_rolled_back"}


def test_a_proof_holds_for_its_record_and_for_nothing_else(audit: Path) -> None:
    name = logs(audit)[0].name
    for index in (0, 255, 256, 601):
        uid = f"{name}.{index}"
        text, record = prove(audit, uid), entry_of(audit, uid)
        checkpoint, at = check_proof(text, record, VKEY)
        assert (checkpoint.size, at) == (602, index)
        with pytest.raises(Malformed) as caught:
            check_proof(text, record + b" ", VKEY)
        assert caught.value.code == "proof_failed"
        with pytest.raises(Malformed):
            check_proof(text.replace(f"index {index}", f"index {index + 1}"), record, VKEY)
        with pytest.raises(Malformed):
            check_proof(text.replace("\n602\n", "\n601\n"), record, VKEY)
        lines = text.split("\n")
        with pytest.raises(Malformed):
            check_proof("\n".join([*lines[:2], *lines[3:]]), record, VKEY)
    for uid in ("log_x.1", f"{name}.602", f"{name}.x", "../../etc.1", "", f"{name}.-1"):
        with pytest.raises(Malformed):
            prove(audit, uid)


def test_a_proof_of_a_changed_log_is_refused(audit: Path) -> None:
    folder = logs(audit)[0]
    rewrite(folder, lambda e: [*e[:9], e[9].replace(b"alice", b"chloe"), *e[10:]])
    with pytest.raises(Malformed) as caught:
        prove(audit, f"{folder.name}.5")
    assert caught.value.code == "root_mismatch"


@pytest.mark.parametrize(
    "text",
    ["", "c2sp.org/tlog-proof@v1\n\n", "c2sp.org/tlog-proof@v2\nindex 1\n\n", "c2sp.org/tlog-proof@v1\nindex x\n\nx"],
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        check_proof(text, b"{}", VKEY)


def test_two_writers_of_one_anchor_log_read_only_what_came_since_and_it_holds(tmp_path: Path) -> None:
    """Over several bundles, by turns of different lengths; then by somebody who remembers nothing."""
    from firewall.net.runtime import FakeClock

    signer = Signer("fw.example/audit", KEY)
    one, two, fresh = (Anchor(tmp_path, signer, (), FakeClock(), "n") for _ in range(3))
    checkpoint = Checkpoint("fw.example/audit/log_x", 0, b"")
    turns = [one] * 3 + [two] * 258 + [one] * 250 + [two] + [one] * 2 + [two] * 260 + [one, two, fresh]
    for turn in turns:
        turn.append("log.checkpoint", checkpoint)
    before = one._before
    assert before is not None
    assert before.bundles >= 2
    report = verify(tmp_path, [VKEY])
    assert {p.code for p in report.problems} == {"log_missing"}, "log_x is made up; the anchor log itself holds"
    assert next(log for log in report.logs if log.log == "anchor").signed == len(turns)


def test_an_anchor_log_that_was_rolled_back_is_not_continued_by_who_remembers_it(tmp_path: Path) -> None:
    from firewall.net.runtime import FakeClock

    signer = Signer("fw.example/audit", KEY)
    anchor = Anchor(tmp_path, signer, (), FakeClock(), "n")
    checkpoint = Checkpoint("fw.example/audit/log_x", 0, b"")
    for _ in range(10):
        anchor.append("log.checkpoint", checkpoint)
    shutil.copytree(tmp_path / "anchor", tmp_path / "earlier")
    for _ in range(300):
        anchor.append("log.checkpoint", checkpoint)
    shutil.rmtree(tmp_path / "anchor")
    (tmp_path / "earlier").rename(tmp_path / "anchor")
    with pytest.raises(LogDamaged, match="log_rolled_back"):
        anchor.append("log.checkpoint", checkpoint)
    Anchor(tmp_path, signer, (), FakeClock(), "n").append("log.checkpoint", checkpoint)  # the twin: who forgot goes on


def test_the_anchor_names_the_writers_logs(audit: Path) -> None:
    from firewall.net.runtime import FakeClock

    known = Anchor(audit, Signer("fw.example/audit", KEY), (), FakeClock(), "n").known()
    assert {origin: log.size for origin, log in known.items()} == {
        f"fw.example/audit/{folder.name}": 602 for folder in logs(audit)
    }
