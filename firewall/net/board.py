"""The memory that a parent and its workers share: who lives, who listens, what was told."""

from __future__ import annotations

import mmap
import os
from typing import Final

from firewall.net.spawn import unnamed_file

SAID: Final = ("up", "fault")  # what is told once in the life of the parent
_BEAT_BYTES: Final = 8


class Board:
    """One mapping. beats: monotonic nanoseconds of each worker's last turn, 0 before the first.

    ready: 1 for each worker that listens. Each worker writes its own places only; `say` wants a lock around it.
    """

    def __init__(self, descriptor: int, workers: int) -> None:
        """descriptor: of `create`, here or in the parent."""
        self.descriptor = descriptor
        whole = memoryview(mmap.mmap(descriptor, _size(workers)))
        beats = workers * _BEAT_BYTES
        self.beats = whole[:beats].cast("Q")
        self.ready = whole[beats : beats + workers]
        self._said = whole[beats + workers :]

    @classmethod
    def create(cls, workers: int) -> Board:
        """Return a new one, all zero."""
        return cls(unnamed_file(bytes(_size(workers))), workers)

    def say(self, what: str) -> bool:
        """Mark one of `SAID` as told; return whether it was not told before."""
        at = SAID.index(what)
        before, self._said[at] = self._said[at], 1
        return not before

    def close(self) -> None:
        """Forget it here; the mapping ends with the last who uses it."""
        os.close(self.descriptor)


def _size(workers: int) -> int:
    return workers * (_BEAT_BYTES + 1) + len(SAID)
