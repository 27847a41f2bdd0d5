"""What one worker overhears of an upstream, told to the others of its node.

A server may say that a list or a resource changed on the side of an answer (mcp reference §5.4). Only the
worker that asked hears that, while whoever listens may do so at another. What is told on is a level trigger
by name, never the server's own words: each worker reads again what changed, and decides who hears of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from firewall.core.bounds import KIB
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.net.channel import Channel, Kind, WorkerGone
from firewall.net.runtime import Tasks
from firewall.wire import jsonrpc
from mcp_gateway.owner import Neighbours
from mcp_gateway.settings import UpstreamSpec

SERVICE: Final = "mcp.heard"
GAP_S: Final = 0.05  # an upstream that floods buys one message to each worker in this time
WAITING: Final = 256
URI_CHARS: Final = 8 * KIB
LISTS: Final = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
    }
)
UPDATED: Final = "notifications/resources/updated"

Tell = Callable[[str, UpstreamSpec, str, JSONObject], None]
"""(tenant, upstream, credential key, notification): what a hub takes."""


class Hearsay:
    """Takes what was overheard here, gives it to the hub here, and to the hubs of the other workers."""

    def __init__(self, near: Neighbours, tell: Tell, find: Callable[[str], UpstreamSpec | None], tasks: Tasks) -> None:
        self._near = near
        self._tell = tell
        self._find = find
        self._tasks = tasks
        self._waiting: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._running = False
        near.peers.offer(SERVICE, self._serve)

    def heard(self, tenant: str, spec: UpstreamSpec, key: str, value: JSONObject) -> None:
        """Take a notification; never waits. Of two about one thing one is told on."""
        self._tell(tenant, spec, key, value)
        method, params = value.get("method"), value.get("params")
        uri = params.get("uri") if isinstance(params, dict) and method == UPDATED else ""
        if not isinstance(method, str) or not isinstance(uri, str) or len(uri) > URI_CHARS:
            return
        if method not in LISTS and not uri:
            return
        self._waiting[tenant, spec.name, key, method, uri] = None
        if len(self._waiting) > WAITING:
            self._waiting.popitem(last=False)
        if not self._running:
            self._running = True
            with contextlib.suppress(RuntimeError):  # the worker is ending: nobody listens any more
                self._tasks.spawn(self._spread(), "mcp.hearsay")

    async def _spread(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(GAP_S)
                told: list[JSON] = [list(one) for one in self._waiting]
                self._waiting.clear()
                seat = self._near.peers.seat
                for worker in range(seat.workers):
                    if worker != seat.index:
                        await self._say(worker, told)
        finally:
            self._running = False

    async def _say(self, worker: int, told: list[JSON]) -> None:
        """Tell one worker; one that is not there reads everything anew when it starts."""
        try:
            channel = await self._near.peers.open(worker, SERVICE, {"told": told})
        except WorkerGone:
            return
        whole = False
        try:
            await channel.expect(Kind.END)
            whole = True
        except WorkerGone:
            return
        finally:
            self._near.peers.done(worker, channel, whole=whole)

    async def _serve(self, channel: Channel, head: JSONObject) -> None:
        given: Any = head.get("told")
        for tenant, name, key, method, uri in given:
            spec = self._find(name)
            if spec is not None and (method in LISTS or method == UPDATED):
                params: JSONObject = {"uri": uri} if method == UPDATED else {}
                self._tell(tenant, spec, key, jsonrpc.build_notification(method, params))
