"""What `bartizan policy check`, `test`, `eval` and `export` do; the command only prints an `Outcome`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from firewall.core.errors import ConfigFault, PolicyFault
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.decide import bundle as bundles
from firewall.decide.bundle import Bundle
from firewall.decide.cases import in_order
from firewall.decide.contract import parse_decision
from firewall.decide.opa_server import write_for_opa
from firewall.decide.regorus import Mode, RegorusEngine
from firewall.tooling import cases, lint, testing


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command says: ``ok`` (exit 0 or 1), plain lines, and the same as a document for ``--json``."""

    ok: bool
    lines: tuple[str, ...]
    document: JSONObject


def policy_check(
    path: Path | str | None = None, *, state_dir: Path | str | None = None, write: bool = False
) -> Outcome:
    """Lint a policy directory, run its self-test and say whether it may run compiled.

    write: keep a passed self-test in ``selftest.json`` beside the policies, for those who ship them.
    """
    report = lint.lint(path)
    if report.bundle is None:
        faults: list[JSON] = list(report.faults)
        return Outcome(False, report.faults, {"ok": False, "faults": faults})
    started = time.monotonic()
    try:
        # The shipped verdict is not consulted when it is to be written again.
        bundle = bundles.load(path, state_dir=state_dir, trust_shipped=not write)
    except ConfigFault as fault:
        return Outcome(False, tuple(fault.diagnostics().splitlines()), {"ok": False, "faults": [fault.diagnostics()]})
    took = time.monotonic() - started
    if write and bundle.mode == "compiled":
        bundles.write_verdict(bundle)
    lines = [str(note) for note in report.notes]
    lines.append(f"{bundle.revision}: {len(bundle.rules)} rules, {len(bundle.cases)} cases")
    lines.append(f"runs {bundle.mode}: {bundle.why} ({bundle.mutants} mutants, {took:.1f} s)")
    ok = not report.notes
    rules: list[JSON] = [_rule(bundle, rule.id) for rule in bundle.rules]
    return Outcome(
        ok,
        tuple(lines),
        {
            "ok": ok,
            "revision": bundle.revision,
            "mode": bundle.mode,
            "why": bundle.why,
            "mutants": bundle.mutants,
            "notes": [str(note) for note in report.notes],
            "rules": rules,
        },
    )


def policy_export(directory: Path, path: Path | str | None = None, *, state_dir: Path | str | None = None) -> Outcome:
    """Write a policy directory as the bundle that an OPA server must serve: with its revision.

    directory: is made; one that stands there is replaced only if it is empty or such a bundle.
    """
    try:
        bundle = bundles.load(path, state_dir=state_dir)
        if not _may_be_replaced(directory):
            raise ConfigFault("export_place", f"{directory} holds something else", fix="name a directory that is new")
        write_for_opa(bundle, directory)
    except OSError as error:
        fault = ConfigFault("export_place", f"{directory}: {type(error).__name__}", fix="name a place to write to")
        return Outcome(False, tuple(fault.diagnostics().splitlines()), {"ok": False, "faults": [fault.diagnostics()]})
    except ConfigFault as fault:
        return Outcome(False, tuple(fault.diagnostics().splitlines()), {"ok": False, "faults": [fault.diagnostics()]})
    lines = (
        f"{directory}: {bundle.revision}",
        f"Next: opa run --server --addr unix:///run/opa/opa.sock -b {directory}",
    )
    return Outcome(True, lines, {"ok": True, "revision": bundle.revision, "directory": str(directory)})


