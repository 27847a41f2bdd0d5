"""Who may ask, and what each promises to do. Frozen values, made from configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from firewall.config import Config
from firewall.config.front_door import AUTHZEN

# An audience of its own: a token for a server opens nothing here, and one for this opens nothing else.
PREFIX: Final = AUTHZEN.path
SCOPE: Final = AUTHZEN.scopes[0]


@dataclass(frozen=True, slots=True)
class Enforcer:
    """Another enforcer, known by its OAuth client id; its tenant is that of its tokens.

    obligations: types of duty that it registered for; a decision with any other is a no (DESIGN §6b-10).
    scopes: patterns of the scopes that it may vouch for (`wire.oauth.scope_allowed`). roles: what it may vouch
    for of people whom we do not know. strangers: whether it may ask about those at all. tenant: what it must be of, "" for
    any: ids are given out once in a node, and another tenant's operator may register one that the file names before ours does.
    """

    client_id: str
    obligations: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()
    roles: frozenset[str] = frozenset()
    strangers: bool = False
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class AuthZENSettings:
    """public_url: the bare origin, and the identifier of this decision point."""

    public_url: str
    enforcers: Mapping[str, Enforcer] = field(default_factory=dict)


def settings_of(config: Config) -> AuthZENSettings:
    """Return what configuration says."""
    enforcers = {
        client_id: Enforcer(
            client_id,
            frozenset(given.obligations),
            given.scopes,
            frozenset(given.roles),
            given.strangers,
            "" if "|" in client_id else config.tenant,  # an issuer's settings say whose its clients are
        )
        for client_id, given in config.authzen.enforcers.items()
    }
    return AuthZENSettings(config.public_url, enforcers)
