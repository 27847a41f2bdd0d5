"""The node's durable store: one SQLite file in WAL mode, shared by every worker.

Each operation is one statement, or one short ``BEGIN IMMEDIATE`` transaction, so that it is atomic
across threads and processes. Commits are durable (``synchronous=FULL``): a spent one-time code or a
revocation must not come back after a power cut. Nothing here is on the request path.

Every ``sqlite3.Error`` becomes StateUnavailable, whose callers fail closed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any, Final

from firewall.core.errors import ConfigFault, Conflict, StateUnavailable
from firewall.core.ports import Clock, Entry
from firewall.state.migrations import migrate, schema_version
from firewall.state.store import check_count, check_key, check_value, clock_or_wall, count_of, grant

BUSY_MS: Final = 5_000
SCAN_PAGE: Final = 256
PURGE_EVERY: Final = 512  # writes between two sweeps of expired rows

_GET: Final = (
    "SELECT key, value, version, expires_us FROM entries"
    " WHERE namespace=? AND tenant=? AND key=? AND (expires_us=0 OR expires_us>?)"
)
_PUT: Final = (
    "INSERT INTO entries VALUES (:ns, :tenant, :key, :value, 1, :expires)"
    " ON CONFLICT DO UPDATE SET value=:value, expires_us=:expires,"
    " version = CASE WHEN expires_us=0 OR expires_us>:now THEN version+1 ELSE 1 END RETURNING version"
)
_PUT_NEW: Final = (
    "INSERT INTO entries VALUES (:ns, :tenant, :key, :value, 1, :expires)"
    " ON CONFLICT DO UPDATE SET value=:value, expires_us=:expires, version=1"
    " WHERE expires_us<>0 AND expires_us<=:now RETURNING version"
)
_PUT_IF: Final = (
    "UPDATE entries SET value=:value, expires_us=:expires, version=version+1"
    " WHERE namespace=:ns AND tenant=:tenant AND key=:key AND version=:if_version"
    " AND (expires_us=0 OR expires_us>:now) RETURNING version"
)
# A dead row is removed too, but not returned: whoever asks next must not find it either.
_TAKE: Final = (
    "DELETE FROM entries WHERE namespace=? AND tenant=? AND key=? AND (expires_us=0 OR expires_us>?)"
    " RETURNING key, value, version, expires_us"
)
_SCAN: Final = (
    "SELECT key, value, version, expires_us FROM entries"
    " WHERE namespace=? AND tenant=? AND key>=? AND (expires_us=0 OR expires_us>?) ORDER BY key LIMIT ?"
)
_SCAN_ON: Final = _SCAN.replace("key>=?", "key>?")


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished, checked backup: bytes, SHA-256 (hex), schema version, entries."""

    path: Path
    size: int
    sha256: str
    schema: int
    entries: int


