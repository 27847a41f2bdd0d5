"""``bartizan pins``: see which definitions wait, what changed, and approve exactly what was shown."""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import Any

import orjson

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import Node
from firewall.cli.output import emit, note, safe, table, when

KINDS = ("tool", "instructions", "card")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    status = verbs.add("status", show)
    status.add_argument("--upstream", default="", help="of one server or agent")
    status.add_argument("--waiting", action="store_true", help="only what is new or changed; exit 1 when there is any")
    status.add_argument("--tenant", default="")
    for name, run in (("diff", diff), ("approve", approve)):
        one = verbs.add(name, run)
        one.add_argument("upstream")
        one.add_argument("name", nargs="?", default="", help="may be left out when only one of its kind waits")
        one.add_argument("--kind", choices=KINDS, help="tool, unless only one of another kind can be meant")
        one.add_argument("--tenant", default="")
        if name == "approve":
            one.add_argument("--digest", default="", help="approve this one without being asked; from `pins status`")


def show(given: argparse.Namespace) -> int:
    """List pins, those that wait for a person first."""
    found = Node(given).get("pins", upstream=given.upstream)
    listed = [p for p in found["pins"] if not given.waiting or p["status"] != "approved"]
    rows = [
        (
            p["status"],
            p["upstream"],
            p["kind"],
            p["name"],
            p["seen"],
            ", ".join(p["reasons"]),
            p["by"],
            when(p["since_us"]),
        )
        for p in listed
    ]
    heads = ("STATUS", "UPSTREAM", "KIND", "NAME", "SEEN", "REVIEW", "BY", "SINCE")
    emit(
        given,
        {"pins": listed},
        table(heads, rows, empty="Nothing waits." if given.waiting else "Nothing was seen yet."),
    )
    return 1 if given.waiting and listed else 0


def diff(given: argparse.Namespace) -> int:
    """Show what is approved beside what is offered now; exit 1 when they differ."""
    pin = _pin(Node(given), given)
    emit(given, pin, _describe(pin))
    return 0 if pin["status"] == "approved" else 1


def approve(given: argparse.Namespace) -> int:
    """Approve a definition: the digest that is named, or the one that is shown and agreed to."""
    node = Node(given)
    pin = _pin(node, given)
    digest = given.digest
    if not digest:
        if not sys.stdin.isatty():
            raise Usage("pin_digest", "nobody is here to agree", fix=f"look at it, then: --digest {pin['seen']}")
        for line in _describe(pin):
            note(line)
        note(f"Approve {pin['seen']}? [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            note("Nothing was approved.")
            return 1
        digest = pin["seen"]
    body = {"upstream": pin["upstream"], "kind": pin["kind"], "name": pin["name"], "digest": digest}
    made = node.post("pins/approve", body)
    emit(given, made, f"{made['upstream']}: {made['kind']} {made['name']} is {made['status']}.")
    return 0


def _pin(node: Node, given: argparse.Namespace) -> dict[str, Any]:
    if given.name:
        return node.get("pins/one", upstream=given.upstream, kind=given.kind or "tool", name=given.name)
    alike = [
        p for p in node.get("pins", upstream=given.upstream)["pins"] if given.kind is None or p["kind"] == given.kind
    ]
    alike = [p for p in alike if p["status"] != "approved"] or alike
    if len(alike) != 1:
        kind = f" of kind {given.kind}" if given.kind else ""
        raise Usage(
            "pin_name", f"{given.upstream} has {len(alike)} pins{kind}", fix="name one of `bartizan pins status`"
        )
    return node.get("pins/one", upstream=given.upstream, kind=alike[0]["kind"], name=alike[0]["name"])


def _describe(pin: dict[str, Any]) -> list[str]:
    lines = [
        f"{pin['upstream']}: {pin['kind']} {pin['name']} is {pin['status']}",
        f"approved  {pin['approved'] or 'nothing'}" + (f"  by {pin['by']}" if pin["by"] else ""),
        f"offered   {pin['seen']}",
        f"review    {', '.join(pin['reasons']) or 'found nothing'}",
        "",
    ]
    old, new = pin["definition"]["approved"], pin["definition"]["seen"]
    if new is None:
        return [*lines, "The text of what is offered is not remembered: compare the digest with its source."]
    if pin["approved"] and old is None:
        lines += ["The text of what was approved is not remembered. What is offered now:"]
    before = _pretty(old) if old is not None else []
    changes = list(difflib.unified_diff(before, _pretty(new), "approved", "offered", lineterm="", n=3))
    return [safe(line) for line in [*lines, *(changes or _pretty(new))]]


def _pretty(value: Any) -> list[str]:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode().splitlines()
