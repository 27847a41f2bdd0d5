"""A real node in a process of its own, driven by the command line as an operator would."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.support.composed import free_port

# A first start judges the policy where no valid verdict ships beside it, which takes its time.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]
COMMAND = [sys.executable, "-m", "firewall.cli.main"]


def bartizan(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--config", str(config), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Serve an empty node for this module; it must end within two seconds of SIGINT."""
    folder = tmp_path_factory.mktemp("node")
    path, port = folder / "bartizan.yaml", free_port()
    path.write_text(
        f"public_url: http://127.0.0.1:{port}\nstate_dir: {folder / 'state'}\n"
        f"listeners: {{data: {{port: {port}}}, admin: {{port: {free_port()}}}}}\n"
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*COMMAND, "--config", str(path), "up"], stdout=log, stderr=log)
    until = time.monotonic() + 150
    while "Bartizan is up" not in (folder / "log").read_text():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.05)
    yield path
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert time.monotonic() - asked < 4  # two seconds are the promise; the rest is for a shared machine
    assert not (folder / "state" / "admin.sock").exists()


def test_an_operator_finds_the_node_well_and_uses_it(config: Path) -> None:
    done = bartizan(config, "doctor", "--json")
    document = orjson.loads(done.stdout)
    assert (done.returncode, document["ok"]) == (0, True), done.stdout
    assert bartizan(config, "servers", "register", "notes", "--url", "https://n.example/mcp").returncode == 0
    assert bartizan(config, "servers", "approve", "notes").returncode == 0
    until = time.monotonic() + 10
    while (done := bartizan(config, "token", "--resource", "/mcp/notes")).returncode:
        assert time.monotonic() < until, done.stderr  # served as soon as the worker sees the new epoch
    assert done.stdout.count(".") == 2
    assert bartizan(config, "audit", "verify").returncode == 0
    assert "servers" not in bartizan(config, "explain", "none").stdout


def test_a_second_node_on_the_same_ports_is_told_why(config: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bartizan.yaml"
    # The judged policy and compiled patterns of the first: this test is not about making them anew.
    shutil.copytree(config.parent / "state" / "cache", tmp_path / "other" / "cache")
    copy.write_text(config.read_text().replace("state_dir:", f"state_dir: {tmp_path / 'other'} #"))
    # Without standard streams the files of its workers would get their numbers.
    for streams in ("", "<&-", "<&- >&-"):
        line = f'exec "$@" {streams}'
        command = ["sh", "-c", line, "sh", *COMMAND, "--config", str(copy), "up"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 4, (streams, done.stderr)
        assert "cannot bind" in done.stderr
        assert "Traceback" not in done.stderr
