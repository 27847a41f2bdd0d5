"""Verification of an audit directory with nothing but its files and the verifier keys.

No network, no server, no database. Every contradiction is named; what is merely unfinished (a tail
that no checkpoint covers yet, an intent whose outcome is not there) is a note, not a problem. So is a
segment whose records were retired: the anchor log says so, and its signed checkpoint is compared.

A directory that was rolled back *as a whole*, anchor log included, contradicts nothing in itself:
keep checkpoints elsewhere and pass them as ``known``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import orjson

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.record import anchor
from firewall.record.anchor import Anchored, anchored
from firewall.record.log import iter_bundles
from firewall.record.merkle import Frontier, leaf_hash
from firewall.record.note import Checkpoint, Verifier, open_note
from firewall.record.proof import check_proof, entry_of, prove
from firewall.record.record import LOG_CLOSE, LOG_RECOVERED, LOG_RETIRED, LOG_SEALED
from firewall.record.segments import link_of
from firewall.record.show import explain, explain_text, show

State = Literal["open", "closed", "sealed", "retired"]
Link = tuple[str, tuple[str, int, bytes]]  # who says it, and how a segment ended
OPEN_LISTED: Final = 1000

__all__ = [
    "PROBLEMS",
    "Problem",
    "Report",
    "check_proof",
    "entry_of",
    "explain",
    "explain_text",
    "prove",
    "show",
    "verify",
]

# Every problem that a report can name, and what it means; docs and console render this table.
PROBLEMS: Final[dict[str, str]] = {
    "anchor_missing": "The anchor log is gone: nothing says which logs should exist.",
    "log_missing": "The anchor log names a log whose directory is gone.",
    "log_unanchored": "A log stands here that the anchor log never heard of.",
    "log_rolled_back": "The log is shorter than it once was, by an anchored or known checkpoint.",
    "tail_missing": "The newest records are gone: the log's own checkpoint covers more than is there.",
    "tail_after_close": "Records were added after the log was closed or sealed.",
    "segment_missing": "A log says how the segment before it ended, and that segment is not here.",
    "segment_differs": "A segment does not end as the log that goes on from it says.",
    "bundle_torn": "A finished bundle of 256 records is damaged.",
    "record_unreadable": "A record is not JSON.",
    "record_missing": "A record is missing in the middle.",
    "record_reordered": "Records stand in another order than they were written.",
    "record_duplicated": "A record stands here more than once.",
    "record_spliced": "A record comes from another log.",
    "root_mismatch": "Records were changed: the tree does not have the signed root.",
    "checkpoint_missing": "The log once had a checkpoint, and has none.",
    "checkpoint_forged": "A known key's signature on the checkpoint does not hold.",
    "checkpoint_unsigned": "No known key signed the checkpoint.",
    "checkpoint_invalid": "The checkpoint cannot be read.",
    "checkpoint_foreign": "The checkpoint is of another log.",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One contradiction: the log's directory, a code of `PROBLEMS`, and where."""

    log: str
    code: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LogReport:
    """One log: records there, records under its checkpoint, closed properly, torn bytes at its end.

    state: ``open`` (written, or ended by a crash), ``closed``, ``sealed`` (another log goes on: ``next``), or
    ``retired``: its records are not there any more, signed says how many they were.
    """

    log: str
    origin: str
    size: int
    signed: int
    root: str
    closed: bool
    torn_bytes: int
    state: State = "open"
    next: str = ""


@dataclass(slots=True)
class Report:
    """What verification found; ``ok`` when nothing contradicts anything.

    logs: the anchor log first. records: of all logs but the anchor.
    open_intents: uids of intents without an outcome (the newest 1,000): a crash in between, or an
    exchange that is still going on.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    logs: list[LogReport] = field(default_factory=list)
    records: int = 0
    open_intents: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Return whether there is no problem."""
        return not self.problems

    def as_json(self) -> JSONObject:
        """Return the report as a JSON object."""
        return {**asdict(self), "ok": self.ok}

    def text(self) -> str:
        """Return the report in plain words."""
        lines = [_line(log) for log in self.logs]
        lines += [f"note: {n.log}: {n.detail}" for n in self.notes]
        if self.open_intents:
            lines.append(f"note: {len(self.open_intents)} intents without an outcome, the last {self.open_intents[-1]}")
        lines += [f"PROBLEM: {p.log}: {PROBLEMS[p.code]} [{p.code}] {p.detail}".rstrip() for p in self.problems]
        lines.append("The log holds." if self.ok else f"The log does not hold: {len(self.problems)} problems.")
        return "\n".join(lines)


