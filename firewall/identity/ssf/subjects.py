"""Subjects of events → whom they mean here: accounts of ours, and what an issuer's own tokens call somebody.

Accounts are found by (issuer, identifier) links; by an address only where an operator said so. Formats that name
nobody of ours (``did``, ``uri``, ``phone_number``, ``jwt_id`` …) lead to nobody.

Source: RFC 9493 (subject identifiers), Shared Signals Framework 1.0 §3 (complex subjects).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from firewall.core.jsonvalue import JSONObject
from firewall.identity import standing
from firewall.identity.issuers.claims import NAME_CHARS
from firewall.identity.oidc.provider_sessions import ProviderSessions
from firewall.identity.people.links import Links
from firewall.identity.people.users import Users
from firewall.identity.ssf.settings import Transmitter

ALIASES: Final = 16
TEXT_CHARS: Final = 2048


@dataclass(slots=True)
class Meant:
    """Whom an event means. accounts: subjects of ours, disabled ones too. names: people and sessions as their issuer's
    own tokens call them (`identity.standing`), for tokens that we take as they are.
    """

    accounts: dict[str, None] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)


class Subjects:
    """Finds whom a subject identifier means."""

    def __init__(self, users: Users, links: Links, sessions: ProviderSessions) -> None:
        self._users = users
        self._links = links
        self._sessions = sessions

    def find(self, transmitter: Transmitter, subject: JSONObject) -> Meant:
        """Return whom it means; nobody for what we do not know."""
        meant = Meant()
        self._walk(transmitter, subject, meant)
        return meant

    def _walk(self, transmitter: Transmitter, subject: JSONObject, meant: Meant) -> None:
        match subject.get("format"):
            case "iss_sub":
                # One transmitter speaks for its own people: not for those of another issuer.
                if _text(subject, "iss") in _issuers(transmitter):
                    self._person(transmitter, _text(subject, "sub"), meant)
            case "opaque":
                # It may be a person's or a session's id (CAEP §3.1): only one of them is known.
                self._person(transmitter, _text(subject, "id"), meant)
                self._session(transmitter, _text(subject, "id"), meant)
            case "email":
                if transmitter.email:
                    self._address(transmitter, _text(subject, "email"), meant)
            case "aliases":
                inner = subject.get("identifiers")
                for one in inner[:ALIASES] if isinstance(inner, list) else ():
                    if isinstance(one, dict) and one.get("format") in ("iss_sub", "opaque", "email"):
                        self._walk(transmitter, one, meant)
            case "complex":
                person, session = subject.get("user"), subject.get("session")
                if isinstance(person, dict) and person.get("format") != "complex":
                    self._walk(transmitter, person, meant)
                if isinstance(session, dict) and session.get("format") == "opaque":
                    self._session(transmitter, _text(session, "id"), meant)

    def _person(self, transmitter: Transmitter, sub: str, meant: Meant) -> None:
        if not sub:
            return
        for issuer in _issuers(transmitter):
            if len(sub) <= NAME_CHARS:  # no token that we take says a longer one
                meant.names[standing.person(issuer, sub)] = None
            account = self._links.account(transmitter.tenant, issuer, sub)
            if account:
                meant.accounts[account] = None

    def _session(self, transmitter: Transmitter, sid: str, meant: Meant) -> None:
        """A session ends in the issuer's own tokens; here, all ends of whoever signed in with it."""
        if not sid:
            return
        for issuer in _issuers(transmitter):
            if len(sid) <= NAME_CHARS:
                meant.names[standing.session(sid, issuer)] = None
            account = self._sessions.account(transmitter.tenant, issuer, sid)
            if account:
                meant.accounts[account] = None

    def _address(self, transmitter: Transmitter, address: str, meant: Meant) -> None:
        for user in self._users.list(transmitter.tenant):
            if user.name and user.name == address.strip().lower():
                meant.accounts[user.subject] = None


def _issuers(transmitter: Transmitter) -> tuple[str, ...]:
    """Return the issuers whose people a transmitter speaks of."""
    return tuple(dict.fromkeys((transmitter.accounts or transmitter.issuer, transmitter.issuer)))


def _text(value: JSONObject, name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) and len(found) <= TEXT_CHARS else ""
