"""Work that one process of a node does for all: the others wait for what it leaves behind.

The lock is a locked file (flock(2)), which the kernel gives back when its holder ends, however it ends. It is about
time, not about truth: who cannot get it goes on without, and does the work again.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

WAIT_S: Final = 20.0  # longer than the work takes; two such waits are within what a worker's start may take
_LOOK_S: Final = 0.02


@contextmanager
def one_at_a_time(path: Path, *, wait_s: float = WAIT_S) -> Iterator[bool]:
    """Hold the lock file ``path`` while the block runs; yields whether it is held.

    Blocks the thread for at most ``wait_s`` seconds: for a process's start, before its loop turns. False: it was held
    for too long, or cannot be made (a directory that is missing or read-only). The file stays; it is empty.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        yield False
        return
    try:
        yield _locked(handle, wait_s)
    finally:
        os.close(handle)


def _locked(handle: int, wait_s: float) -> bool:
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_LOOK_S)
        except OSError:  # a file system without locks
            return False
