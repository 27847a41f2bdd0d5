"""Whose sign-in a provider's session was: an event about that session (CAEP) then means a person here.

A provider names its session in the ID token (``sid``, OpenID Connect Front-Channel Logout §3). Only a digest is kept.
"""

from __future__ import annotations

import hashlib
from typing import Final

from firewall.core.ports import Clock, Store
from firewall.identity.people.users import User
from firewall.identity.records import SECOND_US

KEPT_S: Final = 30 * 24 * 3600  # what was given in a session may outlive it
SID_CHARS: Final = 512


class ProviderSessions:
    """Remembers and finds."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._sessions = store.collection("idp_sessions")
        self._clock = clock

    def note(self, issuer: str, session_id: object, user: User) -> None:
        """Remember whose session it is; what is no session id is none."""
        if isinstance(session_id, str) and 0 < len(session_id) <= SID_CHARS:
            expires_us = self._clock.now_us() + KEPT_S * SECOND_US
            self._sessions.put(user.tenant, _key(issuer, session_id), user.subject.encode(), expires_us=expires_us)

    def account(self, tenant: str, issuer: str, session_id: str) -> str:
        """Return the subject of the account that signed in with this session, "" for none."""
        entry = self._sessions.get(tenant, _key(issuer, session_id))
        return entry.value.decode() if entry else ""


def _key(issuer: str, session_id: str) -> str:
    return hashlib.sha256(f"{issuer}\0{session_id}".encode("utf-8", "surrogatepass")).hexdigest()
