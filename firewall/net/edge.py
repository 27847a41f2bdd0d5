"""The edge of every listener: one Host that we serve, no foreign Origin, one spelling of a path.

Pure ASGI, before authentication and routing. Refusals are fixed words; nothing redirects
(a redirect built from a Host header is a gift, and clients drop credentials and bodies on it).
What ASGI no longer shows is judged by `net.protocol`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

import orjson

from firewall.core.action import Headers
from firewall.core.errors import FAULTS, ConfigFault, Fault, Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import FixedReply
from firewall.core.ports import Refusals
from firewall.net.asgi import App, Receive, Scope, Send, client_ip, write_fixed
from firewall.net.own_page import NO_ORIGIN, OWN
from firewall.wire.http import check_host, is_normal_path, parse_host

# Fields by which proxies tell who somebody is or where they come from. A caller can write them too, so
# nobody behind this edge ever sees them (RS-15); of a trusted proxy's, two are read here.
_DROPPED: Final = frozenset(
    {
        b"forwarded",
        b"x-real-ip",
        b"remote-user",
        b"x-remote-user",
        b"x-user",
        b"x-user-id",
        b"x-principal",
        b"txn-token",
        b"client-cert",
        b"client-cert-chain",
        b"x-client-cert",
        b"x-ssl-client-cert",
        b"mcp-user",
        b"mcp-user-id",
        b"mcp-subject",
        b"mcp-principal",
        b"mcp-identity",
        b"mcp-tenant",
    }
)
_DROPPED_PREFIXES: Final = (b"x-forwarded-", b"x-auth-")
# What is looked at in a request's head, and names that say nothing here; any other is looked at by its beginning.
_HOST, _ORIGIN, _AUTHORIZATION, _CONTENT_TYPE, _GONE, _PLAIN = range(6)
_NAMES: Final = {
    b"host": _HOST,
    b"origin": _ORIGIN,
    b"authorization": _AUTHORIZATION,
    b"content-type": _CONTENT_TYPE,
    **dict.fromkeys(_DROPPED, _GONE),
    **dict.fromkeys(
        (
            b"accept",
            b"accept-encoding",
            b"connection",
            b"content-length",
            b"dpop",
            b"mcp-method",
            b"mcp-name",
            b"mcp-protocol-version",
            b"mcp-session-id",
            b"traceparent",
            b"user-agent",
        ),
        _PLAIN,
    ),
}
_HOPS: Final = 32
_PASSED: Final = 256  # requests that are known to pass, of `_PASSED_BYTES` of host and path each at most
_PASSED_BYTES: Final = 256
EXPLAINED: Final = frozenset({"host_foreign", "origin_foreign", "http_desync"})
_FIELDS: Final = {"host_foreign": b"host", "origin_foreign": b"origin"}
# A token in the query would stand in logs and histories: refused, not merely ignored (RS-12).
_TOKEN_IN_QUERY: Final = b"access_token="
# A form is the other place of RFC 6750 (§2.2) that we read no token from. Nothing behind a token takes a form, so that
# one is refused by its media type: nobody reads a stranger's body to look for a token in it (RS-12).
_JSON: Final = b"application/json"
_FORM: Final = b"application/x-www-form-urlencoded"
TOKEN_ROOMS: Final = ("/mcp", "/a2a", "/v1", "/access", "/api")  # the last is the operators', on their listener


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """What one listener serves.

    hosts: allowed Host values, ``name`` (any port) or ``name:port``, lower case; IPv6 in brackets.
    origins: allowed Origin values, exactly as a browser writes them. No Origin is always allowed.
    open_to_all: beginnings of paths that any origin may read, because nothing there depends on a cookie.
    page_origins: further Origin values, of pages that are clients, at ``page_room`` and below it alone (`net.cors`).
    token_rooms: where everything wants a token, there and below it.
    trusted_proxies: addresses or networks whose X-Forwarded-For and -Proto count; nobody else's do.
    """

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    open_to_all: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    page_origins: frozenset[str] = frozenset()
    page_room: str = "/mcp"
    token_rooms: tuple[str, ...] = TOKEN_ROOMS
    methods: frozenset[str] = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def edge_words(fault: Fault, decision_id: str = "") -> bytes:
    """Return the body of a refusal: a JSON-RPC error without an id (MCP transports). decision_id: of its record, or ""."""
    error: JSONObject = {"code": fault.rpc_code, "message": fault.text}
    if decision_id:
        error["data"] = {"decision_id": decision_id}
    return orjson.dumps({"jsonrpc": "2.0", "id": None, "error": error})


def edge_reply(fault: Fault, extra: Headers = (), decision_id: str = "") -> FixedReply:
    """Return the edge's own words for a fault."""
    return FixedReply(fault.status, ((b"content-type", b"application/json"), *extra), edge_words(fault, decision_id))


