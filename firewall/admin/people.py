"""A person proves who they are with name and password: at sign-in, anew for a dangerous act, or at the command line."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from firewall.admin.caller import Caller, Refused
from firewall.admin.parts import AdminParts
from firewall.admin.rights import known
from firewall.core.errors import Malformed
from firewall.identity.people.sign_in import ACCOUNT_TRIES, ACCOUNT_WINDOW_S
from firewall.identity.people.users import User
from firewall.identity.throttle import Throttle

AT_THE_SOCKET = "socket"  # in place of an address, when failures are counted


class Person(BaseModel):
    """What a person types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(max_length=64)
    password: str = Field(repr=False, max_length=1024)
    code: str = Field(default="", repr=False, max_length=16)


@dataclass(frozen=True, slots=True)
class Typed:
    """What a person typed to prove who they are. code: of a second factor, where one is enrolled."""

    name: str
    password: str = field(repr=False)
    code: str = field(default="", repr=False)


async def proved(parts: AdminParts, throttle: Throttle, typed: Typed, address: str, *, subject: str = "") -> User:
    """Return the person who typed this, if that person has a role here and may sign in by password.

    subject: whose account it must be, "" for anybody's. Failures delay further tries of this pair of name and
    address (AS-19). Raises Malformed: sign_in_busy, sign_in_failed (told alike, whatever was wrong).
    """
    identity = parts.identity
    name = typed.name[:64].strip().lower()
    allowed = throttle.allow("admin_sign_in", address, per_minute=parts.settings.sign_in_per_minute)
    if not allowed or throttle.wait_s(f"admin:{name}", address) > 0:
        raise Malformed("sign_in_busy")
    # Counted before it is looked at: of guesses that come at once, no more are looked at than one by one.
    throttle.failed(f"admin:{name}", address)
    user = await identity.users.verify(name, typed.password)
    ways = identity.sign_in.ways
    if user is not None and (
        not known(user.roles)
        or (subject and user.subject != subject)
        or (ways is not None and not ways.permitted("", user.tenant))
        or (identity.factors.enrolled(user) and not _second(parts, throttle, user, typed.code))
    ):
        user = None
    if user is None:
        parts.note("admin.sign_in.refused", address, {})
        raise Malformed("sign_in_failed")
    throttle.succeeded(f"admin:{name}", address)
    return user


def _second(parts: AdminParts, throttle: Throttle, user: User, code: str) -> bool:
    """Return whether the code fits, within the tries of the account from all addresses together."""
    account = f"second\0{user.tenant}\0{user.subject}"
    within = throttle.allow_within("second", account, limit=ACCOUNT_TRIES, window_s=ACCOUNT_WINDOW_S)
    return within and parts.identity.factors.verify(user, code)


async def known_person(parts: AdminParts, throttle: Throttle, person: Person) -> Caller:
    """Return the caller who typed this at the node's own command line, proved this moment. Raises Refused("sign_in")."""
    try:
        user = await proved(parts, throttle, Typed(person.name, person.password, person.code), AT_THE_SOCKET)
    except Malformed as error:
        raise Refused("sign_in", fix="name and password do not fit, or too many tries: wait a while") from error
    return Caller(user.name, user.tenant, known(user.roles), "session", user.subject, proved_us=parts.clock.now_us())
