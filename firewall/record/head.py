"""What the anchor log said up to a point, signed: a start reads only what came after.

    <anchor>/head    {"note": …, "body": …}, replaced whole under the anchor log's lock
    note             the anchor log's checkpoint at a bundle's edge, and the digest of the body on a fourth line
    body             the tree's right edge there, and what each log had come to

It saves work and proves nothing. A head counts only where our signature holds and the entries behind it lead from
its tree to the anchor log's own signed checkpoint: then its tree is that log's. One that does not fit, is of another
log or from before the log was rolled back is passed over, and everything is read, as without. It is only ever made of
entries that hash to a tree which that checkpoint covers. `verify` never looks at it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from firewall.core.errors import Malformed
from firewall.record.log import Remembered, write_whole
from firewall.record.merkle import Frontier
from firewall.record.note import Checkpoint, Signer, Verifier, open_note
from firewall.record.tiles import WIDTH, Tiler

NAME: Final = "head"
VERSION: Final = 1
FILE_BYTES: Final = 64 * 1024 * 1024  # 150 bytes a log: some hundred thousand of them
_MARK: Final = "known "


@dataclass(frozen=True, slots=True)
class Head:
    """remembered: the tree at a bundle's edge. logs: what was said until there, as JSON that `anchor` made."""

    remembered: Remembered
    logs: dict[str, Any]

    @property
    def size(self) -> int:
        """Return how many entries it is about."""
        return self.remembered.bundles * WIDTH


def read(directory: Path, origin: str, verifiers: Sequence[Verifier]) -> Head | None:
    """Return the head that a key of ours signed for this origin; None where there is none, or not a whole one."""
    path = directory / NAME
    try:
        if path.stat().st_size > FILE_BYTES:
            return None
        file = orjson.loads(path.read_bytes())
        note, body = file["note"], file["body"]
        text = open_note(note, verifiers)
        checkpoint = Checkpoint.parse(text)
        if checkpoint.origin != origin or text.split("\n")[3:] != [_MARK + _digest(body), ""]:
            return None
        return _decoded(checkpoint, orjson.loads(body))
    except (OSError, ValueError, KeyError, TypeError, Malformed):
        return None


def write(directory: Path, origin: str, signer: Signer, head: Head) -> None:
    """Sign and store a head. The caller holds the anchor log's lock, and has checked the tree. Raises OSError."""
    remembered = head.remembered
    body = orjson.dumps(
        {
            "v": VERSION,
            "bundles": remembered.bundles,
            "bytes": remembered.bytes,
            "edge": [_b64(one) for one in remembered.full.hashes()],
            "tiles": [[_b64(one) for one in row] for row in remembered.tiler.rows()],
            "logs": head.logs,
        }
    ).decode()
    checkpoint = Checkpoint(origin, head.size, remembered.full.root())
    note = signer.sign(f"{checkpoint.text()}{_MARK}{_digest(body)}\n")
    write_whole(directory / NAME, orjson.dumps({"note": note, "body": body}))


def _decoded(checkpoint: Checkpoint, body: Any) -> Head | None:
    bundles = body["bundles"]
    full = Frontier.of(bundles * WIDTH, [base64.b64decode(one) for one in body["edge"]])
    if body["v"] != VERSION or (full.size, full.root()) != (checkpoint.size, checkpoint.root):
        return None
    tiler = Tiler.of(bundles, [[base64.b64decode(one) for one in row] for row in body["tiles"]])
    return Head(Remembered(bundles, body["bytes"], full, tiler), body["logs"])


def _digest(body: str) -> str:
    return _b64(hashlib.sha256(body.encode()).digest())


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
