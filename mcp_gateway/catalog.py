"""What an endpoint shows: its upstreams, their tools under their exposed names, and the links to them.

``/mcp/<name>`` shows one upstream as it is; ``/mcp`` shows all of them, each tool as ``<name>__<tool>``.
One broken upstream leaves the others' tools in the aggregate (mcp reference §5.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from firewall.core.action import Headers, Resource
from firewall.core.errors import UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import UpstreamCredentials
from firewall.core.principal import Principal
from firewall.net.runtime import Tasks
from firewall.net.upstream import UpstreamClient
from mcp_gateway import lists
from mcp_gateway.action import tool_resource
from mcp_gateway.bridge import Opened
from mcp_gateway.house import House, Refused
from mcp_gateway.inventory import Catalogue, Inventory, Tool
from mcp_gateway.owner import Owners
from mcp_gateway.settings import Settings, UpstreamSpec
from mcp_gateway.stdio import Launcher
from mcp_gateway.upstream import Credentials, Link, Pool, open_http
from mcp_gateway.versions import MODERN, NEWEST_MODERN


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path. name: the upstream, or "" for the aggregate. scope: what a first challenge asks for."""

    name: str
    url: str
    specs: tuple[UpstreamSpec, ...]
    scope: str


class Catalog:
    """Endpoints of a worker, and everything behind them."""

    def __init__(
        self,
        settings: Settings,
        *,
        house: House,
        launcher: Launcher | Owners,
        client: UpstreamClient,
        credentials: UpstreamCredentials,
        tasks: Tasks,
    ) -> None:
        self._settings = settings
        self._house = house
        self._launcher = launcher
        self._client = client
        self._credentials = credentials
        self._tasks = tasks
        self._aggregates: dict[str, Resource] = {}
        self._inventory: Inventory | None = None
        self.pool = Pool(self._open_link, bound=settings.links)
        self.missing_walls = _walls(launcher, settings.upstreams)
        self.endpoints = _endpoints(settings)

    def use(self, inventory: Inventory) -> None:
        """Take the inventory, which itself needs the pool."""
        self._inventory = inventory

    def serve_only(self, specs: tuple[UpstreamSpec, ...]) -> None:
        """Serve exactly these upstreams from now on. Raises ConfigFault, and then changes nothing.

        Links of an upstream that is gone or changed end as soon as the loop comes to it.
        """
        before = self._settings.upstreams
        if before == specs:
            return
        settings = replace(self._settings, upstreams=specs)
        missing = _walls(self._launcher, specs)
        self._settings, self.missing_walls = settings, missing
        self.endpoints = _endpoints(settings)
        self._aggregates.clear()
        for spec in before:
            if spec not in specs:
                self._house.forget(spec.name)
                self._known.forget(spec.name)
                self._tasks.spawn(self.pool.drop(spec.name), f"mcp.drop.{spec.name}")

    async def warm(self, tenant: str) -> dict[str, str]:
        """Open and read every upstream for a tenant, side by side; return what failed, by fault code."""
        failed: dict[str, str] = {}

        async def one(spec: UpstreamSpec) -> None:
            try:
                await self.catalogue(self._house.principal(tenant, spec.name), spec, spec.ttl_s)
            except UpstreamFault as error:
                failed[spec.name] = error.code
            except Refused as error:
                failed[spec.name] = error.refusal.fault.code

        await asyncio.gather(*(self._tasks.spawn(one(s), f"mcp.warm.{s.name}") for s in self._settings.upstreams))
        return failed

    # -- for one caller ---------------------------------------------------------------------------------

    def resource(self, principal: Principal, endpoint: Endpoint) -> Resource:
        """Return the Resource of an endpoint as a whole. Raises StateUnavailable.

        The aggregate belongs to whoever holds the read scope of any of its upstreams; what of each is
        shown is decided entry by entry.
        """
        if endpoint.name:
            return self._house.resource(principal.tenant, endpoint.specs[0])
        scopes = [f"{s.name}:read" for s in endpoint.specs]
        scope = next((s for s in scopes if s in principal.scopes), scopes[0])
        found = self._aggregates.get(scope)
        if found is None:
            tenants = sorted({t for s in endpoint.specs for t in s.tenants})
            facts: JSONObject = {
                "server": "mcp",
                "trust": "untrusted",
                "network": "public",
                "state": "approved",
                "tenants": list(tenants),
                "scope": scope,
            }
            found = self._aggregates[scope] = Resource("mcp_server", "mcp", "", facts)
        return found

    async def opened(self, principal: Principal, endpoint: Endpoint) -> Opened:
        """Return what an upstream says of itself, as far as it is approved. Raises UpstreamFault, Refused."""
        if not endpoint.name:
            return Opened(NEWEST_MODERN, MODERN, capabilities={"tools": {}})
        spec = endpoint.specs[0]
        found = await self.catalogue(principal, spec, spec.ttl_s)
        return self._known.words(principal.tenant, spec, found.opened)

    async def visible(self, principal: Principal, endpoint: Endpoint) -> dict[str, Tool]:
        """Return exposed name → tool, fresh enough for a list. Upstreams without any scope held are not asked."""
        if endpoint.name:
            spec = endpoint.specs[0]
            return (await self.catalogue(principal, spec, spec.list_age_s)).tools
        held = [s for s in endpoint.specs if principal.scopes & {f"{s.name}:read", f"{s.name}:write"}]
        reads = [(s, self._tasks.spawn(self.catalogue(principal, s, s.list_age_s), f"mcp.list.{s.name}")) for s in held]
        answers = await asyncio.gather(*(task for _, task in reads), return_exceptions=True)
        found: dict[str, Tool] = {}
        for (spec, _), answer in zip(reads, answers, strict=True):
            if isinstance(answer, Catalogue):
                found |= {lists.exposed_name(spec.name, name): tool for name, tool in answer.tools.items()}
            elif not isinstance(answer, (UpstreamFault, Refused)):
                raise answer
        return found

    async def find(self, principal: Principal, endpoint: Endpoint, exposed: str) -> Tool | None:
        """Return the tool of an exposed name, fresh enough for a call. Raises UpstreamFault, Refused."""
        spec, name = self._route(endpoint, exposed)
        if spec is None:
            return None
        return (await self.catalogue(principal, spec, spec.ttl_s)).tools.get(name)

    def unknown(self, principal: Principal, endpoint: Endpoint, exposed: str) -> Resource:
        """Return the Resource of a tool that nobody lists; the asked name is not part of it."""
        spec = self._route(endpoint, exposed)[0] or endpoint.specs[0]
        state = str(self._house.resource(principal.tenant, spec).properties["state"])
        return tool_resource(spec.facts, "?", state=state, effect="write", pin="none", digest="", schema="none")

    async def link(self, principal: Principal, spec: UpstreamSpec, declared: JSONObject | None = None) -> Link:
        """Return the pooled link of a caller's credential. Raises UpstreamFault, Refused.

        declared: client capabilities for an upstream that may ask (`questions.declared`); where a session
        carries them, the link is this caller's own.
        """
        key, credentials = self.key(principal, spec), self.credentials(principal, spec)
        if not declared:
            return await self.pool.get(principal.tenant, spec, key, credentials)
        caller = "\0".join((principal.issuer, *principal.key))
        return await self.pool.session(principal.tenant, spec, key, credentials, caller, declared)

    def key(self, principal: Principal, spec: UpstreamSpec) -> str:
        """Return which credential a caller would use."""
        return self._credentials.key_for(principal, spec.name)

    def credentials(self, principal: Principal, spec: UpstreamSpec) -> Credentials:
        """Return where the upstream's credential headers come from; never the inbound token (AUTH-02)."""

        async def headers() -> Headers:
            return await self._credentials.headers_for(principal, spec.name)

        return headers

    async def catalogue(self, principal: Principal, spec: UpstreamSpec, max_age_s: float) -> Catalogue:
        """Return the tools of one upstream as a caller's credential sees them. Raises UpstreamFault, Refused."""
        key, credentials = self.key(principal, spec), self.credentials(principal, spec)
        return await self._known.get(principal.tenant, spec, key, credentials, max_age_s)

    # -- inside -----------------------------------------------------------------------------------------------

    @property
    def _known(self) -> Inventory:
        assert self._inventory is not None
        return self._inventory

    @staticmethod
    def _route(endpoint: Endpoint, exposed: str) -> tuple[UpstreamSpec | None, str]:
        if endpoint.name:
            return endpoint.specs[0], exposed
        parts = lists.split_name(exposed, [s.name for s in endpoint.specs])
        if parts is None:
            return None, ""
        return next(s for s in endpoint.specs if s.name == parts[0]), parts[1]

    async def _open_link(
        self, tenant: str, spec: UpstreamSpec, credentials: Credentials, declared: JSONObject, caller: str
    ) -> Link:
        if spec.transport == "stdio":
            return await self._launcher.open(tenant, spec, declared=declared, caller=caller)
        return await open_http(self._client, self._house, tenant, spec, credentials, self._tasks, declared=declared)


def _walls(launcher: Launcher | Owners, specs: Sequence[UpstreamSpec]) -> dict[str, tuple[str, ...]]:
    return {spec.name: launcher.check(spec) for spec in specs if spec.transport == "stdio"}


def _endpoints(settings: Settings) -> dict[str, Endpoint]:
    table: dict[str, Endpoint] = {}
    for spec in settings.upstreams:
        path = f"/mcp/{spec.name}"
        table[path] = table[path + "/"] = Endpoint(spec.name, settings.public_url + path, (spec,), f"{spec.name}:read")
    if settings.aggregated and settings.upstreams:
        scope = " ".join(f"{spec.name}:read" for spec in settings.upstreams)
        table["/mcp"] = table["/mcp/"] = Endpoint("", settings.public_url + "/mcp", settings.upstreams, scope)
    return table
