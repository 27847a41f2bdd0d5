"""One client that listens: what it asked for, what waits for it, and how each event is judged before it is told.

- Events wait in a mailbox with one place per thing, so it cannot outgrow what was asked for; an event is
  judged when its client is ready to read it, so a slow reader costs no decisions.
- A list counts as changed only when *this client's* list did: the one that policy shows to it, as a digest
  (mcp reference §5.4). What changed for others, or is hidden from it, it never hears of.
- ``resources/updated`` names a URI that the client was allowed to watch, by the name that it watches it
  under, and is decided with that resource's present facts. A sub-resource of it is one more: it must be one that
  this endpoint would read, and at its first news it is decided like a subscription of its own. Of one that may not
  be watched nothing is told; of too many, that the watched one above them changed.
- A task's state is told to its owner alone, and passes `tasks_view`, result and questions included.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from firewall.core.action import Resource
from firewall.core.errors import BartizanError, Malformed, UpstreamFault
from firewall.core.exchange import Exchange
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc
from mcp_gateway import tasks, uris
from mcp_gateway.action import request, response
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.heard import KINDS_OF, LISTS, Event, Wanted, What
from mcp_gateway.house import Refused
from mcp_gateway.kinds import Kind
from mcp_gateway.message import SUBSCRIPTION_ID, RpcId
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.targets import uri_arguments
from mcp_gateway.tasks import CORE, EXTENSION
from mcp_gateway.tasks_table import TaskTable, owner_of
from mcp_gateway.tasks_view import Reader, TaskViews
from mcp_gateway.versions import MODERN, era_of

MAIL: Final = 1_024  # things that wait for one client; of more sub-resources, what it watches above them
BELOW: Final = 256  # sub-resources that are told by their own name, per stream or session
METHOD_OF: Final = {what: method for method, what in LISTS.items()}

Digest = Callable[[Principal, Endpoint, Kind, Exchange], Awaitable[str]]
"""Returns a digest of what a caller sees of a kind, after policy. Raises UpstreamFault, Refused, StateUnavailable."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A resource that a client may hear of: its upstream, its URI there and here, its facts now."""

    spec: UpstreamSpec
    own: str
    uri: str
    facts: Callable[[], Resource]


Below = Callable[[Principal, Endpoint, UpstreamSpec, str], Awaitable[Watched]]
"""Finds what an endpoint would read at an upstream under its own URI. Raises Malformed, UpstreamFault, Refused."""


