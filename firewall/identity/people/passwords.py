"""Password hashes: scrypt (RFC 7914) with its parameters written beside each hash."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import unicodedata

from firewall.core.errors import Malformed
from firewall.identity.settings import TokenBytes

PASSWORD_CHARS = 256
R, P = 8, 1
KEY_BYTES = 32
AT_ONCE = 2  # hashes being computed at the same time: each takes 128·N·r bytes of memory


class Passwords:
    """Makes and checks hashes in a thread, so that no other request waits for one."""

    def __init__(self, token_bytes: TokenBytes, *, n: int, least_chars: int) -> None:
        self._token_bytes = token_bytes
        self._n = n
        self._least_chars = least_chars
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._nobody = f"scrypt${n}${R}${P}${'A' * 22}${'A' * 43}"

    def check_choice(self, password: str) -> None:
        """Raise Malformed("password_weak") for a password that may not be chosen (NIST SP 800-63B §3.1.1)."""
        if not self._least_chars <= len(password) <= PASSWORD_CHARS or len(set(password)) < 5:
            raise Malformed("password_weak", fix=f"use {self._least_chars} to {PASSWORD_CHARS} characters")

    async def hash(self, password: str) -> str:
        """Return the stored form ``scrypt$N$r$p$salt$hash``."""
        salt = self._token_bytes(16)
        key = await self._derive(password, salt, self._n, R, P)
        return f"scrypt${self._n}${R}${P}${_b64(salt)}${_b64(key)}"

    async def verify(self, password: str, stored: str) -> bool:
        """Return whether the password fits; with stored "" the same work is done for nobody (RS-17)."""
        _, n, r, p, salt, expected = (stored or self._nobody).split("$")
        if len(password) > PASSWORD_CHARS:
            password, stored = "", ""
        key = await self._derive(password, _unb64(salt), int(n), int(r), int(p))
        return hmac.compare_digest(key, _unb64(expected)) and bool(stored)

    async def _derive(self, password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
        # NFC: the same password typed on another keyboard gives the same bytes.
        secret = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
        async with self._turn:
            return await asyncio.to_thread(
                hashlib.scrypt, secret, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=KEY_BYTES
            )


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
