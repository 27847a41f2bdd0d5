"""What a person agreed to, so that the same or less need not be asked again (UI-01).

The key holds everything that was shown: person, client, destination, resource, and a digest of the
client's metadata. Anything else is another question.
"""

from __future__ import annotations

import hashlib

from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.clients import Client
from firewall.identity.records import SECOND_US
from firewall.identity.users import User
from firewall.wire import oauth
from firewall.wire.oauth import AuthorizationRequest


class Consents:
    """Remembers agreements for a bounded time."""

    def __init__(self, store: Store, clock: Clock, *, lifetime_s: int) -> None:
        self._consents = store.collection("oauth_consents")
        self._clock = clock
        self._lifetime_s = lifetime_s

    def covers(self, user: User, client: Client, request: AuthorizationRequest, scopes: tuple[str, ...]) -> bool:
        """Return whether the person agreed to all of this before."""
        entry = self._consents.get(user.tenant, _key(user, client, request))
        return entry is not None and set(scopes) <= set(records.texts(records.decode(entry.value), "scopes"))

    def save(self, user: User, client: Client, request: AuthorizationRequest, scopes: tuple[str, ...]) -> None:
        """Remember an agreement, beside what was agreed before under the same key."""
        key = _key(user, client, request)
        entry = self._consents.get(user.tenant, key)
        before = records.texts(records.decode(entry.value), "scopes") if entry else ()
        value = records.encode({"client_id": client.client_id, "scopes": [*dict.fromkeys((*before, *scopes))]})
        expires_us = self._clock.now_us() + self._lifetime_s * SECOND_US
        self._consents.put(user.tenant, key, value, expires_us=expires_us)

    def withdraw(self, user: User, client_id: str) -> None:
        """Forget every agreement of a person with a client."""
        for entry in list(self._consents.scan(user.tenant, f"{user.subject}/")):
            if records.text(records.decode(entry.value), "client_id") == client_id:
                self._consents.delete(user.tenant, entry.key)


def _key(user: User, client: Client, request: AuthorizationRequest) -> str:
    parts = (client.client_id, oauth.redirect_host(request.redirect_uri), request.resource, client.digest)
    return f"{user.subject}/{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}"
