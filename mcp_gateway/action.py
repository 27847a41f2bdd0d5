"""MCP messages as Actions, and the facts that policy reads about a tool or a server. Pure.

A Resource is made once per inventory entry and state and kept, so that its encoding is paid once.
Facts come from configuration, inventory, pins and registry; of what a server claims about its tools
only what makes us stricter counts (mcp reference §5.9).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from firewall.core.action import Action, Headers, Protocol, Resource, no_headers
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.core.principal import Principal
from mcp_gateway import headers as h
from mcp_gateway.kinds import BY_METHOD, KINDS
from mcp_gateway.message import NAMED
from mcp_gateway.versions import MODERN, era_of

READ: Final = "read"
EFFECT_CLASSES: Final = frozenset({"read", "write", "destroy", "send", "pay", "exec", "admin"})
_JSON: Final = (b"content-type", b"application/json")
_ACCEPT: Final = (b"accept", b"application/json, text/event-stream")
_BOTH: Final = (("result", "content"), ("result", "structuredContent"))  # they say the same: changed together or not
_PROTOCOLS: dict[tuple[str, str], Protocol] = {}


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What configuration says of an upstream.

    effects: tool name → effect class; a tool that is not named is ``write``. asks: what it may ask clients.
    """

    name: str
    trust: str = "untrusted"
    network: str = "public"
    tenants: tuple[str, ...] = ()
    effects: Mapping[str, str] | None = None
    asks: tuple[str, ...] = ()


def effect_class(facts: ServerFacts, name: str, annotations: JSON) -> str:
    """Return a tool's effect class: the operator's word, made stricter by the server's hints if at all."""
    told = (facts.effects or {}).get(name, "write")
    hints = annotations if isinstance(annotations, dict) else {}
    if told == READ and hints.get("readOnlyHint") is False:
        told = "write"
    if told in (READ, "write") and hints.get("destructiveHint") is True and hints.get("readOnlyHint") is not True:
        told = "destroy"
    return told


def scope_of(server: str, effect: str) -> str:
    """Return the OAuth scope that an effect class needs."""
    return f"{server}:{'read' if effect == READ else 'write'}"


def server_resource(facts: ServerFacts, state: str) -> Resource:
    """Return the Resource of an upstream as a whole (session, list, notifications)."""
    return Resource(
        "mcp_server",
        facts.name,
        facts.name,
        {
            "server": facts.name,
            "trust": facts.trust,
            "network": facts.network,
            "state": state,
            "tenants": list(facts.tenants),
            "scope": f"{facts.name}:read",
            "asks": list(facts.asks),
        },
    )


def tool_resource(
    facts: ServerFacts, name: str, *, state: str, effect: str, pin: str, digest: str, schema: str
) -> Resource:
    """Return the Resource of one tool. pin: approved|new|changed|none; schema: ok|mismatch|none."""
    return Resource(
        "mcp_tool",
        f"{facts.name}/{name}",
        facts.name,
        {
            "server": facts.name,
            "trust": facts.trust,
            "network": facts.network,
            "state": state,
            "tenants": list(facts.tenants),
            "effect_class": effect,
            "pin": pin,
            "hash": digest,
            "scope": scope_of(facts.name, effect),
            "schema": schema,
        },
    )


def prompt_resource(facts: ServerFacts, name: str, *, state: str, pin: str, digest: str, schema: str) -> Resource:
    """Return the Resource of one prompt. Facts as of a tool's; its effect is always ``read``."""
    return Resource("mcp_prompt", f"{facts.name}/{name}", facts.name, _reading(facts, state, pin, digest, schema))


def address_resource(
    facts: ServerFacts, address: str, *, state: str, pin: str, digest: str, schema: str, host: str = ""
) -> Resource:
    """Return the Resource of a listed resource or template.

    address: its URI or template, told by a digest: it may hold what a caller typed. host: the network
    host of the URI, where its scheme has one.
    """
    properties = _reading(facts, state, pin, digest, schema)
    if host:
        properties["host"] = host
    return Resource("mcp_resource", f"{facts.name}/{address_id(address)}", facts.name, properties)


def address_id(address: str) -> str:
    """Return the 16 hex digits by which records and policy name a URI or template."""
    return hashlib.sha256(address.encode()).hexdigest()[:16]


