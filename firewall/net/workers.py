"""Several worker processes on the same ports, and the parent that keeps them honest.

The parent never touches a request. It starts N workers (each opens its listeners with SO_REUSEPORT),
starts a dead one again with growing pauses, kills one whose event loop no longer turns (DESIGN §6b-11:
a stuck engine holds the interpreter lock, so only another process can end it), passes SIGTERM and
SIGINT on, and is gone within two seconds. A worker whose parent is gone ends itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Protocol

from firewall.core.errors import ConfigFault
from firewall.core.ports import Clock

_NANOSECONDS: Final = 1_000_000_000
_POLL_S: Final = 0.1
_BACKOFF_S: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """workers: processes. stuck_s: longest silence of a worker's loop before it is killed.

    start_s: the same, before its first beat. stop_s: time between SIGTERM and SIGKILL at the end.
    steady_s: a worker that lived this long starts again without a pause.
    """

    workers: int
    stuck_s: float = 5.0
    start_s: float = 60.0
    stop_s: float = 1.6
    steady_s: float = 10.0


class Heartbeat:
    """A worker's sign of life: monotonic nanoseconds in memory shared with the parent."""

    def __init__(self, cell: Any, index: int, clock: Clock, parent: int) -> None:
        self._cell = cell
        self._index = index
        self._clock = clock
        self._parent = parent

    def beat(self) -> bool:
        """Say that the loop turns; False when the parent is gone and the worker should end."""
        self._cell[self._index] = self._clock.monotonic_ns()
        return os.getppid() == self._parent


class WorkerMain(Protocol):
    """What a worker process runs: a module-level function (it is imported again in the new process)."""

    def __call__(self, index: int, heartbeat: Heartbeat, argument: Any) -> None:
        """Open the listeners, ``await until_told(heartbeat)`` on the loop, close them."""


@dataclass(slots=True)
class _Worker:
    index: int
    process: multiprocessing.process.BaseProcess | None = None
    started_ns: int = 0
    failures: int = 0
    start_at_ns: int = 0


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
    _wake: tuple[Connection, Connection] | None = None
    _stopping: bool = False

    def run(self) -> int:
        """Supervise until told to stop. Call it from the main thread (signals)."""
        context = multiprocessing.get_context("spawn")
        beats = context.RawArray(ctypes.c_uint64, self.settings.workers)
        self._workers = [_Worker(index) for index in range(self.settings.workers)]
        self._wake = context.Pipe(duplex=False)
        before = {number: signal.signal(number, self._signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while not self._stopping:
                now = self.clock.monotonic_ns()
                for worker in self._workers:
                    self._tend(worker, beats, now, context)
                self._pause()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
        return 0

    def stop(self) -> None:
        """End all workers; safe from a signal handler or another thread."""
        self._stopping = True
        if self._wake is not None:
            self._wake[1].send_bytes(b".")

    def pids(self) -> list[int]:
        """Return the process ids of the workers that run."""
        return [
            w.process.pid for w in self._workers if w.process is not None and w.process.pid and w.process.is_alive()
        ]

    def _signal(self, _number: int, _frame: object) -> None:
        self.stop()

    def _tend(self, worker: _Worker, beats: Any, now: int, context: Any) -> None:
        process = worker.process
        if process is None:
            if now >= worker.start_at_ns:
                self._start(worker, beats, now, context)
            return
        if not process.is_alive():
            process.join()
            lived_s = (now - worker.started_ns) / _NANOSECONDS
            worker.failures = 0 if lived_s >= self.settings.steady_s else worker.failures + 1
            pause_s = _BACKOFF_S[min(worker.failures, len(_BACKOFF_S) - 1)]
            worker.process, worker.start_at_ns = None, now + int(pause_s * _NANOSECONDS)
            self.on_event("died", worker.index)
            return
        beat = beats[worker.index]
        silent_s = (now - (beat or worker.started_ns)) / _NANOSECONDS
        if silent_s > (self.settings.stuck_s if beat else self.settings.start_s):
            self.on_event("stuck", worker.index)
            process.kill()  # SIGTERM would wait for the loop that does not turn

    def _start(self, worker: _Worker, beats: Any, now: int, context: Any) -> None:
        beats[worker.index] = 0
        process = context.Process(
            target=_run_worker,
            args=(self.main, worker.index, beats, self.clock, os.getpid(), self.argument),
            name=f"bartizan-worker-{worker.index}",
        )
        process.start()
        worker.process, worker.started_ns = process, now
        self.on_event("started", worker.index)

    def _pause(self) -> None:
        assert self._wake is not None
        sentinels = [w.process.sentinel for w in self._workers if w.process is not None]
        wait([*sentinels, self._wake[0]], timeout=_POLL_S)

    def _end(self) -> None:
        processes = [w.process for w in self._workers if w.process is not None]
        for process in processes:
            if process.is_alive():
                process.terminate()
        ends_at = self.clock.monotonic_ns() + int(self.settings.stop_s * _NANOSECONDS)
        for process in processes:
            process.join(max(0.0, (ends_at - self.clock.monotonic_ns()) / _NANOSECONDS))
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
        for worker in self._workers:
            worker.process = None
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


async def until_told(heartbeat: Heartbeat | None = None, *, beat_s: float = 0.25) -> None:
    """Return on SIGTERM or SIGINT, or when the parent is gone; beats while it waits.

    For the main coroutine of a worker, or of a single process (no heartbeat).
    """
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    if heartbeat is None:
        await told.wait()
        return
    while heartbeat.beat():
        try:
            async with asyncio.timeout(beat_s):
                await told.wait()
                return
        except TimeoutError:
            continue


def _run_worker(main: WorkerMain, index: int, beats: Any, clock: Clock, parent: int, argument: Any) -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides, and says SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(index, Heartbeat(beats, index, clock, parent), argument)
