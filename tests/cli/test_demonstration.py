"""What a newcomer meets beside the happy path: no node, a wrong step, another place for the state."""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import orjson
import pytest

from firewall import parent
from firewall.cli import context, demo
from firewall.cli import main as command
from firewall.config.model import Config
from firewall.decide import bundle as bundles


def test_the_tour_says_that_nothing_runs_though_an_earlier_node_left_its_facts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--state-dir", str(tmp_path), "tour"]) == 3
    (tmp_path / "demo.json").write_bytes(orjson.dumps({"public_url": "http://127.0.0.1:1"}))
    assert command.main(["--state-dir", str(tmp_path), "tour"]) == 3
    assert "mend: run `make run`" in capsys.readouterr().err


def test_the_tour_names_its_steps_to_who_asks_for_none_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--state-dir", str(tmp_path), "tour", "--only", "no such"]) == 2
    assert "secret in arguments" in capsys.readouterr().err


def test_every_command_looks_where_the_demonstration_was_told_to_keep_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BARTIZAN_STATE_DIR", str(tmp_path))
    assert context.state_of(argparse.Namespace(state_dir=None, config=None)) == tmp_path


def test_the_scratch_repository_is_no_protected_path_even_for_root_and_goes_with_the_demonstration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_child", lambda *_: {"url": "", "card_url": "", "control_url": "", "jwks": {}})
    made = demo.start(tmp_path / "state", host="127.0.0.1", port=0, admin_port=0, say=lambda _: None)
    repository = Path(made.facts["repository"])
    try:
        assert repository.is_relative_to(tempfile.gettempdir())
        settings = bundles.read().data["config"]
        assert isinstance(settings, dict)
        assert not str(repository).startswith(tuple(map(str, settings["protected_prefixes"])))
        log = subprocess.run(["git", "log", "--oneline"], cwd=repository, capture_output=True, check=True)
        assert b"first note" in log.stdout
    finally:
        made.stop()
    assert not repository.exists()


DEMONSTRATION = """
import sys, time
from pathlib import Path
from firewall.cli import demo

made = demo.Demo(Path(sys.argv[1]), {}, {})
demo._child(made, "demo_mcp_server.py", "--control-port", "0")
print(made.children[0].pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own way, of Linux")
def test_an_upstream_of_the_demonstration_ends_with_it_however_it_ended(tmp_path: Path, root: Path) -> None:
    parent_of = subprocess.Popen(
        [sys.executable, "-c", DEMONSTRATION, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    try:
        assert parent_of.stdout is not None
        child = Path("/proc") / parent_of.stdout.readline().strip() / "cmdline"
        assert b"demo_mcp_server" in child.read_bytes()
    finally:
        parent_of.kill()
        parent_of.communicate()
    until = time.monotonic() + 15
    while child.exists() and child.read_bytes():  # a zombie has no words
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_port_that_is_taken_or_a_state_that_cannot_be_is_told_before_anything_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_child", lambda *_: pytest.fail("nothing is to be started"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert command.main(["--state-dir", str(tmp_path), "up", "--port", port, "--admin-port", "0"]) == 4
    said = capsys.readouterr().err
    assert f"port {port}" in said
    (tmp_path / "file").touch()
    assert command.main(["--state-dir", str(tmp_path / "file" / "below"), "up"]) == 4
    assert "--state-dir DIR" in capsys.readouterr().err
    assert "make run ARGS=" in said


def test_ports_of_the_demonstration_are_not_taken_for_those_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bartizan.yaml").write_text("version: 1\n")
    assert command.main(["--config", str(tmp_path / "bartizan.yaml"), "up", "--port", "0"]) == 2
    assert "listeners" in capsys.readouterr().err


def test_a_state_directory_that_is_named_is_used_instead_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bartizan.yaml").write_text("version: 1\nstate_dir: /nowhere\n")
    served = []

    def become(config: Config, **_: object) -> NoReturn:
        served.append(config.state)
        raise SystemExit(0)

    monkeypatch.setattr(parent, "become", become)  # the real one would replace the process of these tests
    there = str(tmp_path / "state")
    with pytest.raises(SystemExit):
        command.main(["--config", str(tmp_path / "bartizan.yaml"), "--state-dir", there, "up"])
    assert served == [tmp_path / "state"]


@pytest.mark.parametrize(
    "keys", [(), ("OPENAI_API_KEY",), ("ANTHROPIC_API_KEY",), ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")]
)
def test_each_protocol_has_a_model_the_real_one_where_its_key_is_set(
    keys: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(demo, "_child", lambda *given: started.append(given) or {"url": "http://127.0.0.1:1/v1"})
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    for variable in keys:
        monkeypatch.setenv(variable, "sk-of-the-newcomer")
    told: list[str] = []
    llm = demo._provider(demo.Demo(tmp_path, {}, {}), told.append)
    config = Config.model_validate({"llm": llm})
    assert "sk-of-the-newcomer" not in repr(config) + repr(told)
    assert len(started) == (len(keys) < 2)  # one local provider speaks both
    for alias, protocol in (("demo", "openai"), ("demo-messages", "anthropic")):
        provider = config.llm.providers[config.llm.models[alias].provider]
        assert provider.protocol == protocol
        assert provider.base_url.startswith("https://api.") == (f"{protocol.upper()}_API_KEY" in keys)
    if "ANTHROPIC_API_KEY" in keys:
        credential = config.llm.providers["anthropic"].credential
        assert credential is not None
        assert (credential.header, credential.scheme) == ("x-api-key", "")