class SQLiteCollection:
    """One namespace of the file; see core.ports.Collection for the contract of each method."""

    def __init__(self, store: SQLiteStore, name: str) -> None:
        self._store = store
        self._name = name

    def get(self, tenant: str, key: str) -> Entry | None:
        """Return the live entry, or None."""
        check_key(tenant, key)
        row = self._store.one(_GET, (self._name, tenant, key, self._store.now_us()))
        return Entry(*row) if row is not None else None

    def put(self, tenant: str, key: str, value: bytes, *, expires_us: int = 0, if_version: int | None = None) -> int:
        """Store and return the new version; raises Conflict when ``if_version`` does not hold."""
        check_key(tenant, key)
        check_value(value)
        sql = _PUT if if_version is None else _PUT_NEW if if_version == 0 else _PUT_IF
        row = self._store.one(
            sql,
            {
                "ns": self._name,
                "tenant": tenant,
                "key": key,
                "value": value,
                "expires": expires_us,
                "now": self._store.now_us(),
                "if_version": if_version,
            },
            write=True,
        )
        if row is None:
            raise Conflict
        return int(row[0])

    def take(self, tenant: str, key: str) -> Entry | None:
        """Return and remove the live entry: at most one caller ever gets it."""
        check_key(tenant, key)
        row = self._store.one(_TAKE, (self._name, tenant, key, self._store.now_us()), write=True)
        return Entry(*row) if row is not None else None

    def delete(self, tenant: str, key: str) -> bool:
        """Remove; return whether something live was there."""
        return self.take(tenant, key) is not None

    def scan(self, tenant: str, prefix: str = "") -> Iterator[Entry]:
        """Yield live entries by key order (code points), read in pages: no transaction stays open."""
        check_key(tenant, prefix)
        sql, after, now = _SCAN, prefix, self._store.now_us()
        while True:
            rows = self._store.all(sql, (self._name, tenant, after, now, SCAN_PAGE))
            for row in rows:
                if not row[0].startswith(prefix):
                    return
                yield Entry(*row)
            if len(rows) < SCAN_PAGE:
                return
            sql, after = _SCAN_ON, rows[-1][0]

    def add(self, tenant: str, key: str, delta: int, *, ceiling: int, expires_us: int = 0) -> int:
        """Add up to ``delta`` without passing ``ceiling``; return how much was granted (signed)."""
        check_key(tenant, key)
        check_count(delta, ceiling)
        with self._store.transaction() as db:
            now = self._store.now_us()
            row = db.execute(_GET, (self._name, tenant, key, now)).fetchone()
            current = count_of(row[1]) if row is not None else 0
            granted = grant(current, delta, ceiling)
            if granted:
                expiry = row[3] if row is not None else expires_us
                values = {"ns": self._name, "tenant": tenant, "key": key, "value": b"%d" % (current + granted)}
                db.execute(_PUT, {**values, "expires": expiry, "now": now}).fetchall()
            return granted


