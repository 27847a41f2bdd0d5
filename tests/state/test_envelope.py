"""Rows under keys of their tenant, keys under the node's master secret."""

from __future__ import annotations

import pytest

from firewall.core.errors import StateUnavailable
from firewall.net.runtime import FakeClock
from firewall.state.envelope import Envelopes
from firewall.state.memory import MemoryStore

MASTER = b"m" * 32
VALUE = {"refresh_token": "very-secret", "n": 1}


def made(*masters: bytes) -> tuple[Envelopes, MemoryStore]:
    store = MemoryStore(FakeClock())
    return Envelopes(store, masters or (MASTER,)), store


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
    beside = Envelopes(store, (MASTER,))
    assert beside.seal("acme", "r", VALUE).split(b".")[1] == one
    assert beside.open("acme", "r", envelopes.seal("acme", "r", VALUE)) == VALUE


def test_a_tenants_key_is_replaced_and_what_it_sealed_before_stays_readable():
    envelopes, _ = made()
    before = envelopes.seal("acme", "r", VALUE)
    key_id = envelopes.rotate("acme")
    after = envelopes.seal("acme", "r", VALUE)
    assert after.split(b".")[1] == key_id.encode()
    assert before.split(b".")[1] != key_id.encode()
    assert envelopes.open("acme", "r", before) == envelopes.open("acme", "r", after) == VALUE


def test_a_master_secret_is_replaced_while_the_older_one_is_kept():
    envelopes, store = made()
    data = envelopes.seal("acme", "r", VALUE)
    newer = b"n" * 32
    assert Envelopes(store, (newer, MASTER)).open("acme", "r", data) == VALUE
    with pytest.raises(StateUnavailable):
        Envelopes(store, (newer,)).open("acme", "r", data)


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
        Envelopes(MemoryStore(FakeClock()), masters)
