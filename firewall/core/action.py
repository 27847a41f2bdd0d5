"""Action: the canonical, protocol-neutral description of one thing about to happen or returned.

A gateway builds it from a strictly parsed message; `enforce.guard` inspects ``body``, asks policy
about ``arguments``, and sends on exactly ``body`` after its obligations (DESIGN §3). So:

- ``body`` is the whole message *as it will leave us* (ids already remapped, names already
  translated, unknown members already dropped). It is what is scanned, transformed, digested and
  serialised; nothing of the received bytes survives beside it.
- ``arguments`` is what rules read. Where it stands for content, it is the very same object as a
  part of ``body``: policy sees what is sent (DESIGN §6b-5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from firewall.core.jsonvalue import JSON, JSONObject, Path
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.core.value import value

Headers = tuple[tuple[bytes, bytes], ...]


def no_headers(_body: JSON) -> Headers:
    """Return no headers: the message travels inside a stream or a pipe."""
    return ()


@dataclass(frozen=True, slots=True)
class Resource:
    """The object of an Action, with the facts that policy may read.

    type: ``mcp_server | mcp_tool | mcp_resource | mcp_prompt | a2a_agent | a2a_card | llm_model |
        llm_provider | host | admin_act``.
    id: ``<upstream>/<name>`` or ``<upstream>``.
    properties: facts from configuration, inventory and pins; never from the message. The closed
        list of names is in `decide.contract`; gateways build one Resource per inventory entry and
        keep it, so that its encoding is paid once (``encoded``, filled by `decide.contract`).
    """

    type: str
    id: str
    upstream: str
    properties: Mapping[str, JSON] = field(default_factory=dict)
    # No argument of `replace`: what is made of another resource would be shown to policy as that one.
    encoded: list[bytes] = field(init=False, default_factory=list, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Protocol:
    """Which standard the message belongs to: name, revision and transport."""

    name: str  # mcp | a2a | llm | egress | identity | admin
    version: str
    transport: str  # http | sse | stdio


@value
class Action:
    """One thing about to happen, or just returned. See the module's rules.

    verb: the wire's method name (``tools/call``); from the gateway's own table, never free text.
    headers: regenerates the outgoing headers from the final body (pure).
    items_at, item_key: for lists, where the entries stand in ``body`` and which member names one.
    coupled: paths that must change together or not at all (DESIGN §6b-9).
    """

    point: Point
    principal: Principal
    verb: str
    resource: Resource
    protocol: Protocol
    body: JSON
    arguments: JSONObject = field(default_factory=dict)
    headers: Callable[[JSON], Headers] = no_headers
    items_at: Path = ()
    item_key: str = "name"
    coupled: tuple[Path, ...] = ()
    side_effect: bool = True

    def of(self, body: JSON) -> Action:
        """Return the same Action of another body; its arguments are none of the body's."""
        return Action(
            self.point,
            self.principal,
            self.verb,
            self.resource,
            self.protocol,
            body,
            self.arguments,
            self.headers,
            self.items_at,
            self.item_key,
            self.coupled,
            self.side_effect,
        )
