"""A log's tree grows after its entries are acknowledged, and is theirs whenever somebody asks."""

from __future__ import annotations

import os
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from firewall.record import log as log_module
from firewall.record.log import WAITING, Log, iter_bundles
from firewall.record.merkle import Frontier, leaf_hash
from firewall.record.note import Signer
from firewall.record.tiles import WIDTH, tile_hashes, tile_path

KEY = Signer("node/audit", Ed25519PrivateKey.generate())


def opened(directory: Path) -> Log:
    return Log(directory / "log", "node/audit/log_1", KEY)


def entry(n: int) -> bytes:
    return b'{"n":%d}' % n


def root(size: int) -> bytes:
    frontier = Frontier()
    for n in range(size):
        frontier.append(leaf_hash(entry(n)))
    return frontier.root()


@pytest.mark.parametrize("every", [1, 7, 255, 256, 257, 10_000])
def test_however_seldom_it_is_synced_the_tree_is_that_of_the_entries_in_their_order(tmp_path: Path, every: int) -> None:
    log = opened(tmp_path)
    for n in range(2 * WIDTH + 90):
        assert log.append(entry(n)) == n
        if n % every == 0:
            log.sync()
    assert (log.edge().size, log.edge().root()) == (log.size, root(log.size))
    log.sync()
    log.sign(log.edge())
    log.close()
    assert [e for _, bundle, _ in iter_bundles(log.directory) for e in bundle] == [entry(n) for n in range(log.size)]
    for n in range(2):
        hashes = tile_hashes((log.directory / tile_path(0, n)).read_bytes())
        assert hashes == [leaf_hash(entry(n * WIDTH + at)) for at in range(WIDTH)]
    again = opened(tmp_path)  # compares the files with the signed root
    assert again.edge().root() == root(log.size)
    again.close()


def test_entries_that_come_while_the_tree_grows_keep_their_order_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = opened(tmp_path)

    def hashed(data: bytes) -> Any:
        if log.size < 2 * WIDTH:
            log.append(entry(log.size))
        return sha256(data)

    monkeypatch.setattr(log_module, "sha256", hashed)
    log.append(entry(0))
    log.grow()
    assert (log.edge().size, log.edge().root()) == (2 * WIDTH, root(2 * WIDTH))
    log.close()


def test_threads_that_grow_a_tree_at_once_take_each_entry_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed(data: bytes) -> Any:
        time.sleep(0)  # lets another thread in
        return sha256(data)

    monkeypatch.setattr(log_module, "sha256", hashed)
    log, begin = opened(tmp_path), threading.Barrier(4)
    log.append_all([entry(n) for n in range(WAITING - 1)])
    edges: list[Frontier] = []

    def grow() -> None:
        begin.wait(20)
        log.grow()
        edges.append(log.edge())

    growers = [threading.Thread(target=grow) for _ in range(4)]
    for grower in growers:
        grower.start()
    for grower in growers:
        grower.join(20)
    log.close()
    assert [(edge.size, edge.root()) for edge in edges] == [(WAITING - 1, root(WAITING - 1))] * 4


@pytest.mark.parametrize("group", [1, 100])
def test_a_log_that_nobody_syncs_holds_no_more_than_a_few_entries(tmp_path: Path, group: int) -> None:
    log = opened(tmp_path)
    for n in range(0, 2 * WAITING, group):
        log.append_all([entry(n + at) for at in range(group)]) if group > 1 else log.append(entry(n))
        assert len(log._waiting) < WAITING
    assert log.edge().root() == root(log.size)
    log.close()


def test_an_entry_that_was_not_written_is_not_in_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, real = opened(tmp_path), os.write
    log.append(entry(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, data: real(handle, data[:4]))
        with pytest.raises(OSError, match="short"):
            log.append(entry(7))
    assert log.append(entry(1)) == 1
    assert (log.edge().size, log.edge().root()) == (2, root(2))
    assert (log.directory / "live").read_bytes().count(b"{") == 2
    log.close()


@pytest.mark.parametrize("between", [True, False])
def test_the_new_name_of_a_bundle_is_made_durable_by_the_next_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: bool
) -> None:
    """Also where its hash tile was written by the sync before."""
    log = opened(tmp_path)
    synced: list[Path] = []
    monkeypatch.setattr(log_module, "_sync_directory", synced.append)
    for n in range(WIDTH):
        log.append(entry(n))
    if between:
        log.sync()
        assert synced == []
    log.append(entry(WIDTH))
    log.sync()
    assert synced == [log.directory, log.directory / "tile" / "entries"]
    log.sync()
    assert len(synced) == 2
    log.close()
