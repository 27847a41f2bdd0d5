"""A client's configuration is its user's: what `connect` changes is shown, asked for, kept, and undone exactly."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from firewall.cli import json_edit
from firewall.cli import main as command
from firewall.cli.clients import CLIENTS
from firewall.cli.connect import TOKEN_VARIABLE, unwrapped, wrapped
from firewall.core.errors import ConfigFault, Malformed

CURSOR = """{
    "mcpServers": {
        "git": {
            "command": "uvx",
            "args": ["mcp-server-git", "--repository", "/srv/repo"],
            "env": {"GIT_TOKEN": "precious"},
            "disabled": false
        }
    },
    "ratio": 1.50,
    "unknown": [1e5,   2]
}
"""


class Desk:
    """A home of the test's own, and the command line in it."""

    def __init__(self, home: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capture = capture

    def run(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin.encode()))
        try:
            code = command.main(["connect", *arguments])
        finally:
            sys.stdin = before
        out, err = self._capture.readouterr()
        return code, out, err


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return Desk(tmp_path, capsys)


@pytest.fixture
def cursor(desk: Desk) -> Path:
    path = desk.home / ".cursor" / "mcp.json"
    path.parent.mkdir()
    path.write_text(CURSOR)
    path.chmod(0o640)
    return path


def test_a_server_is_wrapped_and_put_back_as_it_was(desk: Desk, cursor: Path) -> None:
    code, out, err = desk.run("cursor", "--wrap", "git", "--write", "/srv/repo", "--yes")
    assert code == 0, err
    entry = json.loads(cursor.read_text())["mcpServers"]["git"]
    assert os.path.basename(entry["command"]) == "bartizan"
    assert os.path.isabs(entry["command"])
    assert entry["args"] == [
        "run", "--name", "git", "--write", "/srv/repo", "--env", "GIT_TOKEN", "--",
        "uvx", "mcp-server-git", "--repository", "/srv/repo",
    ]  # fmt: skip
    assert entry["env"] == {"GIT_TOKEN": "precious"}
    assert entry["disabled"] is False
    assert "precious" not in " ".join(entry["args"])
    assert "Before:" in out
    assert desk.run("cursor", "--wrap", "git", "--yes")[0] == 2  # it is guarded already
    assert desk.run("cursor", "--remove", "git", "--yes")[0] == 0
    assert json.loads(cursor.read_text()) == json.loads(CURSOR)


def test_a_path_that_the_cage_would_hide_from_a_wrapped_server_is_told_with_the_option(desk: Desk) -> None:
    notes = desk.home / "notes"
    notes.mkdir()
    path = desk.home / ".cursor" / "mcp.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"mcpServers": {"files": {"command": sys.executable, "args": ["-m", "x", str(notes)]}}}))
    code, _, err = desk.run("cursor", "--wrap", "files", "--dry-run")
    assert code == 0
    assert f"which it cannot see: --read {notes}, or --write" in err
    code, _, err = desk.run("cursor", "--wrap", "files", "--write", str(notes), "--dry-run")
    assert code == 0
    assert "cannot see" not in err


def test_everything_else_in_the_file_keeps_its_spelling_rights_and_a_backup(desk: Desk, cursor: Path) -> None:
    assert desk.run("cursor", "http://127.0.0.1:8700/mcp/time", "--yes")[0] == 0
    text = cursor.read_text()
    assert '"ratio": 1.50,\n    "unknown": [1e5,   2]' in text
    assert '        "bartizan-time": {\n            "url": "http://127.0.0.1:8700/mcp/time"\n        }' in text
    assert text.startswith(CURSOR[: CURSOR.index('"disabled"')])
    assert cursor.stat().st_mode & 0o777 == 0o640
    (backup,) = cursor.parent.glob("mcp.json.bartizan-*.bak")
    assert (backup.read_text(), backup.stat().st_mode & 0o777) == (CURSOR, 0o640)
    assert desk.run("cursor", "--remove", "bartizan-time", "--yes")[0] == 0
    assert cursor.read_text() == CURSOR


