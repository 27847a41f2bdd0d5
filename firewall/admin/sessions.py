"""Sessions of people in the console, and bearers of scripts: opaque, kept as digests, ended at once.

Nothing is shared with the front door: another cookie, another collection. Roles are read from the user
at every request, so that a change counts at once.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from firewall.admin.caller import GIVEN, Caller, Role, highest
from firewall.admin.parts import AdminSettings
from firewall.core.errors import Malformed
from firewall.core.ports import Clock, Store
from firewall.identity import opaque, records
from firewall.identity.people.users import User, Users
from firewall.identity.records import SECOND_US
from firewall.identity.settings import TokenBytes

COOKIE = "bz_admin"
SESSION_PREFIX = "bza"
BEARER_PREFIX = "bzb"
TOUCH_US = 30 * SECOND_US


def cookie_name(*, secure: bool) -> str:
    """Return the cookie's name: host-bound by its prefix where browsers take that, which is over https."""
    return f"__Host-{COOKIE}" if secure else COOKIE


class AdminSessions:
    """Opens, reads and ends sessions."""

    def __init__(self, store: Store, clock: Clock, users: Users, token_bytes: TokenBytes, settings: AdminSettings):
        self._sessions = store.collection("admin_sessions")
        self._clock = clock
        self._users = users
        self._token_bytes = token_bytes
        self._settings = settings
        users.on_end(self._end_all)

    def open(self, user: User) -> str:
        """Return the secret of a new session."""
        secret = opaque.mint(SESSION_PREFIX, user.tenant, self._token_bytes)
        now_us = self._clock.now_us()
        self._put(secret.tenant, secret.key, user.subject, now_us, now_us)
        return secret.text

    def read(self, text: str, *, touch: bool) -> Caller | None:
        """Return whose session this is, None when it has ended or its user may not be here.

        touch: whether a person did something, so that the idle time begins anew.
        """
        secret = opaque.locate(SESSION_PREFIX, text)
        entry = self._sessions.get(secret.tenant, secret.key) if secret else None
        if secret is None or entry is None:
            return None
        value = records.decode(entry.value)
        user = self._users.get(secret.tenant, records.text(value, "sub"))
        role = highest(user.roles) if user else None
        if user is None or role is None:
            return None
        opened_us, now_us = records.number(value, "opened_us"), self._clock.now_us()
        if touch and now_us - records.number(value, "seen_us") > TOUCH_US:
            self._put(secret.tenant, secret.key, user.subject, opened_us, now_us)
        return Caller(user.name, user.tenant, role, "session", csrf_of(text))

    def close(self, text: str) -> None:
        """End a session."""
        secret = opaque.locate(SESSION_PREFIX, text)
        if secret is not None:
            self._sessions.delete(secret.tenant, secret.key)

    def _put(self, tenant: str, key: str, subject: str, opened_us: int, seen_us: int) -> None:
        ends_us = min(seen_us + self._settings.idle_s * SECOND_US, opened_us + self._settings.session_s * SECOND_US)
        value = records.encode({"sub": subject, "opened_us": opened_us, "seen_us": seen_us})
        self._sessions.put(tenant, key, value, expires_us=ends_us)

    def _end_all(self, tenant: str, subject: str, _reason: str) -> None:
        for entry in list(self._sessions.scan(tenant)):
            if records.text(records.decode(entry.value), "sub") == subject:
                self._sessions.delete(tenant, entry.key)


def csrf_of(session: str) -> str:
    """Return the form token of a session: made from its secret, useless without its cookie."""
    return hmac.new(session.encode("utf-8", "surrogatepass"), b"bartizan admin form", hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Bearer:
    """A bearer as it may be listed: never its secret. expires_s: Unix seconds."""

    bearer_id: str
    role: Role
    by: str
    expires_s: int


class Bearers:
    """Bearers for scripts and scrapers on the admin listener; only the node's owner makes them."""

    def __init__(self, store: Store, clock: Clock, token_bytes: TokenBytes, settings: AdminSettings) -> None:
        self._bearers = store.collection("admin_bearers")
        self._clock = clock
        self._token_bytes = token_bytes
        self._settings = settings

    def mint(self, tenant: str, role: str, ttl_s: int, *, by: str) -> tuple[str, Bearer]:
        """Return a new bearer and what is known of it. Raises Malformed: bearer_role, bearer_ttl."""
        known = next((r for r in GIVEN if r == role), None)
        if known is None:
            raise Malformed("bearer_role", fix=f"choose from: {' '.join(GIVEN)}")
        ttl_s = ttl_s or self._settings.bearer_s
        if not 60 <= ttl_s <= self._settings.longest_bearer_s:
            raise Malformed("bearer_ttl", fix=f"choose 60 to {self._settings.longest_bearer_s} seconds")
        secret = opaque.mint(BEARER_PREFIX, tenant, self._token_bytes)
        expires_us = self._clock.now_us() + ttl_s * SECOND_US
        value = records.encode({"role": known, "by": by, "expires_s": expires_us // SECOND_US})
        self._bearers.put(tenant, secret.key, value, expires_us=expires_us)
        return secret.text, Bearer(secret.key[:16], known, by, expires_us // SECOND_US)

    def read(self, text: str) -> Caller | None:
        """Return whom a presented bearer stands for; anything else, an agent's token included, is nobody."""
        secret = opaque.locate(BEARER_PREFIX, text)
        entry = self._bearers.get(secret.tenant, secret.key) if secret else None
        if secret is None or entry is None:
            return None
        role = highest((records.text(records.decode(entry.value), "role"),))
        return Caller(f"bearer:{secret.key[:16]}", secret.tenant, role, "bearer") if role else None

    def list(self, tenant: str) -> Iterator[Bearer]:
        """Yield what is known of a tenant's bearers."""
        for entry in self._bearers.scan(tenant):
            value = records.decode(entry.value)
            role = highest((records.text(value, "role"),))
            if role:
                yield Bearer(entry.key[:16], role, records.text(value, "by"), records.number(value, "expires_s"))

    def end(self, tenant: str, bearer_id: str) -> bool:
        """End a bearer by its id; return whether it lived."""
        keys = [entry.key for entry in self._bearers.scan(tenant, bearer_id)] if len(bearer_id) == 16 else []
        return sum(self._bearers.delete(tenant, key) for key in keys) > 0
