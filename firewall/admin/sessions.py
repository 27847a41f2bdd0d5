"""Sessions of people in the console, and bearers of scripts: opaque, kept as digests, ended at once.

Nothing is shared with the front door: another cookie, another collection. Roles are read from the user
at every request, so that a change counts at once.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from firewall.admin.caller import Caller
from firewall.admin.parts import AdminSettings
from firewall.admin.rights import Role, known
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Store
from firewall.identity import opaque, records
from firewall.identity.people.users import User, Users
from firewall.identity.records import SECOND_US
from firewall.identity.settings import TokenBytes

COOKIE = "bz_admin"
SESSION_PREFIX = "bza"
BEARER_PREFIX = "bzb"
TOUCH_US = 30 * SECOND_US
# What a bearer may be told to be, and the roles of a person that contain it. No script approves.
BEARER_ROLES: Final[Mapping[Role, frozenset[str]]] = {
    "viewer": frozenset({"viewer", "operator", "approver", "admin"}),
    "operator": frozenset({"operator", "approver", "admin"}),
    "admin": frozenset({"admin"}),
}
OWN_BEARERS: Final = 20  # of one person


def cookie_name(*, secure: bool) -> str:
    """Return the cookie's name: host-bound by its prefix where browsers take that, which is over https."""
    return f"__Host-{COOKIE}" if secure else COOKIE


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """A session as it may be listed. session_id: the first half of its digest; times in Unix microseconds.

    at: of the console, or of the front door, where nobody notes when it was last seen (0). how: ``password`` or the
    provider; at the front door the level of the sign-in.
    """

    session_id: str
    user: str
    name: str
    how: str
    opened_us: int
    seen_us: int
    at: Literal["console", "front door"] = "console"


class AdminSessions:
    """Opens, reads, proves anew and ends sessions."""

    def __init__(self, store: Store, clock: Clock, users: Users, token_bytes: TokenBytes, settings: AdminSettings):
        self._sessions = store.collection("admin_sessions")
        self._clock = clock
        self._users = users
        self._token_bytes = token_bytes
        self._settings = settings
        users.on_end(lambda tenant, subject, _reason: self.end_of(tenant, subject))

    def open(self, user: User, *, how: str = "password", proved_us: int = 0) -> str:
        """Return the secret of a new session.

        how: ``password``, or the identity provider's name. proved_us: when the person proved who they are; 0 is now.
        """
        secret = opaque.mint(SESSION_PREFIX, user.tenant, self._token_bytes)
        now_us = self._clock.now_us()
        self._put(secret.tenant, secret.key, user.subject, how, now_us, now_us, proved_us or now_us)
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
        roles = known(user.roles) if user else ()
        if user is None or not roles:
            return None
        opened_us, proved_us = records.number(value, "opened_us"), records.number(value, "proved_us")
        now_us = self._clock.now_us()
        if touch and now_us - records.number(value, "seen_us") > TOUCH_US:
            how = records.text(value, "how")
            self._put(secret.tenant, secret.key, user.subject, how, opened_us, now_us, proved_us)
        return Caller(
            user.name, user.tenant, roles, "session", user.subject, csrf_of(text), proved_us, label=user.label
        )

    def prove(self, text: str) -> str:
        """Return the secret that takes this session's place, now that its person proved anew who they are (AS-16).

        The absolute end stays. "" when the session has ended meanwhile.
        """
        secret = opaque.locate(SESSION_PREFIX, text)
        return self._proved(secret.tenant, secret.key, "", self._clock.now_us()) if secret else ""

    def prove_key(self, tenant: str, key: str, subject: str, proved_us: int) -> str:
        """As `prove`, of the session under a key, if it is this person's: for a proof that was given elsewhere."""
        return self._proved(tenant, key, subject, proved_us)

    def _proved(self, tenant: str, key: str, subject: str, proved_us: int) -> str:
        entry = self._sessions.get(tenant, key)
        if entry is None:
            return ""
        value = records.decode(entry.value)
        whose, how = records.text(value, "sub"), records.text(value, "how")
        if (subject and whose != subject) or self._sessions.take(tenant, key) is None:
            return ""
        fresh = opaque.mint(SESSION_PREFIX, tenant, self._token_bytes)
        opened_us = records.number(value, "opened_us")
        self._put(tenant, fresh.key, whose, how, opened_us, self._clock.now_us(), proved_us)
        return fresh.text

    def close(self, text: str) -> None:
        """End a session."""
        secret = opaque.locate(SESSION_PREFIX, text)
        if secret is not None:
            self._sessions.delete(secret.tenant, secret.key)

    def list(self, tenant: str) -> Iterator[SessionFacts]:
        """Yield what is known of a tenant's sessions, never their secrets."""
        for entry in self._sessions.scan(tenant):
            value = records.decode(entry.value)
            user = self._users.get(tenant, records.text(value, "sub"))
            yield SessionFacts(
                entry.key[:32],
                records.text(value, "sub"),
                user.name if user else "",
                records.text(value, "how"),
                records.number(value, "opened_us"),
                records.number(value, "seen_us"),
            )

    def end_of(self, tenant: str, subject: str) -> int:
        """End every session of a person; return how many there were."""
        found = [
            entry.key
            for entry in self._sessions.scan(tenant)
            if records.text(records.decode(entry.value), "sub") == subject
        ]
        return sum(self._sessions.delete(tenant, key) for key in found)

    def _put(self, tenant: str, key: str, subject: str, how: str, opened_us: int, seen_us: int, proved_us: int) -> None:
        ends_us = min(seen_us + self._settings.idle_s * SECOND_US, opened_us + self._settings.session_s * SECOND_US)
        value = records.encode(
            {"sub": subject, "how": how, "opened_us": opened_us, "seen_us": seen_us, "proved_us": proved_us}
        )
        self._sessions.put(tenant, key, value, expires_us=ends_us)


