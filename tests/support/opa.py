"""A real OPA server for tests, on a unix socket: `make opa` builds the program."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from firewall.decide.bundle import Bundle
from firewall.decide.opa_server import write_for_opa

MISSING = "no `opa` on PATH: run `make opa` to compare every decision with the reference engine"


@dataclass(frozen=True)
class OpaProcess:
    """Where it listens (``unix:/…``), and the program itself."""

    address: str
    program: str


def start_opa(bundle: Bundle, directory: Path) -> Iterator[OpaProcess]:
    """Yield a running server with a bundle, then stop it."""
    program = shutil.which("opa")
    if program is None:
        pytest.skip(MISSING)
    write_for_opa(bundle, directory / "bundle")
    # A unix socket's path may have some 100 characters only: not every temporary directory is short enough.
    with tempfile.TemporaryDirectory(prefix="opa") as short:
        path = Path(short, "s")
        log = (directory / "opa.log").open("wb")
        process = subprocess.Popen(
            [
                program,
                "run",
                "--server",
                "--addr",
                f"unix://{path}",
                "--disable-telemetry",
                "--log-level",
                "error",
                "-b",
                str(directory / "bundle"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        log.close()
        try:
            _wait_for(path, process, directory / "opa.log")
            yield OpaProcess(f"unix:{path}", program)
        finally:
            process.terminate()
            process.wait(timeout=10)


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 15
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
                return
            except OSError:
                time.sleep(0.05)
    pytest.fail(f"opa did not start: {log.read_text()[-500:]}")
