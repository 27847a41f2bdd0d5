"""OWASP ids: official titles, ids that exist, and every risk of the agentic list met by some rule or said not to be."""

from __future__ import annotations

import yaml

from firewall.decide import bundle as bundles
from firewall.decide.bundle import Bundle
from firewall.tooling.lint import owasp_ids

AGENTIC = {
    "ASI01": "Agent Goal Hijack",
    "ASI02": "Tool Misuse and Exploitation",
    "ASI03": "Identity and Privilege Abuse",
    "ASI04": "Agentic Supply Chain Vulnerabilities",
    "ASI05": "Unexpected Code Execution (RCE)",
    "ASI06": "Memory & Context Poisoning",
    "ASI07": "Insecure Inter-Agent Communication",
    "ASI08": "Cascading Failures",
    "ASI09": "Human-Agent Trust Exploitation",
    "ASI10": "Rogue Agents",
}


def test_titles_are_the_official_ones() -> None:
    known = owasp_ids(bundles.default_path())
    assert {k: v for k, v in known.items() if k.startswith("ASI")} == AGENTIC


def test_every_id_of_a_rule_exists_and_llm_ids_carry_the_current_edition(shipped: Bundle) -> None:
    known = owasp_ids(bundles.default_path())
    for rule in shipped.rules:
        assert rule.owasp, rule.id
        assert set(rule.owasp) <= known.keys(), rule.id
        assert not [entry for entry in rule.owasp if entry.startswith("LLM") and not entry.endswith(":2026")], rule.id


def test_every_agentic_risk_is_met_by_a_rule(shipped: Bundle) -> None:
    assert {entry for rule in shipped.rules for entry in rule.owasp if entry.startswith("ASI")} == AGENTIC.keys()


def test_the_editions_of_the_llm_list_map_one_to_one() -> None:
    editions = yaml.safe_load((bundles.default_path() / "crosswalk" / "owasp.yaml").read_text())["editions"]
    assert {row["was"] for row in editions["llm-2026"].values()} == editions["llm-2025"].keys()
