"""A log as a tlog-tiles tree: read back by the layout's own rules, not by our reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from firewall.core.errors import Malformed
from firewall.record.export import export_tiles
from firewall.record.merkle import Frontier, Tree, leaf_hash
from firewall.record.note import Checkpoint, Verifier, open_note
from firewall.record.tiles import decode_bundle, entries_path, tile_hashes, tile_path

from .conftest import KEY, Make, decision

KNOWN = [Verifier.of("fw.example/audit", KEY.public_key())]


def check(out: Path) -> Checkpoint:
    """Rebuild the root from the published entries and from the published level-0 tiles."""
    checkpoint = Checkpoint.parse(open_note((out / "checkpoint").read_text(), KNOWN))
    tree, frontier = Tree(), Frontier()
    full, rest = divmod(checkpoint.size, 256)
    for n, width in [*((n, 256) for n in range(full)), *([(full, rest)] if rest else [])]:
        leaves = [leaf_hash(e) for e in decode_bundle((out / entries_path(n, width)).read_bytes())]
        hashes = tile_hashes((out / tile_path(0, n, width)).read_bytes())
        assert leaves == hashes
        assert len(leaves) == width
        for leaf in leaves:
            tree.append(leaf)
            frontier.append(leaf)
    assert tree.root() == frontier.root() == checkpoint.root
    if full:
        level_one = tile_hashes((out / tile_path(1, 0, full)).read_bytes())
        assert level_one[0] == tree.root(256)
    return checkpoint


def test_an_exported_log_is_a_complete_tile_tree_and_grows(make: Make, tmp_path: Path) -> None:
    out, sizes = tmp_path / "out", []
    for count in (100, 155, 400):  # 101, 257, 658 records with each opening
        writer = make()
        for n in range(count):
            writer.append(decision(n))
        writer.close()
        sizes.append(export_tiles(tmp_path / "audit" / writer.log_id, out).size)
        assert check(out).size == sizes[-1]
    assert sizes == [101, 257, 658]
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.p/*")) == [
        "tile/0/002.p/146",
        "tile/1/000.p/2",
        "tile/entries/002.p/146",
    ]


def test_a_log_without_a_checkpoint_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(Malformed) as caught:
        export_tiles(tmp_path, tmp_path / "out")
    assert caught.value.code == "record_unsigned"
