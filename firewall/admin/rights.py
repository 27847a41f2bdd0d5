"""Who may do what in the admin room: one matrix. What is not in it, nobody may do.

Roles of people stand in a line, ``viewer < operator < approver``, with ``admin`` beside it: whoever makes
accounts does not thereby approve. ``owner`` is whoever runs the node, known by the kernel at the unix socket.
It has no face: any program of that user could be it, an agent as well, so it decides no second opinion
(DESIGN §6b-3).

``fresh``: a person must have proved who they are within `AdminSettings.fresh_s`; a script cannot. ``second``: may
be named under ``admin.four_eyes``, so that it needs another person's agreement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

Role = Literal["viewer", "operator", "approver", "admin", "owner"]

ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "approver", "admin", "owner")
GIVEN: Final[tuple[Role, ...]] = ("viewer", "operator", "approver", "admin")
# Roles that give power over what others may do: an administrator alone makes none (`desk`).
WEIGHTY: Final[frozenset[str]] = frozenset({"approver", "admin"})
TELLS: Final[dict[Role, str]] = {
    "viewer": "sees decisions, servers, pins, stops, budgets, requests for approval, people and their sessions",
    "operator": "and registers, approves and suspends, approves pins, pulls and releases stops",
    "approver": "and decides, as a second person, what waits for one",
    "admin": "does what an operator does, adds and disables people, gives roles, ends sessions",
    "owner": "runs the node: mints tokens, bearers and one-time codes, reaches every tenant, approves nothing",
}


@dataclass(frozen=True, slots=True)
class Right:
    """Who may do one thing, and under which conditions."""

    roles: frozenset[Role]
    fresh: bool = False
    second: bool = False


def _right(who: str, *conditions: str) -> Right:
    letters = dict(zip("vopaw", ROLES, strict=True))
    return Right(frozenset(letters[c] for c in who if c != "."), "fresh" in conditions, "second" in conditions)


# v viewer · o operator · p approver · a admin · w owner
MATRIX: Final[Mapping[str, Right]] = {
    # reading
    "status.read": _right("vopaw"),
    "decisions.read": _right("vopaw"),
    "budgets.read": _right("vopaw"),
    "registry.read": _right("vopaw"),
    "pins.read": _right("vopaw"),
    "kill.read": _right("vopaw"),
    "approvals.read": _right("vopaw"),
    "resources.read": _right(".opaw"),
    "doctor.run": _right(".opaw"),
    "people.read": _right("vopaw"),
    "users.read": _right("...aw"),
    "bearers.read": _right("vopaw"),
    # oneself
    "session.end": _right("vopa."),
    "session.confirm": _right("vopa."),
    "bearers.own": _right("vopa.", "fresh"),
    # running the house; a stop is pulled without delay, and released with care
    "registry.add": _right(".opaw"),
    "registry.move": _right(".opaw"),
    "registry.approve": _right(".opaw", "second"),
    "pins.approve": _right(".opaw", "fresh", "second"),
    "kill.pull": _right(".opaw"),
    "kill.lift": _right(".opaw", "fresh", "second"),
    # a second person's word; never the owner's, who is nobody in particular
    "approvals.withdraw": _right(".opaw"),
    "approvals.decide": _right("..p..", "fresh"),
    # people
    "clients.read": _right("...aw"),
    "clients.admin": _right("...aw", "fresh"),
    # Removing too: an account less can be a right more for others, such as the last approver's (`office._founding`).
    "users.admin": _right("...aw", "fresh", "second"),
    "users.disable": _right("...aw", "fresh"),
    "sessions.admin": _right("...aw", "fresh"),
    # the node
    "tokens.mint": _right("....w"),
    "signing.read": _right("...aw"),
    "signing.rotate": _right("....w"),
    "envelope.read": _right("...aw"),
    "envelope.rotate": _right("....w"),
    "bearers.mint": _right("....w"),
    "first_contact.open": _right("....w"),
}
SECOND: Final[tuple[str, ...]] = tuple(act for act, right in MATRIX.items() if right.second)


def allowed(act: str, roles: Iterable[str]) -> bool:
    """Return whether any of these roles may do it; an act that nobody wrote down is nobody's."""
    right = MATRIX.get(act)
    return right is not None and not right.roles.isdisjoint(roles)


def needs_fresh(act: str) -> bool:
    """Return whether the act needs a person who proved who they are a moment ago."""
    right = MATRIX.get(act)
    return right is None or right.fresh


def known(roles: Iterable[str]) -> tuple[Role, ...]:
    """Return the roles of this room that a person can have, in order; foreign ones count nothing."""
    given = set(roles)
    return tuple(role for role in GIVEN if role in given)
