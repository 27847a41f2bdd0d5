"""The node's shared memory: marks that every worker reads before bytes move (DESIGN §6b-2).

One mapped file. Each worker owns one *column*, an open-addressing table that only it writes;
readers OR the columns of all workers. So no lock is held across processes, no update can be lost,
and what a worker raised stays readable after it died; whoever claims the column next goes on in it.

    page 0            magic, workers, slots
    column w          64 bytes: epoch counter (word 0), entries (word 1)
                      slots x 24 bytes: key word 0, key word 1, marks

A slot is published by its key word 0, written last (marks, key word 1, key word 0); all words are
8-byte aligned, so each store is whole. A reader on a machine that reorders stores may see a key
before its marks: a key with zero marks counts as all marks, since zero is never stored.
A dropped slot keeps its place in its chain (`_GONE`) until nothing stands behind it, and is used again.
The lock taken around each write is also the barrier that makes it visible before `raise_` returns.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path
from threading import Lock
from typing import Final

from firewall.core.errors import ConfigFault, StateUnavailable

ALL: Final = 2**64 - 1
_GONE: Final = 1  # first word of a dropped slot; 0 is an empty one, and no key begins with either
SLOTS: Final = 1 << 16
_MAGIC: Final = int.from_bytes(b"BRZNMRK1", "little")
_PAGE: Final = 4096
_WORDS_HEAD: Final = _PAGE // 8
_WORDS_COLUMN: Final = 8
_KEY: Final = struct.Struct("=QQ")


class SharedMarks:
    """One worker's view of the node's marks; implements `core.ports.SharedMarks`. Thread-safe.

    directory: where the file ``marks`` and the lock files stand (mode 0700; the state directory or
        one under /dev/shm). None gives private memory: one worker only.
    workers: number of columns; the same for every worker of the node.
    slots: entries per column, a power of two; three quarters of them can be used.

    Raises StateUnavailable when every column is claimed, ConfigFault("marks_layout") when the file
    was made for another number of workers or slots while some worker still uses it.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, *, workers: int = 1, slots: int = SLOTS) -> None:
        if workers < 1 or slots < 8 or slots & (slots - 1):
            raise ValueError("at least one worker; slots is a power of two from 8")
        self.workers, self.slots = workers, slots
        self._lock = Lock()
        self._mask, self._limit = slots - 1, slots * 3 // 4
        self._column_words = _WORDS_COLUMN + 3 * slots
        self._columns = tuple(_WORDS_HEAD + w * self._column_words for w in range(workers))
        self._claim = -1
        size = 8 * (_WORDS_HEAD + workers * self._column_words)
        if directory is None:
            self.worker = 0
            self._map = mmap.mmap(-1, size)
            self._words = memoryview(self._map).cast("Q")
            self._words[0] = _MAGIC
        else:
            self._map = self._attach(Path(directory), size)
            self._words = memoryview(self._map).cast("Q")
        self._mine = self._columns[self.worker]
        self._others = tuple(column for column in self._columns if column != self._mine)

    def read(self, key: bytes) -> int:
        """Return the OR of all workers' 64-bit marks for a 16-byte key; all ones when unreadable."""
        low, high = _KEY.unpack(key)
        low = low if low > _GONE else 2
        mask, marks = self._mask, 0
        first = _WORDS_COLUMN + 3 * (low & mask)
        try:
            words = self._words
            if words[0] != _MAGIC:
                return ALL
            for column in self._columns:
                if not words[column + first]:
                    continue  # nearly always: nothing was ever raised there
                slot = low & mask
                for _ in range(mask + 1):
                    at = column + _WORDS_COLUMN + 3 * slot
                    found = words[at]
                    if not found:
                        break
                    if found == low and words[at + 1] == high:
                        marks |= words[at + 2] or ALL
                        break
                    slot = (slot + 1) & mask
        except (ValueError, IndexError):  # closed, or smaller than its layout
            return ALL
        return marks

    def raise_(self, key: bytes, marks: int) -> None:
        """OR marks into this worker's column; visible to every worker when it returns.

        Raises StateUnavailable when the column is three quarters full, or closed.
        """
        low, high = _KEY.unpack(key)
        low = low if low > _GONE else 2
        if not marks:
            return
        with self._lock:
            try:
                words = self._words
                slot, free = low & self._mask, -1
                while True:
                    at = self._mine + _WORDS_COLUMN + 3 * slot
                    found = words[at]
                    if found == low and words[at + 1] == high:
                        words[at + 2] |= marks
                        return
                    if found == _GONE and free < 0:
                        free = at
                    if not found:
                        break
                    slot = (slot + 1) & self._mask
                if free >= 0:
                    at = free
                elif words[self._mine + 1] >= self._limit:
                    raise StateUnavailable("shared memory is full")
                else:
                    words[self._mine + 1] += 1
                # INVARIANT: the key's first word is written last; test_shared kills a writer in between.
                words[at + 2] = marks
                words[at + 1] = high
                words[at] = low
            except (ValueError, IndexError) as error:
                raise StateUnavailable("shared memory is closed") from error

    def drop(self, key: bytes) -> None:
        """Take a key out of this worker's column; what the others raised stays.

        For keys that nobody can ask about again: one who asks while its slot is used anew may read the new
        one's marks. Does nothing where the key is not, or memory is closed.
        """
        low, high = _KEY.unpack(key)
        low = low if low > _GONE else 2
        with self._lock:
            try:
                words, mask, base = self._words, self._mask, self._mine + _WORDS_COLUMN
                slot = low & mask
                while True:
                    at = base + 3 * slot
                    found = words[at]
                    if not found:
                        return
                    if found == low and words[at + 1] == high:
                        break
                    slot = (slot + 1) & mask
                words[at] = _GONE
                # This place is empty again, and so are dropped ones before it, unless a key's search leads over it.
                while words[base + 3 * slot]:
                    if words[base + 3 * slot] == _GONE and not self._is_passed(base, slot):
                        words[base + 3 * slot] = 0
                        words[self._mine + 1] -= 1
                    slot = (slot - 1) & mask
            except (ValueError, IndexError):
                return

    def _is_passed(self, base: int, slot: int) -> bool:
        """Return whether the search for a key behind a slot begins at the slot or before it."""
        words, mask = self._words, self._mask
        ahead = 1
        while found := words[base + 3 * ((slot + ahead) & mask)]:
            if found != _GONE and (slot + ahead - found) & mask >= ahead:
                return True
            ahead += 1
        return False

    def epoch(self) -> int:
        """Return the node's epoch: the sum of all workers' counters, so any bump changes it for all.

        Raises StateUnavailable when unreadable: the caller denies on an unknown epoch.
        """
        try:
            words = self._words
            if words[0] != _MAGIC:
                raise StateUnavailable("shared memory is damaged")
            epoch = words[self._mine]
            for column in self._others:
                epoch += words[column]
            return epoch
        except (ValueError, IndexError) as error:
            raise StateUnavailable("shared memory is closed") from error

    def bump(self) -> int:
        """Raise the node's epoch and return it; visible to every worker on return."""
        with self._lock:
            try:
                self._words[self._mine] += 1
            except (ValueError, IndexError) as error:
                raise StateUnavailable("shared memory is closed") from error
        return self.epoch()

    def used(self) -> float:
        """Return the fullest column's share of what it can hold, 0 to 1."""
        return max(self._words[column + 1] for column in self._columns) / self._limit

    def close(self) -> None:
        """Give the column back; its marks stay readable to the others. Reads return all ones from now on."""
        with self._lock:
            self._words.release()
            self._map.close()
            if self._claim >= 0:
                os.close(self._claim)
                self._claim = -1

    # -- the file ----------------------------------------------------------------------------------

    def _attach(self, directory: Path, size: int) -> mmap.mmap:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            gate = _open(directory / "marks.lock")
        except OSError as error:
            raise StateUnavailable(type(error).__name__) from error
        try:
            fcntl.flock(gate, fcntl.LOCK_EX)
            path = directory / "marks"
            old = self._foreign_entries(directory, path, size)
            if not path.exists() or old is not None:
                self._create(path, size, old or [])
            self.worker, self._claim = self._claim_column(directory)
            handle = _open(path)
            try:
                info = os.fstat(handle)
                if info.st_uid != os.geteuid() or info.st_mode & 0o077:
                    raise ConfigFault("marks_permissions", str(path), fix=f"chmod 600 {path}")
                mapped = mmap.mmap(handle, size)
            finally:
                os.close(handle)
            self._recount(mapped)
            return mapped
        except OSError as error:
            raise StateUnavailable(type(error).__name__) from error
        finally:
            os.close(gate)

    def _foreign_entries(self, directory: Path, path: Path, size: int) -> list[tuple[int, int, int]] | None:
        """Return the entries of a file with another layout, None when ours fits (or there is none)."""
        if not path.exists():
            return None
        data = path.read_bytes()
        words = memoryview(data).cast("Q") if len(data) % 8 == 0 and len(data) > _PAGE else memoryview(b"").cast("Q")
        if len(words) and tuple(words[0:3]) == (_MAGIC, self.workers, self.slots) and len(data) == size:
            return None
        for lock in directory.glob("marks.[0-9]*.lock"):
            if not _is_free(lock):
                raise ConfigFault(
                    "marks_layout",
                    "a worker with another number of workers runs here",
                    fix="stop it, or use another state.path",
                )
        if not len(words) or words[0] != _MAGIC:
            return []
        slots = words[2]
        found: list[tuple[int, int, int]] = []
        for column in range(words[1]):
            start = _WORDS_HEAD + column * (_WORDS_COLUMN + 3 * slots) + _WORDS_COLUMN
            ends = min(start + 3 * slots, len(words) - 2)
            found.extend(
                (words[at], words[at + 1], words[at + 2] or ALL) for at in range(start, ends, 3) if words[at] > _GONE
            )
        return found

    def _create(self, path: Path, size: int, entries: list[tuple[int, int, int]]) -> None:
        """Make the file aside and rename it: no worker ever sees half a layout. Keeps old marks in column 0."""
        aside = path.with_name("marks.new")
        aside.unlink(missing_ok=True)
        handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, size)
            with mmap.mmap(handle, size) as mapped:
                self._words, self._mine = memoryview(mapped).cast("Q"), self._columns[0]
                try:
                    self._words[1], self._words[2] = self.workers, self.slots
                    for low, high, marks in entries:
                        self.raise_(_KEY.pack(low, high), marks)
                    self._words[0] = _MAGIC
                finally:
                    self._words.release()
        finally:
            os.close(handle)
        os.rename(aside, path)

    def _claim_column(self, directory: Path) -> tuple[int, int]:
        for worker in range(self.workers):
            handle = _open(directory / f"marks.{worker}.lock")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            return worker, handle
        raise StateUnavailable("every column of shared memory is claimed")

    def _recount(self, mapped: mmap.mmap) -> None:
        """Count the claimed column's entries again: its last owner may have died between key and count."""
        with memoryview(mapped) as raw, raw.cast("Q") as words:
            start = self._columns[self.worker]
            first = start + _WORDS_COLUMN
            with words[first : first + 3 * self.slots] as table:
                words[start + 1] = sum(1 for low in table[::3] if low)


def discard(directory: str | os.PathLike[str]) -> bool:
    """Remove the marks of a node that no worker uses; return whether there were any.

    For a supervisor that then restores every label from the store: the file only ever grows.
    Raises ConfigFault("marks_in_use").
    """
    place = Path(directory)
    if not (place / "marks").exists():
        return False
    gate = _open(place / "marks.lock")
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)
        if not all(_is_free(lock) for lock in place.glob("marks.[0-9]*.lock")):
            raise ConfigFault("marks_in_use", fix="stop every worker of this node first")
        (place / "marks").unlink(missing_ok=True)
        return True
    finally:
        os.close(gate)


def _open(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _is_free(lock: Path) -> bool:
    handle = _open(lock)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
