"""The verbs that servers and agents share: list, register, approve, suspend, revoke."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import Node
from firewall.cli.output import emit, table, told, when

Spec = Callable[[argparse.Namespace], dict[str, Any]]


def add_verbs(
    parser: argparse.ArgumentParser,
    kind: str,
    what: str,
    options: Callable[[argparse.ArgumentParser], None],
    spec: Spec,
) -> Verbs:
    """Declare and return the verbs of one kind (``mcp`` or ``a2a``). options, spec: how one is described and read."""

    def show(given: argparse.Namespace) -> int:
        found = Node(given).get("registry", kind=kind)
        rows = [(e["name"], e["state"], where(e["spec"]), e["by"], when(e["since_us"])) for e in found["entries"]]
        emit(given, found, table(("NAME", "STATE", "WHERE", "BY", "SINCE"), rows, empty=f"No {what} is registered."))
        return 0

    def register(given: argparse.Namespace) -> int:
        described = read_spec(given.spec) if given.spec is not None else {}
        body = {"kind": kind, "name": given.name, "spec": {**described, **spec(given)}}
        made = Node(given).post("registry", body)
        command = "servers" if kind == "mcp" else "agents"
        emit(given, made, f"{made['name']} is {made['state']}. Next: bartizan {command} approve {made['name']}")
        return 0

    def move(given: argparse.Namespace) -> int:
        made = Node(given).post(f"registry/{kind}/{given.name}/{given.verb}")
        return told(given, made, lambda: f"{made['name']} is {made['state']}.")

    show.__doc__ = f"List every {what} with its state."
    register.__doc__ = f"Add an {what} by its address; it waits for approval."
    verbs = Verbs(parser)
    _tenant(verbs.add("list", show))
    new = verbs.add("register", register)
    new.add_argument("name", help="a-z, 0-9 and single hyphens; stands in its path and scopes")
    new.add_argument("--spec", type=Path, help="a JSON file with what the options below do not say")
    options(new)
    _tenant(new)
    for verb, text in (
        ("approve", f"Let a pending or suspended {what} be called."),
        ("suspend", f"Stop an approved {what} until it is approved again."),
        ("revoke", f"End a {what} for good and forget its pins."),
    ):
        moving: Callable[[argparse.Namespace], int] = lambda given: move(given)  # noqa: E731  one docstring each
        moving.__doc__ = text
        one = verbs.add(verb, moving)
        one.add_argument("name")
        _tenant(one)
    return verbs


def where(spec: dict[str, Any]) -> str:
    """Return where an entry is, in a word."""
    return str(spec.get("url") or spec.get("card_url") or " ".join(spec.get("command") or ["?"]))


def read_spec(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file. Raises Usage."""
    try:
        value = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise Usage("file_unreadable", f"{path}: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise Usage("file_unreadable", f"{path}: a JSON object is expected")
    return value


def given_only(**values: Any) -> dict[str, Any]:
    """Return what was said on the command line."""
    return {name: value for name, value in values.items() if value not in (None, [], {}, False)}


def _tenant(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant", default="", help="of another tenant")
