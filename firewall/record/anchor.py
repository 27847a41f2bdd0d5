"""The anchor log: which logs exist in a directory, and how far each had come.

Its entries are ``log.open``, ``log.checkpoint`` (size and root), ``log.close``, ``log.sealed``,
``log.retired`` and ``log.damaged`` of the other logs. Whoever deletes or rolls back a whole log contradicts it (operations reference
§1.4). Every worker of the node appends to it, rarely: it is opened under its lock for each entry.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock
from firewall.record.log import Log, Remembered, iter_bundles
from firewall.record.note import Checkpoint, Signer, Verifier
from firewall.record.record import LOG_CHECKPOINT, LOG_CLOSE, LOG_OPEN, LOG_RETIRED, LOG_SEALED

NAME: Final = "anchor"
SIZED: Final = frozenset({LOG_OPEN, LOG_CHECKPOINT, LOG_CLOSE, LOG_SEALED, LOG_RETIRED})  # they say size and root


@dataclass(frozen=True, slots=True)
class Anchored:
    """One entry about a log: its kind, the log's size and root (b"" when unknown), and when (µs since the epoch).

    then: of a sealed segment, the id of the log that goes on.
    """

    kind: str
    origin: str
    size: int
    root: bytes
    time_us: int = 0
    then: str = ""


@dataclass(slots=True)
class Known:
    """What the anchor log says of one log: its largest size, when it was begun, how it ended.

    sealed, retired: the entry that said so, None while nothing did.
    """

    size: int = 0
    begun_us: int = 0
    sealed: Anchored | None = None
    retired: Anchored | None = None


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
            log.sync()
            log.sign(log.edge())
            self._before = log.remember() or self._before
        finally:
            log.close()

    def known(self) -> dict[str, Known]:
        """Return what is known of each log, by origin."""
        found: dict[str, Known] = {}
        for one in anchored(self._directory):
            log = found.setdefault(one.origin, Known())
            if one.kind in SIZED:
                log.size = max(one.size, log.size)
                log.begun_us = log.begun_us or one.time_us
            if one.kind == LOG_SEALED:
                log.sealed = one
            elif one.kind == LOG_RETIRED:
                log.retired = one
        return found


def anchored(directory: Path) -> list[Anchored]:
    """Return the anchor log's entries in order; unreadable ones are skipped (`verify` names them)."""
    found = []
    for _, bundle, _ in iter_bundles(directory):
        for entry in bundle:
            try:
                record = orjson.loads(entry)
                found.append(
                    Anchored(
                        record["kind"],
                        record["of"],
                        int(record["size"]),
                        base64.b64decode(record["root"]),
                        int(record["time_us"]),
                        str(record.get("next", "")),
                    )
                )
            except (ValueError, KeyError, TypeError):
                continue
    return found
