"""Clients that an operator registers by command: durable, and found by every worker from the next request on.

    bartizan clients add|list|remove|rotate-secret

A secret is made here, shown once and kept as its SHA-256. Removing a client, or giving it another secret,
ends what was issued to it. What stands in the configuration file is not touched, and cannot be shadowed.
"""

from __future__ import annotations

import base64
import hashlib
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from firewall.core.errors import ConfigFault, Conflict, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.clients.registry import Client, from_settings
from firewall.identity.records import SECOND_US
from firewall.identity.settings import AuthMethod, ClientSettings, Record, TokenBytes, check_client
from firewall.identity.throttle import NODE
from firewall.wire import jwt

ID_CHARS = 128
DYNAMIC = "dcr_"
CLIENTS = 10_000
COLLECTION = "oauth_clients"
GRANTS = (
    "authorization_code",
    "refresh_token",
    "client_credentials",
    "urn:ietf:params:oauth:grant-type:device_code",
    "urn:ietf:params:oauth:grant-type:jwt-bearer",
    "urn:ietf:params:oauth:grant-type:token-exchange",
)
_ID_SET = frozenset(string.ascii_letters + string.digits + "-_.")
_METHODS: tuple[AuthMethod, ...] = ("none", "private_key_jwt", "client_secret_basic", "workload")


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered client as an operator sees it; secret: only in the answer to the command that made it."""

    settings: ClientSettings
    created_s: int
    secret: str = field(default="", repr=False)


class RegisteredClients:
    """Implements `clients.registry.ClientSource`. Ids are unique in the issuer, whoever's tenant a client is of."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        token_bytes: TokenBytes,
        record: Record,
        *,
        taken: Iterable[str],
        end: Callable[[str], None],
    ) -> None:
        """taken: ids of the configuration. end: ends what was issued to a client, in every worker."""
        self._clients = store.collection(COLLECTION)
        self._clock = clock
        self._token_bytes = token_bytes
        self._record = record
        self._taken = frozenset(taken)
        self._end = end

    def find(self, client_id: str) -> Client | None:
        """Return a client of an id."""
        known = self._read(client_id)
        return from_settings(known.settings) if known else None

    def list(self, tenant: str) -> list[Registered]:
        """Return the clients of a tenant, by id."""
        found = (_decoded(entry.key, entry.value) for entry in self._clients.scan(NODE))
        return [one for one in found if one.settings.tenant == tenant]

    def add(self, wanted: ClientSettings, *, by: str) -> Registered:
        """Register a client; one with ``client_secret_basic`` gets a secret.

        Raises Malformed: client_id, client_exists, client_settings, clients_full, jwks_invalid, redirect_….
        """
        client_id = wanted.client_id
        if not may_be_registered(client_id):
            raise Malformed("client_id", fix=f"use letters, digits, - _ and . (at most {ID_CHARS}), not {DYNAMIC}…")
        if client_id in self._taken:
            raise Malformed("client_exists", "it stands in the configuration file")
        secret = self._secret() if wanted.auth_method == "client_secret_basic" else ""
        made = Registered(replace(wanted, secret_sha256=_digest(secret)), self._clock.now_us() // SECOND_US, secret)
        _check(made.settings)
        if sum(1 for _ in self._clients.scan(NODE)) >= CLIENTS:
            raise Malformed("clients_full", fix="remove clients that nobody uses")
        try:
            self._clients.put(NODE, client_id, _encoded(made), if_version=0)
        except Conflict:
            raise Malformed("client_exists") from None
        self._told("identity.client.added", made, by)
        return made

    def remove(self, tenant: str, client_id: str, *, by: str) -> bool:
        """Remove a client and end what it holds; return whether it was there."""
        known = self._read(client_id)
        if known is None or known.settings.tenant != tenant or not self._clients.delete(NODE, client_id):
            return False
        self._end(client_id)
        self._told("identity.client.removed", known, by)
        return True

    def rotate_secret(self, tenant: str, client_id: str, *, by: str) -> Registered:
        """Give a client another secret and end what was issued to it; the old secret is worth nothing at once.

        Raises Malformed: client_unknown, client_settings (it has none), state_conflict.
        """
        entry = self._clients.get(NODE, client_id) if client_id else None
        known = _decoded(client_id, entry.value) if entry else None
        if entry is None or known is None or known.settings.tenant != tenant:
            raise Malformed("client_unknown", fix="see `bartizan clients list`")
        if known.settings.auth_method != "client_secret_basic":
            raise Malformed("client_settings", fix="this client has no secret: it has keys, or is a public one")
        secret = self._secret()
        made = replace(known, settings=replace(known.settings, secret_sha256=_digest(secret)), secret=secret)
        self._clients.put(NODE, client_id, _encoded(made), if_version=entry.version)
        self._end(client_id)
        self._told("identity.client.secret_rotated", made, by)
        return made

    def _read(self, client_id: str) -> Registered | None:
        if not 0 < len(client_id) <= ID_CHARS or not _ID_SET.issuperset(client_id):
            return None
        entry = self._clients.get(NODE, client_id)
        return _decoded(client_id, entry.value) if entry else None

    def _secret(self) -> str:
        return "bzs_" + base64.urlsafe_b64encode(self._token_bytes(32)).rstrip(b"=").decode()

    def _told(self, event: str, made: Registered, by: str) -> None:
        client = made.settings
        self._record(
            event, {"tenant": client.tenant, "client_id": client.client_id, "method": client.auth_method, "by": by}
        )


def may_be_registered(client_id: str) -> bool:
    """Return whether an operator may register a client of this id; self-registered ones have a prefix of their own."""
    fits = 0 < len(client_id) <= ID_CHARS and _ID_SET.issuperset(client_id)
    return fits and not client_id.startswith(DYNAMIC)


def registered_tenant(store: Store, client_id: str) -> str | None:
    """Return the tenant of a client that was registered by command, None where there is none. For who only reads."""
    entry = store.collection(COLLECTION).get(NODE, client_id) if may_be_registered(client_id) else None
    return _decoded(client_id, entry.value).settings.tenant if entry else None


def _check(client: ClientSettings) -> None:
    if client.auth_method not in _METHODS or not set(client.grant_types) <= set(GRANTS):
        raise Malformed("client_settings", fix="choose a known method and grant types")
    if "authorization_code" in client.grant_types and not client.redirect_uris:
        raise Malformed("client_settings", fix="authorization_code needs a redirect URI")
    if client.jwks is not None:
        jwt.keys_of(client.jwks)
    try:
        check_client(client)
    except ConfigFault as fault:
        raise Malformed("client_settings", fault.code, fix=fault.fix) from None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest() if secret else ""


def _encoded(made: Registered) -> bytes:
    client = made.settings
    value: JSONObject = {
        "name": client.name,
        "redirect_uris": list(client.redirect_uris),
        "auth_method": client.auth_method,
        "grant_types": list(client.grant_types),
        "scopes": list(client.scopes),
        "tenant": client.tenant,
        "jwks": client.jwks,
        "jwks_uri": client.jwks_uri,
        "secret_sha256": client.secret_sha256,
        "created_s": made.created_s,
    }
    return records.encode(value)


def _decoded(client_id: str, data: bytes) -> Registered:
    value = records.decode(data)
    method: AuthMethod = next((m for m in _METHODS if m == value.get("auth_method")), "private_key_jwt")
    settings = ClientSettings(
        client_id=client_id,
        name=records.text(value, "name"),
        redirect_uris=records.texts(value, "redirect_uris"),
        auth_method=method,
        grant_types=records.texts(value, "grant_types"),
        scopes=records.texts(value, "scopes"),
        tenant=records.text(value, "tenant"),
        jwks=value.get("jwks"),
        jwks_uri=records.text(value, "jwks_uri"),
        secret_sha256=records.text(value, "secret_sha256"),
    )
    return Registered(settings, records.number(value, "created_s"))
