"""Which client we are at an authorization server: registered beforehand, by document, or dynamically.

The order is fixed: a registration that an operator made, our metadata document where the server takes
documents and can reach ours, dynamic registration once and kept. A server that offers none of these is
told to the operator by the name of the setting that cures it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Final

from firewall.core.errors import Conflict, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.records import SECOND_US
from firewall.identity.throttle import NODE
from firewall.identity.upstream.discovery import FETCH_S, Fetcher
from firewall.identity.upstream.metadata import ServerMetadata
from firewall.identity.upstream.our_client import ClientIdentity, OurClient
from firewall.identity.upstream.secrets import read_secret
from firewall.identity.upstream.settings import Method, Secret, UpstreamAuth
from firewall.net.dial import Purpose
from firewall.state.envelope import Envelopes
from firewall.wire import strict_json

ANSWER_BYTES: Final = 64 * 1024
_METHODS: Final[tuple[Method, ...]] = ("client_secret_basic", "client_secret_post", "none", "private_key_jwt")


class Registrations:
    """Chooses and keeps our clients. One per worker; registrations are the node's."""

    def __init__(
        self,
        identity: ClientIdentity,
        fetcher: Fetcher,
        store: Store,
        envelopes: Envelopes,
        clock: Clock,
        environment: Mapping[str, str],
    ) -> None:
        self._identity = identity
        self._fetcher = fetcher
        self._rows = store.collection("upstream_clients")
        self._envelopes = envelopes
        self._clock = clock
        self._environment = environment
        self._locks: dict[str, asyncio.Lock] = {}

    async def client(self, upstream: str, auth: UpstreamAuth, server: ServerMetadata) -> OurClient:
        """Return our client at an upstream's authorization server. Raises UpstreamFault("credentials")."""
        known = self.known(upstream, auth, server)
        if known is not None:
            return known
        if server.registration_endpoint:
            async with self._locks.setdefault(_slot(upstream, server), asyncio.Lock()):
                return self._kept(upstream, server) or await self._register(upstream, auth, server)
        why = f"{upstream}: its authorization server takes neither our client document nor registrations"
        raise UpstreamFault(
            "credentials", why, fix=f"register a client there by hand and set auth.client_id of {upstream}"
        )

    def known(self, upstream: str, auth: UpstreamAuth, server: ServerMetadata) -> OurClient | None:
        """Return our client where nothing needs to be asked for it."""
        if auth.client_id:
            public = not {"exchange", "id_jag", "client"} & set(auth.ways)
            return self.registered(auth.client_id, auth.secret, auth.method, server, public=public)
        if server.takes_documents and self._identity.reachable:
            signed = "private_key_jwt" in server.methods
            url = self._identity.document_url(auth.group, signed=signed)
            return OurClient(url, "private_key_jwt" if signed else "none")
        return self._kept(upstream, server)

    def registered(
        self, client_id: str, secret: Secret, method: Method, server: ServerMetadata, *, public: bool = False
    ) -> OurClient:
        """Return a client that was registered beforehand, with the way it authenticates at the token endpoint.

        method: what an operator wrote down always wins; where it is "", by ``token_endpoint_auth_methods_supported``
        (RFC 8414 §2; absent means client_secret_basic alone):

        - with a secret: client_secret_basic, or client_secret_post where the server takes that one alone;
        - without one, for signing people in (public): ``none``. Our keys are no part of a registration that somebody
          made by hand, unless they put them there. A server that takes private_key_jwt and no ``none`` has no public
          clients, so there the registration is by our keys;
        - without one, for tokens of our own or by exchange (not public): private_key_jwt where the server takes it,
          since a client without authentication may not have these (RFC 6749 §4.4; RFC 8693 §2.1), else ``none``.

        Raises UpstreamFault("credentials").
        """
        if not secret:
            signs = "private_key_jwt" in server.methods and not (public and "none" in server.methods)
            return OurClient(client_id, method or ("private_key_jwt" if signs else "none"))
        text = read_secret(secret, self._environment)
        post = "client_secret_basic" not in server.methods and "client_secret_post" in server.methods
        return OurClient(client_id, method or ("client_secret_post" if post else "client_secret_basic"), text)

    def forget(self, upstream: str, server: ServerMetadata) -> None:
        """Drop a dynamic registration that its server no longer knows."""
        self._rows.delete(NODE, _slot(upstream, server))

    def _kept(self, upstream: str, server: ServerMetadata) -> OurClient | None:
        slot = _slot(upstream, server)
        entry = self._rows.get(NODE, slot)
        if entry is None:
            return None
        row = self._envelopes.open(NODE, f"upstream_clients/{slot}", entry.value)
        if not isinstance(row, dict):
            return None
        return OurClient(
            records.text(row, "client_id"), _method(records.text(row, "method")), records.text(row, "secret")
        )

    async def _register(self, upstream: str, auth: UpstreamAuth, server: ServerMetadata) -> OurClient:
        """Register (RFC 7591 §3). What the server answers about itself counts, not what we asked for."""
        method = _preferred(server.methods)
        fetched = await self._fetcher.fetch(
            Purpose.TOKEN,
            server.registration_endpoint,
            network=auth.network,
            max_bytes=ANSWER_BYTES,
            timeout_s=FETCH_S,
            headers=((b"content-type", b"application/json"), (b"accept", b"application/json")),
            body=strict_json.dumps(self._asked(upstream, auth, method)),
            ca_file=auth.ca_file,
        )
        refused = UpstreamFault(
            "credentials",
            f"{upstream}: its authorization server refused to register us",
            fix=f"register a client there by hand and set auth.client_id of {upstream}",
        )
        if fetched.status not in (200, 201):
            raise refused
        try:
            told = strict_json.loads(fetched.body, max_depth=16)
        except Malformed:
            raise refused from None
        if not isinstance(told, dict) or not 0 < len(records.text(told, "client_id")) <= 2048:
            raise refused
        secret = records.text(told, "client_secret")
        given = (
            _method(records.text(told, "token_endpoint_auth_method"))
            if "token_endpoint_auth_method" in told
            else method
        )
        if given.startswith("client_secret") and not secret:
            raise refused
        client = OurClient(records.text(told, "client_id"), given, secret)
        ends_s = records.number(told, "client_secret_expires_at")
        slot = _slot(upstream, server)
        row: JSONObject = {"client_id": client.client_id, "method": client.method, "secret": client.secret}
        data = self._envelopes.seal(NODE, f"upstream_clients/{slot}", row)
        try:
            self._rows.put(NODE, slot, data, expires_us=ends_s * SECOND_US, if_version=0)
        except Conflict:  # another worker registered meanwhile: one client for all
            return self._kept(upstream, server) or client
        return client

    def _asked(self, upstream: str, auth: UpstreamAuth, method: Method) -> JSONObject:
        asked = self._identity.registration(upstream, method)
        if auth.scopes:
            asked["scope"] = " ".join(auth.scopes)
        return asked


def _preferred(offered: tuple[str, ...]) -> Method:
    """Return how to authenticate after a registration: by a secret of the server's making where it takes one.

    Of the two ways to send one the server's own first: not every endpoint of every server reads the other.
    """
    known = [method for text in offered for method in _METHODS if method == text]
    secret = [method for method in known if method.startswith("client_secret")]
    return next(iter((*secret, *(m for m in known if m == "none"), *known)), "client_secret_basic")


def _method(text: str) -> Method:
    for method in _METHODS:
        if text == method:
            return method
    raise UpstreamFault("credentials", "its authorization server wants a way of authentication that we do not know")


def _slot(upstream: str, server: ServerMetadata) -> str:
    return hashlib.sha256(f"{server.issuer}\0{upstream}".encode()).hexdigest()