def _may_be_replaced(directory: Path) -> bool:
    """Return whether nothing, an empty directory or an export of ours stands there; a policy directory has no revision."""
    if directory.is_symlink() or not directory.is_dir():
        return not (directory.is_symlink() or directory.exists())
    if not any(directory.iterdir()):
        return True
    try:
        manifest = orjson.loads((directory / ".manifest").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return False
    return isinstance(manifest, dict) and str(manifest.get("revision", "")).startswith("sha256:")


def policy_test(
    path: Path | str | None = None,
    *,
    state_dir: Path | str | None = None,
    opa_address: str = "",
    match: str = "",
) -> Outcome:
    """Run the Rego tests and the decision cases on every engine at hand; no test at all is a failure."""
    try:
        bundle = bundles.load(path, state_dir=state_dir)
    except ConfigFault as fault:
        return Outcome(False, tuple(fault.diagnostics().splitlines()), {"ok": False, "faults": [fault.diagnostics()]})
    tests = testing.run_tests(bundle, match=match)
    results = cases.run_cases(bundle, opa_address=opa_address)
    bad = [r for r in results if r.problems]
    lines = [f"{t.outcome}: {t.name} ({t.path})" for t in tests if t.outcome != "pass"]
    lines += [f"fail: {r.case.source}: {r.case.name} on {r.engine}: {'; '.join(r.problems)}" for r in bad]
    engines = sorted({r.engine for r in results})
    passed = sum(t.outcome == "pass" for t in tests)
    lines.append(f"{passed} of {len(tests)} tests passed")
    lines.append(f"{len(results) - len(bad)} of {len(results)} cases passed on {', '.join(engines)}")
    if not opa_address:
        lines.append("not compared with OPA: give the address of a server that has this bundle")
    ok = not bad and bool(results) and not testing.failed(tests)
    return Outcome(
        ok,
        tuple(lines),
        {
            "ok": ok,
            "tests": [{"name": t.name, "outcome": t.outcome} for t in tests],
            "cases": {
                "run": len(results),
                "failed": [f"{r.case.source} on {r.engine}: {'; '.join(r.problems)}" for r in bad],
            },
            "engines": [*engines],
        },
    )


def policy_eval(
    document: Mapping[str, JSON],
    path: Path | str | None = None,
    *,
    state_dir: Path | str | None = None,
    mode: Mode = "auto",
) -> Outcome:
    """Decide about one policy input document, and explain each rule that spoke.

    document: the input as `question.encode_input` makes it, and as records keep it.
    """
    try:
        point = Point(str(document.get("point")))
        bundle = bundles.load(path, state_dir=state_dir)
        engine = RegorusEngine(bundle, mode)
        started = time.perf_counter_ns()
        answer = engine.decide(point, in_order(dict(document)))
        took_us = (time.perf_counter_ns() - started) // 1000
        decision = parse_decision(answer, revision=bundle.revision, engine=engine.name)
    except ValueError:
        return Outcome(False, ("the document names no known point",), {"ok": False, "code": "input_invalid"})
    except (ConfigFault, PolicyFault) as fault:
        return Outcome(False, tuple(fault.diagnostics().splitlines()), {"ok": False, "code": fault.code})
    raw: JSON = orjson.loads(answer)
    lines = [
        f"{raw['effect'] if isinstance(raw, dict) else ''}  ({engine.name}, {took_us} µs, {bundle.revision[:19]}…)"
    ]
    explained: list[JSON] = []
    for reason in decision.reasons:
        about = _rule(bundle, reason.rule)
        explained.append(about)
        lines.append(f"  {reason.rule}: {about.get('title', 'nothing granted this')} [{', '.join(reason.owasp)}]")
    lines += [f"  obligation: {o.type} {' '.join(o.params.values())}" for o in decision.obligations]
    return Outcome(
        True, tuple(lines), {"ok": True, "decision": raw, "rules": explained, "engine": engine.name, "eval_us": took_us}
    )


def _rule(bundle: Bundle, name: str) -> JSONObject:
    for rule in bundle.rules:
        if rule.id == name:
            return {
                "rule": rule.id,
                "title": rule.title,
                "description": rule.description,
                "effect": rule.effect,
                "code": rule.code,
                "owasp": [*rule.owasp],
                "severity": rule.severity,
                "message_user": rule.message_user,
                "place": f"{rule.path}:{rule.line}",
            }
    return {"rule": name}
