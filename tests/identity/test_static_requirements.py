"""RS-18 and AS-14, which no single request can show: what may stand nowhere in the source of the house."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

import firewall

ROOMS: Final = ("firewall", "mcp_gateway", "a2a_gateway", "llm_router")
SECRETS: Final = ("secret", "csrf", "verifier", "password", "challenge", "mac")
REPEATING: Final = (301, 302, 307, 308)

Node = tuple[str, ast.AST]


@pytest.fixture(scope="module")
def nodes() -> list[Node]:
    """Every comparison and call of the house, each with the name of its file."""
    house = Path(firewall.__file__).parents[1]
    paths = [path for room in ROOMS for path in sorted((house / room).rglob("*.py"))]
    assert len(paths) > 400
    return [
        (path.name, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, (ast.Compare, ast.Call))
    ]


def compared_by_operator(nodes: Iterable[Node]) -> list[str]:
    """Return the comparisons of secrets with ``==`` or ``!=``."""
    found = []
    for file, node in nodes:
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
            continue
        # With a word or number of our own, such as the name of a method; lengths are no secrets.
        sides = (node.left, *node.comparators)
        if any(isinstance(side, (ast.Constant, ast.Tuple)) or ast.unparse(side).startswith("len(") for side in sides):
            continue
        last = [ast.unparse(side).lower().split(".")[-1] for side in sides]
        if any(name in side for side in last for name in SECRETS):
            found.append(f"{file}:{node.lineno}: {ast.unparse(node)}")
    return found


def repeating_redirects(nodes: Iterable[Node]) -> list[str]:
    """Return the calls that are given a status with which a browser posts once more what it posted.

    301 and 302 leave it to the browser, 307 and 308 demand it; we have one way to redirect, and it says 303.
    """
    return [
        f"{file}:{node.lineno}"
        for file, node in nodes
        if isinstance(node, ast.Call)
        for given in (*node.args, *(keyword.value for keyword in node.keywords))
        if isinstance(given, ast.Constant) and given.value in REPEATING
    ]


def test_rs_18_no_secret_is_compared_by_an_operator(nodes: list[Node]) -> None:
    assert compared_by_operator(nodes) == []


def test_as_14_no_answer_of_the_house_has_a_browser_repeat_what_it_posted(nodes: list[Node]) -> None:
    assert repeating_redirects(nodes) == []


def planted(source: str) -> list[Node]:
    return [("planted.py", node) for node in ast.walk(ast.parse(source))]


@pytest.mark.parametrize(
    "source",
    ["given.secret == kept.secret", "if form.csrf != expected_csrf: pass", "mac == digest", "a.password_hash == b"],
)
def test_rs_18_the_check_finds_a_planted_comparison_that_takes_as_long_as_it_was_right(source: str) -> None:
    assert compared_by_operator(planted(source))
    assert not compared_by_operator(planted("hmac.compare_digest(given.secret, kept.secret)"))


@pytest.mark.parametrize("source", ["FixedReply(307, (), b'')", "redirect(to, status=308)", "reply(302, to)"])
def test_as_14_the_check_finds_a_planted_redirect(source: str) -> None:
    assert repeating_redirects(planted(source))
    assert not repeating_redirects(planted("FixedReply(303, (), b'')"))
