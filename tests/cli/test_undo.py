"""``connect --remove`` puts back what was there: to the byte where nobody edited it since, and it says which."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firewall.cli import json_edit, undo

from .test_connect import CURSOR, Desk, cursor, desk

__all__ = ["cursor", "desk"]  # fixtures

# Spelled as no program of ours would: order, spaces, escapes, numbers, line ends.
ODD = (
    '{"mcpServers"  :  {\r\n\t"git":{ "env": {"A":"\\u0041"}, "timeout": 1e1,\r\n'
    '     "command" : "uvx" },"other":{"command":"x","args":[ ]} }, "z": 1.50}'
)
NODE = "http://127.0.0.1:8700/mcp/time"


def raw(path: Path) -> str:
    """Return a file's text with its line ends."""
    return path.read_bytes().decode()


def told(desk: Desk, *arguments: str) -> dict[str, object]:
    code, out, err = desk.run(*arguments, "--yes", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("text", [CURSOR, ODD, CURSOR.replace("\n", "\r\n"), json.dumps(json.loads(CURSOR))])
def test_a_wrapped_server_that_nobody_touched_leaves_the_file_as_it_was_to_the_byte(
    desk: Desk, cursor: Path, text: str
) -> None:
    cursor.write_bytes(text.encode())
    told(desk, "cursor", "--wrap", "git", "--write", "/srv/repo")
    assert cursor.read_bytes() != text.encode()
    assert told(desk, "cursor", "--remove", "git")["restored"] == "file"
    assert cursor.read_bytes() == text.encode()
    assert cursor.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("text", ["{}", "{ }\n", "", '{"mcpServers": {\n\n} }', '{"a":[1,\n2]}', ODD])
def test_a_connected_server_that_nobody_touched_leaves_the_file_as_it_was_to_the_byte(
    desk: Desk, cursor: Path, text: str
) -> None:
    cursor.write_bytes(text.encode())
    told(desk, "cursor", NODE)
    assert told(desk, "cursor", "--remove", "bartizan-time")["restored"] == "file"
    assert cursor.read_bytes() == text.encode()


def test_a_file_that_connect_began_is_gone_again_and_one_that_was_edited_since_is_not(desk: Desk) -> None:
    path = desk.home / ".cursor" / "mcp.json"
    told(desk, "cursor", NODE)
    code, out, err = desk.run("cursor", "--remove", "bartizan-time", "--yes")
    assert (code, path.exists()) == (0, False)
    assert f"{path} is gone." in out
    assert "+++ (no file)" in err
    told(desk, "cursor", NODE)
    path.write_text(path.read_text().replace("{\n", '{\n  "mine": true,\n', 1))
    assert told(desk, "cursor", "--remove", "bartizan-time")["restored"] == "content"
    assert json.loads(path.read_text()) == {"mine": True, "mcpServers": {}}


def test_of_a_file_that_was_edited_since_the_entry_comes_back_as_written_and_the_edit_stays(
    desk: Desk, cursor: Path
) -> None:
    cursor.write_text(ODD)
    told(desk, "cursor", "--wrap", "git")
    told(desk, "cursor", "--wrap", "other")
    cursor.write_text(raw(cursor).replace('"z": 1.50', '"z":   2.50, "mine": 0.10'))
    code, _, err = desk.run("cursor", "--remove", "git", "--yes")
    assert code == 0
    assert "it stands as you wrote it, in the file as it is now" in err
    text = raw(cursor)
    assert json_edit.member_text(text, ("mcpServers", "git")) == json_edit.member_text(ODD, ("mcpServers", "git"))
    assert '"z":   2.50, "mine": 0.10' in text
    assert told(desk, "cursor", "--remove", "other")["restored"] == "entry"
    assert raw(cursor) == ODD.replace('"z": 1.50', '"z":   2.50, "mine": 0.10')


def test_in_any_order_the_last_one_undone_leaves_the_first_file(desk: Desk, cursor: Path) -> None:
    cursor.write_text(ODD)
    told(desk, "cursor", "--wrap", "git")
    told(desk, "cursor", "--wrap", "other")
    told(desk, "cursor", "--remove", "git")
    told(desk, "cursor", "--remove", "other")
    assert raw(cursor) == ODD


def test_an_entry_that_was_edited_since_keeps_the_edit_and_no_backup_takes_it_back(desk: Desk, cursor: Path) -> None:
    told(desk, "cursor", "--wrap", "git")
    cursor.write_text(raw(cursor).replace('"precious"', '"newer"').replace("/srv/repo", "/srv/other"))
    assert told(desk, "cursor", "--remove", "git")["restored"] == "content"
    entry = json.loads(cursor.read_text())["mcpServers"]["git"]
    assert entry["args"] == ["mcp-server-git", "--repository", "/srv/other"]
    assert entry["env"] == {"GIT_TOKEN": "newer"}


def test_without_a_backup_the_content_comes_back(desk: Desk, cursor: Path) -> None:
    told(desk, "cursor", "--wrap", "git")
    for backup in cursor.parent.glob("*.bak"):
        backup.unlink()
    assert told(desk, "cursor", "--remove", "git")["restored"] == "content"
    assert json.loads(cursor.read_text()) == json.loads(CURSOR)


@pytest.mark.parametrize("rubbish", [b"\xff\xfe", b"{", b"[]", b'{"mcpServers": {"git": {}}}', b'{"mcpServers": 1}'])
def test_a_backup_that_is_none_is_passed_over(desk: Desk, cursor: Path, rubbish: bytes) -> None:
    told(desk, "cursor", "--wrap", "git")
    (cursor.parent / "mcp.json.bartizan-99990101T000000Z.bak").write_bytes(rubbish)
    (cursor.parent / "mcp.json.bartizan-99990102T000000Z.bak").symlink_to("/etc/hostname")
    assert told(desk, "cursor", "--remove", "git")["restored"] == "file"
    assert cursor.read_text() == CURSOR


def test_a_url_with_a_token_of_its_own_comes_back_to_the_byte(desk: Desk, cursor: Path) -> None:
    text = '{"mcpServers":{"far":{"headers":{"Authorization":"Bearer t0"},"url":"https://x.example/mcp"}}}'
    cursor.write_text(text)
    told(desk, "cursor", "--wrap", "far")
    assert told(desk, "cursor", "--remove", "far")["restored"] == "file"
    assert cursor.read_text() == text


def test_what_was_there_under_the_name_before_does_not_come_back_with_a_removal(desk: Desk, cursor: Path) -> None:
    """An entry that was replaced by a connected one: to remove is to remove."""
    told(desk, "cursor", NODE, "--name", "git")
    assert told(desk, "cursor", "--remove", "git")["restored"] == "content"
    assert "git" not in json.loads(cursor.read_text())["mcpServers"]


def test_an_undoing_of_nothing_known_is_the_smallest_edit() -> None:
    text = '{"s": {"a": {"x":1}, "b": 2}}'
    assert undo.remove(text, ("s", "a"), {"x": 1}, ()).after == '{"s": {"b": 2}}'
    with pytest.raises(KeyError):
        json_edit.set_member_text(text, ("s", "none"), "1")
    assert json_edit.member_text("", ("s",)) is None
    assert json_edit.member_text('{"s": 1}', ("s", "a")) is None
