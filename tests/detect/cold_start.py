"""What each of several workers does that start at once on an empty cache; see `test_patterns.py`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firewall.detect import patterns
from firewall.detect.patterns import HyperscanDatabase


def open_once(made: Path, cache: Path, log: Path, locked: bool) -> None:
    """Open the databases in ``cache``; a byte in ``log`` for each compilation, which waits until all had a chance.

    made: another cache, whose databases stand for what a compiler would make. locked: False switches the lock off.
    """

    def compile_slowly(_self: HyperscanDatabase) -> Any:
        with log.open("ab") as file:
            file.write(b"x")
        until = time.monotonic() + (0.5 if locked else 30)
        while log.stat().st_size < 4 and time.monotonic() < until:
            time.sleep(0.01)
        return compiled

    compiled = HyperscanDatabase(made)._databases
    HyperscanDatabase._compile = compile_slowly  # type: ignore[method-assign]
    if not locked:
        patterns.one_at_a_time = unlocked  # type: ignore[assignment]
    HyperscanDatabase(cache)


@contextlib.contextmanager
def unlocked(_path: Path) -> Iterator[bool]:
    yield False
