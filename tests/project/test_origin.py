"""Other distributions publish our import names (mcp-gateway, llm-router): ours must be the ones loaded."""

import importlib
from importlib.metadata import distribution, entry_points, packages_distributions
from pathlib import Path

import pytest

PACKAGES = ["firewall", "mcp_gateway", "a2a_gateway", "llm_router"]


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_is_loaded_from_this_source_tree(name: str, root: Path) -> None:
    module = importlib.import_module(name)
    assert [Path(p) for p in module.__path__] == [root / name]


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_provides_our_import_names(name: str) -> None:
    assert set(packages_distributions().get(name, [])) <= {"bartizan"}


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_says_that_it_is_typed(name: str, root: Path) -> None:
    assert (root / name / "py.typed").is_file()


def test_the_command_belongs_to_our_distribution() -> None:
    (command,) = entry_points(group="console_scripts", name="bartizan")
    assert command.dist is not None
    assert command.dist.name == distribution("bartizan").name == "bartizan"


def test_policies_are_data_and_hold_no_python(root: Path) -> None:
    assert not list((root / "policies").rglob("*.py"))
