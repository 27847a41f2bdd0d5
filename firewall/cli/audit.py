"""``bartizan audit``: verify the log, show records, prove one of them. Reads files; no node has to run."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from firewall.cli.arguments import Usage, Verbs
from firewall.cli.context import load_config
from firewall.cli.output import emit, out, table, when
from firewall.core.decision import EFFECTS
from firewall.core.errors import ConfigFault

PERSON = "u_"  # what a person's subject begins with
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
FILTERS: dict[str, str] = {
    "kind": "decision, outcome, auth (the front door), edge (refused before anybody was known), admin, registry, pins, or log.open and its like",
    "tenant": "",
    "exchange": "",
    "subject": "whose call, sign-in or token; a person's is the SUBJECT of `bartizan users list`",
    "client": "the OAuth client's id, of calls and of the front door's events",
    "point": "",
    "upstream": "",
    "resource": "",
    "effect": "of decisions: allow, transform, approve or deny",
    "phase": "refused: everything that was, with an effect or without; or intent, outcome, note",
    "event": "of the front door: such as identity.token.refused",
    "fault": "the code of a refusal: what a caller was told, or the front door's own",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = Verbs(parser)
    check = verbs.add("verify", verify)
    check.add_argument("--known", type=Path, action="append", default=[], help="a signed checkpoint kept elsewhere")
    shown = verbs.add("show", show)
    for name, words in FILTERS.items():
        shown.add_argument(f"--{name}", default="", help=words or None)
    shown.add_argument("--rule", default="", help="records whose decision names this rule")
    shown.add_argument("--since", default="", metavar="AGE", help="such as 10m, 2h, 7d")
    shown.add_argument("--limit", type=int, default=50)
    proof = verbs.add("prove", prove)
    proof.add_argument("record", help="a record's id (uid)")
    proof.add_argument("--record-to", type=Path, metavar="FILE", help="write the record's stored bytes there as well")
    checked = verbs.add("check", check_proof)
    checked.add_argument("proof", type=Path)
    checked.add_argument("record", type=Path, help="the record's stored bytes")
    verbs.add("vkey", vkey)
    for one in (check, shown, proof):
        one.add_argument("--directory", type=Path, help="an audit directory, instead of the node's")
    for one in (check, checked):
        one.add_argument("--vkey", action="append", default=[], help="a verifier key; the node's own without it")


def verify(given: argparse.Namespace) -> int:
    """Check every log against its signed checkpoint and the anchor log; exit 1 on any contradiction."""
    from firewall.record.verify import verify as check

    try:
        known = [path.read_text() for path in given.known]
    except (OSError, UnicodeDecodeError) as error:
        raise Usage("file_unreadable", f"--known: {type(error).__name__}") from None
    report = check(_directory(given), _vkeys(given), known=known)
    emit(given, report.as_json(), report.text())
    return 0 if report.ok else 1


def show(given: argparse.Namespace) -> int:
    """List records, newest first; filters must all fit."""
    from firewall.record.face import face
    from firewall.record.record import KINDS
    from firewall.record.show import show as find

    if given.effect and given.effect not in EFFECTS:
        raise Usage("audit_effect", f"there is no effect {given.effect}", fix=f"one of {', '.join(EFFECTS)}")
    if given.kind and given.kind not in KINDS:
        raise Usage("audit_kind", f"there is no kind {given.kind}", fix=f"one of {', '.join(sorted(KINDS))}")
    equals = {name: getattr(given, name) for name in FILTERS if getattr(given, name)}
    since_us = time.time_ns() // 1000 - age_us(given.since) if given.since else 0
    found = list(
        find(_directory(given), since_us=since_us, rule=given.rule, newest_first=True, limit=given.limit, **equals)
    )
    faces = [face(record) for record in found]
    rows = [(when(f.time_us), f.kind, f.point, f.what, f.how, f.who, f.uid) for f in faces]
    heads = ("TIME", "KIND", "POINT", "WHAT", "HOW", "WHO", "RECORD")
    emit(given, {"records": found}, table(heads, rows, empty=f"No record fits.{_hint(given.subject)}"))
    return 0


def _hint(subject: str) -> str:
    """Return what may be wrong with a subject that no record has; "" where it is written as people's are."""
    if not subject or subject.startswith(PERSON):
        return ""
    return f" A person is found by the subject ({PERSON}…), which `bartizan users list` tells, not by name."


def prove(given: argparse.Namespace) -> int:
    """Print the proof that a record stands in its log (c2sp.org/tlog-proof@v1)."""
    from firewall.record.proof import entry_of
    from firewall.record.proof import prove as make

    directory = _directory(given)
    text = make(directory, given.record)
    if given.record_to is not None:
        given.record_to.write_bytes(entry_of(directory, given.record))
    if given.json:
        emit(given, {"record": given.record, "proof": text}, ())
    else:
        out().write(text)
    return 0


def check_proof(given: argparse.Namespace) -> int:
    """Check a proof against a record's bytes, without the log; exit 1 when it does not hold."""
    from firewall.record.proof import check_proof as check

    try:
        proof, record = given.proof.read_text(), given.record.read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise Usage("file_unreadable", type(error).__name__) from None
    checkpoint, index = check(proof, record, *_vkeys(given))
    told = {"ok": True, "origin": checkpoint.origin, "index": index, "size": checkpoint.size}
    emit(
        given,
        told,
        f"The record is number {index} of {checkpoint.origin}, under a signed checkpoint of {checkpoint.size}.",
    )
    return 0


def vkey(given: argparse.Namespace) -> int:
    """Print the verifier keys of this node's log, newest first: give them to whoever checks it."""
    keys = _vkeys(given)
    emit(given, {"vkeys": keys}, keys)
    return 0


def _directory(given: argparse.Namespace) -> Path:
    if given.directory is not None:
        found: Path = given.directory
    else:
        found = load_config(given).audit_dir
    if not found.is_dir():
        raise ConfigFault(
            "audit_missing", f"there is no audit log at {found}", fix="--directory, --config or --state-dir"
        )
    return found


def _vkeys(given: argparse.Namespace) -> list[str]:
    if getattr(given, "vkey", None):
        return list(given.vkey)
    config = load_config(given)
    keys = config.state / "keys"
    # Looking must not make a key: a new one would fit no log.
    if not any(keys.glob("ed25519-audit.*")):
        raise ConfigFault("audit_vkey", f"{keys} holds no audit key", fix="give the verifier key with --vkey")
    from firewall.app import audit_vkeys
    from firewall.state.keys import KeyRing
    from firewall.state.unlock import unlock_secret

    return list(audit_vkeys(config, KeyRing(keys, unlock=unlock_secret(os.environ, keys))))


def age_us(text: str) -> int:
    """Return an age such as ``10m`` in microseconds. Raises Usage("since")."""
    if not text[:-1].isdigit() or text[-1:] not in UNITS:
        raise Usage("since", "an age is a number and s, m, h or d", fix="such as --since 10m")
    return int(text[:-1]) * UNITS[text[-1]] * 1_000_000
