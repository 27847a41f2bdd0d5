"""Sign-in sessions of people at the authorization server: one cookie, kept as a digest (AS-16)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from firewall.core.ports import Clock, Ids, Store
from firewall.identity import opaque, records
from firewall.identity.people.users import User, Users
from firewall.identity.records import SECOND_US
from firewall.identity.settings import IdentitySettings, TokenBytes
from firewall.identity.web import WebRequest, set_cookie

COOKIE = "bz_session"
PREFIX = "bzs"


@dataclass(frozen=True, slots=True)
class LoginSession:
    """A signed-in person. auth_time: Unix seconds of the sign-in. acr, amr: how strong it was, and by what means.

    form_secret: what tokens of this session's forms are made with. Not the session's id, which stands in access
    tokens as ``sid``: only this browser and we can know it.
    """

    user: User
    session_id: str
    auth_time: int
    acr: str
    amr: tuple[str, ...] = ()
    form_secret: str = field(default="", repr=False)


class LoginSessions:
    """Opens, reads and ends sessions. A new sign-in is always a new session; the old one ends."""

    def __init__(
        self, store: Store, clock: Clock, ids: Ids, users: Users, settings: IdentitySettings, token_bytes: TokenBytes
    ) -> None:
        self._sessions = store.collection("login_sessions")
        self._clock = clock
        self._ids = ids
        self._users = users
        self._settings = settings
        self._token_bytes = token_bytes
        self._cookie = settings.cookie(COOKIE)
        users.on_end(self._end_all)

    def open(
        self, request: WebRequest, user: User, *, acr: str, amr: tuple[str, ...] = (), auth_time: int = 0
    ) -> tuple[LoginSession, tuple[bytes, bytes]]:
        """Start a session and return it with its Set-Cookie header; a session the browser had before ends.

        auth_time: when the person proved who they are, where that was elsewhere; 0 is now, and never later.
        """
        self.close(request)
        secret = opaque.mint(PREFIX, user.tenant, self._token_bytes)
        now_us = self._clock.now_us()
        now_s = now_us // SECOND_US
        session = LoginSession(
            user, self._ids.new("s"), min(auth_time or now_s, now_s), acr, amr, _form_secret(secret.text)
        )
        value = records.encode(
            {
                "sub": user.subject,
                "sid": session.session_id,
                "auth_time": session.auth_time,
                "acr": acr,
                "amr": list(amr),
            }
        )
        lifetime_s = self._settings.session_lifetime_s
        self._sessions.put(user.tenant, secret.key, value, expires_us=now_us + lifetime_s * SECOND_US)
        return session, set_cookie(self._cookie, secret.text, secure=self._settings.secure, max_age_s=lifetime_s)

    def read(self, request: WebRequest) -> LoginSession | None:
        """Return the session of a request, if it is alive and its user still is."""
        secret = opaque.locate(PREFIX, request.cookies.get(self._cookie, ""))
        entry = self._sessions.get(secret.tenant, secret.key) if secret else None
        if secret is None or entry is None:
            return None
        value = records.decode(entry.value)
        user = self._users.get(secret.tenant, records.text(value, "sub"))
        if user is None:
            return None
        return LoginSession(
            user,
            records.text(value, "sid"),
            records.number(value, "auth_time"),
            records.text(value, "acr"),
            records.texts(value, "amr"),
            _form_secret(secret.text),
        )

    def close(self, request: WebRequest) -> None:
        """End the request's session, if there is one."""
        secret = opaque.locate(PREFIX, request.cookies.get(self._cookie, ""))
        if secret is not None:
            self._sessions.delete(secret.tenant, secret.key)

    def expired_cookie(self) -> tuple[bytes, bytes]:
        """Return the header that removes the cookie."""
        return set_cookie(self._cookie, "", secure=self._settings.secure, max_age_s=0)

    def list(self, tenant: str) -> Iterator[tuple[str, str, int, str]]:
        """Yield of each session of a tenant: the first half of its digest, its person, Unix seconds of the sign-in, its acr."""
        for entry in self._sessions.scan(tenant):
            value = records.decode(entry.value)
            facts = records.number(value, "auth_time"), records.text(value, "acr")
            yield entry.key[:32], records.text(value, "sub"), *facts

    def end_of(self, tenant: str, subject: str) -> int:
        """End every session of a person; return how many there were. What was given in them stays."""
        found = [
            entry.key
            for entry in self._sessions.scan(tenant)
            if records.text(records.decode(entry.value), "sub") == subject
        ]
        return sum(self._sessions.delete(tenant, key) for key in found)

    def _end_all(self, tenant: str, subject: str, _reason: str) -> None:
        self.end_of(tenant, subject)


def _form_secret(cookie: str) -> str:
    return hashlib.sha256(f"forms\0{cookie}".encode()).hexdigest()
