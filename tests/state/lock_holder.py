"""A process that takes a lock, says so, and never lets go; see `test_once.py`."""

import os
import signal
from pathlib import Path

from firewall.state.once import one_at_a_time


def hold(path: Path, tell: int) -> None:
    """Hold the lock until killed."""
    with one_at_a_time(path) as held:
        os.write(tell, b"h" if held else b"-")
        while True:
            signal.pause()
