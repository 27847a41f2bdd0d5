"""A second factor for local users: time-based one-time passwords (RFC 6238; SHA-1, 6 digits, 30 s, as apps have it).

The shared secret is sealed at rest to its row. A code counts once: the step it belongs to is written
before the answer is yes, so that whoever saw it typed cannot type it again (RFC 6238 §5.2).
"""

from __future__ import annotations

import base64
import hmac
from typing import Final
from urllib.parse import quote

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

from firewall.core.errors import Conflict, Malformed
from firewall.core.ports import Clock, Entry, Store
from firewall.identity import records
from firewall.identity.people.users import User
from firewall.identity.records import SECOND_US
from firewall.identity.settings import Record, TokenBytes
from firewall.state.vault import Sealer

PERIOD_S: Final = 30
DIGITS: Final = 6
SECRET_BYTES: Final = 20
WINDOW: Final = 1  # steps before and after now: a phone's clock, a slow hand
OFFER_S: Final = 600
PURPOSE: Final = "second-factor"


class SecondFactors:
    """Enrols, checks and removes."""

    def __init__(self, store: Store, clock: Clock, sealer: Sealer, token_bytes: TokenBytes, record: Record) -> None:
        self._kept = store.collection("second_factors")
        self._offered = store.collection("second_factor_offers")
        self._clock = clock
        self._sealer = sealer
        self._token_bytes = token_bytes
        self._record = record

    def enrolled(self, user: User) -> bool:
        """Return whether the person has a confirmed second factor."""
        return self._kept.get(user.tenant, user.subject) is not None

    def offer(self, user: User, session_id: str = "") -> str:
        """Return the base32 secret to enter in an app; the same one for ten minutes, until it is confirmed.

        session_id: whose page shows it. Another session of the same person is offered another secret: who took one
        over must not have seen what the person enrols elsewhere.
        """
        place = _place(user, session_id)
        entry = self._offered.get(user.tenant, place)
        if entry is not None:
            return base64.b32encode(self._secret(user, entry)).decode()
        secret = self._token_bytes(SECRET_BYTES)
        expires_us = self._clock.now_us() + OFFER_S * SECOND_US
        self._offered.put(user.tenant, place, self._sealed(user, secret, 0), expires_us=expires_us)
        return base64.b32encode(secret).decode()

    def confirm(self, user: User, code: str, session_id: str = "") -> bool:
        """Enrol the secret that this session was offered when the code fits it. One that exists is never replaced."""
        place = _place(user, session_id)
        entry = self._offered.get(user.tenant, place)
        if entry is None or self.enrolled(user):
            return False
        secret = self._secret(user, entry)
        step = self._fitting(secret, code, 0)
        if not step:
            return False
        try:
            self._kept.put(user.tenant, user.subject, self._sealed(user, secret, step), if_version=0)
        except Conflict:
            return False
        self._offered.delete(user.tenant, place)
        self._record("identity.second_factor.added", {"tenant": user.tenant, "sub": user.subject})
        return True

    def verify(self, user: User, code: str) -> bool:
        """Return whether the code is one of now that was not used before; it is used then."""
        entry = self._kept.get(user.tenant, user.subject)
        if entry is None:
            return False
        secret = self._secret(user, entry)
        step = self._fitting(secret, code, records.number(records.decode(entry.value), "step"))
        if not step:
            return False
        try:
            self._kept.put(user.tenant, user.subject, self._sealed(user, secret, step), if_version=entry.version)
        except Conflict:
            return False  # used at the same moment elsewhere
        return True

    def remove(self, user: User) -> None:
        """Take the second factor away."""
        if self._kept.delete(user.tenant, user.subject):
            self._record("identity.second_factor.removed", {"tenant": user.tenant, "sub": user.subject})

    def forget(self, tenant: str, subject: str) -> None:
        """Keep nothing of a person whose account is removed."""
        self._kept.delete(tenant, subject)
        for entry in list(self._offered.scan(tenant, f"{subject}/")):
            self._offered.delete(tenant, entry.key)

    def _fitting(self, secret: bytes, code: str, used: int) -> int:
        """Return the step a code belongs to, later than ``used``; 0 when there is none. Constant work."""
        now = self._clock.now_us() // SECOND_US // PERIOD_S
        typed = code.replace(" ", "").encode("utf-8", "surrogatepass")
        generator = HOTP(secret, DIGITS, SHA1())  # noqa: S303 - within HMAC, and what every app speaks
        found = 0
        for step in range(now - WINDOW, now + WINDOW + 1):
            if hmac.compare_digest(generator.generate(step), typed) and step > used:
                found = step
        return found

    def _sealed(self, user: User, secret: bytes, step: int) -> bytes:
        sealed = self._sealer.seal(PURPOSE, user.tenant, secret.hex(), ttl_s=0, owner=user.subject)
        return records.encode({"sealed": sealed, "step": step})

    def _secret(self, user: User, entry: Entry) -> bytes:
        text = records.text(records.decode(entry.value), "sealed")
        opened = self._sealer.open(PURPOSE, user.tenant, text, owner=user.subject)
        if not isinstance(opened, str):
            raise Malformed("handle_invalid")
        return bytes.fromhex(opened)


def _place(user: User, session_id: str) -> str:
    return f"{user.subject}/{session_id}"


def app_uri(secret: str, account: str, issuer: str) -> str:
    """Return the ``otpauth:`` URI that authenticator apps read (secret in base32)."""
    label = f"{quote(issuer, safe='')}:{quote(account, safe='')}"
    return f"otpauth://totp/{label}?secret={secret}&issuer={quote(issuer, safe='')}"
