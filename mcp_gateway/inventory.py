"""What stands behind us: per (tenant, upstream, credential) tools, prompts and resources, their pins and facts.

A catalogue is read by the house (`house`), page by page with a bound and a cycle check; each
definition is hashed, reviewed and compared with its pin. It is read again when it is older than the
caller allows (lists: seconds; calls: ``ttl_s``), single-flight per catalogue; each kind at its first use.

- First contact pins what shows a clean review (``pins: tofu``) or nothing (``strict``). It reads every
  kind that the upstream declares. The set of each kind is pinned as well, so that a definition that
  disappears leaves a trace.
- A poisoned or changed definition is quarantined: it has no approved pin, so policy hides it from
  lists and refuses calls. An operator's approval is seen at once (the pins' epoch).
- What shares its name, or a confusable one, with another of the same upstream is poisoned too
  (PIN-03); a tool with an invalid ``x-mcp-header`` or no usable shape is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, Literal, Protocol

from firewall.core.action import Headers, Resource
from firewall.core.bounds import TOOLS_PER_UPSTREAM
from firewall.core.errors import Malformed, UpstreamFault
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import Clock
from firewall.wire import canonical
from mcp_gateway import bridge, lists
from mcp_gateway.bridge import Opened
from mcp_gateway.entries import Catalogue, Entry, PinStatus, PresentFacts, Tool
from mcp_gateway.entries import definitions as definitions_of
from mcp_gateway.entries import entry as entry_of
from mcp_gateway.house import House, Refused, States
from mcp_gateway.kinds import KINDS, Kind
from mcp_gateway.listing import read_all
from mcp_gateway.lists import Definition
from mcp_gateway.schema import Verdict
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.upstream import Credentials, Link, Pool

__all__ = ["Catalogue", "Entry", "Inventory", "PinBook", "PinStatus", "Review", "Tool"]

PinKind = Literal["tool", "instructions", "prompt", "resource", "template", "set"]
PASSING: Final = frozenset({"approved", "warned"})
CATALOGUES: Final = 1024
REVIEWED_AT_ONCE: Final = 8  # definitions; more are reviewed in a thread, so that others are served meanwhile
Review = Callable[[JSON], Sequence[Finding]]


class PinBook(Protocol):
    """The part of `enforce.pins.Pins` that the inventory needs."""

    def epoch(self) -> int:
        """Return the node's epoch, which moves with every change of a pin or of the registry."""

    def first_contact(self, tenant: str, upstream: str) -> bool: ...
    def meet(self, tenant: str, upstream: str) -> bool: ...
    def met(self, tenant: str, upstream: str) -> None: ...
    def meeting(self, tenant: str, upstream: str) -> bool: ...
    def status(self, tenant: str, upstream: str, kind: PinKind, name: str, digest: str) -> PinStatus: ...
    def observe(
        self,
        tenant: str,
        upstream: str,
        kind: PinKind,
        name: str,
        digest: str,
        *,
        trust: bool = False,
        reasons: tuple[str, ...] = (),
    ) -> PinStatus: ...


