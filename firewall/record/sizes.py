"""How much an audit directory takes, without looking at every file each time: what has ended does not grow."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Sizes:
    """Measures one audit directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, tuple[tuple[int, int], int]] = {}  # by log: what its live bundle looked like, its bytes

    def total(self) -> int:
        """Return the bytes of all files. Others write and rename meanwhile: what is gone counts nothing."""
        size, seen = 0, {}
        try:
            entries = list(os.scandir(self._directory))
        except OSError:
            return 0
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    size += entry.stat(follow_symlinks=False).st_size
                continue
            mark = _mark(entry.path)
            before = self._known.get(entry.name)
            taken = before[1] if before is not None and mark is not None and before[0] == mark else _below(entry.path)
            if mark is not None:
                seen[entry.name] = (mark, taken)
            size += taken
        self._known = seen
        return size


def _mark(folder: str) -> tuple[int, int] | None:
    """Return what changes whenever a log grows: its live bundle's inode and time; None where there is none."""
    try:
        status = os.stat(os.path.join(folder, "live"))
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _below(directory: str) -> int:
    size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(folder, name)).st_size
    return size
