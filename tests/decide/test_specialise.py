"""Folding a point: only constants are folded, and only as far as they are constant."""

from __future__ import annotations

import pytest

from firewall.core.points import Point
from firewall.decide.specialise import Folder, Statement, enumerated, point_groups, specialise, statements

CONFIG = {
    "none": [],
    "off": False,
    "on": True,
    "listed": ["mcp.tool.call"],
    "mixed": ["mcp.tool.call", 1],
    "text": "mcp.tool.call",
}
GROUPS = {"asks": frozenset({"mcp.tool.call"})}
FOLDER = Folder(Point.MCP_TOOL_CALL, CONFIG, GROUPS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('input.point == "mcp.tool.call"', True),
        ('input.point == "mcp.tool.list"', False),
        ('input.point != "mcp.tool.call"', False),
        ('input.point != "mcp.tool.list"', True),
        ('input.point in {"a", "mcp.tool.call"}', True),
        ('input.point in {\n\t\t"a",\n\t\t"b",\n\t}', False),
        ("input.point in data.config.listed", True),
        ("input.point in data.config.mixed", None),
        ("input.point in data.config.text", None),
        ("input.point in data.config.absent", None),
        ("input.subject.id in data.config.none", False),
        ("some e in data.config.none", False),
        ("some k, v in data.config.none", False),
        ("input.subject.id in data.config.listed", None),
        ("not input.subject.id in data.config.none", None),
        ("every x in data.config.none", None),
        ("every x in data.config.none { x }", None),
        ("x := input.subject.id in data.config.none", None),
        ("lower(name) in data.config.none", False),
        ("data.config.off == true", False),
        ("data.config.on == true", True),
        ("not data.config.on == true", False),
        ("not data.config.off == true", True),
        ("not data.config.absent == true", None),
        ("data.config.absent == true", None),
        ("points.asks", True),
        ("not points.asks", False),
        ("points.other", None),
        ("input.point == x", None),
        ("input.points", None),
        ('input.point in {"a", x}', None),
        ('not input.point == "mcp.tool.call"', None),
        ('input.point == "mcp.tool.call"; input.subject.id == "a"', None),
        ('x := input.point == "mcp.tool.list"', None),
    ],
)
def test_value_of_an_expression(expression: str, value: bool | None) -> None:
    assert FOLDER.value(expression) is value


def fold(text: str) -> str | None:
    folded = FOLDER.fold(Statement(text))
    return None if folded is None else folded.text


def test_a_rule_with_a_false_constant_is_dropped() -> None:
    assert fold('a if {\n\tinput.subject.id == "x"\n\tinput.point == "llm.request"\n}') is None
    assert fold('a if input.point == "llm.request"') is None


def test_a_true_constant_is_dropped_from_its_rule() -> None:
    assert fold('a if {\n\tpoints.asks\n\tinput.subject.id == "x"\n}') == 'a if {\n\tinput.subject.id == "x"\n}'
    assert fold("a if {\n\tpoints.asks\n}") == "a if {\n\ttrue\n}"
    assert fold("a if points.asks") == "a if true"


def test_what_is_nested_is_left_alone() -> None:
    text = 'a if {\n\tevery x in input.context.labels {\n\t\tinput.point == "llm.request"\n\t}\n}'
    assert fold(text) == text
    alternative = 'a := 1 if {\n\tinput.point == "llm.request"\n} else := 2'
    assert fold(alternative) == alternative
    braces = 'a if { input.point == "llm.request"; b }'
    assert fold(braces) == braces


def test_a_helper_without_definitions_stays_false() -> None:
    modules = {
        "firewall/main.rego": "package firewall\n\n# mark: enumerated\n# mark: end\n\ndecision := 1\n",
        "firewall/rules/a.rego": 'package firewall.rules.a\n\nh if input.point == "llm.request"\n\nfinding contains 1 if not h\n',
    }
    out = specialise(modules, {}, Point.MCP_TOOL_CALL, ["a"])
    assert "finding contains 1 if true" in out["firewall/rules/a.rego"]
    assert "data.firewall.rules.a.finding" in out["firewall/main.rego"]


