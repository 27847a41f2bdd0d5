"""Copies of the state file: made while workers go on, checked before they count, put back while none runs."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from firewall.core.errors import ConfigFault, StateUnavailable
from firewall.state.contention import guarded
from firewall.state.migrations import schema_version


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished, checked backup: bytes, SHA-256 (hex), schema version, entries."""

    path: Path
    size: int
    sha256: str
    schema: int
    entries: int


def copy_live(source: Path, path: str | os.PathLike[str]) -> Backup:
    """Copy a live database to ``path`` (which must not exist), check the copy, return its facts.

    Uses SQLite's backup API in one step: a consistent snapshot, taken while workers go on, which needs no
    write lock and waits for none. (In several steps every write in between would begin it anew.) The copy is
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
        with guarded():
            live, target = sqlite3.connect(source), sqlite3.connect(part)
            try:
                live.backup(target)
                target.execute("PRAGMA journal_mode = DELETE")
            finally:
                live.close()
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


def check_backup(path: str | os.PathLike[str]) -> Backup:
    """Open a backup read-only, check integrity and schema, and return its facts.

    Raises ConfigFault("backup_damaged") and as `migrations.schema_version`; StateUnavailable.
    """
    file = Path(path)
    with guarded():
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
