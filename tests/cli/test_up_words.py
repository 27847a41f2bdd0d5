"""What `bartizan up` says before it serves, without a node."""

import shutil
from pathlib import Path

from firewall import config as configuration
from firewall.cli import up
from firewall.core.upstream_words import upstream_words
from firewall.decide import bundle as bundles
from firewall.nucleus import Paths


def said(tmp_path: Path, bundle: Path | None) -> str:
    lines: list[str] = []
    document = {"public_url": "http://127.0.0.1:8700", "state_dir": str(tmp_path / "state")}
    policy = {"policy": {"bundle": str(bundle)}} if bundle else {}
    up._say_test(configuration.build({**document, **policy}), lines.append)
    return "\n".join(lines)


def own_bundle(tmp_path: Path) -> Path:
    """Return a copy of the shipped policies with one byte more, so that no verdict fits it."""
    shutil.copytree(bundles.default_path(), copy := tmp_path / "own")
    rules = next(file for file in sorted(copy.rglob("*.rego")) if not file.name.endswith("_test.rego"))
    rules.write_text(rules.read_text() + "\n")
    return copy


def test_a_bundle_that_nobody_tested_is_said_to_be_tested_now_and_how_to_do_it_before(tmp_path: Path) -> None:
    told = said(tmp_path, own_bundle(tmp_path))
    assert "once, about two minutes" in told
    assert "bartizan policy check --write" in told


def test_nothing_is_said_of_a_bundle_whose_verdict_is_kept(tmp_path: Path) -> None:
    copy = own_bundle(tmp_path)
    cache = Paths(tmp_path / "state").cache
    bundles._keep(cache, bundles.cache_key(bundles.read(copy)), ("interpreter", "self-test: too slow", {}, 7))
    assert said(tmp_path, copy) == ""  # in the state directory
    shutil.copytree(bundles.default_path(), shipped := tmp_path / "shipped")
    assert said(tmp_path / "new", shipped) == ""  # beside the policies
    assert said(tmp_path, None) == ""


def test_a_bundle_that_cannot_be_read_is_left_to_the_start_to_refuse(tmp_path: Path) -> None:
    assert said(tmp_path, tmp_path / "none") == ""


def test_a_url_that_cannot_be_reached_is_not_told_as_a_caged_program() -> None:
    assert "caged program" in " ".join(upstream_words("unreachable"))
    for code in ("unreachable", "cut_stream", "timeout", "malformed"):
        assert not any(word in " ".join(upstream_words(code, remote=True)) for word in ("program", "command", "start"))
    assert upstream_words("denied", remote=True) == upstream_words("denied")


def test_the_screen_says_of_each_client_what_the_list_of_clients_says() -> None:
    lines = up._untried("http://127.0.0.1:8700", "time", "bartizan")
    assert any(line.startswith("  Claude Code    tried by hand with ") for line in lines)
    assert "  Cursor         not tried (~/.cursor/mcp.json)" in lines
