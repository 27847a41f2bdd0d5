"""What people gave us at upstreams: one sealed row per (tenant, user, upstream resource, issuer, client id).

The key is the whole of CL-06: another issuer, another client or another user is another row, so a
credential can never be found by anybody it does not belong to (CL-09), nor be presented to another
issuer. The row's place is bound into its seal (CL-08). Renewing is done by one worker of the node at a
time: servers that rotate refresh tokens take a second use for theft.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from firewall.core.errors import Conflict, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, SharedMarks, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.state.envelope import Envelopes

KEPT_S: Final = 400 * 24 * 3600  # of a row that nobody uses or renews
LEASE_S: Final = 20
WAIT_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Place:
    """Whose credential for what: the identity of a row (CL-06)."""

    tenant: str
    subject: str
    upstream: str
    resource: str
    issuer: str
    client_id: str

    @property
    def key(self) -> str:
        """The row's key: findable by person and upstream, exact in everything."""
        facts = "\0".join((self.resource, self.issuer, self.client_id))
        return f"{_part(self.subject)}/{self.upstream}/{hashlib.sha256(facts.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class UpstreamGrant:
    """One person's tokens at one upstream. Times in Unix microseconds.

    token_type: ``bearer``, or ``dpop`` for tokens that are bound to a key of ours. grant_id: new with every linking. expires_us: 0 where the server did not say. obtained_us: of the access
    token.
    """

    place: Place
    grant_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    obtained_us: int
    expires_us: int
    scopes: tuple[str, ...]
    linked_us: int
    token_type: str = "bearer"  # noqa: S105  a type
    version: int = 0

    @property
    def renew_us(self) -> int:
        """When to renew: after four fifths of the token's life (oauth reference §11); 0 where nothing can be done."""
        if not self.expires_us or not self.refresh_token:
            return self.expires_us
        return self.obtained_us + (self.expires_us - self.obtained_us) * 4 // 5


class UpstreamGrants:
    """The rows of a node."""

    def __init__(self, store: Store, envelopes: Envelopes, marks: SharedMarks, clock: Clock) -> None:
        self._rows = store.collection("upstream_grants")
        self._leases = store.collection("upstream_renewing")
        self._envelopes = envelopes
        self._marks = marks
        self._clock = clock

    def find(self, place: Place) -> UpstreamGrant | None:
        """Return a person's grant. Raises StateUnavailable for a row that does not belong where it stands."""
        entry = self._rows.get(place.tenant, place.key)
        if entry is None:
            return None
        return self._read(place.tenant, place.key, entry.value, entry.version)

    def of_person(self, tenant: str, subject: str, upstream: str = "") -> list[UpstreamGrant]:
        """Return all that a person gave us, or what of it concerns one upstream."""
        prefix = f"{_part(subject)}/" + (f"{upstream}/" if upstream else "")
        return [self._read(tenant, e.key, e.value, e.version) for e in self._rows.scan(tenant, prefix)]

    def save(self, grant: UpstreamGrant, *, if_version: int | None = None) -> UpstreamGrant:
        """Store a grant; if_version: what it was read as. Raises Conflict."""
        place = grant.place
        value: JSONObject = {
            "subject": place.subject,
            "upstream": place.upstream,
            "resource": place.resource,
            "issuer": place.issuer,
            "client_id": place.client_id,
            "grant_id": grant.grant_id,
            "access_token": grant.access_token,
            "refresh_token": grant.refresh_token,
            "obtained_us": grant.obtained_us,
            "expires_us": grant.expires_us,
            "scopes": list(grant.scopes),
            "linked_us": grant.linked_us,
            "token_type": grant.token_type,
        }
        data = self._envelopes.seal(place.tenant, f"upstream_grants/{place.key}", value)
        expires_us = self._clock.now_us() + KEPT_S * SECOND_US
        version = self._rows.put(place.tenant, place.key, data, expires_us=expires_us, if_version=if_version)
        return replace(grant, version=version)

    def link(self, grant: UpstreamGrant) -> None:
        """Store a new linking in place of whatever the person had at this upstream before."""
        place = grant.place
        self.save(grant)
        for old in self.of_person(place.tenant, place.subject, place.upstream):
            if old.place != place:
                self._rows.delete(place.tenant, old.place.key)
        self._marks.bump()

    def drop(self, place: Place) -> None:
        """Forget a grant, in every worker."""
        self._rows.delete(place.tenant, place.key)
        self._marks.bump()

    def drop_person(self, tenant: str, subject: str) -> None:
        """Forget everything that a person gave us (the account has ended)."""
        for entry in list(self._rows.scan(tenant, f"{_part(subject)}/")):
            self._rows.delete(tenant, entry.key)
        self._marks.bump()

    async def renewed(
        self, grant: UpstreamGrant, renew: Callable[[UpstreamGrant], Awaitable[UpstreamGrant]]
    ) -> UpstreamGrant | None:
        """Return the grant with new tokens, None when it is gone: one worker renews, the others wait for it.

        grant: as it was read; one that was renewed meanwhile is returned as it is now.
        Raises UpstreamFault("timeout") when another worker does not come back, and what ``renew`` raises.
        """
        place = grant.place
        while True:
            now = self.find(place)
            if now is None or not _same(now, grant):
                return now
            until_us = self._clock.now_us() + LEASE_S * SECOND_US
            try:
                self._leases.put(place.tenant, place.key, b"", expires_us=until_us, if_version=0)
                break
            except Conflict:
                await self._wait(place)
        try:
            now = self.find(place)  # the one before may have finished between the two looks
            if now is None or not _same(now, grant):
                return now
            fresh = await renew(now)
            try:
                return self.save(fresh, if_version=now.version)
            except Conflict:  # linked anew meanwhile: that one counts
                return self.find(place)
        finally:
            self._leases.delete(place.tenant, place.key)

    async def _wait(self, place: Place) -> None:
        for _ in range(int(LEASE_S / WAIT_S)):
            if self._leases.get(place.tenant, place.key) is None:
                return
            await asyncio.sleep(WAIT_S)
        raise UpstreamFault("timeout", "the renewal of a credential takes too long")

    def _read(self, tenant: str, key: str, data: bytes, version: int) -> UpstreamGrant:
        value = self._envelopes.open(tenant, f"upstream_grants/{key}", data)
        row = value if isinstance(value, dict) else {}
        place = Place(
            tenant,
            records.text(row, "subject"),
            records.text(row, "upstream"),
            records.text(row, "resource"),
            records.text(row, "issuer"),
            records.text(row, "client_id"),
        )
        return UpstreamGrant(
            place,
            records.text(row, "grant_id"),
            records.text(row, "access_token"),
            records.text(row, "refresh_token"),
            records.number(row, "obtained_us"),
            records.number(row, "expires_us"),
            records.texts(row, "scopes"),
            records.number(row, "linked_us"),
            records.text(row, "token_type"),
            version,
        )


def _same(now: UpstreamGrant, before: UpstreamGrant) -> bool:
    return (now.grant_id, now.version) == (before.grant_id, before.version)


def _part(subject: str) -> str:
    # A subject may hold a slash: the digest keeps one person's rows from being another's prefix.
    return hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()
