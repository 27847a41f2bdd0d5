"""May this caller hear of it: the decisions about what clients watch and follow.

A URI is decided with the facts and the address that a read of it would be decided with; a task id with
the facts of its tool, and only for its owner. What is not there is decided too, so that trying is counted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from firewall.core.action import Resource
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.wire import jsonrpc
from mcp_gateway.action import request, response
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.house import Refused
from mcp_gateway.listener import Listener, Watched
from mcp_gateway.relay import Turn
from mcp_gateway.targets import uri_arguments
from mcp_gateway.tasks import EXTENSION
from mcp_gateway.tasks_table import TaskTable
from mcp_gateway.tasks_view import TaskViews

Locate = Callable[[Principal, Endpoint, str], Awaitable[Watched]]
"""Finds the resource of a URI that an endpoint shows to a caller. Raises Malformed, UpstreamFault, Refused."""


class Watching:
    """Decides; no state of its own."""

    def __init__(self, guard: Guard, *, catalog: Catalog, table: TaskTable, views: TaskViews, locate: Locate) -> None:
        self._guard = guard
        self._catalog = catalog
        self._table = table
        self._views = views
        self._locate = locate

    async def may_watch(self, turn: Turn, endpoint: Endpoint, uri: str) -> Watched | Refusal | None:
        """Return the resource of a URI where the caller may watch it, the refusal, or None for what is not there."""
        try:
            watched = await self._locate(turn.principal, endpoint, uri)
        except (Malformed, UpstreamFault, Refused):
            refusal = await self.decide(
                turn, Point.MCP_RESOURCE_WATCH, self._catalog.resource(turn.principal, endpoint), {}
            )
            return refusal
        told = uri_arguments(watched.own)
        refusal = await self.decide(turn, Point.MCP_RESOURCE_WATCH, watched.facts(), {"uri": uri}, told)
        return refusal if refusal is not None else watched

    async def may_follow(self, turn: Turn, endpoint: Endpoint, one: Listener, ours: str) -> bool:
        """Return whether a task is the caller's own and it may hear of it; if so, the listener follows it."""
        try:
            entry = self._table.find(turn.principal, endpoint.url, ours)
        except Malformed:
            return False
        spec = next((s for s in endpoint.specs if s.name == entry.upstream), None)
        if spec is None or entry.shape != EXTENSION or self._catalog.key_for(turn.principal, spec.name) != entry.key:
            return False
        tool = await self._views.tool(turn.principal, spec, entry)
        facts = self._views.facts(turn.principal, spec, tool, "none")
        if await self.decide(turn, Point.MCP_TASK_GET, facts, {"taskId": ours}) is not None:
            return False
        one.followed[spec.name, entry.theirs] = entry.id
        return True

    async def decide(
        self, turn: Turn, point: Point, resource: Resource, params: JSONObject, arguments: JSONObject | None = None
    ) -> Refusal | None:
        """Decide about a request that ends here; return the refusal, or None."""
        call = turn.call
        body = jsonrpc.build_request(call.id, call.method, params)
        action = request(
            point,
            turn.principal,
            call.method,
            resource,
            body,
            version=call.version,
            transport="http",
            arguments=arguments or {},
        )
        verdict = await self._guard.clear(action, turn.exchange)
        return verdict if isinstance(verdict, Refusal) else None

    async def say(self, turn: Turn, resource: Resource, method: str, body: JSONObject) -> Cleared | Refusal:
        """Decide about a message of our own to the client."""
        action = response(
            Point.MCP_NOTIFY_SERVER,
            turn.principal,
            method,
            resource,
            body,
            version=turn.call.version,
            transport="sse",
        )
        return await self._guard.clear(action, turn.exchange)
