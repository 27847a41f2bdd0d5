"""Keyed digests of what was sent: HMAC-SHA-256 (RFC 2104) under each tenant's audit key, cut to 128 bits.

A key's two blocks are hashed once and copied for each value: OpenSSL 3 looks its algorithm up again for every
one-shot HMAC, which on the path of a request costs more than the hashing.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from firewall.state.vault import derive

HMAC_CHARS: Final = 32
TENANTS_KEPT: Final = 4096
_BLOCK: Final = 64
_INNER: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER: Final = bytes(byte ^ 0x5C for byte in range(256))


class _Key:
    """The two blocks of a key of at most 64 bytes, hashed; they are copied and never changed."""

    __slots__ = ("inner", "outer")

    def __init__(self, key: bytes) -> None:
        block = key.ljust(_BLOCK, b"\x00")
        self.inner = sha256(block.translate(_INNER))
        self.outer = sha256(block.translate(_OUTER))


class Digests:
    """Digests of values, by tenant. Thread-safe. secret: each tenant's key is derived from it (`vault.derive`)."""

    __slots__ = ("_keys", "_secret")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._keys: dict[str, _Key] = {}

    def hmac(self, tenant: str, value: bytes) -> str:
        """Return ``h:`` and the first 32 hex characters of the code of a value."""
        key = self._keys.get(tenant)
        if key is None:
            if len(self._keys) >= TENANTS_KEPT:
                self._keys.clear()
            key = self._keys[tenant] = _Key(derive(self._secret, "audit", tenant))
        inner, outer = key.inner.copy(), key.outer.copy()
        inner.update(value)
        outer.update(inner.digest())
        return "h:" + outer.hexdigest()[:HMAC_CHARS]
