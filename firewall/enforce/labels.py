"""Flow labels of callers: read from the node's shared memory, kept in the store.

INVARIANT (DESIGN §6b-1): the key is (tenant, subject, client), never a session or a context id.
INVARIANT (DESIGN §6b-2): `raise_` returns after every worker of the node can read the new label,
so a raise done before release is seen by whoever decides next.
"""

from __future__ import annotations

from hashlib import blake2b

from firewall.core.errors import Conflict, StateUnavailable
from firewall.core.label import MOST_RESTRICTIVE, Label
from firewall.core.ports import Collection, SharedMarks
from firewall.core.principal import Principal


def shared_key(kind: bytes, *parts: str) -> bytes:
    """Return the 16-byte shared-memory key of a tuple; parts are length-prefixed, so they cannot blend."""
    digest = blake2b(digest_size=16, person=kind)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big"))
        digest.update(raw)
    return digest.digest()


# The store has no list of tenants; labels keep their own, under a name that no tenant can have.
TENANTS = "\x00tenants"


class FlowLabels:
    """Implements `core.ports.Labels`."""

    def __init__(self, marks: SharedMarks, kept: Collection) -> None:
        self._marks = marks
        self._kept = kept
        self._keys: dict[tuple[str, str, str], bytes] = {}

    def restore(self) -> int:
        """Load every tenant's kept labels into shared memory at start; return how many."""
        count = 0
        for tenant in [entry.key for entry in self._kept.scan(TENANTS)]:
            for entry in self._kept.scan(tenant):
                self._marks.raise_(bytes.fromhex(entry.key), int(entry.value))
                count += 1
        return count

    def current(self, principal: Principal) -> Label:
        """Return the caller's label; MOST_RESTRICTIVE when shared memory cannot be read."""
        try:
            return Label(self._marks.read(self._key(principal)) & MOST_RESTRICTIVE)
        except StateUnavailable:
            return MOST_RESTRICTIVE

    def raise_(self, principal: Principal, label: Label) -> None:
        """Join a label into the caller's. Raises StateUnavailable: the caller must not release."""
        key = self._key(principal)
        known = self._marks.read(key)
        if known & label == label:
            return
        # Durable first: a crash between the two leaves the label too high, never too low.
        name = key.hex()
        while True:
            entry = self._kept.get(principal.tenant, name)
            kept, version = (int(entry.value), entry.version) if entry else (0, 0)
            try:
                self._kept.put(principal.tenant, name, str(kept | label).encode(), if_version=version)
                if not version:
                    self._kept.put(TENANTS, principal.tenant, b"1")
                break
            except Conflict:
                continue  # another worker raised it meanwhile: join with what it wrote
        self._marks.raise_(key, label)

    def _key(self, principal: Principal) -> bytes:
        key = self._keys.get(principal.key)
        if key is None:
            if len(self._keys) >= 65_536:
                self._keys.clear()
            key = self._keys[principal.key] = shared_key(b"label", *principal.key)
        return key
