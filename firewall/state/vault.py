"""Sealed values: state that a client carries for us, and secrets at rest.

    seal ──▶ token ──▶ open        AES-256-GCM, random nonce, expiry, owner; a new token each time
    handle ──▶ token ──▶ open_handle    AES-256-SIV (RFC 5297): equal values give equal tokens

Both kinds use a key of their own per (purpose, tenant), derived from the master secret with HKDF
(RFC 5869), so a token of one purpose or tenant is noise in another. Owner and kind are bound as
associated data. Every failure is the same error: a caller learns nothing about which check failed.

The random 96-bit nonce allows 2^32 tokens per (purpose, tenant) and master secret before the
collision bound of NIST SP 800-38D §8.3; rotate the secret long before.
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
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from firewall.core.bounds import KIB
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON
from firewall.core.ports import Clock

TOKEN_CHARS: Final = 64 * KIB
_SEALED: Final = b"\x01"
_HANDLE: Final = b"\x02"
_NONCE: Final = 12
_DERIVED_KEPT: Final = 1024


class Sealer:
    """Seals and opens. Thread-safe: its only state is a cache of derived keys.

    key: the master secret, at least 32 bytes (``KeyRing.secret("seal")``).
    older: earlier master secrets; they open, they never seal.
    """

    def __init__(
        self,
        key: bytes,
        clock: Clock,
        *,
        older: Sequence[bytes] = (),
        token_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if any(len(k) < 32 for k in (key, *older)):
            raise ValueError("a master secret has at least 32 bytes")
        self._masters = (key, *older)
        self._clock = clock
        self._token_bytes = token_bytes
        self._gcm: dict[tuple[int, str, str], AESGCM] = {}
        self._siv: dict[tuple[int, str, str], AESSIV] = {}

    def seal(self, purpose: str, tenant: str, value: JSON, *, ttl_s: int, owner: str = "") -> str:
        """Return a URL-safe token that only `open` with the same purpose, tenant and owner opens.

        ttl_s: lifetime in seconds; 0 never ends (for secrets at rest, where ``owner`` is the row).
        Raises Malformed("handle_too_large") over 64 KiB of token.
        """
        expires = 0 if ttl_s == 0 else self._clock.now_us() + ttl_s * 1_000_000
        nonce = self._token_bytes(_NONCE)
        plain = expires.to_bytes(8, "big") + orjson.dumps(value)
        sealed = self._gcm_key(0, purpose, tenant).encrypt(nonce, plain, _context(_SEALED, owner))
        return _encode(_SEALED + nonce + sealed)

    def open(self, purpose: str, tenant: str, token: str, *, owner: str = "") -> JSON:
        """Return the sealed value.

        Raises Malformed("handle_invalid"): changed, expired (the end is exclusive), or of another
        purpose, tenant, owner, kind or master secret.
        """
        data = _decode(token, _SEALED)
        nonce, sealed, context = data[1 : 1 + _NONCE], data[1 + _NONCE :], _context(_SEALED, owner)
        for which in range(len(self._masters)):
            try:
                plain = self._gcm_key(which, purpose, tenant).decrypt(nonce, sealed, context)
            except (InvalidTag, ValueError):
                continue
            expires = int.from_bytes(plain[:8], "big")
            if expires and self._clock.now_us() >= expires:
                raise Malformed("handle_invalid")
            return _value(plain[8:])
        raise Malformed("handle_invalid")

    def handle(self, purpose: str, tenant: str, value: JSON, *, owner: str = "") -> str:
        """Return a token that is the same for the same value, where ids must compare equal.

        It has no expiry, and shows which of two values are equal: that is its purpose.
        Changes when the master secret is rotated; older tokens still open.
        """
        plain = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        return _encode(_HANDLE + self._siv_key(0, purpose, tenant).encrypt(plain, [_context(_HANDLE, owner)]))

    def open_handle(self, purpose: str, tenant: str, token: str, *, owner: str = "") -> JSON:
        """Return the value of a `handle`; raises Malformed("handle_invalid")."""
        data = _decode(token, _HANDLE)
        for which in range(len(self._masters)):
            try:
                plain = self._siv_key(which, purpose, tenant).decrypt(data[1:], [_context(_HANDLE, owner)])
            except (InvalidTag, ValueError):
                continue
            return _value(plain)
        raise Malformed("handle_invalid")

    def _gcm_key(self, which: int, purpose: str, tenant: str) -> AESGCM:
        slot = (which, purpose, tenant)
        found = self._gcm.get(slot)
        if found is None:
            if len(self._gcm) >= _DERIVED_KEPT:
                self._gcm.clear()
            found = self._gcm[slot] = AESGCM(derive(self._masters[which], "seal", purpose, tenant, length=32))
        return found

    def _siv_key(self, which: int, purpose: str, tenant: str) -> AESSIV:
        slot = (which, purpose, tenant)
        found = self._siv.get(slot)
        if found is None:
            if len(self._siv) >= _DERIVED_KEPT:
                self._siv.clear()
            found = self._siv[slot] = AESSIV(derive(self._masters[which], "handle", purpose, tenant, length=64))
        return found


def derive(master: bytes, *context: str, length: int = 32) -> bytes:
    """Return ``length`` bytes derived from a secret for one use (HKDF-SHA-256, RFC 5869).

    context: its parts are length-prefixed, so ("ab", "c") and ("a", "bc") give different keys.
    """
    info = b"bartizan/v1" + b"".join(len(raw).to_bytes(4, "big") + raw for raw in (c.encode() for c in context))
    return HKDF(SHA256(), length, None, info).derive(master)


def _context(kind: bytes, owner: str) -> bytes:
    return kind + hashlib.sha256(owner.encode()).digest()


def _encode(data: bytes) -> str:
    if len(data) * 4 > TOKEN_CHARS * 3:
        raise Malformed("handle_too_large")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(token: str, kind: bytes) -> bytes:
    if not token or len(token) > TOKEN_CHARS:
        raise Malformed("handle_invalid")
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise Malformed("handle_invalid") from None
    # One spelling per token: unused trailing bits and padding would make two equal ids differ.
    if data[:1] != kind or len(data) < 17 or base64.urlsafe_b64encode(data).rstrip(b"=") != token.encode():
        raise Malformed("handle_invalid")
    return data


def _value(plain: bytes) -> JSON:
    value: JSON = orjson.loads(plain)  # our own bytes: authenticated just now
    return value
