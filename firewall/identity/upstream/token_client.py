"""Our requests to other people's token and revocation endpoints, and what they answer.

A stored credential goes to the token endpoint of the issuer that gave it and nowhere else (CL-07): the
endpoint comes from metadata whose issuer was checked, which a caller of this file already holds. An
answer is one strict JSON object; its words never travel on, only registered error codes are read.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import quote, urlencode

from firewall.core.action import Headers
from firewall.core.bounds import KIB
from firewall.core.errors import BartizanError, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.identity import records
from firewall.identity.rfc9449.signer import DPoPSigner
from firewall.identity.upstream.discovery import Fetcher
from firewall.identity.upstream.metadata import ServerMetadata
from firewall.identity.upstream.our_client import ASSERTION_TYPE, ClientIdentity, OurClient
from firewall.identity.upstream.why import TOKEN
from firewall.net.address import Network
from firewall.net.dial import Fetched, Purpose
from firewall.wire import oauth, strict_json

ANSWER_BYTES: Final = 256 * KIB
TOKEN_CHARS: Final = 64 * KIB
TIMEOUT_S: Final = 10.0
MAX_S: Final = 24 * 3600
_VISIBLE: Final = frozenset(chr(c) for c in range(0x21, 0x7F))


Bound: TypeAlias = tuple[str, str]
"""(tenant, upstream): which of our keys tokens are bound to (RFC 9449)."""


@dataclass(frozen=True, slots=True)
class Road:
    """How a server is reached: the class of its address, and a PEM bundle instead of the system's roots."""

    network: Network
    ca_file: str = ""


class TokenRefused(BartizanError):
    """The server answered with an OAuth error; ``code`` is a registered one, or ``refused``."""


@dataclass(frozen=True, slots=True)
class TokenReply:
    """A usable answer. expires_in: seconds, at most a day; 0 where the server did not say."""

    access_token: str = field(repr=False)
    token_type: str
    expires_in: int
    scopes: tuple[str, ...]
    refresh_token: str = field(default="", repr=False)
    issued_token_type: str = ""


class TokenClient:
    """Asks token endpoints."""

    def __init__(self, fetcher: Fetcher, identity: ClientIdentity, signer: DPoPSigner) -> None:
        self._fetcher = fetcher
        self._identity = identity
        self._signer = signer

    async def ask(
        self,
        server: ServerMetadata,
        client: OurClient,
        form: Mapping[str, str],
        *,
        network: Network,
        ca_file: str = "",
        bound: Bound | None = None,
        assertion: bool = False,
    ) -> TokenReply:
        """Return the tokens for one grant. form: without client authentication; empty values are left out.

        bound: whose key the tokens are to be bound to; then, and only then, they may be DPoP tokens.
        assertion: what is asked for is none to be presented to a resource (``N_A``, RFC 8693 §2.2.1).
        Raises TokenRefused for an OAuth error, UpstreamFault for everything else that is no answer.
        """
        status, value = await self._post(server.token_endpoint, server, client, form, Road(network, ca_file), bound)
        if status != 200:
            told = records.text(value, "error")
            raise TokenRefused(told if told in TOKEN else "refused", f"status {status}")
        reply = _reply(value)
        wanted = ("n_a",) if assertion else ("bearer", "dpop") if bound else ("bearer",)
        if reply.token_type not in wanted:
            raise UpstreamFault("credentials", "a token of a type that was not asked for")
        return reply

    async def revoke(
        self, server: ServerMetadata, client: OurClient, token: str, hint: str, *, network: Network, ca_file: str = ""
    ) -> bool:
        """Revoke a token at its server (RFC 7009); return whether the server says that it did."""
        if not server.revocation_endpoint or not token:
            return False
        form = {"token": token, "token_type_hint": hint}
        try:
            status, _ = await self._post(server.revocation_endpoint, server, client, form, Road(network, ca_file), None)
        except BartizanError:
            return False
        return status == 200

    async def _post(
        self,
        url: str,
        server: ServerMetadata,
        client: OurClient,
        form: Mapping[str, str],
        road: Road,
        bound: Bound | None,
    ) -> tuple[int, JSONObject]:
        """Return status and body of one request, or of its repetition with the nonce that it was answered with."""
        fetched = await self._send(url, server, client, form, road, bound)
        if bound and self._signer.wants_retry(*bound, url, fetched.status, fetched.headers, fetched.body):
            fetched = await self._send(url, server, client, form, road, bound)
        if 300 <= fetched.status < 400:
            raise UpstreamFault("malformed", "the token endpoint answered with a redirect")
        if fetched.status >= 500 or fetched.status == 429:
            raise UpstreamFault("unreachable", "the token endpoint cannot answer now")
        try:
            value = strict_json.loads(fetched.body, max_depth=16) if fetched.body.strip() else {}
        except Malformed:
            value = {}
        return fetched.status, value if isinstance(value, dict) else {}

    async def _send(
        self,
        url: str,
        server: ServerMetadata,
        client: OurClient,
        form: Mapping[str, str],
        road: Road,
        bound: Bound | None,
    ) -> Fetched:
        # Beside Basic as well: the server of the MCP SDK (2.3) looks for it nowhere else.
        fields = {name: value for name, value in form.items() if value} | {"client_id": client.client_id}
        headers: Headers = ((b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json"))
        if client.method == "client_secret_basic":
            # A blank as %20: readers of forms and of addresses agree about it (RFC 6749 §2.3.1).
            pair = f"{quote(client.client_id, safe='')}:{quote(client.secret, safe='')}".encode()
            headers = (*headers, (b"authorization", b"Basic " + base64.b64encode(pair)))
        elif client.method == "client_secret_post":
            fields["client_secret"] = client.secret
        elif client.method == "private_key_jwt":
            fields["client_assertion_type"] = ASSERTION_TYPE
            fields["client_assertion"] = self._identity.assertion(client.client_id, server.issuer)
        if bound is not None:
            headers = (*headers, (b"dpop", self._signer.proof(*bound, method="POST", url=url).encode("ascii")))
        return await self._fetcher.fetch(
            Purpose.TOKEN,
            url,
            network=road.network,
            max_bytes=ANSWER_BYTES,
            timeout_s=TIMEOUT_S,
            headers=headers,
            body=urlencode(fields).encode("ascii"),
            ca_file=road.ca_file,
        )


def _reply(value: JSONObject) -> TokenReply:
    token, kind = records.text(value, "access_token"), records.text(value, "token_type")
    if not 0 < len(token) <= TOKEN_CHARS or not _VISIBLE.issuperset(token):
        raise UpstreamFault("malformed", "the token endpoint's answer has no usable token")
    told = value.get("expires_in", 0)
    if isinstance(told, str) and told.isascii() and told.isdigit() and len(told) < 10:
        told = int(told)  # some servers quote it
    if isinstance(told, bool) or not isinstance(told, (int, float)) or told < 0:
        raise UpstreamFault("malformed", "the token endpoint's answer names no usable life time")
    refresh = records.text(value, "refresh_token")
    if len(refresh) > TOKEN_CHARS:
        raise UpstreamFault("malformed", "the token endpoint's answer has no usable token")
    try:
        scopes = oauth.parse_scope(records.text(value, "scope").strip())
    except Malformed:
        scopes = ()
    return TokenReply(
        access_token=token,
        token_type=kind.lower(),
        expires_in=min(int(told), MAX_S),
        scopes=scopes,
        refresh_token=refresh,
        issued_token_type=records.text(value, "issued_token_type"),
    )
