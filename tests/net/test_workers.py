"""Workers: one port for all, a dead one comes back, a stuck one is killed, everything is down in two seconds."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from firewall import parent
from firewall.core.errors import CONFIG_EXIT, ConfigFault
from firewall.net.runtime import SystemClock
from firewall.net.server import Listener, bind
from firewall.net.workers import Supervisor, WorkerSettings, check_free, reserve_port
from tests.net.worker_main import hopeless, serve, slow_last

PROGRAM = """
import sys
from firewall.net.runtime import SystemClock
from firewall.net.workers import Supervisor, WorkerSettings, reserve_port
from tests.net.worker_main import serve

if __name__ == "__main__":
    held = reserve_port("127.0.0.1", 0)
    say = lambda event, index: print(event, index, flush=True)
    print("port", held.getsockname()[1], flush=True)
    sys.exit(Supervisor(serve, held.getsockname()[1], WorkerSettings(2, stuck_s=0.6), SystemClock(), say).run())
"""


def get(port: int, path: str = "/") -> int:
    """Return the pid that answered, 0 when nobody did."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while chunk := client.recv(4096):
                data += chunk
        return int(data.rpartition(b"\r\n\r\n")[2] or b"0")
    except OSError:
        return 0


def eventually(condition: Callable[[], object], seconds: float = 15) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.05)


@contextmanager
def program(root: Path, *before: str) -> Iterator[tuple[subprocess.Popen[str], int, list[str]]]:
    """The supervisor in its own process group, since it owns the signals."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", PROGRAM],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    port = int(process.stdout.readline().split()[1])
    events: list[str] = []
    reader = threading.Thread(target=lambda: events.extend(line.strip() for line in process.stdout or ()), daemon=True)
    reader.start()
    try:
        yield process, port, events
    finally:
        process.kill()
        process.wait()
        reader.join(5)
        process.stdout.close()


def pids(port: int) -> set[int]:
    return {get(port) for _ in range(12)} - {0}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def unnamed_files() -> list[bytes]:
    """Return what any process of our user could read by way of /proc: files of this process that have no name."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if os.readlink(path).endswith(" (deleted)"):  # memory's too: "/memfd:bartizan (deleted)"
                found.append(path.read_bytes())
    return found


def test_workers_share_a_port_come_back_when_dead_or_stuck_and_end_together(root: Path) -> None:
    with program(root) as (process, port, events):
        eventually(lambda: len(pids(port)) == 2)
        first = pids(port)
        get(port, "/die")
        eventually(lambda: any(event.startswith("died") for event in events))
        eventually(lambda: len(pids(port)) == 2 and pids(port) != first)
        second = pids(port)
        get(port, "/stick")
        eventually(lambda: any(event.startswith("stuck") for event in events))
        eventually(lambda: len(pids(port)) == 2 and pids(port) != second)
        last = pids(port)
        open_stream = socket.create_connection(("127.0.0.1", port))
        open_stream.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert open_stream.recv(10)
        began = time.monotonic()
        process.terminate()
        assert process.wait(5) == 0
        assert time.monotonic() - began < 2.2
        open_stream.close()
        assert not any(alive(pid) for pid in last)
        assert get(port) == 0


def test_workers_end_when_their_parent_is_killed(root: Path) -> None:
    with program(root) as (process, port, _):
        eventually(lambda: len(pids(port)) == 2)
        process.kill()
        process.wait()
        eventually(lambda: get(port) == 0)


def test_a_terminal_that_closes_ends_all_in_order_and_nohup_stays(root: Path) -> None:
    with program(root) as (process, port, events):
        eventually(lambda: len(pids(port)) == 2)
        os.killpg(process.pid, signal.SIGHUP)
        assert process.wait(5) == 0
        eventually(lambda: sum(event.startswith("stopped") for event in events) == 2)
        assert not any(event.startswith("died") for event in events)
    with program(root, "nohup") as (process, port, events):
        eventually(lambda: len(pids(port)) == 2)
        os.killpg(process.pid, signal.SIGHUP)
        time.sleep(0.3)
        assert len(pids(port)) == 2
        assert process.poll() is None
        process.terminate()
        assert process.wait(5) == 0


