"""Web pages of other origins as clients: CORS for the origins that an operator named, each by itself (Fetch standard §3.2).

No origin is answered that is not named, and none is answered with ``*`` or with credentials: a page presents a
token, never a person's cookies. A page that runs in a browser may then read what its token opens, and the
challenges that say what is missing. The edge has refused every other Origin before (`net.edge`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from firewall.core.action import Headers
from firewall.core.permit import FixedReply
from firewall.net.asgi import App, Message, Receive, Scope, Send, write_fixed

METHODS: Final = frozenset({b"GET", b"POST", b"DELETE"})
# What MCP clients send (transports of both eras, RFC 9449, W3C Trace Context); `Mcp-Param-*` beside them.
ACCEPTED: Final = frozenset(
    b"accept authorization content-type dpop last-event-id mcp-method mcp-name mcp-protocol-version mcp-session-id "
    b"traceparent tracestate".split()
)
PARAMS: Final = b"mcp-param-"
EXPOSED: Final = b"dpop-nonce, mcp-protocol-version, mcp-session-id, retry-after, www-authenticate"
ASKED_BYTES: Final = 4096  # of Access-Control-Request-Headers
MAX_AGE_S: Final = 600
_TOKEN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")


class CrossOrigin:
    """ASGI wrapper: answers preflights of named origins and lets their pages read the answers."""

    def __init__(self, app: App, origins: Iterable[str]) -> None:
        """origins: as a browser writes them, ``https://inspector.example``."""
        self._app = app
        self._origins = frozenset(origin.encode("ascii") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with headers for the page where one of ours asks."""
        origin = _one(scope, b"origin")
        if origin not in self._origins:
            await self._app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and _one(scope, b"access-control-request-method"):
            await write_fixed(send, _preflight(scope, origin))
        else:
            await self._app(scope, receive, _Readable(send, origin))


class _Readable:
    """Send, with what lets one origin's page read the answer."""

    def __init__(self, send: Send, origin: bytes) -> None:
        self._send = send
        self._origin = origin

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [pair for pair in message.get("headers", ()) if not pair[0].lower().startswith(b"access-control-")]
            message = {**message, "headers": [*given, *_allowed(self._origin), _EXPOSES]}
        await self._send(message)


_EXPOSES: Final = (b"access-control-expose-headers", EXPOSED)


def _allowed(origin: bytes) -> Headers:
    # Not only for caches of ours: a shared one must not hand one page's permission to another page.
    return ((b"access-control-allow-origin", origin), (b"vary", b"Origin"))


def _preflight(scope: Scope, origin: bytes) -> FixedReply:
    """Return what the page may send; 403 without a permission for what no MCP client sends."""
    asked = _one(scope, b"access-control-request-headers")
    names = [name.strip(b" \t").lower() for name in asked.split(b",")] if asked else []
    known = len(asked) <= ASKED_BYTES and all(name in ACCEPTED or _is_param(name) for name in names)
    if _one(scope, b"access-control-request-method") not in METHODS or not known:
        return FixedReply(403, ((b"vary", b"Origin"),), b"")
    return FixedReply(
        204,
        (
            *_allowed(origin),
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-allow-headers", b", ".join(names) or b"authorization"),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
        ),
        b"",
    )


def _is_param(name: bytes) -> bool:
    return name.startswith(PARAMS) and len(name) > len(PARAMS) and _TOKEN.issuperset(name)


def _one(scope: Scope, name: bytes) -> bytes:
    """Return the value of a header that stands there once, b"" otherwise."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0] if len(found) == 1 else b""
