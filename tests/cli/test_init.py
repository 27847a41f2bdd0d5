"""`init`, `config check` and the words of `policy check`: a first file that is right, and faults told where they stand."""

import json
import shutil
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firewall import config as configuration
from firewall.cli import main as command
from firewall.decide.bundle import default_path
from firewall.record.note import Verifier

COMMENTED = (
    "# files:",
    "#   ",
    "# a2a:",
    "# llm:",
    "# tls:",
    "# credential:",
    "# asks:",
    "# directory:",
    "# bundle:",
    "# providers:",
    "# clients:",
    "# cimd:",
)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = command.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def uncommented(text: str) -> str:
    """Return the file with every setting in force that it shows in a comment."""
    lines = []
    for line in text.splitlines():
        indent, rest = line[: len(line) - len(line.lstrip(" "))], line.lstrip(" ")
        lines.append(indent + rest[2:] if rest.startswith(COMMENTED) else line)
    return "\n".join(lines)


def test_the_file_is_well_formed_and_so_is_everything_that_it_shows_in_comments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "init", tmp_path)
    path = tmp_path / "bartizan.yaml"
    assert code == 0
    assert f"bartizan config check --config {path}" in out
    found = configuration.load(path, {})
    assert list(found.mcp) == ["example"]
    assert run(capsys, "config", "check", "--config", path)[0] == 0
    path.write_text(uncommented(path.read_text()))
    code, out, err = run(capsys, "config", "check", "--config", path, "--shape-only")
    assert code == 0, err
    assert "2 MCP servers, 1 agent, 1 model." in out
    shown = configuration.load(path, {}).identity
    assert (list(shown.providers), list(shown.clients), shown.cimd.hosts) == (
        ["corp"],
        ["desktop", "nightly"],
        ("app.example.com",),
    )


def test_every_setting_of_the_file_is_explained_beside_or_above_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "init", tmp_path)
    explained = False
    for line in (tmp_path / "bartizan.yaml").read_text().splitlines():
        said = "#" in line
        assert said or explained or not line.strip(), line
        explained = said or (bool(line.strip()) and explained)


def test_a_file_that_is_there_is_replaced_by_force_only_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bartizan.yaml"
    path.write_text("mine")
    code, _, err = run(capsys, "init", tmp_path)
    assert (code, path.read_text()) == (4, "mine")
    assert "--force" in err
    for number in ("", "2"):
        code, out, _ = run(capsys, "init", "--force", tmp_path)
        assert code == 0
        assert f"bartizan.yaml.bak{number}" in out
    assert (tmp_path / "bartizan.yaml.bak").read_text() == "mine"
    link = tmp_path / "other" / "bartizan.yaml"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    assert run(capsys, "init", link.parent)[0] == 4
    assert not (tmp_path / "nowhere").exists()


def test_ports_and_origin_fit_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "init", "--port", "9000", tmp_path / "b.yaml")
    found = configuration.load(tmp_path / "b.yaml", {})
    assert (found.public_url, found.listeners.data.port) == ("http://127.0.0.1:9000", 9000)


def test_the_state_directory_that_is_named_stands_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "init", tmp_path / "plain")
    odd = tmp_path / "a # place: with words"
    run(capsys, "--state-dir", odd, "init", tmp_path / "named")
    assert configuration.load(tmp_path / "plain" / "bartizan.yaml", {}).state_dir == Path("~/.local/state/bartizan")
    assert configuration.load(tmp_path / "named" / "bartizan.yaml", {}).state_dir == odd


@pytest.mark.parametrize("name", ["a b", "a+b", "", "a\tb", "...", "n" * 64, "n\u00f6de"])
def test_a_node_name_that_could_not_sign_the_log_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "bartizan.yaml"
    path.write_text(f"version: 1\nnode: {json.dumps(name)}\n")
    code, _, err = run(capsys, "config", "check", "--shape-only", "--config", path)
    assert code == 4
    assert "node" in err
    assert "letters, digits" in err


@pytest.mark.parametrize("name", ["node-1", "fw.example", "A_1", "n" * 63])
def test_a_node_name_that_can_sign_the_log_is_taken(name: str) -> None:
    assert configuration.build({"version": 1, "node": name}).node == name
    assert Verifier.of(f"{name}.bartizan/audit", Ed25519PrivateKey.generate().public_key()).name.startswith(name)


