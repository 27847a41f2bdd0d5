"""What tells a process of ours to end."""

from __future__ import annotations

import signal


def ending() -> tuple[signal.Signals, ...]:
    """Return the signals that ask for an orderly end.

    A terminal that closes is one of them, unless we were started not to mind it (`nohup`).
    """
    asked = (signal.SIGTERM, signal.SIGINT)
    return asked if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*asked, signal.SIGHUP)
