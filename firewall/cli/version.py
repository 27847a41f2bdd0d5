"""``bartizan version``: print the version, and those of the parts that decide."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version as installed

from firewall.cli.output import emit

PARTS = ("gordon-to-regorus", "hyperscan", "jsonschema-rs", "httptools", "aiohttp", "cryptography")


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """Declare the command's options: none."""


def run(given: argparse.Namespace) -> int:
    """Print versions."""
    own = installed("bartizan")
    parts = {name: installed(name) for name in PARTS}
    emit(
        given,
        {"bartizan": own, "python": platform.python_version(), "parts": parts},
        [f"bartizan {own}", f"Python {platform.python_version()}", *(f"{n} {v}" for n, v in parts.items())],
    )
    return 0
