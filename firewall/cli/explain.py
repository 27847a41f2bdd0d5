"""``bartizan explain``: tell what happened in an exchange, and why: by the id of a decision, an exchange or a record."""

from __future__ import annotations

import argparse

from firewall.cli.context import load_config
from firewall.cli.output import emit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("id", help="as an error or a list told it")


def run(given: argparse.Namespace) -> int:
    """Tell the story; the log's files are read, no node has to run."""
    from firewall.record.show import explain, explain_text

    story = explain(load_config(given).audit_dir, given.id)
    emit(given, story, explain_text(story))
    return 0
