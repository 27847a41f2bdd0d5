"""A run that was ended by its watchdog stands in the audit log: by its own last word, or by that of the next run."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from firewall.record.record import RUN_ENDED, validate_record
from tests.support.composed import audit_records, warm_cache
from tests.support.pipe import CHILD, Pipe, bartizan, piped

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

# In the guard, not in its child. What is stuck: a thread can speak; nothing can, not even a thread; it has the log.
HANGS = {
    "a call that blocks": "lambda *_: time.sleep(600)",
    "native code that holds the lock": "lambda *_: sum(range(10**13))",
    "whoever holds the log": "hold",
}
SITE = """
import gc, signal, time

def hold(*_):
    from firewall.record.audit import AuditWriter
    for one in gc.get_objects():
        if isinstance(one, AuditWriter):
            one._lock.acquire()
    time.sleep(600)

signal.signal(signal.SIGUSR1, {hang})
"""


@pytest.fixture(autouse=True)
def _compiled(tmp_path: Path) -> None:
    with warm_cache(tmp_path / "xdg" / "bartizan"):
        pass


def ended(pipe: Pipe) -> list[dict[str, Any]]:
    found = [record for record in audit_records(pipe.state / "audit") if record["kind"] == RUN_ENDED]
    for record in found:
        validate_record(record)
    return found


def stuck(home: Path, hang: str) -> tuple[Pipe, int]:
    """Run a guard until its watchdog has ended it; return it and its exit code."""
    (home / "hangs").mkdir(exist_ok=True)
    (home / "hangs" / "sitecustomize.py").write_text(SITE.format(hang=HANGS[hang]))
    environ = {"PYTHONPATH": str(home / "hangs")}
    with piped(home, (sys.executable, str(CHILD)), "--stuck-after", "1.5", environ=environ) as pipe:
        pipe.open()
        pipe.process.send_signal(signal.SIGUSR1)
        pipe.said("most recent call first" if "native" in hang else "stood still")
        return pipe, pipe.process.wait(timeout=30)


@pytest.mark.parametrize("hang", HANGS)
def test_a_run_that_stood_still_is_recorded_once_by_itself_or_by_the_next(tmp_path: Path, hang: str) -> None:
    began = time.time_ns() // 1000
    first, code = stuck(tmp_path, hang)
    by_itself = hang == "a call that blocks"
    assert code == (-signal.SIGPROF if "native" in hang else 5)
    assert len(ended(first)) == by_itself
    with piped(tmp_path) as pipe:
        pipe.open()
        assert pipe.end()[0] == 0
        told = "".join(pipe.stderr)
        assert ("the run before stood still, and was ended by its watchdog" in told) == (not by_itself)
    with piped(tmp_path) as pipe:  # and told once
        pipe.open()
        assert pipe.end()[0] == 0
        (record,) = ended(pipe)
    assert (record["fault"], record["object"], record["tenant"]) == ("stuck", "child", "default")
    assert began < record["begun_us"] < record["time_us"]
    assert record["silent_s"] >= (0 if "native" in hang else 1)
    assert list((pipe.state / "runs").iterdir()) == []
    shown = bartizan(tmp_path, "--run", "child", "audit", "show", "--kind", RUN_ENDED)
    assert (shown.returncode, "stuck" in shown.stdout, "child" in shown.stdout) == (0, True, True), shown.stderr


def test_a_run_that_was_killed_is_recorded_as_that_and_one_that_stopped_is_not(tmp_path: Path) -> None:
    with piped(tmp_path) as pipe:
        pipe.open()
        pipe.end(signal.SIGKILL)
    for how in (signal.SIGTERM, None):
        with piped(tmp_path) as pipe:
            pipe.open()
            assert pipe.end(how)[0] == 0
            assert "stood still" not in "".join(pipe.stderr)
    (record,) = ended(pipe)
    assert (record["fault"], record["silent_s"]) == ("killed", 0)


def test_a_run_beside_another_of_its_name_does_not_take_it_for_dead(tmp_path: Path) -> None:
    with piped(tmp_path) as one:
        one.open()
        with piped(tmp_path) as other:
            other.open()
            assert other.end()[0] == 0
        assert one.text("fine") == "fine"
        assert ended(one) == []
        assert one.end()[0] == 0
    assert ended(one) == []
