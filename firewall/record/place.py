"""One directory that can hold audit logs: which log to go on in, which to leave alone.

A restarted worker goes on in a log that nobody holds. One that contradicts its own checkpoint or the
anchor log is never continued, since a log must not sign two histories: it stays as evidence, the
anchor log says so, and a new one is begun. Nor is one that was sealed: another goes on where it ended
(`record.segments`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from firewall.core.errors import BartizanError
from firewall.core.ports import Clock, Ids
from firewall.record.anchor import Anchor, Known
from firewall.record.log import Log, LogBusy, LogDamaged, write_whole
from firewall.record.note import Checkpoint, Signer, Verifier
from firewall.record.record import LOG_DAMAGED, LOG_OPEN, LOG_SEALED
from firewall.record.sizes import Sizes

Waiter = tuple[int, asyncio.AbstractEventLoop, "asyncio.Future[None]"]


@dataclass(slots=True)
class Ending:
    """A segment after its last record, until that is on disk: then ``synced``, or ``lost`` when that failed."""

    log_id: str
    log: Log
    begun_us: int
    waiters: list[Waiter] = field(default_factory=list)
    state: Literal["open", "synced", "lost"] = "open"


class Place:
    """A directory, and the log that this process writes in it. Not thread-safe: its owner serialises calls.

    failed_at: monotonic seconds of the last failure. others: bytes of the directory's other files.
    synced: entries known to be on disk. anchored: size in the last entry of the anchor log.
    begun_us: when the log was begun. ending: the segment before it, if this process wrote that. sealed: segments of
    others that `open` sealed, which the log has to say.
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
        self._signer, self._known, self._clock, self._on_fault = signer, known, clock, on_fault
        self.log: Log | None = None
        self.log_id = ""
        self.failed_at = -1e9
        self.others = self.synced = self.anchored = self.begun_us = 0
        self.ending: Ending | None = None
        self.sealed: list[tuple[str, Checkpoint]] = []
        self._written: set[str] = set()  # segments of ours; one whose sync failed is not for us to vouch for
        self._sizes = Sizes(directory)
        self.checkpoint_at = self.anchor_at = 0.0
        self.waiters: list[Waiter] = []

    def open(self, ids: Ids) -> Log:
        """Open a log that nobody holds, or begin one; the anchor log knows of it before its first record.

        Raises LogDamaged when the anchor log itself is damaged; OSError.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sealed += self.seal_cut()
        known = self.anchor.known()
        log_id, log = self._resume(known)
        if log is None:
            log_id, log = self._fresh(ids)
        self._introduce(log_id, log)
        self.log, self.log_id, self.synced, self.anchored = log, log_id, log.size, log.size
        before = known.get(log.origin)
        self.begun_us = before.begun_us if before is not None and before.begun_us else self._clock.now_us()
        self.measure()
        self.anchor_at = time.monotonic()
        return log

    def seal_cut(self) -> list[tuple[str, Checkpoint]]:
        """Seal the segments whose writer ended between going on in another log and saying so; return them.

        That is what a log with records says, by the anchor log's word that it goes on from a segment which nobody
        sealed. One that is being written is left alone: its writer is at it, or goes on there. Raises LogDamaged, OSError.
        """
        done = []
        known = self.anchor.known()
        for origin, after in known.items():
            segment = known.get(self._origin(after.after)) if after.after else None
            then = origin.rpartition("/")[2]
            if segment is None or segment.sealed is not None or after.after in self._written:
                continue
            if not _has_records(self.directory / then):
                continue  # nothing went on yet: it may be continued
            checkpoint = self._seal(after.after, then)
            if checkpoint is not None:
                done.append((after.after, checkpoint))
        return done

    def _seal(self, log_id: str, then: str) -> Checkpoint | None:
        folder = self.directory / log_id
        if (folder / "damaged").exists() or not (folder / "live").exists():
            return None
        try:
            log = Log(folder, self._origin(log_id), self._signer, self._known)
        except (LogBusy, LogDamaged):
            return None  # of a damaged one `_resume` says so
        try:
            # Looked at again while nobody else can write it: another worker may have sealed it a moment ago.
            before = self.anchor.known().get(log.origin, Known())
            if before.sealed is not None or log.size < before.size:
                return None
            log.sync()
            log.sign(log.edge())
            self.anchor.append(LOG_SEALED, log.signed, next=then)
            return log.signed
        finally:
            log.close()

    def measure(self) -> int:
        """Look how much the directory's other files take; return that. It may take milliseconds: hold no lock."""
        taken = self._sizes.total()
        self.others = max(0, taken - (self.log.bytes if self.log is not None else 0))
        return self.others

    def begin(self, ids: Ids) -> tuple[str, Log]:
        """Begin the segment that will follow the present one; nothing is written to it yet. Raises as `open`."""
        log_id, log = self._fresh(ids)
        self._introduce(log_id, log, after=self.log_id)
        return log_id, log

    def switch(self, log_id: str, log: Log) -> None:
        """Go on in another log; the present one is `ending` now."""
        assert self.log is not None
        self.ending, self.waiters = Ending(self.log_id, self.log, self.begun_us, self.waiters), []
        self.others += self.log.bytes
        self._written.add(self.log_id)
        self.log, self.log_id, self.synced, self.anchored = log, log_id, log.size, log.size
        self.begun_us = self._clock.now_us()

    def switch_back(self) -> None:
        """Undo `switch`, when the first record did not go into the new log."""
        assert self.ending is not None
        ending, self.ending = self.ending, None
        self.log, self.log_id, self.waiters = ending.log, ending.log_id, ending.waiters
        self.synced, self.anchored, self.begun_us = ending.log.signed.size, ending.log.signed.size, ending.begun_us
        self.others -= ending.log.bytes

    def writes(self, log_id: str) -> bool:
        """Return whether a log is the one that is written here, or the segment before it, and was not given up."""
        if self.log is not None and self.log_id == log_id:
            return True
        return self.ending is not None and self.ending.log_id == log_id and self.ending.state != "lost"

    def waiting(self, log_id: str, index: int) -> list[Waiter] | None:
        """Return who waits for the sync of such a log's records, None when this one is on disk."""
        if self.log is not None and self.log_id == log_id:
            return None if index < self.synced else self.waiters
        assert self.ending is not None
        return None if self.ending.state == "synced" else self.ending.waiters

    def _fresh(self, ids: Ids) -> tuple[str, Log]:
        while True:
            log_id = ids.new("log")
            # A worker that starts at the same moment may find the new directory before it is locked, and take it.
            with contextlib.suppress(LogBusy):
                return log_id, Log(self.directory / log_id, self._origin(log_id), self._signer, self._known)

    def _introduce(self, log_id: str, log: Log, **more: str) -> None:
        """Tell the anchor log of a log before this process writes to it."""
        try:
            # On disk first: an anchored size that a power cut takes back would look like a rollback.
            log.sync()
            # Signed first: between the two, the log's own checkpoint would look older than the anchor says.
            log.sign(log.edge())
            self.anchor.append(LOG_OPEN, Checkpoint(log.origin, log.size, log.edge().root()), id=log_id, **more)
            keys = "".join(f"{v.vkey()}\n" for v in (self._signer.verifier, *self._known))
            # A convenience: keep your own copy elsewhere.
            write_whole(self.directory / "vkey", keys.encode(), shared=True)
        except BaseException:
            log.close()
            raise

    def give_up(self, error: BartizanError) -> None:
        """End the log without another byte, and tell whoever waits for it."""
        log, self.log = self.log, None
        waiters, self.waiters = self.waiters, []
        self.failed_at = time.monotonic()
        if log is not None:
            log.close()
        wake_up(waiters, error)

    def _resume(self, known: dict[str, Known]) -> tuple[str, Log | None]:
        for folder in sorted(self.directory.glob("log_*")):
            origin = self._origin(folder.name)
            before = known.get(origin, Known())
            if (folder / "damaged").exists() or before.sealed is not None:
                continue
            try:
                log = Log(folder, origin, self._signer, self._known)
            except LogBusy:
                continue
            except LogDamaged as error:
                self._set_aside(folder, error.code)
                continue
            if log.size < before.size:
                log.close()
                self._set_aside(folder, "log_rolled_back")
                continue
            if self.anchor.known().get(origin, before).sealed is not None:
                log.close()  # sealed since we looked, by the worker that held it
                continue
            return folder.name, log
        return "", None

    def _set_aside(self, folder: Path, code: str) -> None:
        self.anchor.append(LOG_DAMAGED, Checkpoint(self._origin(folder.name), 0, b""), code=code)
        (folder / "damaged").write_text(f"{code}\n")
        self._on_fault(code, folder.name)

    def _origin(self, log_id: str) -> str:
        return f"{self._signer.verifier.name}/{log_id}"


def _has_records(folder: Path) -> bool:
    live = folder / "live"
    return (folder / "tile").exists() or (live.exists() and live.stat().st_size > 0)


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
