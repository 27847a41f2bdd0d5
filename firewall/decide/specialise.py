"""One program per point: the bundle's rules with everything that cannot matter at that point left out.

The compiled engine has no rule index, so a rule costs time even where its first condition is false.
At one point the value of ``input.point`` is a constant, and the engine checks that an input is for
its point before it runs (`regorus.RegorusEngine`). So these expressions are constants as well, and
nothing else is touched:

- ``input.point == "x"``, ``input.point != "x"``, ``input.point in {"x", …}``
- ``input.point in data.config.NAME``, where the bundle's data holds a list of strings
- ``points.NAME`` and ``not points.NAME``, where NAME is defined once, as one of the above
- ``… in data.config.NAME`` where the data holds an empty list; ``data.config.NAME == true``, and ``not``
  that, where it holds a boolean
- a rule of the same module that lost every definition, and ``some … in`` it

A rule with a false one is dropped, a true one is dropped from its rule; functions are left alone. The source must be in
`opa fmt` form (the loader refuses to specialise anything else); the self-test then compares the
result with the whole bundle on the interpreter, case by case and mutant by mutant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from firewall.core.jsonvalue import JSON
from firewall.core.points import Point

POINTS_PACKAGE = "firewall.lib.points"
MARK_BEGIN = "# mark: enumerated"
MARK_END = "# mark: end"

_EQUAL = re.compile(r'input\.point (==|!=) "([a-z0-9_.]+)"')
_IN_SET = re.compile(r"input\.point in \{([^{}]*)\}")
_IN_DATA = re.compile(r"input\.point in data\.config\.([a-z0-9_]+)")
_IN_EMPTY = re.compile(r"(?:some [a-z0-9_, ]+|[a-z_][a-z0-9_.]*|lower\([a-z_]+\)) in data\.config\.([a-z0-9_]+)")
_IS_TRUE = re.compile(r"(not )?data\.config\.([a-z0-9_]+) == true")
_SOME_IN = re.compile(r"some [a-z0-9_, ]+ in ([a-z0-9_]+)")
_NAMED = re.compile(r"(not )?points\.([a-z0-9_]+)")
_STRING = re.compile(r'"([a-z0-9_.]+)"')
_FUNCTION = re.compile(r"[a-z_][a-z0-9_]*\(")
_WORD = re.compile(r"[a-z_][a-z0-9_]*")
_NAME = re.compile(r"(?:default )?([a-z_][a-z0-9_]*)")


@dataclass(frozen=True, slots=True)
class Statement:
    """One top-level statement of a module: comments above it are not part of it."""

    text: str

    @property
    def name(self) -> str:
        """The rule's own name, or "" for ``package`` and ``import``."""
        if self.text.startswith(("package ", "import ")):
            return ""
        match = _NAME.match(self.text)
        return match.group(1) if match else ""


def statements(source: str) -> list[Statement]:
    """Return a module's statements in order, comments and blank lines removed.

    source: text in `opa fmt` form, where a statement begins in column 0 and its other lines are
    indented or close a bracket.
    """
    found: list[list[str]] = []
    for line in source.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0] in "\t })]" and found:
            found[-1].append(line)
        else:
            found.append([line])
    return [Statement("\n".join(lines)) for lines in found]


class Folder:
    """Folds the constant expressions of one point."""

    def __init__(self, point: Point, config: Mapping[str, JSON], groups: Mapping[str, frozenset[str]]) -> None:
        self._point = point.value
        self._config = config
        self._groups = groups
        self.undefined: set[str] = set()  # rules of the module at hand that lost every definition
        self.empty: set[str] = set()  # partial sets that did

    def value(self, expression: str) -> bool | None:
        """Return the constant value of one expression at this point, or None when it is not one."""
        text = " ".join(expression.split())
        if match := _EQUAL.fullmatch(text):
            return (match[2] == self._point) is (match[1] == "==")
        if match := _IN_SET.fullmatch(text):
            items = [item.strip() for item in match[1].split(",") if item.strip()]
            if all(_STRING.fullmatch(item) for item in items):
                return f'"{self._point}"' in items
            return None
        if match := _IN_DATA.fullmatch(text):
            listed = self._config.get(match[1])
            if isinstance(listed, list) and all(isinstance(item, str) for item in listed):
                return self._point in listed
            return None
        if match := _IN_EMPTY.fullmatch(text):
            return False if self._config.get(match[1]) == [] else None
        if match := _IS_TRUE.fullmatch(text):
            set_to = self._config.get(match[2])
            return (set_to is True) is (match[1] is None) if isinstance(set_to, bool) else None
        if match := _SOME_IN.fullmatch(text):
            return False if match[1] in self.undefined | self.empty else None
        if text.removeprefix("not ") in self.undefined:
            return text.startswith("not ")
        if match := _NAMED.fullmatch(text):
            group = self._groups.get(match[2])
            return None if group is None else (self._point in group) is (match[1] is None)
        return None

    def fold(self, statement: Statement) -> Statement | None:
        """Return the statement without its true constants, or None when a constant is false."""
        lines = statement.text.split("\n")
        if " else " in statement.text or _FUNCTION.match(statement.text):
            return statement
        if lines[-1] == "}" and len(lines) > 2:
            start = max(
                (i for i, line in enumerate(lines) if line[0] not in "\t " and line.endswith(" if {")), default=-1
            )
            if start < 0:
                return statement
            kept = []
            for expression in _expressions(lines[start + 1 : -1]):
                known = self.value(expression)
                if known is False:
                    return None
                if known is None:
                    kept.append(expression)
            body = kept or ["\ttrue"]
            return Statement("\n".join([*lines[: start + 1], *body, "}"]))
        # One expression on the head's last line: ``head if expression``.
        head, separator, tail = statement.text.rpartition(" if ")
        if separator and not tail.startswith("{"):
            known = self.value(tail)
            if known is False:
                return None
            if known is True:
                return Statement(f"{head} if true")
        return statement


