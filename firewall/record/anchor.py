"""The anchor log: which logs exist in a directory, and how far each had come.

Its entries are ``log.open``, ``log.checkpoint`` (size and root), ``log.close``, ``log.sealed``,
``log.retired`` and ``log.damaged`` of the other logs. Whoever deletes or rolls back a whole log contradicts it (operations reference
§1.4). An entry that the anchor log's own checkpoint does not cover may be anybody's: it can ask for records, and
excuses none. Every worker of the node appends to it, rarely: it is opened under its lock for each entry. It only
grows, so who starts reads it from the newest `head` on, and finds the same.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock
from firewall.record import head as heads
from firewall.record.head import Head
from firewall.record.log import Log, LogDamaged, Remembered, iter_bundles
from firewall.record.merkle import Frontier, leaf_hash
from firewall.record.note import Checkpoint, Signer, Verifier, open_note
from firewall.record.record import LOG_CHECKPOINT, LOG_CLOSE, LOG_OPEN, LOG_RETIRED, LOG_SEALED, LOG_UNSIGNED
from firewall.record.tiles import WIDTH

NAME: Final = "anchor"
HEAD_EVERY: Final = 16  # bundles between two heads: what a start reads at most, beside the newest
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
        self._head_at = -HEAD_EVERY  # bundles under the newest head that we know of

    def append(self, kind: str, checkpoint: Checkpoint, **more: str | int) -> None:
        """Write one entry, make it durable and sign. Raises LogDamaged, OSError."""
        # Every worker appends to it every few seconds, for years: each reads what came since it last looked.
        log = self._open()
        try:
            if log.size > log.signed.size:  # a crash left it, or somebody else did: our signature would vouch for it
                self._write(log, LOG_UNSIGNED, Checkpoint(self._origin, log.signed.size, log.signed.root))
            self._write(log, kind, checkpoint, **more)
            log.sync()
            log.sign(log.edge())
            self._before = log.remember() or self._before
            if self._before is not None and self._before.bundles >= max(self._head_at, 0) + HEAD_EVERY:
                with suppress(OSError, Malformed):  # the entry is written; without a head a start takes longer
                    self._keep_head(self._before, log.signed)
        finally:
            log.close()

    def _open(self) -> Log:
        if self._before is None and (head := self._head()) is not None:
            try:
                return self._log(head.remembered)
            except LogDamaged:
                pass  # not of this log as it is now: without it, what is damaged is told as what it is
        return self._log(self._before)

    def _log(self, before: Remembered | None) -> Log:
        return Log(self._directory, self._origin, self._signer, self._known, wait=True, before=before)

    def _verifiers(self) -> tuple[Verifier, ...]:
        return (self._signer.verifier, *self._known)

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
        head = self._head()
        found = self._since(head) if head is not None else None
        return _folded({}, anchored(self._directory, self._verifiers())) if found is None else found

    # -- the head ---------------------------------------------------------------------------------------

    def _head(self) -> Head | None:
        return heads.read(self._directory, self._origin, self._verifiers())

    def _since(self, head: Head) -> dict[str, Known] | None:
        """Return what is known by a head and by the entries after it; None where it does not lead to the checkpoint."""
        signed = _checkpoint(self._directory, self._verifiers())
        if signed is None or signed.size < head.size:
            return None
        edge, leads = head.remembered.full.copy(), False

        def look() -> None:
            nonlocal leads
            leads = leads or (edge.size == signed.size and edge.root() == signed.root)

        def grow(entry: bytes) -> None:
            edge.append(leaf_hash(entry))
            look()

        look()
        entries, reaches = _read(self._directory, signed.size, head.remembered.bundles, grow)
        if not leads or reaches < head.size:
            return None
        return _folded(_decoded(head.logs), entries)

    def _keep_head(self, at: Remembered, signed: Checkpoint) -> None:
        """Write a head at a bundle's edge, where the newest one is far enough behind. The lock is held."""
        newest = self._head()
        if newest is not None and at.bundles < newest.remembered.bundles + HEAD_EVERY:
            self._head_at = newest.remembered.bundles
            return
        logs = self._until(at, signed, newest) if newest is not None else None
        if logs is None:
            logs = self._until(at, signed, None)
        self._head_at = at.bundles
        if logs is not None:
            heads.write(self._directory, self._origin, self._signer, Head(at, _encoded(logs)))

    def _until(self, at: Remembered, signed: Checkpoint, newest: Head | None) -> dict[str, Known] | None:
        """Return what is known by the entries before a bundle's edge; None unless they hash to the tree there.

        INVARIANT: a tree that the log was opened with, so that it leads to a checkpoint of ours. What is signed here is
        not what somebody wrote into a file.
        """
        first = newest.remembered.bundles if newest is not None else 0
        edge = newest.remembered.full.copy() if newest is not None else Frontier()
        entries, reaches = _read(
            self._directory, signed.size, first, lambda entry: edge.append(leaf_hash(entry)), until=at.bundles
        )
        if edge.size != at.full.size or edge.root() != at.full.root() or reaches < first * WIDTH:
            return None
        return _folded(_decoded(newest.logs) if newest is not None else {}, entries)