@dataclass(slots=True, eq=False)
class Listener:
    """One client; a `hub.Sink`.

    subscription: the id that its notifications name (modern), None for a legacy session.
    lists, watched, followed: what it asked for; followed: (upstream, its task id) → our id.
    wake: called when mail arrives, for a client that nobody waits beside. below: sub-resources of what is watched,
    None where they may not be.
    """

    principal: Principal
    endpoint: Endpoint
    version: str
    capabilities: JSONObject
    subscription: RpcId | None = None
    lists: set[What] = field(default_factory=set)
    watched: dict[tuple[str, str], Watched] = field(default_factory=dict)
    followed: dict[tuple[str, str], str] = field(default_factory=dict)
    below: dict[tuple[str, str], Watched | None] = field(default_factory=dict)
    digests: dict[What, str] = field(default_factory=dict)
    mail: OrderedDict[tuple[str, str, str], Event] = field(default_factory=OrderedDict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    wake: Callable[[], None] | None = None

    def wanted(self, spec: UpstreamSpec) -> Wanted:
        """See Sink.wanted."""
        return Wanted(
            frozenset(self.lists),
            frozenset(own for name, own in self.watched if name == spec.name),
            frozenset(theirs for name, theirs in self.followed if name == spec.name),
            any_task=self.version == tasks.CORE_VERSION,
        )

    def offer(self, event: Event) -> None:
        """See Sink.offer: of two events about one thing the later waits."""
        # A changed list is one thing, whichever upstream of an aggregate it changed at.
        about = "" if event.what in KINDS_OF else event.spec.name
        place = (event.what, about, event.name)
        if event.what == "updated" and place not in self.mail and len(self.mail) >= MAIL:
            parent = self.watched_above(event)
            if parent is None:
                return
            event, place = replace(event, name=parent.own), (event.what, about, parent.own)
        self.mail[place] = event
        self.mail.move_to_end(place)
        self.arrived.set()
        if self.wake is not None:
            self.wake()

    def watched_above(self, event: Event) -> Watched | None:
        """Return what is watched and is, or stands nearest above, the URI that an event names."""
        for own in (event.name, *uris.above(event.name)):
            found = self.watched.get((event.spec.name, own))
            if found is not None:
                return found
        return None

    async def next(self) -> Event:
        """Return the next event, and wait for one where there is none."""
        while not self.mail:
            self.arrived.clear()
            await self.arrived.wait()
        return self.mail.popitem(last=False)[1]

    @property
    def meta(self) -> JSONObject:
        """The ``_meta`` of its notifications: its own listen's id, never another's (mcp reference §5.4)."""
        return {} if self.subscription is None else {"_meta": {SUBSCRIPTION_ID: self.subscription}}


class Judge:
    """Turns events into sendable notifications, or into nothing."""

    def __init__(
        self, guard: Guard, *, catalog: Catalog, table: TaskTable, views: TaskViews, digest: Digest, below: Below
    ) -> None:
        self._guard = guard
        self._below = below
        self._catalog = catalog
        self._table = table
        self._views = views
        self._digest_of = digest

    async def look(self, one: Listener) -> None:
        """Take the digests of what a client sees now: a later change is one against these."""
        for what in one.lists:
            one.digests[what] = await self._digest(one, what)

    async def judge(self, one: Listener, event: Event) -> Cleared | None:
        """Return what a client is told of an event, or None: nothing changed for it, it is not its own, it is refused."""
        try:
            if event.what == "task":
                return await self._task(one, event)
            if event.what == "updated":
                return await self._updated(one, event)
            return await self._list(one, event.what)
        except (BartizanError, Refused):
            return None  # what cannot be judged is not told

    # -- kinds of events --------------------------------------------------------------------------------

    async def _list(self, one: Listener, what: What) -> Cleared | None:
        now = await self._digest(one, what)
        if one.digests.get(what) == now:
            return None
        one.digests[what] = now
        resource = self._catalog.resource(one.principal, one.endpoint)
        return await self._tell(one, METHOD_OF[what], {**one.meta}, resource)

    async def _updated(self, one: Listener, event: Event) -> Cleared | None:
        watched = one.watched_above(event)
        if watched is None:
            return None
        if watched.own != event.name:
            watched = await self._sub_resource(one, event, watched)
            if watched is None:
                return None
        params: JSONObject = {"uri": watched.uri, **one.meta}
        return await self._tell(one, "notifications/resources/updated", params, watched.facts())

    async def _sub_resource(self, one: Listener, event: Event, above: Watched) -> Watched | None:
        """Return a sub-resource that a client may hear of, what it watches above one too many, or None.

        The decision is taken once per sub-resource, as that of a subscription is: else whoever names many URIs
        would spend what the caller may ask.
        """
        slot = (event.spec.name, event.name)
        if slot in one.below:
            return one.below[slot]
        if len(one.below) >= BELOW:
            return above
        found: Watched | None = None
        try:
            found = await self._below(one.principal, one.endpoint, event.spec, event.name)
            if not await self._may_watch(one, found):
                found = None
        except Malformed:
            pass  # in another spelling, or nothing that this endpoint would read
        one.below[slot] = found
        return found

    async def _may_watch(self, one: Listener, watched: Watched) -> bool:
        """Decide whether a client may hear of a resource, as if it had subscribed to it."""
        method = "resources/subscribe"
        exchange = self._guard.new_exchange(one.principal, "mcp")
        exchange.verb = method
        verdict: Cleared | Refusal | None = None
        try:
            action = request(
                Point.MCP_RESOURCE_WATCH,
                one.principal,
                method,
                watched.facts(),
                jsonrpc.build_request(0, method, {"uri": watched.uri}),
                version=one.version,
                transport="sse",
                arguments=uri_arguments(watched.own),
            )
            verdict = await self._guard.clear(action, exchange)
        finally:
            self._guard.close(exchange, outcome="ok" if isinstance(verdict, Cleared) else "refused")
        return isinstance(verdict, Cleared)

    async def _task(self, one: Listener, event: Event) -> Cleared | None:
        modern = era_of(one.version) == MODERN
        shape = EXTENSION if modern else CORE
        method: Literal["notifications/tasks", "notifications/tasks/status"] = (
            "notifications/tasks" if modern else "notifications/tasks/status"
        )
        entry = self._table.heard(one.principal.tenant, event.spec.name, event.key, event.name)
        if entry is None or entry.shape != shape or entry.owner != owner_of(one.principal, one.endpoint.url):
            return None
        if modern and one.followed.get((event.spec.name, event.name)) != entry.id:
            return None
        task = tasks.read(event.params, shape)
        exchange = self._guard.new_exchange(one.principal, "mcp")
        exchange.verb = method
        verdict: Cleared | Refusal | None = None
        try:
            verdict = await self._views.show(
                Reader(one.principal, one.endpoint, exchange, one.version, one.capabilities),
                event.spec,
                entry,
                task,
                lambda members: jsonrpc.build_notification(method, {**members, **one.meta}),
                "params",
                method,
            )
        finally:
            self._guard.close(exchange, outcome="ok" if isinstance(verdict, Cleared) else "refused")
        return verdict if isinstance(verdict, Cleared) else None

    # -- decisions ----------------------------------------------------------------------------------------

    async def _tell(self, one: Listener, method: str, params: JSONObject, resource: Resource) -> Cleared | None:
        body = jsonrpc.build_notification(method, params)
        exchange = self._guard.new_exchange(one.principal, "mcp")
        exchange.verb = method
        verdict: Cleared | Refusal | None = None
        try:
            action = response(
                Point.MCP_NOTIFY_SERVER,
                one.principal,
                method,
                resource,
                body,
                version=one.version,
                transport="sse",
            )
            verdict = await self._guard.clear(action, exchange)
        finally:
            self._guard.close(exchange, outcome="ok" if isinstance(verdict, Cleared) else "refused")
        return verdict if isinstance(verdict, Cleared) else None

    async def _digest(self, one: Listener, what: What) -> str:
        """Return the digest of a list as policy shows it to a client; what cannot be read shows nothing."""
        exchange = self._guard.new_exchange(one.principal, "mcp")
        exchange.verb = "(changed)"
        seen: list[str] = []
        try:
            for kind in KINDS_OF[what]:
                with contextlib.suppress(UpstreamFault, Refused):
                    seen.append(await self._digest_of(one.principal, one.endpoint, kind, exchange))
        finally:
            self._guard.close(exchange, outcome="ok")
        return "/".join(seen)
