"""The audit writer: one Merkle log per process, group commit, fail closed (core.ports.AuditLog).

`append` writes one record and returns when ``write`` has returned; a single flusher
thread makes groups durable (256 records or 50 ms), signs a checkpoint each second and anchors it.
When neither the directory nor the spool takes a record, `append` raises AuditUnavailable and the
caller forwards nothing; it is tried again after a second. There is no mode that goes on without.
The flusher also ends a log that has become a whole segment, and goes on in another.

Which log is written is `record.place`'s matter; when one ends, `record.rotation`'s; what a record says, `record.record`'s.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from firewall.core.errors import AuditUnavailable, BartizanError, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Ids, Receipt
from firewall.core.record_form import Filled
from firewall.record import segments
from firewall.record.digests import Digests
from firewall.record.log import Log, LogDamaged
from firewall.record.note import Signer, Verifier
from firewall.record.place import Ending, Place, wake_up
from firewall.record.record import (
    LOG_CHECKPOINT,
    LOG_CLOCK,
    LOG_CLOSE,
    LOG_OPEN,
    LOG_RECOVERED,
    LOG_SEALED,
)
from firewall.record.rotation import Rotation
from firewall.record.segments import SegmentSettings

GROUP_RECORDS: Final = 256
RETRY_S: Final = 1.0
CLOCK_JUMP_US: Final = 1_000_000
_BEGIN_BYTES: Final = 4096  # what the first records of another log take, and its files


@dataclass(frozen=True, slots=True)
class Settings:
    """Names, limits and pace of the audit log.

    deployment: prefix of every origin and name of the signing key, as a schema-less URL.
    spool: a second directory, on another volume, used while the first takes nothing.
    local_max: bytes of one audit directory; at this size it counts as a full disk.
    group_ms: how long records gather before one sync; whoever awaits `durable` ends the wait at once.
    """

    deployment: str = "bartizan.local"
    node: str = ""
    version: str = ""
    spool: Path | None = None
    local_max: int = 10 * 1024**3
    group_ms: int = 50
    checkpoint_s: float = 1.0
    anchor_s: float = 10.0
    segments: SegmentSettings = field(default_factory=SegmentSettings)


class AuditWriter:
    """One process's writer. Thread-safe. Starts one daemon thread; `close` ends it.

    directory: the audit directory, shared by all workers of the node.
    key: the node's Ed25519 audit key; older: public keys of earlier generations.
    hmac_key: secret from which each tenant's audit key is derived.
    on_fault: told a code when a directory fails or a log is found damaged (operators' log, metrics).

    Raises AuditUnavailable when no log can be opened at all.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        key: Ed25519PrivateKey,
        clock: Clock,
        ids: Ids,
        *,
        hmac_key: bytes,
        settings: Settings | None = None,
        older: tuple[Ed25519PublicKey, ...] = (),
        on_fault: Callable[[str, str], None] | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._local_max = self._settings.local_max
        self._clock, self._ids = clock, ids
        self._lock = threading.Lock()
        self.hmac = Digests(hmac_key).hmac  # of AuditLog, without a frame between
        self._on_fault = on_fault or (lambda _code, _detail: None)
        name = f"{self._settings.deployment}/audit"
        self._signer = Signer(name, key)
        self._known = tuple(Verifier.of(name, k) for k in older)
        self._wake, self._full = threading.Event(), threading.Event()
        self._pending = 0
        self._stopping = False
        self._appended = self._refused = 0
        self._completed: Log | None = None  # whose records `_completion` is part of
        self._completion: JSONObject = {}
        self._rotation = Rotation(
            self._settings.segments,
            clock,
            ids,
            lock=self._lock,
            ready=self._can_switch,
            switch=self._switch,
            append=self._append_in,
            on_fault=self._on_fault,
        )
        self._offset_us = self._clock_offset()
        folders = [Path(directory)] + ([self._settings.spool] if self._settings.spool else [])
        self._places = [
            Place(folder, self._signer, self._known, clock, self._settings.node, self._on_fault) for folder in folders
        ]
        self._place = self._places[0]
        self._log: Log | None = None
        with self._lock:
            self._choose()
        self._thread = threading.Thread(target=self._run, name="audit-flush", daemon=True)
        self._thread.start()

    @property
    def vkey(self) -> str:
        """Return the verifier key that `audit verify` wants."""
        return self._signer.verifier.vkey()

    @property
    def log_id(self) -> str:
        """Return the id of the log that is being written."""
        return self._place.log_id

    def append(self, record: JSONObject | Filled) -> Receipt:
        """Write one record and return after its ``write``; adds v, uid, seq, log, time_us, node, ver.

        record: no floats, ASCII keys (`record.validate_record`); or a form of one. Raises AuditUnavailable:
        audit_write, audit_full, record_invalid, record_too_long (65,535 bytes).
        """
        with self._lock:
            log = self._log
            if log is None:
                log = self._choose()
            if log is not self._completed:
                self._complete(log)
            place, index, time_us = self._place, log.size, self._clock.now_us()
            uid = f"{place.log_id}.{index}"
            if isinstance(record, Filled):
                form, values = record
                entry = form.entry(values, self._completion, uid, index, time_us)
            else:
                entry = self._encoded(record, uid, index, time_us)
            try:
                if log.bytes + place.others + len(entry) > self._local_max:
                    raise OSError(28, "audit.local_max")
                log.append(entry)
            except OSError as error:
                self._failed(place, type(error).__name__)
                return self._write_elsewhere(record)
            except Malformed:
                raise self._too_long() from None
            self._appended += 1
            pending = self._pending = self._pending + 1
            if pending == 1:
                self._wake.set()
            elif pending == GROUP_RECORDS:
                self._full.set()
            return Receipt(uid, index)

    def append_all(self, records: Sequence[JSONObject]) -> list[Receipt]:
        """As `append` for records that are there together, in order, at the price of one ``write``.

        Raises AuditUnavailable where the log that is being written does not take them all; some of them may
        stand in it then. Nothing is tried elsewhere: `append` does that, one by one.
        """
        with self._lock:
            log = self._log
            if log is None:
                log = self._choose()
            try:
                return self._write(log, *records)
            except OSError as error:
                self._failed(self._place, type(error).__name__)
                raise AuditUnavailable("audit_write", type(error).__name__) from error

    async def durable(self, receipt: Receipt) -> None:
        """Return when ``fdatasync`` covers the record. Raises AuditUnavailable when it never will."""
        loop = asyncio.get_running_loop()
        with self._lock:
            log_id = receipt.uid.partition(".")[0]
            of = next((place for place in self._places if place.writes(log_id)), None)
            if of is None:
                raise AuditUnavailable("audit_write", "the record's log was given up")
            waiters = of.waiting(log_id, receipt.index)
            if waiters is None:
                return
            future: asyncio.Future[None] = loop.create_future()
            waiters.append((receipt.index, loop, future))
            self._full.set()
            self._wake.set()
        await future

    def stats(self) -> dict[str, int | float]:
        """Return figures for telemetry: records, refused, lag (records not yet durable), bytes, checkpoint age (s)."""
        with self._lock:
            log, place = self._log, self._place
            return {
                "appended": self._appended,
                "refused": self._refused,
                "lag": log.size - place.synced if log else 0,
                "bytes": log.bytes + place.others if log else 0,
                "used": (log.bytes + place.others) / self._local_max if log else 1.0,
                "checkpoint_age_s": time.monotonic() - place.checkpoint_at
                if log and log.size > log.signed.size
                else 0.0,
                "spooling": int(place is not self._places[0]),
                "writable": int(log is not None),
            }

    def close(self) -> None:
        """Flush, sign, anchor the end of every log, stop the thread. Idempotent."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        self._full.set()
        self._wake.set()
        self._thread.join(10)
        for place in self._places:
            if place.log is None:
                continue
            try:
                self._flush(place, sign=True)
                place.anchor.append(LOG_CLOSE, place.log.signed)
            except (OSError, LogDamaged) as error:
                self._on_fault("audit_close", type(error).__name__)
            with self._lock:
                place.log.close()
                place.log = None
        self._log = None

    # -- writing (the lock is held) ------------------------------------------------------------------

    def _write(self, log: Log, *records: JSONObject) -> list[Receipt]:
        """Write some records, all of them or none of those that share a bundle. Raises OSError, AuditUnavailable."""
        place, time_us = self._place, self._clock.now_us()
        if log is not self._completed:
            self._complete(log)
        receipts = [Receipt(f"{place.log_id}.{log.size + n}", log.size + n) for n in range(len(records))]
        entries = [
            self._encoded(record, receipt.uid, receipt.index, time_us)
            for record, receipt in zip(records, receipts, strict=True)
        ]
        if log.bytes + place.others + sum(map(len, entries)) > self._local_max:
            raise OSError(28, "audit.local_max")
        try:
            log.append_all(entries)
        except Malformed:
            raise self._too_long() from None
        self._appended += len(entries)
        before, self._pending = self._pending, self._pending + len(entries)
        if not before:
            self._wake.set()
        if before < GROUP_RECORDS <= self._pending:
            self._full.set()
        return receipts

    def _append_in(self, place: Place, record: JSONObject) -> None:
        """Write a record about a place's own segments there: from another directory it would name what is not there."""
        with self._lock:
            log = self._log
            if log is None or place is not self._place:
                raise AuditUnavailable("audit_write", "another directory is written to")
            try:
                self._write(log, record)
            except OSError as error:
                self._failed(place, type(error).__name__)
                raise AuditUnavailable("audit_write", type(error).__name__) from error

    def _too_long(self) -> AuditUnavailable:
        self._refused += 1
        return AuditUnavailable("record_too_long")

    def _complete(self, log: Log) -> None:
        """Make what every record of a log is completed by; its own uid, seq and time are filled in."""
        own: JSONObject = {"uid": "", "seq": 0, "time_us": 0}
        self._completion = {**own, "log": log.origin, "node": self._settings.node, "ver": self._settings.version}
        self._completed = log

    def _encoded(self, record: JSONObject, uid: str, index: int, time_us: int) -> bytes:
        try:
            return orjson.dumps(
                {"v": 1, **record, **self._completion, "uid": uid, "seq": index, "time_us": time_us},
                option=orjson.OPT_SORT_KEYS,
            )
        except TypeError:
            self._refused += 1
            raise AuditUnavailable("record_invalid") from None

    def _write_elsewhere(self, record: JSONObject | Filled) -> Receipt:
        """Try the other directory, at once; refuse when there is none."""
        log = self._choose()
        try:
            return self._write(log, record.record() if isinstance(record, Filled) else record)[0]
        except OSError as error:
            self._failed(self._place, type(error).__name__)
            self._refused += 1
            raise AuditUnavailable("audit_write", type(error).__name__) from error

    def _failed(self, place: Place, reason: str) -> None:
        place.failed_at = time.monotonic()
        self._log = None
        if place.log is not None and place.log.broken:
            place.give_up(AuditUnavailable("audit_write", reason))
        self._on_fault("audit_write", reason)

    def _choose(self) -> Log:
        """Return the first directory's log that did not fail within a second; raise AuditUnavailable when none is left."""
        if self._stopping:
            raise AuditUnavailable("audit_closed")
        reason = "every directory failed a moment ago"
        for place in self._places:
            if time.monotonic() - place.failed_at < RETRY_S:
                continue
            try:
                if place.log is None:
                    self._open(place)
                log = place.log
                if log is not None:
                    self._place, self._log = place, log
                    return log
            except (OSError, BartizanError) as error:
                reason = error.code if isinstance(error, BartizanError) else type(error).__name__
                place.failed_at = time.monotonic()
                self._on_fault("audit_open", reason)
        self._refused += 1
        raise AuditUnavailable("audit_write", reason)

    def _open(self, place: Place) -> None:
        log = place.open(self._ids)
        self._place = place
        note: JSONObject = {"phase": "note", "size": log.size}
        if log.dropped:
            self._write(log, {**note, "kind": LOG_RECOVERED, "dropped_bytes": log.dropped})
        self._write(log, {**note, "kind": LOG_OPEN})
        while place.sealed:
            self._write(log, segments.ended(LOG_SEALED, *place.sealed[0]))
            del place.sealed[0]

    # -- the flusher thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            if self._wake.wait(self._settings.checkpoint_s):
                self._full.wait(self._settings.group_ms / 1000)
            self._wake.clear()
            self._full.clear()
            for place in self._places:
                if place.log is None:
                    continue
                try:
                    self._tick(place)
                except (OSError, LogDamaged) as error:
                    self._give_up(place, type(error).__name__)
            self._watch_clock()
            self._return_home()
            self._rotation.turn(self._place)

    def _tick(self, place: Place) -> None:
        now = time.monotonic()
        if now - place.checkpoint_at < self._settings.checkpoint_s:
            self._flush(place)
        else:
            place.checkpoint_at = now
            self._flush(place, sign=True)
            log = place.log
            if (
                log is not None
                and log.signed.size > place.anchored
                and now - place.anchor_at >= self._settings.anchor_s
            ):
                place.anchor_at = now
                place.anchor.append(LOG_CHECKPOINT, log.signed)
                place.anchored = log.signed.size

    def _flush(self, place: Place, *, sign: bool = False) -> None:
        """Make what is in a place's log durable. sign: and sign a checkpoint over just that. Raises OSError."""
        log = place.log
        if log is not None:
            log.grow()  # most of the tree's work, while others append
        with self._lock:
            log = place.log
            if log is None:
                return
            if place is self._place:
                self._pending = 0
            edge = log.edge() if sign and log.size > log.signed.size else None
            begun = log.begin_sync() if log.size != place.synced else None
        if begun is not None:
            log.finish_sync(begun)
            with self._lock:
                if place.log is not log:
                    return  # given up meanwhile: who waits here now waits for another log's records
                place.synced = begun.size
                done = [w for w in place.waiters if w[0] < begun.size]
                place.waiters = [w for w in place.waiters if w[0] >= begun.size]
            wake_up(done, None)
        if edge is not None and place.log is log:
            log.sign(edge)

    def _can_switch(self, place: Place) -> bool:
        """Return whether the place is written to, and has room for the first records of another log."""
        with self._lock:
            log = place.log
            if place is not self._place or log is None or self._log is not log:
                return False
            return log.bytes + place.others + _BEGIN_BYTES <= self._local_max

    def _switch(self, place: Place, log_id: str, log: Log) -> Ending | None:
        """Write the first record of the next log and go on there. None: everything is as it was."""
        with self._lock:
            if place is not self._place or place.log is None or self._log is not place.log:
                return None
            before = place.log_id
            place.switch(log_id, log)
            try:
                self._write(log, segments.opening(before))
            except (OSError, BartizanError) as error:
                place.switch_back()
                self._on_fault("audit_rotate", type(error).__name__)
                return None
            self._log = log
            return place.ending

    def _give_up(self, place: Place, reason: str) -> None:
        """A failed sync leaves unknown bytes on disk: end this log for good."""
        with self._lock:
            if place is self._place:
                self._log = None
            place.give_up(AuditUnavailable("audit_write", reason))
        self._on_fault("audit_sync", reason)

    def _return_home(self) -> None:
        """While spooling, go back to the first directory once it can be written again."""
        home = self._places[0]
        with self._lock:
            if self._place is home or self._stopping or time.monotonic() - home.failed_at < RETRY_S:
                return
            away, log = self._place, self._log
            try:
                if home.log is None:
                    self._open(home)
                self._place = home
                if home.log is not None:
                    self._write(home.log, {"v": 1, "kind": LOG_OPEN, "phase": "note", "size": home.log.size})
                    self._log = home.log
                    return
            except (OSError, BartizanError):
                home.failed_at = time.monotonic()
            self._place, self._log = away, log

    def _watch_clock(self) -> None:
        offset = self._clock_offset()
        jump = offset - self._offset_us
        if abs(jump) > CLOCK_JUMP_US:
            self._offset_us = offset
            try:
                self.append({"v": 1, "kind": LOG_CLOCK, "phase": "note", "jump_us": jump})
            except AuditUnavailable:
                return

    def _clock_offset(self) -> int:
        return self._clock.now_us() - self._clock.monotonic_ns() // 1000