def _reading(facts: ServerFacts, state: str, pin: str, digest: str, schema: str) -> JSONObject:
    return {
        "server": facts.name,
        "trust": facts.trust,
        "network": facts.network,
        "state": state,
        "tenants": list(facts.tenants),
        "effect_class": READ,
        "pin": pin,
        "hash": digest,
        "scope": scope_of(facts.name, READ),
        "schema": schema,
    }


def protocol(version: str, transport: str) -> Protocol:
    """Return the Protocol value; one object per revision and transport (both from closed sets)."""
    key = (version, transport)
    found = _PROTOCOLS.get(key)
    if found is None:
        found = _PROTOCOLS.setdefault(key, Protocol("mcp", version, transport))
    return found


class UpstreamHeaders:
    """Makes a request's HTTP headers from its final body.

    Modern: revision, method, name and ``Mcp-Param-*`` are mirrored from the body; legacy: the revision
    only, and none on ``initialize`` (it negotiates one). Whoever keeps one pays for a name's spelling once.
    """

    __slots__ = ("_fixed", "_key", "_last", "params")

    def __init__(self, method: str, version: str, params: h.ParamMap | None = None) -> None:
        modern = method != "initialize" and era_of(version) == MODERN
        self._fixed: Headers = (_JSON, _ACCEPT)
        if method != "initialize":
            self._fixed += ((h.VERSION, version.encode()),)
        if modern:
            self._fixed += ((h.METHOD, method.encode()),)
        self._key = NAMED.get(method) if modern else None
        self._last: tuple[str | None, Headers] = (None, ())
        self.params = params

    def __call__(self, body: JSON) -> Headers:
        """Return the headers of a body."""
        key = self._key
        given = body.get("params") if key is not None and isinstance(body, dict) else None
        if key is None or not isinstance(given, dict):
            return self._fixed
        name = given.get(key)
        named, made = self._last
        if name != named or not isinstance(name, str):
            name = name if isinstance(name, str) else ""
            made = (*self._fixed, (h.NAME, h.encode(name)))
            self._last = (name, made)
        arguments = given.get("arguments") if self.params else None
        if self.params and isinstance(arguments, dict):
            return made + h.param_headers(self.params, arguments)
        return made


def request(
    point: Point,
    principal: Principal,
    method: str,
    resource: Resource,
    body: JSONObject,
    *,
    version: str,
    transport: str,
    headers: Callable[[JSON], Headers] | None = None,
    arguments: JSONObject | None = None,
) -> Action:
    """Return the Action of a message on its way to an upstream.

    headers: the `UpstreamHeaders` of this method and version where they are kept or mirror arguments; over HTTP only.
    arguments: what rules read; where it stands for content, the same object as a part of ``body``.
    """
    if transport != "http":
        headers = no_headers
    elif headers is None:
        headers = UpstreamHeaders(method, version)
    return Action(
        point,
        principal,
        method,
        resource,
        _PROTOCOLS.get((version, transport)) or protocol(version, transport),
        body,
        arguments if arguments is not None else {},
        headers,
        side_effect=point is Point.MCP_TOOL_CALL and resource.properties.get("effect_class") != READ,
    )


def response(
    point: Point,
    principal: Principal,
    method: str,
    resource: Resource,
    body: JSONObject,
    *,
    version: str,
    transport: str = "http",
    arguments: JSONObject | None = None,
) -> Action:
    """Return the Action of a message on its way to the client."""
    told = _PROTOCOLS.get((version, transport)) or protocol(version, transport)
    if point is Point.MCP_TOOL_RESULT:
        result = body.get("result")
        coupled: tuple[tuple[str | int, ...], ...] = ()
        if isinstance(result, dict):
            structured = "structuredContent" in result
            arguments = {"is_error": result.get("isError") is True, "structured": structured}
            if structured and "content" in result:
                coupled = _BOTH
        return Action(
            point,
            principal,
            method,
            resource,
            told,
            body,
            arguments if arguments is not None else {},
            coupled=coupled,
            side_effect=False,
        )
    kind = BY_METHOD.get(method)
    listed = KINDS[kind] if kind is not None and point is KINDS[kind].listed else None
    return Action(
        point,
        principal,
        method,
        resource,
        told,
        body,
        arguments if arguments is not None else {},
        items_at=("result", listed.member) if listed is not None else (),
        item_key=listed.key if listed is not None else "name",
        side_effect=False,
    )
