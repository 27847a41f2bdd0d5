"""What the conformance suites said, check by check, and the comparison of two runs. Pure but for reading files.

A suite writes ``server-<scenario>-<time>/checks.json`` per scenario: a list of checks, each with an id
(which may stand there several times) and a status. Only SUCCESS and FAILURE count; a suite skips what a
server does not offer.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = re.compile(r"^server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z$")
UNSCORED = re.compile(r"^  [✓✗] ([a-z0-9-]+) \(", re.MULTILINE)
Checks = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Score:
    """One run of one suite against one target: scenario → check id → (passed, failed)."""

    suite: str
    requirements: str
    target: str
    seconds: float = 0.0
    scenarios: dict[str, Checks] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    unscored: frozenset[str] = frozenset()

    @property
    def passed(self) -> int:
        """How many checks passed."""
        return sum(passed for checks in self.scenarios.values() for passed, _ in checks.values())

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(failed for checks in self.scenarios.values() for _, failed in checks.values())

    @property
    def failures(self) -> dict[str, list[str]]:
        """Scenario → the ids of its checks that failed."""
        found = {
            name: sorted(check for check, (_, failed) in checks.items() if failed)
            for name, checks in sorted(self.scenarios.items())
        }
        return {name: checks for name, checks in found.items() if checks}

    def document(self) -> dict[str, Any]:
        """Return the member of ``runs`` in mcp.json."""
        return {
            "suite": self.suite,
            "requirements": self.requirements,
            "target": self.target,
            "seconds": round(self.seconds, 1),
            "scenarios": len(self.scenarios),
            "passed": self.passed,
            "failed": self.failed,
            "scored_failed": sum(name not in self.unscored for name in self.failures),
            "failures": self.failures,
        }


def read(directory: Path, told: str, **about: Any) -> Score:
    """Read what one run left in a directory; ``told`` is what it printed (its list of unscored scenarios)."""
    scenarios: dict[str, Checks] = {}
    messages: dict[str, str] = {}
    for folder in sorted(directory.iterdir()):
        named, file = FOLDER.match(folder.name), folder / "checks.json"
        if named is None or not file.exists():
            continue
        counts: dict[str, Counter[str]] = {}
        for check in json.loads(file.read_bytes()):
            counts.setdefault(check["id"], Counter())[check["status"]] += 1
            if check["status"] == "FAILURE":
                messages.setdefault(f"{named[1]}/{check['id']}", str(check.get("errorMessage") or "")[:200])
        scenarios[named[1]] = {name: (n["SUCCESS"], n["FAILURE"]) for name, n in counts.items()}
    unscored = frozenset(UNSCORED.findall(told.partition("Not scored")[2]))
    return Score(scenarios=scenarios, messages=messages, unscored=unscored, **about)


def worse(direct: Score, through: Score) -> list[str]:
    """Return every check that passes less often or fails more often through us than direct."""
    out = []
    for name, checks in sorted(direct.scenarios.items()):
        ours = through.scenarios.get(name)
        if ours is None:
            out.append(f"{name}: did not run through us")
            continue
        for check in sorted(checks.keys() | ours.keys()):
            passed, failed = checks.get(check, (0, 0))
            ours_passed, ours_failed = ours.get(check, (0, 0))
            if ours_passed < passed or ours_failed > failed:
                why = through.messages.get(f"{name}/{check}", "")
                out.append(f"{name}/{check}: direct {passed}/{failed}, through us {ours_passed}/{ours_failed} {why}")
    return out


def better(direct: Score, through: Score) -> list[str]:
    """Return every check that fails direct and does not fail through us."""
    return [
        f"{name}/{check}"
        for name, checks in sorted(direct.failures.items())
        for check in checks
        if through.scenarios.get(name, {}).get(check, (0, 1))[1] == 0
    ]
