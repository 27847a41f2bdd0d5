"""The attack files are complete, and the published table says what they say."""

from __future__ import annotations

from tests.attack.coverage import CONTROLS, PAGE, TITLES, page
from tests.attack.runner import load


def test_every_case_names_known_controls_and_ids_and_has_a_twin():
    cases = load()
    assert len(cases) >= 60
    assert {case.protocol for case in cases} == {"mcp", "a2a", "llm"}
    for case in cases:
        assert case.controls, case.id
        assert set(case.controls) <= set(CONTROLS), case.id
        assert set(case.owasp) <= set(TITLES), case.id
        assert case.body.get("twin") is not None, case.id


def test_every_agentic_risk_has_a_case():
    assert {name for case in load() for name in case.owasp} == set(TITLES)


def test_the_published_table_is_the_generated_one():
    assert PAGE.read_text() == page(load()), "run: python -m tests.attack.coverage"
