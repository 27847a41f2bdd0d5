"""Leases between the workers of one node: who of them owns a thing that only one may have.

A lease is a locked file (flock(2)): the kernel gives it back when its holder ends, however it ends, so
no lease outlives its worker and none expires under a living one. The holder writes its number into the
file; that number is a hint for the others, and is believed only by asking that worker.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Final

from firewall.core.errors import StateUnavailable

LEASES: Final = 4096


class Leases:
    """One worker's leases. Not thread-safe; a call is two or three system calls."""

    def __init__(self, directory: Path, worker: int) -> None:
        self._directory = directory
        self._worker = worker
        self._held: dict[str, int] = {}

    def take(self, name: str) -> bool:
        """Return whether this worker holds the lease now: already, or because nobody else did.

        Raises StateUnavailable: the directory does not answer, or the bound is reached.
        """
        if name in self._held:
            return True
        if len(self._held) >= LEASES:
            raise StateUnavailable("too many leases")
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._path(name), os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(handle, 0)
                os.pwrite(handle, b"%d" % self._worker, 0)
            except BlockingIOError:
                os.close(handle)
                return False
            except BaseException:
                os.close(handle)
                raise
        except OSError as error:
            raise StateUnavailable(type(error).__name__) from error
        self._held[name] = handle
        return True

    def hint(self, name: str) -> int | None:
        """Return the number that the last holder wrote; it may have ended since. None when nobody ever held it."""
        try:
            text = self._path(name).read_bytes()
        except OSError:
            return None
        return int(text) if text.isdigit() and len(text) <= 4 else None

    def release(self, name: str) -> None:
        """Give a lease back; one that is not held stays as it is."""
        handle = self._held.pop(name, -1)
        if handle >= 0:
            os.close(handle)

    def close(self) -> None:
        """Give every lease back."""
        for name in list(self._held):
            self.release(name)

    def _path(self, name: str) -> Path:
        return self._directory / f"{hashlib.sha256(name.encode()).hexdigest()[:40]}.lease"
