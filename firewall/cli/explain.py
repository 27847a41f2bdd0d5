"""``bartizan explain``: tell what happened in an exchange, and why: by the id of a decision, an exchange or a record."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from firewall.cli.context import load_config
from firewall.cli.output import emit
from firewall.core.errors import BartizanError
from firewall.core.jsonvalue import JSONObject

PERMITS = ("allow", "transform")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("id", help="as an error or a list told it")


def run(given: argparse.Namespace) -> int:
    """Tell the story; the log's files are read, no node has to run."""
    from firewall.record.show import explain, explain_text

    config = load_config(given)
    story = explain(config.audit_dir, given.id)
    _add_grants(story, config.policy.bundle)
    emit(given, story, explain_text(story))
    return 0


def _add_grants(story: JSONObject, directory: Path | None) -> None:
    """Add to each permitted decision which grants of the policy open its point, where the policy is still that one.

    ``grants`` of a decision: for each package that must grant, those of its grants that can (`decide.openings`).
    """
    decisions: Any = story["decisions"]
    permitted = [one for one in decisions if one["effect"] in PERMITS and one["policy"]]
    if not permitted:
        return
    from firewall.core.points import Point
    from firewall.decide.bundle import read
    from firewall.decide.openings import openings

    try:
        bundle = read(directory)
    except BartizanError:
        return  # what is wrong with the policy of now says nothing about then
    for one in permitted:
        if one["policy"] == bundle.revision and one["point"] in set(Point):
            one["grants"] = [list(names) for names in openings(bundle, Point(one["point"]))]
