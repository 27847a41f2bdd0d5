"""Lines on stderr that nothing can wait for: neither the loop that says them nor the watchdog that ends it.

`sys.stderr` has a lock, and whoever writes to a full pipe keeps it. A client that never reads our stderr, and a
program behind us that gives us much to say, would stand the guard still between them; so what nobody reads is left
out, and counted. A signal's handler may run while the lock is held, too.
"""

from __future__ import annotations

import os
import select
import sys
from typing import Final

SEPARATE: Final = "…\n"


class Stderr:
    """Writes whole texts to a descriptor, at once or not at all. For any thread."""

    def __init__(self, descriptor: int | None = None) -> None:
        """descriptor: of a pipe, a terminal, a file; None: our stderr, if we were started with one."""
        # Without one the number 2 is the next file's that was opened, and Python has None in its place.
        own = sys.stderr.fileno() if descriptor is None and sys.stderr is not None else -1
        self._descriptor = _unwaiting(own if descriptor is None else descriptor)
        self._torn = False
        self.unread = 0  # texts that were left out or torn

    def write(self, text: str) -> bool:
        """Return whether all of the text was taken. Never waits; at most a text longer than a pipe's page is torn."""
        data = (SEPARATE if self._torn else "").encode() + text.encode("utf-8", "backslashreplace")
        at = 0
        while at < len(data) and self._writable():
            try:
                # A pipe that is said to be writable takes this much without waiting: POSIX, PIPE_BUF.
                at += os.write(self._descriptor, data[at : at + select.PIPE_BUF])
            except OSError:
                break
        whole = at == len(data)
        self._torn = (at > 0 or self._torn) and not whole
        self.unread += not whole
        return whole

    def _writable(self) -> bool:
        if self._descriptor < 0:
            return False
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(0))


def _unwaiting(descriptor: int) -> int:
    """Return a descriptor of a terminal that never waits, of anything else the same.

    A terminal that is said to be writable takes some bytes, not as many as a pipe does: a write waits for the rest. Not
    to wait is a property of what was opened, which is the shell's as well; so the terminal is opened once more, for us.
    """
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # no terminal, or one that has no name here
        return descriptor
