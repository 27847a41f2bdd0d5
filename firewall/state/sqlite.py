"""The node's durable store: one SQLite file in WAL mode, shared by every worker.

Each operation is one statement, or one short ``BEGIN IMMEDIATE`` transaction, so that it is atomic
across threads and processes. Commits are durable (``synchronous=FULL``): a spent one-time code or a
revocation must not come back after a power cut. Nothing here is on the request path.

A lock that another program holds is waited for as `contention` says: shortly on an event loop. Readers never
wait for a writer (WAL), so what only reads, cached tokens first of all, goes on meanwhile.

Every ``sqlite3.Error`` becomes StateUnavailable, whose callers fail closed.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, Final, TypeVar

from firewall.core.errors import Conflict, StateUnavailable
from firewall.core.ports import Clock, Entry
from firewall.state.backup import Backup, copy_live
from firewall.state.contention import THREAD_S, Patience, Turn, guarded, is_busy
from firewall.state.migrations import migrate
from firewall.state.store import check_count, check_key, check_value, clock_or_wall, count_of, grant

SCAN_PAGE: Final = 256
PURGE_EVERY: Final = 512  # writes between two sweeps of expired rows
SWEEP_ROWS: Final = 2_048  # of one sweep: it stands in a write's way, so it ends; four times what was written since

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
_SWAP: Final = (
    "UPDATE entries SET value=:after WHERE namespace=:ns AND tenant=:tenant AND key=:key AND value=:before"
    " AND (expires_us=0 OR expires_us>:now) RETURNING version"
)
# One step along the primary key for each tenant, however many rows it has.
_TENANT: Final = "SELECT tenant FROM entries WHERE namespace=? AND tenant>=? ORDER BY tenant LIMIT 1"
_TENANT_ON: Final = _TENANT.replace("tenant>=?", "tenant>?")
_LIVES: Final = "SELECT 1 FROM entries WHERE namespace=? AND tenant=? AND (expires_us=0 OR expires_us>?) LIMIT 1"
_SWEEP: Final = (
    "DELETE FROM entries WHERE (namespace, tenant, key) IN (SELECT namespace, tenant, key FROM entries"
    " WHERE expires_us>0 AND expires_us<=? ORDER BY expires_us LIMIT ?)"
)

T = TypeVar("T")


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

    def swap(self, tenant: str, key: str, before: bytes, after: bytes) -> bool:
        """Replace the bytes of a live entry where they are still ``before``; return whether they were."""
        check_key(tenant, key)
        check_value(after)
        place = {"ns": self._name, "tenant": tenant, "key": key, "now": self._store.now_us()}
        return self._store.one(_SWAP, {**place, "before": before, "after": after}, write=True) is not None

    def tenants(self) -> Iterator[str]:
        """Yield each tenant that has a live entry, in order (code points)."""
        sql, after = _TENANT, ""
        while (row := self._store.one(sql, (self._name, after))) is not None:
            sql, after = _TENANT_ON, row[0]
            if self._store.one(_LIVES, (self._name, after, self._store.now_us())) is not None:
                yield after

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

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        durable: bool = True,
        patience: Patience | None = None,
    ) -> None:
        self.path = Path(path)
        self._clock = clock_or_wall(clock)
        self._patience = patience or Patience()
        self._durable = durable
        self._lock = RLock()
        self._writes = 0
        self._pid = 0
        self._db: sqlite3.Connection | None = None
        self._turn: Turn | None = None
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
                if self._turn is not None:
                    self._turn.close()
            self._db = self._turn = None

    def purge(self) -> int:
        """Remove expired rows and return how many; some of them also go by themselves every 512 writes."""
        removed, now_us = 0, self.now_us()
        while True:
            page = self._work(lambda db: db.execute(_SWEEP, (now_us, SWEEP_ROWS)).rowcount, write=True)
            removed += page
            if page < SWEEP_ROWS:
                return removed

    def backup(self, path: str | os.PathLike[str]) -> Backup:
        """Copy the live database; see `backup.copy_live`."""
        return copy_live(self.path, path)

    # -- for this module's collections ---------------------------------------------------------

    def one(self, sql: str, values: Any, *, write: bool = False) -> Any:
        """Run one statement in autocommit and return its first row, or None."""
        rows = self._work(lambda db: db.execute(sql, values).fetchall(), write=write)  # RETURNING: step to the end
        return rows[0] if rows else None

    def all(self, sql: str, values: Any) -> list[Any]:
        """Run one reading statement and return its rows."""
        return self._work(lambda db: db.execute(sql, values).fetchall())

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the write lock for a block; commits at its end, rolls back on any exception."""
        with guarded(), self._begun() as db:
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            self._after_write()

    @contextmanager
    def _begun(self) -> Iterator[sqlite3.Connection]:
        wait = self._patience.wait()
        while True:
            with self._lock:
                db, turn = self._connection(), self._turn
                ours = turn is not None and not turn.take()
                if not ours:
                    try:
                        db.execute("BEGIN IMMEDIATE")
                    except sqlite3.OperationalError as error:
                        if not is_busy(error):
                            raise
                    else:
                        wait.done()
                        yield db
                        return
                    finally:
                        if turn is not None:
                            turn.give_back()
            if not wait.again(ours=ours):
                raise StateUnavailable("busy")

    def _work(self, statement: Callable[[sqlite3.Connection], T], *, write: bool = False) -> T:
        """Run one statement. INVARIANT: one that met a lock did nothing, so it may be run again."""
        wait = self._patience.wait()
        with guarded():
            while True:
                with self._lock:
                    db, turn = self._connection(), self._turn if write else None
                    ours = turn is not None and not turn.take()
                    if not ours:
                        try:
                            result = statement(db)
                        except sqlite3.OperationalError as error:
                            if not is_busy(error):
                                raise
                        else:
                            if write:
                                wait.done()
                                self._after_write()
                            return result
                        finally:
                            if turn is not None:
                                turn.give_back()
                if not wait.again(ours=ours):
                    raise StateUnavailable("busy")

    def _after_write(self) -> None:
        """Sweep now and then. The caller's write is done: what goes wrong here is tried again after the next one."""
        self._writes += 1
        if self._writes < PURGE_EVERY:
            return
        try:
            self._connection().execute(_SWEEP, (self.now_us(), SWEEP_ROWS))
        except sqlite3.Error:
            return
        self._writes = 0

    def _connection(self) -> sqlite3.Connection:
        if self._db is None or self._pid != os.getpid():
            # A connection that crossed a fork must not be used or closed (sqlite.org/howtocorrupt §2.6).
            self._db, self._pid = self._open(), os.getpid()
        return self._db

    def _open(self) -> sqlite3.Connection:
        with guarded():
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
                db = sqlite3.connect(self.path, timeout=THREAD_S, isolation_level=None, check_same_thread=False)
                try:
                    db.execute("PRAGMA journal_mode = WAL")
                    db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
                    db.execute("PRAGMA trusted_schema = OFF")
                    db.execute("PRAGMA secure_delete = ON")  # a spent secret does not stay in free pages
                    migrate(db, self.now_us())
                    db.execute("PRAGMA busy_timeout = 0")  # from here on `contention` decides
                    self._turn = Turn(f"{self.path}.turn")
                except BaseException:
                    db.close()
                    raise
                return db
            finally:
                os.close(lock)
