"""The parent of the workers: it starts them, watches them, and stays small.

What serves lives in the workers. The parent imports none of the rooms, since their memory and the time to
import them would be paid twice: `app` is imported in a worker's own process only.
"""

from __future__ import annotations

import multiprocessing
import sys
from typing import TYPE_CHECKING, Any

from firewall.core.errors import CONFIG_EXIT, ConfigFault
from firewall.net.runtime import SystemClock, trim
from firewall.net.workers import Heartbeat, Supervisor, WorkerSettings

if TYPE_CHECKING:
    from firewall.app import Ready
    from firewall.config import Config
    from firewall.nucleus import OnFault


def _unheard(_code: str, _detail: str) -> None:
    pass


def run(config: Config, *, on_ready: Ready | None = None, on_fault: OnFault = _unheard) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code. Everything is down within two seconds.

    on_ready: told once, in the process of one worker, when all of them listen. on_fault: told in every
    process. Both are picklable. What a worker cannot start with (a name, an address that is taken) it says on
    stderr, and the exit code is that of a ConfigFault.
    """
    if config.policy.bundle is not None and (code := _examined(config)):
        return code

    def told(event: str, index: int) -> None:
        if event in ("died", "stuck"):
            on_fault(f"worker_{event}", str(index))

    trim()
    settings = WorkerSettings(config.workers, hopeless=frozenset({CONFIG_EXIT}))
    return Supervisor(_work, (config, on_ready, on_fault), settings, SystemClock(), told).run()


def _work(index: int, heartbeat: Heartbeat, argument: Any) -> None:
    """One worker (a module-level function: it is imported again in its process)."""
    from firewall import app

    app.work(index, heartbeat, argument)


def _examined(config: Config) -> int:
    """Have policies of one's own tested once, before any worker loads them; return 0 or the exit code.

    The first time this takes a minute: longer than a worker may be silent. In a process of its own, for
    the reason that this file exists.
    """
    process = multiprocessing.get_context("spawn").Process(target=_check, args=(config,), name="policy")
    process.start()
    process.join()
    return process.exitcode or 0


def _check(config: Config) -> None:
    from firewall import app

    try:
        app.check(config)
    except ConfigFault as error:
        print(f"bartizan: {error.diagnostics()}", file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(CONFIG_EXIT)
