"""``bartizan approvals``: what waits for a second person, and a person's word about it."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any

import orjson

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import Node
from firewall.cli.output import emit, note, table, when

STATES = ("pending", "approved", "done", "failed", "denied", "withdrawn", "expired")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    listed = verbs.add("list", show)
    listed.add_argument("--state", choices=STATES, default="")
    one = verbs.add("show", show_one)
    one.add_argument("id")
    agreed = verbs.add("approve", approve)
    refused = verbs.add("deny", deny)
    for verb in (agreed, refused):
        decision_arguments(verb)
    ended = verbs.add("withdraw", withdraw)
    ended.add_argument("id")
    for verb in (listed, one, ended):
        verb.add_argument("--tenant", default="", help="of another tenant")


def decision_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what a person says who decides."""
    parser.add_argument("id")
    parser.add_argument("--user", default="", help="who decides: a person with the role approver")
    parser.add_argument("--password-stdin", action="store_true", help="read that person's password from stdin")
    parser.add_argument("--code", default="", help="of that person's authenticator, where one is enrolled")
    parser.add_argument("--yes", action="store_true", help="do not ask again after showing what will be done")


def show(given: argparse.Namespace) -> int:
    """List requests, those that wait first."""
    found = Node(given).get("approvals", state=given.state)
    rows = [(a["id"], a["state"], a["by"], when(a["expires_us"]), a["words"]) for a in found["approvals"]]
    emit(given, found, table(("ID", "STATE", "BY", "UNTIL", "WHAT"), rows, empty="Nothing waits."))
    return 0


def show_one(given: argparse.Namespace) -> int:
    """Show a request exactly as it would be done."""
    found = Node(given).get(f"approvals/{_id(given)}")
    emit(given, found, _lines(found))
    return 0


def approve(given: argparse.Namespace) -> int:
    """Agree to a request as a second person; it is done before this returns, exit 1 when it was not."""
    return _decide(given, "approve")


def deny(given: argparse.Namespace) -> int:
    """Refuse a request as a second person."""
    return _decide(given, "deny")


def withdraw(given: argparse.Namespace) -> int:
    """End a request of the node's owner."""
    made = Node(given).post(f"approvals/{_id(given)}/withdraw")
    emit(given, made, "Withdrawn.")
    return 0


def _decide(given: argparse.Namespace, verb: str) -> int:
    """Show, ask, and say the word; what is sent names the digest of what was shown."""
    node = Node(given)
    found = node.get(f"approvals/{_id(given)}")
    if not given.json:
        for line in _lines(found):
            note(line)
    if not given.user:
        raise Usage("person", "who decides?", fix="--user NAME, a person with the role approver")
    if not given.yes:
        if given.password_stdin or not sys.stdin.isatty():
            raise Usage("person", "nobody is here to ask", fix="add --yes when you have looked at what it shows")
        note(f"Type yes to {verb}:")
        if sys.stdin.readline().strip() != "yes":
            return 1
    password = sys.stdin.readline().rstrip("\n") if given.password_stdin else getpass.getpass("Password: ")
    body = {"digest": found["digest"], "person": {"name": given.user, "password": password, "code": given.code}}
    made = node.post(f"approvals/{_id(given)}/{verb}", body)
    said = {"done": "Done.", "denied": "Denied; nothing was done."}
    emit(given, made, said.get(made["state"], f"Not done: {made['outcome'] or made['state']}."))
    return 0 if made["state"] in said else 1


def _id(given: argparse.Namespace) -> str:
    """Return the id as it may stand in a path. Raises Usage."""
    if not given.id.isascii() or not given.id.replace("_", "").isalnum():
        raise Usage("approval_id", "this is no request's id", fix="bartizan approvals list shows them")
    return str(given.id)


def _lines(found: dict[str, Any]) -> list[str]:
    return [
        found["words"],
        f"  asked by {found['by']}, {when(found['asked_us'])}; waits until {when(found['expires_us'])}; {found['state']}"
        + (f" by {found['decided_by']}" if found["decided_by"] else "")
        + (f" ({found['outcome']})" if found["outcome"] else ""),
        f"  act     {found['act']}",
        f"  why two {', '.join(found['rules'])} (bartizan explain {found['exchange']})",
        f"  exactly {orjson.dumps(found['wish'], option=orjson.OPT_SORT_KEYS).decode()}",
        f"  digest  {found['digest']}",
    ]
