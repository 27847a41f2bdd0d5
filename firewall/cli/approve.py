"""``bartizan approve``: agree, as a second person, to what waits for one; short for ``approvals approve``."""

from __future__ import annotations

import argparse

from firewall.cli.approvals import approve, decision_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    decision_arguments(parser)


def run(given: argparse.Namespace) -> int:
    """Show the request, ask, and agree; exit 1 when it was not done."""
    return approve(given)
