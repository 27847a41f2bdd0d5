"""``bartizan clients``: the OAuth clients that an operator registers, and their secrets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import orjson

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import Node
from firewall.cli.output import emit, note, table
from firewall.core.errors import BartizanError

GRANTS = ("authorization_code", "refresh_token", "client_credentials", "device_code", "jwt_bearer", "token_exchange")
KEY_BYTES = 64 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    listed = verbs.add("list", show)
    new = verbs.add("add", add)
    new.add_argument("client_id")
    new.add_argument("--name", default="", help="what people are shown")
    new.add_argument("--redirect-uri", action="append", default=[], help="exact; on loopback any port")
    new.add_argument("--grant", action="append", default=[], choices=GRANTS, help="how it may ask for tokens")
    new.add_argument("--scope", action="append", default=[], help="the most it may ever have (default: *)")
    how = new.add_mutually_exclusive_group()
    how.add_argument("--secret", action="store_true", help="make a secret and print it, once")
    how.add_argument("--jwks", type=Path, default=None, metavar="FILE", help="its public keys, a JWK Set")
    how.add_argument("--jwks-uri", default="", metavar="URL", help="where its public keys are fetched")
    how.add_argument("--workload", action="store_true", help="it presents the credentials of identity.workloads")
    gone = verbs.add("remove", remove)
    gone.add_argument("client_id")
    turned = verbs.add("rotate-secret", rotate_secret)
    turned.add_argument("client_id")
    for one in (listed, new, gone, turned):
        one.add_argument("--tenant", default="", help="of another tenant")


def show(given: argparse.Namespace) -> int:
    """List the registered clients of a tenant."""
    found = Node(given).get("clients")
    rows = [(c["client_id"], c["method"], " ".join(c["scopes"]), c["from"], c["name"]) for c in found["clients"]]
    emit(given, found, table(("CLIENT", "METHOD", "SCOPES", "FROM", "NAME"), rows, empty="No client is registered."))
    return 0


def add(given: argparse.Namespace) -> int:
    """Register a client; a secret is printed this once."""
    if given.redirect_uri:
        grants = given.grant or ["authorization_code", "refresh_token"]
    else:
        grants = given.grant or ["client_credentials"]
    body: dict[str, Any] = {
        "client_id": given.client_id,
        "name": given.name,
        "auth": "secret" if given.secret else "workload" if given.workload else "keys" if _keyed(given) else "none",
        "redirect_uris": given.redirect_uri,
        "grants": grants,
        "scopes": [scope for text in given.scope for scope in text.split()],
        "jwks": _jwks(given.jwks) if given.jwks is not None else None,
        "jwks_uri": given.jwks_uri,
    }
    made = Node(given).post("clients", body)
    _told(given, made, f"{made['client_id']} is registered.")
    return 0


def remove(given: argparse.Namespace) -> int:
    """Remove a client; what was issued to it ends at once. Exit 1 when there was none."""
    made = Node(given).post(f"clients/{given.client_id}/remove")
    emit(given, made, "Removed." if made["removed"] else "There is no such client; the file's are removed there.")
    return 0 if made["removed"] else 1


def rotate_secret(given: argparse.Namespace) -> int:
    """Give a client another secret and print it, once; what was issued to it ends at once."""
    made = Node(given).post(f"clients/{given.client_id}/rotate-secret")
    _told(given, made, f"{made['client_id']} has another secret.")
    return 0


def _told(given: argparse.Namespace, made: dict[str, Any], text: str) -> None:
    if not given.json:
        note(text)
    emit(given, made, str(made.get("secret", "")))


def _keyed(given: argparse.Namespace) -> bool:
    return given.jwks is not None or bool(given.jwks_uri)


def _jwks(file: Path) -> object:
    try:
        with file.open("rb") as opened:
            return orjson.loads(opened.read(KEY_BYTES + 1))
    except OSError as error:
        raise Usage("client_keys", f"{file}: {error.strerror}") from None
    except orjson.JSONDecodeError:
        raise BartizanError("jwks_invalid", f"{file} is not JSON", fix="give the public keys as a JWK Set") from None
