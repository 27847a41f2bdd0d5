"""``bartizan keys``: the keys that sign access tokens, and their rotation."""

from __future__ import annotations

import argparse

from firewall.cli.arguments import Verbs
from firewall.cli.context import Node
from firewall.cli.output import emit, table, when


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    verbs.add("list", show)
    verbs.add("rotate", rotate).add_argument(
        "--compromised",
        action="store_true",
        help="the state directory may have leaked: take a key that never lay there, and end every token now",
    )


def show(given: argparse.Namespace) -> int:
    """List what is published: the current key, the next one, and those that still verify."""
    found = Node(given).get("signing-keys")
    rows = [(key["kid"], key["state"], _time(key["since_s"]), _time(key["until_s"])) for key in found["keys"]]
    emit(given, found, table(("KEY", "STATE", "SINCE", "UNTIL"), rows, empty="Nothing is signed here."))
    return 0


def rotate(given: argparse.Namespace) -> int:
    """Let the next key sign from now on; every worker follows within a second."""
    made = Node(given).post("signing-keys/rotate", {"compromised": given.compromised})
    emit(given, made, f"{made['kid']} signs now. " + (_ENDED if given.compromised else _GOES_ON))
    return 0


_GOES_ON = "What was signed before goes on to verify until it expires."
_ENDED = "Every token that was signed before has ended."


def _time(seconds: int) -> str:
    return when(seconds * 1_000_000) if seconds else ""
