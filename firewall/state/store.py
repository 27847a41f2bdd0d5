"""What both stores share: key rules, expiry, the counter rule.

The port itself is `core.ports.Store`; `memory` is the model, `sqlite` the durable twin, and
`tests/contract/test_store.py` runs one suite over both. Rules that hold for every store:

- An entry lives while ``expires_us`` is 0 or later than now; an expired one does not exist, so
  storing over it starts again at version 1 and ``if_version=0`` succeeds.
- Versions are 1, 2, … per life of an entry. Deleting and storing again starts a new life at 1:
  use ``take`` for one-shot state, not a remembered version.
- A counter is an entry whose value is its decimal digits in ASCII.
"""

from __future__ import annotations

from typing import Final

from firewall.core.errors import Malformed, StateUnavailable
from firewall.core.ports import Clock
from firewall.net.runtime import SystemClock

KEY_CHARS: Final = 2048
VALUE_BYTES: Final = 16 * 1024 * 1024
COUNTER_MAX: Final = 2**62  # leaves room for one addition inside SQLite's 64-bit integers


def clock_or_wall(clock: Clock | None) -> Clock:
    """Return the given clock, or the machine's."""
    return SystemClock() if clock is None else clock


def check_key(tenant: str, key: str) -> None:
    """Refuse keys that a store cannot hold exactly.

    Raises Malformed("state_key"): longer than 2,048 characters, or a lone surrogate (which has no
    UTF-8 form, so that two stores would disagree about it).
    """
    for text in (tenant, key):
        if len(text) > KEY_CHARS:
            raise Malformed("state_key")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Malformed("state_key") from None


def check_value(value: bytes) -> None:
    """Refuse values over 16 MiB; raises Malformed("state_value")."""
    if len(value) > VALUE_BYTES:
        raise Malformed("state_value")


def check_count(delta: int, ceiling: int) -> None:
    """Refuse counter arguments outside ±2^62; raises Malformed("state_value")."""
    if abs(delta) > COUNTER_MAX or not 0 <= ceiling <= COUNTER_MAX:
        raise Malformed("state_value")


def is_live(expires_us: int, now_us: int) -> bool:
    """Return whether an entry with this expiry exists at this moment (the expiry is exclusive)."""
    return expires_us == 0 or expires_us > now_us


def grant(current: int, delta: int, ceiling: int) -> int:
    """Return how much of ``delta`` a counter takes: never past ``ceiling``, never below 0.

    A counter already above a lowered ceiling grants 0 and stays; it is never cut.
    """
    if delta >= 0:
        return max(0, min(delta, ceiling - current))
    return -min(-delta, current)


def count_of(value: bytes) -> int:
    """Return a counter's value; raises StateUnavailable when the entry is not a counter."""
    if not value.isdigit() or len(value) > 19:
        raise StateUnavailable("the entry is not a counter")
    return int(value)
