"""Every requirement on the front door has a negative test with its id in its name, and a twin of it with the control off.

The ids are those of the project's list of attacks: RS the resource server, AS the authorization server, UI its
pages, CL what it fetches and presents elsewhere, OP its operation, TX the exchange of tokens. A name may carry
several ids.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parents[1]
COUNTS: Final = {"rs": 20, "as": 24, "ui": 9, "cl": 10, "op": 9, "tx": 2}
IDS: Final = tuple(f"{room}_{number:02}" for room, count in COUNTS.items() for number in range(1, count + 1))
# Where a test that holds with the control on is not repeated with it off, and why. Empty is the aim.
WITHOUT_TWIN: Final[dict[str, str]] = {}
# What says of a test outside the files of twins that its control is off, or that its own check was tried on a plant.
# "Without" alone says nothing: *without a secret nothing is read* has its control on. What would happen then does.
OFF: Final = ("twin", "planted")
WOULD: Final = ("would", "works")


def words(name: str) -> list[str]:
    """Return the parts of a name: ``rs_08_10_13`` is rs_08 with two numbers behind it."""
    return [part for part in name.lower().replace(" ", "_").split("_") if part]


def ids_in(name: str) -> set[str]:
    """Return the ids that a test's name carries; a number after an id belongs to the same room."""
    found: set[str] = set()
    room, parts = "", words(name)
    for at, part in enumerate(parts):
        if part in COUNTS and at + 1 < len(parts) and parts[at + 1].isdigit():
            room = part
        elif room and len(part) == 2 and part.isdigit():
            found.add(f"{room}_{part}")
        elif part not in ("and", "to"):
            room = ""
    return found & set(IDS)


def tells_of_a_twin(name: str) -> bool:
    """Return whether a name says that the control is off in it."""
    parts = words(name)
    return any(word in parts for word in OFF) or ("without" in parts and any(word in parts for word in WOULD))


def names_in(source: str) -> Iterator[tuple[str, bool]]:
    """Yield the names of tests, and of the cases that a table of attacks registers with ``@case("…", …)``.

    With each whether it is tried with its control off: by its name, or by an argument ``control``.
    """
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if node.name.startswith("test_"):
            yield node.name, tells_of_a_twin(node.name) or any(arg.arg == "control" for arg in node.args.args)
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "case":
                label = mark.args[0]
                if isinstance(label, ast.Constant) and isinstance(label.value, str):
                    yield label.value, True


@pytest.fixture(scope="module")
def inventory() -> tuple[set[str], set[str]]:
    """Return the ids that a test is named for, and those that have a twin."""
    named: set[str] = set()
    twins: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        for name, off in names_in(path.read_text()):
            ids = ids_in(name)
            named |= ids
            if off or path.stem.endswith("_twins"):
                twins |= ids
    return named, twins


def test_every_requirement_has_a_test_of_its_name(inventory: tuple[set[str], set[str]]) -> None:
    assert sorted(set(IDS) - inventory[0]) == []


def test_every_requirement_has_a_twin_with_its_control_off_or_a_reason_to_have_none(
    inventory: tuple[set[str], set[str]],
) -> None:
    missing = set(IDS) - inventory[1]
    assert sorted(missing - WITHOUT_TWIN.keys()) == []
    assert sorted(WITHOUT_TWIN.keys() - missing) == [], "a reason that is none any more"


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("test_rs_12_a_token_in_the_query", {"rs_12"}),
        ("test_rs_08_10_13_one_wrong_claim_is_enough", {"rs_08", "rs_10", "rs_13"}),
        ("test_as_04_as_07_a_request_with_one_fault", {"as_04", "as_07"}),
        ("test_rs_01_and_02_signatures_of_nobody", {"rs_01", "rs_02"}),
        ("as_06 two resources at once", {"as_06"}),
        ("test_whoever_has_10_as_many", set()),
        ("test_as_25_is_no_requirement", set()),
        ("test_it_is_as_it_was", set()),
    ],
)
def test_an_id_is_read_out_of_a_name(name: str, ids: set[str]) -> None:
    assert ids_in(name) == ids


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("test_op_07_without_the_secret_of_a_transmitter_nothing_is_read", False),
        ("test_as_18_a_silent_request_without_consent_is_told_so", False),
        ("test_as_09_without_the_atomic_take_several_would_succeed", True),
        ("test_rs_13_an_attack_fails_with_its_control_and_works_without", True),
        ("test_op_07_twin_a_guess_is_good", True),
        ("test_as_14_the_check_finds_a_planted_redirect", True),
    ],
)
def test_the_word_without_makes_no_twin(name: str, off: bool) -> None:
    assert tells_of_a_twin(name) is off


def test_a_test_and_a_case_count_and_a_helper_does_not() -> None:
    source = (
        '@case("as_06 two", off)\nasync def attack(): ...\ndef test_rs_01_x(): ...\ndef rs_02_helper(): ...\n'
        "def test_rs_03_y(control): ...\n"
    )
    assert set(names_in(source)) == {("as_06 two", True), ("test_rs_01_x", False), ("test_rs_03_y", True)}