class SQLiteStore:
    """One file, many workers. Thread-safe; a forked child reopens the file by itself.

    path: the database; made with mode 0600 (its directory 0700) where missing. WAL needs a local
    file system: do not put it on a network share.
    Raises ConfigFault as `migrations.schema_version`; StateUnavailable when it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None, durable: bool = True) -> None:
        self.path = Path(path)
        self._clock = clock_or_wall(clock)
        self._durable = durable
        self._lock = RLock()
        self._writes = 0
        self._pid = 0
        self._db: sqlite3.Connection | None = None
        self._connection()

    def collection(self, name: str) -> SQLiteCollection:
        """Return the collection; the same name gives the same data in every worker."""
        check_key("", name)
        return SQLiteCollection(self, name)

    def now_us(self) -> int:
        """Return the store's clock, for its collections."""
        return self._clock.now_us()

    def close(self) -> None:
        """Close this process's connection; a later call opens a new one."""
        with self._lock:
            if self._db is not None and self._pid == os.getpid():
                self._db.close()
            self._db = None

    def purge(self) -> int:
        """Remove expired rows and return how many; also done by itself every 512 writes."""
        with self.transaction() as db:
            return db.execute("DELETE FROM entries WHERE expires_us>0 AND expires_us<=?", (self.now_us(),)).rowcount

    def backup(self, path: str | os.PathLike[str]) -> Backup:
        """Copy the live database to ``path`` (which must not exist), check the copy, return its facts.

        Uses SQLite's backup API: a consistent snapshot, taken while workers go on. The copy is
        opened and checked (integrity, schema) before it gets its final name; mode 0600.
        Raises ConfigFault("backup_exists"), StateUnavailable.
        """
        final = Path(path)
        if final.exists():
            raise ConfigFault("backup_exists", fix="choose a path that does not exist yet")
        part = final.with_name(final.name + ".part")
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            with _guarded():
                source, target = sqlite3.connect(self.path), sqlite3.connect(part)
                try:
                    source.backup(target, pages=1024)
                    target.execute("PRAGMA journal_mode = DELETE")
                finally:
                    source.close()
                    target.close()
            report = check_backup(part)
            _sync(part)
            os.link(part, final)  # never replaces: fails if somebody made the name meanwhile
        except OSError as error:
            raise StateUnavailable(type(error).__name__) from error
        finally:
            part.unlink(missing_ok=True)
        _sync(final.parent)
        return Backup(final, report.size, report.sha256, report.schema, report.entries)

    # -- for this module's collections ---------------------------------------------------------

    def one(self, sql: str, values: Any, *, write: bool = False) -> Any:
        """Run one statement in autocommit and return its first row, or None."""
        with self._lock, _guarded():
            rows = self._connection().execute(sql, values).fetchall()  # RETURNING: step to the end
            if write:
                self._after_write()
        return rows[0] if rows else None

    def all(self, sql: str, values: Any) -> list[Any]:
        """Run one reading statement and return its rows."""
        with self._lock, _guarded():
            return self._connection().execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock for a block; commits at its end, rolls back on any exception."""
        with self._lock, _guarded():
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            self._after_write()

    def _after_write(self) -> None:
        self._writes += 1
        if self._writes % PURGE_EVERY == 0:
            self.purge()

    def _connection(self) -> sqlite3.Connection:
        if self._db is None or self._pid != os.getpid():
            # A connection that crossed a fork must not be used or closed (sqlite.org/howtocorrupt §2.6).
            self._db, self._pid = self._open(), os.getpid()
        return self._db

    def _open(self) -> sqlite3.Connection:
        with _guarded():
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
                # Two processes that switch a fresh file to WAL at once can both see "locked",
                # whatever the busy time-out: one at a time.
                lock = os.open(f"{self.path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise StateUnavailable(type(error).__name__) from error
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                db = sqlite3.connect(self.path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
                try:
                    db.execute("PRAGMA journal_mode = WAL")
                    db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
                    db.execute("PRAGMA trusted_schema = OFF")
                    db.execute("PRAGMA secure_delete = ON")  # a spent secret does not stay in free pages
                    migrate(db, self.now_us())
                except BaseException:
                    db.close()
                    raise
                return db
            finally:
                os.close(lock)


def check_backup(path: str | os.PathLike[str]) -> Backup:
    """Open a backup read-only, check integrity and schema, and return its facts.

    Raises ConfigFault("backup_damaged") and as `migrations.schema_version`; StateUnavailable.
    """
    file = Path(path)
    with _guarded():
        db = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            try:
                healthy = db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            except sqlite3.DatabaseError:
                healthy = False
            version = schema_version(db) if healthy else 0
            if version == 0:
                raise ConfigFault(
                    "backup_damaged", "the copy does not pass SQLite's integrity check", fix="use another backup"
                )
            entries = int(db.execute("SELECT count(*) FROM entries").fetchone()[0])
        finally:
            db.close()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Backup(file, file.stat().st_size, digest, version, entries)


def restore(backup: str | os.PathLike[str], path: str | os.PathLike[str]) -> Backup:
    """Check a backup and put a copy at ``path``, where no database may stand; return its facts.

    Raises ConfigFault("restore_exists") and as `check_backup`.
    """
    target = Path(path)
    if any(Path(f"{target}{suffix}").exists() for suffix in ("", "-wal", "-shm")):
        raise ConfigFault(
            "restore_exists", fix="stop Bartizan and move the present state file and its -wal and -shm away"
        )
    report = check_backup(backup)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as out, open(backup, "rb") as source:
        while block := source.read(1 << 20):
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    copy = check_backup(target)
    if copy.sha256 != report.sha256:
        raise ConfigFault("backup_damaged", "the copy differs from the backup")
    return copy


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _guarded() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # The type alone: SQLite's texts may quote a value.
        raise StateUnavailable(type(error).__name__) from error
