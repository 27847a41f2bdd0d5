"""Embedded users: a name, a password hash, a tenant, roles, and the scopes they may ever give away."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, replace

from firewall.core.errors import Conflict, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Collection, Ids, Store
from firewall.identity import records
from firewall.identity.people.passwords import Passwords
from firewall.identity.records import SECOND_US
from firewall.identity.settings import Record, is_tenant
from firewall.identity.throttle import NODE

NAME_SET = frozenset(string.ascii_lowercase + string.digits + "._-+@")
NAME_CHARS = 64
LABEL_CHARS = 128
ADMIN_ROLE = "admin"
TRIES = 4


@dataclass(frozen=True, slots=True)
class User:
    """A person. scopes: patterns (`wire.oauth.scope_allowed`), the person's side of the intersection.

    label: what an identity provider calls somebody who signs in there; shown, never compared.
    vouched_until_s: Unix seconds until which a provider's word for this person holds; 0 for ever. Afterwards
    the account is as good as disabled, until its person signs in there again.
    """

    tenant: str
    subject: str
    name: str
    roles: tuple[str, ...]
    scopes: tuple[str, ...]
    disabled: bool = False
    label: str = ""
    vouched_until_s: int = 0

    @property
    def shown(self) -> str:
        """What pages call this person."""
        return self.label or self.name


class Users:
    """The people of this installation. Names are unique across tenants, so that nobody types a tenant."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, passwords: Passwords, record: Record) -> None:
        self._users: Collection = store.collection("users")
        self._names: Collection = store.collection("user_names")
        self._clock = clock
        self._ids = ids
        self._passwords = passwords
        self._record = record
        self._ended: list[Callable[[str, str, str], object]] = []
        self._removed: list[Callable[[str, str], object]] = []

    def on_end(self, call: Callable[[str, str, str], object]) -> None:
        """Call ``call(tenant, subject, reason)`` when what a user had given must end."""
        self._ended.append(call)

    def on_remove(self, call: Callable[[str, str], object]) -> None:
        """Call ``call(tenant, subject)`` when nothing that is kept of a user may be left."""
        self._removed.append(call)

    async def create(
        self,
        name: str,
        password: str,
        *,
        tenant: str,
        roles: tuple[str, ...] = (),
        scopes: tuple[str, ...] = ("*",),
        first: bool = False,
    ) -> User:
        """Create a user. Raises Malformed (user_name, tenant_name, password_weak), Conflict (name taken).

        first: only while there is no administrator.
        """
        name = check_name(name)
        if not is_tenant(tenant):
            raise Malformed("tenant_name")
        self._passwords.check_choice(password)
        hashed = await self._passwords.hash(password)
        if first:
            # The claim makes two simultaneous first users one.
            if self.exists_admin():
                raise Conflict("an administrator exists")
            expires_us = self._clock.now_us() + 60 * SECOND_US
            self._names.put(NODE, "#first", b"{}", expires_us=expires_us, if_version=0)
        user = User(tenant, self._ids.new("u"), name, roles, scopes)
        self._names.put(NODE, name, _index(user), if_version=self._free(name))
        self._save(user, hashed)
        self._record("identity.user.created", {"tenant": tenant, "sub": user.subject, "roles": list(roles)})
        return user

    def create_linked(self, *, tenant: str, roles: tuple[str, ...] = (), scopes: tuple[str, ...] = ()) -> User:
        """Create a user without a password, for somebody who signs in elsewhere (`people.links`).

        The name is made from the random subject: it can neither be chosen nor meet an existing one.
        Raises Malformed("tenant_name").
        """
        if not is_tenant(tenant):
            raise Malformed("tenant_name")
        subject = self._ids.new("u")
        user = User(tenant, subject, f"linked-{subject.removeprefix('u_').lower()}", roles, scopes)
        self._names.put(NODE, user.name, _index(user), if_version=0)
        self._save(user, "")
        self._record("identity.user.created", {"tenant": tenant, "sub": user.subject, "roles": list(roles)})
        return user

    def exists_admin(self) -> bool:
        """Return whether anybody can administer this installation; a user of the demonstration cannot."""
        return any(records.decode(entry.value).get("admin") is True for entry in self._names.scan(NODE))

    def get(self, tenant: str, subject: str, *, lapsed: bool = False) -> User | None:
        """Return an enabled user by subject. lapsed: also one whose provider's word no longer holds."""
        found = self._load(tenant, subject)
        if found is None or found[0].disabled:
            return None
        until_s = found[0].vouched_until_s
        holds = not until_s or self._clock.now_us() < until_s * SECOND_US
        return found[0] if holds or lapsed else None

    def exists(self, tenant: str, subject: str) -> bool:
        """Return whether there is such an account, disabled or not."""
        return self._users.get(tenant, subject) is not None

    def name_of(self, tenant: str, subject: str) -> str:
        """Return the name of an account, disabled or not, after what its provider calls it; "" for none.

        Never the provider's word alone: a person may choose it, and choose somebody else's.
        """
        found = self._load(tenant, subject)
        if found is None:
            return ""
        return f"{found[0].label} ({found[0].name})" if found[0].label else found[0].name

    def has_password(self, tenant: str, subject: str) -> bool:
        """Return whether a person can sign in by password here, or at a provider alone."""
        found = self._load(tenant, subject)
        return found is not None and bool(found[1])

    async def verify(self, name: str, password: str) -> User | None:
        """Return the user whose password this is; an unknown name costs the same time."""
        found = self._find(name)
        ok = await self._passwords.verify(password, found[1] if found and not found[0].disabled else "")
        # Read again after the check, which takes its time: the password may be another's or an old one by now.
        now = self._find(name) if ok else None
        if found is None or now is None or now[0].disabled:
            return None
        return now[0] if (now[0].subject, now[1]) == (found[0].subject, found[1]) else None

    def named(self, name: str) -> User | None:
        """Return whose name this is, disabled or not: for records of what was refused, which proves nothing."""
        found = self._find(name)
        return found[0] if found else None

    async def set_password(self, tenant: str, subject: str, password: str) -> None:
        """Change the password; everything the user had given ends (AS-12). Raises Malformed("user_unknown"), Conflict."""
        self._passwords.check_choice(password)
        hashed = await self._passwords.hash(password)
        # Read after the hash, which takes its time: an account that was disabled meanwhile stays so.
        found = self._load(tenant, subject)
        if found is None:
            raise Malformed("user_unknown")
        # Nobody else's word is needed now. Nor is a row written for an account that was removed meanwhile.
        self._save(replace(found[0], vouched_until_s=0), hashed, if_version=found[2])
        self._end(tenant, subject, "password_changed")

    def update(
        self,
        tenant: str,
        subject: str,
        *,
        roles: tuple[str, ...],
        scopes: tuple[str, ...],
        disabled: bool = False,
    ) -> User:
        """Change what a user may do; everything the user had given ends, so that it counts at once.

        Raises Malformed("user_unknown"), Conflict (somebody else changed it at the same moment).
        """
        found = self._load(tenant, subject)
        if found is None:
            raise Malformed("user_unknown")
        user = replace(found[0], roles=roles, scopes=scopes, disabled=disabled)
        self._save(user, found[1], if_version=found[2])
        self._reindex(user)
        self._end(tenant, subject, "user_disabled" if disabled else "user_changed")
        return user

    def remove(self, tenant: str, subject: str) -> User:
        """Remove an account for good, with all that was given and kept; return what it was. Its name is free then.

        Whoever gets the name next is somebody else: a subject is random, and none is given twice. A crash in
        between leaves a disabled account that can be removed again, never a free name with something behind it.
        Raises Malformed("user_unknown"), Conflict (changed at the same moment).
        """
        found = self._load(tenant, subject)
        if found is None:
            raise Malformed("user_unknown")
        user = found[0]
        self._record("identity.user.removed", {"tenant": tenant, "sub": subject})
        going = replace(user, roles=(), scopes=(), disabled=True)
        self._save(going, "", if_version=found[2])
        self._reindex(going)
        self._end(tenant, subject, "user_removed")
        for call in self._removed:
            call(tenant, subject)
        version = self._reindex(going, gone=True)
        self._users.delete(tenant, subject)
        for _ in range(TRIES):
            if not version:
                break
            try:
                # Over at once: nothing else deletes a row only while it is this one.
                now_us = self._clock.now_us()
                self._names.put(NODE, user.name, _index(going, gone=True), expires_us=now_us, if_version=version)
                break
            except Conflict:
                # Somebody has the name already; or a change that was under way wrote the row of this account again.
                version = self._reindex(going, gone=True)
        return user

    def _free(self, name: str) -> int:
        """Return the version under which a name can be taken: 0, or that of an account that is gone."""
        entry = self._names.get(NODE, name)
        index = records.decode(entry.value) if entry else {}
        if entry is None or index.get("gone") is not True:
            return 0
        owner = (records.text(index, "tenant"), records.text(index, "sub"))
        return 0 if self._users.get(*owner) is not None else entry.version

    def _reindex(self, user: User, *, gone: bool = False) -> int:
        """Write what the list of names says of a user; return the row's version, 0 where the name is not this user's."""
        entry = self._names.get(NODE, user.name)
        if entry is None or records.text(records.decode(entry.value), "sub") != user.subject:
            return 0
        return self._names.put(NODE, user.name, _index(user, gone=gone), if_version=entry.version)

    def vouch(
        self,
        tenant: str,
        subject: str,
        *,
        label: str,
        until_s: int = 0,
        roles: tuple[str, ...] | None = None,
        scopes: tuple[str, ...] | None = None,
    ) -> User:
        """Note what a provider that a person signed in at said: how to call them, until when that holds, their rights.

        until_s: Unix seconds, 0 for ever; somebody with a password of their own here needs no provider's word
        and never lapses. roles, scopes: None leaves them. What is taken away ends everything the user had
        given; what is only added ends nothing. One write, which a change by somebody else meanwhile (an
        account being disabled) defeats. Raises Malformed("user_unknown"): gone or disabled; Conflict.
        """
        entry = self._users.get(tenant, subject)
        if entry is None:
            raise Malformed("user_unknown")
        value = records.decode(entry.value)
        old, hashed = _user(tenant, subject, value), records.text(value, "hash")
        if old.disabled:
            raise Malformed("user_unknown")
        user = replace(
            old,
            roles=old.roles if roles is None else roles,
            scopes=old.scopes if scopes is None else scopes,
            label=label[:LABEL_CHARS],
            vouched_until_s=0 if hashed else until_s,
        )
        if user != old:
            self._save(user, hashed, if_version=entry.version)
        if (user.roles, user.scopes) != (old.roles, old.scopes):
            self._reindex(user)
            if set(old.roles) <= set(user.roles) and set(old.scopes) <= set(user.scopes):
                self._record("identity.user.changed", {"tenant": tenant, "sub": subject, "reason": "user_widened"})
            else:
                self._end(tenant, subject, "user_changed")
        return user

    def end(self, tenant: str, subject: str, *, reason: str) -> None:
        """End everything a person has given and every session, and leave the account as it is (Shared Signals)."""
        self._end(tenant, subject, reason)

    def list(self, tenant: str) -> list[User]:
        """Return the users of a tenant."""
        return [_user(tenant, entry.key, records.decode(entry.value)) for entry in self._users.scan(tenant)]

    def _find(self, name: str) -> tuple[User, str] | None:
        try:
            entry = self._names.get(NODE, check_name(name))
        except Malformed:
            return None
        if entry is None:
            return None
        index = records.decode(entry.value)
        found = self._load(records.text(index, "tenant"), records.text(index, "sub"))
        return found[:2] if found else None

    def _load(self, tenant: str, subject: str) -> tuple[User, str, int] | None:
        entry = self._users.get(tenant, subject)
        if entry is None:
            return None
        value = records.decode(entry.value)
        return _user(tenant, subject, value), records.text(value, "hash"), entry.version

    def _save(self, user: User, hashed: str, *, if_version: int | None = None) -> None:
        value: JSONObject = {
            "name": user.name,
            "roles": list(user.roles),
            "scopes": list(user.scopes),
            "disabled": user.disabled,
            "label": user.label,
            "vouched_until_s": user.vouched_until_s,
            "hash": hashed,
            "changed_s": self._clock.now_us() // SECOND_US,
        }
        self._users.put(user.tenant, user.subject, records.encode(value), if_version=if_version)

    def _end(self, tenant: str, subject: str, reason: str) -> None:
        self._record("identity.user.changed", {"tenant": tenant, "sub": subject, "reason": reason})
        for call in self._ended:
            call(tenant, subject, reason)


