"""Our MAC is HMAC-SHA-256."""

from __future__ import annotations

import hashlib
import hmac

from hypothesis import given
from hypothesis import strategies as st

from firewall.state.mac import MAC


@given(st.binary(max_size=200), st.binary(max_size=2000))
def test_every_value_has_the_code_of_the_standard_library(key: bytes, value: bytes) -> None:
    assert MAC(key).hex(value) == hmac.new(key, value, hashlib.sha256).hexdigest()


def test_a_value_leaves_no_trace_for_the_next() -> None:
    mac = MAC(b"k" * 32)
    first = mac.hex(b"one")
    mac.hex(b"two")
    assert mac.hex(b"one") == first
