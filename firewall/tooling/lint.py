"""Lint a policy directory: the portable profile, and what only matters to people.

`firewall.decide.profile` holds the checks that a bundle must pass to be loaded. Here come those
that loading does not need: OWASP ids that exist, rules that no decision case names, configuration
that names rules which do not exist, and the crosswalk itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from firewall.core.errors import ConfigFault
from firewall.core.jsonvalue import JSON
from firewall.decide import bundle as bundles
from firewall.decide.bundle import Bundle

NOTES: Final[dict[str, str]] = {
    "owasp_unknown": "This OWASP id is not in crosswalk/owasp.yaml.",
    "rule_untested": "No decision case expects this rule.",
    "config_rule_unknown": "The configuration names a rule that does not exist.",
    "config_exception_open": "An exception needs rule, tenant, subject, resource, expires_us and ticket.",
    "crosswalk_missing": "crosswalk/owasp.yaml is missing or cannot be read.",
}
_EXCEPTION: Final = frozenset({"rule", "tenant", "subject", "resource", "expires_us", "ticket"})


@dataclass(frozen=True, slots=True)
class Note:
    """One remark: where, which check, and about what."""

    place: str
    code: str
    subject: str

    def __str__(self) -> str:
        return f"{self.place}: {self.code}: {NOTES[self.code]} ({self.subject})"


@dataclass(frozen=True, slots=True)
class LintReport:
    """``faults`` keep a bundle from loading (one text each); ``notes`` fail only the check command."""

    faults: tuple[str, ...]
    notes: tuple[Note, ...]
    bundle: Bundle | None


def lint(path: Path | str | None = None) -> LintReport:
    """Return everything that is wrong with a policy directory; never raises for its content."""
    try:
        bundle = bundles.read(path)
    except ConfigFault as fault:
        return LintReport(tuple(fault.diagnostics().splitlines()), (), None)
    notes = [*_owasp(bundle), *_untested(bundle), *_configuration(bundle)]
    return LintReport((), tuple(notes), bundle)


def owasp_ids(directory: Path) -> dict[str, str]:
    """Return every OWASP id of the crosswalk with its official title; {} when it cannot be read."""
    try:
        document = yaml.safe_load((directory / "crosswalk" / "owasp.yaml").read_text())
        return {entry: row["title"] for edition in document["editions"].values() for entry, row in edition.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}


def _owasp(bundle: Bundle) -> Iterable[Note]:
    known = owasp_ids(bundle.path)
    if not known:
        yield Note("crosswalk/owasp.yaml", "crosswalk_missing", "no ids")
        return
    for rule in bundle.rules:
        for entry in rule.owasp:
            if entry not in known:
                yield Note(f"{rule.path}:{rule.line}", "owasp_unknown", f"{rule.id}: {entry}")


def _untested(bundle: Bundle) -> Iterable[Note]:
    expected = {name for case in bundle.cases for name in case.rules | case.lifted | case.shadow}
    for rule in bundle.rules:
        if rule.id not in expected and not _dormant(rule.id):
            yield Note(f"{rule.path}:{rule.line}", "rule_untested", rule.id)


def _dormant(rule: str) -> bool:
    # Rules that the shipped configuration leaves asleep are proved by the Rego tests, which can change data.
    return rule in {"identity.bearer_token", "tools.model_unpriced", "questions.foreign_host"}


def _configuration(bundle: Bundle) -> Iterable[Note]:
    config = bundle.data.get("config")
    if not isinstance(config, dict):
        return
    known = {rule.id for rule in bundle.rules}
    for name in _list(config.get("shadow_rules")):
        if name not in known:
            yield Note("config/data.yaml", "config_rule_unknown", str(name))
    for exception in _list(config.get("exceptions")):
        if not isinstance(exception, dict) or exception.keys() != _EXCEPTION:
            yield Note("config/data.yaml", "config_exception_open", "exceptions")
        elif exception["rule"] not in known:
            yield Note("config/data.yaml", "config_rule_unknown", str(exception["rule"]))


def _list(value: JSON) -> list[JSON]:
    return value if isinstance(value, list) else []
