"""The in-memory store: the model that every durable store is tested against.

One process only: with more than one worker, the node's store is SQLite (DESIGN §7).
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock

from firewall.core.errors import Conflict
from firewall.core.ports import Clock, Entry
from firewall.state.store import check_count, check_key, check_value, clock_or_wall, count_of, grant, is_live


class MemoryCollection:
    """One named map; see core.ports.Collection for the contract of each method."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._tenants: dict[str, dict[str, Entry]] = {}

    def _live(self, tenant: str, key: str) -> Entry | None:
        entries = self._tenants.get(tenant)
        entry = entries.get(key) if entries is not None else None
        if entries is None or entry is None:
            return None
        if not is_live(entry.expires_us, self._clock.now_us()):
            del entries[key]
            return None
        return entry

    def get(self, tenant: str, key: str) -> Entry | None:
        """Return the live entry, or None."""
        check_key(tenant, key)
        with self._lock:
            return self._live(tenant, key)

    def put(self, tenant: str, key: str, value: bytes, *, expires_us: int = 0, if_version: int | None = None) -> int:
        """Store and return the new version; raises Conflict when ``if_version`` does not hold."""
        check_key(tenant, key)
        check_value(value)
        with self._lock:
            entry = self._live(tenant, key)
            version = entry.version if entry is not None else 0
            if if_version is not None and if_version != version:
                raise Conflict
            self._tenants.setdefault(tenant, {})[key] = Entry(key, bytes(value), version + 1, expires_us)
            return version + 1

    def take(self, tenant: str, key: str) -> Entry | None:
        """Return and remove the live entry: at most one caller ever gets it."""
        check_key(tenant, key)
        with self._lock:
            entry = self._live(tenant, key)
            if entry is not None:
                del self._tenants[tenant][key]
            return entry

    def delete(self, tenant: str, key: str) -> bool:
        """Remove; return whether something live was there."""
        return self.take(tenant, key) is not None

    def swap(self, tenant: str, key: str, before: bytes, after: bytes) -> bool:
        """Replace the bytes of a live entry where they are still ``before``; return whether they were."""
        check_key(tenant, key)
        check_value(after)
        with self._lock:
            entry = self._live(tenant, key)
            if entry is None or entry.value != before:
                return False
            self._tenants[tenant][key] = Entry(key, bytes(after), entry.version, entry.expires_us)
            return True

    def tenants(self) -> Iterator[str]:
        """Yield each tenant that has a live entry, in order (code points)."""
        with self._lock:
            now = self._clock.now_us()
            found = [
                tenant
                for tenant, entries in sorted(self._tenants.items())
                if any(is_live(entry.expires_us, now) for entry in entries.values())
            ]
        yield from found

    def scan(self, tenant: str, prefix: str = "") -> Iterator[Entry]:
        """Yield live entries by key order (code points), as they stood at the first step."""
        check_key(tenant, prefix)
        with self._lock:
            now = self._clock.now_us()
            found = [
                entry
                for key, entry in sorted(self._tenants.get(tenant, {}).items())
                if key.startswith(prefix) and is_live(entry.expires_us, now)
            ]
        yield from found

    def add(self, tenant: str, key: str, delta: int, *, ceiling: int, expires_us: int = 0) -> int:
        """Add up to ``delta`` without passing ``ceiling``; return how much was granted (signed)."""
        check_key(tenant, key)
        check_count(delta, ceiling)
        with self._lock:
            entry = self._live(tenant, key)
            current = count_of(entry.value) if entry is not None else 0
            granted = grant(current, delta, ceiling)
            if granted:
                version = entry.version if entry is not None else 0
                expiry = entry.expires_us if entry is not None else expires_us
                new = Entry(key, b"%d" % (current + granted), version + 1, expiry)
                self._tenants.setdefault(tenant, {})[key] = new
            return granted


class MemoryStore:
    """Collections that live as long as the process."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock_or_wall(clock)
        self._lock = Lock()
        self._collections: dict[str, MemoryCollection] = {}

    def collection(self, name: str) -> MemoryCollection:
        """Return the collection; the same name gives the same data."""
        check_key("", name)
        with self._lock:
            if name not in self._collections:
                self._collections[name] = MemoryCollection(self._clock)
            return self._collections[name]
