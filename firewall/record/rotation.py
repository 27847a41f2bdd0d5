"""When a log ends and another goes on, step by step as `record.segments` says; for the flusher's thread.

The writer's lock is held for what changes the writer's own state only: nobody who appends waits for a sync, a
signature or the anchor log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from firewall.core.errors import AuditUnavailable, BartizanError
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Ids
from firewall.record import segments
from firewall.record.log import Log
from firewall.record.place import Ending, Place, wake_up
from firewall.record.record import LOG_RETIRED, LOG_SEALED
from firewall.record.segments import SegmentSettings

ROTATE_AGAIN_S: Final = 30.0
RETIRE_EVERY_S: Final = 3_600.0
MEASURE_EVERY_S: Final = 60.0


class Switch(Protocol):
    """Writes the first record of the next log and goes on there; None: everything is as it was."""

    def __call__(self, place: Place, log_id: str, log: Log) -> Ending | None:
        """Called without the lock."""


class Rotation:
    """One writer's rotation. Not thread-safe: one thread calls `turn`.

    append: writes a record about a place's own segments, into that place's log and no other. Raises AuditUnavailable.
    ready: whether another log could be gone on in now; without that none is begun, which would stay behind empty.
    on_fault: told audit_rotate, audit_sync, audit_retire and the kind of error; the present log then goes on.
    """

    def __init__(
        self,
        settings: SegmentSettings,
        clock: Clock,
        ids: Ids,
        *,
        lock: threading.Lock,
        ready: Callable[[Place], bool],
        switch: Switch,
        append: Callable[[Place, JSONObject], Any],
        on_fault: Callable[[str, str], None],
    ) -> None:
        self._settings, self._clock, self._ids = settings, clock, ids
        self._lock, self._ready, self._switch = lock, ready, switch
        self._append, self._on_fault = append, on_fault
        self._rotate_at = self._retire_at = 0.0
        self._measure_at = time.monotonic() + MEASURE_EVERY_S

    def turn(self, place: Place) -> None:
        """Do what is due for the place that is written to."""
        now = time.monotonic()
        if now >= self._rotate_at and segments.is_due(place, self._settings, self._clock.now_us()):
            self._rotate_at = now if self._rotate(place) else now + ROTATE_AGAIN_S
        if now >= self._retire_at:
            self._retire_at = now + RETIRE_EVERY_S
            self._seal_cut(place)
            if self._retire(place):
                self._measure_at = now
        if now >= self._measure_at:
            self._measure_at = now + MEASURE_EVERY_S
            place.measure()

    def _rotate(self, place: Place) -> bool:
        if not self._ready(place):
            self._on_fault("audit_rotate", "not_ready")
            return False
        try:
            log_id, log = place.begin(self._ids)
        except (OSError, BartizanError) as error:
            self._on_fault("audit_rotate", type(error).__name__)
            return False
        ending = self._switch(place, log_id, log)
        if ending is None:
            log.close()
            return False
        try:
            self._end(place, ending)
        finally:
            ending.log.close()
        return True

    def _end(self, place: Place, ending: Ending) -> None:
        """Make a segment durable, sign its whole, and say twice that it is sealed."""
        old = ending.log
        try:
            old.sync()  # nobody writes to it any more
        except OSError as error:
            with self._lock:
                ending.state, waiters = "lost", ending.waiters
            wake_up(waiters, AuditUnavailable("audit_write", type(error).__name__))
            self._on_fault("audit_sync", type(error).__name__)
            return
        with self._lock:
            ending.state, waiters = "synced", ending.waiters
        wake_up(waiters, None)
        try:
            old.sign(old.edge())
            place.anchor.append(LOG_SEALED, old.signed, next=place.log_id)
            self._append(place, segments.ended(LOG_SEALED, ending.log_id, old.signed))
        except (OSError, BartizanError) as error:
            self._on_fault("audit_rotate", type(error).__name__)

    def _seal_cut(self, place: Place) -> None:
        """Finish what another worker began, that was ended in the middle and did not come back."""
        try:
            for log_id, checkpoint in place.seal_cut():
                self._append(place, segments.ended(LOG_SEALED, log_id, checkpoint))
        except (OSError, BartizanError) as error:
            self._on_fault("audit_rotate", type(error).__name__)

    def _retire(self, place: Place) -> bool:
        try:
            retired = segments.retire(place, self._settings, self._clock.now_us())
            for log_id, checkpoint in retired:
                self._append(place, segments.ended(LOG_RETIRED, log_id, checkpoint))
        except (OSError, BartizanError) as error:
            self._on_fault("audit_retire", type(error).__name__)
            return False
        return bool(retired)
