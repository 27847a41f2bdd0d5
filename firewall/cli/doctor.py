"""``bartizan doctor``: look at the machine and the node, say what is wrong and how to mend it."""

from __future__ import annotations

import argparse

from firewall.cli.context import Node, load_config
from firewall.cli.output import emit
from firewall.core.errors import ConfigFault

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--reach", action="store_true", help="also connect to every upstream that has an address")


def run(given: argparse.Namespace) -> int:
    """Print every check; exit 1 when one fails. A running node examines itself: it knows its environment."""
    from firewall.admin import doctor
    from firewall.net.runtime import SystemClock

    try:
        config = load_config(given)
    except ConfigFault as error:
        checks = [doctor.Check("config", "fail", error.diagnostics().replace("\n", "; "), error.fix)]
    else:
        source = str(given.config) if given.config is not None else "none: the demonstration's"
        node = Node(given)
        if node.running():
            checks = [doctor.Check("config", "ok", f"{source}; a node runs with it")]
            checks += [doctor.Check(**row) for row in node.get("doctor", reach=given.reach)["checks"]]
        else:
            checks = [doctor.Check("config", "ok", f"{source}; no node runs")]
            checks += doctor.examine(config, clock=SystemClock(), reach=given.reach)
    lines = []
    for check in checks:
        lines.append(f"{MARKS[check.status]}  {check.name:<12} {check.text}")
        if check.mend and check.status != "ok":
            lines.append(f"      {'':<12} mend: {check.mend}")
    failed = sum(c.status == "fail" for c in checks)
    warned = sum(c.status == "warn" for c in checks)
    lines.append(f"{len(checks)} checks: {failed} failed, {warned} to know.")
    emit(given, doctor.as_json(checks), lines)
    return 1 if failed else 0