def _expressions(lines: Iterable[str]) -> list[str]:
    """Group a body's lines: an expression begins at one tab, its other lines are deeper or close it."""
    found: list[str] = []
    for line in lines:
        if line.startswith("\t") and line[1:2] not in ("\t", "}", "]", ")", " ") and line[1:]:
            found.append(line)
        elif found:
            found[-1] += "\n" + line
        else:
            found.append(line)
    return found


def point_groups(source: str, config: Mapping[str, JSON]) -> dict[str, frozenset[str]]:
    """Return the points at which each rule of the points library holds; rules of another form are left out."""
    rules = [s for s in statements(source) if s.name]
    groups: dict[str, frozenset[str]] = {}
    names = [s.name for s in rules]
    for rule in rules:
        head, separator, tail = rule.text.partition(" if ")
        if not separator or head != rule.name or names.count(rule.name) != 1:
            continue
        values = {point: Folder(point, config, {}).value(tail) for point in Point}
        if None not in values.values():
            groups[rule.name] = frozenset(point.value for point, value in values.items() if value)
    return groups


def specialise(
    modules: Mapping[str, str], config: Mapping[str, JSON], point: Point, packages: Iterable[str]
) -> dict[str, str]:
    """Return the modules of one point's program: path → source.

    modules: path → source of every rule module, the aggregator included (it carries the marks).
    packages: names of the rule packages below ``firewall.rules``, in order.
    """
    groups: dict[str, frozenset[str]] = {}
    for source in modules.values():
        if package_of(source) == POINTS_PACKAGE:
            groups = point_groups(source, config)
    folder = Folder(point, config, groups)
    out: dict[str, str] = {}
    finders: list[str] = []
    for path, source in modules.items():
        if package_of(source) == "firewall":
            continue
        kept = _live(_folded(folder, statements(source)), package_of(source), modules)
        out[path] = "\n\n".join(s.text for s in kept) + "\n"
        name = package_of(source).removeprefix("firewall.rules.")
        if name in packages and any(s.name == "finding" for s in kept):
            finders.append(name)
    for path, source in modules.items():
        if package_of(source) == "firewall":
            kept = _folded(folder, statements(enumerated(source, finders)))
            out[path] = "\n\n".join(s.text for s in kept) + "\n"
    return out


def _folded(folder: Folder, module: list[Statement]) -> list[Statement]:
    """Fold a module until nothing changes: a helper that is gone may take others with it."""
    folder.undefined, folder.empty = set(), set()
    while True:
        kept = [folded for s in module if (folded := folder.fold(s)) is not None]
        names = {s.name for s in kept}
        gone = {s.name for s in module} - names
        sets = {s.name for s in module if s.text.startswith(f"{s.name} contains ")}
        if gone - sets == folder.undefined and gone & sets == folder.empty:
            break
        folder.undefined, folder.empty = gone - sets, gone & sets
    # What others may still refer to stays: undefined as a rule is, empty as a partial set is.
    stubs = [Statement(f"{name} if false") for name in sorted(folder.undefined)]
    stubs += [Statement(f"{name} := set()") for name in sorted(folder.empty - {"finding", "grant"})]
    return [*kept, *stubs]


def _live(module: list[Statement], package: str, modules: Mapping[str, str]) -> list[Statement]:
    """Leave out the helpers of a rule package that nothing refers to any more; findings and grants stay."""
    if not package.startswith("firewall.rules."):
        return module
    outside = " ".join(source for source in modules.values() if package_of(source) != package)
    tail = package.removeprefix("firewall.")
    while True:
        words = {s.text: set(_WORD.findall(s.text)) for s in module}
        kept = [
            s
            for s in module
            if s.name in ("", "finding", "grant")
            or f"{tail}.{s.name}" in outside
            or any(
                s.name in found for text, found in words.items() if not text.startswith((s.name, f"default {s.name}"))
            )
        ]
        if len(kept) == len(module):
            return kept
        module = kept


def enumerated(source: str, packages: Iterable[str]) -> str:
    """Return the aggregator with the block between the marks replaced by one rule per package."""
    before, begin, rest = source.partition(MARK_BEGIN)
    _, end, after = rest.partition(MARK_END)
    if not begin or not end:
        raise ValueError("the aggregator has no marks")
    rules = [f"found contains f if some f in data.firewall.rules.{name}.finding\n\n" for name in packages]
    return before + "".join(rules or ["found := set()\n\n"]) + after


def package_of(source: str) -> str:
    """Return a module's package name, or ""."""
    for line in source.splitlines():
        if line.startswith("package "):
            return line.removeprefix("package ").strip()
    return ""
