"""Subjects of events → accounts of ours, by (issuer, identifier) links; an address only where an operator said so.

Source: RFC 9493 (subject identifiers), Shared Signals Framework 1.0 §3 (complex subjects). Formats that name no
account of ours (``did``, ``uri``, ``phone_number``, ``jwt_id`` …) lead to nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from firewall.core.jsonvalue import JSONObject
from firewall.identity.people.links import Links
from firewall.identity.people.users import Users
from firewall.identity.ssf.settings import Transmitter

ALIASES: Final = 16
TEXT_CHARS: Final = 2048


class Subjects:
    """Finds whose account a subject identifier names."""

    def __init__(self, users: Users, links: Links) -> None:
        self._users = users
        self._links = links

    def find(self, transmitter: Transmitter, subject: JSONObject) -> list[str]:
        """Return subjects of ours, disabled accounts too; [] for nobody whom we know."""
        return list(dict.fromkeys(self._walk(transmitter, subject)))

    def _walk(self, transmitter: Transmitter, subject: JSONObject) -> Iterator[str]:
        match subject.get("format"):
            case "iss_sub":
                issuer, sub = _text(subject, "iss"), _text(subject, "sub")
                # One transmitter speaks for its own people: not for those of another issuer.
                if issuer in (transmitter.issuer, transmitter.accounts) and sub:
                    yield from self._linked(transmitter, sub)
            case "opaque":
                if sub := _text(subject, "id"):
                    yield from self._linked(transmitter, sub)
            case "email":
                if transmitter.email and (address := _text(subject, "email")):
                    yield from self._named(transmitter, address)
            case "aliases":
                inner = subject.get("identifiers")
                for one in inner[:ALIASES] if isinstance(inner, list) else ():
                    if isinstance(one, dict) and one.get("format") in ("iss_sub", "opaque", "email"):
                        yield from self._walk(transmitter, one)
            case "complex":
                # A session or a device alone names nobody; with its person it ends what that person has.
                person = subject.get("user")
                if isinstance(person, dict) and person.get("format") != "complex":
                    yield from self._walk(transmitter, person)
            case _:
                return

    def _linked(self, transmitter: Transmitter, sub: str) -> Iterator[str]:
        for issuer in dict.fromkeys((transmitter.accounts or transmitter.issuer, transmitter.issuer)):
            user = self._links.account(transmitter.tenant, issuer, sub)
            if user:
                yield user

    def _named(self, transmitter: Transmitter, address: str) -> Iterator[str]:
        for user in self._users.list(transmitter.tenant):
            if user.name and user.name == address.strip().lower():
                yield user.subject


def _text(value: JSONObject, name: str) -> str:
    found = value.get(name)
    return found if isinstance(found, str) and len(found) <= TEXT_CHARS else ""
