"""Rate limits of the front door: fixed windows per address, and growing delays after failures (AS-19).

Counters live in the store, so that workers share them. Nothing a stranger does can lock an account:
failures are counted per (account, address).
"""

from __future__ import annotations

import hashlib
import ipaddress

from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.state.store import count_of

NODE = "_node"  # state that belongs to no tenant because nobody is known yet
FREE_FAILURES = 3
LONGEST_DELAY_S = 300
FORGET_S = 3600
CUSTOMER_PREFIX = 48


class Throttle:
    """Counts and delays. Times in seconds."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._counts = store.collection("throttle_counts")
        self._failures = store.collection("throttle_failures")
        self._clock = clock

    def allow(self, what: str, who: str, *, per_minute: int) -> bool:
        """Count one event and return whether it is within the limit of its minute."""
        return self.allow_within(what, who, limit=per_minute, window_s=60)

    def allow_within(self, what: str, who: str, *, limit: int, window_s: int) -> bool:
        """Count one event and return whether it is within the limit of its window (fixed, of the clock).

        who: an address, counted as its network (`network_of`), or any other name.
        """
        window = self._clock.now_us() // (window_s * SECOND_US)
        expires_us = (window + 2) * window_s * SECOND_US
        return self._counts.add(NODE, _counter(what, who, window), 1, ceiling=limit, expires_us=expires_us) == 1

    def spent(self, what: str, who: str) -> int:
        """Return how many events of `allow` this minute has seen; counts none, and writes nothing."""
        entry = self._counts.get(NODE, _counter(what, who, self._clock.now_us() // (60 * SECOND_US)))
        return count_of(entry.value) if entry else 0

    def wait_s(self, account: str, address: str) -> int:
        """Return how long this address must wait before it tries this account again."""
        entry = self._failures.get(NODE, _pair(account, address))
        if entry is None:
            return 0
        left_us = records.number(records.decode(entry.value), "until_us") - self._clock.now_us()
        return max(0, -(-left_us // SECOND_US))

    def failed(self, account: str, address: str) -> None:
        """Count a failure: from the fourth on, each doubles the delay, up to five minutes."""
        key = _pair(account, address)
        entry = self._failures.get(NODE, key)
        count = 1 + (records.number(records.decode(entry.value), "count") if entry else 0)
        now_us = self._clock.now_us()
        delay_s = 0 if count <= FREE_FAILURES else min(2 ** (count - FREE_FAILURES), LONGEST_DELAY_S)
        value = records.encode({"count": min(count, 64), "until_us": now_us + delay_s * SECOND_US})
        self._failures.put(NODE, key, value, expires_us=now_us + FORGET_S * SECOND_US)

    def succeeded(self, account: str, address: str) -> None:
        """Forget the failures of this pair."""
        self._failures.delete(NODE, _pair(account, address))


def network_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 one."""
    return _network(address) or address[:64]


def wide_network_of(address: str) -> str:
    """Return what one customer has: an IPv4 address, or the /48 of an IPv6 one, of which there are 65,536 /64."""
    near = network_of(address)
    try:
        parsed = ipaddress.IPv6Network(near)
    except ValueError:
        return near
    return str(parsed.supernet(new_prefix=CUSTOMER_PREFIX))


def _network(address: str) -> str:
    """Return the network of an address, "" for what is none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        # The zone is our own interface's name, and no part of the network.
        return str(mapped) if mapped else str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
    return address


def _counter(what: str, who: str, window: int) -> str:
    return f"{what}/{_short(_network(who) or who)}/{window}"


def _pair(account: str, address: str) -> str:
    return _short(f"{account}\0{network_of(address)}")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
