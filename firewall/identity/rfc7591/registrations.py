"""Clients that registered themselves: few, forgotten when unused, and never at the cost of one in use (AS-22).

A registration that nobody used within 24 h is gone; a use is a grant that a person gave and the client
redeemed, and keeps it for 90 days more. At the cap the one that was used least recently makes room, and
those that were never used go before all others: a flood displaces the flood.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Final

from firewall.core.errors import Conflict
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Entry, Ids, Store
from firewall.identity import records
from firewall.identity.clients.registered import DYNAMIC
from firewall.identity.clients.registry import Client
from firewall.identity.records import SECOND_US
from firewall.identity.rfc7591.metadata import Registration
from firewall.identity.settings import AuthMethod, Record, TokenBytes
from firewall.identity.throttle import NODE
from firewall.wire import canonical, oauth

UNUSED_S: Final = 24 * 3600
USED_S: Final = 90 * 24 * 3600
UNVERIFIED: Final = "an unverified program"
TOUCH_S: Final = 3600  # a use is noted again only after this long
_METHODS: Final[tuple[AuthMethod, ...]] = ("none", "private_key_jwt", "client_secret_basic")


class Registrations:
    """Implements `clients.registry.ClientSource` for ids that begin with ``dcr_``."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: Ids,
        token_bytes: TokenBytes,
        record: Record,
        *,
        cap: int,
        end: Callable[[str], None],
    ) -> None:
        """end: ends what was issued to a client, in every worker."""
        self._record = record
        self._end = end
        self._clients = store.collection("oauth_registrations")
        self._clock = clock
        self._ids = ids
        self._token_bytes = token_bytes
        self._cap = cap

    def add(self, made: Registration) -> tuple[str, str, int]:
        """Keep a registration; return (client id, secret or "", when in Unix seconds)."""
        self._make_room()
        client_id = self._ids.new(DYNAMIC.rstrip("_"))
        secret = ""
        if made.auth_method == "client_secret_basic":
            secret = "bzs_" + base64.urlsafe_b64encode(self._token_bytes(32)).rstrip(b"=").decode()
        now_us = self._clock.now_us()
        value: JSONObject = {
            "name": made.name,
            "redirect_uris": list(made.redirect_uris),
            "auth_method": made.auth_method,
            "grant_types": list(made.grant_types),
            "jwks": made.jwks,
            "jwks_uri": made.jwks_uri,
            "dpop": made.dpop,
            "secret_sha256": hashlib.sha256(secret.encode()).hexdigest() if secret else "",
            "made_us": now_us,
            "used_us": 0,
        }
        self._clients.put(NODE, client_id, records.encode(value), expires_us=now_us + UNUSED_S * SECOND_US)
        return client_id, secret, now_us // SECOND_US

    def find(self, client_id: str) -> Client | None:
        """Return the client of an id, None when there is none (any more)."""
        if not client_id.startswith(DYNAMIC) or not client_id.isascii() or len(client_id) > 64:
            return None
        entry = self._clients.get(NODE, client_id)
        return _client(entry) if entry else None

    def used(self, client_id: str) -> None:
        """Note that a person gave this client something: it is kept on."""
        if not client_id.startswith(DYNAMIC):
            return
        entry = self._clients.get(NODE, client_id)
        if entry is None:
            return
        value, now_us = records.decode(entry.value), self._clock.now_us()
        if now_us < records.number(value, "used_us") + TOUCH_S * SECOND_US:
            return
        try:
            self._clients.put(
                NODE,
                client_id,
                records.encode({**value, "used_us": now_us}),
                expires_us=now_us + USED_S * SECOND_US,
                if_version=entry.version,
            )
        except Conflict:
            pass  # another worker noted a use at the same moment

    def list(self) -> list[tuple[Client, int]]:
        """Return the clients, each with when it registered itself (Unix seconds)."""
        found = ((entry, records.number(records.decode(entry.value), "made_us")) for entry in self._clients.scan(NODE))
        return [(_client(entry), made_us // SECOND_US) for entry, made_us in found]

    def remove(self, client_id: str, *, by: str) -> bool:
        """Forget a client and end what it holds, whoever gave it; return whether it was there."""
        if self.find(client_id) is None or not self._clients.delete(NODE, client_id):
            return False
        self._end(client_id)
        self._record("identity.client.removed", {"client_id": client_id, "method": "registration", "by": by})
        return True

    def _make_room(self) -> None:
        entries = list(self._clients.scan(NODE))
        surplus = len(entries) + 1 - self._cap
        if surplus > 0:
            for entry in sorted(entries, key=_last_use)[:surplus]:
                self._clients.delete(NODE, entry.key)


def _last_use(entry: Entry) -> tuple[int, int]:
    value = records.decode(entry.value)
    return records.number(value, "used_us"), records.number(value, "made_us")


def _client(entry: Entry) -> Client:
    value = records.decode(entry.value)
    redirects = records.texts(value, "redirect_uris")
    hosts = {oauth.redirect_host(uri) for uri in redirects}
    known = len(hosts) == 1 and redirects[0].startswith("https://")
    method: AuthMethod = next((m for m in _METHODS if m == value.get("auth_method")), "private_key_jwt")
    return Client(
        client_id=entry.key,
        name=records.text(value, "name"),
        # Nobody vouches for its name. Where it leads to is all that is known of it, if it is one place.
        host=hosts.pop() if known else UNVERIFIED,
        redirect_uris=redirects,
        auth_method=method,
        grant_types=records.texts(value, "grant_types"),
        scopes=("*",),
        tenant="",
        jwks=value.get("jwks"),
        jwks_uri=records.text(value, "jwks_uri"),
        secret_sha256=records.text(value, "secret_sha256"),
        digest=canonical.digest([entry.key, records.text(value, "name"), list(redirects)]),
        first_party=False,
        claimed=True,
        dpop=value.get("dpop") is True,
    )
