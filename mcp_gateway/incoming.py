"""One HTTP request whose caller is known, and what its headers say before a body is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from firewall.core.errors import Malformed
from firewall.core.exchange import Exchange
from firewall.core.permit import FixedReply
from firewall.core.principal import Principal
from firewall.net import asgi
from mcp_gateway import headers as h
from mcp_gateway import reply
from mcp_gateway.endpoints import Endpoint
from mcp_gateway.out import Out
from mcp_gateway.versions import HANDSHAKE_VERSIONS

_JSON_TYPES: Final = frozenset({b"application/json", b"application/*", b"*/*"})
_STREAM_TYPES: Final = frozenset({b"text/event-stream", b"text/*", b"*/*"})


@dataclass(slots=True)
class Request:
    """One HTTP request whose caller is known. exchange, out: of a POST."""

    scope: asgi.Scope
    receive: asgi.Receive
    send: asgi.Send
    raw: list[tuple[bytes, bytes]]
    headers: Mapping[bytes, bytes]
    endpoint: Endpoint
    principal: Principal
    client_ip: str
    exchange: Exchange = field(init=False)
    out: Out = field(init=False)

    @property
    def session_id(self) -> bytes:
        """The id of the legacy session that it names. Raises Malformed: session_missing, header_mismatch."""
        token = h.collect(self.raw).get(h.SESSION, b"")
        if not token:
            raise Malformed("session_missing")
        return token

    @property
    def takes_stream(self) -> bool:
        """Whether its client can read an event stream."""
        return bool(_accepted(self.headers) & _STREAM_TYPES)

    @property
    def prefers_stream(self) -> bool:
        """Whether its client named the event stream before plain JSON."""
        accepted = self.headers.get(b"accept", b"").lower()
        return accepted.partition(b"text/event-stream")[2].find(b"application/json") >= 0


def check_media(headers: Mapping[bytes, bytes]) -> None:
    """Raise Malformed: not_acceptable, media_type. A wildcard accepts both forms of answer."""
    accepted = _accepted(headers)
    if not accepted & _JSON_TYPES or not accepted & _STREAM_TYPES:
        raise Malformed("not_acceptable")
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise Malformed("media_type")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Malformed("media_type")  # whoever unpacks it on the way would read another message


def _accepted(headers: Mapping[bytes, bytes]) -> set[bytes]:
    return {part.partition(b";")[0].strip().lower() for part in headers.get(b"accept", b"").split(b",")}


def says_legacy(raw: list[tuple[bytes, bytes]]) -> bool:
    """Return whether a GET or DELETE is of the era that has them: no revision named, or a legacy one."""
    try:
        told = h.collect(raw).get(h.VERSION, b"").decode("latin-1")
    except Malformed:
        return False
    return not told or told in HANDSHAKE_VERSIONS


def not_allowed(raw: list[tuple[bytes, bytes]]) -> FixedReply:
    """Return the 405 that names the methods of the request's era."""
    allow = reply.ALLOW_LEGACY if says_legacy(raw) else reply.ALLOW_MODERN
    return reply.failed("method_not_allowed", None, "", headers=(allow,))
