"""Envelope encryption of rows: each tenant has keys of its own, which the node's master secret wraps.

    master (file, environment or KMS) ──HKDF──▶ wrapping key ──AES-256-GCM──▶ tenant key ──AES-256-GCM──▶ row

- A row says which key sealed it (``e1.<key id>.<nonce and text>``), so that keys can be replaced one tenant
  at a time: `turn` makes a new one, older ones open what they sealed until `reseal` has been over it.
- The row's own identity is associated data: a row that was moved or swapped does not open (oauth
  reference CL-08). Tenant and key id are bound into the wrapping in the same way.
- Master secrets can be replaced while workers run: older ones unwrap, the newest wraps what is made from now on.
  They are asked for whenever a key is wrapped or unwrapped, so no worker has to be told (`state.resealing`).

Nonces are random: 2^32 rows per key is the bound of NIST SP 800-38D §8.3.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from firewall.core.errors import ConfigFault, Conflict, StateUnavailable
from firewall.core.jsonvalue import JSON
from firewall.core.ports import Entry, Store
from firewall.state.vault import derive

KEYS_KEPT: Final = 1024
_NONCE: Final = 12
_MARK: Final = b"e1"
_CURRENT: Final = "current"
_KEY: Final = "key/"


class _Sealed(StateUnavailable):
    """A row that does not open, for good: unlike one whose keys or secrets cannot be read at the moment."""


Masters = Callable[[], Sequence[bytes]]


class Envelopes:
    """Seals and opens rows. One per process.

    masters: returns what is there now, newest first, each at least 32 bytes (``KeyRing.secrets("envelope")``).
    rows: the names of all collections that hold sealed rows; a row of another one is not sealed at all, so that
        none can be left behind when keys are replaced.
    """

    def __init__(
        self,
        store: Store,
        masters: Masters,
        rows: Iterable[str],
        *,
        token_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not (found := masters()) or any(len(master) < 32 for master in found):
            raise ValueError("a master secret has at least 32 bytes")
        self._store = store
        self._keys = store.collection("envelope_keys")
        self._masters = masters
        self.rows = tuple(rows)
        self._token_bytes = token_bytes
        self._opened: dict[tuple[str, str], AESGCM] = {}

    def seal(self, tenant: str, row: str, value: JSON) -> bytes:
        """Return the bytes to store, at once. row: the place they are stored at, ``<collection>/<key>``."""
        if row.partition("/")[0] not in self.rows:
            raise ValueError("nobody would seal this collection's rows anew")
        return self._seal(tenant, self._current(tenant), row, orjson.dumps(value))

    def open(self, tenant: str, row: str, data: bytes) -> JSON:
        """Return a row's value. Raises StateUnavailable for one that was changed, moved or sealed elsewhere."""
        value: JSON = orjson.loads(self._open(tenant, row, data))  # our own bytes: authenticated just now
        return value

    # -- replacing keys: for `state.resealing` ---------------------------------------------------------

    def tenants(self) -> Iterator[str]:
        """Yield everyone who has keys."""
        yield from self._keys.tenants()

    def is_turned(self, tenant: str) -> bool:
        """Return whether what is sealed from now on is under a key that the newest master secret wraps."""
        entry = self._keys.get(tenant, _CURRENT)
        return entry is None or self._wrapped_by(tenant, entry.value.decode("ascii")) == 0

    def turn(self, tenant: str) -> None:
        """Make a tenant's next key; rows sealed before stay readable. Of two at once one counts."""
        entry = self._keys.get(tenant, _CURRENT)
        key_id = self._make(tenant)
        try:
            self._keys.put(tenant, _CURRENT, key_id.encode(), if_version=entry.version if entry else 0)
        except Conflict:
            self._keys.delete(tenant, _KEY + key_id)

    def older(self) -> Iterator[tuple[str, Entry]]:
        """Yield (tenant, entry) of each row that another key than its tenant's current one sealed."""
        for name in self.rows:
            collection = self._store.collection(name)
            for tenant in collection.tenants():
                current = self._keys.get(tenant, _CURRENT)
                mark = b".".join((_MARK, current.value, b"")) if current is not None else b"?"
                for entry in collection.scan(tenant):
                    if not entry.value.startswith(mark):
                        yield tenant, Entry(f"{name}/{entry.key}", entry.value, entry.version, entry.expires_us)

    def count(self) -> int:
        """Return how many sealed rows there are."""
        collections = [self._store.collection(name) for name in self.rows]
        return sum(1 for one in collections for tenant in one.tenants() for _ in one.scan(tenant))

    def reseal(self, tenant: str, row: Entry) -> None:
        """Seal a row of `older` under its tenant's current key; one that changed meanwhile stays as it is now.

        What it says, its version and expiry stay the same. Raises StateUnavailable for one that does not open.
        """
        plain = self._open(tenant, row.key, row.value)
        name, _, key = row.key.partition("/")
        sealed = self._seal(tenant, self._current(tenant), row.key, plain)
        self._store.collection(name).swap(tenant, key, row.value, sealed)

    def opens(self, tenant: str, row: Entry) -> bool:
        """Return whether a row of `older` can be read; False is for good.

        Raises StateUnavailable where it cannot be told now: what is given up for lost loses its key (`state.resealing`).
        """
        try:
            self._open(tenant, row.key, row.value)
        except _Sealed:
            return False
        return True

    def older_keys(self) -> Iterator[tuple[str, str]]:
        """Yield (tenant, key id) of each key that an older master secret wraps; not of those that none opens."""
        for tenant in self._keys.tenants():
            for entry in self._keys.scan(tenant, _KEY):
                key_id = entry.key.removeprefix(_KEY)
                if self._wrapped_by(tenant, key_id):
                    yield tenant, key_id

    def forget(self, tenant: str, key_id: str) -> None:
        """Remove a key: what it sealed never opens again, here or in another worker that has not opened it yet."""
        self._keys.delete(tenant, _KEY + key_id)
        self._opened.pop((tenant, key_id), None)

    # -- keys --------------------------------------------------------------------------------------------

    def _current(self, tenant: str) -> str:
        entry = self._keys.get(tenant, _CURRENT)
        if entry is not None:
            return entry.value.decode("ascii")
        key_id = self._make(tenant)
        try:
            self._keys.put(tenant, _CURRENT, key_id.encode(), if_version=0)
            return key_id
        except Conflict:  # another worker was first: its key counts
            self._keys.delete(tenant, _KEY + key_id)
            return self._current(tenant)

    def _make(self, tenant: str) -> str:
        while True:
            newest = self._known()[0]
            key_id, nonce = self._token_bytes(8).hex(), self._token_bytes(_NONCE)
            wrapped = _wrapping(newest, tenant).encrypt(nonce, self._token_bytes(32), _bound(tenant, key_id, "key"))
            self._keys.put(tenant, _KEY + key_id, nonce + wrapped, if_version=0)
            # A secret that was replaced in between may be gone before anybody finds this key (`state.resealing`).
            if self._known()[0] == newest:
                return key_id
            self._keys.delete(tenant, _KEY + key_id)

    def _key(self, tenant: str, key_id: str) -> AESGCM:
        found = self._opened.get((tenant, key_id))
        if found is not None:
            return found
        unwrapped = self._unwrap(tenant, key_id)
        if unwrapped is None:
            raise _Sealed("a sealed row's key is not there, or was wrapped by another master secret")
        if len(self._opened) >= KEYS_KEPT:
            self._opened.clear()
        found = self._opened[tenant, key_id] = AESGCM(unwrapped[1])
        return found

    def _wrapped_by(self, tenant: str, key_id: str) -> int | None:
        """Return which master secret opens a key, 0 for the newest; None where none does, or there is no key."""
        found = self._unwrap(tenant, key_id)
        return None if found is None else found[0]

    def _unwrap(self, tenant: str, key_id: str) -> tuple[int, bytes] | None:
        """Return which master secret opens a key, and the key. INVARIANT: secrets that cannot be read now raise;
        None is for good, and lets `state.resealing` go on without the key.
        """
        entry = self._keys.get(tenant, _KEY + key_id)
        if entry is None:
            return None
        for which, master in enumerate(self._known()):
            try:
                raw = _wrapping(master, tenant).decrypt(
                    entry.value[:_NONCE], entry.value[_NONCE:], _bound(tenant, key_id, "key")
                )
            except InvalidTag:
                continue
            return which, raw
        return None

    def _known(self) -> Sequence[bytes]:
        try:
            return self._masters()
        except ConfigFault as error:
            raise StateUnavailable(error.code) from error

    def _seal(self, tenant: str, key_id: str, row: str, plain: bytes) -> bytes:
        nonce = self._token_bytes(_NONCE)
        sealed = self._key(tenant, key_id).encrypt(nonce, plain, _bound(tenant, key_id, row))
        return b".".join((_MARK, key_id.encode(), base64.urlsafe_b64encode(nonce + sealed)))

    def _open(self, tenant: str, row: str, data: bytes) -> bytes:
        mark, _, rest = data.partition(b".")
        key_id, dot, text = rest.partition(b".")
        try:
            raw = base64.urlsafe_b64decode(text)
            # One spelling per row: unused bits and foreign characters are refused as any other change is.
            if mark != _MARK or not dot or base64.urlsafe_b64encode(raw) != text:
                raise ValueError
            name = key_id.decode("ascii")
            return self._key(tenant, name).decrypt(raw[:_NONCE], raw[_NONCE:], _bound(tenant, name, row))
        except (InvalidTag, ValueError, binascii.Error):
            raise _Sealed("a sealed row does not open") from None


def _wrapping(master: bytes, tenant: str) -> AESGCM:
    return AESGCM(derive(master, "envelope", tenant))


def _bound(tenant: str, key_id: str, row: str) -> bytes:
    return hashlib.sha256("\0".join((tenant, key_id, row)).encode("utf-8", "surrogatepass")).digest()
