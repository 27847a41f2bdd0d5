"""What an endpoint shows: its upstreams, what they list under exposed names, and the links to them.

``/mcp/<name>`` shows one upstream as it is; ``/mcp`` shows all of them, each tool and prompt as
``<name>__<tool>`` (`shelf` has the rules). One broken or slow upstream leaves the others' entries in the
aggregate (mcp reference §5.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar, cast

from firewall.core.action import Resource
from firewall.core.errors import ConsentNeeded, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import UpstreamCredentials
from firewall.core.principal import Principal
from firewall.core.scopes import opened
from firewall.net.runtime import Tasks
from firewall.net.upstream import UpstreamClient
from mcp_gateway import capabilities, joined, uris
from mcp_gateway.action import READ, tool_resource
from mcp_gateway.bridge import Opened
from mcp_gateway.endpoints import Endpoint, endpoints
from mcp_gateway.entries import Catalogue, Entry
from mcp_gateway.house import House, Refused
from mcp_gateway.http_sse import open_sse
from mcp_gateway.inventory import Inventory
from mcp_gateway.kinds import Kind
from mcp_gateway.owner import Owners
from mcp_gateway.settings import Settings, UpstreamSpec
from mcp_gateway.shelf import Index, Shelf, alone, index_of, merged
from mcp_gateway.stdio import Launcher
from mcp_gateway.upstream import Credentials, Link, Pool, open_http
from mcp_gateway.versions import MODERN, NEWEST_MODERN, Era

__all__ = ["Catalog", "Endpoint"]

T = TypeVar("T")
WAIT_S: Final = 10.0  # for the slowest upstream of an aggregated list
REST_S: Final = 5.0
MADE: Final = 256
_ADDRESSED: Final[tuple[Kind, ...]] = ("resource", "template")


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
        self.key_for = credentials.key_for  # (caller, upstream's name) → which credential the caller would use
        self._tasks = tasks
        self._resting: dict[tuple[str, str], float] = {}
        self._made: dict[tuple[object, ...], object] = {}
        self._aggregates: dict[str, Resource] = {}
        self._inventory: Inventory | None = None
        self.pool = Pool(self._open_link, bound=settings.links)
        self.missing_walls = _walls(launcher, settings.upstreams)
        self.endpoints = endpoints(settings)

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
        self.endpoints = endpoints(settings)
        self._aggregates.clear()
        self._made.clear()
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
                if not isinstance(error, ConsentNeeded):  # each person's own affair, not a failure
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
        scope = next((s for s in scopes if s in opened(principal.scopes)), scopes[0])
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
        """Return what an upstream says of itself, as far as it is approved. Raises UpstreamFault, Refused.

        The aggregate has what any upstream has that the caller may use and that answers in time.
        """
        if not endpoint.name:
            lacking: list[str] = []
            links = await self._gather(
                principal, endpoint.held(principal), lambda spec: self.link(principal, spec), lacking
            )
            said = capabilities.union(link.opened.capabilities for link in links.values())
            extended: JSONObject = {}
            for name in sorted(links, reverse=True):
                extended |= links[name].opened.extensions
            words = [_lacking(self._settings.public_url, lacking)] if lacking else []
            words.append(await self._joined(principal, [spec for spec in endpoint.specs if spec.name in links]))
            text = "\n\n".join(filter(None, words))
            return Opened(NEWEST_MODERN, MODERN, {}, text, {"tools": {}, **said}, extended)
        spec = endpoint.specs[0]
        found = await self.catalogue(principal, spec, spec.ttl_s)
        return self._known.words(principal.tenant, spec, found.opened)

    async def shelf(self, principal: Principal, endpoint: Endpoint, kind: Kind) -> tuple[Shelf, int]:
        """Return what a list shows before policy, and for how many milliseconds it stands.

        Upstreams without any scope held are not asked; of an aggregate, one that fails or takes longer
        than `WAIT_S` is left out. Raises UpstreamFault and Refused for an endpoint of one upstream.
        """
        if endpoint.name:
            spec = endpoint.specs[0]
            found = await self.catalogue(principal, spec, spec.list_age_s, kind)
            return self._kept((endpoint.url, kind, found.serial), lambda: alone(found)), self._known.left_ms((found,))
        held = endpoint.held(principal)
        addressed = kind in ("resource", "template")
        kinds: tuple[Kind, ...] = ("resource", "template") if addressed else (kind,)
        parts: dict[Kind, dict[str, Catalogue]] = {}
        for one in kinds:
            parts[one] = await self._catalogues(principal, held, one, lists_only=True)
        ready = parts[kind]
        whole = self._with_absent(principal, held, parts) if addressed else parts
        index = self._index_of(whole) if addressed else Index()
        serials = [(alias, parts[kind][alias].serial) for alias in sorted(ready)]
        serials += [(alias, whole[one][alias].serial) for one in kinds for alias in sorted(whole[one])]
        shelf = self._kept((endpoint.url, kind, *serials), lambda: merged(kind, ready, index))
        return shelf, self._known.left_ms(ready.values()) if len(ready) == len(held) else 0

    async def find(self, principal: Principal, endpoint: Endpoint, exposed: str, kind: Kind = "tool") -> Entry | None:
        """Return the tool or prompt of an exposed name, fresh enough for a call. Raises UpstreamFault, Refused."""
        spec, name = endpoint.route(exposed)
        if spec is None:
            return None
        return (await self.catalogue(principal, spec, spec.ttl_s, kind)).entries.get(name)

    async def index(self, principal: Principal, endpoint: Endpoint, named: str = "") -> Index:
        """Return who answers which URI, fresh enough for a read. Raises UpstreamFault, Refused.

        named: an alias that the client named; then no other upstream is asked.
        """
        parts: dict[Kind, dict[str, Catalogue]] = {}
        for kind in _ADDRESSED:
            if endpoint.name or named:
                specs = [s for s in endpoint.specs if s.name == (named or s.name)]
                parts[kind] = {s.name: await self.catalogue(principal, s, s.ttl_s, kind) for s in specs}
            else:
                parts[kind] = await self._catalogues(principal, endpoint.held(principal), kind)
        if not endpoint.name and not named:
            parts = self._with_absent(principal, endpoint.held(principal), parts)
        return self._index_of(parts)

    def outward(self, principal: Principal, endpoint: Endpoint, spec: UpstreamSpec) -> Callable[[str], str] | None:
        """Return how an endpoint tells URIs of an upstream; None where it changes none.

        From what is known without asking: where an upstream's lists are not, a URI names its upstream,
        which is right in any case.
        """
        if endpoint.name:
            return None
        parts: dict[Kind, dict[str, Catalogue]] = {kind: {} for kind in _ADDRESSED}
        for one in endpoint.held(principal):
            for kind in _ADDRESSED:
                found = self._known.peek(principal.tenant, one.name, self.key_for(principal, one.name), kind)
                if found is None:
                    return partial(uris.wrapped, spec.name)
                parts[kind][one.name] = found
        return partial(self._index_of(parts).exposed, spec.name)

    def searched(self, endpoint: Endpoint) -> bool:
        """Return whether an endpoint lists the three tools of `search` in place of all."""
        return not endpoint.name and self._settings.catalog == "search"

    def spec_of(self, endpoint: Endpoint, exposed: str) -> UpstreamSpec:
        """Return the upstream that an exposed name names, the endpoint's first for one that names none."""
        return endpoint.route(exposed)[0] or endpoint.specs[0]

    def unknown(self, principal: Principal, endpoint: Endpoint, exposed: str) -> Resource:
        """Return the Resource of a tool that nobody lists; the asked name is not part of it.

        It reads nothing and has no pin, so it is refused for that: no scope would cure it, and none is asked for.
        """
        spec = self.spec_of(endpoint, exposed)
        state = str(self._house.resource(principal.tenant, spec).properties["state"])
        return tool_resource(spec.facts, "?", state=state, effect=READ, pin="none", digest="", schema="none")

    async def link(
        self, principal: Principal, spec: UpstreamSpec, declared: JSONObject | None = None, era: Era = MODERN
    ) -> Link:
        """Return the pooled link of a caller's credential. Raises UpstreamFault, Refused.

        declared: client capabilities for an upstream that may ask (`questions.declared`); where a session
        carries them, the link is this caller's own. era: the client's (`Pool.session`).
        """
        key = self.key_for(principal, spec.name)
        link = self.pool.ready(principal.tenant, spec.name, key) if not declared else None
        if link is not None:
            return link
        credentials = self.credentials(principal, spec)
        if not declared:
            return await self.pool.get(principal.tenant, spec, key, credentials)
        caller = "\0".join((principal.issuer, *principal.key))
        return await self.pool.session(principal.tenant, spec, key, credentials, caller, declared, era)

    def credentials(self, principal: Principal, spec: UpstreamSpec) -> Credentials:
        """Return where the upstream's credential headers come from; never the inbound token (AUTH-02)."""
        return partial(self._credentials.headers_for, principal, spec.name)

    async def catalogue(
        self, principal: Principal, spec: UpstreamSpec, max_age_s: float, kind: Kind = "tool"
    ) -> Catalogue:
        """Return one kind of one upstream as a caller's credential sees it. Raises UpstreamFault, Refused."""
        key, credentials = self.key_for(principal, spec.name), self.credentials(principal, spec)
        return await self._known.get(principal.tenant, spec, key, credentials, max_age_s, kind)

    async def _joined(self, principal: Principal, specs: Sequence[UpstreamSpec]) -> str:
        """Return the instructions of some upstreams as one text, as far as they are open and their pins approved now.

        One in which inspection finds anything is left out: else one server would close the endpoint to all.
        """
        tenant = principal.tenant
        found = await self._gather(principal, specs, lambda spec: self.catalogue(principal, spec, spec.ttl_s))
        said = {
            spec.name: self._known.words(tenant, spec, found[spec.name].opened).instructions
            for spec in specs
            if spec.name in found and self._house.is_open(principal, spec)
        }
        withheld = frozenset(name for name, text in said.items() if text and not self._house.plain(tenant, text))
        return joined.instructions(said, withheld)

    # -- inside -----------------------------------------------------------------------------------------------

    @property
    def _known(self) -> Inventory:
        assert self._inventory is not None
        return self._inventory

    async def _catalogues(
        self, principal: Principal, specs: Sequence[UpstreamSpec], kind: Kind, *, lists_only: bool = False
    ) -> dict[str, Catalogue]:
        """Return one kind of some upstreams, as fresh as a call needs it, or as a list does."""
        return await self._gather(
            principal,
            specs,
            lambda spec: self.catalogue(principal, spec, spec.list_age_s if lists_only else spec.ttl_s, kind),
        )

    async def _gather(
        self,
        principal: Principal,
        specs: Sequence[UpstreamSpec],
        ask: Callable[[UpstreamSpec], Awaitable[T]],
        lacking: list[str] | None = None,
    ) -> dict[str, T]:
        """Ask upstreams side by side; return those that answered within `WAIT_S`, by name.

        A late one goes on by itself, so that the next list has it, and nobody waits for it for `REST_S`.
        lacking: takes the names of those at which the caller has no account connected.
        Raises what is no upstream's fault, and ConsentNeeded where no upstream answered for want of an account.
        """

        async def one(spec: UpstreamSpec) -> T | UpstreamFault | Refused:
            try:
                return await ask(spec)
            except (UpstreamFault, Refused) as error:
                return error

        now = asyncio.get_running_loop().time()
        self._resting = {slot: until for slot, until in self._resting.items() if until > now}
        awake = [spec for spec in specs if (principal.tenant, spec.name) not in self._resting]
        asked = {spec.name: self._tasks.spawn(one(spec), f"mcp.list.{spec.name}") for spec in awake}
        if asked:
            _, late = await asyncio.wait(asked.values(), timeout=WAIT_S)
            until = asyncio.get_running_loop().time() + REST_S
            self._resting |= {(principal.tenant, name): until for name, task in asked.items() if task in late}
        answers = {name: task.result() for name, task in asked.items() if task.done()}
        if all(isinstance(got, Exception) for got in answers.values()):
            for got in answers.values():
                if isinstance(got, ConsentNeeded):
                    raise got  # an empty list would not say why
        if lacking is not None:
            lacking += sorted(name for name, got in answers.items() if isinstance(got, ConsentNeeded))
        return {name: got for name, got in answers.items() if not isinstance(got, (UpstreamFault, Refused))}

    def _with_absent(
        self, principal: Principal, held: Sequence[UpstreamSpec], parts: Mapping[Kind, Mapping[str, Catalogue]]
    ) -> dict[Kind, dict[str, Catalogue]]:
        """Return what answered and, of what did not, what it listed last.

        An upstream that is down keeps its URIs: else another one that lists the same would get its requests.
        """
        out: dict[Kind, dict[str, Catalogue]] = {kind: dict(parts[kind]) for kind in _ADDRESSED}
        for spec in held:
            for kind in _ADDRESSED:
                if spec.name not in out[kind]:
                    last = self._known.peek(principal.tenant, spec.name, self.key_for(principal, spec.name), kind)
                    if last is not None:
                        out[kind][spec.name] = last
        return out

    def _index_of(self, parts: Mapping[Kind, Mapping[str, Catalogue]]) -> Index:
        pairs = [(alias, parts[kind][alias]) for kind in _ADDRESSED for alias in sorted(parts[kind])]
        return self._kept(("index", "", *(catalogue.serial for _, catalogue in pairs)), lambda: index_of(pairs))

    def _kept(self, slot: tuple[object, ...], make: Callable[[], T]) -> T:
        """Return what was made for a slot, making it once; a slot holds serials, so it never goes stale."""
        found = self._made.get(slot)
        if found is None:
            while len(self._made) >= MADE:
                del self._made[next(iter(self._made))]
            found = self._made[slot] = make()
        return cast(T, found)

    async def _open_link(
        self, tenant: str, spec: UpstreamSpec, credentials: Credentials, declared: JSONObject, caller: str
    ) -> Link:
        if spec.transport == "stdio":
            return await self._launcher.open(tenant, spec, declared=declared, caller=caller)
        if spec.transport == "sse":
            return await open_sse(self._client, self._house, tenant, spec, credentials, self._tasks, declared=declared)
        return await open_http(self._client, self._house, tenant, spec, credentials, self._tasks, declared=declared)


def _lacking(public_url: str, names: Sequence[str]) -> str:
    """Return what a session of the aggregate says of upstreams that are missing in its lists: in our own words."""
    where = f"{public_url}/account/upstreams"
    return f"Not listed until a person connects an account of their own at {where}: {', '.join(names)}."


def _walls(launcher: Launcher | Owners, specs: Sequence[UpstreamSpec]) -> dict[str, tuple[str, ...]]:
    return {spec.name: launcher.check(spec) for spec in specs if spec.transport == "stdio"}
