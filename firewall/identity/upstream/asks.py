"""Askings: a person is sent to our own page to connect an account, by whatever program they use.

An asking names one person and one upstream, so that only the account that asked can follow its link
(mcp reference §5.6: consent is bound to the user that it was begun for). One lives per person,
program and upstream: who asks again and again makes no more of them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Ids, Store
from firewall.core.principal import Principal
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.identity.throttle import NODE

LIVES_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Ask:
    """Who was asked for what. scopes: beyond what the upstream's metadata names, () for none."""

    ask_id: str
    tenant: str
    subject: str
    upstream: str
    client_id: str
    scopes: tuple[str, ...] = ()


class Asks:
    """The askings of a node."""

    def __init__(self, store: Store, clock: Clock, ids: Ids) -> None:
        self._rows = store.collection("upstream_asks")
        self._clock = clock
        self._ids = ids

    def new_id(self) -> str:
        """Return a fresh id, of no asking that is kept."""
        return self._ids.new("e")

    def begin(self, principal: Principal, upstream: str, scopes: tuple[str, ...] = ()) -> Ask:
        """Return the living asking of a person and an upstream, or a new one; more scopes make a new one."""
        facts = "\0".join((upstream, principal.client_id, principal.subject))
        slot = hashlib.sha256(facts.encode("utf-8", "surrogatepass")).hexdigest()
        entry = self._rows.get(principal.tenant, slot)
        if entry is not None:
            known = self.find(entry.value.decode("ascii"))
            if known is not None and set(scopes) <= set(known.scopes):
                return known
        ask = Ask(self._ids.new("e"), principal.tenant, principal.subject, upstream, principal.client_id, scopes)
        value: JSONObject = {
            "tenant": ask.tenant,
            "subject": ask.subject,
            "upstream": upstream,
            "client_id": ask.client_id,
            "scopes": list(scopes),
        }
        expires_us = self._clock.now_us() + LIVES_S * SECOND_US
        self._rows.put(NODE, ask.ask_id, records.encode(value), expires_us=expires_us)
        self._rows.put(principal.tenant, slot, ask.ask_id.encode("ascii"), expires_us=expires_us)
        if entry is not None:
            self._rows.delete(NODE, entry.value.decode("ascii"))
        return ask

    def find(self, ask_id: str) -> Ask | None:
        """Return a living asking."""
        entry = self._rows.get(NODE, ask_id) if ask_id else None
        if entry is None:
            return None
        row = records.decode(entry.value)
        return Ask(
            ask_id,
            records.text(row, "tenant"),
            records.text(row, "subject"),
            records.text(row, "upstream"),
            records.text(row, "client_id"),
            records.texts(row, "scopes"),
        )
