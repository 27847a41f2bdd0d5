"""Run the Rego tests of a bundle on the strict interpreter.

A test is a rule named ``test_…`` in a ``…_test.rego`` file: it passes when its value is true, or a
set that holds only true. ``todo_test_…`` is skipped. Finding no test at all is a failure, where
`opa test` would exit 0 (policy reference §9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from firewall.core.errors import PolicyFault
from firewall.decide import specialise
from firewall.decide.bundle import Bundle
from firewall.decide.program import Strict

Outcome = Literal["pass", "fail", "error", "skip"]


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test: ``package.name``, its file and what happened."""

    __test__ = False

    name: str
    path: str
    outcome: Outcome


def run_tests(bundle: Bundle, *, match: str = "") -> list[TestResult]:
    """Return the result of every test whose name contains ``match``, in file order."""
    engine = Strict({**bundle.modules, **bundle.tests}, bundle.data_json)
    results: list[TestResult] = []
    for path, name in _names(bundle.tests):
        if match in name:
            results.append(TestResult(name, path, _run(engine, name)))
    return results


def failed(results: list[TestResult]) -> bool:
    """Whether a run failed: any failure or error, or no test at all."""
    return not any(r.outcome == "pass" for r in results) or any(r.outcome in ("fail", "error") for r in results)


def _names(tests: Mapping[str, str]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for path, source in tests.items():
        package = specialise.package_of(source)
        for statement in specialise.statements(source):
            if statement.name.startswith(("test_", "todo_test_")):
                found.setdefault(f"{package}.{statement.name}", path)
    return [(path, name) for name, path in found.items()]


def _run(engine: Strict, name: str) -> Outcome:
    if name.rsplit(".", 1)[-1].startswith("todo_"):
        return "skip"
    try:
        value = orjson.loads(engine.value(f"data.{name}"))
    except PolicyFault:
        return "error"
    if value is True or (isinstance(value, dict) and value and all(item is True for item in value.values())):
        return "pass"
    return "fail"
