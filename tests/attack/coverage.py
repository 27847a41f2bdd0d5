"""The table of ``docs/attacks.md``: which cases prove which control and which OWASP id.

python -m tests.attack.coverage   writes it anew
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tests.attack.runner import Case, load

PAGE = Path(__file__).resolve().parents[2] / "docs" / "attacks.md"
TITLES = {
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
CONTROLS = {
    "AUTH-01": "token audience",
    "AUTH-02": "no token passthrough",
    "AUTH-03": "issuer binding",
    "AUTH-05": "sender constraint",
    "AUTH-06": "actor chain",
    "POL-01": "default deny",
    "POL-02": "argument policy",
    "POL-03": "action class",
    "PIN-01": "definition pin",
    "PIN-03": "collision guard",
    "SCAN-01": "text hygiene",
    "SCAN-02": "injection signatures",
    "SCAN-04": "secrets",
    "SCAN-05": "personal data",
    "SCAN-06": "markup egress",
    "TAINT-01": "integrity label",
    "TAINT-02": "confidentiality label",
    "TAINT-03": "sink rule",
    "EGR-01": "egress allow list",
    "LIM-01": "budgets",
    "LIM-02": "depth",
    "LIM-04": "size and shape",
    "APR-01": "human approval",
    "APR-02": "approval integrity",
    "A2A-01": "card verification",
    "A2A-02": "card text as data",
    "A2A-03": "message replay and ids",
    "A2A-04": "push target",
    "A2A-05": "credential mapping",
    "ISO-01": "tenant isolation",
    "ISO-03": "own surface",
    "SUP-02": "server registry",
    "AUD-01": "audit record",
    "AUD-02": "redacted telemetry",
    "AUD-03": "kill switch",
}


def page(cases: list[Case]) -> str:
    """Return the page's text."""
    by_control: dict[str, list[str]] = defaultdict(list)
    by_owasp: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        for control in case.controls:
            by_control[control].append(case.id)
        for name in case.owasp:
            by_owasp[name].append(case.id)
    lines = [
        "# Attacks that are tested",
        "",
        "<!-- generated: python -m tests.attack.coverage -->",
        "",
        f"`make attack` runs {len(cases)} attacks through the whole firewall, each with a harmless twin that must pass.",
        "The cases are data under `tests/attack/cases/`. OWASP ids are those of the Top 10 for Agentic Applications",
        "2026; where a policy rule decides, the test also checks that the audit record names these ids.",
        "",
        "| OWASP id | Title | Cases |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {TITLES[name]} | {_ids(by_owasp[name])} |" for name in sorted(by_owasp)]
    lines += ["", "| Control | What it is | Cases |", "|---|---|---|"]
    lines += [f"| {name} | {CONTROLS[name]} | {_ids(by_control[name])} |" for name in sorted(by_control)]
    return "\n".join(lines) + "\n"


def _ids(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


if __name__ == "__main__":
    PAGE.write_text(page(load()))
