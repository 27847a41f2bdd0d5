"""The command ``bartizan``: finds the subcommand, prints errors as one line and a mend, sets the exit code.

Exit codes: 0 ok · 1 a check failed or something was denied · 2 usage · 3 not running · 4 configuration.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from firewall.cli import (
    agents,
    approvals,
    approve,
    audit,
    backup,
    config,
    connect,
    doctor,
    explain,
    init,
    keys,
    kill,
    oauth_clients,
    pins,
    policy,
    restore,
    run,
    servers,
    token,
    tour,
    up,
    users,
    version,
)
from firewall.cli.arguments import Parser, Usage, common
from firewall.cli.context import NotRunning
from firewall.cli.output import note
from firewall.core.errors import BartizanError, ConfigFault

# Every command, by what people come for. A module has add_arguments(parser) and, without verbs, run(given).
GROUPS: Final[tuple[tuple[str, tuple[tuple[str, ModuleType], ...]], ...]] = (
    (
        "Start",
        (
            ("up", up),
            ("run", run),
            ("tour", tour),
            ("init", init),
            ("config", config),
            ("doctor", doctor),
            ("version", version),
        ),
    ),
    (
        "Connect",
        (
            ("connect", connect),
            ("token", token),
            ("servers", servers),
            ("agents", agents),
            ("users", users),
            ("clients", oauth_clients),
            ("keys", keys),
        ),
    ),
    (
        "Decide",
        (("pins", pins), ("kill", kill), ("approvals", approvals), ("approve", approve), ("policy", policy)),
    ),
    ("Look back", (("explain", explain), ("audit", audit), ("backup", backup), ("restore", restore))),
)
EXITS: Final = "exit codes: 0 ok, 1 a check failed or something was denied, 2 usage, 3 not running, 4 configuration"


def summary(module: ModuleType) -> str:
    """Return what a command does: its module's first sentence, without its name."""
    first = (module.__doc__ or "").splitlines()[0]
    _, colon, rest = first.partition("``: ")
    text = rest if colon else first
    return text[:1].upper() + text[1:]


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    lines = ["commands:"]
    for title, members in GROUPS:
        lines += ["", f"  {title}", *(f"    {name:<9} {summary(module)}" for name, module in members)]
    lines += ["", "`bartizan COMMAND --help` says more.", EXITS]
    top = Parser(
        prog="bartizan",
        description="The firewall between AI agents and what they can reach.",
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="bartizan [--config FILE | --state-dir DIR | --run NAME] [--json] COMMAND …",
    )
    top.add_argument("--config", type=Path, default=None, help="bartizan.yaml; without one, the demonstration is meant")
    top.add_argument("--state-dir", type=Path, default=None, help="where the node keeps its state")
    top.add_argument(
        "--run", dest="guarded", default=None, metavar="NAME", help="the state of `bartizan run` of that name"
    )
    top.add_argument("--json", action="store_true", help="print JSON")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    for _, members in GROUPS:
        for name, module in members:
            sub = commands.add_parser(name, description=summary(module), parents=[common()], prog=f"bartizan {name}")
            if hasattr(module, "run"):
                sub.set_defaults(run=module.run)
            module.add_arguments(sub)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    _fill_standard_streams()
    given = parser().parse_args(argv)
    try:
        return int(given.run(given))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read us has seen enough; nothing more may be written at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BartizanError as error:
        if os.environ.get("BARTIZAN_DEBUG"):
            raise
        _tell(error)
        return exit_code(error)
    except Exception as error:  # the last resort: a traceback is for those who asked for one
        if os.environ.get("BARTIZAN_DEBUG"):
            raise
        _tell(
            BartizanError("internal", type(error).__name__, fix="say BARTIZAN_DEBUG=1 for the traceback, and report it")
        )
        return 1


def _fill_standard_streams() -> None:
    """Open the null device in place of standard streams that we were started without.

    The next file that is opened would get such a number, and a child of ours would lose it to its own input or output.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(number, True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # for as long as we live


def exit_code(error: BartizanError) -> int:
    """Return the exit code of an error."""
    for kind, code in ((Usage, 2), (NotRunning, 3), (ConfigFault, 4)):
        if isinstance(error, kind):
            return code
    return 1


def _tell(error: BartizanError) -> None:
    detail = error.detail.splitlines()
    head = detail[0] if len(detail) == 1 else ""
    note(f"bartizan: {error.code}" + (f": {head}" if head else ""))
    for line in detail if not head else ():
        note(f"  {line}")
    if error.fix:
        note(f"  mend: {error.fix}")


if __name__ == "__main__":
    raise SystemExit(main())
