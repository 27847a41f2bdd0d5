"""The gate itself: one check that is worse is seen, whatever the sums say."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conformance.score import Score, better, read, worse


def score(target: str, **scenarios: dict[str, tuple[int, int]]) -> Score:
    return Score("0", "r", target, scenarios={name.replace("_", "-"): checks for name, checks in scenarios.items()})


def test_a_check_that_passes_less_or_fails_more_is_worse() -> None:
    direct = score("direct", ping={"a": (1, 0), "b": (0, 1)}, lists={"c": (2, 0)})
    assert worse(direct, score("every", ping={"a": (1, 0), "b": (0, 1)}, lists={"c": (2, 0)})) == []
    for bad in (
        score("every", ping={"a": (0, 1), "b": (1, 0)}, lists={"c": (2, 0)}),  # the sums are equal, the check is not
        score("every", ping={"a": (0, 0), "b": (0, 1)}, lists={"c": (2, 0)}),
        score("every", ping={"a": (1, 0), "b": (0, 1)}, lists={"c": (1, 0)}),
        score("every", ping={"a": (1, 0), "b": (0, 1), "new": (0, 1)}, lists={"c": (2, 0)}),
        score("every", ping={"a": (1, 0), "b": (0, 1)}),
    ):
        assert len(worse(direct, bad)) == 1
    assert better(direct, score("every", ping={"a": (1, 0), "b": (1, 0)}, lists={"c": (2, 0)})) == ["ping/b"]


def test_what_a_suite_leaves_is_counted_by_check(tmp_path: Path) -> None:
    folder = tmp_path / "server-tools-list-2026-11-23T05-01-55-795Z"
    folder.mkdir()
    statuses = ("SUCCESS", "FAILURE", "SUCCESS", "WARNING", "SKIPPED", "INFO")
    (folder / "checks.json").write_text(json.dumps([{"id": "a", "status": status} for status in statuses]))
    found = read(tmp_path, "Not scored\n  ✗ tools-list (pending)\n", suite="0", requirements="r", target="direct")
    assert found.scenarios == {"tools-list": {"a": (2, 1)}}
    assert (found.passed, found.failed, found.document()["scored_failed"]) == (2, 1, 0)
