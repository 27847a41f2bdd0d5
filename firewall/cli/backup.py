"""``bartizan backup``: copy the state file while the node runs, and check the copy."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from firewall.cli.arguments import Usage
from firewall.cli.context import state_of
from firewall.cli.output import emit
from firewall.core.errors import ConfigFault

if TYPE_CHECKING:
    from firewall.state.backup import Backup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("destination", type=Path, help="a file that does not exist yet")


def run(given: argparse.Namespace) -> int:
    """Write the copy (0600); keys and audit log are files of their own."""
    from firewall.state.sqlite import SQLiteStore

    source = state_of(given) / "state.db"
    if not source.is_file():
        raise ConfigFault("state_missing", f"there is no {source}", fix="name the node with --config or --state-dir")
    if not given.destination.parent.is_dir():
        raise Usage("backup_folder", f"there is no directory {given.destination.parent}")
    store = SQLiteStore(source)
    try:
        made = store.backup(given.destination)
    finally:
        store.close()
    report(given, made)
    return 0


def report(given: argparse.Namespace, made: Backup) -> None:
    """Print the facts of a checked copy."""
    emit(
        given,
        {**asdict(made), "path": str(made.path)},
        [
            f"{made.path}: {made.entries} entries, {made.size} bytes, schema {made.schema}",
            f"sha256 {made.sha256}",
            "Not in it: keys/ and audit/ of the state directory. Keep copies of those as well, and apart from them one of",
            "the secret that keys/ is sealed under: `bartizan doctor` says where it lies.",
        ],
    )
