"""The anchor log: which logs exist in a directory, and how far each had come.

Its entries are ``log.open``, ``log.checkpoint`` (size and root), ``log.close``, ``log.sealed``,
``log.retired`` and ``log.damaged`` of the other logs. Whoever deletes or rolls back a whole log contradicts it (operations reference
§1.4). An entry that the anchor log's own checkpoint does not cover may be anybody's: it can ask for records, and
excuses none. Every worker of the node appends to it, rarely: it is opened under its lock for each entry.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import orjson

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock
from firewall.record.log import Log, Remembered, iter_bundles
from firewall.record.note import Checkpoint, Signer, Verifier, open_note
from firewall.record.record import LOG_CHECKPOINT, LOG_CLOSE, LOG_OPEN, LOG_RETIRED, LOG_SEALED, LOG_UNSIGNED

NAME: Final = "anchor"
SIZED: Final = frozenset({LOG_OPEN, LOG_CHECKPOINT, LOG_CLOSE, LOG_SEALED, LOG_RETIRED})  # they say size and root


@dataclass(frozen=True, slots=True)
class Anchored:
    """One entry about a log: its kind, the log's size and root (b"" when unknown), and when (µs since the epoch).

    then: of a sealed segment, the id of the log that goes on; after: of that log, the id of the segment. signed:
    whoever wrote the entry signed it as well.
    """

    kind: str
    origin: str
    size: int
    root: bytes
    time_us: int = 0
    then: str = ""
    after: str = ""
    signed: bool = True


@dataclass(slots=True)
class Known:
    """What the anchor log says of one log: its largest size, when it was begun, how it ended.

    sealed, retired: the entry that said so, None while nothing did. after: the id of the segment that it goes on from.
    """

    size: int = 0
    begun_us: int = 0
    sealed: Anchored | None = None
    retired: Anchored | None = None
    after: str = ""


class Anchor:
    """Appends to the anchor log of an audit directory."""

    def __init__(self, directory: Path, signer: Signer, known: tuple[Verifier, ...], clock: Clock, node: str) -> None:
        self._directory = directory / NAME
        self._origin = f"{signer.verifier.name}/{NAME}"
        self._signer, self._known, self._clock, self._node = signer, known, clock, node
        self._before: Remembered | None = None

    def append(self, kind: str, checkpoint: Checkpoint, **more: str | int) -> None:
        """Write one entry, make it durable and sign. Raises LogDamaged, OSError."""
        # Every worker appends to it every few seconds, for years: each reads what came since it last looked.
        log = Log(self._directory, self._origin, self._signer, self._known, wait=True, before=self._before)
        try:
            if log.size > log.signed.size:  # a crash left it, or somebody else did: our signature would vouch for it
                self._write(log, LOG_UNSIGNED, Checkpoint(self._origin, log.signed.size, log.signed.root))
            self._write(log, kind, checkpoint, **more)
            log.sync()
            log.sign(log.edge())
            self._before = log.remember() or self._before
        finally:
            log.close()

    def _write(self, log: Log, kind: str, checkpoint: Checkpoint, **more: str | int) -> None:
        entry: JSONObject = {
            "v": 1,
            "kind": kind,
            "log": self._origin,
            "seq": log.size,
            "time_us": self._clock.now_us(),
            "node": self._node,
            "of": checkpoint.origin,
            "size": checkpoint.size,
            "root": base64.b64encode(checkpoint.root).decode(),
            **more,
        }
        log.append(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS))

    def known(self) -> dict[str, Known]:
        """Return what is known of each log, by origin."""
        found: dict[str, Known] = {}
        for one in anchored(self._directory, (self._signer.verifier, *self._known)):
            log = found.setdefault(one.origin, Known())
            if one.kind in SIZED:
                log.size = max(one.size, log.size)
                log.begun_us = log.begun_us or one.time_us
            if one.kind == LOG_OPEN and one.signed:
                log.after = one.after or log.after
            if one.kind == LOG_SEALED and one.signed:
                log.sealed = one
            elif one.kind == LOG_RETIRED and one.signed:
                log.retired = one
        return found


def anchored(directory: Path, verifiers: Sequence[Verifier]) -> list[Anchored]:
    """Return the anchor log's entries in order; unreadable ones are skipped (`verify` names them)."""
    # Before the entries: those that come between the two are taken for unsigned, and never the other way round.
    signed = _signed(directory, verifiers)
    found: list[tuple[int, Anchored]] = []
    place = -1
    for _, bundle, _ in iter_bundles(directory):
        for entry in bundle:
            place += 1
            try:
                record = orjson.loads(entry)
                one = Anchored(
                    record["kind"],
                    record["of"],
                    int(record["size"]),
                    base64.b64decode(record["root"]),
                    int(record["time_us"]),
                    str(record.get("next", "")),
                    str(record.get("after", "")),
                    place < signed,
                )
            except (ValueError, KeyError, TypeError):
                continue
            found.append((place, one))
    out: list[Anchored] = []
    doubted = place + 1  # entries from here on to the last one seen were not signed by who wrote them
    until = 0
    for place, one in reversed(found):
        if one.kind == LOG_UNSIGNED:
            if one.signed and not doubted <= place < until:
                doubted, until = one.size, place
            continue
        out.append(replace(one, signed=False) if doubted <= place < until else one)
    return out[::-1]


def _signed(directory: Path, verifiers: Sequence[Verifier]) -> int:
    """Return how many entries the anchor log's checkpoint covers; 0 where it has none that holds."""
    try:
        return Checkpoint.parse(open_note((directory / "checkpoint").read_text(), verifiers)).size
    except (OSError, ValueError, Malformed):
        return 0
