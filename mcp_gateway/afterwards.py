"""What goes on after an answer: tasks, and whatever clients hear of without asking again.

Composition only: one table, one hub, and what serves them, per worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from firewall.core.errors import Malformed
from firewall.core.ports import Clock, Collection, Ids
from firewall.core.principal import Principal
from firewall.enforce.guard import Guard
from firewall.net.runtime import Tasks
from mcp_gateway import uris
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.house import House
from mcp_gateway.hub import Hub
from mcp_gateway.inventory import Inventory
from mcp_gateway.listener import Digest, Judge, Watched
from mcp_gateway.relay import Relay
from mcp_gateway.sessions import Sessions
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.subscriptions import Subscriptions
from mcp_gateway.tasks_calls import TaskCalls
from mcp_gateway.tasks_errand import Errand
from mcp_gateway.tasks_serve import TaskServer
from mcp_gateway.tasks_table import TaskTable
from mcp_gateway.tasks_view import TaskViews
from mcp_gateway.tasks_wait import TaskWait
from mcp_gateway.watching import Watching

if TYPE_CHECKING:
    from mcp_gateway.dispatch import Handler


class Afterwards:
    """Tasks and subscriptions of a worker. rows: the node's `tasks_table.COLLECTION`; digest: `views.Views.digest`."""

    def __init__(
        self,
        guard: Guard,
        *,
        house: House,
        catalog: Catalog,
        inventory: Inventory,
        relay: Relay,
        sessions: Sessions,
        rows: Collection,
        digest: Digest,
        clock: Clock,
        ids: Ids,
        tasks: Tasks,
    ) -> None:
        self._catalog = catalog
        self._inventory = inventory
        table = TaskTable(rows, clock, ids)
        views = TaskViews(guard, house, catalog, inventory, table)
        errand = Errand(guard, house)
        relay.insists = TaskWait(guard, house=house, catalog=catalog, errand=errand).insists
        self.hub = Hub(catalog=catalog, inventory=inventory, house=house, tasks=tasks)
        self.calls = TaskCalls(house=house, catalog=catalog, relay=relay, table=table, views=views, errand=errand)
        self._server = TaskServer(
            guard,
            house=house,
            catalog=catalog,
            relay=relay,
            sessions=sessions,
            table=table,
            views=views,
            errand=errand,
        )
        self.subscriptions = Subscriptions(
            hub=self.hub,
            judge=Judge(guard, catalog=catalog, table=table, views=views, digest=digest, below=self._below),
            catalog=catalog,
            sessions=sessions,
            watching=Watching(guard, catalog=catalog, table=table, views=views, locate=self._locate),
            clock=clock,
            tasks=tasks,
        )

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """Method → handler, as `dispatch` has them."""
        return {**self._server.handlers, **self.subscriptions.handlers}

    async def _below(self, principal: Principal, endpoint: Endpoint, spec: UpstreamSpec, own: str) -> Watched:
        """See `listener.Below`."""
        found = (await self._catalog.index(principal, endpoint, spec.name)).within(spec.name, own)
        if found is None:
            raise Malformed("params_invalid")
        outward = self._catalog.outward(principal, endpoint, spec)
        facts = partial(self._inventory.resource, principal.tenant, found.entry, "none")
        return Watched(spec, own, outward(own) if outward is not None else own, facts)

    async def _locate(self, principal: Principal, endpoint: Endpoint, uri: str) -> Watched:
        """See `subscriptions.Locate`."""
        told = uris.unwrapped(uri)
        index = await self._catalog.index(principal, endpoint, told[0] if told and not endpoint.name else "")
        found = index.find(uri)
        if found is None:
            raise Malformed("params_invalid")
        entry = found.entry
        facts = partial(self._inventory.resource, principal.tenant, entry, "none")
        return Watched(entry.spec, found.uri, uri, facts)
