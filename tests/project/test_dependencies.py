"""What we require is what we import: no dependency without a use, no use without a dependency."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

PACKAGES = ("firewall", "mcp_gateway", "a2a_gateway", "llm_router")

# Distributions whose import name `packages_distributions` cannot tell, or tells together with others'.
DEMONSTRATION = {"firewall.cli.tour", "firewall.cli.browser"}  # run from a checkout, with the group `demo`
BROUGHT = {"multidict", "yarl", "starlette", "requests"}  # parts of aiohttp, fastapi, the OTLP exporter


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(root: Path) -> set[str]:
    """Return the names of the hard dependencies."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {normal(re.split(r"[=<>;\[ ]", text)[0]) for text in project["dependencies"]}


@cache
def imported(root: Path) -> dict[str, set[str]]:
    """Return the distributions that our packages import, each with the modules that do."""
    owners = packages_distributions()
    found: dict[str, set[str]] = {}
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            module = ".".join(path.relative_to(root).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                else:
                    continue
                for name in names:
                    # Namespace packages (opentelemetry) belong to many: the longest owned prefix is not told.
                    top = name.split(".")[0]
                    if top in sys.stdlib_module_names or top in PACKAGES:
                        continue
                    for owner in owners.get(top, [top]):
                        found.setdefault(normal(owner), set()).add(module)
    return found


def test_every_hard_dependency_is_imported(root: Path) -> None:
    assert declared(root) - imported(root).keys() == set()


def test_every_import_is_declared(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    demo = {normal(re.split(r"[=<>;\[ ]", text)[0]) for text in project["dependency-groups"]["demo"]}
    missing = {}
    for name, modules in imported(root).items():
        if name in declared(root) | BROUGHT or name.startswith("opentelemetry-"):
            continue
        outside = modules - DEMONSTRATION
        if outside or name not in demo | {"httpx", "httpx2"}:
            missing[name] = sorted(outside or modules)
    assert missing == {}
