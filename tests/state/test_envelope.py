"""Rows under keys of their tenant, keys under the node's master secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from firewall.core.errors import StateUnavailable
from firewall.identity import upstream
from firewall.net.runtime import FakeClock
from firewall.state.envelope import Envelopes
from firewall.state.memory import MemoryStore

MASTER = b"m" * 32
ROWS = ("grants", "r", "x")
VALUE = {"refresh_token": "very-secret", "n": 1}


def worker(store: MemoryStore, *masters: bytes) -> Envelopes:
    return Envelopes(store, lambda: masters, ROWS)


def made(*masters: bytes) -> tuple[Envelopes, MemoryStore]:
    store = MemoryStore(FakeClock())
    return worker(store, *(masters or (MASTER,))), store


def test_a_row_opens_where_it_was_sealed_and_says_which_key_sealed_it():
    envelopes, _ = made()
    data = envelopes.seal("acme", "grants/a", VALUE)
    assert envelopes.open("acme", "grants/a", data) == VALUE
    assert data.startswith(b"e1.")
    assert b"very-secret" not in data
    assert envelopes.seal("acme", "grants/a", VALUE) != data  # never the same text twice


@pytest.mark.parametrize(("tenant", "row"), [("acme", "grants/b"), ("rival", "grants/a"), ("acme", "grants/a/")])
def test_cl_08_a_row_in_another_place_or_tenant_does_not_open(tenant: str, row: str):
    envelopes, _ = made()
    data = envelopes.seal("acme", "grants/a", VALUE)
    envelopes.seal("rival", "x", VALUE)
    with pytest.raises(StateUnavailable):
        envelopes.open(tenant, row, data)


def test_no_changed_byte_opens():
    envelopes, _ = made()
    data = envelopes.seal("acme", "r", VALUE)
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(StateUnavailable):
            envelopes.open("acme", "r", changed)
    for broken in (b"", b"e1", b"e1.", b"e1..", b"e2" + data[2:], data[:20], data + b"!"):
        with pytest.raises(StateUnavailable):
            envelopes.open("acme", "r", broken)


def test_tenants_have_keys_of_their_own_and_two_workers_the_same():
    envelopes, store = made()
    one = envelopes.seal("acme", "r", VALUE).split(b".")[1]
    two = envelopes.seal("rival", "r", VALUE).split(b".")[1]
    assert one != two
    beside = worker(store, MASTER)
    assert beside.seal("acme", "r", VALUE).split(b".")[1] == one
    assert beside.open("acme", "r", envelopes.seal("acme", "r", VALUE)) == VALUE


def test_a_tenants_key_is_replaced_and_what_it_sealed_before_stays_readable():
    envelopes, _ = made()
    before = envelopes.seal("acme", "r", VALUE)
    envelopes.turn("acme")
    after = envelopes.seal("acme", "r", VALUE)
    assert before.split(b".")[1] != after.split(b".")[1]
    assert envelopes.open("acme", "r", before) == envelopes.open("acme", "r", after) == VALUE


def test_a_master_secret_is_replaced_while_the_older_one_is_kept():
    envelopes, store = made()
    data = envelopes.seal("acme", "r", VALUE)
    newer = b"n" * 32
    assert worker(store, newer, MASTER).open("acme", "r", data) == VALUE
    with pytest.raises(StateUnavailable):
        worker(store, newer).open("acme", "r", data)


def test_a_wrapped_key_cannot_be_moved_to_another_tenant():
    envelopes, store = made()
    data = envelopes.seal("acme", "r", VALUE)
    keys = store.collection("envelope_keys")
    for entry in list(keys.scan("acme")):
        keys.put("rival", entry.key, entry.value)
    with pytest.raises(StateUnavailable):
        envelopes.open("rival", "r", data)


@pytest.mark.parametrize("masters", [(), (b"short",), (MASTER, b"short")])
def test_a_master_secret_has_its_length(masters: tuple[bytes, ...]):
    with pytest.raises(ValueError, match="32 bytes"):
        worker(MemoryStore(FakeClock()), *masters)


def test_a_row_that_nobody_would_seal_anew_is_not_sealed_at_all():
    envelopes, _ = made()
    with pytest.raises(ValueError, match="anew"):
        envelopes.seal("acme", "elsewhere/a", VALUE)


def test_a_key_that_was_wrapped_while_the_secret_changed_is_wrapped_by_the_new_one():
    """A worker takes the newest secret; before its key is stored another one takes over, and the old one is gone."""
    store, newer = MemoryStore(FakeClock()), b"n" * 32
    answers = iter([(MASTER,), (MASTER,), (newer,), (newer,)])  # at the start, to wrap, to look again, and so on
    envelopes = Envelopes(store, lambda: next(answers, (newer,)), ROWS)
    data = envelopes.seal("acme", "r", VALUE)
    assert worker(store, newer).open("acme", "r", data) == VALUE
    assert len(list(store.collection("envelope_keys").scan("acme", "key/"))) == 1


def test_every_collection_of_the_room_that_is_sealed_is_named():
    """Whoever seals a row does it under a name of `SEALED`, or it is refused: so no other collection has sealed rows."""
    from firewall.identity.upstream.build import SEALED

    room = Path(upstream.__file__).parent
    sealed = {found for path in room.glob("*.py") for found in re.findall(r'\.seal\([^)]*?f"(\w+)/', path.read_text())}
    assert sealed == set(SEALED)
