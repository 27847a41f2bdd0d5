"""The Merkle tree of RFC 6962 §2.1 and its proofs. Pure; ``tests/record/test_merkle.py`` compares
everything with the recursive definition.

    leaf = SHA-256(0x00 ‖ data)    node = SHA-256(0x01 ‖ left ‖ right)    split at the largest power of two < n
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one entry."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: all that a writer needs, 32 bytes per level.

    Holds one hash per set bit of ``size``, largest subtree first.
    """

    __slots__ = ("_hashes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash: amortised one inner node."""
        n, hashes = self.size, self._hashes
        self.size = n + 1
        while n & 1:
            leaf = sha256(b"\x01" + hashes.pop() + leaf).digest()
            n >>= 1
        hashes.append(leaf)

    def append_subtree(self, root: bytes, height: int) -> None:
        """Add a complete subtree of 2^height leaves; raises ValueError where none can stand."""
        if self.size & ((1 << height) - 1):
            raise ValueError("a subtree starts at a multiple of its size")
        n, hashes = self.size >> height, self._hashes
        self.size += 1 << height
        while n & 1:
            root = node_hash(hashes.pop(), root)
            n >>= 1
        hashes.append(root)

    def root(self) -> bytes:
        """Return the tree hash of all leaves so far."""
        if not self._hashes:
            return EMPTY_ROOT
        result = self._hashes[-1]
        for left in reversed(self._hashes[:-1]):
            result = node_hash(left, result)
        return result

    def hashes(self) -> list[bytes]:
        """Return its hashes, for `of`."""
        return list(self._hashes)

    @classmethod
    def of(cls, size: int, hashes: Sequence[bytes]) -> Frontier:
        """Return the frontier of so many leaves; raises ValueError where the hashes cannot be its."""
        if size < 0 or len(hashes) != size.bit_count() or any(len(one) != HASH_BYTES for one in hashes):
            raise ValueError("a frontier has one hash per set bit of its size")
        made = cls()
        made.size, made._hashes = size, list(hashes)
        return made

    def copy(self) -> Frontier:
        """Return an independent frontier with the same leaves."""
        return self.joined(Frontier())

    def joined(self, right: Frontier) -> Frontier:
        """Return the frontier of these leaves followed by those of ``right``.

        ``right`` must fit below the lowest bit of this size (so no subtree spans both); raises ValueError.
        """
        if self.size and right.size >= self.size & -self.size:
            raise ValueError("the right part does not fit under the left one")
        other = Frontier()
        other.size, other._hashes = self.size + right.size, self._hashes + right._hashes
        return other


class Tree:
    """A whole tree in memory (64 bytes per leaf), for proofs; never used by the writer."""

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self._levels: list[bytearray] = [bytearray()]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Return the number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        level, at = 0, self.size
        self._levels[0] += leaf
        while at & 1:
            pair = self._levels[level][-2 * HASH_BYTES :]
            level += 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += sha256(b"\x01" + pair).digest()
            at >>= 1

    def root(self, size: int | None = None) -> bytes:
        """Return the tree hash of the first ``size`` leaves (all by default)."""
        end = self.size if size is None else size
        self._check(0, end)
        return self._range(0, end) if end else EMPTY_ROOT

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return PATH(index, D[size]), leaf to root (RFC 6962 §2.1.1)."""
        self._check(index, size)
        self._check(index + 1, size)
        low, high, proof = 0, size, []
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                proof.append(self._range(middle, high))
                high = middle
            else:
                proof.append(self._range(low, middle))
                low = middle
        return proof[::-1]

    def consistency(self, old: int, size: int) -> list[bytes]:
        """Return PROOF(old, D[size]) (RFC 6962 §2.1.2); empty for old = 0 and old = size."""
        self._check(old, size)
        if old in (0, size):
            return []
        low, high, proof, whole = 0, size, [], True
        while old != high:
            middle = low + _split(high - low)
            if old <= middle:
                proof.append(self._range(middle, high))
                high = middle
            else:
                proof.append(self._range(low, middle))
                low, whole = middle, False
        if not whole:
            proof.append(self._range(low, high))
        return proof[::-1]

    def _check(self, low: int, high: int) -> None:
        if not 0 <= low <= high <= self.size:
            raise ValueError("outside the tree")

    def _range(self, low: int, high: int) -> bytes:
        count = high - low
        if count & (count - 1) == 0:  # complete: `low` is a multiple of `count` wherever we cut
            level = count.bit_length() - 1
            at = (low >> level) * HASH_BYTES
            return bytes(self._levels[level][at : at + HASH_BYTES])
        middle = low + _split(count)
        return node_hash(self._range(low, middle), self._range(middle, high))


def _split(n: int) -> int:
    """Return the largest power of two smaller than n (n > 1)."""
    return 1 << ((n - 1).bit_length() - 1)


def check_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Return whether the proof leads from the leaf at ``index`` to ``root`` (RFC 9162 §2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, result = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            result = node_hash(step, result)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            result = node_hash(result, step)
        at >>= 1
        last >>= 1
    return last == 0 and result == root


def check_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Return whether the tree of ``size`` extends the tree of ``old`` (RFC 9162 §2.1.4.2)."""
    if not 0 <= old <= size:
        return False
    if old == size:
        return not proof and old_root == root
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    steps = list(proof)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return False
    at, last = old - 1, size - 1
    while at & 1:
        at >>= 1
        last >>= 1
    first = second = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not at & 1 and at:
                at >>= 1
                last >>= 1
        else:
            second = node_hash(second, step)
        at >>= 1
        last >>= 1
    return last == 0 and first == old_root and second == root
