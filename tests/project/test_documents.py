"""Documents that are made from the code say what the code says."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest


def generator(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", root / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "bartizan.schema.json", "cli.md", "errors.md", "api.md"])
def test_a_document_made_from_the_code_is_current(name: str, root: Path) -> None:
    made = generator(root).DOCUMENTS[name]()
    assert (root / "docs" / name).read_text(encoding="utf-8") == made, "run: .venv/bin/python docs/generate.py"


def test_a_setting_without_words_is_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: without this, a new setting might stay undocumented."""
    module = generator(root)
    monkeypatch.delitem(module.WORDS, "audit.durability")
    with pytest.raises(KeyError):
        module.configuration()


def test_words_without_a_setting_are_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = generator(root)
    monkeypatch.setitem(module.WORDS, "audit.fail_open", "There is none.")
    with pytest.raises(KeyError):
        module.configuration()


def test_no_setting_turns_the_firewall_off(root: Path) -> None:
    paths = {path for path, _ in generator(root).settings()}
    assert not {path for path in paths if "fail_open" in path or "disable" in path or path.endswith(".enabled")}


def test_the_documents_do_not_depend_on_the_terminal(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = generator(root).cli()
    monkeypatch.setitem(os.environ, "COLUMNS", "40")
    assert generator(root).cli() == before
