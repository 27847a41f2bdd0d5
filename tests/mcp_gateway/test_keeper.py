"""Whatever a program starts ends with it, and with us: no process outlives its death or ours (ISO-02, LO-2)."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_gateway import sandbox
from mcp_gateway.sandbox import END_ALL, Cage, command, detect
from tests.support.mcp import NO_WALLS, running, spec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process namespaces and death signals are Linux's")
SUPPORT = detect()
WALLS = [
    pytest.param(True, id="namespace", marks=pytest.mark.skipif(not SUPPORT.network, reason="no namespaces here")),
    pytest.param(False, id="adopted"),
]
# Starts a helper in its group, one that left it, and one that was orphaned twice; then waits, deaf to polite requests.
HIDES = """
import os, signal, subprocess, sys, time
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeps = [sys.executable, "-c", "import time; time.sleep(60)", sys.argv[1]]
subprocess.Popen(sleeps)
subprocess.Popen(sleeps, start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sleeps[0], sleeps)
    os._exit(0)
os.wait()
print("started", flush=True)
if sys.argv[2] == "leaves":
    sys.exit(7)
time.sleep(60)
"""


def running_with(word: str) -> list[int]:
    """Return the processes that have a word among their arguments and are no zombies."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (place / "cmdline").read_bytes().split(b"\0"):
                state = (place / "stat").read_text().rsplit(")", 1)[1].split()[0]
                found += [int(place.name)] if state != "Z" else []
    return found


async def gone(word: str) -> bool:
    """Wait until no such process is left."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while running_with(word):
                await asyncio.sleep(0.02)
    return not running_with(word)


async def there(word: str, count: int) -> None:
    """Wait until so many run: one that is just becoming another program has no arguments for a moment."""
    async with asyncio.timeout(10):
        while len(running_with(word)) < count:
            await asyncio.sleep(0.02)


@pytest.fixture
async def word() -> AsyncIterator[str]:
    """A word that marks this test's processes; those that are left are ended."""
    marked = secrets.token_hex(12)
    yield marked
    for pid in running_with(marked):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cage(word: str, how: str, cwd: Path, *, apart: bool, parent: int = 0) -> Cage:
    """Return a cage with the one wall that matters here, or with none."""
    argv = (sys.executable, "-c", HIDES, word, how)
    return Cage(argv, {"PATH": "/usr/bin"}, str(cwd), landlock=False, seccomp=False, network=apart, parent=parent)


async def started(given: Cage) -> asyncio.subprocess.Process:
    """Start a cage in a group of its own, as `stdio` does, and wait until its helpers run."""
    argv, fd = command(given)
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, env={}, pass_fds=(fd,), start_new_session=True
        )
    finally:
        os.close(fd)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"started\n"
    return process


@pytest.mark.parametrize("apart", WALLS)
async def test_helpers_end_with_their_program(apart: bool, word: str, tmp_path: Path):
    process = await started(cage(word, "leaves", tmp_path, apart=apart))
    assert await process.wait() == 7
    assert await gone(word)


@pytest.mark.parametrize("apart", WALLS)
async def test_helpers_end_with_a_program_that_is_told_to(apart: bool, word: str, tmp_path: Path):
    process = await started(cage(word, "polite", tmp_path, apart=apart))
    os.killpg(process.pid, signal.SIGTERM)
    assert await process.wait() == 128 + signal.SIGTERM
    assert await gone(word)


@pytest.mark.parametrize("apart", WALLS)
async def test_the_keeper_ends_a_program_that_does_not_listen_and_all_its_helpers(
    apart: bool, word: str, tmp_path: Path
):
    process = await started(cage(word, "deaf", tmp_path, apart=apart))
    os.killpg(process.pid, signal.SIGTERM)
    await asyncio.sleep(0.05)
    await there(word, 4)
    process.send_signal(END_ALL)
    await process.wait()
    assert await gone(word)


@pytest.mark.skipif(not SUPPORT.network, reason="no namespaces here")
async def test_a_namespace_ends_with_a_keeper_that_is_killed(word: str, tmp_path: Path):
    process = await started(cage(word, "deaf", tmp_path, apart=True))
    process.kill()
    await process.wait()
    assert await gone(word)


async def test_without_a_keeper_what_left_the_group_would_outlive_all(word: str, tmp_path: Path):
    """The twin: the same program, started as it is."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HIDES, word, "leaves", stdout=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    assert await process.wait() == 7
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        while len(running_with(word)) > 2:
            await asyncio.sleep(0.02)
    assert len(running_with(word)) == 2


@pytest.mark.parametrize("apart", WALLS)
async def test_everything_ends_with_a_gateway_that_is_killed(apart: bool, word: str, tmp_path: Path):
    script = tmp_path / "gateway.py"
    script.write_text(
        "import os, subprocess, sys, time\n"
        "from mcp_gateway.sandbox import Cage, command\n"
        "given = Cage((sys.executable, '-c', *sys.argv[1:4]), {}, sys.argv[4], landlock=False, seccomp=False,\n"
        "             network=sys.argv[5] == 'True', parent=os.getpid())\n"
        "argv, fd = command(given)\n"
        "child = subprocess.Popen(argv, pass_fds=(fd,), stdout=subprocess.PIPE, start_new_session=True)\n"
        "print(child.stdout.readline().decode(), flush=True)\n"
        "time.sleep(60)\n"
    )
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, script, HIDES, word, "deaf", tmp_path, str(apart)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(sandbox.__file__).parents[1])},
    )
    assert gateway.stdout is not None
    assert await gateway.stdout.readline() == b"started\n"
    await there(word, 5)
    gateway.kill()
    await gateway.wait()
    assert await gone(word)


@pytest.mark.flow
@pytest.mark.parametrize("walls", [SUPPORT, NO_WALLS], ids=["walls", "none"])
async def test_a_server_that_hides_its_helpers_is_ended_whole_when_its_gateway_closes(walls, word: str, tmp_path: Path):
    child = Path(__file__).with_name("child.py")
    hides = HIDES.replace('print("started", flush=True)\n', "").partition('if sys.argv[2] == "leaves"')[0]
    code = f"{hides}\nsys.argv = ['child']\nexec(compile(open({str(child)!r}).read(), 'child', 'exec'))"
    one = spec(
        "kid",
        transport="stdio",
        command=(sys.executable, "-c", code, word, "deaf"),
        unsandboxed=True,
        read=(str(child), sys.prefix, sys.base_prefix),
    )
    async with running(one, support=walls, scratch=str(tmp_path / "scratch")) as stack:
        assert (await stack.modern("/mcp/kid", "tools/list")).status_code == 200
        await there(word, 4)
    assert await gone(word)


# A keeper that is told to end all just when its program has ended: it has been waited for, what it left has not.
TOLD_LATE = """
import os, signal, subprocess, sys
from mcp_gateway import sandbox
waits = sandbox._wait_for

def waited(program):
    code = waits(program)
    os.kill(os.getpid(), sandbox.END_ALL)
    return code

sandbox._wait_for = waited
sandbox._keep(None, "", apart=False)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", sys.argv[1]], start_new_session=True)
os._exit(7)
"""


async def test_a_keeper_that_is_told_as_its_program_ends_still_ends_what_it_left() -> None:
    word = secrets.token_hex(8)
    keeper = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TOLD_LATE, word, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert await asyncio.wait_for(keeper.wait(), 20) == 128 + signal.SIGKILL
        assert running_with(word) == []
    finally:
        for pid in running_with(word):
            os.kill(pid, signal.SIGKILL)
