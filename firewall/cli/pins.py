"""``bartizan pins``: see which definitions wait, what changed, approve exactly what was shown, write the lock.

Exit codes: 0 nothing waits, differs or was left out; 1 something does; 2 the command line was wrong.
Everything that a server chose is printed with nothing in it hidden (`detect.visible`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import Node
from firewall.cli.output import emit, note, out, table, told, when

KINDS: Final = ("tool", "prompt", "resource", "template", "instructions", "set", "card")
STDOUT: Final = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    status = verbs.add("status", show)
    status.add_argument("--upstream", default="", help="of one server or agent")
    status.add_argument("--kind", choices=KINDS, help="of one kind")
    status.add_argument("--waiting", action="store_true", help="only what is new or changed; exit 1 when there is any")
    status.add_argument("--tenant", default="")
    for name, run, unnamed in (("diff", diff, "all that waits"), ("approve", approve, "the only one that waits")):
        one = verbs.add(name, run)
        one.add_argument("upstream")
        one.add_argument("name", nargs="?", default="", help="its name; without it, " + unnamed)
        one.add_argument("--kind", choices=KINDS, help="where several kinds have that name; tool without it")
        one.add_argument("--tenant", default="")
        if name == "approve":
            one.add_argument("--digest", default="", help="approve this one without being asked; from `pins status`")
            one.add_argument("--all", action="store_true", help="everything of the upstream that waits and is clean")
            one.add_argument("--yes", action="store_true", help="with --all: do not ask")
    exporting = verbs.add("export", export)
    exporting.add_argument("--output", default="bartizan.lock", help="the file to write, - for stdout (bartizan.lock)")
    exporting.add_argument("--check", action="store_true", help="write nothing; exit 1 when the file is not up to date")
    exporting.add_argument("--tenant", default="")


def show(given: argparse.Namespace) -> int:
    """List pins, those that wait for a person first."""
    found = Node(given).get("pins", upstream=given.upstream)["pins"]
    listed = [
        p for p in found if given.kind in (None, p["kind"]) and not (given.waiting and p["status"] in ("approved",))
    ]
    rows = [
        (
            p["status"] + (", asks" if p["asks"] else ""),
            p["upstream"],
            p["label"],
            p["seen"],
            ", ".join(p["reasons"]),
            p["by"],
            when(p["since_us"]),
        )
        for p in listed
    ]
    heads = ("STATUS", "UPSTREAM", "DEFINITION", "SEEN", "REVIEW", "BY", "SINCE")
    emit(
        given,
        {"pins": listed},
        table(heads, rows, empty="Nothing waits." if given.waiting else "Nothing was seen yet."),
    )
    return 1 if given.waiting and listed else 0


def diff(given: argparse.Namespace) -> int:
    """Show what is approved beside what is offered now; exit 1 when they differ."""
    node = Node(given)
    if not given.name and len(waiting := _waiting(node, given)) > 1:
        pins = [_one(node, pin) for pin in waiting]
        emit(given, {"pins": pins}, [line for pin in pins for line in (*_describe(pin), "")][:-1])
        return 1
    pin = _pin(node, given)
    emit(given, pin, _describe(pin))
    return 0 if pin["status"] == "approved" else 1


def approve(given: argparse.Namespace) -> int:
    """Approve a definition: the digest that is named, or the one that is shown and agreed to."""
    node = Node(given)
    if given.all:
        return _approve_all(node, given)
    pin = _pin(node, given)
    digest = given.digest
    if not digest:
        if not sys.stdin.isatty():
            raise Usage("pin_digest", "nobody is here to agree", fix=f"look at it, then: --digest {pin['seen']}")
        for line in _describe(pin):
            note(line)
        if not _agreed(f"Approve {pin['seen']}?"):
            return 1
        digest = pin["seen"]
    made = _approve(node, pin, digest)
    if "parked" in made:
        return told(given, made, str)
    emit(given, made, [f"{made['upstream']}: {made['label']} is {made['status']}.", *_locked(made)])
    return 0


def export(given: argparse.Namespace) -> int:
    """Write bartizan.lock: every approved definition with its digest, who approved it and when."""
    from firewall.enforce.lock import parse

    text: str = Node(given).get("pins/lock")["lock"]
    entries = len(parse(text.encode()).entries)
    if given.output == STDOUT and not given.check:
        out().write(text)
        return 0
    path = Path(given.output)
    differences = list(_differences(path, text))
    if given.check:
        emit(given, {"file": given.output, "differs": differences}, differences or [f"{given.output} is up to date."])
        return 1 if differences else 0
    _write(path, text)
    lines = [*differences, f"{given.output}: {entries} definitions."]
    emit(given, {"file": given.output, "definitions": entries, "differs": differences}, lines)
    return 0


# -- what the verbs share --------------------------------------------------------------------------------


def _approve_all(node: Node, given: argparse.Namespace) -> int:
    if given.name or given.digest:
        raise Usage("pin_all", "--all takes no name and no digest", fix=f"bartizan pins approve --all {given.upstream}")
    waiting = _waiting(node, given)
    clean = [p for p in waiting if not p["reasons"]]
    kept = [p for p in waiting if p["reasons"]]
    if not given.yes and clean:
        if not sys.stdin.isatty():
            raise Usage(
                "pin_all", "nobody is here to agree", fix="look at `bartizan pins status --waiting`, then: --yes"
            )
        for pin in clean:
            for line in _describe(_one(node, pin)):
                note(line)
            note("")
        if not _agreed(f"Approve these {len(clean)} definitions of {given.upstream}?"):
            return 1
    answers = [_approve(node, pin, pin["seen"]) for pin in clean]
    made = [a for a in answers if "parked" not in a]
    parked = [a["parked"] for a in answers if "parked" in a]
    lines = [f"{m['upstream']}: {m['label']} is {m['status']}." for m in made]
    lines += [f"{p['words']}: waits for a second person: bartizan approve {p['id']}" for p in parked]
    lines = lines or ["Nothing clean waits."]
    lines += [f"{p['upstream']}: {p['label']} is left: its review found {', '.join(p['reasons'])}." for p in kept]
    emit(
        given,
        {"approved": made, "left": kept, **({"parked": parked} if parked else {})},
        [*lines, *(_locked(made[0]) if made else [])],
    )
    return 1 if kept else 0


def _waiting(node: Node, given: argparse.Namespace) -> list[dict[str, Any]]:
    found = node.get("pins", upstream=given.upstream)["pins"]
    return [p for p in found if p["status"] != "approved" and given.kind in (None, p["kind"])]


def _one(node: Node, pin: dict[str, Any]) -> dict[str, Any]:
    return node.get("pins/one", upstream=pin["upstream"], kind=pin["kind"], name=pin["name"])


def _agreed(question: str) -> bool:
    note(f"{question} [y/N] ")
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    note("Nothing was approved.")
    return False


def _approve(node: Node, pin: dict[str, Any], digest: str) -> dict[str, Any]:
    body = {"upstream": pin["upstream"], "kind": pin["kind"], "name": pin["name"], "digest": digest}
    return node.post("pins/approve", body)


def _locked(pin: dict[str, Any]) -> list[str]:
    if pin["locked"] is None or pin["locked"] == pin["seen"]:
        return []
    return ["A lock is in force and does not hold it yet: `bartizan pins export`, then start the node again."]


def _pin(node: Node, given: argparse.Namespace) -> dict[str, Any]:
    if given.name and given.kind:
        return node.get("pins/one", upstream=given.upstream, kind=given.kind, name=given.name)
    alike = [
        p
        for p in node.get("pins", upstream=given.upstream)["pins"]
        if given.kind in (None, p["kind"]) and given.name in ("", p["name"])
    ]
    if given.name:
        # A set goes by its kind's name: whoever names a definition means one that has that name itself.
        alike = [p for p in alike if p["kind"] == "tool"] or [p for p in alike if p["kind"] != "set"] or alike
    else:
        alike = [p for p in alike if p["status"] != "approved"] or alike
    if len(alike) != 1:
        kind = f" of kind {given.kind}" if given.kind else ""
        named = f" named {given.name}" if given.name else ""
        raise Usage(
            "pin_name",
            f"{given.upstream} has {len(alike)} pins{kind}{named}",
            fix=_choices(given, alike),
        )
    return _one(node, alike[0])


def _choices(given: argparse.Namespace, alike: list[dict[str, Any]]) -> str:
    """Return the arguments that would name one of these."""
    from firewall.detect.visible import visible

    if not alike:
        return "name one of `bartizan pins status`, with --kind where several are called the same"
    named = [f"{visible(p['name'])} --kind {p['kind']}" for p in alike[:4]]
    every = ", or --all" if given.verb == "approve" else ""
    return f"say which: {', '.join(named)}{' …' if len(alike) > 4 else ''}{every}"


def _describe(pin: dict[str, Any]) -> list[str]:
    from firewall.enforce.changes import shown

    lines = [
        f"{pin['upstream']}: {pin['label']} is {pin['status']}",
        f"approved  {pin['approved'] or 'nothing'}" + (f"  by {pin['by']}" if pin["by"] else ""),
        *([f"lock      {pin['locked'] or 'nothing'}"] if pin["locked"] is not None else []),
        f"offered   {pin['seen']}",
        f"review    {', '.join(pin['reasons']) or 'found nothing'}",
        "",
    ]
    new = pin["definition"]["seen"]
    if new is None:
        return [*lines, "The text of what is offered is not remembered: compare the digest with its source."]
    if pin["changes"] is None:
        if pin["approved"]:
            lines += ["The text of what was approved is not remembered. What is offered now:"]
        return [*lines, *shown(new).split("\n")]
    if not pin["changes"]:
        return [*lines, *shown(new).split("\n")]
    for change in pin["changes"]:
        lines.append(change["path"] or "/")
        lines += [f"  - {line}" for line in change["before"].split("\n") if change["what"] != "added"]
        lines += [f"  + {line}" for line in change["after"].split("\n") if change["what"] != "removed"]
    return lines


def _differences(path: Path, text: str) -> Iterator[str]:
    """Yield what a lock file has other than what is approved, one sentence each."""
    from firewall.core.errors import ConfigFault
    from firewall.detect.visible import visible
    from firewall.enforce.lock import Lock, parse

    try:
        old = parse(path.read_bytes())
    except FileNotFoundError:
        old = Lock()
    except (OSError, ConfigFault):
        yield f"{path} is not a lock that can be read."
        return
    new = parse(text.encode())
    for key in sorted(old.entries.keys() | new.entries.keys()):
        before, after = old.digest(*key), new.digest(*key)
        if before != after:
            what = "added" if not before else "removed" if not after else "changed"
            yield f"{what}: {key[0]} {key[1]} {visible(key[2])}"


def _write(path: Path, text: str) -> None:
    """Put the file in place whole or not at all."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".bartizan-")
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise Usage("file_unwritable", f"{path}: {error.strerror}") from None
