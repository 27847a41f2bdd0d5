"""Paths, bundles and tiles of the C2SP layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import Malformed
from firewall.record.merkle import Tree, leaf_hash
from firewall.record.tiles import (
    WIDTH,
    Tiler,
    decode_bundle,
    encode_entry,
    entries_path,
    index_path,
    split_bundle,
    subtree_root,
    tile_hashes,
    tile_path,
)


def test_paths_are_those_of_the_specification() -> None:
    assert index_path(1234067) == "x001/x234/067"
    assert index_path(0) == "000"
    assert index_path(999) == "999"
    assert index_path(1000) == "x001/000"
    assert tile_path(0, 5) == "tile/0/005"
    assert tile_path(1, 1000, 17) == "tile/1/x001/000.p/17"
    assert entries_path(1000) == "tile/entries/x001/000"


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(0, 50))
def test_a_bundle_comes_back_and_a_torn_one_gives_its_whole_entries(entries: list[bytes], cut: int) -> None:
    data = b"".join(encode_entry(entry) for entry in entries)
    assert decode_bundle(data) == entries
    torn = data[: max(0, len(data) - cut)]
    whole, at = split_bundle(torn)
    assert whole == entries[: len(whole)]
    assert data[:at] == b"".join(encode_entry(entry) for entry in whole)
    if at != len(torn):
        with pytest.raises(Malformed):
            decode_bundle(torn)


def test_an_entry_has_at_most_65535_bytes() -> None:
    assert len(encode_entry(b"x" * 65_535)) == 65_537
    with pytest.raises(Malformed):
        encode_entry(b"x" * 65_536)


def test_tiles_hold_the_subtrees_of_the_tree() -> None:
    count = 256 * 256 + 256 * 2 + 3
    leaves = [leaf_hash(n.to_bytes(4, "big")) for n in range(count)]
    tiler, made = Tiler(), {}
    for leaf in leaves:
        made.update(tiler.add(leaf))
    made.update(tiler.partial())
    assert set(made) == {
        *(tile_path(0, n) for n in range(258)),
        "tile/0/258.p/3",
        "tile/1/000",
        "tile/1/001.p/2",
        "tile/2/000.p/1",
    }
    tree = Tree(leaves)
    assert tile_hashes(made["tile/2/000.p/1"]) == [tree.root(65536)]
    assert subtree_root(tile_hashes(made["tile/0/000"])) == tree.root(256)
    again = Tiler()
    rebuilt = {}
    for n in range(258):
        rebuilt.update(again.add_full(subtree_root(tile_hashes(made[tile_path(0, n)]))))
    for leaf in leaves[258 * 256 :]:
        rebuilt.update(again.add(leaf))
    rebuilt.update(again.partial())
    assert rebuilt == {
        path: data for path, data in made.items() if not (path.startswith("tile/0") and ".p" not in path)
    }


def test_a_torn_tile_is_refused() -> None:
    for data in (b"", b"x" * 31, b"x" * 257 * 32):
        with pytest.raises(Malformed):
            tile_hashes(data)


def test_the_root_of_a_tile_is_that_of_the_tree_over_its_hashes_however_many_there_are() -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(WIDTH)]
    tree = Tree(leaves)
    assert [subtree_root(leaves[:n]) for n in range(WIDTH + 1)] == [tree.root(n) for n in range(WIDTH + 1)]
