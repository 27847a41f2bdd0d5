"""Envelope encryption of rows: each tenant has keys of its own, which the node's master secret wraps.

    master (file, environment or KMS) ──HKDF──▶ wrapping key ──AES-256-GCM──▶ tenant key ──AES-256-GCM──▶ row

- A row says which key sealed it (``e1.<key id>.<nonce and text>``), so that keys can be replaced one tenant
  at a time: `rotate` makes a new one, older ones open what they sealed.
- The row's own identity is associated data: a row that was moved or swapped does not open (oauth
  reference CL-08). Tenant and key id are bound into the wrapping in the same way.
- Master secrets can be replaced: older ones unwrap, the newest wraps what is made from now on.

Nonces are random: 2^32 rows per key is the bound of NIST SP 800-38D §8.3.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from firewall.core.errors import Conflict, StateUnavailable
from firewall.core.jsonvalue import JSON
from firewall.core.ports import Store
from firewall.state.vault import derive

KEYS_KEPT: Final = 1024
_NONCE: Final = 12
_MARK: Final = b"e1"
_CURRENT: Final = "current"


class Envelopes:
    """Seals and opens rows. One per process.

    masters: newest first, each at least 32 bytes (``KeyRing.secrets("envelope")``).
    """

    def __init__(
        self, store: Store, masters: Sequence[bytes], *, token_bytes: Callable[[int], bytes] = os.urandom
    ) -> None:
        if not masters or any(len(master) < 32 for master in masters):
            raise ValueError("a master secret has at least 32 bytes")
        self._keys = store.collection("envelope_keys")
        self._masters = tuple(masters)
        self._token_bytes = token_bytes
        self._opened: dict[tuple[str, str], AESGCM] = {}

    def seal(self, tenant: str, row: str, value: JSON) -> bytes:
        """Return the bytes to store. row: the identity of the place (collection and key) they are stored at."""
        key_id = self._current(tenant)
        nonce = self._token_bytes(_NONCE)
        sealed = self._key(tenant, key_id).encrypt(nonce, orjson.dumps(value), _bound(tenant, key_id, row))
        return b".".join((_MARK, key_id.encode(), base64.urlsafe_b64encode(nonce + sealed)))

    def open(self, tenant: str, row: str, data: bytes) -> JSON:
        """Return a row's value. Raises StateUnavailable for one that was changed, moved or sealed elsewhere."""
        mark, _, rest = data.partition(b".")
        key_id, dot, text = rest.partition(b".")
        try:
            raw = base64.urlsafe_b64decode(text)
            # One spelling per row: unused bits and foreign characters are refused as any other change is.
            if mark != _MARK or not dot or base64.urlsafe_b64encode(raw) != text:
                raise ValueError
            name = key_id.decode("ascii")
            plain = self._key(tenant, name).decrypt(raw[:_NONCE], raw[_NONCE:], _bound(tenant, name, row))
        except (InvalidTag, ValueError, binascii.Error):
            raise StateUnavailable("a sealed row does not open") from None
        value: JSON = orjson.loads(plain)  # our own bytes: authenticated just now
        return value

    def rotate(self, tenant: str) -> str:
        """Make a tenant's next key and return its id; rows sealed before stay readable."""
        key_id = self._make(tenant)
        self._keys.put(tenant, _CURRENT, key_id.encode())
        return key_id

    def _current(self, tenant: str) -> str:
        entry = self._keys.get(tenant, _CURRENT)
        if entry is not None:
            return entry.value.decode("ascii")
        key_id = self._make(tenant)
        try:
            self._keys.put(tenant, _CURRENT, key_id.encode(), if_version=0)
            return key_id
        except Conflict:  # another worker was first: its key counts
            self._keys.delete(tenant, f"key/{key_id}")
            return self._current(tenant)

    def _make(self, tenant: str) -> str:
        key_id = self._token_bytes(8).hex()
        nonce = self._token_bytes(_NONCE)
        wrapped = self._wrapping(0, tenant).encrypt(nonce, self._token_bytes(32), _bound(tenant, key_id, "key"))
        self._keys.put(tenant, f"key/{key_id}", nonce + wrapped, if_version=0)
        return key_id

    def _key(self, tenant: str, key_id: str) -> AESGCM:
        found = self._opened.get((tenant, key_id))
        if found is not None:
            return found
        entry = self._keys.get(tenant, f"key/{key_id}")
        if entry is None:
            raise StateUnavailable("a sealed row names a key that is not there")
        for which in range(len(self._masters)):
            try:
                raw = self._wrapping(which, tenant).decrypt(
                    entry.value[:_NONCE], entry.value[_NONCE:], _bound(tenant, key_id, "key")
                )
            except InvalidTag:
                continue
            if len(self._opened) >= KEYS_KEPT:
                self._opened.clear()
            found = self._opened[tenant, key_id] = AESGCM(raw)
            return found
        raise StateUnavailable("a tenant's key was wrapped by another master secret")

    def _wrapping(self, which: int, tenant: str) -> AESGCM:
        return AESGCM(derive(self._masters[which], "envelope", tenant))


def _bound(tenant: str, key_id: str, row: str) -> bytes:
    return hashlib.sha256("\0".join((tenant, key_id, row)).encode("utf-8", "surrogatepass")).digest()
