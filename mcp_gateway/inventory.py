"""What stands behind us: per (tenant, upstream, credential) the tools, their pins and their facts.

A catalogue is read by the house (`house`), page by page with a bound and a cycle check; each
definition is hashed, reviewed and compared with its pin. It is read again when it is older than the
caller allows (lists: seconds; calls: ``ttl_s``), single-flight per catalogue.

- First contact pins what shows a clean review (``pins: tofu``) or nothing (``strict``).
- A poisoned or changed definition is quarantined: it has no approved pin, so policy hides it from
  lists and refuses calls. An operator's approval is seen at once (the pins' epoch).
- A tool that shares its name, or a confusable one, with another of the same upstream is poisoned too
  (PIN-03); one with an invalid ``x-mcp-header`` or no usable shape is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol

from firewall.core.action import Headers, Resource
from firewall.core.bounds import PAGES_PER_LIST, TOOLS_PER_UPSTREAM
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.core.ports import Clock
from firewall.wire import canonical, jsonrpc
from mcp_gateway import bridge, lists
from mcp_gateway.action import effect_class, scope_of, tool_resource
from mcp_gateway.bridge import Opened
from mcp_gateway.house import House, States
from mcp_gateway.lists import Definition
from mcp_gateway.schema import Schema, Verdict
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.upstream import Credentials, Link, Pool

PinStatus = Literal["approved", "new", "changed"]
CATALOGUES: Final = 1024
Review = Callable[[JSON], Sequence[Finding]]


class PinBook(Protocol):
    """The part of `enforce.pins.Pins` that the inventory needs."""

    def epoch(self) -> int: ...
    def meet(self, tenant: str, upstream: str) -> bool: ...
    def met(self, tenant: str, upstream: str) -> None: ...
    def meeting(self, tenant: str, upstream: str) -> bool: ...
    def status(
        self, tenant: str, upstream: str, kind: Literal["tool", "instructions"], name: str, digest: str
    ) -> PinStatus: ...
    def observe(
        self,
        tenant: str,
        upstream: str,
        kind: Literal["tool", "instructions"],
        name: str,
        digest: str,
        *,
        trust: bool = False,
        reasons: tuple[str, ...] = (),
    ) -> PinStatus: ...


@dataclass(slots=True)
class Tool:
    """One tool with its facts. ``pin`` is as of ``epoch``; resources are kept per (state, pin, schema)."""

    spec: UpstreamSpec
    definition: Definition
    effect: str
    reasons: tuple[str, ...]
    pin: PinStatus
    epoch: int
    resources: dict[tuple[str, str, str], Resource] = field(default_factory=dict)
    _input: Schema | None = None
    _output: Schema | None = None

    @property
    def scope(self) -> str:
        """The OAuth scope that a call needs."""
        return scope_of(self.spec.name, self.effect)

    def check_arguments(self, arguments: JSON) -> Verdict:
        """Return how arguments fit the definition's input schema; compiled at first use."""
        if self._input is None:
            self._input = Schema(self.definition.value.get("inputSchema"))
        return self._input.check(arguments)

    def check_result(self, result: JSON) -> Verdict:
        """Return how a result's structured content fits the output schema; an error result has none."""
        if "outputSchema" not in self.definition.value or not isinstance(result, dict) or result.get("isError") is True:
            return "none"
        if self._output is None:
            self._output = Schema(self.definition.value["outputSchema"])
        return self._output.check(result.get("structuredContent"))


@dataclass(slots=True)
class Catalogue:
    """All tools of one upstream as one credential sees them."""

    tools: dict[str, Tool]
    opened: Opened
    fetched_ns: int
    stale: bool = False


