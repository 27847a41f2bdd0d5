"""A search index over an audit directory: a cache, never the evidence.

It can be deleted at any time and is made again from the logs. Built by readers (console, command
line), never by the writer. Where the directory cannot be written, the index lives in memory.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from firewall.core.errors import Malformed, StateUnavailable
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.record import face
from firewall.record.log import iter_bundles
from firewall.record.tiles import WIDTH

VERSION: Final = 4
COLUMNS: Final = (
    "log",
    "seq",
    "kind",
    "phase",
    "time_us",
    "tenant",
    "exchange",
    "decision_id",
    "subject",
    "client",
    "point",
    "upstream",
    "resource",
    "effect",
    "fault",
    "event",
    "rules",
)
FILTERS: Final = frozenset(
    {
        "kind",
        "phase",
        "tenant",
        "exchange",
        "decision_id",
        "subject",
        "client",
        "point",
        "upstream",
        "resource",
        "effect",
        "fault",
        "event",
    }
)
_SCHEMA: Final = f"""
CREATE TABLE records ({", ".join(COLUMNS)}, PRIMARY KEY (log, seq)) WITHOUT ROWID;
CREATE INDEX by_exchange ON records (exchange);
CREATE INDEX by_decision ON records (decision_id);
CREATE INDEX by_time ON records (time_us);
PRAGMA user_version = {VERSION};
"""
_INSERT: Final = f"INSERT OR IGNORE INTO records VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 -- constants


class Index:
    """Finds records by what they say. Not thread-safe; make one per reader.

    directory: the audit directory. memory: keep the index in memory (evidence on foreign media).
    """

    def __init__(self, directory: str | os.PathLike[str], *, memory: bool = False) -> None:
        self.directory = Path(directory)
        path = self.directory / "index.sqlite"
        try:
            self._db = self._open(":memory:" if memory else str(path))
        except sqlite3.Error:
            self._db = self._open(":memory:")
        if not memory and path.exists():
            path.chmod(0o600)
        self._bundle: tuple[str, int, list[bytes]] = ("", -1, [])

    def close(self) -> None:
        """Close the index."""
        self._db.close()

    def refresh(self) -> int:
        """Take in what the logs hold and the index does not; return how many records that were.

        Raises Malformed("bundle_torn") for a damaged log, StateUnavailable.
        """
        added = 0
        try:
            for folder in sorted(self.directory.glob("log_*")):
                if not (folder / "live").exists() and not (folder / "tile").exists():
                    self._db.execute("DELETE FROM records WHERE log=?", (folder.name,))  # it was retired
                    continue
                have = self._db.execute("SELECT max(seq) FROM records WHERE log=?", (folder.name,)).fetchone()[0]
                first = 0 if have is None else (have + 1) // WIDTH
                for number, entries, _ in iter_bundles(folder, first):
                    rows = [_row(folder.name, number * WIDTH + at, entry) for at, entry in enumerate(entries)]
                    self._db.execute("BEGIN")
                    added += self._db.executemany(_INSERT, rows).rowcount
                    self._db.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            raise StateUnavailable(type(error).__name__) from error
        return added

    def find(
        self,
        *,
        since_us: int = 0,
        until_us: int = 2**62,
        rule: str = "",
        newest_first: bool = False,
        limit: int = 1000,
        **equals: str,
    ) -> Iterator[JSONObject]:
        """Yield whole records, by time. Raises Malformed("filter_unknown"), StateUnavailable.

        equals: any of `FILTERS`, as `record.face` reads them out of every kind of record. rule: records whose decision names this rule.
        """
        if not equals.keys() <= FILTERS:
            raise Malformed("filter_unknown")
        where = ["time_us >= ?", "time_us < ?", *(f"{name} = ?" for name in equals)]
        values: list[JSON] = [since_us, until_us, *equals.values()]
        if rule:
            where.append("instr(rules, ?) > 0")
            values.append(f" {rule} ")
        order = "DESC" if newest_first else "ASC"
        sql = (
            f"SELECT log, seq FROM records WHERE {' AND '.join(where)}"  # noqa: S608 -- names from FILTERS alone
            f" ORDER BY time_us {order}, log {order}, seq {order} LIMIT ?"
        )
        for log, seq in self._all(sql, [*values, limit]):
            yield self.record(log, seq)

    def exchange_of(self, some_id: str) -> str:
        """Return the exchange of a decision id, record uid or exchange id; "" when nothing is known."""
        log, _, seq = some_id.rpartition(".")
        rows = self._all(
            "SELECT exchange FROM records WHERE exchange=? OR decision_id=? OR (log=? AND seq=?) LIMIT 1",
            [some_id, some_id, log, int(seq) if seq.isascii() and seq.isdigit() and len(seq) < 19 else -1],
        )
        return str(rows[0][0] or "") if rows else ""

    def record(self, log: str, seq: int) -> JSONObject:
        """Return one record by its place. Raises Malformed("record_unknown")."""
        value = orjson.loads(self.entry(log, seq))
        if not isinstance(value, dict):
            raise Malformed("record_unknown")
        return value

    def entry(self, log: str, seq: int) -> bytes:
        """Return the stored bytes of one record. Raises Malformed("record_unknown")."""
        number, at = divmod(seq, WIDTH)
        if self._bundle[:2] != (log, number) or at >= len(self._bundle[2]):
            self._bundle = (log, number, read_bundle(self.directory / log, number))
        if at >= len(self._bundle[2]):
            raise Malformed("record_unknown")
        return self._bundle[2][at]

    def _all(self, sql: str, values: Sequence[Any]) -> list[Any]:
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StateUnavailable(type(error).__name__) from error

    @staticmethod
    def _open(path: str) -> sqlite3.Connection:
        db = sqlite3.connect(path, isolation_level=None, timeout=5)
        try:
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                db.executescript("DROP TABLE IF EXISTS records;" + _SCHEMA)
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db


def read_bundle(directory: Path, number: int) -> list[bytes]:
    """Return one bundle's entries, [] when there is none. Raises Malformed("bundle_torn")."""
    if not directory.is_dir():
        return []
    for found, entries, _ in iter_bundles(directory, number):
        return entries if found == number else []
    return []


def parse_uid(uid: str) -> tuple[str, int]:
    """Return the log id and index in a record uid; raises Malformed("record_unknown")."""
    log, _, seq = uid.rpartition(".")
    if not log.startswith("log_") or not log[4:].isalnum() or not (seq.isascii() and seq.isdigit()) or len(seq) > 18:
        raise Malformed("record_unknown")
    return log, int(seq)


def _row(log: str, seq: int, entry: bytes) -> tuple[Any, ...]:
    try:
        record = orjson.loads(entry)
    except ValueError:
        record = {}
    if not isinstance(record, dict):
        record = {}
    rules = _object(record, "decision").get("rules", [_object(record, "because").get("rule", "")])
    known = {
        **{name: record.get(name) for name in COLUMNS},
        "log": log,
        "seq": seq,
        "phase": face.phase_of(record),
        "subject": face.subject_of(record),
        "client": face.client_of(record),
        "resource": face.resource_of(record),
        "effect": face.effect_of(record),
        "fault": face.fault_of(record),
        "event": face.event_of(record),
        "rules": f" {' '.join(str(r) for r in rules)} " if isinstance(rules, list) else "",
    }
    return tuple(v if isinstance(v, (str, int)) else None for v in known.values())


def _object(record: dict[str, JSON], name: str) -> dict[str, JSON]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}
