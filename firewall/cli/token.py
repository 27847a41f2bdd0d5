"""``bartizan token``: print a short-lived token for one resource, for clients that can only send a key."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path

from firewall.cli.arguments import Usage
from firewall.cli.context import Node
from firewall.cli.output import emit, out, table

RENEW_AT = 0.7  # of its life: what still holds the old token has time to read the new one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--resource", default="", help="URL or path of a resource, such as /mcp/time or /v1")
    parser.add_argument("--list", action="store_true", help="list the resources and their scopes instead")
    parser.add_argument(
        "--scope", action="append", default=[], help="a scope; may be repeated (default: the resource's)"
    )
    parser.add_argument("--ttl", type=int, default=0, metavar="SECONDS", help="lifetime, 30 to 3600 (default: 300)")
    parser.add_argument("--watch", action="store_true", help="go on, with a new token before each ends, until Ctrl-C")
    parser.add_argument(
        "--file", type=Path, help="write the token into this file (0600, replaced whole), not to stdout"
    )
    parser.add_argument("--tenant", default="", help="another tenant's resource")
    parser.add_argument(
        "--admin", action="store_true", help="a token for the admin API instead, which no agent's opens"
    )
    parser.add_argument("--user", default="", help="with --admin: whose it is; it is never more than that person is")
    parser.add_argument(
        "--role", default="viewer", choices=("viewer", "operator", "admin"), help="with --admin: what it may at most"
    )


def run(given: argparse.Namespace) -> int:
    """Print the token and nothing else on stdout; return the exit code."""
    node = Node(given)
    if given.admin:
        made = node.post("bearers", {"role": given.role, "ttl_s": given.ttl, "user": given.user})
        if given.file is not None:
            write_private(given.file, made["bearer"])
        else:
            emit(given, made, made["bearer"])
        return 0
    if given.list:
        found = node.get("tokens")
        rows = [(r["resource"], " ".join(r["scopes"]), r["title"]) for r in found["resources"]]
        emit(given, found, table(("RESOURCE", "SCOPES", "WHAT"), rows, empty="Nothing is served yet."))
        return 0
    if not given.resource:
        raise Usage("token_resource", "name a resource", fix="bartizan token --list shows them")
    wish = {
        "resource": given.resource,
        "scopes": [scope for text in given.scope for scope in text.split()],
        "ttl_s": given.ttl,
    }
    while True:
        made = node.post("tokens", wish)
        if given.file is not None:
            write_private(given.file, made["access_token"])
        elif given.json:
            emit(given, made, ())
        else:
            out().write(made["access_token"] + "\n")
        if given.file is None:
            out().flush()
        if not given.watch:
            return 0
        time.sleep(made["expires_in"] * RENEW_AT)


def write_private(path: Path, text: str) -> None:
    """Replace a file whole, readable by its owner alone; a reader sees the old token or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    aside.replace(path)
