"""Worker processes on the same ports, and the parent that keeps them honest.

The parent never touches a request. It starts N workers (each opens its listeners with SO_REUSEPORT),
starts a dead one again with growing pauses, kills one whose event loop no longer turns (DESIGN §6b-11:
a stuck engine holds the interpreter lock, so only another process can end it; so a single worker has a
parent too), passes SIGTERM, SIGINT and SIGHUP on, and is gone within two seconds. A worker whose parent is gone
ends itself.

A worker is a fresh interpreter (`net.spawn`) that shares a `Board` with its parent and is handed a secret; its
side of the line is `net.heartbeat`. This file imports little, since the parent holds its memory for as long as
all else runs.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from firewall.core.errors import ConfigFault
from firewall.net.board import Board
from firewall.net.signals import ending
from firewall.net.spawn import Job

if TYPE_CHECKING:
    from firewall.core.ports import Clock
    from firewall.net.heartbeat import Heartbeat

_NANOSECONDS: Final = 1_000_000_000
_POLL_MS: Final = 100
_ASLEEP_S: Final = 1.0  # a turn of the parent's own loop that took longer: the machine or the job was stopped
_SECRET_BYTES: Final = 32
_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """workers: processes. stuck_s: longest silence of a worker's loop before it is killed.

    start_s: the same, before its first beat. stop_s: time between SIGTERM and SIGKILL at the end.
    steady_s: a worker that lived this long starts again without a pause. hopeless: exit codes of a worker
    that no new start would mend; before it was ever ready, such an end is the end of all.
    """

    workers: int
    stuck_s: float = 5.0
    start_s: float = 60.0
    stop_s: float = 1.6
    steady_s: float = 10.0
    hopeless: frozenset[int] = frozenset()


class WorkerMain(Protocol):
    """What a worker process runs: a module-level function (it is imported in the new process)."""

    def __call__(self, index: int, heartbeat: Heartbeat, argument: Any) -> None:
        """Open the listeners, ``await until_told(heartbeat)`` on the loop, close them."""


@dataclass(slots=True)
class _Worker:
    index: int
    process: subprocess.Popen[bytes] | None = None
    watched: int = -1  # a descriptor that can be read once the process has ended, where the kernel has such
    started_ns: int = 0
    failures: int = 0
    start_at_ns: int = 0
    was_ready: bool = False

    def forget(self) -> None:
        """The process has ended and was waited for."""
        if self.watched >= 0:
            os.close(self.watched)
        self.process, self.watched = None, -1


@dataclass(slots=True)
class Supervisor:
    """The parent. `run` blocks until a signal or `stop`; returns the exit code.

    main, argument: picklable; see WorkerMain. clock: a class without state, made anew in each worker.
    on_event: told (event, worker index): started, died, stuck, stopped; for logs.
    """

    main: WorkerMain
    argument: Any
    settings: WorkerSettings
    clock: Clock
    on_event: Callable[[str, int], None] = lambda _event, _index: None
    _workers: list[_Worker] = field(default_factory=list)
    _wake: tuple[int, int] | None = None
    _stopping: bool = False
    _code: int = 0
    _awake_ns: int = 0
    _secret: bytes = field(default_factory=lambda: os.urandom(_SECRET_BYTES), repr=False)

    def run(self) -> int:
        """Supervise until told to stop. Call it from the main thread (signals)."""
        count = self.settings.workers
        board = Board.create(count)
        job = Job(_run_worker, self.main, board.descriptor, count, self.clock, os.getpid(), self.argument)
        self._workers = [_Worker(index) for index in range(count)]
        self._wake = os.pipe()
        os.set_blocking(self._wake[1], False)
        before = {number: signal.signal(number, self._signal) for number in ending()}
        looked = 0
        try:
            while not self._stopping:
                now = self.clock.monotonic_ns()
                if now - (looked or now) > _ASLEEP_S * _NANOSECONDS:
                    self._awake_ns = now  # after a suspend nobody has beaten; that is no silence
                looked = now
                for worker in self._workers:
                    self._tend(worker, board, job, now)
                self._pause()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
            wake, self._wake = self._wake, None
            for end in wake:
                os.close(end)
            job.close()
            board.close()
        return self._code

    def stop(self) -> None:
        """End all workers; safe from a signal handler or another thread."""
        self._stopping = True
        if self._wake is not None:
            try:
                os.write(self._wake[1], b".")
            except OSError:
                pass  # full, so it wakes; or closed, so it has ended

    def pids(self) -> list[int]:
        """Return the process ids of the workers that run."""
        return [w.process.pid for w in self._workers if w.process is not None and w.process.poll() is None]

    def _signal(self, _number: int, _frame: object) -> None:
        self.stop()

    def _tend(self, worker: _Worker, board: Board, job: Job, now: int) -> None:
        process = worker.process
        if process is None:
            if now >= worker.start_at_ns:
                self._start(worker, board, job, now)
            return
        worker.was_ready = worker.was_ready or bool(board.ready[worker.index])
        if (code := process.poll()) is not None:
            worker.forget()
            if code in self.settings.hopeless and not worker.was_ready:
                self._code, self._stopping = code, True  # it has said itself what it cannot start with
                return
            lived_s = (now - worker.started_ns) / _NANOSECONDS
            worker.failures = 0 if lived_s >= self.settings.steady_s else worker.failures + 1
            pause_s = _BACKOFF_S[min(worker.failures, len(_BACKOFF_S) - 1)]
            worker.start_at_ns = now + int(pause_s * _NANOSECONDS)
            self.on_event("died", worker.index)
            return
        beat = board.beats[worker.index]
        silent_s = (now - max(beat or worker.started_ns, self._awake_ns)) / _NANOSECONDS
        if silent_s > (self.settings.stuck_s if beat else self.settings.start_s):
            self.on_event("stuck", worker.index)
            process.kill()  # SIGTERM would wait for the loop that does not turn

    def _start(self, worker: _Worker, board: Board, job: Job, now: int) -> None:
        board.beats[worker.index] = board.ready[worker.index] = 0
        # A file without a name can be opened by any process of our user, by way of /proc. What is read from a pipe
        # is there no more, so a secret goes that way.
        told, tell = os.pipe()
        try:
            os.write(tell, self._secret)
            process = job.start(
                worker.index, told, shared=(board.descriptor, told), title=("bartizan", "worker", str(worker.index))
            )
        finally:
            os.close(tell)
            os.close(told)
        worker.process, worker.started_ns = process, now
        try:
            worker.watched = os.pidfd_open(process.pid)
        except (AttributeError, OSError):  # not Linux, or an old one: the next look finds it
            worker.watched = -1
        self.on_event("started", worker.index)

    def _pause(self) -> None:
        assert self._wake is not None
        ready = select.poll()
        for descriptor in (self._wake[0], *(w.watched for w in self._workers if w.watched >= 0)):
            ready.register(descriptor, select.POLLIN)
        ready.poll(_POLL_MS)

    def _end(self) -> None:
        running = [(w, w.process) for w in self._workers if w.process is not None]
        for _, process in running:
            process.terminate()
        ends_at = self.clock.monotonic_ns() + int(self.settings.stop_s * _NANOSECONDS)
        for _, process in running:
            try:
                process.wait(max(0.0, (ends_at - self.clock.monotonic_ns()) / _NANOSECONDS))
            except subprocess.TimeoutExpired:
                continue
        for worker, process in running:
            process.kill()
            process.wait()
            worker.forget()
        for worker in self._workers:
            self.on_event("stopped", worker.index)


def reserve_port(host: str, port: int) -> socket.socket:
    """Return a socket that holds a port for the workers without listening; keep it open while they run.

    port 0 means any free one; ``getsockname()[1]`` says which. Raises ConfigFault listen.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigFault(
            "listen",
            f"cannot bind {host} port {port}: {error.strerror}",
            fix="choose another port, or stop what uses this one",
        ) from None
    return sock


def check_free(host: str, port: int) -> None:
    """Raise ConfigFault listen where somebody listens at an address that several workers are to share.

    One user's sockets with SO_REUSEPORT do not disturb each other: a second node would be given part of the first
    one's connections, and decide about callers that are not its own. A socket without it sees them.
    """
    if not port:
        return  # any free one
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that linger are nobody
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigFault(
                "listen",
                f"cannot bind {host} port {port}: {error.strerror}",
                fix="choose another port, or stop what uses this one",
            ) from None


def _run_worker(
    main: WorkerMain,
    board: int,
    workers: int,
    clock: Clock,
    parent: int,
    argument: Any,
    index: int,
    told: int,
) -> None:
    from firewall.net.heartbeat import Heartbeat

    # Ctrl-C and the end of a terminal reach the whole process group; the parent alone decides, and says SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.set_inheritable(board, False)
    secret = os.read(told, _SECRET_BYTES)
    os.close(told)
    main(index, Heartbeat(Board(board, workers), secret, index, clock, parent), argument)
