"""Worker processes on the same ports, and the parent that keeps them honest.

The parent never touches a request. It starts N workers (each opens its listeners with SO_REUSEPORT),
starts a dead one again with growing pauses, kills one whose event loop no longer turns (DESIGN §6b-11:
a stuck engine holds the interpreter lock, so only another process can end it; so a single worker has a
parent too), passes SIGTERM and SIGINT on, and is gone within two seconds. A worker whose parent is gone
ends itself.

What the parent gives its workers is memory that they share with it (signs of life, who is ready) and a
secret by which they know each other (`net.channel`); neither is a file, and the secret is in no environment.
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
_ASLEEP_S: Final = 1.0  # a turn of the parent's own loop that took longer: the machine or the job was stopped
_READY_LOOK_S: Final = 0.05
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


@dataclass(frozen=True, slots=True)
class Shared:
    """What parent and workers share. beats: monotonic nanoseconds of each worker's last turn, 0 before the first.

    ready: 1 for each worker that listens. said: marks of what is told once in the life of the parent.
    """

    beats: Any
    ready: Any
    said: Any
    secret: bytes = field(repr=False)


SAID: Final = ("up", "fault")


class Heartbeat:
    """A worker's line to its parent: its sign of life, and what it knows of the other workers."""

    def __init__(self, shared: Shared, index: int, clock: Clock, parent: int) -> None:
        self._shared = shared
        self._index = index
        self._clock = clock
        self._parent = parent

    @property
    def secret(self) -> bytes:
        """32 bytes that the workers of one parent share and nobody else knows."""
        return self._shared.secret

    def beat(self) -> bool:
        """Say that the loop turns; False when the parent is gone and the worker should end."""
        self._shared.beats[self._index] = self._clock.monotonic_ns()
        return os.getppid() == self._parent

    def ready(self) -> None:
        """Say that this worker listens."""
        self._shared.ready[self._index] = 1

    async def all_ready(self) -> None:
        """Return when every worker listens."""
        while not all(self._shared.ready):  # noqa: ASYNC110  other processes: nothing here to wait on
            await asyncio.sleep(_READY_LOOK_S)

    def first(self, what: str) -> bool:
        """Return whether nobody said this before (one of `SAID`); whoever asks says it now."""
        said, at = self._shared.said, SAID.index(what)
        lock = said.get_lock()
        if not lock.acquire(timeout=_READY_LOOK_S):
            return False  # somebody says something now, or was killed while saying it
        try:
            before, said[at] = said[at], 1
        finally:
            lock.release()
        return not before


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
    was_ready: bool = False


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
    _code: int = 0
    _awake_ns: int = 0

    def run(self) -> int:
        """Supervise until told to stop. Call it from the main thread (signals)."""
        context = multiprocessing.get_context("spawn")
        count = self.settings.workers
        shared = Shared(
            context.RawArray(ctypes.c_uint64, count),
            context.RawArray(ctypes.c_uint8, count),
            context.Array(ctypes.c_uint8, len(SAID)),
            os.urandom(_SECRET_BYTES),
        )
        self._workers = [_Worker(index) for index in range(self.settings.workers)]
        self._wake = context.Pipe(duplex=False)
        before = {number: signal.signal(number, self._signal) for number in (signal.SIGTERM, signal.SIGINT)}
        looked = 0
        try:
            while not self._stopping:
                now = self.clock.monotonic_ns()
                if now - (looked or now) > _ASLEEP_S * _NANOSECONDS:
                    self._awake_ns = now  # after a suspend nobody has beaten; that is no silence
                looked = now
                for worker in self._workers:
                    self._tend(worker, shared, now, context)
                self._pause()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)
        return self._code

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

    def _tend(self, worker: _Worker, shared: Shared, now: int, context: Any) -> None:
        process = worker.process
        if process is None:
            if now >= worker.start_at_ns:
                self._start(worker, shared, now, context)
            return
        worker.was_ready = worker.was_ready or bool(shared.ready[worker.index])
        if not process.is_alive():
            process.join()
            if process.exitcode in self.settings.hopeless and not worker.was_ready:
                # It has said itself what it cannot start with.
                self._code, self._stopping, worker.process = process.exitcode or 0, True, None
                return
            lived_s = (now - worker.started_ns) / _NANOSECONDS
            worker.failures = 0 if lived_s >= self.settings.steady_s else worker.failures + 1
            pause_s = _BACKOFF_S[min(worker.failures, len(_BACKOFF_S) - 1)]
            worker.process, worker.start_at_ns = None, now + int(pause_s * _NANOSECONDS)
            self.on_event("died", worker.index)
            return
        beat = shared.beats[worker.index]
        silent_s = (now - max(beat or worker.started_ns, self._awake_ns)) / _NANOSECONDS
        if silent_s > (self.settings.stuck_s if beat else self.settings.start_s):
            self.on_event("stuck", worker.index)
            process.kill()  # SIGTERM would wait for the loop that does not turn

    def _start(self, worker: _Worker, shared: Shared, now: int, context: Any) -> None:
        shared.beats[worker.index] = shared.ready[worker.index] = 0
        process = context.Process(
            target=_run_worker,
            args=(self.main, worker.index, shared, self.clock, os.getpid(), self.argument),
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


def _run_worker(main: WorkerMain, index: int, shared: Shared, clock: Clock, parent: int, argument: Any) -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides, and says SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(index, Heartbeat(shared, index, clock, parent), argument)
