"""Documents say what is true: commands parse, settings load, rules pass, named files and metrics exist."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from firewall import config
from firewall.cli import main as command
from firewall.core.errors import FAULTS, ConfigFault
from firewall.record.names import METRICS
from firewall.tooling import cases, lint

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TICKED = re.compile(r"`([^`\n]+)`")
PLACES = (
    "firewall/",
    "mcp_gateway/",
    "a2a_gateway/",
    "llm_router/",
    "policies/",
    "tests/",
    "examples/",
    "docs/",
    "benchmarks/",
)


def documents(root: Path) -> list[Path]:
    """Return the documents that people write (those that are made have tests of their own)."""
    made = ("configuration.md", "cli.md", "errors.md", "api.md", "attacks.md")
    top = [root / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    return top + [path for path in sorted((root / "docs").glob("*.md")) if path.name not in made]


def fenced(root: Path, language: str) -> list[tuple[str, str]]:
    """Return (document, text) of every fenced block of a language."""
    return [
        (path.name, text)
        for path in documents(root)
        for kind, text in FENCE.findall(path.read_text(encoding="utf-8"))
        if kind == language
    ]


def commands(root: Path) -> list[tuple[str, list[str]]]:
    """Return (document, words after `bartizan`) of every whole command: in shell blocks, or indented."""
    found = []
    for path in documents(root):
        text = path.read_text(encoding="utf-8")
        lines = [line for kind, block in FENCE.findall(text) if kind == "sh" for line in block.splitlines()]
        lines += [line[4:] for line in FENCE.sub("", text).splitlines() if line.startswith("    ")]
        for line in lines:
            words = shlex.split(line, comments=True)
            if words and words[0].rpartition("/")[2] == "bartizan":
                found.append((path.name, words[1 : words.index(">")] if ">" in words else words[1:]))
    return found


def parses(words: list[str]) -> bool:
    """Return whether the command line takes these words."""
    try:
        command.parser().parse_args(words)
    except SystemExit:
        return False
    return True


def ticked(root: Path) -> list[tuple[str, str]]:
    """Return (document, text) of everything written as `code` in a sentence or a table."""
    return [
        (path.name, text)
        for path in documents(root)
        for text in TICKED.findall(FENCE.sub("", path.read_text(encoding="utf-8")))
    ]


def test_every_command_of_the_documents_parses(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(root)
    assert len(found) > 30
    assert [f"{name}: {shlex.join(words)}" for name, words in found if not parses(words)] == []
    assert not parses(["audit", "rewrite"]), "the twin: this parser refuses what does not exist"


def test_every_command_named_in_a_sentence_exists(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for name, text in ticked(root):
        words = text.split()
        if words[0] == "bartizan" and len(words) > 1:
            known = [w for w in words[1:] if w.islower() and not w.startswith("-")]
            if not helps(known):
                wrong.append(f"{name}: {text}")
    assert wrong == []


def helps(words: list[str]) -> bool:
    """Return whether a command has help: `--help` ends argparse with exit code 0."""
    try:
        command.parser().parse_args([*words, "--help"])
    except SystemExit as end:
        return end.code == 0
    return True


def test_every_make_target_of_the_documents_exists(root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (path.name, target)
        for path in documents(root)
        for target in re.findall(r"(?:^    |`)make ([a-z]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 5
    assert [f"{name}: make {target}" for name, target in sorted(named) if target not in targets] == []


def test_every_configuration_of_the_documents_loads(root: Path) -> None:
    snippets = fenced(root, "yaml")
    assert len(snippets) > 7
    for name, text in snippets:
        try:
            config.build(yaml.safe_load(text))
        except ConfigFault as fault:
            pytest.fail(f"{name}: {fault.detail}\n{text}")
    with pytest.raises(ConfigFault):
        config.build({"version": 1, "fail_open": True})


def test_every_file_that_a_document_names_exists(root: Path) -> None:
    missing = [
        f"{name}: {text}"
        for name, text in ticked(root)
        if text.startswith(PLACES) and " " not in text and not (root / text.split("::")[0]).exists()
    ]
    assert missing == []


def test_every_metric_and_code_that_a_document_names_exists(root: Path) -> None:
    known = {metric.name for metric in METRICS}
    for name, text in ticked(root):
        for metric in re.findall(r"\bbartizan_[a-z_]+", text):
            assert metric in known, f"{name}: {metric}"
    assert "approval_pending" in FAULTS


def test_the_rules_that_documents_show_pass_with_their_cases(root: Path, tmp_path: Path) -> None:
    """As the pages say: into copies of the shipped policies, linted, their cases run."""
    shown = dict(fenced(root, "rego"))
    assert set(shown) == {"policy.md", "admin.md", "clients.md"}
    for name, rego in shown.items():
        policies = tmp_path / name
        shutil.copytree(root / "policies", policies)
        (listed,) = [text for page, text in fenced(root, "json") if page == name]
        (package,) = re.findall(r"^package firewall\.rules\.([a-z_]+)$", rego, re.MULTILINE)
        (policies / "firewall" / "rules" / f"{package}.rego").write_text(rego, encoding="utf-8")
        (policies / "replay" / "50-house.jsonl").write_text(listed, encoding="utf-8")
        report = lint.lint(policies)
        assert (report.faults, report.notes) == ((), ())
        assert report.bundle is not None
        results = cases.run_cases(report.bundle)
        assert [r.case.name for r in results if r.problems] == []
        assert {json.loads(line)["case"] for line in listed.splitlines()} <= {r.case.name for r in results}
