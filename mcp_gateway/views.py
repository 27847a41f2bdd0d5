"""What one caller sees of a list: the shelf of an endpoint after policy.

Policy decides each list as it is sent, in chunks of at most `LIST_CHUNK`. What is kept here between
lists is only what a decision *took out*: the next list of the same caller leaves it out at once, and
what it shows is decided again, every time. So a kept answer can hide what was just allowed, for
`KEPT_S` at most, and can never show what is not.

A view's key is all that a decision about a list depends on: the caller as policy sees it, the policy
revision, the caller's label, pins, registry states, stops, and the exact catalogues.

The kill switch is asked each time, before anything that is kept: a caller that is stopped sees no list,
and of an upstream that is stopped no entry is shown to anybody, whoever decided what a moment ago.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from firewall.core.action import Action
from firewall.core.bounds import LIST_CHUNK
from firewall.core.exchange import Exchange
from firewall.core.jsonvalue import JSON, JSONObject, get
from firewall.core.permit import Cleared
from firewall.core.ports import Reachable
from firewall.core.principal import Principal
from firewall.core.scopes import opened
from firewall.enforce.guard import Guard
from firewall.wire import canonical
from mcp_gateway import bridge, lists
from mcp_gateway.action import response
from mcp_gateway.catalog import Catalog, Endpoint
from mcp_gateway.content import Outward
from mcp_gateway.entries import Entry
from mcp_gateway.house import Refused
from mcp_gateway.inventory import Inventory
from mcp_gateway.kinds import KINDS, Kind
from mcp_gateway.message import RpcId
from mcp_gateway.shelf import Shelf
from mcp_gateway.tasks import CORE_VERSION
from mcp_gateway.versions import MODERN, NEWEST_MODERN, Era

KEPT: Final = 1024
KEPT_S: Final = 10.0


@dataclass(slots=True)
class View:
    """judged: names that a decision was taken about; hidden: those of them that it took out."""

    until: float
    judged: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)

    def note(self, asked: Iterable[str], shown: Iterable[str]) -> None:
        """Keep what a decision said."""
        asked = set(asked)
        self.judged |= asked
        self.hidden |= asked - set(shown)

    def names(self, shelf: Shelf) -> Sequence[str]:
        """Return the names that are not known to be hidden, in order."""
        return [name for name in shelf.names if name not in self.hidden] if self.hidden else shelf.names


class Views:
    """The views of a worker."""

    def __init__(
        self, guard: Guard, catalog: Catalog, inventory: Inventory, reachable: Reachable | None = None
    ) -> None:
        """reachable: says what a caller's person could still give; without it lists show what is granted."""
        self._reachable = reachable
        self._guard = guard
        self._catalog = catalog
        self._inventory = inventory
        self._views: OrderedDict[tuple[object, ...], View] = OrderedDict()

    def view(self, principal: Principal, endpoint: Endpoint, shelf: Shelf) -> View:
        """Return what is known of a caller's view of a shelf. Raises StateUnavailable."""
        who = principal
        barred = self._guard.barred(who, [spec.name for spec in endpoint.specs])
        states = tuple(self._inventory.state(who.tenant, spec) for spec in endpoint.specs)
        slot = (
            (who.key, who.issuer, who.scopes, who.roles, who.kind, who.auth_method, who.acr, who.auth_time),
            (who.cimd_verified, bool(who.cnf), who.chain, who.audience),
            (endpoint.url, shelf.kind, shelf.serials, states, self._inventory.epoch()),
            self._guard.standing(who),
            barred,
            self._beyond(who, shelf),
        )
        now = asyncio.get_running_loop().time()
        found = self._views.get(slot)
        if found is None or found.until < now:
            while len(self._views) >= KEPT:
                self._views.popitem(last=False)
            found = self._views[slot] = View(now + KEPT_S)
            if barred:
                found.note((name for name in shelf.names if shelf.entries[name].spec.name in barred), ())
        return found

    async def visible(
        self, principal: Principal, endpoint: Endpoint, kind: Kind, exchange: Exchange
    ) -> tuple[Shelf, list[str]]:
        """Return a shelf and the names of it that a caller may see now, one decision per chunk.

        Nothing is sent. A chunk that is refused as a whole is hidden. Raises UpstreamFault, Refused,
        StateUnavailable.
        """
        shelf, _ = await self._catalog.shelf(principal, endpoint, kind)
        whole = self.action(principal, endpoint, shelf, (), MODERN, NEWEST_MODERN, 0)
        stopped = self._guard.stopped(whole, exchange)
        if stopped is not None:  # the names that were judged before are not asked about again below
            raise Refused(stopped)
        view = self.view(principal, endpoint, shelf)
        open_names = [name for name in shelf.names if name not in view.judged]
        after = ""
        while open_names:
            part, after = lists.page(open_names, after, LIST_CHUNK)
            action = self.action(principal, endpoint, shelf, part, MODERN, NEWEST_MODERN, 0)
            verdict = await self._guard.clear(action, exchange)
            view.note(part, names_in(verdict, kind) if isinstance(verdict, Cleared) else ())
            if not after:
                break
        return shelf, [name for name in shelf.names if name not in view.hidden]

    async def digest(self, principal: Principal, endpoint: Endpoint, kind: Kind, exchange: Exchange) -> str:
        """Return a digest of what a caller sees of a kind: another one means that its list changed for it."""
        shelf, names = await self.visible(principal, endpoint, kind, exchange)
        return canonical.digest([[name, shelf.entries[name].definition.digest] for name in names])

    def action(
        self,
        principal: Principal,
        endpoint: Endpoint,
        shelf: Shelf,
        names: Sequence[str],
        era: Era,
        version: str,
        rpc_id: RpcId,
        *,
        cursor: str = "",
        ttl_ms: int = 0,
    ) -> Action:
        """Return the Action of a list of some entries, as it would go to a client of an era."""
        info = KINDS[shelf.kind]
        body = bridge.listed(
            rpc_id, era, info.member, self.shown(principal, endpoint, shelf, names, era, version), cursor, ttl_ms
        )
        beyond = self._beyond(principal, shelf)
        items: JSONObject = {"items": [self._item(principal, shelf.entries[name], name, beyond) for name in names]}
        return response(
            info.listed,
            principal,
            info.method,
            self._catalog.resource(principal, endpoint),
            body,
            version=version,
            arguments=items,
        )

    def _beyond(self, principal: Principal, shelf: Shelf) -> frozenset[str]:
        """Return the scopes that a caller lacks for entries of a shelf, and that its person could give.

        Nobody is looked up for a caller who lacks none, or where every upstream shows what is granted.
        """
        if self._reachable is None:
            return frozenset()
        lacking = {e.scope for e in shelf.entries.values() if e.spec.lists == "grantable"} - opened(principal.scopes)
        return self._reachable.beyond(principal) & lacking if lacking else frozenset()

    def _item(self, principal: Principal, entry: Entry, exposed: str, beyond: frozenset[str]) -> JSONObject:
        """Return what policy reads about an entry. step_up: its person could add the scope that it needs."""
        item = self._inventory.item(principal.tenant, entry, exposed)
        if entry.scope in beyond and entry.spec.lists == "grantable":
            item["step_up"] = True
        return item

    def shown(
        self, principal: Principal, endpoint: Endpoint, shelf: Shelf, names: Sequence[str], era: Era, version: str = ""
    ) -> list[JSON]:
        """Return the definitions of some entries as a client of an era reads them."""
        out: list[JSON] = []
        tell: dict[str, Outward] = {}
        for name in names:
            one = shelf.entries[name]
            outward: Outward = None
            if "_meta" in one.definition.value:
                if one.spec.name not in tell:
                    tell[one.spec.name] = self._catalog.outward(principal, endpoint, one.spec)
                outward = tell[one.spec.name]
            out.append(
                lists.shown(
                    one.definition,
                    era,
                    name,
                    outward=outward,
                    rights=one.spec.apps,
                    tasks=version == CORE_VERSION,
                )
            )
        return out


def names_in(cleared: Cleared, kind: Kind) -> list[str]:
    """Return the names that a decided list still holds."""
    info = KINDS[kind]
    found = get(cleared.body, ("result", info.member))
    return [str(one[info.key]) for one in found if isinstance(one, dict)] if isinstance(found, list) else []
