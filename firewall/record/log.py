"""One Merkle log in one directory: append, recover, checkpoint. No policy, no threads of its own.

    <log>/live                   the bundle that is being filled: tlog-tiles encoding, appended
    <log>/tile/entries/<N>       full bundles of 256 entries: ``live``, renamed
    <log>/tile/<L>/<N>           full hash tiles (can be made again from the entries)
    <log>/checkpoint             the newest signed checkpoint
    <log>/lock                   flock of the writer

Bytes are hashed as they are stored, so verification never serialises anything again. The tree is not needed
to acknowledge an entry, which has its index: it grows in bulk, before a sync begins and whoever asks for its edge.
After a crash ``live`` may end in half an entry: it was never acknowledged, and is cut off.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Final

from firewall.core.errors import BartizanError, Malformed
from firewall.record.merkle import Frontier, leaf_hash
from firewall.record.note import Checkpoint, Signer, Verifier, open_note
from firewall.record.tiles import (
    ENTRY_BYTES,
    HEIGHT,
    WIDTH,
    Tiler,
    decode_bundle,
    entries_path,
    split_bundle,
    subtree_root,
    tile_hashes,
    tile_path,
)

WAITING: Final = 2 * WIDTH  # entries that are not in the tree yet: whoever syncs takes them long before


class LogDamaged(BartizanError):
    """The files contradict the log's own signed checkpoint: it must not be continued."""


class LogBusy(BartizanError):
    """Another process writes this log."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The finished bundles of a log as this process has read them once: they never change."""

    bundles: int
    bytes: int
    full: Frontier
    tiler: Tiler


@dataclass(frozen=True, slots=True)
class Syncing:
    """A sync that began: the size that it covers, descriptors to sync and close, tiles to write, folders of new names."""

    size: int
    handles: list[int]
    tiles: list[tuple[str, bytes]]
    renamed: set[Path]


