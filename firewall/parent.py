"""The parent of the workers: it starts them, watches them, and stays small.

What serves lives in the workers. The parent imports none of the rooms, since their memory and the time to
import them would be paid twice: `app` is imported in a worker's own process only. What the command needed to read
its configuration is let go of as well: the process goes on as a fresh interpreter (`become`) that holds the
configuration as bytes, for the workers.
"""

from __future__ import annotations

import pickle
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from firewall.core.errors import CONFIG_EXIT, ConfigFault
from firewall.net.clock import SystemClock
from firewall.net.spawn import Job
from firewall.net.workers import Supervisor, WorkerSettings, check_free

if TYPE_CHECKING:
    from firewall.config import Config
    from firewall.net.heartbeat import Heartbeat
    from firewall.nucleus import OnFault
    from firewall.worker import Ready

_WORKER_EVENTS: Final = ("died", "stuck")

Addresses = tuple[tuple[str, int], ...]


def unheard(_code: str, _detail: str) -> None:
    """Tell nobody of a fault."""


def run(config: Config, *, on_ready: Ready | None = None, on_fault: OnFault = unheard) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code. Everything is down within two seconds.

    on_ready: told once, in the process of one worker, when all of them listen. on_fault: told in every
    process. Both are picklable. What a worker cannot start with (a name, an address that is taken) it says on
    stderr, and the exit code is that of a ConfigFault.
    """
    return _supervise(*_job(config, on_ready, on_fault))


def become(config: Config, *, on_ready: Ready | None = None, on_fault: OnFault = unheard, advice: str = "") -> NoReturn:
    """Do the same as `run`, as this process but without what it has in memory. What stands after it is not reached.

    advice: a line for stderr when what is configured cannot be started.
    """
    Job(_supervise, *_job(config, on_ready, on_fault), advice).become(title=("bartizan", *sys.argv[1:]))


def _job(config: Config, on_ready: Ready | None, on_fault: OnFault) -> tuple[bytes, int, bool, OnFault, Addresses]:
    """Return what the parent must know; what only the workers use is bytes to it."""
    argument, own_policy = pickle.dumps((config, on_ready, on_fault)), config.policy.bundle is not None
    both = (config.listeners.data, config.listeners.admin)
    shared = tuple((listener.host, listener.port) for listener in both) if config.workers > 1 else ()
    return argument, config.workers, own_policy, on_fault, shared


def _supervise(
    argument: bytes, workers: int, own_policy: bool, on_fault: OnFault, shared: Addresses = (), advice: str = ""
) -> int:
    """shared: where several workers are to listen together."""

    def told(event: str, index: int) -> None:
        if event in _WORKER_EVENTS:
            on_fault(f"worker_{event}", str(index))

    code = _taken(shared) or (_examined(argument) if own_policy else 0)
    if not code:
        settings = WorkerSettings(workers, hopeless=frozenset({CONFIG_EXIT}))
        code = Supervisor(_work, argument, settings, SystemClock(), told).run()
    if code == CONFIG_EXIT and advice:
        print(advice, file=sys.stderr, flush=True)  # noqa: T201
    return code


def _taken(shared: Addresses) -> int:
    """Return 0 where nobody listens yet, else say so on stderr and return the exit code."""
    try:
        for host, port in shared:
            check_free(host, port)
    except ConfigFault as error:
        print(f"bartizan: {error.diagnostics()}", file=sys.stderr, flush=True)  # noqa: T201
        return CONFIG_EXIT
    return 0


def _work(index: int, heartbeat: Heartbeat, argument: bytes) -> None:
    """One worker (a module-level function: it is imported in its process)."""
    from firewall import app

    app.work(index, heartbeat, pickle.loads(argument))  # noqa: S301  our parent's, by an inherited descriptor


def _examined(argument: bytes) -> int:
    """Have policies of one's own tested once, before any worker loads them; return 0 or the exit code.

    The first time this takes a minute: longer than a worker may be silent. In a process of its own, for
    the reason that this file exists.
    """
    job = Job(_check, argument)
    try:
        return job.start(title=("bartizan", "policy")).wait()
    finally:
        job.close()


def _check(argument: bytes) -> int:
    from firewall import app

    config, _, _ = pickle.loads(argument)  # noqa: S301  as above
    try:
        app.check(config)
    except ConfigFault as error:
        print(f"bartizan: {error.diagnostics()}", file=sys.stderr, flush=True)  # noqa: T201
        return CONFIG_EXIT
    return 0
