"""``bartizan doctor``: look at the machine and the node, say what is wrong and how to mend it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from firewall.cli.audit import age_us
from firewall.cli.context import Node, load_config
from firewall.cli.output import emit, when
from firewall.core.errors import ConfigFault
from firewall.core.jsonvalue import JSONObject

if TYPE_CHECKING:
    from firewall.admin.doctor import Check
    from firewall.config import Config

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}
TOKEN_BYTES = 64 * 1024
SET_ASIDE = frozenset(
    {"event", "time_us", "v", "kind", "seq", "log", "node", "ver", "uid"}
)  # of the log, not of the story


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "about",
        nargs="?",
        choices=("idp", "trace"),
        metavar="idp|trace",
        help="idp: examine an identity provider instead: may its own access tokens be taken here (direct mode)? "
        "trace: tell what happened at the front door, by time, with reasons",
    )
    parser.add_argument(
        "whom",
        nargs="?",
        default="",
        help="with idp: the issuer, exactly as its tokens name it; with trace: a person by name or subject, a client by id or host, an OAuth grant, a provider, or the id of a decision",
    )
    parser.add_argument("--reach", action="store_true", help="also connect to every upstream that has an address")
    parser.add_argument("--resource", default="", metavar="PATH", help="with idp: what its tokens are for (/mcp/files)")
    parser.add_argument(
        "--token",
        type=Path,
        metavar="FILE",
        help="with idp: a file with an access token that a client got there for this resource; - reads it from stdin",
    )
    parser.add_argument("--since", default="1h", metavar="AGE", help="with trace: such as 10m, 2h, 7d")


def run(given: argparse.Namespace) -> int:
    """Print every check; exit 1 when one fails. A running node examines itself: it knows its environment."""
    from firewall.admin import doctor
    from firewall.net.runtime import SystemClock

    if given.about:
        return _idp(given) if given.about == "idp" else _trace(given)
    try:
        config = load_config(given)
    except ConfigFault as error:
        checks = [doctor.Check("config", "fail", error.diagnostics().replace("\n", "; "), error.fix)]
    else:
        source = str(given.config) if given.config is not None else "none: the demonstration's"
        node = Node(given)
        if node.running():
            told = node.get("doctor", reach=given.reach)
            checks = [_runs_with(config, source, told.get("configuration", {}))]
            checks += [doctor.Check(**row) for row in told["checks"]]
        else:
            checks = [doctor.Check("config", "ok", f"{source}; no node runs")]
            checks += doctor.examine(config, clock=SystemClock(), reach=given.reach)
    lines = []
    for check in checks:
        lines.append(f"{MARKS[check.status]}  {check.name:<12} {check.text}")
        if check.evidence and check.status != "ok":
            lines.append(f"      {'':<12} seen: {check.evidence}")
        if check.mend and check.status != "ok":
            lines.append(f"      {'':<12} mend: {check.mend}")
    failed = sum(c.status == "fail" for c in checks)
    warned = sum(c.status == "warn" for c in checks)
    lines.append(f"{len(checks)} checks: {failed} failed, {warned} to know.")
    emit(given, doctor.as_json(checks), lines)
    return 1 if failed else 0


def _runs_with(config: Config, source: str, running: Mapping[str, str]) -> Check:
    """Return whether a node runs with this very file. running: `fingerprints` of what it runs with."""
    from firewall.admin.doctor import Check
    from firewall.config import fingerprints

    here = fingerprints(config) if not config.demo else {}
    other = sorted(name for name, mark in here.items() if running.get(name) != mark)
    if not other:
        return Check("config", "ok", f"{source}; a node runs with it")
    return Check(
        "config",
        "warn",
        f"the node runs with other settings than {source} holds now: what follows is about those it runs with",
        f"restart it to have the file's; bartizan config check --config {source} looks at the file",
        f"different: {', '.join(other)}",
    )


def _idp(given: argparse.Namespace) -> int:
    """Print what an issuer offers and whether direct mode is possible; exit 1 when it is not."""
    from firewall.admin.doctor.idp import examine_idp
    from firewall.net.runtime import SystemClock

    if not given.whom:
        raise ConfigFault("idp_issuer", "which one?", fix="bartizan doctor idp https://idp.example")
    report = examine_idp(
        load_config(given),
        given.whom,
        clock=SystemClock(),
        environment=os.environ,
        resource=given.resource,
        token=_token(given.token),
    )
    lines = []
    for found in report.examined.findings:
        lines.append(f"{MARKS[found.outcome]}  {found.need:<12} {found.text}")
        if found.mend and found.outcome != "ok":
            lines.append(f"      {'':<12} mend: {found.mend}")
    lines += ["", report.verdict()]
    if report.proved:
        lines.append(f"proved: {', '.join(report.proved)} (identity.issuers); the node takes it at its next start")
    if report.snippet:
        lines += ["", *report.snippet.splitlines()]
    emit(given, report.document(), lines)
    return 0 if report.examined.direct else 1


def _trace(given: argparse.Namespace) -> int:
    """Print the front door's events, oldest first; exit 0 also when there are none."""
    from firewall.admin.doctor.oauth.timeline import timeline
    from firewall.net.runtime import SystemClock

    clock = SystemClock()
    found = timeline(load_config(given), given.whom, since_us=clock.now_us() - age_us(given.since), clock=clock)
    lines = [f"{when(event.get('time_us', 0))}  {event.get('event', '')}  {_facts(event)}".rstrip() for event in found]
    nothing = "nothing happened at the front door in that time"
    if given.whom:
        nothing += (
            f" that names {given.whom!r}; --since 7d looks further back, and `bartizan users list` tells who is known"
        )
    emit(given, {"events": found}, lines or [nothing])
    return 0


def _facts(event: JSONObject) -> str:
    return " ".join(
        f"{name}={value}" for name, value in event.items() if name not in SET_ASIDE and value not in ("", None, [])
    )


def _token(file: Path | None) -> str:
    """Return the sample token, "" without one. It is never printed."""
    if file is None:
        return ""
    fix = "give a file that holds one access token"
    try:
        if str(file) == "-":
            token = sys.stdin.read(TOKEN_BYTES).strip()
        else:
            with file.open(encoding="utf-8") as source:
                token = source.read(TOKEN_BYTES).strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigFault("idp_token", f"{file} cannot be read", fix=fix) from None
    if not token:
        # Else the provider would be examined without one, and told to lack what nobody showed.
        raise ConfigFault("idp_token", "stdin is empty" if str(file) == "-" else f"{file} is empty", fix=fix)
    return token