class Edge:
    """ASGI wrapper. Passes on a scope whose client and scheme are true and that has no forwarding fields."""

    def __init__(self, app: App, settings: EdgeSettings, refusals: Refusals | None = None) -> None:
        """refusals: records what is refused for its host, origin or framing. Raises ConfigFault edge_host, edge_proxy."""
        self._app = app
        self._refusals = refusals
        self._names, self._exact = _hosts(settings.hosts)
        self._open = settings.open_to_all
        self._origins = frozenset(origin.encode() for origin in settings.origins)
        self._pages = frozenset(origin.encode() for origin in settings.page_origins)
        self._room = settings.page_room
        self._token_rooms = settings.token_rooms
        self._below_token_rooms = tuple(room + "/" for room in settings.token_rooms)
        self._methods = settings.methods
        self._allow = (b"allow", ", ".join(sorted(settings.methods)).encode())
        try:
            self._proxies = tuple(ipaddress.ip_network(text) for text in settings.trusted_proxies)
        except ValueError:
            raise ConfigFault(
                "edge_proxy", "a trusted proxy is no address or network", fix="write 10.0.0.5 or 10.0.0.0/24"
            ) from None
        self._seen: dict[bytes, bool] = {}
        self._passed: set[tuple[bytes, str, bytes]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on. Scopes other than http and lifespan are closed."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        code = self._check(scope)
        if code:
            extra = (self._allow,) if code == "method_not_allowed" else ()
            await write_fixed(send, edge_reply(FAULTS[code], extra, self._noted(code, scope)))
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> str:
        """Return the code of a refusal, or "" after making the scope true."""
        hosts: list[bytes] = []
        origins: list[bytes] = []
        dropped = form = False
        for name, value in scope["headers"]:
            kind = _NAMES.get(name)
            if kind == _PLAIN:
                continue
            if kind is None:
                dropped = dropped or name.startswith(_DROPPED_PREFIXES)
            elif kind == _HOST:
                hosts.append(value)
            elif kind == _ORIGIN:
                origins.append(value)
            elif kind == _AUTHORIZATION:
                if not value.isascii():
                    return "http_desync"
            elif kind == _CONTENT_TYPE:
                form = form or (value != _JSON and value.partition(b";")[0].strip().lower() == _FORM)
            else:
                dropped = True
        if len(hosts) != 1:
            return "http_desync"
        # Where nothing else of the head counts, what passed once passes: clients ask for the same again and again.
        asked = (hosts[0], scope["method"], scope["raw_path"])
        plain = not (origins or dropped or form or scope["query_string"])
        if plain and asked in self._passed:
            return ""
        if not self._serves(hosts[0]):
            return "host_foreign"
        if origins and (len(origins) > 1 or origins[0] not in self._origins):
            if len(origins) > 1 or not (
                scope["path"].startswith(self._open)
                or self._is_page(origins[0], scope)
                or self._is_own_form(origins[0], scope)
            ):
                return "origin_foreign"
        if scope["method"] not in self._methods:
            return "method_not_allowed"
        if not is_normal_path(scope["raw_path"]):
            return "path_unknown"
        query = scope["query_string"]
        if query and _TOKEN_IN_QUERY in (unquote_to_bytes(query) if b"%" in query else query):
            return "http_desync"
        if form and self._wants_token(scope["path"]):
            return "http_desync"
        if dropped:
            return self._forwarded(scope)
        if plain and len(asked[0]) + len(asked[2]) <= _PASSED_BYTES:
            if len(self._passed) >= _PASSED:
                self._passed.clear()
            self._passed.add(asked)
        return ""

    def _is_page(self, origin: bytes, scope: Scope) -> bool:
        """Return whether a page that is a client asks where clients ask."""
        path = scope["path"]
        return origin in self._pages and (path == self._room or path.startswith(self._room + "/"))

    def _is_own_form(self, origin: bytes, scope: Scope) -> bool:
        """Return whether this may be the form of a page of ours, whose origin browsers do not write (`net.own_page`)."""
        if origin != NO_ORIGIN or scope["method"] != "POST" or self._wants_token(scope["path"]):
            return False
        return [value for name, value in scope["headers"] if name == b"sec-fetch-site"] == [OWN]

    def _wants_token(self, path: str) -> bool:
        return path in self._token_rooms or path.startswith(self._below_token_rooms)

    def _noted(self, code: str, scope: Scope) -> str:
        """Return the id of a refusal's record. Wrong paths and methods say nothing about anybody, and have none."""
        if self._refusals is None or code not in EXPLAINED:
            return ""
        wanted = _FIELDS.get(code, b"")
        told = [value for name, value in scope["headers"] if name == wanted]
        facts: JSONObject = {"host": _name_in(told[0])} if len(told) == 1 else {}
        return self._refusals.note(code, client_ip(scope), facts)

    def _serves(self, host: bytes) -> bool:
        known = self._seen.get(host)
        if known is None:
            try:
                name, port = parse_host(host)
            except Malformed:
                return False
            known = name in self._names or (name, port) in self._exact
            if known and len(self._seen) < 64:  # spellings of one name by case and port
                self._seen[host] = known
        return known

    def _forwarded(self, scope: Scope) -> str:
        """Believe a trusted proxy, nobody else; drop the fields in either case."""
        headers = scope["headers"]
        client = scope.get("client")
        if client and self._trusts(client[0]):
            protos = [value for name, value in headers if name == b"x-forwarded-proto"]
            if len(protos) > 1 or (protos and protos[0] not in (b"http", b"https")):
                return "http_desync"
            if protos:
                scope["scheme"] = protos[0].decode()
            hops = b",".join(value for name, value in headers if name == b"x-forwarded-for").split(b",")
            if len(hops) > _HOPS:
                return "http_desync"
            # From the right: every proxy appends; the first address that is not ours is the client.
            for hop in reversed(hops):
                text = hop.strip(b" \t").decode("latin-1")
                if not text and len(hops) == 1:
                    break
                try:
                    ipaddress.ip_address(text)
                except ValueError:
                    return "http_desync"
                scope["client"] = (text, 0)
                if not self._trusts(text):
                    break
        scope["headers"] = [pair for pair in headers if not _is_dropped(pair[0])]
        return ""

    def _trusts(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in net for net in self._proxies if net.version == address.version)


def _name_in(value: bytes) -> str:
    """Return the host in a Host or Origin field, "" where none can be read: a name or address of checked form."""
    try:
        return parse_host(value.rpartition(b"://")[2])[0]
    except Malformed:
        return ""


def _is_dropped(name: bytes) -> bool:
    return name in _DROPPED or name.startswith(_DROPPED_PREFIXES)


def _hosts(hosts: frozenset[str]) -> tuple[frozenset[str], frozenset[tuple[str, int | None]]]:
    names: set[str] = set()
    exact: set[tuple[str, int | None]] = set()
    for text in hosts:
        try:
            name, port = parse_host(text.encode())
            check_host(f"[{name}]" if ":" in name else name)
        except (Malformed, UnicodeEncodeError):
            raise ConfigFault(
                "edge_host", "a served host is not a host name", fix="write example.com or example.com:8443"
            ) from None
        if port is None:
            names.add(name)
        else:
            exact.add((name, port))
    if not names and not exact:
        raise ConfigFault("edge_host", "no host is served", fix="name at least one host")
    return frozenset(names), frozenset(exact)
