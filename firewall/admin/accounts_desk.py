"""The desk's verbs about people and what is minted for them: accounts, links, sessions, bearers, tokens.

Every change is recorded before it takes effect, with who did it, and who agreed where two did it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from typing import Final

from firewall.admin.access import Access
from firewall.admin.caller import Caller, Refused
from firewall.admin.parts import AdminParts
from firewall.admin.rights import WEIGHTY
from firewall.admin.sessions import SessionFacts
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.identity.people.links import Link
from firewall.identity.people.users import User

REASON_CHARS: Final = 200
SESSIONS: Final = 10_000  # of the front door in one answer


class AccountsDesk:
    """The part of `desk.Desk` that is about people. Raises as it."""

    def __init__(self, parts: AdminParts, access: Access) -> None:
        self._parts = parts
        self._access = access

    # -- tokens and bearers --------------------------------------------------------------------------------

    def resources(self, caller: Caller) -> list[JSONObject]:
        """Return what a token can be minted for."""
        known = self._parts.identity.resources.by_uri.items()
        return [
            {"resource": uri, "title": r.title, "scopes": list(r.scopes), "default_scopes": list(r.default_scopes)}
            for uri, r in known
            if not r.tenants or caller.tenant in r.tenants
        ]

    def token(self, caller: Caller, resource: str, scopes: tuple[str, ...], ttl_s: int) -> JSONObject:
        """Mint a token of the operator's for one resource; identity records it. Raises Malformed: operator_*."""
        issued = self._parts.identity.operator_tokens.mint_for_operator(
            resource, scopes, ttl_s, by=caller.name, tenant=caller.tenant
        )
        return {
            "access_token": issued.token,
            "expires_in": issued.expires_in,
            "scope": " ".join(issued.scopes),
        }

    def bearer(self, caller: Caller, role: str, ttl_s: int, *, user: str = "") -> JSONObject:
        """Mint a bearer for the admin API: the node's own, or a person's, which is never more than that person is.

        user: a person's name; the owner names anybody, a person nobody but themselves.
        Raises Malformed: bearer_role, bearer_ttl, bearer_many, user_unknown.
        """
        person = self.user(caller, user) if user else None
        if caller.role != "owner" and (person is None or person.subject != caller.subject):
            raise Refused("role", fix="only the node's owner makes bearers for others")
        self._record(caller, "bearer.mint", f"{role} {user}".strip())
        text, made = self._access.bearers.mint(caller.tenant, role, ttl_s, by=caller.name, user=person)
        return {"bearer": text, **asdict(made)}

    def bearers(self, caller: Caller) -> list[JSONObject]:
        """Return what is known of bearers, never their secrets; a person sees their own."""
        found = self._access.bearers.list(caller.tenant)
        return [asdict(b) for b in found if caller.role == "owner" or (b.user and b.user == caller.subject)]

    def end_bearer(self, caller: Caller, bearer_id: str) -> bool:
        """End a bearer, one's own unless one is the owner; return whether it lived."""
        if caller.role != "owner" and not any(b["bearer_id"] == bearer_id for b in self.bearers(caller)):
            return False
        self._record(caller, "bearer.end", bearer_id[:64])
        return self._access.bearers.end(caller.tenant, bearer_id)

    def sessions(self, caller: Caller) -> list[JSONObject]:
        """Return who of the tenant is signed in: sessions of the console, then those of the front door."""
        identity = self._parts.identity
        found = list(self._access.sessions.list(caller.tenant))
        for key, subject, auth_s, acr in islice(identity.logins.list(caller.tenant), SESSIONS):
            user = identity.users.get(caller.tenant, subject, lapsed=True)
            found.append(
                SessionFacts(key, subject, user.name if user else "", acr, auth_s * 1_000_000, 0, "front door")
            )
        return [asdict(session) for session in found]

    def end_sessions(self, caller: Caller, name: str) -> int:
        """End every session of a person, here and at the front door; return how many there were.

        Programs that the person connected stay so: disabling ends those too.
        """
        user = self.user(caller, name)
        self._record(caller, "sessions.end", user.subject)
        here = self._access.sessions.end_of(caller.tenant, user.subject)
        return here + self._parts.identity.logins.end_of(caller.tenant, user.subject)

    # -- people --------------------------------------------------------------------------------------------

    def users(self, caller: Caller) -> list[User]:
        """Return the people of the tenant."""
        return self._parts.identity.users.list(caller.tenant)

    def called(self, caller: Caller, subjects: Iterable[str]) -> dict[str, str]:
        """Return who these subjects of the tenant are, by name; those that are no person's, or gone, are left out."""
        users = self._parts.identity.users
        found = {subject: users.name_of(caller.tenant, subject) for subject in dict.fromkeys(subjects) if subject}
        return {subject: name for subject, name in found.items() if name}

    def meant(self, caller: Caller, who: str) -> str:
        """Return the subject that a person of the tenant has who goes by this name, else what was typed."""
        user = self._parts.identity.users.named(who) if who else None
        return user.subject if user is not None and user.tenant == caller.tenant else who

    def user(self, caller: Caller, name: str) -> User:
        """Return a person by name. Raises Malformed("user_unknown")."""
        user = next((u for u in self.users(caller) if u.name == name), None)
        if user is None:
            raise Malformed("user_unknown", fix="see `bartizan users list`")
        return user

    async def add_user(
        self, caller: Caller, name: str, password: str, roles: tuple[str, ...], scopes: tuple[str, ...]
    ) -> User:
        """Add a person; identity records it. Raises Malformed: user_name, password_weak; Conflict; Refused("role")."""
        self._weighty(caller, roles)
        self._record(caller, "user.add", name[:64])
        return await self._parts.identity.users.create(name, password, tenant=caller.tenant, roles=roles, scopes=scopes)

    async def prepare_user(self, caller: Caller, name: str, password: str) -> User:
        """Add a person who can do nothing yet: no role, no scope, disabled. Raises as `add_user`."""
        made = await self.add_user(caller, name, password, (), ())
        return self._parts.identity.users.update(made.tenant, made.subject, roles=(), scopes=(), disabled=True)

    def set_user(self, caller: Caller, name: str, roles: tuple[str, ...], scopes: tuple[str, ...]) -> User:
        """Give a person exactly these roles and scopes, and let them in; what they had given before ends.

        Raises Malformed("user_unknown"), Refused("role").
        """
        user = self.user(caller, name)
        # Whoever was put out comes back by this too: then every role counts as given anew.
        self._weighty(caller, roles if user.disabled else set(roles) - set(user.roles))
        self._record(caller, "user.set", user.subject, " ".join(roles))
        return self._parts.identity.users.update(user.tenant, user.subject, roles=roles, scopes=scopes)

    def enable_user(self, caller: Caller, name: str, *, enabled: bool) -> User:
        """Let a person in again, or end everything of theirs at once. Raises Malformed("user_unknown")."""
        user = self.user(caller, name)
        if enabled:
            self._weighty(caller, user.roles if user.disabled else ())
        self._record(caller, "user.enable" if enabled else "user.disable", user.subject)
        return self._parts.identity.users.update(
            user.tenant, user.subject, roles=user.roles, scopes=user.scopes, disabled=not enabled
        )

    def remove_user(self, caller: Caller, name: str) -> JSONObject:
        """Remove a person for good, with everything of theirs, and free the name.

        Returns name, subject and the issuers at which somebody was this person: where these make accounts, the same
        person comes back as a stranger. Raises Malformed("user_unknown"), Conflict.
        """
        user = self.user(caller, name)
        issuers: list[JSON] = [*sorted({link.issuer for link in self.account_links(caller, name)})]
        self._record(caller, "user.remove", user.subject, user.name)
        self._parts.identity.users.remove(user.tenant, user.subject)
        return {"removed": user.name, "subject": user.subject, "issuers": issuers}

    def account_links(self, caller: Caller, name: str) -> list[Link]:
        """Return who a person is at issuers elsewhere. Raises Malformed("user_unknown")."""
        return self._parts.identity.links.of_user(caller.tenant, self.user(caller, name).subject)

    def link_account(self, caller: Caller, name: str, issuer: str, subject: str, realm: str = "") -> Link:
        """Let somebody at an issuer in as this person: by (issuer, subject), never by address.

        Raises Malformed: user_unknown, link_identity; Conflict where that account leads to somebody already;
        Refused("role"): whoever may not give a person's roles may not give the person to somebody else.
        """
        user = self.user(caller, name)
        self._weighty(caller, user.roles)
        self._record(caller, "user.link", user.subject, issuer)
        return self._parts.identity.links.link(caller.tenant, issuer, subject, user.subject, realm=realm)

    def unlink_account(self, caller: Caller, name: str, issuer: str, subject: str, realm: str = "") -> bool:
        """End a link of a person, and what the person had given; return whether there was one."""
        user = self.user(caller, name)
        if (issuer, subject, realm) not in [(x.issuer, x.subject, x.realm) for x in self.account_links(caller, name)]:
            return False
        self._record(caller, "user.unlink", user.subject, issuer)
        return self._parts.identity.links.unlink(caller.tenant, issuer, subject, realm=realm)

    def _weighty(self, caller: Caller, roles: Iterable[str]) -> None:
        """Raise Refused unless these roles may be given: an administrator alone makes no peer and no approver."""
        if caller.role != "owner" and not caller.second and not WEIGHTY.isdisjoint(roles):
            raise Refused("role", fix="only the node's owner, or two people, give the roles approver and admin")

    def first_contact(self, caller: Caller) -> JSONObject:
        """Return a new one-time code; {} while there is an administrator already."""
        self._record(caller, "first_contact.open", "first-contact")
        code = self._parts.identity.first_contact.open()
        return {"code": code.text, "expires_s": code.expires_s} if code else {}

    # -- records ---------------------------------------------------------------------------------------------

    def _record(self, caller: Caller, verb: str, what: str, text: str = "", *, tenant: str = "") -> None:
        record: JSONObject = {
            "kind": "admin",
            "tenant": tenant or caller.tenant,
            "by": caller.name,
            "verb": verb,
            "object": shown(what),
        }
        if text:
            record["text"] = shown(text)
        if caller.second:
            record["second"] = caller.second
        if caller.exchange:
            record["exchange"] = caller.exchange
        self._parts.audit.append(record)


def shown(text: str) -> str:
    """Return typed text without control and format characters, at most 200 characters."""
    return "".join(c for c in text[:REASON_CHARS] if unicodedata.category(c)[0] != "C")


def user_json(user: User) -> JSONObject:
    """Return a user as the API shows one; there is no password to leave out."""
    return {**asdict(user), "roles": list(user.roles), "scopes": list(user.scopes)}
