"""``bartizan users``: the people of the console and the front door, one-time codes, and bearers for scripts."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import Node
from firewall.cli.output import emit, note, table, told, when
from firewall.core.errors import BartizanError

BEARER_ROLES = ("viewer", "operator", "admin")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    listed = verbs.add("list", show)
    new = verbs.add("add", add)
    new.add_argument("name")
    new.add_argument(
        "--role",
        action="append",
        default=[],
        help="viewer, operator, approver or admin in the console, or one of yours",
    )
    new.add_argument(
        "--scope", action="append", default=[], help="the most this person may give to an agent (default: *)"
    )
    new.add_argument("--password-stdin", action="store_true", help="read the password from stdin")
    changed = [verbs.add("disable", disable), verbs.add("enable", enable)]
    for one in changed:
        one.add_argument("name")
    removed = verbs.add("remove", remove)
    removed.add_argument("name")
    removed.add_argument("--yes", action="store_true", help="do not ask again")
    roles = verbs.add("set", change)
    roles.add_argument("name")
    roles.add_argument("--role", action="append", default=[], help="exactly these roles from now on")
    roles.add_argument("--scope", action="append", default=[], help="exactly these scopes from now on (default: *)")
    known_as = verbs.add("links", show_links)
    linked, unlinked = verbs.add("link", link), verbs.add("unlink", unlink)
    for one in (known_as, linked, unlinked):
        one.add_argument("name")
    for one in (linked, unlinked):
        one.add_argument("--issuer", required=True, metavar="URL", help="the identity provider, as its tokens name it")
        one.add_argument("--subject", required=True, help="its `sub` for this person; never an address")
        one.add_argument("--realm", default="", help="the provider's own tenant, where it has several")
    verbs.add("sessions", show_sessions)
    ended_sessions = verbs.add("end-sessions", end_sessions)
    ended_sessions.add_argument("name")
    verbs.add("code", code)
    made = verbs.add("bearer", bearer)
    made.add_argument("--role", choices=BEARER_ROLES, default="viewer")
    made.add_argument("--ttl", type=int, default=0, metavar="SECONDS", help="60 to 2592000 (default: 86400)")
    bearers = verbs.add("bearers", show_bearers)
    ended = verbs.add("end-bearer", end_bearer)
    ended.add_argument("id")
    for one in (
        listed,
        new,
        roles,
        known_as,
        linked,
        unlinked,
        ended_sessions,
        *changed,
        removed,
        made,
        bearers,
        ended,
    ):
        one.add_argument("--tenant", default="", help="of another tenant")


def show(given: argparse.Namespace) -> int:
    """List the people of a tenant."""
    found = Node(given).get("users")
    rows = [
        (
            *(u["name"], u["label"], " ".join(u["roles"]), " ".join(u["scopes"])),
            *("disabled" if u["disabled"] else "", u["subject"]),
        )
        for u in found["users"]
    ]
    emit(given, found, table(("NAME", "CALLED", "ROLES", "SCOPES", "", "SUBJECT"), rows, empty="There is nobody yet."))
    return 0


def add(given: argparse.Namespace) -> int:
    """Add a person; the password is asked for, or read from stdin."""
    body = {
        "name": given.name,
        "password": _password(given),
        "roles": given.role,
        "scopes": [scope for text in given.scope for scope in text.split()] or ["*"],
    }
    try:
        made = Node(given).post("users", body)
    except BartizanError as error:
        if error.code != "state_conflict":
            raise
        raise BartizanError(
            "user_exists",
            f"{given.name} is there already",
            fix="see `bartizan users list`; `users enable` lets one in again",
        ) from None
    return told(given, made, lambda: f"{made['name']} can sign in now.")


def change(given: argparse.Namespace) -> int:
    """Give a person exactly these roles and scopes; what the person had given before ends."""
    body = {"roles": given.role, "scopes": [scope for text in given.scope for scope in text.split()] or ["*"]}
    made = Node(given).post(f"users/{given.name}/set", body)
    return told(given, made, lambda: f"{made['name']} has the roles: {' '.join(made['roles']) or 'none'}")


def show_links(given: argparse.Namespace) -> int:
    """List who a person is at identity providers."""
    found = Node(given).get(f"users/{given.name}/links")
    rows = [(x["issuer"], x["subject"], x["realm"], when(x["created_s"] * 1_000_000)) for x in found["links"]]
    emit(given, found, table(("ISSUER", "SUBJECT", "REALM", "SINCE"), rows, empty="Nobody elsewhere is this person."))
    return 0


def link(given: argparse.Namespace) -> int:
    """Let somebody at an identity provider in as this person."""
    made = Node(given).post(f"users/{given.name}/links", _outside(given))
    return told(given, made, lambda: f"{given.subject} of {given.issuer} is {given.name} here.")


def unlink(given: argparse.Namespace) -> int:
    """End a link, and what the person had given; exit 1 when there was none."""
    made = Node(given).post(f"users/{given.name}/links/end", _outside(given))
    emit(given, made, "Ended." if made["ended"] else "There is no such link.")
    return 0 if made["ended"] else 1


def _outside(given: argparse.Namespace) -> dict[str, str]:
    return {"issuer": given.issuer, "subject": given.subject, "realm": given.realm}


def show_sessions(given: argparse.Namespace) -> int:
    """List who is signed in, in the console and at the front door."""
    found = Node(given).get("sessions")
    rows = [
        (s["name"], s["at"], s["how"], when(s["opened_us"]), when(s["seen_us"]) if s["seen_us"] else "")
        for s in found["sessions"]
    ]
    emit(given, found, table(("NAME", "AT", "BY", "SINCE", "SEEN"), rows, empty="Nobody is signed in."))
    return 0


def end_sessions(given: argparse.Namespace) -> int:
    """End every session of a person, in the console and at the front door; exit 1 when there was none."""
    made = Node(given).post(f"sessions/{given.name}/end")
    emit(given, made, f"Ended: {made['ended']}.")
    return 0 if made["ended"] else 1


def disable(given: argparse.Namespace) -> int:
    """Disable a person: sessions, grants and tokens end at once."""
    made = Node(given).post(f"users/{given.name}/disable")
    emit(given, made, f"{made['name']} is disabled; everything given by this person has ended.")
    return 0


def enable(given: argparse.Namespace) -> int:
    """Let a disabled person in again."""
    made = Node(given).post(f"users/{given.name}/enable")
    return told(given, made, lambda: f"{made['name']} can sign in again.")


def remove(given: argparse.Namespace) -> int:
    """Remove a person for good, with everything given and kept, and free the name; `disable` keeps somebody out instead."""
    if not given.yes:
        _agreed(given.name)
    made = Node(given).post(f"users/{given.name}/remove")
    return told(given, made, lambda: _removed(made))


def _agreed(name: str) -> None:
    if not sys.stdin.isatty():
        raise Usage("user_remove", "nobody is here to agree", fix="say --yes; or keep the name: bartizan users disable")
    note(f"{name} is removed for good: sessions, grants, consents, accounts at upstreams, second factor, links.")
    note("This cannot be undone; `bartizan users disable` can. Type the name to go on: ")
    if sys.stdin.readline().strip().lower() != name.strip().lower():
        raise Usage("user_remove", "the name was not typed: nothing is changed")


def _removed(made: dict[str, Any]) -> str:
    lines = [f"{made['removed']} is removed; the name is free, and whoever gets it is somebody else."]
    if made["issuers"]:
        lines.append(f"The same person was known by: {' '.join(made['issuers'])}")
        lines.append("Where that provider's `create` makes accounts, signing in there makes a new one.")
    return "\n".join(lines)


def code(given: argparse.Namespace) -> int:
    """Print a new one-time code for the first administrator; exit 1 when there is one already."""
    made = Node(given).post("first-contact")
    if not made:
        emit(given, made, "There is an administrator already.")
        return 1
    emit(given, made, f"{made['code']}\nValid 15 minutes, once: enter it at /first of the admin listener.")
    return 0


def bearer(given: argparse.Namespace) -> int:
    """Print a bearer for the admin API and /metrics; it is shown this once."""
    made = Node(given).post("bearers", {"role": given.role, "ttl_s": given.ttl})
    if not given.json:
        note(
            f"{made['role']}, until {when(made['expires_s'] * 1_000_000)}; end it with: bartizan users end-bearer {made['bearer_id']}"
        )
    emit(given, made, made["bearer"])
    return 0


def show_bearers(given: argparse.Namespace) -> int:
    """List bearers by id, never their secrets."""
    found = Node(given).get("bearers")
    rows = [(b["bearer_id"], b["role"], b["by"], when(b["expires_s"] * 1_000_000)) for b in found["bearers"]]
    emit(given, found, table(("ID", "ROLE", "BY", "UNTIL"), rows, empty="There is none."))
    return 0


def end_bearer(given: argparse.Namespace) -> int:
    """End a bearer by its id; exit 1 when there was none."""
    made = Node(given).post(f"bearers/{given.id}/end")
    emit(given, made, "Ended." if made["ended"] else "There is no such bearer.")
    return 0 if made["ended"] else 1


def _password(given: argparse.Namespace) -> str:
    if given.password_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise Usage("password", "nobody is here to ask", fix="--password-stdin")
    typed = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != typed:
        raise Usage("password", "the two are not the same")
    return typed