def test_a_helper_that_nobody_uses_any_more_goes() -> None:
    modules = {
        "firewall/main.rego": "package firewall\n\n# mark: enumerated\n# mark: end\n\n"
        "decision := 1 if data.firewall.rules.a.named\n",
        "firewall/rules/a.rego": "package firewall.rules.a\n\n"
        "named if input.x\n\nused if deeper\n\ndeeper if input.y\n\nonly if input.z\n\n"
        'finding contains 1 if used\n\nfinding contains 2 if {\n\tinput.point == "llm.request"\n\tonly\n}\n',
    }
    out = specialise(modules, {}, Point.MCP_TOOL_CALL, ["a"])["firewall/rules/a.rego"]
    assert "only" not in out
    assert "named if" in out
    assert "used if" in out
    assert "deeper if" in out
    kept = specialise(modules, {}, Point.LLM_REQUEST, ["a"])["firewall/rules/a.rego"]
    assert "only if input.z" in kept


def test_a_set_that_lost_every_member_is_empty_and_not_undefined() -> None:
    modules = {
        "firewall/main.rego": "package firewall\n\n# mark: enumerated\n# mark: end\n\ndecision := 1\n",
        "firewall/rules/a.rego": "package firewall.rules.a\n\n"
        'h contains 1 if input.point == "llm.request"\n\n'
        "finding contains 1 if some x in h\n\nfinding contains 2 if count(h) == 0\n",
    }
    out = specialise(modules, {}, Point.MCP_TOOL_CALL, ["a"])["firewall/rules/a.rego"]
    assert "h := set()" in out
    assert "finding contains 1" not in out
    assert "finding contains 2" in out


def test_what_used_a_lost_helper_goes_with_it() -> None:
    modules = {
        "firewall/main.rego": "package firewall\n\n# mark: enumerated\n# mark: end\n\ndecision := 1\n",
        "firewall/rules/a.rego": "package firewall.rules.a\n\n"
        'h if input.point == "llm.request"\n\ng if {\n\th\n\tinput.subject.id == "a"\n}\n\nfinding contains 1 if g\n\n'
        "finding contains 2 if not g\n",
    }
    out = specialise(modules, {}, Point.MCP_TOOL_CALL, ["a"])["firewall/rules/a.rego"]
    assert "finding contains 1" not in out
    assert "finding contains 2 if true" in out


def test_functions_are_left_alone() -> None:
    text = 'f(x) if input.point == "llm.request"'
    assert fold(text) == text


def test_a_package_without_findings_at_a_point_is_not_enumerated() -> None:
    modules = {
        "firewall/main.rego": "package firewall\n\n# mark: enumerated\n# mark: end\n\ndecision := 1\n",
        "firewall/rules/a.rego": 'package firewall.rules.a\n\nfinding contains 1 if input.point == "llm.request"\n',
    }
    assert "found := set()" in specialise(modules, {}, Point.MCP_TOOL_CALL, ["a"])["firewall/main.rego"]
    assert "rules.a.finding" in specialise(modules, {}, Point.LLM_REQUEST, ["a"])["firewall/main.rego"]


def test_only_plain_groups_are_groups() -> None:
    source = (
        'package firewall.lib.points\n\na if input.point == "llm.request"\n\nb if input.subject.id == "x"\n\n'
        'c if input.point == "llm.request"\n\nc if input.point == "llm.error"\n'
    )
    assert point_groups(source, {}) == {"a": frozenset({"llm.request"})}


def test_statements_keep_their_lines_together() -> None:
    source = '# c\npackage a\n\nx := {\n\t"a": 1,\n}\n\ny if {\n\t# inside\n\tx\n}\n'
    assert [s.name for s in statements(source)] == ["", "x", "y"]


def test_an_aggregator_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="marks"):
        enumerated("package firewall\n", ["a"])
