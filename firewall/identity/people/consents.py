"""What a person agreed to, so that the same or less need not be asked again (UI-01).

The key holds everything that was shown: person, client, destination, resource, the calls it was narrowed
to, and a digest of the client's metadata. Anything else is another question.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from firewall.core.ports import Clock, Store
from firewall.core.tool_details import ToolDetail
from firewall.identity import records
from firewall.identity.clients.registry import Client
from firewall.identity.people.pages import clean_name
from firewall.identity.people.users import User
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9396.requested import details_text
from firewall.identity.standing import Standing
from firewall.wire import oauth
from firewall.wire.oauth import AuthorizationRequest


@dataclass(frozen=True, slots=True)
class Agreement:
    """One remembered agreement, as its person is shown it."""

    agreement_id: str
    client: str
    resource: str
    redirect_host: str
    scopes: tuple[str, ...]


class Consents:
    """Remembers agreements for a bounded time."""

    def __init__(self, store: Store, clock: Clock, standing: Standing, *, lifetime_s: int) -> None:
        self._standing = standing
        self._consents = store.collection("oauth_consents")
        self._clock = clock
        self._lifetime_s = lifetime_s

    def covers(
        self,
        user: User,
        client: Client,
        request: AuthorizationRequest,
        scopes: tuple[str, ...],
        details: tuple[ToolDetail, ...] = (),
    ) -> bool:
        """Return whether the person agreed to all of this before."""
        return set(scopes) <= set(self._agreed(user, _key(user, client, request, details), request.resource))

    def save(
        self,
        user: User,
        client: Client,
        request: AuthorizationRequest,
        scopes: tuple[str, ...],
        details: tuple[ToolDetail, ...] = (),
    ) -> None:
        """Remember an agreement, beside what was agreed before under the same key."""
        key = _key(user, client, request, details)
        agreed = tuple(dict.fromkeys((*self._agreed(user, key, request.resource), *scopes)))
        standing = self._standing.of(user.tenant, "", request.resource, agreed)
        value = records.encode(
            {
                "client_id": client.client_id,
                "client_name": client.host or clean_name(client.name),
                "resource": request.resource,
                "redirect_host": oauth.redirect_host(request.redirect_uri),
                "scopes": list(agreed),
                "standing": standing,
            }
        )
        expires_us = self._clock.now_us() + self._lifetime_s * SECOND_US
        self._consents.put(user.tenant, key, value, expires_us=expires_us)

    def _agreed(self, user: User, key: str, resource: str) -> tuple[str, ...]:
        """Return what was agreed under a key: nothing once an upstream among it has ended."""
        entry = self._consents.get(user.tenant, key)
        if entry is None:
            return ()
        value = records.decode(entry.value)
        scopes = records.texts(value, "scopes")
        stands = self._standing.of(user.tenant, "", resource, scopes) == records.number(value, "standing")
        return scopes if stands else ()

    def of(self, user: User) -> list[Agreement]:
        """Return what is remembered of a person."""
        found = []
        for entry in self._consents.scan(user.tenant, f"{user.subject}/"):
            value = records.decode(entry.value)
            found.append(
                Agreement(
                    agreement_id=entry.key.partition("/")[2],
                    client=records.text(value, "client_name") or records.text(value, "client_id"),
                    resource=records.text(value, "resource"),
                    redirect_host=records.text(value, "redirect_host"),
                    scopes=records.texts(value, "scopes"),
                )
            )
        return found

    def forget(self, user: User, agreement_id: str) -> bool:
        """Forget one agreement of a person; what was given by it stays until its grant ends."""
        return self._consents.delete(user.tenant, f"{user.subject}/{agreement_id}")

    def forget_person(self, tenant: str, subject: str) -> None:
        """Keep nothing of a person whose account is removed."""
        for entry in list(self._consents.scan(tenant, f"{subject}/")):
            self._consents.delete(tenant, entry.key)

    def withdraw(self, user: User, client_id: str) -> None:
        """Forget every agreement of a person with a client."""
        for entry in list(self._consents.scan(user.tenant, f"{user.subject}/")):
            if records.text(records.decode(entry.value), "client_id") == client_id:
                self._consents.delete(user.tenant, entry.key)


def _key(user: User, client: Client, request: AuthorizationRequest, details: tuple[ToolDetail, ...]) -> str:
    parts = (
        client.client_id,
        oauth.redirect_host(request.redirect_uri),
        request.resource,
        client.digest,
        details_text(details),
    )
    return f"{user.subject}/{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()}"
