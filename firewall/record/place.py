"""One directory that can hold audit logs: which log to go on in, which to leave alone.

A restarted worker goes on in a log that nobody holds. One that contradicts its own checkpoint or the
anchor log is never continued, since a log must not sign two histories: it stays as evidence, the
anchor log says so, and a new one is begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from firewall.core.errors import BartizanError
from firewall.core.ports import Clock, Ids
from firewall.record.anchor import Anchor
from firewall.record.log import Log, LogBusy, LogDamaged, write_whole
from firewall.record.note import Checkpoint, Signer, Verifier
from firewall.record.record import LOG_DAMAGED, LOG_OPEN

Waiter = tuple[int, asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Place:
    """A directory, and the log that this process writes in it. Not thread-safe: its owner serialises calls.

    failed_at: monotonic seconds of the last failure. others: bytes of the directory's other files.
    synced: entries known to be on disk. anchored: size in the last entry of the anchor log.
    """

    def __init__(
        self,
        directory: Path,
        signer: Signer,
        known: tuple[Verifier, ...],
        clock: Clock,
        node: str,
        on_fault: Callable[[str, str], None],
    ) -> None:
        self.directory = directory
        self.anchor = Anchor(directory, signer, known, clock, node)
        self._signer, self._known, self._on_fault = signer, known, on_fault
        self.log: Log | None = None
        self.log_id = ""
        self.failed_at = -1e9
        self.others = self.synced = self.anchored = 0
        self.checkpoint_at = self.anchor_at = 0.0
        self.waiters: list[Waiter] = []

    def open(self, ids: Ids) -> Log:
        """Open a log that nobody holds, or begin one; the anchor log knows of it before its first record.

        Raises LogDamaged when the anchor log itself is damaged; OSError.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_id, log = self._resume(self.anchor.latest())
        while log is None:
            log_id = ids.new("log")
            # A worker that starts at the same moment may find the new directory before it is locked, and take it.
            with contextlib.suppress(LogBusy):
                log = Log(self.directory / log_id, self._origin(log_id), self._signer, self._known)
        try:
            # On disk first: an anchored size that a power cut takes back would look like a rollback.
            log.sync()
            # Signed first: between the two, the log's own checkpoint would look older than the anchor says.
            log.sign(log.edge())
            self.anchor.append(LOG_OPEN, Checkpoint(log.origin, log.size, log.edge().root()), id=log_id)
            keys = "".join(f"{v.vkey()}\n" for v in (self._signer.verifier, *self._known))
            # A convenience: keep your own copy elsewhere.
            write_whole(self.directory / "vkey", keys.encode(), shared=True)
            self.others = _bytes_below(self.directory) - log.bytes
        except BaseException:
            log.close()
            raise
        self.log, self.log_id, self.synced, self.anchored = log, log_id, log.size, log.size
        self.anchor_at = time.monotonic()
        return log

    def give_up(self, error: BartizanError) -> None:
        """End the log without another byte, and tell whoever waits for it."""
        log, self.log = self.log, None
        waiters, self.waiters = self.waiters, []
        self.failed_at = time.monotonic()
        if log is not None:
            log.close()
        wake_up(waiters, error)

    def _resume(self, sizes: dict[str, int]) -> tuple[str, Log | None]:
        for folder in sorted(self.directory.glob("log_*")):
            if (folder / "damaged").exists():
                continue
            origin = self._origin(folder.name)
            try:
                log = Log(folder, origin, self._signer, self._known)
            except LogBusy:
                continue
            except LogDamaged as error:
                self._set_aside(folder, error.code)
                continue
            if log.size < sizes.get(origin, 0):
                log.close()
                self._set_aside(folder, "log_rolled_back")
                continue
            return folder.name, log
        return "", None

    def _set_aside(self, folder: Path, code: str) -> None:
        self.anchor.append(LOG_DAMAGED, Checkpoint(self._origin(folder.name), 0, b""), code=code)
        (folder / "damaged").write_text(f"{code}\n")
        self._on_fault(code, folder.name)

    def _origin(self, log_id: str) -> str:
        return f"{self._signer.verifier.name}/{log_id}"


def _bytes_below(directory: Path) -> int:
    """Return the size of all files there. Other workers seal and rename theirs meanwhile: what is gone counts nothing."""
    size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(folder, name)).st_size
    return size


def wake_up(waiters: list[Waiter], error: BartizanError | None) -> None:
    """Settle futures of other threads' event loops: with a result, or with the error."""

    def settle(future: asyncio.Future[None]) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    for _, loop, future in waiters:
        try:
            loop.call_soon_threadsafe(settle, future)
        except RuntimeError:  # the loop has ended: nobody waits any more
            continue
