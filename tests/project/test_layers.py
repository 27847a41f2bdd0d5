"""Import-linter leaves a module that no layer names unconstrained: here every module must fall under one."""

import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

PACKAGES = ["firewall", "mcp_gateway", "a2a_gateway", "llm_router"]


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """Import-linter configures logging, and silences by it every logger that was there before."""
    yield
    for known in logging.Logger.manager.loggerDict.values():
        if isinstance(known, logging.Logger):
            known.disabled = False


def contracts(root: Path) -> dict[str, dict[str, list[str]]]:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    return {contract["id"]: contract for contract in settings["contracts"]}


def modules(root: Path) -> list[str]:
    """Return the dotted name of every module of ours; the bare package `firewall` holds no code."""
    names = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return [name for name in names if name != "firewall"]


def under(name: str, listed: list[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in listed)


def test_every_module_falls_under_a_listed_layer(root: Path) -> None:
    rows = contracts(root)["layers"]["layers"]
    layers = [name.strip(" ()") for row in rows for name in row.replace("|", ":").split(":")]
    assert [name for name in modules(root) if not under(name, layers)] == []


def test_the_package_firewall_itself_holds_no_code(root: Path) -> None:
    text = (root / "firewall" / "__init__.py").read_text(encoding="utf-8")
    assert "import" not in text.replace('"""', "")


@pytest.mark.slow
def test_the_import_contracts_hold(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert lint_imports(no_cache=True) == EXIT_STATUS_SUCCESS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("firewall/wire/planted.py", "import asyncio"),
        ("mcp_gateway/action.py", "import time"),
        ("llm_router/nobody_named_this_file.py", "import socket"),
        ("a2a_gateway/serve.py", "import llm_router"),
        ("firewall/enforce/planted.py", "import mcp_gateway"),
        ("firewall/detect/planted.py", "import firewall.record"),
    ],
)
def test_a_planted_violation_is_found(
    room: str, line: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin of the test above: without this it might prove nothing."""
    import subprocess
    import sys

    for package in ("firewall", "mcp_gateway", "a2a_gateway", "llm_router"):
        for path in (root / package).rglob("__init__.py"):
            target = tmp_path / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("", encoding="utf-8")
    # The one import that the contract excuses must be there, or it complains about that.
    (tmp_path / "firewall" / "enforce" / "guard.py").write_text("import asyncio\n", encoding="utf-8")
    (tmp_path / room).write_text(f"{line}\n", encoding="utf-8")
    (tmp_path / "tests" / "project").mkdir(parents=True)
    for name in ("pyproject.toml", "tests/project/contracts.py"):
        (tmp_path / name).write_text((root / name).read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 broken" in done.stdout