def subjects_called(store: Store, name: str) -> frozenset[tuple[str, str]]:
    """Return the tenant and subject of everybody who goes by a name here, or is called so by their provider.

    Names are one person's; what providers call people (``label``) may be several people's. Reads every account that
    has a label: for the operator's tools.
    """
    users, found = store.collection("users"), set()
    for entry in store.collection("user_names").scan(NODE):
        value = records.decode(entry.value)
        who = (records.text(value, "tenant"), records.text(value, "sub"))
        kept = users.get(*who) if who[1] else None
        label = records.text(records.decode(kept.value), "label") if kept else ""
        if entry.key == name.strip().lower() or (label and label == name):
            found.add(who)
    return frozenset(found)


def check_name(name: str) -> str:
    """Return the stored spelling of a user name: lower case; raises Malformed("user_name")."""
    name = name.strip().lower()
    if not 0 < len(name) <= NAME_CHARS or not NAME_SET.issuperset(name):
        raise Malformed("user_name", fix="use letters, digits and . _ - + @, at most 64")
    return name


def _index(user: User, *, gone: bool = False) -> bytes:
    admin = ADMIN_ROLE in user.roles and not user.disabled
    index: JSONObject = {"tenant": user.tenant, "sub": user.subject, "admin": admin}
    return records.encode({**index, "gone": True} if gone else index)


def _user(tenant: str, subject: str, value: JSONObject) -> User:
    return User(
        tenant=tenant,
        subject=subject,
        name=records.text(value, "name"),
        roles=records.texts(value, "roles"),
        scopes=records.texts(value, "scopes"),
        disabled=value.get("disabled") is True,
        label=records.text(value, "label"),
        vouched_until_s=records.number(value, "vouched_until_s"),
    )
