"""Loading: what refuses a bundle, what only keeps it from running compiled, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import orjson
import pytest

from firewall.core.errors import ConfigFault
from firewall.core.points import Point
from firewall.decide import bundle as bundles
from firewall.decide import selftest
from firewall.decide.bundle import Bundle
from firewall.decide.cases import Case, in_order
from firewall.decide.program import Compiled, Strict

Changed = Callable[..., Path]


def small(bundle: Bundle, names: set[str] | None = None) -> list[Case]:
    """Return one case per point, or the named ones with them: enough for a test of the self-test."""
    first: dict[Point, Case] = {}
    for case in bundle.cases:
        first.setdefault(case.point, case)
    return [*(c for c in bundle.cases if names and c.name in names), *first.values()]


def refused(path: Path) -> ConfigFault:
    with pytest.raises(ConfigFault) as caught:
        bundles.load(path)
    return caught.value


class TestShipped:
    def test_it_runs_compiled_at_every_point(self, shipped: Bundle) -> None:
        assert (shipped.mode, set(shipped.programs)) == ("compiled", set(Point))

    def test_its_verdict_is_that_of_these_files(self) -> None:
        """If this fails, run `bartizan policy check --write`: policies, cases or generator changed."""
        verdict = orjson.loads((bundles.default_path() / bundles.VERDICT_FILE).read_bytes())
        assert verdict["key"] == bundles.cache_key(bundles.read())

    @pytest.mark.slow
    def test_it_passes_its_self_test(self, shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        """One mutant in five here; `bartizan policy check --write` tries all of all cases."""
        every = selftest._mutants
        monkeypatch.setattr(selftest, "_mutants", lambda case: islice(every(case), 0, None, 5))
        verdict = selftest.run(shipped.programs, shipped.modules, shipped.data_json, small(shipped), time.monotonic_ns)
        assert verdict.passed, verdict.why
        assert verdict.mutants > 1000

    def test_every_rule_has_a_case_or_a_rego_test(self, shipped: Bundle) -> None:
        shown = {rule for case in shipped.cases for rule in case.rules}
        tested = "\n".join(shipped.tests.values())
        assert [r.id for r in shipped.rules if r.id not in shown and r.id not in tested] == []


class TestRevision:
    def test_it_names_the_content(self, shipped: Bundle, changed: Changed) -> None:
        assert bundles.read(changed()).revision == shipped.revision
        assert shipped.revision.startswith("sha256:")

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("config/data.yaml", "max_chain: 5", "max_chain: 6"),
            ("firewall/rules/tools.rego", "severity: 90", "severity: 90 "),
            (".manifest", '"revision": ""', '"revision": "x"'),
        ],
    )
    def test_it_changes_with_whatever_could_change_a_decision(
        self, shipped: Bundle, changed: Changed, name: str, old: str, new: str
    ) -> None:
        assert bundles.read(changed({name: (old, new)})).revision != shipped.revision


class TestRefused:
    def test_a_directory_that_is_none(self, tmp_path: Path) -> None:
        assert refused(tmp_path / "absent").code == "policy_files"

    def test_a_directory_without_a_manifest(self, tmp_path: Path) -> None:
        assert refused(tmp_path).code == "policy_manifest"

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"contract": "1"', '"contract": "2"'),
            ('["firewall", "config"]', '[""]'),
            ('["identity", "tools", "admin"]', "[]"),
        ],
    )
    def test_a_manifest_of_another_contract(self, changed: Changed, old: str, new: str) -> None:
        assert refused(changed({".manifest": (old, new)})).code == "policy_manifest"

    def test_a_breach_of_the_profile_names_the_line(self, changed: Changed) -> None:
        fault = refused(changed({"firewall/rules/tools.rego": ('facts.pin == "changed"', 'facts.pinn == "changed"')}))
        assert fault.code == "policy_profile"
        assert "firewall/rules/tools.rego:" in fault.detail
        assert "input_unknown" in fault.detail

    def test_a_case_that_does_not_come_out(self, changed: Changed) -> None:
        fault = refused(changed({"config/data.yaml": ("max_chain: 5", "max_chain: 50")}))
        assert fault.code == "policy_cases"
        assert "a chain of six is too deep" in fault.detail

    def test_a_case_that_is_none(self, changed: Changed) -> None:
        path = changed()
        (path / "replay" / "99.jsonl").write_text('{"case": "x", "from": "nobody", "expect": {"effect": "allow"}}\n')
        assert refused(path).code == "policy_cases"

    def test_a_link_out_of_the_directory(self, changed: Changed, tmp_path: Path) -> None:
        path = changed()
        (tmp_path / "evil.rego").write_text("package firewall.lib.evil\n")
        (path / "firewall" / "lib" / "evil.rego").symlink_to(tmp_path / "evil.rego")
        assert refused(path).code == "policy_files"

    def test_data_outside_config(self, changed: Changed) -> None:
        path = changed()
        (path / "firewall" / "data.json").write_text('{"rules": {}}')
        assert refused(path).code == "policy_files"

    def test_a_file_beyond_its_bound(self, changed: Changed) -> None:
        path = changed()
        (path / "config" / "data.yaml").write_text("a: " + "x" * bundles.FILE_BYTES)
        assert refused(path).code == "policy_files"


class TestInterpreterOnly:
    """A bundle that may not run compiled still decides, on the interpreter, and says so."""

    def test_a_bundle_without_a_case_for_a_point(self, changed: Changed) -> None:
        path = changed()
        for name in ("10-ordinary", "20-tools", "30-identity", "40-content"):
            file = path / "replay" / f"{name}.jsonl"
            file.write_text("\n".join(line for line in file.read_text().splitlines() if '"connect"' not in line) + "\n")
        loaded = bundles.load(path)
        assert loaded.mode == "interpreter"
        assert "egress.connect" in loaded.why
        assert not loaded.programs

    def test_a_bundle_that_nobody_tested_yet_can_start_at_once(self, changed: Changed) -> None:
        loaded = bundles.load(changed({"config/data.yaml": ("max_chain: 5", "max_chain: 5 ")}), wait=False)
        assert loaded.mode == "interpreter"
        assert "not self-tested" in loaded.why

    def test_a_fold_that_drops_too_much_is_found(self, shipped: Bundle) -> None:
        """The twin of all: a wrong program must not pass."""
        source = shipped.modules["firewall/rules/tools.rego"]
        broken = {
            **shipped.modules,
            "firewall/rules/tools.rego": source.replace('if facts.pin == "changed"', 'if facts.pin == "changed_"'),
        }
        programs = bundles.programs_of(Bundle(**{**_fields(shipped), "modules": broken}))
        cases = small(shipped, {"a changed definition is quarantined"})
        verdict = selftest.run(programs, shipped.modules, shipped.data_json, cases, time.monotonic_ns)
        assert not verdict.passed
        assert "differ" in verdict.why

    def test_a_rule_that_vanishes_with_a_type_is_found(self, shipped: Bundle) -> None:
        """An unguarded built-in: strict where it is interpreted, silent where it is compiled."""
        loose = 'finding contains {\n\t"rule": "tools.loose", "effect": "deny", "code": "loose", "owasp": [], "severity": 1, "obligations": [],\n} if {\n\tstartswith(input.subject.id, "mallory")\n}\n'
        modules = {
            **shipped.modules,
            "firewall/rules/tools.rego": shipped.modules["firewall/rules/tools.rego"] + "\n" + loose,
        }
        programs = bundles.programs_of(Bundle(**{**_fields(shipped), "modules": modules}))
        verdict = selftest.run(programs, modules, shipped.data_json, small(shipped), time.monotonic_ns)
        assert not verdict.passed
        assert "/subject" in verdict.why

    def test_a_rule_that_opens_when_a_fact_is_lost_is_found(
        self, shipped: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = shipped.modules["firewall/rules/tools.rego"]
        loose = source.replace('pinned if facts.pin in {"approved", "warned"}', 'pinned if not facts.pin == "none"')
        modules = {**shipped.modules, "firewall/rules/tools.rego": loose}
        programs = bundles.programs_of(Bundle(**{**_fields(shipped), "modules": modules}))
        cases = small(shipped, {"a tool without a pin is not granted"})
        usual = selftest._mutants
        monkeypatch.setattr(selftest, "_mutants", lambda case: usual(case) if "pin" in case.name else iter(()))
        verdict = selftest.run(programs, modules, shipped.data_json, cases, time.monotonic_ns)
        assert not verdict.passed
        assert "milder when /resource/properties/pin" in verdict.why

    def test_a_rule_that_takes_too_long_is_found(self, shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(selftest, "WORST_COMPILED_MS", 0)
        verdict = selftest.run(
            shipped.programs, shipped.modules, shipped.data_json, small(shipped)[:1], time.monotonic_ns
        )
        # One case only: the missing points are named first; then, with all of them, the time.
        assert "no decision case" in verdict.why
        monkeypatch.setattr(selftest, "_mutants", lambda _case: iter(()))
        verdict = selftest.run(shipped.programs, shipped.modules, shipped.data_json, small(shipped), time.monotonic_ns)
        assert not verdict.passed
        assert "worst-case" in verdict.why


def _fields(bundle: Bundle) -> dict[str, object]:
    return {name: getattr(bundle, name) for name in Bundle.__dataclass_fields__}


class TestKept:
    """The verdict is kept under everything it depends on, and a damaged file costs time only."""

    def test_programs_come_back_from_the_state_directory(self, tmp_path: Path) -> None:
        first = bundles.load(state_dir=tmp_path)
        (kept,) = tmp_path.glob("*.policy")
        assert kept.stat().st_mode & 0o077 == 0
        again = bundles.load(state_dir=tmp_path, trust_shipped=False)
        assert again.mode == "compiled"
        assert again.programs == first.programs

    @pytest.mark.parametrize(
        "damage",
        [lambda b: b[:-1] + b"!", lambda b: b"", lambda b: b"x\n{}", lambda b: b.replace(b"compiled", b"Compiled")],
    )
    def test_a_damaged_file_is_not_believed(self, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
        loaded = bundles.load(state_dir=tmp_path)
        (kept,) = tmp_path.glob("*.policy")
        kept.write_bytes(damage(kept.read_bytes()))
        assert bundles._cached(tmp_path, bundles.cache_key(loaded)) is None
        assert bundles.load(state_dir=tmp_path).mode == "compiled"

    def test_a_verdict_of_other_files_is_not_believed(self, changed: Changed) -> None:
        path = changed({"config/data.yaml": ("max_chain: 5", "max_chain: 5 ")})
        shipped_verdict = (bundles.default_path() / bundles.VERDICT_FILE).read_bytes()
        (path / bundles.VERDICT_FILE).write_bytes(shipped_verdict)
        assert bundles.load(path, wait=False).mode == "interpreter"

    def test_a_state_directory_that_cannot_be_written_costs_time_only(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert bundles.load(state_dir=tmp_path / "file" / "below").mode == "compiled"


class TestWorstCases:
    """Whatever the contract lets through is answered, with a decision, by both modes or by their fallback."""

    def test_every_point_answers_its_largest_inputs(self, shipped: Bundle) -> None:
        strict = Strict(shipped.modules, shipped.data_json)
        for case in small(shipped):
            if case.point not in (Point.MCP_TOOL_CALL, Point.MCP_TOOL_LISTED, Point.MCP_TOOL_RESULT):
                continue
            compiled = Compiled(case.point, shipped.programs[case.point], shipped.data_json)
            for document in selftest.worst_inputs(case):
                encoded = in_order(document)
                reference = selftest._ask(lambda text, point=case.point: strict.decide(point, text), encoded)  # type: ignore[misc]
                assert reference.document is not None
                fast = selftest._ask(compiled.decide, encoded)
                assert fast.document in (None, reference.document)
