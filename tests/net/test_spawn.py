"""Processes of our own: one function in a fresh interpreter, and the parent of the workers among them."""

import subprocess
import sys
from pathlib import Path

import pytest

from firewall.net.spawn import Job
from tests.net.spawn_main import called, descriptors, tell

START = """
import sys
from firewall.net.spawn import Job
from tests.net.spawn_main import tell

job = Job(tell, "hello")
children = [job.start(number) for number in range(3)]
codes = [child.wait(30) for child in children]
job.close()
print("1 pids", *(child.pid for child in children), sep="|")
print("2 codes", *codes, sep="|")
print("3 path", sys.path[0], sep="|")
"""
BECOME = """
import calendar, os, sys
from firewall.net.spawn import Job
from tests.net.spawn_main import tell

print(os.getpid(), "calendar" in sys.modules, flush=True)
Job(tell, "hello").become(title=("a name",))
"""
# A parent as `bartizan up` makes it, which looks at itself when it would start its first worker.
PARENT = """
import sys
from firewall import parent
from firewall.cli.faults import say_fault
from firewall.net import workers

workers.Supervisor._tend = lambda self, *_: (print(*sys.modules), self.stop())
sys.exit(parent._supervise(b"", 1, False, say_fault))
"""


def python(program: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=30, check=False
    )


def test_a_child_gets_the_arguments_the_numbers_and_the_path_and_its_return_value_is_its_exit_code(root: Path) -> None:
    done = python(START, root)
    lines = sorted(line.split("|") for line in done.stdout.splitlines())
    pids, codes, path = (line[1:] for line in (lines.pop(0) for _ in range(3)))
    assert codes == ["7", "7", "7"]
    assert [line[:2] for line in lines] == [["hello", "0"], ["hello", "1"], ["hello", "2"]]
    assert {line[2] for line in lines} == set(pids)
    assert {line[4] for line in lines} == set(path)


def test_what_a_process_becomes_has_its_id_and_its_output_and_none_of_its_memory(root: Path) -> None:
    done = python(BECOME, root)
    before, after = done.stdout.split("\n")[:2]
    assert before.split()[1] == "True"
    word, pid, loaded, _ = after.split("|")
    assert (word, loaded) == ("hello", "False")
    assert pid == before.split()[0]
    assert done.returncode == 7


@pytest.mark.skipif(not Path("/proc/self/comm").exists(), reason="needs /proc")
def test_a_process_has_the_name_of_its_first_word_and_without_words_the_interpreter_s(
    capfd: pytest.CaptureFixture[str],
) -> None:
    job = Job(called)
    try:
        for title in ((), ("/usr/bin/bartizan", "--config", "x"), ("a-word-that-is-far-too-long",)):
            assert job.start(title=title).wait(30) == 0
    finally:
        job.close()
    plain, named, cut = capfd.readouterr().out.splitlines()
    assert plain.startswith("python")
    assert (named, cut) == ("bartizan", "a-word-that-is-")


def test_a_module_in_the_working_directory_is_not_imported_by_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("pickle", "signal", "io"):
        (tmp_path / f"{name}.py").write_text("print('hijacked', flush=True)\n")
    monkeypatch.chdir(tmp_path)
    twin = subprocess.run([sys.executable, "-c", "import pickle"], capture_output=True, text=True, check=False)
    assert "hijacked" in twin.stdout, "the twin: without -P it would be"
    job = Job(tell, "hello")
    try:
        assert job.start().wait(30) == 7
    finally:
        job.close()
    assert "hijacked" not in capfd.readouterr().out


def test_a_job_keeps_no_descriptor_open_in_its_child(capfd: pytest.CaptureFixture[str]) -> None:
    job = Job(descriptors)
    try:
        assert job.start().wait(30) == 0
    finally:
        job.close()
    shown = capfd.readouterr().out
    assert "'0', '1', '2', '3'" in shown
    assert "'4'" not in shown, "3 is the directory that is read"


def test_the_parent_of_the_workers_loads_neither_an_event_loop_nor_a_room(root: Path) -> None:
    done = python(PARENT, root)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "firewall.net.workers" in loaded
    heavy = {"asyncio", "ssl", "pydantic", "yaml", "firewall.config", "firewall.app", "firewall.cli.main", "argparse"}
    assert not heavy & loaded


def test_a_worker_loads_no_command_and_nothing_that_it_does_not_use(root: Path) -> None:
    done = python("import sys, firewall.app; print(*sys.modules)", root)
    loaded = set(done.stdout.split())
    assert "mcp_gateway.serve" in loaded
    unused = {"aiohttp", "litellm", "openai", "mcp", "a2a", "httpx", "fastapi", "presidio_analyzer", "firewall.cli"}
    assert not unused & loaded
