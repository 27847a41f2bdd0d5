"""One HTTP request whose caller is known, and what its headers say before a body is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

_JSON: Final = b"application/json"
_STREAM: Final = b"text/event-stream"
_JSON_TYPES: Final = frozenset({_JSON, b"application/*", b"*/*"})
_STREAM_TYPES: Final = frozenset({_STREAM, b"text/*", b"*/*"})
_USUAL: Final = b"application/json, text/event-stream"  # MCP transports: what clients send; every other value is read


@dataclass(slots=True)
class Request:
    """One HTTP request whose caller is known. exchange, out: of a POST. headers, routing: as `split` returns them."""

    scope: asgi.Scope
    receive: asgi.Receive
    send: asgi.Send
    headers: Mapping[bytes, bytes]
    routing: Mapping[bytes, bytes] | None
    endpoint: Endpoint
    principal: Principal
    client_ip: str
    exchange: Exchange = field(init=False)
    out: Out = field(init=False)

    @property
    def session_id(self) -> bytes:
        """The id of the legacy session that it names. Raises Malformed: session_missing, header_mismatch."""
        if self.routing is None:
            raise Malformed("header_mismatch")
        token = self.routing.get(h.SESSION, b"")
        if not token:
            raise Malformed("session_missing")
        return token

    @property
    def takes_stream(self) -> bool:
        """Whether its client can read an event stream."""
        return not _accepted(self.headers.get(b"accept", b"")).isdisjoint(_STREAM_TYPES)

    @property
    def prefers_stream(self) -> bool:
        """Whether its client named the event stream before plain JSON."""
        accepted = self.headers.get(b"accept", b"")
        return accepted != _USUAL and accepted.lower().partition(_STREAM)[2].find(_JSON) >= 0


def check_media(headers: Mapping[bytes, bytes]) -> None:
    """Raise Malformed: not_acceptable, media_type. A wildcard accepts both forms of answer."""
    told = headers.get(b"accept", b"")
    if told != _USUAL:
        accepted = _accepted(told)
        if accepted.isdisjoint(_JSON_TYPES) or accepted.isdisjoint(_STREAM_TYPES):
            raise Malformed("not_acceptable")
    kind = headers.get(b"content-type", b"")
    if kind != _JSON and kind.partition(b";")[0].strip().lower() != _JSON:
        raise Malformed("media_type")
    if b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
        raise Malformed("media_type")  # whoever unpacks it on the way would read another message


def split(raw: Sequence[tuple[bytes, bytes]]) -> tuple[Mapping[bytes, bytes], Mapping[bytes, bytes] | None]:
    """Return a request's header fields without those of MCP (`asgi.header_map`), and the ``mcp-*`` fields apart.

    raw: names in lower case (ASGI). The second is None where one of MCP's is repeated: a first-copy and a
    last-copy reader would route differently. Raises Malformed("http_desync").
    """
    plain: dict[bytes, bytes] = {}
    routing: dict[bytes, bytes] = {}
    prefix = h.PREFIX
    for name, value in raw:
        (routing if name[:4] == prefix else plain)[name] = value.strip(b" \t")
    if len(plain) + len(routing) == len(raw):
        return plain, routing
    ours = [pair for pair in raw if pair[0][:4] == h.PREFIX]
    others = [pair for pair in raw if pair[0][:4] != h.PREFIX]
    return asgi.header_map({"headers": others}), routing if len(routing) == len(ours) else None


def _accepted(told: bytes) -> set[bytes]:
    return {part.partition(b";")[0].strip().lower() for part in told.split(b",")}


def says_legacy(routing: Mapping[bytes, bytes] | None) -> bool:
    """Return whether a GET or DELETE is of the era that has them: no revision named, or a legacy one."""
    if routing is None:
        return False
    told = routing.get(h.VERSION, b"").decode("latin-1")
    return not told or told in HANDSHAKE_VERSIONS


def not_allowed(routing: Mapping[bytes, bytes] | None) -> FixedReply:
    """Return the 405 that names the methods of the request's era."""
    allow = reply.ALLOW_LEGACY if says_legacy(routing) else reply.ALLOW_MODERN
    return reply.failed("method_not_allowed", None, "", headers=(allow,))
