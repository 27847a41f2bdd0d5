"""A log as a ``c2sp.org/tlog-tiles`` tree that any witness, mirror or monitor can read.

The writer keeps full bundles and tiles under their final names already; what an export adds are the
partial ones that belong to the newest checkpoint.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from firewall.core.errors import Malformed
from firewall.record.log import iter_bundles, write_whole
from firewall.record.merkle import leaf_hash
from firewall.record.note import Checkpoint
from firewall.record.tiles import Tiler, encode_entry, entries_path


def export_tiles(log: str | os.PathLike[str], target: str | os.PathLike[str]) -> Checkpoint:
    """Write checkpoint, entry bundles and hash tiles of one log into ``target``; return the checkpoint.

    log: a log's directory. Writes only what is not there yet (full files never change), so it can
    be repeated. Raises Malformed("record_unsigned") without a checkpoint, "bundle_torn",
    "root_mismatch" when the entries do not match it; OSError.
    """
    source, out = Path(log), Path(target)
    try:
        note = (source / "checkpoint").read_text()
    except FileNotFoundError:
        raise Malformed("record_unsigned") from None
    checkpoint = Checkpoint.parse(note[: note.rfind("\n\n") + 1])
    tiler, left = Tiler(), checkpoint.size
    for number, entries, _ in iter_bundles(source):
        entries = entries[:left]
        left -= len(entries)
        if entries:
            bundle = out / entries_path(number, len(entries))
            if not bundle.exists():
                write_whole(bundle, b"".join(encode_entry(e) for e in entries))
        for entry in entries:
            for path, data in tiler.add(leaf_hash(entry)):
                if not (out / path).exists():
                    write_whole(out / path, data)
        if not left:
            break
    if left:
        raise Malformed("root_mismatch")
    for path, data in tiler.partial():
        write_whole(out / path, data)
    write_whole(out / "checkpoint", note.encode())
    _drop_partial(out)
    return checkpoint


def _drop_partial(out: Path) -> None:
    """Remove partial files whose full one is there, and all but the widest (tlog-tiles allows it)."""
    for folder in out.rglob("*.p"):
        if folder.with_suffix("").exists():
            shutil.rmtree(folder)
            continue
        for old in sorted(folder.iterdir(), key=lambda part: int(part.name))[:-1]:
            old.unlink()
