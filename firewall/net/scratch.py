"""A process's own directory below the temporary one, which does not outlive it for long.

Who is killed removes nothing; the next one of its kind does. A lock that the kernel lets go of with its holder
tells which directories are nobody's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_YOUNG_S: Final = 60.0  # one that is just being made has no lock yet


class Scratch:
    """A directory (0700) with a short path, since unix sockets stand in it. `close` removes it."""

    def __init__(self, kind: str) -> None:
        """kind: a word for its name. Removes what others of this kind left behind. Raises OSError."""
        self.path = Path(tempfile.mkdtemp(prefix=f"bartizan-{kind}-"))
        self._held = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._held, fcntl.LOCK_EX)
        _sweep(f"bartizan-{kind}-", before=os.fstat(self._held).st_mtime - _YOUNG_S)

    def close(self) -> None:
        """Remove it with all that it holds; once."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._held)


def _sweep(prefix: str, before: float) -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # somebody else's, held, or gone by now
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                about = os.fstat(held)
                if about.st_uid == os.getuid() and about.st_mtime < before:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(held)
