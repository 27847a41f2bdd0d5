"""OAuth grants: what a person gave to a client, and its end.

Every token of one grant carries its id (``gid``). Revoking writes a durable entry, raises a mark in
the node's shared memory and bumps the epoch, in this order: whoever sees the new epoch finds the
mark or the entry. Cached tokens die in every worker (DESIGN §6b-2); refresh tokens die with them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from firewall.core.bounds import REFRESH_LONGEST_S
from firewall.core.errors import StateUnavailable
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, SharedMarks, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.identity.settings import Record
from firewall.identity.standing import Standing

REVOKED_MARK = 1 << 63


@dataclass(frozen=True, slots=True)
class OAuthGrant:
    """One grant. Times in Unix seconds. details: the only calls that it was given for, () for all of its scopes."""

    tenant: str
    subject: str
    grant_id: str
    client_id: str
    client_name: str
    resource: str
    scopes: tuple[str, ...]
    created_s: int
    standing: int = 0
    details: tuple[JSONObject, ...] = ()


class OAuthGrants:
    """Stores grants and answers whether one is revoked."""

    def __init__(self, store: Store, marks: SharedMarks, clock: Clock, record: Record, *, lifetime_s: int) -> None:
        self._grants = store.collection("oauth_grants")
        self._revoked = store.collection("oauth_revoked")
        self.standing = Standing(store, marks, clock)
        self._marks = marks
        self._clock = clock
        self._record = record
        self._lifetime_s = lifetime_s
        self._on_save: list[Callable[[OAuthGrant], None]] = []

    def on_save(self, listener: Callable[[OAuthGrant], None]) -> None:
        """Have every grant told that is stored from now on."""
        self._on_save.append(listener)

    def save(self, grant: OAuthGrant, *, for_s: int = 0) -> None:
        """Store a grant until no token of it can be alive: for_s seconds, or as long as it can be renewed.

        One that was revoked before it was stored (a code that was replayed while it was redeemed) leaves nothing.
        """
        value: JSONObject = {
            "client_id": grant.client_id,
            "client_name": grant.client_name,
            "resource": grant.resource,
            "scopes": list(grant.scopes),
            "created_s": grant.created_s,
            "standing": grant.standing,
            "details": list(grant.details),
        }
        key = f"{grant.subject}/{grant.grant_id}"
        self._grants.put(grant.tenant, key, records.encode(value), expires_us=self._horizon(for_s))
        # After the write, as `revoke` deletes after its own: whichever comes second removes it.
        if self.is_revoked(grant.tenant, grant.grant_id):
            self._grants.delete(grant.tenant, key)
        for listener in self._on_save:
            listener(grant)

    def of_subject(self, tenant: str, subject: str) -> list[OAuthGrant]:
        """Return a subject's live grants."""
        found = []
        for entry in self._grants.scan(tenant, f"{subject}/"):
            value = records.decode(entry.value)
            grant = OAuthGrant(
                tenant=tenant,
                subject=subject,
                grant_id=entry.key.partition("/")[2],
                client_id=records.text(value, "client_id"),
                client_name=records.text(value, "client_name"),
                resource=records.text(value, "resource"),
                scopes=records.texts(value, "scopes"),
                created_s=records.number(value, "created_s"),
                standing=records.number(value, "standing"),
                details=records.objects(value, "details"),
            )
            if self.stands(tenant, subject, grant.resource, grant.scopes, grant.standing):
                found.append(grant)
        return found

    def stands(self, tenant: str, subject: str, resource: str, scopes: tuple[str, ...], standing: int) -> bool:
        """Return whether nothing that was given has ended since it was given (see `standing`)."""
        return self.standing.of(tenant, subject, resource, scopes) == standing

    def revoke(self, tenant: str, subject: str, grant_id: str, *, reason: str) -> None:
        """End a grant and every token of it, now, in every worker. Idempotent."""
        # Who comes again (a flood of replays) waits for no write lock, which the one who redeems a code needs now. It
        # raises and bumps all the same: whoever was first may not have come that far.
        over = self._revoked.get(tenant, grant_id) is not None  # durably: a mark alone ends with the node
        if not over:  # remembered for longer than a token can live that was issued under any configuration
            self._revoked.put(tenant, grant_id, b"{}", expires_us=self._horizon(REFRESH_LONGEST_S))
        if self._grants.get(tenant, f"{subject}/{grant_id}") is not None:
            self._grants.delete(tenant, f"{subject}/{grant_id}")
        try:
            self._marks.raise_(mark_key(tenant, grant_id), REVOKED_MARK)
        except StateUnavailable:
            pass  # a full table: the durable entry is read instead whenever the epoch has moved
        self._marks.bump()
        if not over:
            self._record(
                "identity.grant.revoked", {"tenant": tenant, "sub": subject, "gid": grant_id, "reason": reason}
            )

    def revoke_subject(self, tenant: str, subject: str, *, reason: str) -> int:
        """End all grants of a subject (password change, disabled user); return how many."""
        grants = self.of_subject(tenant, subject)
        for grant in grants:
            self.revoke(tenant, subject, grant.grant_id, reason=reason)
        return len(grants)

    def forget_person(self, tenant: str, subject: str) -> None:
        """Keep nothing of what a person gave, whose account is removed and whose grants have ended."""
        for entry in list(self._grants.scan(tenant, f"{subject}/")):
            self._grants.delete(tenant, entry.key)

    def is_revoked(self, tenant: str, grant_id: str) -> bool:
        """Return whether the grant has ended; an unreadable mark counts as ended."""
        if self._marks.read(mark_key(tenant, grant_id)) & REVOKED_MARK:
            return True
        return self._revoked.get(tenant, grant_id) is not None

    def is_kept(self, tenant: str, subject: str, grant_id: str) -> bool:
        """Return whether the grant is among those that its person is shown, and can end."""
        return self._grants.get(tenant, f"{subject}/{grant_id}") is not None

    def _horizon(self, for_s: int = 0) -> int:
        return self._clock.now_us() + ((for_s or self._lifetime_s) + 3600) * SECOND_US


def mark_key(tenant: str, grant_id: str) -> bytes:
    """Return the 16-byte key of a grant in the shared marks."""
    return hashlib.sha256(f"oauth-grant\0{tenant}\0{grant_id}".encode()).digest()[:16]
