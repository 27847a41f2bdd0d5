"""A process that watches its own loop: for one that no parent watches (`bartizan run`).

    the loop stands still, others may run     a thread sees it, tells, and ends the process
    native code holds the interpreter lock    no thread of ours runs; the kernel's timer of CPU time ends it

The kernel's other timer, of CPU time in user mode, goes off a little earlier and has a trace written into the `PidFile`:
by C code that needs no lock, so that what comes after us knows that we stood still. Whoever goes on takes it back.

All are renewed by the loop itself, every `BEAT_S`. A process that was stopped and goes on (SIGSTOP, a laptop that
slept) burnt no CPU and its thread slept as well, so neither counts it. What is ended cannot clean up: children end
with us by the kernel's death signal (`mcp_gateway.sandbox`), records are written before bytes move.

A supervisor with workers does better, since it starts them again (`net.workers`, DESIGN §6b-11).
Source: setitimer(2), ITIMER_PROF, ITIMER_VIRTUAL; faulthandler (dumps without the interpreter lock).
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

from firewall.net.pidfile import PidFile

BEAT_S: Final = 0.5
LAST_WORDS_S: Final = 2.0
CPU_FACTOR: Final = 2.0  # of `stuck_s`, in CPU time: other threads of ours burn some of it as well
TRACE_FACTOR: Final = 1.5  # of `stuck_s`, in CPU time in user mode: before the other one, after the thread
EXIT_CODE: Final = 5


class Watchdog:
    """Ends this process when the running loop stands still. One per process; `start` on the loop, `stop` at its end.

    stuck_s: the longest silence, seconds. on_stuck: told how long it was, on a thread, just before the end; whatever
    it waits for, it has `LAST_WORDS_S`. pidfile: where it is noted for whoever comes next.
    """

    def __init__(
        self,
        stuck_s: float,
        on_stuck: Callable[[float], None],
        *,
        pidfile: PidFile | None = None,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._stuck_s = stuck_s
        self._on_stuck = on_stuck
        self._pidfile = pidfile
        self._end = end
        self._beat_s = min(BEAT_S, stuck_s / 4)
        self._beaten = 0.0
        self._over = threading.Event()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch the running loop from now on."""
        if sys.stderr is not None:
            # Without a handler the kernel ends the process at once; with it, it says first where that was.
            faulthandler.register(signal.SIGPROF, file=sys.stderr, all_threads=False, chain=True)
        if self._pidfile is not None:
            faulthandler.register(signal.SIGVTALRM, file=self._pidfile.fileno(), all_threads=False, chain=False)
        self._beat()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Watch no longer: the loop ends. Idempotent."""
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()
        signal.setitimer(signal.ITIMER_PROF, 0)
        if self._pidfile is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            faulthandler.unregister(signal.SIGVTALRM)  # its descriptor may be another file's soon

    def _beat(self) -> None:
        self._beaten = time.monotonic()
        signal.setitimer(signal.ITIMER_PROF, self._stuck_s * CPU_FACTOR)
        if self._pidfile is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, self._stuck_s * TRACE_FACTOR)
            self._pidfile.goes_on()
        self._timer = asyncio.get_running_loop().call_later(self._beat_s, self._beat)

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(self._beat_s):
            now = time.monotonic()
            if now - looked > self._stuck_s / 2:
                self._beaten = now  # nobody ran, this thread neither: the process was stopped, or starved
            looked = now
            silent_s = now - self._beaten
            if silent_s > self._stuck_s and not self._over.is_set():
                if self._pidfile is not None:
                    self._pidfile.stands_still(silent_s)  # first: what follows may never return
                last = threading.Thread(target=self._on_stuck, args=(silent_s,), name="watchdog-last", daemon=True)
                try:
                    last.start()
                    last.join(LAST_WORDS_S)
                finally:
                    self._end(EXIT_CODE)