def _line(log: LogReport) -> str:
    if log.state == "retired":
        return f"{log.log}: retired, {log.signed} records were under its signed checkpoint"
    ending = f"; sealed, {log.next} goes on" if log.state == "sealed" else ""
    return f"{log.log}: {log.size} records, {log.signed} under a signed checkpoint{ending}"


def verify(directory: str | os.PathLike[str], vkeys: Sequence[str], *, known: Sequence[str] = ()) -> Report:
    """Check every log of an audit directory against its checkpoint and the anchor log.

    vkeys: verifier keys of the deployment, older ones included. known: signed checkpoints that were
    kept elsewhere. Reads beside a running writer. Raises Malformed: vkey_invalid, and as
    `note.open_note` for a known checkpoint that does not verify.
    """
    root = Path(directory)
    verifiers = [Verifier.parse(v) for v in vkeys]
    kept = [Checkpoint.parse(open_note(note, verifiers)) for note in known]
    report = Report()
    folders = sorted(f for f in root.glob("log_*") if f.is_dir())
    names = {v.name for v in verifiers}
    marks: dict[str, list[Anchored]] = {}
    if (root / anchor.NAME).is_dir():
        _Check(root / anchor.NAME, names, verifiers, [], kept, report).run()
        marks = _marks(root, verifiers)
    else:
        report.problems.append(Problem(anchor.NAME, "anchor_missing"))
    intents: dict[str, str] = {}
    links: list[Link] = []
    seen = set()
    for folder in folders:
        origins = {f"{name}/{folder.name}" for name in names}
        if marks and (not origins & marks.keys() or not (folder / "live").exists()):
            marks = _marks(root, verifiers)  # the log may have been begun, or retired, since we looked
        mine = [mark for origin in origins for mark in marks.get(origin, ())]
        check = _Check(folder, names, verifiers, mine, kept, report, intents, links)
        check.run()
        seen |= origins
        if marks and not mine and check.size:
            marks = _marks(root, verifiers)  # the anchor log knows of a log before its first record stands there
        if marks and not origins & marks.keys() and check.size:
            report.problems.append(Problem(folder.name, "log_unanchored"))
    for origin in sorted(marks.keys() - seen):
        name, _, log = origin.rpartition("/")
        if name in names and not (root / log).is_dir():  # one that was begun since we looked is none
            report.problems.append(Problem(log, "log_missing"))
    _compare_links(root, links, report)
    _note_cut(marks, report)
    report.open_intents = list(intents.values())[-OPEN_LISTED:]
    return report


def _compare_links(root: Path, links: list[Link], report: Report) -> None:
    """Compare what logs say of the segments before them with what those are."""
    found = {log.log: log for log in report.logs}
    for teller, (segment, size, signed_root) in links:
        log = found.get(segment)
        if log is None:
            report.problems.append(Problem(teller, "segment_missing", segment))
            continue
        said = size, signed_root.hex()
        there = (log.signed if log.state == "retired" else log.size), log.root
        if there != said and _now(root / segment) != said:
            detail = f"{teller} says {size} records, here are {there[0]}"
            report.problems.append(Problem(segment, "segment_differs", detail))


def _note_cut(marks: dict[str, list[Anchored]], report: Report) -> None:
    """Tell of segments that nobody sealed although another log goes on from them: the next start does (`segments`)."""
    begun = {log.origin for log in report.logs if log.size}
    for origin in sorted(marks.keys() & begun):
        name, _, then = origin.rpartition("/")
        for after in {mark.after for mark in marks[origin] if mark.after and mark.signed}:
            before = marks.get(f"{name}/{after}", ())
            if before and not any(mark.signed and mark.kind in (LOG_SEALED, LOG_RETIRED) for mark in before):
                detail = (
                    f"{then} goes on from it, and its writer was ended before it could seal it: the next start does"
                )
                report.notes.append(Problem(after, "rotation_cut", detail))


