"""What ``bartizan up`` says of faults. A file of its own: the parent of the workers loads no more of the commands."""

from __future__ import annotations

import sys


def say_fault(code: str, detail: str) -> None:
    """Write one line to stderr."""
    print(f"  fault  {code} {detail}", file=sys.stderr, flush=True)
