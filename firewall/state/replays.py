"""What may be used once on a node: keys that were seen lately, in memory that all workers share.

One mapped file beside the marks. Each worker owns one column of two tables and is the only one that writes
it; a key goes into the table of the current period, and is looked for in the current and the last one of
every column. So a key is remembered for at least one whole period, and a table is emptied as a whole.

    page 0         magic, workers, slots
    column w       2 tables: 64 bytes (period, entries), slots x 16 bytes

Announce, then look: a worker writes its entry before it reads the others' columns. Of two that get the same
key at the same moment at least one sees the other; both may, and then both refuse. No lock is held across
processes, and a worker that dies leaves nothing half done.

A table that is full refuses everybody, so nobody may fill it: whoever has as many places as are free gets no more
(a dynamic threshold, as buffers of switches have). One owner gets half, n greedy ones n/(n+1): some is always free.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path
from threading import Lock
from typing import Final

from firewall.core.errors import StateUnavailable

PERIOD_S: Final = 128  # more than twice the 60 s that a proof may lie before or after us
SLOTS: Final = 1 << 18
_MAGIC: Final = int.from_bytes(b"BRZNUSE1", "little")
_PAGE: Final = 4096
_HEAD: Final = 8  # words
_KEY: Final = struct.Struct("=QQ")


class UsedOnce:
    """One worker's view; implements `core.ports.UsedProofs`. Thread-safe.

    directory: where the file ``used`` stands; None gives private memory, for one worker. worker: our
    column, as `SharedMarks` claimed it. slots: keys per table, a power of two; three quarters can be used.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None, *, worker: int = 0, workers: int = 1, slots: int = SLOTS
    ) -> None:
        if not 0 <= worker < workers or slots < 8 or slots & (slots - 1):
            raise ValueError("a worker of the node; slots is a power of two from 8")
        self._lock = Lock()
        self._worker, self._workers, self._slots = worker, workers, slots
        self._mask, self._limit = slots - 1, slots * 3 // 4
        self._table_words = _HEAD + 2 * slots
        self._written: tuple[list[int], list[int]] = ([], [])  # by us, in this life, in each of our tables
        self._held: tuple[dict[str, int], dict[str, int]] = ({}, {})  # of these, whose
        size = _PAGE + 8 * workers * 2 * self._table_words
        self._map = mmap.mmap(-1, size) if directory is None else self._attach(Path(directory), size)
        self._words = memoryview(self._map).cast("Q")
        if directory is None:
            self._words[0] = _MAGIC

    def first(self, key: bytes, now_s: int, *, owner: str = "") -> bool:
        """Return whether a 16-byte key was not seen in this period or the last one; remember it.

        owner: who answers for the place that it takes, "" for nobody, who takes the last one too.
        Raises StateUnavailable when this worker's table is full, for everybody or for this owner, or the memory is
        closed: the caller refuses.
        """
        low, high = _KEY.unpack(key)
        low = low or 1
        period = now_s // PERIOD_S
        with self._lock:
            try:
                if self._words[0] != _MAGIC:
                    raise StateUnavailable("the memory of used proofs is damaged")
                if not self._announce(low, high, period, owner):
                    return False
                mine = self._table(self._worker, period)
                for worker in range(self._workers):
                    for near in (period - 1, period, period + 1):  # another worker may be a moment ahead
                        at = self._table(worker, near)
                        if at != mine and self._words[at] == near and self._find(at, low, high) < 0:
                            return False
            except (ValueError, IndexError) as error:
                raise StateUnavailable("the memory of used proofs is closed") from error
        return True

    def close(self) -> None:
        """Let the memory go; `first` refuses from now on."""
        with self._lock:
            self._words.release()
            self._map.close()

    def _announce(self, low: int, high: int, period: int, owner: str) -> bool:
        """Write the key into our table of the period; return whether it is new there."""
        words, at = self._words, self._table(self._worker, period)
        if words[at] != period:
            self._empty(at, self._written[period % 2])
            self._held[period % 2].clear()
            words[at] = period
        slot = self._find(at, low, high)
        if slot < 0:
            return False
        held = self._held[period % 2]
        mine = held.get(owner, 0) if owner else 0
        if words[at + 1] + mine >= self._limit:
            raise StateUnavailable("the memory of used proofs is full")
        if owner:
            held[owner] = mine + 1
        # The second word first: a key is there when its first word is.
        words[slot + 1] = high
        words[slot] = low
        words[at + 1] += 1
        self._written[period % 2].append(slot)
        return True

    def _empty(self, at: int, written: list[int]) -> None:
        words = self._words
        words[at] = 0  # nobody reads a table that is being emptied
        if words[at + 1] == len(written):  # a whole table is some megabytes, which need not be touched for a few keys
            for slot in written:
                words[slot] = words[slot + 1] = 0
        else:
            start = 8 * (at + _HEAD)
            self._map[start : start + 16 * self._slots] = bytes(16 * self._slots)
        written.clear()
        words[at + 1] = 0

    def _find(self, at: int, low: int, high: int) -> int:
        """Return −1 when a table has the key, else the word where it would stand."""
        words, mask, base = self._words, self._mask, at + _HEAD
        slot = low & mask
        while True:
            place = base + 2 * slot
            found = words[place]
            if not found:
                return place
            if found == low and words[place + 1] == high:
                return -1
            slot = (slot + 1) & mask

    def _table(self, worker: int, period: int) -> int:
        return _PAGE // 8 + (2 * worker + period % 2) * self._table_words

    def _attach(self, directory: Path, size: int) -> mmap.mmap:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(directory / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                layout = struct.pack("=QQQ", _MAGIC, self._workers, self._slots)
                if os.fstat(handle).st_size != size or os.pread(handle, len(layout), 0) != layout:
                    # Another number of workers: they have all ended, or the marks would not have let us in.
                    os.ftruncate(handle, 0)
                    os.ftruncate(handle, size)
                    os.pwrite(handle, layout, 0)
                mapped = mmap.mmap(handle, size)
                fcntl.flock(handle, fcntl.LOCK_UN)  # the mapping holds a copy of the handle, and with it the lock
                return mapped
            finally:
                os.close(handle)
        except OSError as error:
            raise StateUnavailable(type(error).__name__) from error