def test_config_check_names_what_this_machine_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    path = tmp_path / "bartizan.yaml"
    path.write_text(
        "mcp:\n"
        "  one: {command: [no-such-program-anywhere], read: [/no/such/place], credential: {env: NOT_SET_HERE}}\n"
        f"  two: {{command: [{tmp_path}/gone]}}\n"
        "policy: {bundle: /no/such/policies}\n"
    )
    code, out, _ = run(capsys, "config", "check", "--config", path, "--json")
    told = orjson.loads(out)
    lacks = told["lacks"]
    # The policies are the one thing of these that a node cannot start without.
    assert (code, [(fault["code"], fault["line"]) for fault in told["faults"]]) == (4, [("policy_files", 4)])
    for words in (
        "no-such-program-anywhere in",
        "/gone",
        "there is no /no/such/place",
        "policy.bundle",
        "NOT_SET_HERE",
    ):
        assert any(words in line for line in lacks), words
    assert run(capsys, "config", "check", "--config", path, "--shape-only")[0] == 0


def test_config_check_names_every_secret_and_place_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin is the same file on a machine that has them."""
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    (tmp_path / "taken").write_text("a file, no directory")
    keys = tmp_path / "keys.json"
    path = tmp_path / "bartizan.yaml"
    path.write_text(
        f"state_dir: {tmp_path}/state\n"
        "identity: {signals: {corp: {issuer: https://i.example, jwks_uri: https://i.example/k,"
        " push_secret: 'env:NOT_SET_HERE'}}}\n"
        "mcp: {tickets: {url: https://t.example/mcp, auth: {ways: [client], issuer: https://i.example, client_id: b,"
        f" secret_file: {keys}}}}}}}\n"
        f"audit: {{directory: {tmp_path}/taken/audit, spool: {tmp_path}/spool}}\n"
    )
    code, out, _ = run(capsys, "config", "check", "--config", path, "--json")
    assert (code, orjson.loads(out)["lacks"]) == (
        1,
        [
            f"audit.directory: {tmp_path}/taken is not a directory",
            "identity.signals.corp.push_secret: the variable NOT_SET_HERE is not set here",
            f"mcp.tickets.auth.secret_file: there is no {keys}",
        ],
    )
    monkeypatch.setenv("NOT_SET_HERE", "x" * 20)
    keys.write_text("x" * 20)
    (tmp_path / "taken").unlink()
    assert run(capsys, "config", "check", "--config", path)[0] == 0


def test_config_check_refuses_a_provider_that_could_not_be_safe_and_names_a_missing_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    path = tmp_path / "bartizan.yaml"
    whole = "identity: {providers: {corp: {issuer: %s, client_id: x, client_secret: '%s'}}}\n"
    path.write_text(whole % ("https://idp.example", "env:NOT_SET_HERE"))
    code, out, _ = run(capsys, "config", "check", "--config", path)
    assert (code, "NOT_SET_HERE is not set here" in out) == (1, True)
    for issuer, secret in (("http://idp.example", "env:X"), ("https://idp.example", "the-secret-itself")):
        path.write_text(whole % (issuer, secret))
        code, out, err = run(capsys, "config", "check", "--config", path)
        assert code == 4
        assert "the-secret-itself" not in out + err


def test_a_syntax_error_in_a_policy_is_told_at_its_own_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "policies"
    shutil.copytree(default_path(), bundle)
    broken = bundle / "firewall" / "rules" / "tools.rego"
    lines = broken.read_text().splitlines()
    lines[40] = "x := {"
    broken.write_text("\n".join(lines))
    code, out, err = run(capsys, "--state-dir", tmp_path, "policy", "check", "--bundle", bundle)
    told = out + err
    assert code != 0
    assert "grants_missing" not in told
    (line,) = [part for part in told.splitlines() if "parse_error" in part]
    number = int(line.partition("tools.rego:")[2].partition(":")[0])
    assert 41 <= number <= 44
    assert "column" in line
    assert "backtrace" not in told.lower()
