"""Proof of one record: ``c2sp.org/tlog-proof@v1``, checked without the log.

c2sp.org/tlog-proof@v1
index <n>
<base64 hash>, leaf to root, one a line
(empty line)
<signed checkpoint>
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Final

from firewall.core.errors import Malformed
from firewall.record.index import parse_uid, read_bundle
from firewall.record.log import iter_bundles
from firewall.record.merkle import Tree, check_inclusion, leaf_hash
from firewall.record.note import Checkpoint, Verifier, open_note
from firewall.record.tiles import WIDTH

HEADER: Final = "c2sp.org/tlog-proof@v1"


def entry_of(directory: str | os.PathLike[str], uid: str) -> bytes:
    """Return a record's stored bytes: what its proof is about. Raises Malformed("record_unknown")."""
    log, index = parse_uid(uid)
    entries = read_bundle(Path(directory) / log, index // WIDTH)
    if index % WIDTH >= len(entries):
        raise Malformed("record_unknown")
    return entries[index % WIDTH]


def prove(directory: str | os.PathLike[str], uid: str) -> str:
    """Return the proof that a record stands in its log, under the log's newest checkpoint.

    Raises Malformed: record_unknown, record_unsigned (no checkpoint covers it yet), bundle_torn,
    root_mismatch (the log does not match its checkpoint: run `verify`).
    """
    log, index = parse_uid(uid)
    folder = Path(directory) / log
    try:
        note = (folder / "checkpoint").read_text()
    except (OSError, ValueError):
        raise Malformed("record_unsigned" if folder.is_dir() else "record_unknown") from None
    checkpoint = Checkpoint.parse(note[: note.rfind("\n\n") + 1])
    if index >= checkpoint.size:
        raise Malformed("record_unsigned")
    tree = Tree()
    for _, entries, _ in iter_bundles(folder):
        for entry in entries[: checkpoint.size - tree.size]:
            tree.append(leaf_hash(entry))
        if tree.size == checkpoint.size:
            break
    if tree.size != checkpoint.size or tree.root() != checkpoint.root:
        raise Malformed("root_mismatch")
    path = "".join(base64.b64encode(h).decode() + "\n" for h in tree.inclusion(index, checkpoint.size))
    return f"{HEADER}\nindex {index}\n{path}\n{note}"


def check_proof(text: str, record: bytes, *vkeys: str) -> tuple[Checkpoint, int]:
    """Return the checkpoint and index under which a record is proven.

    record: the stored bytes, exactly. Raises Malformed: proof_invalid (shape), proof_failed (the
    hashes do not lead to the root), and as `note.open_note`, `note.Verifier.parse`.
    """
    head, cut, note = text.partition("\n\n")
    lines = head.split("\n")
    if not cut or lines[0] != HEADER:
        raise Malformed("proof_invalid")
    lines = lines[2:] if len(lines) > 1 and lines[1].startswith("extra ") else lines[1:]
    if not lines or not lines[0].startswith("index "):
        raise Malformed("proof_invalid")
    digits = lines[0].removeprefix("index ")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 18 or len(lines) > 64:
        raise Malformed("proof_invalid")
    try:
        path = [base64.b64decode(line, validate=True) for line in lines[1:]]
    except (ValueError, binascii.Error):
        raise Malformed("proof_invalid") from None
    if any(len(h) != 32 for h in path):
        raise Malformed("proof_invalid")
    checkpoint = Checkpoint.parse(open_note(note, [Verifier.parse(v) for v in vkeys]))
    if not check_inclusion(leaf_hash(record), int(digits), checkpoint.size, path, checkpoint.root):
        raise Malformed("proof_failed")
    return checkpoint, int(digits)
