"""Who asks the admin room, and what they may do. An agent's principal never becomes a Caller."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from firewall.core.errors import BartizanError

Role = Literal["viewer", "operator", "admin", "owner"]

# What each may do contains what the one before may. ``owner`` is whoever runs the node: it has no
# name and password, it is the peer of the unix socket.
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin", "owner")
GIVEN: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")
TELLS: Final[dict[Role, str]] = {
    "viewer": "sees decisions, servers, pins, stops and budgets",
    "operator": "registers, approves and suspends, approves pins, pulls and releases stops",
    "admin": "adds and disables people",
    "owner": "mints tokens, bearers and one-time codes; reaches every tenant",
}


class Refused(BartizanError):
    """Not signed in (``sign_in``), not allowed (``role``), or a form of another page (``csrf``)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A person, a script with a bearer, or the node's owner.

    name: as records show it. csrf: the token that forms of this session carry; "" elsewhere.
    """

    name: str
    tenant: str
    role: Role
    via: Literal["session", "bearer", "socket"]
    csrf: str = ""

    def may(self, role: Role) -> bool:
        """Return whether this caller's role contains ``role``."""
        return ROLES.index(self.role) >= ROLES.index(role)


def highest(roles: Iterable[str]) -> Role | None:
    """Return the highest role of the admin room among a user's roles, None when there is none."""
    found = [role for role in GIVEN if role in set(roles)]
    return found[-1] if found else None
