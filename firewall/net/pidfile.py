"""A file that says of a process that it runs, and of one that is gone that it did not stop by itself.

    <directory>/<pid>-<random>    one line of JSON; then what was written by whoever saw it stand still

A process holds the lock of its own file, and removes the file when it stops. The kernel lets go of the lock with the
process, however it ended: so a file that can be locked was left behind. Only an entry that is locked is ever seen,
since it is renamed into place; and nobody else's is read as ours, since the directory is private (0700).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

FILES: Final = 1000  # left behind, looked at in one go
FILE_BYTES: Final = 64 * 1024
_STUCK: Final = b"stuck "


@dataclass(frozen=True, slots=True)
class Left:
    """What a process left behind. begun_us: since when it ran (Unix µs).

    stuck: whether it stood still at the end, silent_s: for how long, 0 where nobody could say. Without, it was killed,
    it crashed, or the power went.
    """

    pid: int
    begun_us: int
    stuck: bool
    silent_s: int


class PidFile:
    """This process's file. `close` when it stops by itself. Raises OSError."""

    def __init__(self, directory: Path, begun_us: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{os.getpid()}-{secrets.token_hex(8)}"
        aside = directory / f".{name}"
        self.path = directory / name
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        self._handle = os.open(aside, flags, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX)
            self._bytes = os.write(self._handle, orjson.dumps({"pid": os.getpid(), "begun_us": begun_us}) + b"\n")
            aside.rename(self.path)
        except OSError:
            os.close(self._handle)
            aside.unlink(missing_ok=True)
            raise

    def fileno(self) -> int:
        """Return the descriptor, to which a fault handler may write; any byte says that the process stood still."""
        return self._handle

    def stands_still(self, silent_s: float) -> None:
        """Note it: one write, which waits for nobody."""
        with suppress(OSError):
            os.write(self._handle, _STUCK + str(int(silent_s)).encode() + b"\n")

    def goes_on(self) -> None:
        """Take back what was noted, if anything was."""
        with suppress(OSError):
            if os.fstat(self._handle).st_size > self._bytes:
                os.ftruncate(self._handle, self._bytes)

    def close(self) -> None:
        """Say that this process stops by itself, or that how it ends was recorded. Idempotent."""
        if self._handle >= 0:
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = -1


def left_behind(directory: Path) -> Iterator[Left]:
    """Yield what others left behind; each file is removed once the caller comes back for the next.

    A caller that raises leaves it for the next time. Of two that look at once one gets it.
    """
    try:
        names = sorted(name for name in os.listdir(directory) if not name.startswith("."))[:FILES]
    except OSError:
        return
    for name in names:
        try:
            handle = os.open(directory / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                continue
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue  # it runs
            if os.fstat(handle).st_nlink == 0:
                continue  # another one was here first
            yield _read(os.read(handle, FILE_BYTES))
            (directory / name).unlink(missing_ok=True)
        finally:
            os.close(handle)


def _read(data: bytes) -> Left:
    line, _, noted = data.partition(b"\n")
    try:
        told = orjson.loads(line)
        pid, begun_us = int(told["pid"]), int(told["begun_us"])
    except (ValueError, KeyError, TypeError):
        pid = begun_us = 0
    last = noted.rstrip(b"\n").rpartition(b"\n")[2]
    digits = last.removeprefix(_STUCK)[:9] if last.startswith(_STUCK) else b""
    return Left(pid, begun_us, bool(noted), int(digits) if digits.isdigit() else 0)
