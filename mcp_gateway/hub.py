"""Listening to upstreams: once per (tenant, upstream, credential), for as long as somebody downstream listens.

    legacy upstream   GET stream or unasked lines of a pipe, and ``resources/subscribe`` per watched URI
    modern upstream   one ``subscriptions/listen`` with all that its sinks want
                                   │
                    Slot: bounded, coalesced ──▶ Sink.offer(Event)      (`subscriptions` judges and sends)

- Everything heard is a level trigger ("this changed") or a task's whole state: of many events about one
  thing the last counts. So a slot keeps one event per thing, and an upstream that floods buys `BATCH`
  per `GAP_S` and one reading of a list per `LIST_GAP_S`, whatever it sends (mcp reference §5.4).
- A changed list spoils the catalogue before anyone is told, so that whoever looks sees the new one, read
  and compared with its pins again.
- The listener's own requests are the house's: decided and recorded, with the upstream's read scope. Who
  may hear what is decided per caller, at `subscriptions`.
- A listener that breaks starts again with back-off; after that every list counts as changed, since
  nobody knows what was missed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from typing import Final, Protocol

from firewall.core.errors import BartizanError, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.core.points import Point
from firewall.core.principal import Principal
from firewall.net.runtime import Tasks
from firewall.wire import jsonrpc
from mcp_gateway import bridge
from mcp_gateway.catalog import Catalog
from mcp_gateway.heard import KINDS_OF, Event, Wanted, What, belongs, event_of, filter_of
from mcp_gateway.house import House, Refused
from mcp_gateway.inventory import Inventory
from mcp_gateway.settings import UpstreamSpec
from mcp_gateway.tasks import EXTENSION_ID
from mcp_gateway.upstream import Link
from mcp_gateway.versions import MODERN

SLOTS: Final = 512  # listeners of a worker; beyond it a sink hears nothing of that upstream
WAITING: Final = 1_024  # things of one slot that changed and were not told yet
BATCH: Final = 32
GAP_S: Final = 0.1
LIST_GAP_S: Final = 1.0
BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0
HEALTHY_S: Final = 30.0
READY_S: Final = 5.0  # how long a new listen may take before the old one is closed anyway


class Sink(Protocol):
    """Somebody downstream who listens."""

    @property
    def principal(self) -> Principal:
        """The caller."""

    def wanted(self, spec: UpstreamSpec) -> Wanted:
        """Return what it wants of an upstream now."""

    def offer(self, event: Event) -> None:
        """Take an event; never waits."""


class Slot:
    """What is heard of one upstream with one credential."""

    def __init__(self, spec: UpstreamSpec, tenant: str, key: str) -> None:
        self.spec = spec
        self.tenant = tenant
        self.key = key
        self.sinks: list[Sink] = []
        self.changed = asyncio.Event()
        self.asked = Wanted()
        self.heard: OrderedDict[tuple[What, str], Event] = OrderedDict()
        self.loud = asyncio.Event()
        self.quiet_until: dict[What, float] = {}
        self.runners: list[asyncio.Task[None]] = []

    def wanted(self) -> Wanted:
        """Return what all sinks together want: what the upstream is asked for from now on."""
        total = Wanted()
        for sink in self.sinks:
            total |= sink.wanted(self.spec)
        self.asked = total
        return total

    def hear(self, event: Event) -> None:
        """Keep an event until it is told; of two about one thing the later. Beyond the bound the oldest is lost."""
        slot = (event.what, event.name)
        self.heard[slot] = event
        self.heard.move_to_end(slot)
        if len(self.heard) > WAITING:
            self.heard.popitem(last=False)
        self.loud.set()

    def ready(self, now: float) -> list[Event]:
        """Take what may be told at a loop time: a bounded number, and of a list that was told just now nothing yet."""
        found = [event for event in self.heard.values() if now >= self.quiet_until.get(event.what, 0.0)][:BATCH]
        for event in found:
            del self.heard[event.what, event.name]
            if event.what in KINDS_OF:
                self.quiet_until[event.what] = now + LIST_GAP_S
        return found


class Hub:
    """All listeners of a worker."""

    def __init__(self, *, catalog: Catalog, inventory: Inventory, house: House, tasks: Tasks) -> None:
        self._catalog = catalog
        self._inventory = inventory
        self._house = house
        self._tasks = tasks
        self._slots: dict[tuple[str, str, str], Slot] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def join(self, sink: Sink, specs: Iterable[UpstreamSpec]) -> None:
        """Let a sink hear of upstreams; the first one starts a listener. A second call for a sink renews what it wants."""
        for spec in specs:
            slot = self._slot(sink.principal, spec)
            if slot is None:
                continue
            if sink in slot.sinks:
                slot.changed.set()  # it may want less than before
            else:
                slot.sinks.append(sink)
                if not sink.wanted(spec).within(slot.asked):
                    slot.changed.set()

    def leave(self, sink: Sink) -> None:
        """Let a sink hear nothing more; the last one ends a listener. Idempotent."""
        for name, slot in list(self._slots.items()):
            if sink in slot.sinks:
                slot.sinks.remove(sink)
                less = sink.wanted(slot.spec)
                if less.uris or less.tasks:
                    slot.changed.set()
                if not slot.sinks:
                    del self._slots[name]
                    for runner in slot.runners:
                        runner.cancel()

    def heard(self, tenant: str, spec: UpstreamSpec, key: str, value: JSONObject) -> None:
        """Take a notification that came on another stream, beside the answer to a request.

        A changed list counts whether or not anybody listens; it is read again before its next use.
        """
        event = event_of(spec, key, value)
        if event is None:
            return
        slot = self._slots.get((tenant, spec.name, key))
        if slot is not None:
            slot.hear(event)
        elif event.what in KINDS_OF:
            self._inventory.spoil(tenant, spec.name, key, KINDS_OF[event.what])

    # -- one slot ---------------------------------------------------------------------------------------

    def _slot(self, principal: Principal, spec: UpstreamSpec) -> Slot | None:
        key = self._catalog.key_for(principal, spec.name)
        name = (principal.tenant, spec.name, key)
        slot = self._slots.get(name)
        if slot is None:
            if len(self._slots) >= SLOTS:
                return None
            slot = self._slots[name] = Slot(spec, principal.tenant, key)
            slot.runners = [
                self._tasks.spawn(self._listen(slot), f"mcp.hub.{spec.name}"),
                self._tasks.spawn(self._tell(slot), f"mcp.hub.{spec.name}.tell"),
            ]
        return slot

    async def _tell(self, slot: Slot) -> None:
        """Hand what was heard to the sinks, a bounded number at a time."""
        loop = asyncio.get_running_loop()
        while True:
            await slot.loud.wait()
            for event in slot.ready(loop.time()):
                if event.what in KINDS_OF:
                    self._inventory.spoil(slot.tenant, slot.spec.name, slot.key, KINDS_OF[event.what])
                for sink in list(slot.sinks):
                    if sink.wanted(slot.spec).covers(event):
                        sink.offer(event)
                await asyncio.sleep(0)  # many sinks, many events: the others' turn
            if not slot.heard:
                slot.loud.clear()
            await asyncio.sleep(GAP_S)

    async def _listen(self, slot: Slot) -> None:
        """Keep listening; what went wrong is waited out, longer each time."""
        loop = asyncio.get_running_loop()
        backoff_s = BACKOFF_FIRST_S
        again = False
        while True:
            began = loop.time()
            with contextlib.suppress(Exception):  # whatever it was: a listener that ended would leave its clients deaf
                principal = slot.sinks[0].principal
                link = await self._catalog.link(principal, slot.spec)
                if again:
                    for what in KINDS_OF:
                        slot.hear(Event(slot.spec, slot.key, what))
                again = True
                if link.opened.era == MODERN:
                    await self._modern(slot, link)
                else:
                    await self._legacy(slot, link)
            backoff_s = BACKOFF_FIRST_S if loop.time() - began > HEALTHY_S else min(2 * backoff_s, BACKOFF_MAX_S)
            await asyncio.sleep(backoff_s)

    # -- legacy ------------------------------------------------------------------------------------------

    async def _legacy(self, slot: Slot, link: Link) -> None:
        """Read the stream of a legacy upstream and keep its subscriptions as the sinks want them."""
        headers = await self._credentials(slot)
        watch = self._tasks.spawn(self._watch(slot, link), f"mcp.hub.{slot.spec.name}.watch")
        try:
            async with link.listen(headers) as messages:
                async for value in messages:
                    event = event_of(slot.spec, slot.key, value)
                    if event is not None:
                        slot.hear(event)
        except UpstreamFault as fault:
            if fault.code != "unsupported":
                raise
            await watch  # without a stream of its own the upstream speaks beside its answers: see `heard`
        finally:
            watch.cancel()

    async def _watch(self, slot: Slot, link: Link) -> None:
        """Subscribe to what is wanted, and unsubscribe from what no longer is."""
        told = link.opened.capabilities.get("resources")
        able = isinstance(told, dict) and told.get("subscribe") is True
        held: frozenset[str] = frozenset()
        while True:
            slot.changed.clear()
            uris = slot.wanted().uris
            wanted = uris if able else held
            for method, some in (("resources/unsubscribe", held - wanted), ("resources/subscribe", wanted - held)):
                for uri in sorted(some):
                    with contextlib.suppress(BartizanError, Refused):
                        await self._ask(slot, link, method, {"uri": uri})
            held = wanted
            await slot.changed.wait()

    async def _ask(self, slot: Slot, link: Link, method: str, params: JSONObject) -> None:
        rpc_id = link.next_id()
        body = jsonrpc.build_request(rpc_id, method, params)
        cleared = await self._house.clear(
            slot.tenant, slot.spec, method, body, version=link.opened.version, point=Point.MCP_RESOURCE_WATCH
        )
        async with link.exchange(rpc_id, cleared, await self._credentials(slot)) as messages:
            async for value in messages:
                if "method" not in value:
                    return

    # -- modern ------------------------------------------------------------------------------------------

    async def _modern(self, slot: Slot, link: Link) -> None:
        """Hold one ``subscriptions/listen``; when more or less is wanted, open the new one before the old one ends."""
        current: asyncio.Task[None] | None = None
        held = Wanted()
        try:
            while True:
                slot.changed.clear()
                wanted = slot.wanted()
                if current is None or wanted != held:
                    ready = asyncio.Event()
                    stream = self._stream(slot, link, wanted, ready)
                    fresh = self._tasks.spawn(_quietly(stream), f"mcp.hub.{slot.spec.name}.listen")
                    await _either(self._tasks, fresh, ready, READY_S)
                    if current is not None:
                        current.cancel()
                    current, held = fresh, wanted
                change = self._tasks.spawn(_waited(slot.changed), "mcp.hub.changed")
                try:
                    await asyncio.wait({current, change}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()
                if current.done():
                    return
        finally:
            if current is not None:
                current.cancel()

    async def _stream(self, slot: Slot, link: Link, wanted: Wanted, ready: asyncio.Event) -> None:
        rpc_id = link.next_id()
        version = link.opened.version
        declared: JSONObject = {"extensions": {EXTENSION_ID: {}}} if wanted.tasks else {}
        params: JSONObject = {
            "notifications": filter_of(wanted),
            "_meta": bridge.envelope(version, declared=declared),
        }
        body = jsonrpc.build_request(rpc_id, "subscriptions/listen", params)
        cleared = await self._house.clear(
            slot.tenant, slot.spec, "subscriptions/listen", body, version=version, point=Point.MCP_RESOURCE_WATCH
        )
        over = False
        try:
            async with link.exchange(rpc_id, cleared, await self._credentials(slot)) as messages:
                async for value in messages:
                    if "method" not in value:
                        over = True
                        return
                    if value["method"] == "notifications/subscriptions/acknowledged":
                        ready.set()
                        continue
                    event = event_of(slot.spec, slot.key, value) if belongs(value, rpc_id) else None
                    if event is not None and wanted.covers(event):
                        slot.hear(event)
        finally:
            if not over and link.transport == "stdio" and link.alive:
                with contextlib.suppress(RuntimeError):  # the worker stops, and the child with it
                    self._tasks.spawn(self._cancel(slot, link, rpc_id), f"mcp.hub.{slot.spec.name}.cancel")

    async def _cancel(self, slot: Slot, link: Link, rpc_id: int) -> None:
        """End a listen on a pipe, where leaving alone says nothing."""
        note = jsonrpc.build_notification("notifications/cancelled", {"requestId": rpc_id})
        with contextlib.suppress(BartizanError, Refused):
            cleared = await self._house.clear(
                slot.tenant,
                slot.spec,
                "notifications/cancelled",
                note,
                version=link.opened.version,
                point=Point.MCP_NOTIFY_CLIENT,
            )
            await link.notify(cleared, ())

    async def _credentials(self, slot: Slot) -> tuple[tuple[bytes, bytes], ...]:
        if not slot.sinks:
            raise UpstreamFault("unreachable", "nobody listens any more")
        return await self._catalog.credentials(slot.sinks[0].principal, slot.spec)()


# -- waiting -----------------------------------------------------------------------------------------


async def _quietly(stream: Coroutine[object, None, None]) -> None:
    with contextlib.suppress(BartizanError, Refused, OSError):
        await stream


async def _waited(event: asyncio.Event) -> None:
    await event.wait()


async def _either(spawner: Tasks, task: asyncio.Task[None], event: asyncio.Event, wait_s: float) -> None:
    """Return when a task has ended, an event is set, or the time is over."""
    ready = spawner.spawn(_waited(event), "mcp.hub.ready")
    try:
        await asyncio.wait({task, ready}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ready.cancel()
