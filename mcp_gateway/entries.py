"""One definition of an upstream with what we know about it: its pin, its effect, its schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from firewall.core.action import Resource
from firewall.core.jsonvalue import JSON
from mcp_gateway import lists, uris
from mcp_gateway.action import (
    READ,
    UpstreamHeaders,
    address_resource,
    effect_class,
    prompt_resource,
    scope_of,
    tool_resource,
)
from mcp_gateway.bridge import Opened
from mcp_gateway.kinds import Kind
from mcp_gateway.lists import Definition
from mcp_gateway.schema import Schema, Verdict
from mcp_gateway.settings import UpstreamSpec

PinStatus = Literal["approved", "new", "changed", "warned"]


@dataclass(frozen=True, slots=True)
class PresentFacts:
    """What was read of an entry for one tenant at one epoch of the node; replaced as a whole, never in part.

    state: of its upstream in the registry.
    """

    tenant: str
    epoch: int
    state: str
    pin: PinStatus


@dataclass(slots=True)
class Entry:
    """One listed object. present: its facts as they were read last; resources are kept per (state, pin, schema)."""

    spec: UpstreamSpec
    definition: Definition
    effect: str
    reasons: tuple[str, ...]
    resources: dict[tuple[str, str, str], Resource] = field(default_factory=dict, compare=False)
    present: PresentFacts | None = field(default=None, compare=False)

    @property
    def kind(self) -> Kind:
        """The kind of its definition."""
        return self.definition.kind

    @property
    def scope(self) -> str:
        """The OAuth scope that its use needs."""
        return scope_of(self.spec.name, self.effect)

    def resource(self, state: str, pin: str, schema: Verdict) -> Resource:
        """Return the Resource with these facts; made once and kept, so that its encoding is paid once."""
        slot = (state, pin, schema)
        found = self.resources.get(slot)
        if found is None:
            found = self.resources[slot] = self._make(state, pin, schema)
        return found

    def _make(self, state: str, pin: str, schema: Verdict) -> Resource:
        facts, one = self.spec.facts, self.definition
        if one.kind == "prompt":
            return prompt_resource(facts, one.name, state=state, pin=pin, digest=one.digest, schema=schema)
        host = uris.check(one.name).host if one.kind == "resource" else ""
        return address_resource(facts, one.name, state=state, pin=pin, digest=one.digest, schema=schema, host=host)


@dataclass(slots=True)
class Tool(Entry):
    """One tool; its schemas are compiled at first use."""

    given: Schema | None = None  # of its arguments
    _output: Schema | None = None
    _headers: dict[str, UpstreamHeaders] = field(default_factory=dict, compare=False, repr=False)

    def headers(self, version: str) -> UpstreamHeaders:
        """Return what makes the HTTP headers of a call in a revision; made once per definition."""
        made, params = self._headers.get(version), self.definition.params
        if made is None or made.params is not params:
            made = self._headers[version] = UpstreamHeaders("tools/call", version, params)
        return made

    def check_arguments(self, arguments: JSON) -> Verdict:
        """Return how arguments fit the definition's input schema."""
        if self.given is None:
            self.given = Schema(self.definition.value.get("inputSchema"))
        return self.given.check(arguments)

    def check_result(self, result: JSON) -> Verdict:
        """Return how a result's structured content fits the output schema; an error result has none."""
        if "outputSchema" not in self.definition.value or not isinstance(result, dict) or result.get("isError") is True:
            return "none"
        if self._output is None:
            self._output = Schema(self.definition.value["outputSchema"])
        return self._output.check(result.get("structuredContent"))

    def _make(self, state: str, pin: str, schema: Verdict) -> Resource:
        one = self.definition
        return tool_resource(
            self.spec.facts,
            one.name,
            state=state,
            effect=self.effect,
            pin=pin,
            digest=one.digest,
            schema=schema,
        )


def entry(spec: UpstreamSpec, one: Definition, reasons: tuple[str, ...]) -> Entry:
    """Return the entry of a definition: a Tool for a tool."""
    if one.kind != "tool":
        return Entry(spec, one, READ, reasons)
    return Tool(spec, one, effect_class(spec.facts, one.name, one.value.get("annotations")), reasons)


@dataclass(slots=True)
class Catalogue:
    """All entries of one kind of one upstream as one credential sees them.

    serial: of this worker, never used again; another one means another content. ttl_ms: for how long
    the upstream said that the list stands (2026-07-28, caching; the least of its pages, 0 without).
    """

    entries: Mapping[str, Entry]
    opened: Opened
    fetched_ns: int
    serial: int
    kind: Kind = "tool"
    ttl_ms: int = 0
    stale: bool = False

    @property
    def tools(self) -> dict[str, Tool]:
        """The entries that are tools."""
        return {name: one for name, one in self.entries.items() if isinstance(one, Tool)}

    def left_ms(self, now_ns: int) -> int:
        """Return for how much longer the list stands, by the upstream's word."""
        return max(0, self.ttl_ms - (now_ns - self.fetched_ns) // 1_000_000)


def definitions(entries: Mapping[str, Entry]) -> dict[str, lists.Definition]:
    """Return the definitions of some entries, by name."""
    return {name: one.definition for name, one in entries.items()}
