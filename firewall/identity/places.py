"""Places for what strangers may leave with us: bounded in all, and shared out by network, not by who comes first.

A request that waits for a person (a transaction, a pushed request, a device code, a leg to a provider) is kept
before anybody is known, so there is no tenant to count it for: networks are what strangers are short of. A place
that is wanted where none is left is taken from the network that holds most, the oldest first. So a flood turns out
itself; to turn out one other request it must come from as many networks as the bucket has places.

    bucket = keyed hash of the network      128 buckets, each one record, at most 256 rows and 1 MiB
    a row = (network, key, bytes, expiry)   of one network at most 128 rows and 512 KiB

The rows name records and do not hold them. One that was used meanwhile frees its place when places are short, at the
next look; until then it is what goes first, being old.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Final

from firewall.core.errors import Conflict, StateUnavailable
from firewall.core.jsonvalue import JSON
from firewall.core.ports import Clock, Entry, Store
from firewall.identity import records
from firewall.identity.settings import TokenBytes
from firewall.identity.throttle import NODE, wide_network_of

BUCKETS: Final = 128
BUCKET_ROWS: Final = 256
BUCKET_BYTES: Final = 1 << 20
NETWORK_ROWS: Final = 128
NETWORK_BYTES: Final = 1 << 19
TRIES: Final = 8
LOOK_US: Final = (
    10_000_000  # a full bucket's records are looked for this often: a flood makes no hundreds of reads each
)


@dataclass(frozen=True, slots=True)
class Row:
    """One taken place. network: a digest. size: bytes of the record. expires_us: when it ends by itself."""

    network: str
    key: str
    size: int
    expires_us: int


class Places:
    """The places of one kind of record.

    name: the kind; each has buckets of its own. alive: whether a key's record still stands. remove: takes it away.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        token_bytes: TokenBytes,
        name: str,
        *,
        alive: Callable[[str], bool],
        remove: Callable[[str], object],
    ) -> None:
        self._buckets = store.collection("places")
        self._clock = clock
        self._token_bytes = token_bytes
        self._name = name
        self._alive = alive
        self._remove = remove
        self._salt = b""
        self._looked_us: dict[str, int] = {}  # by bucket, of which there are few

    def take(self, address: str, key: str, *, size: int, expires_us: int) -> None:
        """Take a place for a record that is about to be kept, and turn out what must go for it.

        address: who asks, counted as its network. Raises StateUnavailable where others take places all the time.
        """
        network = self._digest(wide_network_of(address))
        bucket = f"{self._name}/{int(network[:8], 16) % BUCKETS}"
        row = Row(network, key, size, expires_us)
        for _ in range(TRIES):
            entry = self._buckets.get(NODE, bucket)
            now_us = self._clock.now_us()
            kept = [known for known in _rows(entry) if known.expires_us > now_us]
            if not _fits(kept, row) and now_us >= self._looked_us.get(bucket, 0) + LOOK_US:
                self._looked_us[bucket] = now_us
                kept = [known for known in kept if self._alive(known.key)]
            kept, out = settle(kept, row)
            value = records.encode({"rows": [list(astuple(known)) for known in kept]})
            try:
                self._buckets.put(
                    NODE,
                    bucket,
                    value,
                    expires_us=max(known.expires_us for known in kept),
                    if_version=entry.version if entry else 0,
                )
            except Conflict:
                continue
            for gone in out:
                self._remove(gone.key)
            return
        raise StateUnavailable("places")

    def _digest(self, network: str) -> str:
        # Keyed: who could tell whose requests share a bucket with theirs would have fewer to turn out.
        if not self._salt:
            try:
                self._buckets.put(NODE, "salt", self._token_bytes(32).hex().encode(), if_version=0)
            except Conflict:
                pass  # there is one
            entry = self._buckets.get(NODE, "salt")
            self._salt = entry.value if entry else b""
        return hmac.new(self._salt, network.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:24]


def settle(kept: Sequence[Row], row: Row) -> tuple[list[Row], list[Row]]:
    """Return a bucket's rows with a new one, oldest first, and those that had to go for it. Pure."""
    rows, out = [*kept, row], list[Row]()
    while not _is_within(rows, row.network):
        own = [known for known in rows if known.network == row.network]
        if _within(own, NETWORK_ROWS, NETWORK_BYTES):
            most = _fullest(rows)
            own = [known for known in rows if known.network == most]
        if own[0] is row:
            break  # alone larger than all bounds; callers bound their records far below
        rows.remove(own[0])
        out.append(own[0])
    return rows, out


def _fits(kept: Sequence[Row], row: Row) -> bool:
    return _is_within([*kept, row], row.network)


def _is_within(rows: Sequence[Row], network: str) -> bool:
    own = [known for known in rows if known.network == network]
    return _within(own, NETWORK_ROWS, NETWORK_BYTES) and _within(rows, BUCKET_ROWS, BUCKET_BYTES)


def _within(rows: Sequence[Row], most: int, most_bytes: int) -> bool:
    return len(rows) <= most and sum(known.size for known in rows) <= most_bytes


def _fullest(rows: Sequence[Row]) -> str:
    """Return the network with the largest share, by rows or bytes, whichever is scarcer; of equals the oldest."""
    by_size = sum(known.size for known in rows) > BUCKET_BYTES
    shares = Counter[str]()
    for known in rows:
        shares[known.network] += known.size if by_size else 1
    return max(shares, key=lambda network: shares[network])  # the first of equals, in order of arrival


def _rows(entry: Entry | None) -> list[Row]:
    found: JSON = records.decode(entry.value).get("rows") if entry else None
    rows = list[Row]()
    for item in found if isinstance(found, list) else ():
        match item:
            case [str(network), str(key), int(size), int(expires_us)]:
                rows.append(Row(network, key, size, expires_us))
            case _:
                raise StateUnavailable("places")
    return rows
