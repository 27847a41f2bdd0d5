"""Segments: a log that has become long or old ends, and another goes on where it ended.

A segment is a whole log of its own, with its own checkpoint. What joins them: the anchor log says that one is sealed,
at which size and root, and which log goes on (``next``); the next log says the same in a record of its own
(``log.sealed``), which stands under its own root. In this order, so that a crash at any point leaves files that hold:

1. the new log is made, and the anchor log knows of it;
2. its first record goes in, and from here on every other one; the old log ends;
3. the old log is synced and its whole is signed;
4. the anchor log says that it is sealed: it is never continued;
5. the new log says so too.

A crash before 2 leaves a log that may be continued later, as after any crash. One between 2 and 4 leaves a segment
that nobody sealed, with another log going on from it: whoever opens a log in the directory next, or looks for what to
retire, takes steps 3 to 5 (`Place.seal_cut`). Everything but step 2 happens outside the writer's lock.

Sealed segments can be let go of, when that is configured (`retire`). What stays of one is its signed checkpoint, and
the anchor log's word for its size, its root and the time; without that word, missing records are a contradiction.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from firewall.core.jsonvalue import JSONObject
from firewall.record.anchor import Known
from firewall.record.note import Checkpoint
from firewall.record.place import Place
from firewall.record.record import LOG_OPEN, LOG_RETIRED, LOG_SEALED

_HOUR_US: Final = 3_600 * 1_000_000
_DAY_US: Final = 24 * _HOUR_US
_IDLE: Final = 3  # records of a log in which nothing happened: opened, the one before sealed, and one to spare
_GONE: Final = "retired"  # what is being deleted, under a name that no reader looks for


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """bytes: of the entries of one segment, at which it ends. hours: its age, at which it ends; 0: never.

    retain_days: age of a sealed segment at which its records are deleted; 0: never.
    """

    bytes: int = 1024**3
    hours: int = 24
    retain_days: int = 0


def is_due(place: Place, settings: SegmentSettings, now_us: int) -> bool:
    """Return whether a place's log has become a whole segment."""
    log = place.log
    if log is None or log.size <= _IDLE:
        return False
    return log.bytes >= settings.bytes or (settings.hours > 0 and now_us - place.begun_us >= settings.hours * _HOUR_US)


def opening(after: str) -> JSONObject:
    """Return the first record of a segment."""
    return {"kind": LOG_OPEN, "phase": "note", "size": 0, "after": after}


def ended(kind: str, log_id: str, checkpoint: Checkpoint) -> JSONObject:
    """Return the record that says how a segment ended; kind: sealed or retired."""
    root = base64.b64encode(checkpoint.root).decode()
    return {"kind": kind, "phase": "note", "segment": log_id, "size": checkpoint.size, "root": root}


def link_of(record: JSONObject) -> tuple[str, int, bytes] | None:
    """Return what a record says of how a segment ended (log id, size, root), None when it says nothing of the kind."""
    if record.get("kind") not in (LOG_SEALED, LOG_RETIRED):
        return None
    segment, size, root = record.get("segment"), record.get("size"), record.get("root")
    if not isinstance(segment, str) or not isinstance(size, int) or not isinstance(root, str):
        return None
    try:
        return segment, size, base64.b64decode(root, validate=True)
    except ValueError:
        return None


def retire(place: Place, settings: SegmentSettings, now_us: int) -> list[tuple[str, Checkpoint]]:
    """Let go of the records of segments that were sealed long enough ago; return what was retired now.

    The anchor log says so first; what a crash left in part is finished. Raises LogDamaged, OSError.
    """
    if settings.retain_days <= 0:
        return []
    done = []
    for origin, known in place.anchor.known().items():
        sealed = known.sealed
        if sealed is None or now_us - sealed.time_us < settings.retain_days * _DAY_US:
            continue
        folder = place.directory / origin.rpartition("/")[2]
        with _alone(folder) as held:
            if not held or not _has_records(folder):
                continue
            checkpoint = Checkpoint(origin, sealed.size, sealed.root)
            if _still(place, origin).retired is None:  # another worker may have been here
                place.anchor.append(LOG_RETIRED, checkpoint)
                done.append((folder.name, checkpoint))
            _delete(folder)
    return done


def _still(place: Place, origin: str) -> Known:
    return place.anchor.known().get(origin, Known())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Hold a segment's lock, as its writer did; yields whether it could be had."""
    try:
        handle = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _has_records(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("live", "tile", _GONE))


def _delete(folder: Path) -> None:
    """Delete a segment's records and hash tiles; its checkpoint stays."""
    gone = folder / _GONE
    if gone.exists():
        shutil.rmtree(gone)
    if (folder / "tile").exists():
        (folder / "tile").rename(gone)  # in one step: a reader sees all of them or none
        shutil.rmtree(gone)
    (folder / "live").unlink(missing_ok=True)
