"""The schema of the SQLite store, as numbered steps that are never edited once released.

The version stands in ``PRAGMA user_version``, the product in ``PRAGMA application_id``; the table
``history`` holds the digest of every step that was applied, so that a database which took another
road (an edited step, a foreign tool) is refused instead of half working. Downgrades are refused:
a newer schema means a newer Bartizan wrote it (operations reference §4.6).
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass
from typing import Final

from firewall.core.errors import ConfigFault

APPLICATION_ID: Final = 0x42525A4E  # "BRZN"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: from ``version - 1`` to ``version``."""

    version: int
    name: str
    statements: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the statements, hex."""
        return hashlib.sha256("\n".join(self.statements).encode()).hexdigest()


MIGRATIONS: Final[tuple[Migration, ...]] = (
    Migration(
        1,
        "entries",
        (
            """CREATE TABLE entries (
                 namespace  TEXT    NOT NULL,
                 tenant     TEXT    NOT NULL,
                 key        TEXT    NOT NULL,
                 value      BLOB    NOT NULL,
                 version    INTEGER NOT NULL CHECK (version > 0),
                 expires_us INTEGER NOT NULL CHECK (expires_us >= 0),
                 PRIMARY KEY (namespace, tenant, key)
               ) STRICT, WITHOUT ROWID""",
            "CREATE INDEX entries_expiry ON entries (expires_us) WHERE expires_us > 0",
        ),
    ),
)
LATEST: Final = MIGRATIONS[-1].version

_HISTORY: Final = "CREATE TABLE history (version INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, applied_us INTEGER NOT NULL) STRICT"


def schema_version(db: sqlite3.Connection) -> int:
    """Return the schema version of a database of ours; 0 for an empty file.

    Raises ConfigFault: state_foreign (another product's database), state_schema_newer,
    state_schema_differs (an applied step is not the step that this version knows).
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    application = int(db.execute("PRAGMA application_id").fetchone()[0])
    tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if application == 0 and version == 0 and tables == 0:
        return 0
    if application != APPLICATION_ID:
        raise ConfigFault(
            "state_foreign", "the state file is a database of another program", fix="choose another state.path"
        )
    if version > LATEST:
        raise ConfigFault(
            "state_schema_newer",
            f"the state has schema {version}, this version knows {LATEST}",
            fix="start the newer version again, or restore the backup made before the upgrade",
        )
    applied = db.execute("SELECT version, digest FROM history ORDER BY version").fetchall()
    if applied != [(m.version, m.digest) for m in MIGRATIONS[:version]]:
        raise ConfigFault(
            "state_schema_differs", f"schema {version} was made by other steps", fix="restore a backup of this version"
        )
    return version


def migrate(db: sqlite3.Connection, now_us: int, *, target: int = LATEST) -> int:
    """Bring the schema up to ``target`` and return how many steps were applied.

    db: autocommit connection. Safe to call from several processes at once: each step is taken
    under the write lock, after looking again. A database that is there already is only read: a backup
    can be taken while another program holds that lock.
    Raises ConfigFault as `schema_version`; sqlite3.Error.
    """
    applied = 0
    if schema_version(db) >= target:
        return applied
    while True:
        db.execute("BEGIN IMMEDIATE")
        try:
            version = schema_version(db)
            if version >= target:
                db.execute("ROLLBACK")
                return applied
            if version == 0:
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(_HISTORY)
            step = MIGRATIONS[version]
            for statement in step.statements:
                db.execute(statement)
            db.execute("INSERT INTO history VALUES (?, ?, ?, ?)", (step.version, step.name, step.digest, now_us))
            db.execute(f"PRAGMA user_version = {step.version}")
            db.execute("COMMIT")
            applied += 1
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
