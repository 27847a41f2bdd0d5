"""Who asks the admin room, and what they may do. An agent's principal never becomes a Caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from firewall.admin.rights import ROLES, Role, allowed
from firewall.core.errors import BartizanError

Via = Literal["session", "bearer", "socket"]


class Refused(BartizanError):
    """Not signed in (``sign_in``), not allowed (``role``), not proved lately (``fresh``), another page's form (``csrf``).

    Of policy: ``admin_denied``. Of a second opinion: ``second_self`` (one's own request), ``second_script`` (no
    person), ``second_stale`` (policy wants more than was agreed to).
    """


@dataclass(frozen=True, slots=True)
class Caller:
    """A person, a script with a bearer, or the node's owner.

    name: as records show it. subject: whose account it is, "" where there is none. roles: as the account has them
    now. csrf: the token that forms of this session carry; "" elsewhere. proved_us: when this person last proved
    who they are, Unix microseconds; 0 for a script. second: who agreed, while something is done that two wanted.
    exchange: under which policy allowed what is being done, "" where nobody asked it. label: what an identity provider
    calls this person, for display alone.
    """

    name: str
    tenant: str
    roles: tuple[Role, ...]
    via: Via
    subject: str = ""
    csrf: str = ""
    proved_us: int = 0
    second: str = ""
    exchange: str = ""
    label: str = ""

    @property
    def called(self) -> str:
        """What pages call this person: the provider's word for them, or the name."""
        return self.label or self.name

    @property
    def role(self) -> Role:
        """The last of the caller's roles, as pages and records show it."""
        return max(self.roles, key=ROLES.index)

    @property
    def identity(self) -> str:
        """Who this is, whichever way they came: a person's account, or the owner, or one bearer.

        All peers of the socket are one owner: root and the node's user are not two people.
        """
        if self.subject:
            return f"user:{self.subject}"
        return "owner" if self.via == "socket" else self.name

    def may(self, act: str) -> bool:
        """Return whether one of the caller's roles allows an act of the matrix."""
        return allowed(act, self.roles)
