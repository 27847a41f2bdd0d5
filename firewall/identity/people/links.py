"""Accounts of ours and who they are elsewhere: linked by (issuer, subject), never by e-mail address.

An issuer may give an address to another person tomorrow, and two issuers may vouch for one address: it
proves nothing. What an issuer calls ``sub`` is its name for one person for ever (OpenID Connect Core
§2), within the tenant that the issuer names, if it has several (ID-JAG §3.1).

One outside account leads to at most one of ours. A link is made by an administrator, or at first contact
where the issuer's setting says so (`Admission`); a link whose account is disabled leads nowhere and is never
made anew by itself. Removing an account ends its links: whoever is to stay out is disabled.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from firewall.core.errors import Conflict, Malformed, StateUnavailable
from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.people.users import User, Users
from firewall.identity.records import SECOND_US
from firewall.identity.settings import Record, is_tenant

CREATED_PER_ISSUER = 100_000
CLAIM_S = 60
IDENTITY_CHARS = 2048


@dataclass(frozen=True, slots=True)
class Admission:
    """What somebody whom an issuer vouches for becomes here at first contact.

    create: whether an account is made at all. roles, scopes: what such an account gets; scopes are
    patterns (`wire.oauth.scope_allowed`), none by default.
    """

    create: bool = False
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """One outside account of one of our people. realm: the issuer's own tenant, "" where it has none."""

    issuer: str
    subject: str
    realm: str
    user: str
    created_s: int


class Links:
    """Finds, makes and ends links. Every key begins with our tenant."""

    def __init__(self, store: Store, clock: Clock, users: Users, record: Record) -> None:
        self._links = store.collection("account_links")
        self._created = store.collection("account_links_created")
        self._clock = clock
        self._users = users
        self._record = record

    def find(self, tenant: str, issuer: str, subject: str, *, realm: str = "") -> User | None:
        """Return the enabled account that is linked with an outside account, None without a link."""
        link = self._get(tenant, account_digest(issuer, subject, realm))
        return self._users.get(tenant, link.user) if link and link.user else None

    def account(self, tenant: str, issuer: str, subject: str, *, realm: str = "") -> str:
        """Return the subject of the account that an outside one is linked with, disabled or not; "" without a link."""
        link = self._get(tenant, account_digest(issuer, subject, realm))
        return link.user if link else ""

    def knows(self, tenant: str, issuer: str, subject: str, *, realm: str = "") -> bool:
        """Return whether an outside account is linked, with an enabled account or another."""
        link = self._get(tenant, account_digest(issuer, subject, realm))
        return link is not None and bool(link.user)

    def link(self, tenant: str, issuer: str, subject: str, user: str, *, realm: str = "") -> Link:
        """Link an outside account with the account ``user`` (its subject) of the tenant.

        The caller has proof of both: an administrator, or a person who signed in to both.
        Raises Malformed (link_identity, user_unknown), Conflict (the outside account is linked already).
        """
        _check(tenant, issuer, subject, realm)
        if self._users.get(tenant, user) is None:
            raise Malformed("user_unknown")
        link = Link(issuer, subject, realm, user, self._clock.now_us() // SECOND_US)
        self._links.put(tenant, account_digest(issuer, subject, realm), _value(link), if_version=0)
        self._noted("identity.link.made", tenant, link, "linked")
        return link

    def admit(self, tenant: str, issuer: str, subject: str, admission: Admission, *, realm: str = "") -> User | None:
        """Return the linked account; make one at first contact where the admission says so.

        None: there is no link and none may be made, or its account is disabled or gone. An account with
        the same name or address is never taken. Raises Malformed("link_identity"), Conflict (another
        request is making the same link now), StateUnavailable (too many accounts of this issuer).
        """
        _check(tenant, issuer, subject, realm)
        key = account_digest(issuer, subject, realm)
        known = self._get(tenant, key)
        if known is not None:
            if not known.user:
                raise Conflict("account link is being made")
            return self._users.get(tenant, known.user, lapsed=True)
        if not admission.create:
            return None
        now_us = self._clock.now_us()
        # The claim first: of two requests one makes the account, and a crash frees it after a minute.
        claim = Link(issuer, subject, realm, "", now_us // SECOND_US)
        version = self._links.put(tenant, key, _value(claim), expires_us=now_us + CLAIM_S * SECOND_US, if_version=0)
        if not self._created.add(tenant, account_digest(issuer, "", ""), 1, ceiling=CREATED_PER_ISSUER):
            self._links.delete(tenant, key)
            raise StateUnavailable("account links")
        user = self._users.create_linked(tenant=tenant, roles=admission.roles, scopes=admission.scopes)
        link = Link(issuer, subject, realm, user.subject, claim.created_s)
        self._links.put(tenant, key, _value(link), if_version=version)
        self._noted("identity.link.made", tenant, link, "first_contact")
        return user

    def of_user(self, tenant: str, user: str) -> list[Link]:
        """Return the links of one account."""
        return [link for link in self.list(tenant) if link.user == user]

    def list(self, tenant: str) -> list[Link]:
        """Return every link of a tenant."""
        found = (_link(entry.value) for entry in self._links.scan(tenant))
        return [link for link in found if link.user]

    def unlink(self, tenant: str, issuer: str, subject: str, *, realm: str = "", reason: str = "unlinked") -> bool:
        """End a link, and with it the account's sessions and what it had given; return whether there was one."""
        key = account_digest(issuer, subject, realm)
        link = self._get(tenant, key)
        if link is None or not link.user or not self._links.delete(tenant, key):
            return False
        self._noted("identity.link.ended", tenant, link, reason)
        self._users.end(tenant, link.user, reason=f"link_{reason}")
        return True

    def forget_person(self, tenant: str, subject: str) -> None:
        """End every link of a person whose account is removed: who they are elsewhere leads to nobody here."""
        for entry in list(self._links.scan(tenant)):
            link = _link(entry.value)
            if link.user == subject and self._links.delete(tenant, entry.key):
                self._noted("identity.link.ended", tenant, link, "user_removed")

    def _get(self, tenant: str, key: str) -> Link | None:
        """Return the link; one without a user is being made."""
        entry = self._links.get(tenant, key)
        return _link(entry.value) if entry else None

    def _noted(self, event: str, tenant: str, link: Link, reason: str) -> None:
        # The outside name may be an address: its digest is enough to find the event again.
        outside = account_digest(link.issuer, link.subject, link.realm)
        self._record(
            event, {"tenant": tenant, "sub": link.user, "issuer": link.issuer, "account": outside, "reason": reason}
        )


def _check(tenant: str, issuer: str, subject: str, realm: str) -> None:
    if not is_tenant(tenant) or not issuer or not subject:
        raise Malformed("link_identity")
    if any(len(part) > IDENTITY_CHARS for part in (issuer, subject, realm)):
        raise Malformed("link_identity")


def account_digest(issuer: str, subject: str, realm: str = "") -> str:
    """Return the key of an outside account, which records name it by: length-prefixed parts, so that no two blend."""
    parts = (part.encode("utf-8", "surrogatepass") for part in (issuer, realm, subject))
    return hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).hexdigest()


def _value(link: Link) -> bytes:
    return records.encode(
        {
            "issuer": link.issuer,
            "subject": link.subject,
            "realm": link.realm,
            "user": link.user,
            "created_s": link.created_s,
        }
    )


def _link(data: bytes) -> Link:
    value = records.decode(data)
    return Link(
        issuer=records.text(value, "issuer"),
        subject=records.text(value, "subject"),
        realm=records.text(value, "realm"),
        user=records.text(value, "user"),
        created_s=records.number(value, "created_s"),
    )
