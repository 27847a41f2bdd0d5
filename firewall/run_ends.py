"""How runs of one name ended that did not stop by themselves: recorded by themselves, or by the next one.

A run that stands still is ended by its watchdog (`net.watchdog`), from a thread that records it, if the log can still
be written: whoever stands still may hold its lock. What native code holds up ends without a word of Python, and what
is killed without any. Each leaves its `net.pidfile`, which the next run of the name reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from firewall.core.errors import AuditUnavailable
from firewall.net.pidfile import Left, PidFile, left_behind
from firewall.nucleus import Nucleus, Paths
from firewall.record.record import RUN_ENDED
from firewall.run_state import TENANT

DIRECTORY: Final = "runs"
STUCK: Final = "stuck"
KILLED: Final = "killed"


class RunEnds:
    """This run's file, and what others left. One per run; `close` when it stops by itself."""

    def __init__(self, core: Nucleus, paths: Paths, name: str) -> None:
        """name: of the run. Raises OSError."""
        self._audit = core.audit
        self._name = name
        self._directory = paths.state / DIRECTORY
        self._begun_us = core.clock.now_us()
        self.pidfile = PidFile(self._directory, self._begun_us)

    def of_others(self) -> Iterator[Left]:
        """Record each run that ended otherwise since the last look, and yield it. Raises AuditUnavailable."""
        for left in left_behind(self._directory):
            self._record(STUCK if left.stuck else KILLED, left.begun_us, left.silent_s)
            yield left

    def stands_still(self, silent_s: float) -> None:
        """Record that this run is being ended by its watchdog. It may wait for whoever stands still."""
        with suppress(AuditUnavailable):  # then the next one records it
            self._record(STUCK, self._begun_us, int(silent_s))
            self.pidfile.close()

    def close(self) -> None:
        """Say that this run stops by itself."""
        self.pidfile.close()

    def _record(self, fault: str, begun_us: int, silent_s: int) -> None:
        self._audit.append(
            {
                "v": 1,
                "kind": RUN_ENDED,
                "phase": "note",
                "tenant": TENANT,
                "object": self._name,
                "fault": fault,
                "begun_us": begun_us,
                "silent_s": silent_s,
            }
        )
