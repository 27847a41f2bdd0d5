"""Verified tokens that are known for a moment: bounded per issuer, so that none can push out another's.

The key is the digest of the whole ``Authorization`` value. No token is ever kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

from firewall.core.principal import Principal
from firewall.core.value import value

T = TypeVar("T")

OF_OTHERS: Final = 4  # each other issuer may fill a quarter of what ours may


@value
class Verified:
    """A token that was verified. names: what may end beside its grant (`identity.standing`).

    standing: the sum of endings that it carries, None for tokens of others, which carry none. issued_s: Unix
    seconds. until_us: when it must be asked about again at the latest, 0 for no such bound.
    """

    principal: Principal
    standing: int | None
    issued_s: int
    names: tuple[str, ...]
    until_us: int = 0


@dataclass(slots=True)
class Entry:
    """A verified token in the cache. epoch: of the node when it was last asked about.

    until_us: wall time, which a token's ``exp`` is of. until_ns: the same moment of the monotonic clock: a wall
    clock that is set back lets nobody in for longer.
    """

    principal: Principal
    epoch: int
    until_us: int
    until_ns: int
    verified: Verified


class KnownTokens:
    """The cache of one worker. by_digest is read on every request and written here alone."""

    def __init__(self, own_issuer: str, entries: int) -> None:
        self.by_digest: dict[bytes, Entry] = {}
        self._own_issuer = own_issuer
        self._entries = entries
        self._of: dict[str, dict[bytes, None]] = {}

    def put(self, digest: bytes, entry: Entry) -> None:
        """Keep an entry; at its issuer's quota the oldest of that issuer goes."""
        issuer = entry.principal.issuer
        mine = self._of.setdefault(issuer, {})
        quota = self._entries if issuer == self._own_issuer else max(1, self._entries // OF_OTHERS)
        if digest not in mine and len(mine) >= quota:
            self.drop(next(iter(mine)))
        mine[digest] = None
        self.by_digest[digest] = entry

    def drop(self, digest: bytes) -> None:
        """Forget a token."""
        entry = self.by_digest.pop(digest, None)
        if entry is not None:
            self._of.get(entry.principal.issuer, {}).pop(digest, None)

    def drop_issuer(self, issuer: str) -> None:
        """Forget every token of an issuer: a key of its is gone."""
        for digest in self._of.pop(issuer, {}):
            self.by_digest.pop(digest, None)


def keep_bounded(table: dict[bytes, T], key: bytes, value: T, limit: int) -> None:
    """Store; when full, the oldest entry goes (insertion order), so that a flood costs only repeats."""
    if key not in table and len(table) >= limit:
        table.pop(next(iter(table)), None)
    table[key] = value