class Log:
    """An open log; its owner holds the lock. Not thread-safe but for `grow`: the owner serialises calls.

    origin: the checkpoint's first line. signer: signs checkpoints. known: verifiers of the existing
    checkpoint (older keys included).
    wait: wait for another writer to close, instead of raising LogBusy. before: what `remember` returned for the same
    directory, so that only what came since is read.
    dropped: bytes of torn entries that were cut off while opening.
    Raises LogBusy, LogDamaged("log_rolled_back" | "log_changed" | "checkpoint_bad"), OSError.
    """

    def __init__(
        self,
        directory: Path,
        origin: str,
        signer: Signer,
        known: tuple[Verifier, ...] = (),
        *,
        wait: bool = False,
        before: Remembered | None = None,
    ) -> None:
        self.directory = directory
        self.origin = origin
        self.signer = signer
        self._known = (signer.verifier, *known)
        self.size = 0
        self.dropped = 0
        self.signed = Checkpoint(origin, 0, b"")
        self.bytes = 0
        self.broken = False  # a half-written entry could not be cut off: end this log
        # Entries that are not in the tree yet; one thread at a time takes them, in their order.
        self._waiting: deque[bytes] = deque()
        self._growing = Lock()
        # The tree in two parts: full bundles, and the leaves of the live one, whose nodes are hashed when it is full.
        self._full = Frontier()
        self._row: list[bytes] = []
        self._tiler = Tiler()
        self._tiles: list[tuple[str, bytes]] = []
        self._filled: list[int] = []
        self._renamed: set[Path] = set()
        self._bundles = 0
        self._offset = 0
        self._live = -1
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = not (directory / "live").exists()
        self._lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LogBusy("log_busy") from None
            self._load(before)
            if fresh:
                _sync_directory(directory)
                _sync_directory(directory.parent)
        except BaseException:
            self.close()
            raise

    def grow(self) -> None:
        """Take into the tree what was appended. Thread-safe: what comes meanwhile is taken, or is left for the next."""
        with self._growing:
            self._take()

    def edge(self) -> Frontier:
        """Return the frontier of all entries: an independent copy.

        Raises LogDamaged("tree_miscounted"): an entry was lost on its way into the tree (a `_take` that was broken off),
        and nothing may be signed over the rest. The entries are the evidence: opened again, the log holds.
        """
        with self._growing:
            self._take()
            edge = self._edge()
        if edge.size != self.size:
            raise LogDamaged("tree_miscounted", f"{edge.size} of {self.size} entries are in the tree")
        return edge

    def append(self, entry: bytes) -> int:
        """Write one entry and return its index once ``write`` has returned.

        Raises Malformed("entry_too_long"); OSError after cutting off what was written in part.
        """
        index, length = self.size, len(entry)
        if length > ENTRY_BYTES:
            raise Malformed("entry_too_long")
        if self._offset and not index % WIDTH:
            self._roll()
        elif self._live < 0:
            self._open_live()
        try:
            written = os.write(self._live, length.to_bytes(2, "big") + entry)
        except OSError:
            self._cut()
            raise
        if written != length + 2:  # a full disk may take a part
            self._cut()
            raise OSError(28, "short write")
        self._offset += written
        self.bytes += written
        self._waiting.append(entry)
        self.size = index + 1
        if len(self._waiting) >= WAITING:
            self.grow()
        return index

    def append_all(self, entries: Sequence[bytes]) -> int:
        """Write entries with one ``write`` for each bundle that they stand in; return the index of the first.

        Raises as `append`: then those of an earlier bundle are in the log, and none of the one that failed.
        """
        if max(map(len, entries), default=0) > ENTRY_BYTES:
            raise Malformed("entry_too_long")
        first, at = self.size, 0
        while at < len(entries):
            if self._offset and not self.size % WIDTH:
                self._roll()
            elif self._live < 0:
                self._open_live()
            part = entries[at : at + WIDTH - self.size % WIDTH]
            self._write(b"".join([len(entry).to_bytes(2, "big") + entry for entry in part]))
            self._waiting.extend(part)
            self.size += len(part)
            at += len(part)
        if len(self._waiting) >= WAITING:
            self.grow()
        return first

    def _write(self, data: bytes) -> None:
        """Write to the live bundle, all of it or nothing. Raises OSError."""
        try:
            written = os.write(self._live, data)
        except OSError:
            self._cut()
            raise
        if written != len(data):  # a full disk may take a part
            self._cut()
            raise OSError(28, "short write")
        self._offset += written
        self.bytes += written

    def begin_sync(self) -> Syncing:
        """Begin to make every entry durable. `finish_sync` ends it, outside the owner's lock.

        The live descriptor is duplicated, so that a bundle may roll meanwhile.
        """
        with self._growing:
            self._take()
            tiles, self._tiles = self._tiles, []
        filled, self._filled = self._filled, []
        renamed, self._renamed = self._renamed, set()
        live = [os.dup(self._live)] if self._live >= 0 else []
        return Syncing(self.size, [*filled, *live], tiles, renamed)

    def finish_sync(self, begun: Syncing) -> None:
        """Make what `begin_sync` returned durable. Raises OSError."""
        try:
            for handle in begun.handles:
                os.fdatasync(handle)
        finally:
            for handle in begun.handles:
                os.close(handle)
        for path, data in begun.tiles:
            write_whole(self.directory / path, data)
        if begun.renamed:  # a bundle's new name must last too, and ``live`` is another file now
            for folder in (self.directory, *begun.renamed):
                _sync_directory(folder)

    def sync(self) -> None:
        """Make every entry durable. Raises OSError."""
        self.finish_sync(self.begin_sync())

    def sign(self, frontier: Frontier) -> Checkpoint:
        """Sign and store a checkpoint over durable entries; never one smaller than the last.

        frontier: a copy taken when the entries it covers were handed to a sync.
        """
        checkpoint = Checkpoint(self.origin, frontier.size, frontier.root())
        if checkpoint.size > self.signed.size:
            write_whole(self.directory / "checkpoint", self.signer.sign(checkpoint.text()).encode())
            self.signed = checkpoint
        return checkpoint

    def remember(self) -> Remembered | None:
        """Return the finished bundles for a later `Log` of this process; None at a bundle's edge. After a sync only."""
        if self._tiles or self._bundles * WIDTH != self._full.size:
            return None
        return Remembered(self._bundles, self.bytes - self._offset, self._full.copy(), self._tiler.copy())

    def close(self) -> None:
        """Close without syncing."""
        for handle in (*self._filled, self._live, self._lock):
            if handle >= 0:
                os.close(handle)
        self._filled, self._live, self._lock = [], -1, -1

    # -- recovery ------------------------------------------------------------------------------------

    def _load(self, before: Remembered | None) -> None:
        checkpoint = self._read_checkpoint()
        if before is not None:
            self._bundles, self.size, self.bytes = before.bundles, before.bundles * WIDTH, before.bytes
            self._full, self._tiler = before.full.copy(), before.tiler.copy()
            if checkpoint.size < self.size:
                raise LogDamaged("log_rolled_back", f"{checkpoint.size} entries are signed, {self.size} were before")
            if checkpoint.size == self.size:
                self._compare(checkpoint, self._full)
        while (self.directory / entries_path(self._bundles)).exists():
            self._load_bundle(self._bundles, checkpoint)
            self._bundles += 1
        if self._bundles:
            self._renamed.add((self.directory / entries_path(self._bundles - 1)).parent)
        self._open_live()
        data = os.pread(self._live, os.fstat(self._live).st_size, 0)
        entries, whole = _acknowledged(data)
        if len(entries) > WIDTH:
            raise LogDamaged("log_changed", "the live bundle holds more than 256 entries")
        for entry in entries:
            self._extend([leaf_hash(entry)])
            self.size += 1
            if self.size == checkpoint.size:
                self._compare(checkpoint, self._edge())
        if checkpoint.size > self.size:
            raise LogDamaged("log_rolled_back", f"{self.size} entries, {checkpoint.size} were signed")
        if whole != len(data):
            self.dropped = len(data) - whole
            os.ftruncate(self._live, whole)
        self._offset = whole
        self.bytes += whole
        self.signed = checkpoint

    def _load_bundle(self, n: int, checkpoint: Checkpoint) -> None:
        path = self.directory / entries_path(n)
        self.bytes += path.stat().st_size
        leaves = self._leaves(n, path)
        ahead = checkpoint.size - self.size
        if 0 < ahead < WIDTH:
            partial = self._full.copy()
            for leaf in leaves[:ahead]:
                partial.append(leaf)
            self._compare(checkpoint, partial)
        root = subtree_root(leaves)
        self.size += WIDTH
        self._full.append_subtree(root, HEIGHT)
        self._tiles += [t for t in self._tiler.add_full(root) if not (self.directory / t[0]).exists()]
        if self.size == checkpoint.size:
            self._compare(checkpoint, self._full)

    def _leaves(self, n: int, bundle: Path) -> list[bytes]:
        try:
            hashes = tile_hashes((self.directory / tile_path(0, n)).read_bytes())
            if len(hashes) == WIDTH:
                return hashes
        except (OSError, Malformed):
            pass  # killed before the tile was written: the entries are the evidence
        try:
            entries = decode_bundle(bundle.read_bytes())
        except Malformed:
            entries = []
        if len(entries) != WIDTH:
            raise LogDamaged("log_changed", f"bundle {n} is not whole")
        hashes = [leaf_hash(entry) for entry in entries]
        self._tiles.append((tile_path(0, n), b"".join(hashes)))
        return hashes

    def _read_checkpoint(self) -> Checkpoint:
        try:
            note = (self.directory / "checkpoint").read_text()
        except FileNotFoundError:
            return Checkpoint(self.origin, 0, b"")
        except ValueError:
            raise LogDamaged("checkpoint_bad") from None
        try:
            checkpoint = Checkpoint.parse(open_note(note, self._known))
        except Malformed as error:
            raise LogDamaged("checkpoint_bad", error.code) from None
        if checkpoint.origin != self.origin:
            raise LogDamaged("checkpoint_bad", "the checkpoint is of another log")
        return checkpoint

    @staticmethod
    def _compare(checkpoint: Checkpoint, frontier: Frontier) -> None:
        if frontier.root() != checkpoint.root:
            raise LogDamaged("log_changed", f"the entries do not match the checkpoint of size {checkpoint.size}")

    def _take(self) -> None:
        waiting = self._waiting
        while waiting:
            some = range(min(len(waiting), WIDTH - len(self._row)))
            self._extend([sha256(b"\x00" + waiting.popleft()).digest() for _ in some])

    def _extend(self, leaves: list[bytes]) -> None:
        """Add leaf hashes, no more than the live bundle has room for."""
        self._row += leaves
        if len(self._row) == WIDTH:
            root, n = subtree_root(self._row), self._full.size // WIDTH
            self._full.append_subtree(root, HEIGHT)
            self._tiles.append((tile_path(0, n), b"".join(self._row)))
            self._tiles += self._tiler.add_full(root)
            self._row = []

    def _edge(self) -> Frontier:
        edge = self._full.copy()
        for leaf in self._row:
            edge.append(leaf)
        return edge

    # -- the live bundle --------------------------------------------------------------------------------

    def _open_live(self) -> None:
        flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        self._live = os.open(self.directory / "live", flags, 0o600)

    def _roll(self) -> None:
        target = self.directory / entries_path(self._bundles)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.rename(self.directory / "live", target)
        self._renamed.add(target.parent)
        self._filled.append(self._live)
        self._live = -1
        self._bundles += 1
        self._offset = 0
        self._open_live()

    def _cut(self) -> None:
        try:
            os.ftruncate(self._live, self._offset)
        except OSError:
            self.broken = True
            raise


