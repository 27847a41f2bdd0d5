"""Pictures of clients: copies on our own origin, never a remote image (UI-04; draft -02, display of logos).

A remote image would tell its host who is looking at which consent page, and when. So the copy is fetched
by us, once a day, through the same guarded way as the document; it must be a PNG, JPEG or WebP by its bytes
and at most 64 KiB; only what draws it is kept; it is served under a random name, sandboxed. Where any of that
fails there is none.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from urllib.parse import urlsplit

from firewall.core.bounds import KIB
from firewall.core.errors import BartizanError
from firewall.core.permit import FixedReply
from firewall.core.ports import Clock, Store
from firewall.identity import records
from firewall.identity.cimd.documents import DocumentFetcher
from firewall.identity.cimd.images import parse_picture
from firewall.identity.cimd.trust import HostTrust, is_of_host
from firewall.identity.clients.registry import Client
from firewall.identity.records import SECOND_US
from firewall.identity.settings import TokenBytes
from firewall.identity.throttle import NODE
from firewall.identity.web import NOSNIFF, WebRequest, error_reply
from firewall.net.dial import Purpose

PATH = "/client-logo/"
LOGO_BYTES = 64 * KIB
LOGOS = 500
KEPT_S = 24 * 3600
FETCH_S = 2.0
FAILED_S = 300
_ACCEPT = ((b"accept", b"image/png, image/jpeg, image/webp"),)


class Logos:
    """Copies, shared by all workers through the store: ``uri/<digest>`` → name, ``copy/<name>`` → picture."""

    def __init__(
        self, store: Store, fetcher: DocumentFetcher, trust: HostTrust, clock: Clock, token_bytes: TokenBytes
    ) -> None:
        self._copies = store.collection("client_logos")
        self._fetcher = fetcher
        self._trust = trust
        self._clock = clock
        self._token_bytes = token_bytes
        self._turn = asyncio.Semaphore(2)

    async def path_for(self, client: Client) -> str:
        """Return the path of the client's picture on our origin, "" when it has none that may be shown.

        Only a client that describes itself has one, and only at its own host, below it, or at a listed host.
        Takes at most 2 s; never raises.
        """
        host = urlsplit(client.logo_uri).hostname or ""
        owner = urlsplit(client.client_id).hostname or "" if client.host else ""
        if not host or not owner or not (is_of_host(host, owner) or self._trust.lists(host)):
            return ""
        try:
            known = self._copies.get(NODE, _key(client.logo_uri))
            name = known.value.decode() if known else await self._copied(client.logo_uri)
        except BartizanError:
            return ""
        return PATH + name if name else ""

    async def serve(self, request: WebRequest) -> FixedReply:
        """Answer ``GET /client-logo/<name>``."""
        name = request.path.removeprefix(PATH)
        entry = self._copies.get(NODE, f"copy/{name}") if 0 < len(name) <= 64 and name.isalnum() else None
        if entry is None:
            return error_reply("not_found", 404)
        value = records.decode(entry.value)
        headers = (
            (b"content-type", records.text(value, "type").encode()),
            (b"content-security-policy", b"default-src 'none'; sandbox"),
            (b"content-disposition", b"attachment"),  # for whoever opens it by itself; a page shows it all the same
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cache-control", b"private, max-age=3600"),
            NOSNIFF,
        )
        return FixedReply(200, headers, base64.b64decode(records.text(value, "data")))

    async def _copied(self, uri: str) -> str:
        """Fetch a picture and return the random name of its copy; "" is remembered for five minutes."""
        now_us = self._clock.now_us()
        name, kept_s = "", FAILED_S
        picture = parse_picture(await self._fetched(uri))
        if picture is not None:
            name, kept_s = self._token_bytes(16).hex(), KEPT_S
            self._make_room()
            # The copy outlives its name in the index: a page that was rendered just before still shows it.
            value = records.encode({"type": picture.kind, "data": base64.b64encode(picture.data).decode()})
            self._copies.put(NODE, f"copy/{name}", value, expires_us=now_us + (kept_s + 3600) * SECOND_US)
        self._copies.put(NODE, _key(uri), name.encode(), expires_us=now_us + kept_s * SECOND_US)
        return name

    async def _fetched(self, uri: str) -> bytes:
        try:
            async with asyncio.timeout(FETCH_S), self._turn:
                fetched = await self._fetcher.fetch(
                    Purpose.LOGO, uri, max_bytes=LOGO_BYTES, timeout_s=FETCH_S, headers=_ACCEPT
                )
        except (BartizanError, TimeoutError):
            return b""
        return fetched.body if fetched.status == 200 else b""

    def _make_room(self) -> None:
        """Keep the table bounded: the copies that end first go first."""
        copies = sorted(self._copies.scan(NODE, "copy/"), key=lambda entry: entry.expires_us)
        for entry in copies[: max(0, len(copies) + 1 - LOGOS)]:
            self._copies.delete(NODE, entry.key)


def _key(uri: str) -> str:
    return f"uri/{hashlib.sha256(uri.encode()).hexdigest()}"