def test_nothing_is_written_before_somebody_agreed(desk: Desk, cursor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = desk.run("cursor", "--wrap", "git", "--dry-run")
    assert code == 0
    assert '+            "args": [' in err
    assert "Nothing was written" in out
    assert desk.run("cursor", "--wrap", "git")[0] == 2  # nobody is here to ask
    monkeypatch.setattr("firewall.cli.connect._agreed", lambda: False)
    assert desk.run("cursor", "--wrap", "git")[0] == 1
    assert cursor.read_text() == CURSOR
    assert list(cursor.parent.iterdir()) == [cursor]


def test_a_file_with_comments_is_left_alone_and_the_snippet_told(desk: Desk) -> None:
    path = desk.home / ".config/zed/settings.json"
    path.parent.mkdir(parents=True)
    text = '{\n  // mine\n  "theme": "One",\n}\n'
    path.write_text(text)
    code, _, err = desk.run("zed", "http://127.0.0.1:8700/mcp", "--yes")
    assert code == 4
    assert "context_servers" in err
    assert path.read_text() == text


def test_a_link_is_written_through_and_stays_a_link(desk: Desk) -> None:
    target, path = desk.home / "dotfiles.json", desk.home / ".claude.json"
    target.write_text("{}")
    path.symlink_to(target)
    assert desk.run("claude", "http://127.0.0.1:8700/mcp", "--yes")[0] == 0
    assert path.is_symlink()
    assert json.loads(target.read_text())["mcpServers"]["bartizan"] == {
        "type": "http",
        "url": "http://127.0.0.1:8700/mcp",
    }


def test_each_client_gets_a_url_in_its_own_shape(desk: Desk, tmp_path: Path) -> None:
    url, shapes = "http://127.0.0.1:8700/mcp", {}
    for name, client in CLIENTS.items():
        code, _, err = desk.run(name, url, "--yes")
        path = client.file("user", desk.home, tmp_path)
        assert path is not None
        if client.toml:
            assert code == 4
            assert f'[mcp_servers.bartizan]\n  url = "{url}"' in err
        elif client.http is None:
            assert code == 2
        else:
            assert code == 0, err
            assert path.stat().st_mode & 0o777 == 0o600
            shapes[name] = json.loads(path.read_text())[client.key]["bartizan"]
    assert shapes["vscode"] == {"type": "http", "url": url}
    assert shapes["windsurf"] == {"serverUrl": url}
    assert shapes["gemini"] == {"httpUrl": url}
    assert shapes["copilot"]["tools"] == ["*"]


def test_a_project_gets_a_bare_command_and_its_own_file(desk: Desk, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".vscode").mkdir(parents=True)
    path = project / ".vscode/mcp.json"
    path.write_text('{"servers": {"t": {"type": "stdio", "command": "npx", "args": ["-y", "x-mcp"]}}}')
    code, _, err = desk.run("vscode", "--scope", "project", "--project", str(project), "--wrap", "t", "--yes")
    assert code == 0, err
    entry = json.loads(path.read_text())["servers"]["t"]
    assert entry == {"type": "stdio", "command": "bartizan", "args": ["run", "--name", "t", "--", "npx", "-y", "x-mcp"]}
    assert desk.run("windsurf", "--scope", "project", "--yes")[0] == 2


def test_the_list_says_what_is_there_and_what_was_tried(desk: Desk, cursor: Path) -> None:
    code, out, _ = desk.run("--list")
    assert code == 0
    assert "git" in out
    assert "Claude Code: tried by hand with 2.1.330" in out
    assert "Every other one: not tried" in out
    code, out, _ = desk.run("--list", "--json")
    rows = json.loads(out)["clients"]
    assert {row["client"] for row in rows} == set(CLIENTS)
    assert {row["client"] for row in rows if row["tried"]} == {"claude", "gemini"}


def test_a_remote_server_keeps_its_token_out_of_the_command_line() -> None:
    entry = {"type": "http", "url": "https://mcp.example/mcp", "headers": {"Authorization": "Bearer s3cret"}}
    made = wrapped("remote", entry, "/opt/bartizan", [])
    assert made["args"][-3:] == ["--credential-env", TOKEN_VARIABLE, "https://mcp.example/mcp"]
    assert made["env"] == {TOKEN_VARIABLE: "s3cret"}
    assert "s3cret" not in " ".join(made["args"])
    assert unwrapped(made, CLIENTS["claude"]) == entry
    with pytest.raises(ConfigFault):
        wrapped("remote", {**entry, "headers": {"X-Key": "1"}}, "/opt/bartizan", [])


@pytest.mark.parametrize(
    ("before", "path", "after"),
    [
        ("", ("a", "b"), '{\n  "a": {\n    "b": 1\n  }\n}\n'),
        ("{}", ("a",), '{\n  "a": 1\n}'),
        ('{"a": {}}', ("a", "b"), '{"a": {\n    "b": 1\n  }}'),
        ('{\n\t"z": 0\n}', ("a",), '{\n\t"z": 0,\n\t"a": 1\n}'),
        ('{\r\n  "z": 0\r\n}', ("a",), '{\r\n  "z": 0,\r\n  "a": 1\r\n}'),
        ('{"a":  2 , "b":3}', ("a",), '{"a":  1 , "b":3}'),
        ('{"\\u0061": 2}', ("a",), '{"\\u0061": 1}'),
    ],
)
def test_a_member_is_set_and_the_rest_stands(before: str, path: tuple[str, ...], after: str) -> None:
    assert json_edit.set_member(before, path, 1) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"a": 1}', "{}"),
        ('{"a": 1, "b": 2}', '{"b": 2}'),
        ('{"b": 2, "a": 1}', '{"b": 2}'),
        ('{"b": 2, "a": 1, "c": 3}', '{"b": 2, "c": 3}'),
        ('{"b": 2}', '{"b": 2}'),
    ],
)
def test_a_member_is_removed_with_its_comma(before: str, after: str) -> None:
    assert json_edit.remove_member(before, ("a",)) == after


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', "[]", '{"a": 1,}', '{"a": NaN}', "{} {}", '{"a": {"x": 1, "x": 2}}']
)
def test_what_two_readers_read_differently_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        json_edit.set_member(text, ("b",), 1)
