"""``bartizan keys``: the keys that sign access tokens, those that seal upstream credentials, and their rotation."""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

from firewall.cli.arguments import Verbs
from firewall.cli.context import Node
from firewall.cli.output import emit, note, table, when

PAUSE_S: Final = 0.2  # between two looks at a rotation: the node works for a second each time it is asked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    verbs.add("list", show).add_argument("--envelope", action="store_true", help=_ENVELOPE)
    which = verbs.add("rotate", rotate).add_mutually_exclusive_group()
    which.add_argument(
        "--compromised",
        action="store_true",
        help="the state directory may have leaked: take a key that never lay there, and end every token now",
    )
    which.add_argument("--envelope", action="store_true", help=_ENVELOPE)


_ENVELOPE: Final = "the keys that seal upstream credentials, in place of those that sign"


def show(given: argparse.Namespace) -> int:
    """List what is published: the current key, the next one, and those that still verify."""
    if given.envelope:
        progress = Node(given).get("envelope-keys")
        emit(given, progress, _lines(progress))
        return 0
    found = Node(given).get("signing-keys")
    rows = [(key["kid"], key["state"], _time(key["since_s"]), _time(key["until_s"])) for key in found["keys"]]
    emit(given, found, table(("KEY", "STATE", "SINCE", "UNTIL"), rows, empty="Nothing is signed here."))
    return 0


def rotate(given: argparse.Namespace) -> int:
    """Let the next key sign from now on; every worker follows within a second."""
    if given.envelope:
        return _rotate_envelope(given)
    made = Node(given).post("signing-keys/rotate", {"compromised": given.compromised})
    emit(given, made, f"{made['kid']} signs now. " + (_ENDED if given.compromised else _GOES_ON))
    return 0


_GOES_ON = "What was signed before goes on to verify until it expires."
_ENDED = "Every token that was signed before has ended."


def _rotate_envelope(given: argparse.Namespace) -> int:
    """Have everything sealed anew. Cut anywhere, the node goes on by itself, and so does the next call."""
    node = Node(given)
    progress = node.post("envelope-keys/rotate")
    while progress["state"] == "sealing":
        note(f"{progress['rows'] - progress['left']} of {progress['rows']} credentials")
        time.sleep(PAUSE_S)
        progress = node.post("envelope-keys/rotate", {"go_on": True})
    emit(given, progress, _lines(progress))
    return 0


def _lines(progress: dict[str, Any]) -> list[str]:
    sealed = progress["rows"] - progress["left"] - progress["unreadable"]
    lines = [f"Secret {progress['generation']} seals; {sealed} of {progress['rows']} credentials are under it."]
    if progress["unreadable"]:
        lines.append(
            f"{progress['unreadable']} cannot be read: their key is not here. Put its file back into keys/, or have"
            " people connect their accounts again."
        )
    if progress["state"] == "sealing":
        lines.append("A rotation is under way. The node goes on by itself.")
    if progress["state"] == "settling":
        lines.append(f"Older keys are removed at {_time(progress['retires_s'])}, by the node itself.")
    return lines


def _time(seconds: int) -> str:
    return when(seconds * 1_000_000) if seconds else ""
