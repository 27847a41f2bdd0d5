"""``bartizan kill``: stop an upstream, a subject, a client or everything at once, and release it again."""

from __future__ import annotations

import argparse

from firewall.cli.arguments import Verbs
from firewall.cli.context import Node
from firewall.cli.output import emit, note, table, told, when

PROTOCOLS = ("mcp", "a2a", "llm")  # stopped as a whole by these names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    for name, run in (("pull", pull), ("release", release)):
        one = verbs.add(name, run)
        scope = one.add_mutually_exclusive_group(required=True)
        scope.add_argument("--all", action="store_true", help="everything of the tenant")
        scope.add_argument("--upstream", help="a server, an agent, or llm")
        scope.add_argument("--subject", help="a person or service")
        scope.add_argument("--client", help="a client id")
        one.add_argument("--reason", default="", help="stands in the record")
        one.add_argument("--everywhere", action="store_true", help="for every tenant of the node")
        one.add_argument("--tenant", default="")
    verbs.add("list", show).add_argument("--tenant", default="")


def pull(given: argparse.Namespace) -> int:
    """Stop a scope; every worker refuses it when this returns."""
    node = Node(given)
    made = node.post("kill", _body(given))
    emit(given, made, f"Stopped: {made['scope']} {made['name']}, tenant {made['tenant']}.")
    if given.upstream and given.upstream not in PROTOCOLS:
        known = {entry["name"] for entry in node.get("registry")["entries"]}
        if given.upstream not in known:
            note(f"No server or agent has this name now. There are: {', '.join(sorted(known)) or 'none'}.")
    return 0


def release(given: argparse.Namespace) -> int:
    """End a stop; exit 1 when there was none."""
    made = Node(given).post("kill/release", _body(given))
    if "parked" in made:
        return told(given, made, str)
    emit(given, made, "Released." if made["released"] else "There was no such stop.")
    return 0 if made["released"] else 1


def show(given: argparse.Namespace) -> int:
    """List the stops in force."""
    found = Node(given).get("kill")
    rows = [(s["scope"], s["name"], s["tenant"], s["by"], when(s["since_us"]), s["reason"]) for s in found["stops"]]
    emit(given, found, table(("SCOPE", "NAME", "TENANT", "BY", "SINCE", "WHY"), rows, empty="Nothing is stopped."))
    return 0


def _body(given: argparse.Namespace) -> dict[str, object]:
    for scope in ("upstream", "subject", "client"):
        if name := getattr(given, scope):
            return {"scope": scope, "name": name, "reason": given.reason, "everywhere": given.everywhere}
    return {"scope": "all", "reason": given.reason, "everywhere": given.everywhere}
