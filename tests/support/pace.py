"""How slow this machine is just now: promises of seconds hold on a machine that has time for us."""

from __future__ import annotations

import subprocess
import sys
import time


def slack_s() -> float:
    """Return what a bound may be passed by here and now: ten starts of an empty program, seconds.

    About a fifth of a second on a quiet machine. It grows with the load, as what is measured does.
    """
    began = time.monotonic()
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True, timeout=60)
    return 10 * (time.monotonic() - began)