def write_whole(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Write a file aside, sync it and rename it into place: readers see the old one or the new one.

    shared: no lock keeps other processes from writing it at the same moment, so each has its own file aside.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.new" if shared else f".{path.name}.new")
    handle = os.open(aside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        if os.write(handle, data) != len(data):
            raise OSError(28, "short write")
        os.fdatasync(handle)
    finally:
        os.close(handle)
    os.rename(aside, path)


def _sync_directory(directory: Path) -> None:
    if not directory.is_dir():
        return  # nothing was renamed into it
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def iter_bundles(directory: Path, first: int = 0) -> Iterator[tuple[int, list[bytes], int]]:
    """Yield a log's bundles from number ``first`` on: number, entries, bytes of a torn tail.

    The live bundle comes last, once, and only it may be short or torn; where it is before ``first``, nothing
    comes. Takes no lock: a reader beside the writer sees a prefix. Raises Malformed("bundle_torn") with the bundle's number as
    detail when a finished bundle is not 256 whole entries; OSError.
    """
    n = first
    while True:
        path = directory / entries_path(n)
        if path.exists():
            try:
                entries = decode_bundle(path.read_bytes())
            except Malformed:
                entries = []
            if len(entries) != WIDTH:
                raise Malformed("bundle_torn", str(n))
            yield n, entries, 0
            n += 1
            continue
        if n and not (directory / entries_path(n - 1)).exists():
            return  # asked beyond the end: a full live bundle is renamed with the next record only
        try:
            data = (directory / "live").read_bytes()
        except FileNotFoundError:
            data = b""
        if path.exists():
            continue  # the writer filled it while we looked
        entries, whole = split_bundle(data)
        yield n, entries, len(data) - whole
        return


def _acknowledged(data: bytes) -> tuple[list[bytes], int]:
    """Return the entries of a live bundle that were written whole, and where they end.

    After a power cut a file system may leave zeros where data was not yet on disk: an entry that is
    not one JSON object ends what can be believed. A signed checkpoint still decides whether
    something is missing.
    """
    entries, whole = split_bundle(data)
    for n, entry in enumerate(entries):
        if entry[:1] != b"{" or entry[-1:] != b"}":
            return entries[:n], sum(len(e) + 2 for e in entries[:n])
    return entries, whole