def _now(folder: Path) -> tuple[int, str]:
    """Look again: a segment may have ended between our look at it and at the log that goes on."""
    frontier = Frontier()
    try:
        for _, entries, _ in iter_bundles(folder):
            for entry in entries:
                frontier.append(leaf_hash(entry))
    except (Malformed, OSError):
        return 0, ""
    return frontier.size, frontier.root().hex()


def _marks(root: Path, verifiers: list[Verifier]) -> dict[str, list[Anchored]]:
    marks: dict[str, list[Anchored]] = {}
    try:
        for mark in anchored(root / anchor.NAME, verifiers):
            marks.setdefault(mark.origin, []).append(mark)
    except Malformed:
        pass  # already named by the check of the anchor log itself
    return marks


class _Check:
    """The check of one log; adds what it finds to the report."""

    def __init__(
        self,
        folder: Path,
        names: set[str],
        verifiers: list[Verifier],
        marks: list[Anchored],
        known: list[Checkpoint],
        report: Report,
        intents: dict[str, str] | None = None,
        links: list[Link] | None = None,
    ) -> None:
        self.folder, self.verifiers, self.marks, self.report = folder, verifiers, marks, report
        self.origins = {f"{name}/{folder.name}" for name in names}
        self.known = [k for k in known if k.origin in self.origins]
        self.intents = intents if intents is not None else {}
        self.links = links if links is not None else []
        self.size = 0
        self.good = 0
        self.sequence: list[int] = []

    def problem(self, code: str, detail: str = "") -> None:
        self.report.problems.append(Problem(self.folder.name, code, detail))

    def note(self, code: str, detail: str) -> None:
        self.report.notes.append(Problem(self.folder.name, code, detail))

    def run(self) -> None:
        checkpoint = self.checkpoint()
        retired = next((mark for mark in self.marks if mark.kind == LOG_RETIRED and mark.signed), None)
        if retired is not None and not self.whole(retired):
            self.check_retired(retired, checkpoint)
            return
        wanted: dict[int, set[bytes]] = {}
        if checkpoint is not None:
            wanted.setdefault(checkpoint.size, set()).add(checkpoint.root)
        for mark in self.marks:
            if mark.kind in anchor.SIZED and mark.root:
                wanted.setdefault(mark.size, set()).add(mark.root)
        for kept in self.known:
            wanted.setdefault(kept.size, set()).add(kept.root)
        frontier, torn = self.read(wanted)
        self.size = frontier.size
        self.order()
        signed = checkpoint.size if checkpoint is not None else 0
        if signed > self.size:
            self.problem("tail_missing", f"{self.size} of {signed} records are there")
        once = max([m.size for m in self.marks] + [k.size for k in self.known], default=0)
        if once > self.size and once > signed:
            self.problem("log_rolled_back", f"it once had {once} records, now {self.size}")
        elif once > signed:
            self.problem("log_rolled_back", f"its checkpoint covers {signed} records, once {once}")
        said = [mark for mark in self.marks if mark.signed]
        sealed = next((mark for mark in said if mark.kind == LOG_SEALED), None)
        closed = bool(said) and said[-1].kind in (LOG_CLOSE, LOG_SEALED, LOG_RETIRED)
        if closed and self.size > said[-1].size:
            self.problem("tail_after_close", f"closed at {said[-1].size}, now {self.size}")
        elif self.size > signed:
            self.note("unsigned_tail", f"{self.size - signed} records are newer than the checkpoint")
        if torn:
            self.note("torn_tail", f"{torn} bytes of an unfinished record at the end")
        if (self.folder / "damaged").exists():
            self.note("set_aside", "the writer found this log damaged and began another")
        if self.folder.name != anchor.NAME:
            self.report.records += self.size
        origin = checkpoint.origin if checkpoint is not None else next(iter(self.origins), "")
        self.report.logs.append(
            LogReport(
                self.folder.name,
                origin,
                self.size,
                signed,
                frontier.root().hex(),
                closed,
                torn,
                "sealed" if sealed is not None else "closed" if closed else "open",
                sealed.then if sealed is not None else "",
            )
        )

    def whole(self, retired: Anchored) -> bool:
        """Return whether a segment that was retired has all its records (a copy that was made before)."""
        try:
            return sum(len(entries) for _, entries, _ in iter_bundles(self.folder)) == retired.size
        except (Malformed, OSError):
            return False

    def check_retired(self, retired: Anchored, checkpoint: Checkpoint | None) -> None:
        """Check what is left of a segment without its records: its checkpoint, against the anchor log."""
        signed, root = (checkpoint.size, checkpoint.root) if checkpoint is not None else (0, b"")
        if checkpoint is not None and (signed, root) != (retired.size, retired.root):
            self.problem("root_mismatch", "its checkpoint is not the one that it was retired with")
        once = max([m.size for m in self.marks] + [k.size for k in self.known])
        if once > retired.size:
            self.problem("log_rolled_back", f"it once had {once} records, {retired.size} were retired")
        self.size = signed
        self.note("retired", f"its {retired.size} records were deleted; its signed checkpoint is here")
        self.report.logs.append(LogReport(self.folder.name, retired.origin, 0, signed, root.hex(), True, 0, "retired"))

    def checkpoint(self) -> Checkpoint | None:
        try:
            note = (self.folder / "checkpoint").read_text()
        except FileNotFoundError:
            if any(m.size for m in self.marks) or self.folder.name == anchor.NAME:
                self.problem("checkpoint_missing")
            return None
        except ValueError:
            self.problem("checkpoint_invalid")
            return None
        try:
            found = Checkpoint.parse(open_note(note, self.verifiers))
        except Malformed as error:
            code = {"note_forged": "checkpoint_forged", "note_unsigned": "checkpoint_unsigned"}.get(error.code)
            self.problem(code or "checkpoint_invalid")
            return None
        if found.origin not in self.origins:
            self.problem("checkpoint_foreign", found.origin)
            return None
        return found

    def read(self, wanted: dict[int, set[bytes]]) -> tuple[Frontier, int]:
        frontier, torn_bytes = Frontier(), 0
        try:
            for _, entries, tail in iter_bundles(self.folder):
                torn_bytes = tail
                for entry in entries:
                    self.record(frontier.size, entry)
                    frontier.append(leaf_hash(entry))
                    if frontier.size in wanted:
                        self.compare(frontier, wanted[frontier.size])
        except Malformed as error:
            self.problem("bundle_torn", f"bundle {error.detail}")
        return frontier, torn_bytes

    def compare(self, frontier: Frontier, roots: set[bytes]) -> None:
        if roots == {frontier.root()}:
            self.good = frontier.size
        elif not any(p.log == self.folder.name and p.code == "root_mismatch" for p in self.report.problems):
            self.problem("root_mismatch", f"among records {self.good} to {frontier.size - 1}")

    def record(self, index: int, entry: bytes) -> None:
        try:
            record = orjson.loads(entry)
            origin, sequence = record["log"], int(record["seq"])
        except (ValueError, KeyError, TypeError):
            self.problem("record_unreadable", f"at {index}")
            self.sequence.append(index)
            return
        if origin not in self.origins:
            self.problem("record_spliced", f"at {index}: it is of {origin!s:.80}")
            self.sequence.append(index)
            return
        self.sequence.append(sequence)
        kind, phase, exchange = record.get("kind"), record.get("phase"), record.get("exchange")
        if kind == "decision" and phase == "intent":
            self.intents.setdefault(exchange, f"{self.folder.name}.{index}")
        elif kind == "outcome" or "outcome" in record:
            self.intents.pop(exchange, None)
        elif (link := link_of(record)) is not None:
            self.links.append((self.folder.name, link))
        elif kind == LOG_RECOVERED:
            self.note(
                "recovered", f"{record.get('dropped_bytes')} bytes of unacknowledged records were cut off at {index}"
            )

    def order(self) -> None:
        found = self.sequence
        if found == list(range(len(found))):
            return
        highest = max(found)
        missing = sorted(set(range(highest + 1)) - set(found))
        if missing:
            self.problem("record_missing", f"{len(missing)} of them, the first at {missing[0]}")
        if len(set(found)) != len(found):
            self.problem("record_duplicated", f"{len(found) - len(set(found))} of them")
        if any(a > b for a, b in pairwise(found)):
            at = next(n for n, (a, b) in enumerate(pairwise(found)) if a > b)
            self.problem("record_reordered", f"around {at}")