def test_a_worker_that_dies_at_once_is_started_with_growing_pauses() -> None:
    starts: list[float] = []

    def note(event: str, _index: int) -> None:
        if event == "started":
            starts.append(time.monotonic())
        if len(starts) == 3:
            supervisor.stop()

    supervisor = Supervisor(serve, "not a port", WorkerSettings(1), SystemClock(), note)
    supervisor.run()
    assert len(starts) == 3
    assert supervisor.pids() == []


def test_one_worker_says_once_that_all_are_ready_and_all_know_one_secret(tmp_path: Path) -> None:
    supervisor = Supervisor(slow_last, tmp_path, WorkerSettings(3), SystemClock())
    open_to_all: list[bytes] = []

    def watch() -> None:
        eventually(lambda: len(list(tmp_path.glob("second*"))) == 2)
        open_to_all.extend(unnamed_files())
        supervisor.stop()

    said = threading.Thread(target=watch)
    said.start()
    assert supervisor.run() == 0
    said.join()
    late, secret = (tmp_path / "up").read_text().split()
    assert late == "True", "it was said before the last one was ready"
    assert len(bytes.fromhex(secret)) == 32
    assert {path.read_text() for path in tmp_path.glob("second*")} == {secret}
    assert any(b"slow_last" in content for content in open_to_all), "the twin: the job itself can be read there"
    assert not any(bytes.fromhex(secret) in content for content in open_to_all)


def test_what_no_new_start_would_mend_ends_all_with_its_own_code_and_is_told_once(tmp_path: Path) -> None:
    settings = WorkerSettings(2, hopeless=frozenset({4}))
    told = []
    supervisor = Supervisor(hopeless, tmp_path, settings, SystemClock(), lambda event, _: told.append(event))
    assert supervisor.run() == 4
    assert set(told) == {"started", "stopped"} or set(told) == {"started"}, "it said itself why"
    assert (tmp_path / "fault").read_text() == "x"


def test_a_stop_of_the_whole_job_is_no_silence_of_its_workers(root: Path) -> None:
    with program(root) as (process, port, events):  # stuck_s is 0.6 there
        eventually(lambda: len(pids(port)) == 2)
        first = pids(port)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in (process.pid, *first):
                os.kill(pid, number)
            if number == signal.SIGSTOP:
                time.sleep(1.6)  # the twin of a suspend: longer than any silence allowed
        assert pids(port) == first
        time.sleep(0.3)
        assert not any(event.startswith("stuck") for event in events)
        assert pids(port) == first


def test_a_reserved_port_is_held_without_being_served() -> None:
    held = reserve_port("127.0.0.1", 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(held.getsockname(), timeout=1)
    held.close()


def listening(port: int = 0) -> socket.socket:
    """Return what a worker of several listens on."""
    sock = bind(Listener("data", "127.0.0.1", port, unserved, reuse_port=True))
    sock.listen()
    return sock


async def unserved(scope: object, receive: object, send: object) -> None:
    raise AssertionError


def test_a_second_node_does_not_share_the_port_of_the_first_ones_workers(capsys: pytest.CaptureFixture[str]) -> None:
    """The twin is in it: the sockets themselves do not mind, and each would get a part of the connections."""
    with listening() as first:
        port = first.getsockname()[1]
        listening(port).close()
        with pytest.raises(ConfigFault, match="listen"):
            check_free("127.0.0.1", port)
        assert parent._supervise(b"", 2, False, parent.unheard, (("127.0.0.1", 0), ("127.0.0.1", port))) == CONFIG_EXIT
        assert f"cannot bind 127.0.0.1 port {port}" in capsys.readouterr().err
    check_free("127.0.0.1", port)


def test_connections_that_linger_keep_no_node_from_starting() -> None:
    with listening() as first:
        port = first.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            first.setblocking(True)
            first.accept()[0].close()  # who closes first lingers
            assert client.recv(1) == b""
    check_free("127.0.0.1", port)
