"""The tree against the recursive definition of RFC 6962 §2.1, and the reference vector."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall.record.merkle import (
    Frontier,
    Tree,
    check_consistency,
    check_inclusion,
    leaf_hash,
)


def mth(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


LEAVES = [leaf_hash(n.to_bytes(4, "big")) for n in range(5000)]
TREE = Tree(LEAVES)


def test_every_small_root_matches_the_definition() -> None:
    frontier = Frontier()
    for n in range(130):
        assert frontier.root() == mth(LEAVES[:n]) == TREE.root(n)
        frontier.append(LEAVES[n])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.data())
def test_roots_and_proofs_hold_and_a_flipped_bit_does_not(n: int, data: st.DataObject) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:n]:
        frontier.append(leaf)
    root = mth(LEAVES[:n])
    assert frontier.root() == root == TREE.root(n)
    index, old = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n))
    path, link = TREE.inclusion(index, n), TREE.consistency(old, n)
    old_root = TREE.root(old)
    assert check_inclusion(LEAVES[index], index, n, path, root)
    assert check_consistency(old, old_root, n, root, link)

    def flip(hashes: list[bytes]) -> list[bytes]:
        which, bit = data.draw(st.integers(0, len(hashes) - 1)), data.draw(st.integers(0, 255))
        changed = bytearray(hashes[which])
        changed[bit // 8] ^= 1 << bit % 8
        return [*hashes[:which], bytes(changed), *hashes[which + 1 :]]

    if path:
        assert not check_inclusion(LEAVES[index], index, n, flip(path), root)
        assert not check_inclusion(LEAVES[index], index, n, path[:-1], root)
        assert not check_inclusion(LEAVES[index], index, n, [*path, path[0]], root)
    assert not check_inclusion(flip([LEAVES[index]])[0], index, n, path, root)
    assert not check_inclusion(LEAVES[index], index, n, path, flip([root])[0])
    if link:
        assert not check_consistency(old, old_root, n, root, flip(link))
        assert not check_consistency(old, old_root, n, root, link[:-1])
        assert not check_consistency(old, old_root, n, root, [*link, link[0]])
        assert not check_consistency(old, flip([old_root])[0], n, root, link)
        assert not check_consistency(old, old_root, n, flip([root])[0], link)


def test_all_proofs_of_small_trees_hold_for_their_own_place_only() -> None:
    for n in range(1, 34):
        root = TREE.root(n)
        for index in range(n):
            path = TREE.inclusion(index, n)
            places = [i for i in range(n) if check_inclusion(LEAVES[index], i, n, path, root)]
            assert places == [index]
        for old in range(n + 1):
            assert check_consistency(old, TREE.root(old), n, root, TREE.consistency(old, n))


def test_a_frontier_takes_whole_subtrees() -> None:
    frontier = Frontier()
    frontier.append_subtree(mth(LEAVES[:256]), 8)
    frontier.append_subtree(mth(LEAVES[256:512]), 8)
    frontier.append(LEAVES[512])
    assert (frontier.size, frontier.root()) == (513, mth(LEAVES[:513]))
    copy = frontier.copy()
    copy.append(LEAVES[513])
    assert frontier.root() == mth(LEAVES[:513])
    assert copy.root() == mth(LEAVES[:514])
    with pytest.raises(ValueError, match="multiple"):
        frontier.append_subtree(b"x" * 32, 8)


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 5001)])
def test_a_proof_outside_the_tree_is_refused(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        TREE.inclusion(index, size)
    assert not check_inclusion(LEAVES[0], index, size if size < 5001 else 0, [], LEAVES[0])
    assert not check_consistency(6, LEAVES[0], 5, LEAVES[0], [])
