"""What only the durable store has: schema, permissions, backup, restore, failure."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from firewall.core.errors import ConfigFault, StateUnavailable
from firewall.state import migrations
from firewall.state.backup import check_backup, restore
from firewall.state.sqlite import SQLiteStore


def test_data_survive_reopening_and_the_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "made" / "state.sqlite"
    store = SQLiteStore(path)
    store.collection("c").put("t", "k", b"v")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for name in os.listdir(path.parent):
        assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600, name
    store.close()
    entry = SQLiteStore(path).collection("c").get("t", "k")
    assert entry is not None
    assert entry.value == b"v"


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    SQLiteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {migrations.LATEST + 1}")
    with pytest.raises(ConfigFault) as caught:
        SQLiteStore(path)
    assert caught.value.code == "state_schema_newer"


def test_a_schema_made_by_other_steps_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    SQLiteStore(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE history SET digest = 'edited'")
    with pytest.raises(ConfigFault) as caught:
        SQLiteStore(path)
    assert caught.value.code == "state_schema_differs"


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(ConfigFault) as caught:
        SQLiteStore(path)
    assert caught.value.code == "state_foreign"
    with sqlite3.connect(path) as db:
        assert [row[0] for row in db.execute("SELECT name FROM sqlite_master")] == ["theirs"]


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(StateUnavailable):
        SQLiteStore(path)


def test_a_backup_is_a_checked_snapshot_that_can_be_restored(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.sqlite", durable=False)
    things = store.collection("c")
    for n in range(300):
        things.put("t", str(n), os.urandom(50))
    report = store.backup(tmp_path / "copy.sqlite")
    things.put("t", "later", b"")
    assert (report.entries, report.schema) == (300, migrations.LATEST)
    assert stat.S_IMODE(report.path.stat().st_mode) == 0o600
    assert report.size == report.path.stat().st_size
    with pytest.raises(ConfigFault):
        store.backup(tmp_path / "copy.sqlite")
    restored = restore(report.path, tmp_path / "new" / "s.sqlite")
    assert restored.sha256 == report.sha256
    back = SQLiteStore(restored.path).collection("c")
    assert back.get("t", "later") is None
    assert back.get("t", "7") == things.get("t", "7")
    with pytest.raises(ConfigFault):
        restore(report.path, tmp_path / "s.sqlite")


def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.sqlite", durable=False)
    for n in range(200):
        store.collection("c").put("t", str(n), os.urandom(200))
    copy = store.backup(tmp_path / "copy.sqlite").path
    data = bytearray(copy.read_bytes())
    data[4096:12288] = b"\xff" * 8192
    copy.write_bytes(data)
    with pytest.raises((ConfigFault, StateUnavailable)):
        check_backup(copy)


def test_a_forked_child_uses_its_own_connection(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.sqlite", durable=False)
    things = store.collection("c")
    things.put("t", "k", b"parent")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            entry = things.get("t", "k")
            if entry is not None and entry.value == b"parent":
                things.put("t", "k", b"child")
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    entry = things.get("t", "k")
    assert entry is not None
    assert entry.value == b"child"


def test_expired_rows_are_swept_while_writing(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.sqlite", durable=False)
    things = store.collection("c")
    for n in range(600):
        things.put("t", str(n), b"", expires_us=1)
    count = store.one("SELECT count(*) FROM entries", ())
    assert count[0] < 100
