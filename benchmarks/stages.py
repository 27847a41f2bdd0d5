"""CPU µs of each stage of one enforced ``tools/call``, on the real objects of a running composition.

Each stage is called in a warm loop; the figure is the minimum of five repeats, since a neighbour can
only make a loop slower. The stages add up to less than the whole: what is left is the listener, the
event loop and the upstream client.
"""

from __future__ import annotations

import time
from collections.abc import Callable


def cost_us(call: Callable[[], object], *, loops: int = 2000, repeats: int = 5) -> float:
    """Return the CPU µs of one call: minimum over repeats of the mean over loops."""
    for _ in range(min(200, loops)):
        call()
    best = float("inf")
    for _ in range(repeats):
        started = time.process_time_ns()
        for _ in range(loops):
            call()
        best = min(best, (time.process_time_ns() - started) / loops / 1000)
    return best
