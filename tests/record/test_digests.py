"""A digest is HMAC-SHA-256 under the tenant's own key, cut to 128 bits."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firewall.record import digests as digests_module
from firewall.record.digests import Digests
from firewall.state.vault import derive

DIGESTS = Digests(b"s" * 32)


@given(st.sampled_from(["acme", "globex", ""]), st.binary(max_size=2000))
def test_every_value_has_the_code_of_the_standard_library(tenant: str, value: bytes) -> None:
    """Whatever was digested before, of this tenant and of others."""
    code = hmac.new(derive(b"s" * 32, "audit", tenant), value, hashlib.sha256).hexdigest()
    assert DIGESTS.hmac(tenant, value) == f"h:{code[:32]}"


def test_each_tenant_and_each_secret_has_codes_of_its_own() -> None:
    assert len({Digests(secret).hmac(tenant, b"x") for secret in (b"a", b"b") for tenant in ("t", "u")}) == 4


def test_keys_are_bounded_and_come_back_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests_module, "TENANTS_KEPT", 3)
    digests = Digests(b"s" * 32)
    first = [digests.hmac(f"t{n}", b"x") for n in range(8)]
    assert [digests.hmac(f"t{n}", b"x") for n in range(8)] == first
    assert len(digests._keys) <= 3
