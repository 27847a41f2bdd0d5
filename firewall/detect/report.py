"""Quality report: recall and false alarms per source on a corpus, never pooled.

    python -m firewall.detect.report DIRECTORY [--json]

DIRECTORY holds ``secrets.jsonl.gz``, ``pii.jsonl.gz``, ``injection.jsonl.gz`` and
``tools.jsonl.gz``: one object a line with ``text``, ``label`` (1: should be flagged), ``source``,
``category`` and, for PII, ``spans``. Corpora are attacks: data, never shipped with us.
"""

from __future__ import annotations

import gzip
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from firewall.core.finding import Finding
from firewall.core.points import Point
from firewall.detect import tool_review
from firewall.detect.scan import PatternScanner

TENANT: Final = "report"
# Which of our rules answer to a PII type of the corpora.
PII_TYPES: Final = {
    "EMAIL_ADDRESS": "pii.email",
    "IBAN_CODE": "pii.iban",
    "CREDIT_CARD": "pii.credit_card",
    "US_SSN": "pii.us_ssn",
    "PHONE_NUMBER": "pii.phone",
    "IP_ADDRESS": "pii.ip_address",
    "DATE_TIME": "pii.birth_date",
}


@dataclass(frozen=True, slots=True)
class Row:
    """Counts of one source: flagged of all."""

    corpus: str
    source: str
    kind: str  # recall | false_alarms
    flagged: int
    total: int

    @property
    def rate(self) -> float:
        """Return flagged / total."""
        return self.flagged / self.total if self.total else 0.0


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a corpus's objects."""
    with gzip.open(path, "rb") as file:
        for line in file:
            yield orjson.loads(line)


def result_of(text: str) -> dict[str, Any]:
    """Return a tool result that holds a text."""
    return {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": text}]}}


def _count(corpus: str, rows: Iterator[dict[str, Any]], flagged: Callable[[str], bool]) -> list[Row]:
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        kind = "recall" if row["label"] == 1 else "false_alarms"
        cell = counts[f"{row['source']}/{row['category']}", kind]
        cell[0] += flagged(row["text"])
        cell[1] += 1
    return [Row(corpus, source, kind, *cell) for (source, kind), cell in sorted(counts.items())]


def secrets(scanner: PatternScanner, directory: Path, *, least: int = 60) -> list[Row]:
    """Measure secret findings of at least this severity."""

    def flagged(text: str) -> bool:
        return any(
            f.category == "secret" and f.severity >= least
            for f in scanner.scan(result_of(text), Point.MCP_TOOL_RESULT, TENANT)
        )

    return _count(f"secrets>={least}", read(directory / "secrets.jsonl.gz"), flagged)


def injection(scanner: PatternScanner, directory: Path, *, least: int = 50) -> list[Row]:
    """Measure injection and hygiene findings of at least this severity."""

    def flagged(text: str) -> bool:
        return any(
            f.category in ("injection", "hygiene") and f.severity >= least
            for f in scanner.scan(result_of(text), Point.MCP_TOOL_RESULT, TENANT)
        )

    return _count(f"injection>={least}", read(directory / "injection.jsonl.gz"), flagged)


def tools(_scanner: PatternScanner, directory: Path, *, least: int = 50) -> list[Row]:
    """Measure the review of definitions."""

    def flagged(text: str) -> bool:
        name, _, description = text.partition(": ")
        return any(
            f.severity >= least
            for f in tool_review.review({"name": name.replace(" ", "_"), "description": description})
        )

    return _count(f"tools>={least}", read(directory / "tools.jsonl.gz"), flagged)


def pii(scanner: PatternScanner, directory: Path) -> list[Row]:
    """Measure PII per type: a span counts as found when a finding of its type overlaps it.

    ``false_alarms`` is the number of findings of a type that overlap no span of that type, of all
    findings of that type.
    """
    counts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for row in read(directory / "pii.jsonl.gz"):
        found = [
            f
            for f in scanner.scan(result_of(row["text"]), Point.MCP_TOOL_RESULT, TENANT)
            if f.category == "pii" and f.span
        ]
        spans = row.get("spans") or []
        for span in spans:
            rule = PII_TYPES.get(span["type"])
            if rule is not None:
                cell = counts[f"{row['source']}/{span['type']}", "recall"]
                cell[0] += any(f.rule == rule and _overlap(f, span) for f in found)
                cell[1] += 1
        for finding in found:
            cell = counts[f"{row['source']}/{finding.rule}", "false_alarms"]
            cell[0] += not any(
                PII_TYPES.get(span["type"]) == finding.rule and _overlap(finding, span) for span in spans
            )
            cell[1] += 1
    return [Row("pii", source, kind, *cell) for (source, kind), cell in sorted(counts.items())]


def _overlap(finding: Finding, span: dict[str, Any]) -> bool:
    assert finding.span is not None
    return bool(finding.span[0] < span["end"] and span["start"] < finding.span[1])


def report(scanner: PatternScanner, directory: Path) -> list[Row]:
    """Return every row of the corpora that are there."""
    rows: list[Row] = []
    for name, measure in (("secrets", secrets), ("pii", pii), ("injection", injection), ("tools", tools)):
        if (directory / f"{name}.jsonl.gz").is_file():
            rows += measure(scanner, directory)
    return rows


def main(arguments: list[str]) -> int:
    """Print the report; 2 when the arguments are wrong."""
    plain = [a for a in arguments if a != "--json"]
    if len(plain) != 1 or not Path(plain[0]).is_dir():
        sys.stderr.write("usage: python -m firewall.detect.report DIRECTORY [--json]\n")
        return 2
    rows = report(PatternScanner(), Path(plain[0]))
    if "--json" in arguments:
        out = [
            {"corpus": r.corpus, "source": r.source, "kind": r.kind, "flagged": r.flagged, "total": r.total}
            for r in rows
        ]
        sys.stdout.write(orjson.dumps(out, option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    for r in rows:
        sys.stdout.write(f"{r.corpus:14} {r.kind:13} {r.rate:6.3f} {r.flagged:6}/{r.total:<6} {r.source}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
