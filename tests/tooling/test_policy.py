"""What `bartizan policy check`, `test`, `eval` and `export` say, and when they fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from firewall.core.jsonvalue import JSON
from firewall.decide import bundle as bundles
from firewall.tooling.lint import NOTES, lint
from firewall.tooling.policy import policy_check, policy_eval, policy_export, policy_test
from firewall.tooling.testing import failed, run_tests

Changed = Callable[..., Path]


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """Return a function that copies the shipped policies and replaces texts: changed({file: (old, new)})."""

    def change(changes: dict[str, tuple[str, str]] | None = None) -> Path:
        target = tmp_path / "policies"
        shutil.copytree(bundles.default_path(), target)
        for name, (old, new) in (changes or {}).items():
            text = (target / name).read_text()
            assert old in text, f"{name} has no {old!r}"
            (target / name).write_text(text.replace(old, new))
        return target

    return change


class TestCheck:
    def test_the_shipped_policies_are_in_order(self, tmp_path: Path) -> None:
        outcome = policy_check(state_dir=tmp_path)
        assert outcome.ok, outcome.lines
        assert outcome.document["mode"] == "compiled"
        rules = outcome.document["rules"]
        assert isinstance(rules, list)
        assert {"rule", "title", "owasp", "message_user"} <= rules[0].keys()  # type: ignore[union-attr]

    def test_a_breach_is_told_with_its_place(self, changed: Changed) -> None:
        outcome = policy_check(changed({"firewall/rules/tools.rego": ('facts.pin == "changed"', "opa.runtime().x")}))
        assert not outcome.ok
        assert any("builtin_forbidden" in line and "tools.rego:" in line for line in outcome.lines)

    @pytest.mark.parametrize(
        ("code", "name", "old", "new"),
        [
            ("owasp_unknown", "crosswalk/owasp.yaml", "ASI05: {", "ASI5: {"),
            ("crosswalk_missing", "crosswalk/owasp.yaml", "editions:", "editors:"),
            ("config_rule_unknown", "config/data.yaml", "shadow_rules: []", "shadow_rules: [tools.nothing]"),
            ("config_exception_open", "config/data.yaml", "exceptions: []", "exceptions: [{rule: tools.pin_new}]"),
            ("rule_untested", "replay/20-tools.jsonl", "tools.schema_mismatch", "tools.schema_mismatched"),
        ],
    )
    def test_a_note_is_made(self, changed: Changed, code: str, name: str, old: str, new: str) -> None:
        report = lint(changed({name: (old, new)}))
        assert report.faults == ()
        assert code in {note.code for note in report.notes}

    def test_every_note_is_shown_by_some_test(self) -> None:
        source = Path(__file__).read_text()
        assert [code for code in NOTES if f'"{code}"' not in source] == []


class TestTest:
    def test_the_shipped_policies_pass(self, tmp_path: Path) -> None:
        outcome = policy_test(state_dir=tmp_path)
        assert outcome.ok, outcome.lines
        assert any("not compared with OPA" in line for line in outcome.lines), "what was not done must be said"

    def test_a_failing_rego_test_fails(self, changed: Changed) -> None:
        path = changed({"firewall/rules/tools_test.rego": ('effect == "allow"', 'effect == "deny"')})
        outcome = policy_test(path)
        assert not outcome.ok
        assert any(line.startswith("fail: firewall.tests.tools.") for line in outcome.lines)

    def test_finding_no_test_fails(self) -> None:
        bundle = bundles.read()
        assert failed(run_tests(bundle, match="no such test"))
        assert not failed(run_tests(bundle))

    def test_an_error_is_not_a_pass(self, changed: Changed) -> None:
        path = changed()
        file = path / "firewall" / "rules" / "tools_test.rego"
        file.write_text(file.read_text() + "\ntest_error if startswith(input.x, 1)\n\ntodo_test_later if false\n")
        outcomes = {r.name.rsplit(".", 1)[-1]: r.outcome for r in run_tests(bundles.read(path))}
        assert outcomes["test_error"] != "pass"
        assert outcomes["todo_test_later"] == "skip"


class TestEval:
    def document(self) -> dict[str, JSON]:
        case = next(c for c in bundles.read().cases if c.name == "a changed definition is quarantined")
        return orjson.loads(case.document)  # type: ignore[no-any-return]

    @pytest.mark.parametrize("mode", ["auto", "interpreter"])
    def test_a_decision_is_explained(self, mode: str) -> None:
        outcome = policy_eval(self.document(), mode=mode)  # type: ignore[arg-type]
        assert outcome.ok
        assert outcome.lines[0].startswith("deny")
        assert "The definition changed after approval" in outcome.lines[1]

    def test_what_is_no_input_is_told(self) -> None:
        assert policy_eval({"point": "mcp.nothing"}).document["code"] == "input_invalid"
        assert policy_eval({}).document["code"] == "input_invalid"

    def test_an_almost_empty_input_is_denied(self) -> None:
        outcome = policy_eval({"point": "mcp.tool.call", "subject": {}})
        assert outcome.ok
        assert outcome.lines[0].startswith("deny")


class TestExport:
    def test_the_bundle_bears_its_revision_and_only_a_bundle_is_replaced(self, tmp_path: Path) -> None:
        target = tmp_path / "for-opa"
        for _ in range(2):
            outcome = policy_export(target, state_dir=tmp_path)
            assert outcome.ok, outcome.lines
        manifest = orjson.loads((target / ".manifest").read_bytes())
        assert manifest["revision"] == outcome.document["revision"] == bundles.load(state_dir=tmp_path).revision
        assert (target / "firewall/main.rego").is_file()

    def test_what_is_something_else_is_left_alone(self, changed: Changed, tmp_path: Path) -> None:
        source = changed()
        home = tmp_path / "home"
        home.mkdir()
        (home / "letter").write_text("dear")
        link = tmp_path / "link"
        link.symlink_to(home)
        for place in (source, home, link, home / "letter", home / "letter" / "below"):
            outcome = policy_export(place, state_dir=tmp_path)
            assert not outcome.ok
            assert "export_place" in outcome.lines[0]
        assert (home / "letter").read_text() == "dear"
        assert (source / "replay").is_dir()
