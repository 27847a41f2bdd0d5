"""Nonces that nobody stores: a period and its MAC (RFC 9449 §8). Every worker knows every worker's.

A nonce is good in its own minute and the next, so a proof with one is at most two minutes old; the
memory of used proofs (`state.replays`) reaches further back than that. A rotated key is accepted until
it is retired.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from firewall.core.ports import Clock
from firewall.identity.records import SECOND_US

PERIOD_S: Final = 60
_CHARS: Final = 32


class Nonces:
    """Makes and knows nonces of one place. keys: newest first, 32 bytes each. place: ``token``, ``resource``.

    salt: secret to the node, the same in every worker; for keys of shared tables that strangers must not choose.
    """

    def __init__(self, keys: Sequence[bytes], clock: Clock, place: str) -> None:
        if not keys or any(len(key) < 32 for key in keys):
            raise ValueError("a nonce key has at least 32 bytes")
        self._keys = tuple(keys)
        self._clock = clock
        self._place = place.encode()
        # Of the oldest key: a rotation adds one, and what was remembered stays known.
        self.salt = hmac.digest(self._keys[-1], b"dpop-used", hashlib.sha256)

    def issue(self) -> str:
        """Return the nonce of this minute, 32 base64url characters."""
        return self._of(self._keys[0], self._period())

    def is_good(self, nonce: str) -> bool:
        """Return whether a nonce is ours, of this minute or the last one. Compared in constant time."""
        if len(nonce) != _CHARS or not nonce.isascii():
            return False
        try:
            said = int.from_bytes(base64.urlsafe_b64decode(nonce)[:8])
        except (binascii.Error, ValueError):
            return False
        if not 0 <= self._period() - said <= 1:
            return False
        return any(hmac.compare_digest(self._of(key, said), nonce) for key in self._keys)

    def _period(self) -> int:
        return self._clock.now_us() // (PERIOD_S * SECOND_US)

    def _of(self, key: bytes, period: int) -> str:
        head = period.to_bytes(8)
        mac = hmac.digest(key, b"dpop-nonce\0" + self._place + b"\0" + head, hashlib.sha256)[:16]
        return base64.urlsafe_b64encode(head + mac).decode()