class Inventory:
    """Catalogues of one worker."""

    def __init__(
        self,
        *,
        pool: Pool,
        house: House,
        pins: PinBook,
        registry: States,
        review: Review,
        review_severity: int,
        clock: Clock,
    ) -> None:
        self._pool = pool
        self._house = house
        self._pins = pins
        self._registry = registry
        self._review = review
        self._severity = review_severity
        self._clock = clock
        self._catalogues: dict[tuple[str, str, str], Catalogue] = {}
        self._locks: dict[tuple[str, str, str], asyncio.Lock] = {}
        self._reviewed: dict[str, tuple[str, ...]] = {}
        self._words: dict[tuple[str, str], tuple[Opened, int, Opened]] = {}

    async def get(
        self, tenant: str, spec: UpstreamSpec, key: str, credentials: Credentials, max_age_s: float
    ) -> Catalogue:
        """Return a catalogue at most ``max_age_s`` old. Raises UpstreamFault, Refused."""
        slot = (tenant, spec.name, key)
        found = self._fresh(slot, max_age_s)
        if found is not None:
            return found
        async with self._locks.setdefault(slot, asyncio.Lock()):
            found = self._fresh(slot, max_age_s)
            if found is not None:
                return found
            link = await self._pool.get(tenant, spec, key, credentials)
            headers = await credentials()
            fetched_ns = self._clock.monotonic_ns()
            raw = await self._read_all(tenant, spec, link, headers) if "tools" in link.opened.capabilities else []
            old = self._catalogues.pop(slot, None)
            first = await self._meet(tenant, spec)
            catalogue = self._take(tenant, spec, raw, link.opened, fetched_ns, old, first and spec.pins == "tofu")
            if first:
                self._pins.met(tenant, spec.name)
            while len(self._catalogues) >= CATALOGUES:
                dropped = next(iter(self._catalogues))
                del self._catalogues[dropped]
                self._locks.pop(dropped, None)
            self._catalogues[slot] = catalogue
            return catalogue

    def spoil(self, tenant: str, name: str, key: str) -> None:
        """Have a catalogue read again before its next use (the upstream said that its list changed)."""
        found = self._catalogues.get((tenant, name, key))
        if found is not None:
            found.stale = True

    def forget(self, name: str) -> None:
        """Drop the catalogues of an upstream that is gone or changed."""
        self._catalogues = {slot: kept for slot, kept in self._catalogues.items() if slot[1] != name}
        self._words = {slot: kept for slot, kept in self._words.items() if slot[1] != name}

    def words(self, tenant: str, spec: UpstreamSpec, opened: Opened) -> Opened:
        """Return an opening with the server's words about itself as far as their pin is approved now.

        Instructions, name, title and description are one definition; while it is new or changed, all
        are withheld, and the server goes by the name that configuration gave it.
        """
        epoch = self._pins.epoch()
        known = self._words.get((tenant, spec.name))
        if known is not None and known[0] is opened and known[1] == epoch:
            return known[2]
        digest = canonical.digest(_words_of(opened))
        said = opened
        if self._pins.status(tenant, spec.name, "instructions", "instructions", digest) != "approved":
            said = replace(opened, instructions="", server_info={**bridge.OURSELVES, "title": spec.name})
        self._words[tenant, spec.name] = (opened, epoch, said)
        return said

    def pin(self, tenant: str, tool: Tool) -> PinStatus:
        """Return a tool's pin status now: an approval anywhere on the node counts at once."""
        epoch = self._pins.epoch()
        if tool.epoch != epoch:
            tool.pin = self._pins.status(tenant, tool.spec.name, "tool", tool.definition.name, tool.definition.digest)
            tool.epoch = epoch
        return tool.pin

    def resource(self, tenant: str, tool: Tool, schema: Verdict) -> Resource:
        """Return the Resource of a call or result, with present facts. Raises StateUnavailable."""
        state = self._registry.state(tenant, "mcp", tool.spec.name)
        slot = (state, self.pin(tenant, tool), schema)
        found = tool.resources.get(slot)
        if found is None:
            found = tool.resources[slot] = tool_resource(
                tool.spec.facts,
                tool.definition.name,
                state=state,
                effect=tool.effect,
                pin=slot[1],
                digest=tool.definition.digest,
                schema=schema,
            )
        return found

    def item(self, tenant: str, tool: Tool, exposed: str) -> JSONObject:
        """Return what policy reads about a tool in a list."""
        return {
            "id": exposed,
            "effect_class": tool.effect,
            "scope": tool.scope,
            "pin": self.pin(tenant, tool),
            "state": self._registry.state(tenant, "mcp", tool.spec.name),
        }

    # -- reading ----------------------------------------------------------------------------------------

    def _fresh(self, slot: tuple[str, str, str], max_age_s: float) -> Catalogue | None:
        found = self._catalogues.get(slot)
        if found is None or found.stale:
            return None
        return found if self._clock.monotonic_ns() - found.fetched_ns <= max_age_s * 1e9 else None

    async def _read_all(self, tenant: str, spec: UpstreamSpec, link: Link, headers: Headers) -> list[JSON]:
        """Return all pages. Raises UpstreamFault("malformed") on a cursor cycle or a bound, and as the link does."""
        raw: list[JSON] = []
        cursors = {""}
        cursor = ""
        for _ in range(PAGES_PER_LIST):
            result = await self._page(tenant, spec, link, headers, cursor)
            page = result.get("tools")
            if not isinstance(page, list) or result.get("resultType", "complete") != "complete":
                raise UpstreamFault("malformed", "a list of tools is no list")
            raw.extend(page)
            if len(raw) > TOOLS_PER_UPSTREAM:
                raise UpstreamFault("too_large", "more tools than the bound")
            following = result.get("nextCursor")
            if following is None:
                return raw
            if not isinstance(following, str) or following in cursors:
                raise UpstreamFault("malformed", "the upstream's cursors run in a circle")
            cursors.add(following)
            cursor = following
        raise UpstreamFault("malformed", "more pages than the bound")

    async def _page(self, tenant: str, spec: UpstreamSpec, link: Link, headers: Headers, cursor: str) -> JSONObject:
        rpc_id = link.next_id()
        version = link.opened.version
        body = bridge.list_page(rpc_id, version, "tools/list", cursor)
        cleared = await self._house.clear(tenant, spec, "tools/list", body, version=version, point=Point.MCP_TOOL_LIST)
        async with link.exchange(rpc_id, cleared, headers) as messages:
            async for value in messages:
                if "method" in value:
                    continue
                try:
                    answer = jsonrpc.parse(value)
                except Malformed:
                    break
                if isinstance(answer, jsonrpc.Response) and isinstance(answer.result, dict):
                    return answer.result
                break
        raise UpstreamFault("malformed", "the upstream did not list its tools")

    async def _meet(self, tenant: str, spec: UpstreamSpec) -> bool:
        """Return whether this is the first contact with a server; waits for another worker's to end.

        Met also when nothing is shown: else a server could show what it likes to nobody's eyes later.
        """
        if self._pins.meet(tenant, spec.name):
            return True
        while self._pins.meeting(tenant, spec.name):  # noqa: ASYNC110  another process: nothing here to wait on
            await asyncio.sleep(0.02)
        return False

    def _take(
        self,
        tenant: str,
        spec: UpstreamSpec,
        raw: list[JSON],
        opened: Opened,
        fetched_ns: int,
        old: Catalogue | None,
        trust: bool,
    ) -> Catalogue:
        definitions: dict[str, list[Definition]] = {}
        for item in raw:
            try:
                tool = lists.definition(item)
            except Malformed:
                continue
            definitions.setdefault(lists.skeleton(tool.name), []).append(tool)
        tools: dict[str, Tool] = {}
        for alike in definitions.values():
            for tool in alike:
                if tool.name in tools or sum(t.name == tool.name for t in alike) > 1:
                    tools.pop(tool.name, None)
                    continue
                before = old.tools.get(tool.name) if old else None
                reasons = self._judge(tool) + (("PIN-03.confusable",) if len(alike) > 1 else ())
                tools[tool.name] = self._tool(tenant, spec, tool, reasons, trust, before)
        self._observe_words(tenant, spec, opened, trust)
        return Catalogue(tools, opened, fetched_ns)

    def _tool(
        self,
        tenant: str,
        spec: UpstreamSpec,
        tool: Definition,
        reasons: tuple[str, ...],
        trust: bool,
        before: Tool | None,
    ) -> Tool:
        epoch = self._pins.epoch()
        if before is not None and before.definition.digest == tool.digest and before.reasons == reasons:
            return before  # its compiled schemas and encoded facts stay good; its pin is read by epoch
        pin = self._pins.observe(tenant, spec.name, "tool", tool.name, tool.digest, trust=trust, reasons=reasons)
        effect = effect_class(spec.facts, tool.name, tool.value.get("annotations"))
        return Tool(spec, tool, effect, reasons, pin, epoch)

    def _judge(self, tool: Definition) -> tuple[str, ...]:
        found = self._reviewed.get(tool.digest)
        if found is None:
            if len(self._reviewed) >= 8 * TOOLS_PER_UPSTREAM:
                self._reviewed.clear()
            serious = {f.rule for f in self._review(tool.value) if f.severity >= self._severity}
            found = self._reviewed[tool.digest] = tuple(sorted(serious))
        return found

    def _observe_words(self, tenant: str, spec: UpstreamSpec, opened: Opened, trust: bool) -> None:
        said = _words_of(opened)
        reasons = tuple(sorted({f.rule for f in self._review(said) if f.severity >= self._severity}))
        digest = canonical.digest(said)
        self._pins.observe(tenant, spec.name, "instructions", "instructions", digest, trust=trust, reasons=reasons)


def _words_of(opened: Opened) -> JSONObject:
    return {"instructions": opened.instructions, "serverInfo": opened.server_info}
