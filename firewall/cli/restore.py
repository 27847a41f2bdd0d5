"""``bartizan restore``: check a backup, and put it where no state file stands."""

from __future__ import annotations

import argparse
from pathlib import Path

from firewall.cli.backup import report
from firewall.cli.context import Node, state_of
from firewall.core.errors import ConfigFault


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("backup", type=Path)
    parser.add_argument("--check", action="store_true", help="only check that it could be restored")


def run(given: argparse.Namespace) -> int:
    """Check the backup's integrity and schema; without --check, put a copy into the state directory."""
    from firewall.state.backup import check_backup, restore

    if not given.backup.is_file():
        raise ConfigFault("backup_missing", f"there is no {given.backup}")
    if given.check:
        report(given, check_backup(given.backup))
        return 0
    if Node(given).running():
        raise ConfigFault("restore_running", "the node is running", fix="stop it first")
    report(given, restore(given.backup, state_of(given) / "state.db"))
    return 0
