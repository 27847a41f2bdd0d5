"""Sealed values: each binding has a token that breaks it and a twin that holds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.state.vault import TOKEN_CHARS, Sealer, derive


class Hand:
    now = 1_000_000

    def now_us(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        return 0


KEY = bytes(range(32))
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner, max_size=3),
    max_leaves=8,
)


def sealer() -> Sealer:
    return Sealer(KEY, Hand())


@given(JSONS)
def test_what_was_sealed_is_what_opens(value: JSON) -> None:
    box = sealer()
    assert box.open("p", "t", box.seal("p", "t", value, ttl_s=1)) == value
    assert box.open_handle("p", "t", box.handle("p", "t", value)) == value


def test_a_token_is_url_safe_and_never_the_same_twice_and_hides_the_value() -> None:
    box = sealer()
    tokens = {box.seal("p", "t", "needle" * 9, ttl_s=1) for _ in range(20)}
    assert len(tokens) == 20
    for token in tokens:
        assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        assert "needle" not in token


def test_any_changed_character_is_refused() -> None:
    box = sealer()
    for token, opener in ((box.seal("p", "t", 1, ttl_s=9), box.open), (box.handle("p", "t", 1), box.open_handle)):
        assert opener("p", "t", token) == 1
        for at in range(len(token)):
            changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
            with pytest.raises(Malformed) as caught:
                opener("p", "t", changed)
            assert caught.value.code == "handle_invalid"


@pytest.mark.parametrize("token", ["", "A", "====", "é", "a b", "A" * 8, "AQ" * 40, "A" * (TOKEN_CHARS + 1)])
def test_rubbish_is_refused(token: str) -> None:
    for opener in (sealer().open, sealer().open_handle):
        with pytest.raises(Malformed):
            opener("p", "t", token)


def test_a_second_spelling_of_the_same_bytes_is_refused() -> None:
    box = sealer()
    token = box.handle("p", "t", "ab")
    for variant in (
        token + "=",
        token + "==",
        token + "\n",
        " " + token,
        token.replace("-", "+").replace("_", "/") + "=",
    ):
        with pytest.raises(Malformed):
            box.open_handle("p", "t", variant)


@pytest.mark.parametrize(
    ("purpose", "tenant", "owner"),
    [("other", "t", "o"), ("p", "other", "o"), ("p", "t", "other"), ("p", "t", ""), ("pt", "", "o"), ("", "pt", "o")],
)
def test_purpose_tenant_and_owner_are_bound(purpose: str, tenant: str, owner: str) -> None:
    box = sealer()
    sealed, handle = box.seal("p", "t", 1, ttl_s=9, owner="o"), box.handle("p", "t", 1, owner="o")
    assert box.open("p", "t", sealed, owner="o") == 1
    assert box.open_handle("p", "t", handle, owner="o") == 1
    with pytest.raises(Malformed):
        box.open(purpose, tenant, sealed, owner=owner)
    with pytest.raises(Malformed):
        box.open_handle(purpose, tenant, handle, owner=owner)


def test_the_two_kinds_do_not_stand_in_for_each_other() -> None:
    box = sealer()
    with pytest.raises(Malformed):
        box.open("p", "t", box.handle("p", "t", 1))
    with pytest.raises(Malformed):
        box.open_handle("p", "t", box.seal("p", "t", 1, ttl_s=1))


def test_a_token_ends_exactly_at_its_lifetime() -> None:
    clock = Hand()
    box = Sealer(KEY, clock)
    token, forever = box.seal("p", "t", 1, ttl_s=2), box.seal("p", "t", 1, ttl_s=0)
    clock.now += 1_999_999
    assert box.open("p", "t", token) == 1
    clock.now += 1
    with pytest.raises(Malformed):
        box.open("p", "t", token)
    clock.now += 10**15
    assert box.open("p", "t", forever) == 1


def test_handles_compare_equal_for_equal_values_only() -> None:
    box = sealer()
    assert box.handle("p", "t", {"a": 1, "b": 2}) == sealer().handle("p", "t", {"b": 2, "a": 1})
    handles = {
        box.handle("p", "t", 1),
        box.handle("p", "t", 2),
        box.handle("q", "t", 1),
        box.handle("p", "u", 1),
        box.handle("p", "t", 1, owner="o"),
    }
    assert len(handles) == 5


def test_rotation_opens_the_old_and_seals_with_the_new() -> None:
    clock = Hand()
    old, new = Sealer(KEY, clock), Sealer(b"n" * 32, clock, older=(KEY,))
    assert new.open("p", "t", old.seal("p", "t", 1, ttl_s=1)) == 1
    assert new.open_handle("p", "t", old.handle("p", "t", 1)) == 1
    with pytest.raises(Malformed):
        old.open("p", "t", new.seal("p", "t", 1, ttl_s=1))


def test_too_large_values_and_short_secrets_are_refused() -> None:
    with pytest.raises(Malformed):
        sealer().seal("p", "t", "x" * TOKEN_CHARS, ttl_s=1)
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(b"short", Hand())


def test_derived_keys_do_not_blend_their_parts() -> None:
    keys = {derive(KEY, "ab", "c"), derive(KEY, "a", "bc"), derive(KEY, "abc"), derive(KEY, "abc", "")}
    assert len(keys) == 4
