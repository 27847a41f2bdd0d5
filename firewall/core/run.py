"""Runs: the name of a clean context for flow labels, and when it ends (DESIGN §6b-1, docs/adr/0026).

``run_<26 characters>.<Unix seconds>``: 130 random bits, then when the run ends. It stands in signed tokens
only, so whoever reads it from one may believe the time.
"""

from __future__ import annotations

import string
from typing import Final

PREFIX: Final = "run"
_RANDOM_CHARS: Final = 26
_DIGITS: Final = 12
_RANDOM_SET: Final = frozenset(string.digits + string.ascii_uppercase)
_HEAD: Final = len(PREFIX) + 1 + _RANDOM_CHARS


def make_run(unguessable: str, ends_s: int) -> str:
    """Return a run's name. unguessable: ``Ids.new("run")``; ends_s: Unix seconds."""
    return f"{unguessable}.{ends_s}"


def run_ends_s(run: str) -> int:
    """Return when a run ends, Unix seconds; 0, which is long ago, for what is no run's name."""
    head, dot, ends = run.partition(".")
    if not dot or len(head) != _HEAD or not head.startswith(f"{PREFIX}_"):
        return 0
    if not _RANDOM_SET.issuperset(head[len(PREFIX) + 1 :]) or not 0 < len(ends) <= _DIGITS:
        return 0
    return int(ends) if ends.isascii() and ends.isdigit() and ends[0] != "0" else 0
