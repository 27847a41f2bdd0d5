"""What all workers of a node spend from together within a window: counts in memory that they share.

One mapped file beside the marks, and one lock: a worker asks so seldom (once per twentieth of a limit) that
workers can wait for each other, and a write to the store each time would cost more than the calls it allows.

    page 0       magic, slots
    2 tables     64 bytes (window, entries), slots x 24 bytes: key word 0, key word 1, spent

A window is counted in the table of its parity; a table is emptied as a whole when its next window begins. A
worker that dies gives the lock back, and leaves at most a place without a key, which is written over.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from pathlib import Path
from threading import Lock
from typing import Final

from firewall.core.errors import StateUnavailable

SLOTS: Final = 1 << 17
PATIENCE_S: Final = 0.05
PAUSE_S: Final = 0.000_1
_MAGIC: Final = int.from_bytes(b"BRZNALW1", "little")
_PAGE: Final = 4096
_HEAD: Final = 8  # words
_WIDTH: Final = 3
_KEY: Final = struct.Struct("=QQ")


class SharedAllowances:
    """One worker's view; implements `core.ports.Allowances`. Thread-safe.

    directory: where the file ``allowances`` stands; None gives private memory, for one worker. slots: keys per
    window, a power of two; three quarters can be used.
    """

    def __init__(self, directory: str | os.PathLike[str] | None, *, slots: int = SLOTS) -> None:
        if slots < 8 or slots & (slots - 1):
            raise ValueError("slots is a power of two from 8")
        self._lock = Lock()
        self._slots, self._mask, self._limit = slots, slots - 1, slots * 3 // 4
        self._file = -1
        size = _PAGE + 2 * 8 * (_HEAD + _WIDTH * slots)
        self._map = mmap.mmap(-1, size) if directory is None else self._attach(Path(directory), size)
        self._words = memoryview(self._map).cast("Q")
        if directory is None:
            self._words[0] = _MAGIC

    def take(self, key: bytes, window: int, wanted: int, *, ceiling: int) -> int:
        """Spend up to ``wanted`` of what a 16-byte key may spend in a window; return how much was granted, 0 for none.

        Raises StateUnavailable when the window's table is full, or the memory is closed: the caller refuses.
        """
        low, high = _KEY.unpack(key)
        low = low or 1
        with self._lock:
            try:
                if self._file < 0:
                    return self._take(low, high, window, wanted, ceiling)
                self._wait()
                try:
                    return self._take(low, high, window, wanted, ceiling)
                finally:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
            except (ValueError, IndexError, OSError) as error:
                raise StateUnavailable("the memory of allowances cannot be used") from error

    def close(self) -> None:
        """Let the memory go; `take` raises from now on."""
        with self._lock:
            self._words.release()
            self._map.close()
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _wait(self) -> None:
        """Lock the file. Raises StateUnavailable: a worker that was stopped while it had it stops no other for long."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StateUnavailable("the memory of allowances is held") from None
                time.sleep(PAUSE_S)

    def _take(self, low: int, high: int, window: int, wanted: int, ceiling: int) -> int:
        words = self._words
        if words[0] != _MAGIC:
            raise StateUnavailable("the memory of allowances is damaged")
        at = _PAGE // 8 + (window % 2) * (_HEAD + _WIDTH * self._slots)
        if words[at] != window:
            self._empty(at)
            words[at] = window
        place = at + _HEAD + _WIDTH * (low & self._mask)
        end = at + _HEAD + _WIDTH * self._slots
        while (found := words[place]) and not (found == low and words[place + 1] == high):
            place += _WIDTH
            if place == end:
                place = at + _HEAD
        spent = words[place + 2] if found else 0
        granted = max(0, min(wanted, ceiling - spent))
        if not found:
            if words[at + 1] >= self._limit:
                raise StateUnavailable("the memory of allowances is full")
            # The first word last: a key is there when its first word is.
            words[place + 1] = high
            words[place + 2] = granted
            words[place] = low
            words[at + 1] += 1
        else:
            words[place + 2] = spent + granted
        return granted

    def _empty(self, at: int) -> None:
        if self._words[at + 1]:
            start, size = 8 * (at + _HEAD), 8 * _WIDTH * self._slots
            self._map[start : start + size] = bytes(size)
        self._words[at + 1] = 0

    def _attach(self, directory: Path, size: int) -> mmap.mmap:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(directory / "allowances", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                layout = struct.pack("=QQ", _MAGIC, self._slots)
                if os.fstat(handle).st_size != size or os.pread(handle, len(layout), 0) != layout:
                    os.ftruncate(handle, 0)
                    os.ftruncate(handle, size)
                    os.pwrite(handle, layout, 0)
                mapped = mmap.mmap(handle, size)
                fcntl.flock(handle, fcntl.LOCK_UN)
            except BaseException:
                os.close(handle)
                raise
        except OSError as error:
            raise StateUnavailable(type(error).__name__) from error
        self._file = handle
        return mapped
