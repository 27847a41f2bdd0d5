"""Who runs on which core: the load and the upstream on the first, what is measured on the last.

As the performance reference §11 asks. Left to the scheduler, the load and what it drives change places all the time,
and each finds its caches full of the other's data. On a machine with one core both are the same and nothing changes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_OURS: Final = sorted(os.sched_getaffinity(0))
LOAD: Final = frozenset(_OURS[:1])
MEASURED: Final = frozenset(_OURS[-1:])


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found, queue = [], [pid]
    while queue:
        at = queue.pop()
        found.append(at)
        for task in Path(f"/proc/{at}/task").glob("*"):
            try:
                queue += [int(c) for c in (task / "children").read_text().split()]
            except OSError:
                continue
    return found


def keep(pid: int, cores: frozenset[int]) -> None:
    """Keep every thread of a process tree on some cores; what they start later stays there too."""
    for process in tree(pid):
        for task in Path(f"/proc/{process}/task").glob("*"):
            try:
                os.sched_setaffinity(int(task.name), cores)
            except ProcessLookupError:
                continue
