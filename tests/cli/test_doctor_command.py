"""`bartizan doctor` beside a running node: whether what it says is about the file that was named."""

from pathlib import Path

import orjson
import pytest

from firewall.admin.doctor import Check
from firewall.cli import doctor
from tests.cli.test_commands import Node, node

__all__ = ["node"]  # the fixture


def written(node: Node, path: Path, **changes: object) -> str:
    """Write the file that the node runs with, changed."""
    values = node.room.parts.config.model_dump(mode="json", exclude_unset=True)
    path.write_bytes(orjson.dumps({**values, **changes}))
    return str(path)


def told(node: Node, path: str) -> dict[str, str]:
    code, out, err = node.run("--config", path, "doctor", "--json")
    assert code in (0, 1), err
    found: dict[str, str] = next(check for check in orjson.loads(out)["checks"] if check["name"] == "config")
    return found


def test_a_node_that_runs_with_the_file_is_told_so(node: Node, tmp_path: Path) -> None:
    same = told(node, written(node, tmp_path / "bartizan.yaml", workers=3))
    assert (same["status"], same["evidence"]) == ("ok", "")
    assert same["text"].endswith("a node runs with it")


def test_a_file_that_was_edited_since_the_start_is_not_what_was_examined(node: Node, tmp_path: Path) -> None:
    edited = told(node, written(node, tmp_path / "bartizan.yaml", identity={"access_token_s": 60}, tenant="other"))
    assert (edited["status"], edited["evidence"]) == ("warn", "different: identity, tenant")
    assert "restart it" in edited["mend"]


def test_without_the_comparison_it_would_pass_for_the_file_that_was_named(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin."""
    monkeypatch.setattr(doctor, "_runs_with", lambda _config, source, _running: Check("config", "ok", source))
    path = written(node, tmp_path / "bartizan.yaml", tenant="other")
    assert told(node, path)["status"] == "ok"