def _folded(known: dict[str, Known], entries: Iterable[Anchored]) -> dict[str, Known]:
    """Return what entries add to what is known."""
    for one in entries:
        log = known.setdefault(one.origin, Known())
        if one.kind in SIZED:
            log.size = max(one.size, log.size)
            log.begun_us = log.begun_us or one.time_us
        if one.kind == LOG_OPEN and one.signed:
            log.after = one.after or log.after
        if one.kind == LOG_SEALED and one.signed:
            log.sealed = one
        elif one.kind == LOG_RETIRED and one.signed:
            log.retired = one
    return known


def _encoded(known: dict[str, Known]) -> dict[str, Any]:
    def ended(one: Anchored | None) -> list[Any] | None:
        return None if one is None else [one.size, base64.b64encode(one.root).decode(), one.time_us, one.then]

    return {
        origin: [log.size, log.begun_us, log.after, ended(log.sealed), ended(log.retired)]
        for origin, log in known.items()
    }


def _decoded(logs: dict[str, Any]) -> dict[str, Known]:
    def ended(kind: str, origin: str, one: list[Any] | None) -> Anchored | None:
        return None if one is None else Anchored(kind, origin, one[0], base64.b64decode(one[1]), one[2], one[3])

    return {
        origin: Known(size, begun_us, ended(LOG_SEALED, origin, sealed), ended(LOG_RETIRED, origin, retired), after)
        for origin, (size, begun_us, after, sealed, retired) in logs.items()
    }


def anchored(directory: Path, verifiers: Sequence[Verifier]) -> list[Anchored]:
    """Return the anchor log's entries in order; unreadable ones are skipped (`verify` names them)."""
    # Before the entries: those that come between the two are taken for unsigned, and never the other way round.
    signed = _checkpoint(directory, verifiers)
    return _read(directory, signed.size if signed is not None else 0)[0]


def _read(
    directory: Path,
    signed: int,
    first: int = 0,
    each: Callable[[bytes], None] = lambda _: None,
    *,
    until: int | None = None,
) -> tuple[list[Anchored], int]:
    """Return the entries from a bundle on, and from which entry on they doubt what stands in the log.

    signed: how many entries its checkpoint covers. each: called with every entry. until: the first bundle not to read.
    """
    found: list[tuple[int, Anchored]] = []
    place = first * WIDTH - 1
    for n, bundle, _ in iter_bundles(directory, first):
        if n == until:
            break
        for entry in bundle:
            place += 1
            each(entry)
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
    doubted = reaches = place + 1  # entries from here on to the last one seen were not signed by who wrote them
    until_place = 0
    for place, one in reversed(found):
        if one.kind == LOG_UNSIGNED:
            if one.signed and not doubted <= place < until_place:
                doubted, until_place = one.size, place
                reaches = min(reaches, doubted)
            continue
        out.append(replace(one, signed=False) if doubted <= place < until_place else one)
    return out[::-1], reaches


def _checkpoint(directory: Path, verifiers: Sequence[Verifier]) -> Checkpoint | None:
    """Return the anchor log's checkpoint; None where it has none that holds."""
    try:
        return Checkpoint.parse(open_note((directory / "checkpoint").read_text(), verifiers))
    except (OSError, ValueError, Malformed):
        return None
