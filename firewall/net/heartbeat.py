"""A worker's side of its parent: its sign of life, what it knows of the other workers, and when to end.

What all of them share is a piece of mapped memory without a name (`Board`), and a secret by which they know each
other (`net.channel`): it is in no file, no environment and no command line.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from typing import Final

from firewall.core.ports import Clock
from firewall.net.board import Board
from firewall.net.signals import ending

_READY_LOOK_S: Final = 0.05
_SAY_S: Final = 0.05
_SAY_LOOK_S: Final = 0.001


class Heartbeat:
    """A worker's line to its parent."""

    def __init__(self, board: Board, secret: bytes, index: int, clock: Clock, parent: int) -> None:
        """parent: its process id; when another one is the parent, it is gone."""
        self._board = board
        self._secret = secret
        self._index = index
        self._clock = clock
        self._parent = parent

    @property
    def secret(self) -> bytes:
        """32 bytes that the workers of one parent share and nobody else knows."""
        return self._secret

    def beat(self) -> bool:
        """Say that the loop turns; False when the parent is gone and the worker should end."""
        self._board.beats[self._index] = self._clock.monotonic_ns()
        return os.getppid() == self._parent

    def ready(self) -> None:
        """Say that this worker listens."""
        self._board.ready[self._index] = 1

    async def all_ready(self) -> None:
        """Return when every worker listens."""
        while not all(self._board.ready):  # noqa: ASYNC110  other processes: nothing here to wait on
            await asyncio.sleep(_READY_LOOK_S)

    def first(self, what: str) -> bool:
        """Return whether nobody said this before (one of `board.SAID`); whoever asks says it now.

        The lock is the kernel's and ends with its holder. Where somebody holds it for long, it is being said.
        """
        until = time.monotonic() + _SAY_S
        while True:
            try:
                fcntl.lockf(self._board.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > until:
                    return False
                time.sleep(_SAY_LOOK_S)
        try:
            return self._board.say(what)
        finally:
            fcntl.lockf(self._board.descriptor, fcntl.LOCK_UN)


async def until_told(heartbeat: Heartbeat | None = None, *, beat_s: float = 0.25) -> None:
    """Return when a signal asks for the end, or when the parent is gone; beats while it waits.

    For the main coroutine of a worker, or of a single process (no heartbeat).
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in ending():
        loop.add_signal_handler(number, told.set)
    if heartbeat is None:
        await told.wait()
        return
    while heartbeat.beat():
        try:
            async with asyncio.timeout(beat_s):
                await told.wait()
                return
        except TimeoutError:
            continue
