"""The command ``bartizan``: finds the subcommand, prints errors as one line and a mend, sets the exit code.

Exit codes: 0 ok · 1 a check failed or something was denied · 2 usage · 3 not running · 4 configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from firewall.cli import tour, up
from firewall.core.errors import BartizanError, ConfigFault


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = argparse.ArgumentParser(prog="bartizan", description="The firewall between AI agents and what they can reach.")
    top.add_argument("--config", type=Path, default=None, help="bartizan.yaml")
    top.add_argument("--state-dir", type=Path, default=None, help="where the node keeps its state")
    top.add_argument("--json", action="store_true", help="print JSON")
    commands = top.add_subparsers(dest="command", required=True)
    for name, module in (("up", up), ("tour", tour)):
        sub = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    given = parser().parse_args(argv)
    try:
        return int(given.run(given))
    except KeyboardInterrupt:
        return 130
    except ConfigFault as error:
        print(f"bartizan: {error.diagnostics()}", file=sys.stderr)
        return 4
    except BartizanError as error:
        if os.environ.get("BARTIZAN_DEBUG"):
            raise
        print(f"bartizan: {error.diagnostics()}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