def csrf_of(session: str) -> str:
    """Return the form token of a session: made from its secret, useless without its cookie."""
    return hmac.new(session.encode("utf-8", "surrogatepass"), b"bartizan admin form", hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Bearer:
    """A bearer as it may be listed: never its secret. user: whose it is, "" for the node's; expires_s: Unix seconds."""

    bearer_id: str
    role: Role
    by: str
    user: str
    expires_s: int


class Bearers:
    """Bearers for scripts and scrapers: good on this listener and nowhere else, as no token of the front door is here.

    One belongs to the node, made by its owner, or to a person, and is never more than that person is now.
    """

    def __init__(
        self, store: Store, clock: Clock, users: Users, token_bytes: TokenBytes, settings: AdminSettings
    ) -> None:
        self._bearers = store.collection("admin_bearers")
        self._clock = clock
        self._users = users
        self._token_bytes = token_bytes
        self._settings = settings
        users.on_end(self._end_all)

    def mint(self, tenant: str, role: str, ttl_s: int, *, by: str, user: User | None = None) -> tuple[str, Bearer]:
        """Return a new bearer and what is known of it. Raises Malformed: bearer_role, bearer_ttl, bearer_many."""
        wanted = next((r for r in BEARER_ROLES if r == role), None)
        if wanted is None or (user is not None and BEARER_ROLES[wanted].isdisjoint(user.roles)):
            raise Malformed("bearer_role", fix=f"choose from: {' '.join(BEARER_ROLES)}, as far as the person has it")
        ttl_s = ttl_s or self._settings.bearer_s
        if not 60 <= ttl_s <= self._settings.longest_bearer_s:
            raise Malformed("bearer_ttl", fix=f"choose 60 to {self._settings.longest_bearer_s} seconds")
        subject = user.subject if user else ""
        if subject and sum(b.user == subject for b in self.list(tenant)) >= OWN_BEARERS:
            raise Malformed("bearer_many", fix="end one that is not needed: bartizan users end-bearer ID")
        secret = opaque.mint(BEARER_PREFIX, tenant, self._token_bytes)
        expires_us = self._clock.now_us() + ttl_s * SECOND_US
        value = records.encode({"role": wanted, "by": by, "sub": subject, "expires_s": expires_us // SECOND_US})
        self._bearers.put(tenant, secret.key, value, expires_us=expires_us)
        return secret.text, Bearer(secret.key[:16], wanted, by, subject, expires_us // SECOND_US)

    def read(self, text: str) -> Caller | None:
        """Return whom a presented bearer stands for; anything else, an agent's token included, is nobody."""
        secret = opaque.locate(BEARER_PREFIX, text)
        entry = self._bearers.get(secret.tenant, secret.key) if secret else None
        if secret is None or entry is None:
            return None
        value = records.decode(entry.value)
        role = _bearer_role(value)
        if role is None:
            return None
        subject = records.text(value, "sub")
        if not subject:
            return Caller(f"bearer:{secret.key[:16]}", secret.tenant, (role,), "bearer")
        user = self._users.get(secret.tenant, subject)
        if user is None or BEARER_ROLES[role].isdisjoint(user.roles):
            return None  # what the person lost, the script has lost
        return Caller(user.name, user.tenant, (role,), "bearer", user.subject)

    def list(self, tenant: str) -> Iterator[Bearer]:
        """Yield what is known of a tenant's bearers."""
        for entry in self._bearers.scan(tenant):
            value = records.decode(entry.value)
            role = _bearer_role(value)
            if role:
                by, user = records.text(value, "by"), records.text(value, "sub")
                yield Bearer(entry.key[:16], role, by, user, records.number(value, "expires_s"))

    def end(self, tenant: str, bearer_id: str) -> bool:
        """End a bearer by its id; return whether it lived."""
        keys = [entry.key for entry in self._bearers.scan(tenant, bearer_id)] if len(bearer_id) == 16 else []
        return sum(self._bearers.delete(tenant, key) for key in keys) > 0

    def _end_all(self, tenant: str, subject: str, _reason: str) -> None:
        for bearer in [b for b in self.list(tenant) if b.user == subject]:
            self.end(tenant, bearer.bearer_id)


def _bearer_role(value: JSONObject) -> Role | None:
    told = records.text(value, "role")
    return next((role for role in BEARER_ROLES if role == told), None)
