"""Paths, bundles and hash tiles of ``c2sp.org/tlog-tiles`` v0.1.0. Pure.

    tile/<L>/<N>[.p/<W>]         up to 256 hashes of complete subtrees of 256^L leaves
    tile/entries/<N>[.p/<W>]     up to 256 entries: big-endian 16-bit length, then the bytes

N is written in groups of three digits, all but the last prefixed by ``x``: 1234067 is x001/x234/067.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from firewall.core.errors import Malformed
from firewall.record.merkle import EMPTY_ROOT, HASH_BYTES

WIDTH: Final = 256
HEIGHT: Final = 8  # 2^8 = 256
ENTRY_BYTES: Final = 65_535
TILE_BYTES: Final = WIDTH * HASH_BYTES


def index_path(n: int) -> str:
    """Return a tile number in groups of three digits."""
    groups = [f"{n % 1000:03}"]
    while n >= 1000:
        n //= 1000
        groups.append(f"x{n % 1000:03}")
    return "/".join(reversed(groups))


def tile_path(level: int, n: int, width: int = WIDTH) -> str:
    """Return the path of hash tile ``n`` of a level; partial when ``width`` is below 256."""
    return f"tile/{level}/{index_path(n)}" + ("" if width == WIDTH else f".p/{width}")


def entries_path(n: int, width: int = WIDTH) -> str:
    """Return the path of entry bundle ``n``; partial when ``width`` is below 256."""
    return f"tile/entries/{index_path(n)}" + ("" if width == WIDTH else f".p/{width}")


def encode_entry(entry: bytes) -> bytes:
    """Return one entry as it stands in a bundle; raises Malformed("entry_too_long") over 65,535 bytes."""
    if len(entry) > ENTRY_BYTES:
        raise Malformed("entry_too_long")
    return len(entry).to_bytes(2, "big") + entry


def split_bundle(data: bytes) -> tuple[list[bytes], int]:
    """Return the whole entries of a bundle, and where the first incomplete one starts."""
    entries, at, end = [], 0, len(data)
    while at + 2 <= end:
        stop = at + 2 + (data[at] << 8 | data[at + 1])
        if stop > end:
            break
        entries.append(data[at + 2 : stop])
        at = stop
    return entries, at


def decode_bundle(data: bytes) -> list[bytes]:
    """Return the entries of a finished bundle; raises Malformed("bundle_torn") when it does not end with one."""
    entries, at = split_bundle(data)
    if at != len(data):
        raise Malformed("bundle_torn")
    return entries


def tile_hashes(data: bytes) -> list[bytes]:
    """Return the hashes of a tile; raises Malformed("tile_torn") unless it is 1 to 256 whole hashes."""
    if not data or len(data) % HASH_BYTES or len(data) > TILE_BYTES:
        raise Malformed("tile_torn")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def subtree_root(hashes: list[bytes]) -> bytes:
    """Return the root over the hashes of one tile (the hash that stands one level up when it is full)."""
    row = hashes
    while len(row) > 1:
        nodes = [sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=False)]
        row = nodes if len(row) % 2 == 0 else [*nodes, row[-1]]  # the last one without a pair stands one level up
    return row[0] if row else EMPTY_ROOT


class Tiler:
    """Collects leaf hashes into full tiles, level by level."""

    def __init__(self) -> None:
        self._pending: list[list[bytes]] = [[]]
        self._done: list[int] = [0]

    def copy(self) -> Tiler:
        """Return an independent copy."""
        other = Tiler()
        other._pending, other._done = [list(row) for row in self._pending], list(self._done)
        return other

    def rows(self) -> list[list[bytes]]:
        """Return the hashes of the tiles that are not full yet, level by level, for `of`."""
        return [list(row) for row in self._pending]

    @classmethod
    def of(cls, bundles: int, rows: list[list[bytes]]) -> Tiler:
        """Return the collector after so many full level-0 tiles; raises ValueError where the rows cannot be its."""
        made, left = cls(), bundles
        made._pending, made._done = [list(row) for row in rows], [left]
        for level, row in enumerate(made._pending):
            wanted = 0 if level == 0 else left % WIDTH
            if len(row) != wanted or any(len(one) != HASH_BYTES for one in row):
                raise ValueError("a row has one hash for each full tile below that no full tile stands above")
            if level:
                left //= WIDTH
                made._done.append(left)
        if not made._pending or left:
            raise ValueError("a row is missing")
        return made

    def add(self, leaf: bytes) -> list[tuple[str, bytes]]:
        """Take one leaf hash; return the tiles that it completed, as (path, bytes)."""
        row = self._pending[0]
        row.append(leaf)
        return self._roll() if len(row) == WIDTH else []

    def add_full(self, root: bytes) -> list[tuple[str, bytes]]:
        """Take the root of a level-0 tile that is on disk already; return tiles completed above it."""
        self._done[0] += 1
        self._push(1, root)
        return self._roll(1) if len(self._pending[1]) == WIDTH else []

    def partial(self) -> list[tuple[str, bytes]]:
        """Return the tiles that are not full yet, as (path, bytes)."""
        return [
            (tile_path(level, self._done[level], len(row)), b"".join(row))
            for level, row in enumerate(self._pending)
            if row
        ]

    def _push(self, level: int, root: bytes) -> None:
        if level == len(self._pending):
            self._pending.append([])
            self._done.append(0)
        self._pending[level].append(root)

    def _roll(self, level: int = 0) -> list[tuple[str, bytes]]:
        out = []
        while level < len(self._pending) and len(self._pending[level]) == WIDTH:
            row = self._pending[level]
            out.append((tile_path(level, self._done[level]), b"".join(row)))
            self._push(level + 1, subtree_root(row))
            self._pending[level] = []
            self._done[level] += 1
            level += 1
        return out