Slot = tuple[str, str, str, Kind]
"""(tenant, upstream, credential key, kind)."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one reading of one kind gave. reasons: digest → rules of its review."""

    definitions: list[Definition]
    reasons: Mapping[str, tuple[str, ...]]
    ttl_ms: int
    asked_ns: int


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
        self._epoch = pins.epoch
        self._registry = registry
        self._review = review
        self._severity = review_severity
        self._clock = clock
        self._catalogues: dict[Slot, Catalogue] = {}
        self._locks: dict[Slot, asyncio.Lock] = {}
        self._reviewed: dict[str, tuple[str, ...]] = {}
        self._words: dict[tuple[str, str], tuple[Opened, int, Opened]] = {}
        self._serials = count(1)

    async def get(
        self,
        tenant: str,
        spec: UpstreamSpec,
        key: str,
        credentials: Credentials,
        max_age_s: float,
        kind: Kind = "tool",
    ) -> Catalogue:
        """Return a catalogue at most ``max_age_s`` old, or one that its upstream said still stands.

        An upstream's ``ttlMs`` counts for ``ttl_s`` at most. Raises UpstreamFault, Refused.
        """
        slot = (tenant, spec.name, key, kind)
        found = self.fresh(slot, spec, max_age_s)
        if found is not None:
            return found
        async with self._locks.setdefault(slot, asyncio.Lock()):
            found = self.fresh(slot, spec, max_age_s)
            return found if found is not None else await self._read(slot, spec, credentials)

    def fresh(self, slot: Slot, spec: UpstreamSpec, max_age_s: float) -> Catalogue | None:
        """Return what `get` would return, if nobody has to be asked for it."""
        found = self._catalogues.get(slot)
        if found is None or found.stale:
            return None
        age_s = (self._clock.monotonic_ns() - found.fetched_ns) / 1e9
        if age_s <= max_age_s or age_s <= min(found.ttl_ms / 1000, spec.ttl_s):
            return found
        return None

    def peek(self, tenant: str, name: str, key: str, kind: Kind) -> Catalogue | None:
        """Return what is known of a kind without asking anybody, however old it is."""
        return self._catalogues.get((tenant, name, key, kind))

    def left_ms(self, catalogues: Iterable[Catalogue]) -> int:
        """Return for how long all of some catalogues stand, by their upstreams' word."""
        now = self._clock.monotonic_ns()
        return min((one.left_ms(now) for one in catalogues), default=0)

    def spoil(self, tenant: str, name: str, key: str, kinds: Iterable[Kind] = tuple(KINDS)) -> None:
        """Have catalogues read again before their next use (the upstream said that its lists changed)."""
        for kind in kinds:
            found = self._catalogues.get((tenant, name, key, kind))
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
        epoch = self._epoch()
        known = self._words.get((tenant, spec.name))
        if known is not None and known[0] is opened and known[1] == epoch:
            return known[2]
        digest = canonical.digest(_words_of(opened))
        said = opened
        if self._pins.status(tenant, spec.name, "instructions", "instructions", digest) not in PASSING:
            said = replace(opened, instructions="", server_info={**bridge.OURSELVES, "title": spec.name})
        self._words[tenant, spec.name] = (opened, epoch, said)
        return said

    def epoch(self) -> int:
        """Return a number that changes whenever a pin was approved anywhere on the node."""
        return self._epoch()

    def resource(self, tenant: str, entry: Entry, schema: Verdict) -> Resource:
        """Return the Resource of a request or result, with present facts. Raises StateUnavailable.

        Facts are read again when the node's epoch moved: every change of a pin and of the registry moves it.
        """
        now = entry.present
        if now is None or now.epoch != self._epoch() or now.tenant != tenant:
            now = self._stand(tenant, entry)
        found = entry.resources.get((now.state, now.pin, schema))
        return found if found is not None else entry.resource(now.state, now.pin, schema)

    def _stand(self, tenant: str, entry: Entry) -> PresentFacts:
        """Read an entry's facts for a tenant now: an approval anywhere on the node counts at once."""
        epoch = self._epoch()  # before the facts: a change in between is seen next time
        name, one = entry.spec.name, entry.definition
        state = self._registry.state(tenant, "mcp", name)
        pin = self._pins.status(tenant, name, one.kind, one.name, one.digest)
        made = entry.present = PresentFacts(tenant, epoch, state, pin)
        return made

    def state(self, tenant: str, spec: UpstreamSpec) -> str:
        """Return an upstream's registry state now. Raises StateUnavailable."""
        return self._registry.state(tenant, "mcp", spec.name)

    def item(self, tenant: str, entry: Entry, exposed: str) -> JSONObject:
        """Return what policy reads about an entry of a list. Raises StateUnavailable."""
        now = entry.present
        if now is None or now.epoch != self._epoch() or now.tenant != tenant:
            now = self._stand(tenant, entry)
        return {
            "id": exposed,
            "effect_class": entry.effect,
            "scope": entry.scope,
            "pin": now.pin,
            "state": now.state,
        }

    # -- reading ----------------------------------------------------------------------------------------

    async def _read(self, slot: Slot, spec: UpstreamSpec, credentials: Credentials) -> Catalogue:
        """Read one kind; at first contact all kinds, since what a server shows later is new.

        Everything is read and reviewed before the contact begins, so that it is over at once: other
        workers wait for it.
        """
        tenant, _, key, kind = slot
        link = await self._pool.get(tenant, spec, key, credentials)
        headers = await credentials()
        found = {kind: await self._find(tenant, spec, link, headers, kind)}
        if self._pins.first_contact(tenant, spec.name):
            for other in KINDS:
                # One list that cannot be read keeps nobody from the others; what it shows later is new.
                with contextlib.suppress(UpstreamFault, Refused):
                    if other != kind:
                        found[other] = await self._find(tenant, spec, link, headers, other)
        first = await self._meet(tenant, spec)
        for one, given in found.items():
            if first or one == kind:
                self._take((tenant, spec.name, key, one), spec, given, link.opened, first and spec.pins == "tofu")
        if first:
            self._pins.met(tenant, spec.name)
        return self._catalogues[slot]

    async def _find(self, tenant: str, spec: UpstreamSpec, link: Link, headers: Headers, kind: Kind) -> _Found:
        """Read one kind and review what of it was not reviewed before; many definitions beside the loop."""
        asked_ns = self._clock.monotonic_ns()
        read = await read_all(self._house, tenant, spec, link, headers, kind)
        definitions: list[Definition] = []
        for item in read.entries:
            with contextlib.suppress(Malformed):
                definitions.append(lists.definition(item, kind))
        reasons = {one.digest: self._reviewed[one.digest] for one in definitions if one.digest in self._reviewed}
        fresh = {one.digest: one.value for one in definitions if one.digest not in reasons}
        if len(fresh) > REVIEWED_AT_ONCE:
            judged = await asyncio.to_thread(self._judge, fresh)
        else:
            judged = self._judge(fresh)
        if len(self._reviewed) + len(judged) > 8 * TOOLS_PER_UPSTREAM:
            self._reviewed.clear()
        self._reviewed |= judged
        reasons |= judged
        return _Found(definitions, reasons, read.ttl_ms, asked_ns)

    async def _meet(self, tenant: str, spec: UpstreamSpec) -> bool:
        """Return whether this is the first contact with a server; waits for another worker's to end.

        Met also when nothing is shown: else a server could show what it likes to nobody's eyes later.
        """
        if self._pins.meet(tenant, spec.name):
            return True
        while self._pins.meeting(tenant, spec.name):  # noqa: ASYNC110  another process: nothing here to wait on
            await asyncio.sleep(0.02)
        return False

    def _take(self, slot: Slot, spec: UpstreamSpec, found: _Found, opened: Opened, trust: bool) -> Catalogue:
        """Make and keep the catalogue of what was read."""
        tenant, _, _, kind = slot
        old = self._catalogues.pop(slot, None)
        definitions: dict[str, list[Definition]] = {}
        for one in found.definitions:
            definitions.setdefault(lists.skeleton(one.name, kind), []).append(one)
        entries: dict[str, Entry] = {}
        for alike in definitions.values():
            names = Counter(one.name for one in alike)
            for one in alike:
                if names[one.name] == 1:
                    before = old.entries.get(one.name) if old else None
                    reasons = found.reasons[one.digest] + (("PIN-03.confusable",) if len(alike) > 1 else ())
                    entries[one.name] = self._entry(tenant, spec, one, reasons, trust, before)
        self._observe_words(tenant, spec, opened, trust)
        whole = definitions_of(entries)
        if old is None or definitions_of(old.entries) != whole:
            listed = lists.set_value(whole)
            self._review(listed)  # so that it is remembered: what appeared and went can then be shown
            self._pins.observe(tenant, spec.name, "set", kind, canonical.digest(listed), trust=trust)
        unchanged = old is not None and old.entries == entries
        serial = old.serial if old is not None and unchanged else next(self._serials)
        catalogue = Catalogue(entries, opened, found.asked_ns, serial, kind, found.ttl_ms)
        while len(self._catalogues) >= CATALOGUES:
            dropped = next(iter(self._catalogues))
            del self._catalogues[dropped]
            self._locks.pop(dropped, None)
        self._catalogues[slot] = catalogue
        return catalogue

    def _entry(
        self,
        tenant: str,
        spec: UpstreamSpec,
        one: Definition,
        reasons: tuple[str, ...],
        trust: bool,
        before: Entry | None,
    ) -> Entry:
        if before is not None and before.definition.digest == one.digest and before.reasons == reasons:
            if before.definition.passing != one.passing:
                before.definition = one
            return before  # its compiled schemas and encoded facts stay good; its pin is read by epoch
        self._pins.observe(tenant, spec.name, one.kind, one.name, one.digest, trust=trust, reasons=reasons)
        return entry_of(spec, one, reasons)

    def _judge(self, values: Mapping[str, JSONObject]) -> dict[str, tuple[str, ...]]:
        """Return the rules of serious findings of some definitions, by digest."""
        return {
            digest: tuple(sorted({f.rule for f in self._review(value) if f.severity >= self._severity}))
            for digest, value in values.items()
        }

    def _observe_words(self, tenant: str, spec: UpstreamSpec, opened: Opened, trust: bool) -> None:
        said = _words_of(opened)
        reasons = tuple(sorted({f.rule for f in self._review(said) if f.severity >= self._severity}))
        digest = canonical.digest(said)
        self._pins.observe(tenant, spec.name, "instructions", "instructions", digest, trust=trust, reasons=reasons)


def _words_of(opened: Opened) -> JSONObject:
    return {"instructions": opened.instructions, "serverInfo": opened.server_info}
