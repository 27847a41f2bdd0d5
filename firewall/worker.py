"""One process's share of the node: what it runs, in which order it starts and ends, and what it looks after meanwhile.

`app.build` makes a `Worker`; `app.work` runs one in a process of its own. It decides nothing.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from firewall.config import Config, front_door, rooms
from firewall.core.errors import FAULTS, BartizanError, ConfigFault, StateUnavailable
from firewall.core.upstream_words import upstream_words
from firewall.decide import bundle as policy_bundle
from firewall.enforce.guard import Guard
from firewall.enforce.kill_switch import KillSwitch
from firewall.enforce.pins import Pins
from firewall.enforce.registry import Registry
from firewall.identity.authorization_server import Identity
from firewall.identity.upstream.credentials import CredentialSettings
from firewall.net.asgi import App, Receive, Scope, Send, write_fixed
from firewall.net.edge import Edge, edge_reply
from firewall.net.heartbeat import Heartbeat, until_told
from firewall.net.runtime import SystemClock, Tasks, trim
from firewall.net.server import Listener, Server
from firewall.nucleus import OnFault, Paths
from firewall.record.audit import AuditWriter
from firewall.state.shared import SharedMarks
from firewall.state.sqlite import SQLiteStore
from mcp_gateway.owner import Neighbours
from mcp_gateway.serve import MCPGateway
from mcp_gateway.settings import UpstreamSpec

STOP_S: Final = 1.3  # of a worker's orderly end; its parent kills after `WorkerSettings.stop_s`
KEYS_EVERY_S: Final = 3600.0  # between two looks at the age of the signing key
ENVELOPE_EVERY_S: Final = 30.0  # between two looks whether a rotation of the envelope secret waits to go on
ENVELOPE_AGAIN_S: Final = 2.0  # between two steps of one
_NOT_FOUND: Final = edge_reply(FAULTS["path_unknown"])


class Room(Protocol):
    """An application that knows its own paths."""

    def handles(self, path: str) -> bool: ...
    def __call__(self, scope: Scope, receive: Receive, send: Send, /) -> Awaitable[None]: ...


class DataPlane:
    """Routes by exact prefix; the only dispatch on the data path."""

    def __init__(self, mcp: App, a2a: App, llm: App | None, front_door: Room, authzen: Room | None = None) -> None:
        self._mcp = mcp
        self._a2a = a2a
        self._llm = llm
        self._front_door = front_door
        self._authzen = authzen

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Hand one request to its room; an unknown path is 404, without a redirect."""
        path = scope["path"]
        if path.startswith("/mcp/") or path == "/mcp":
            return self._mcp(scope, receive, send)
        if path.startswith("/v1/") and self._llm is not None:
            return self._llm(scope, receive, send)
        if path.startswith("/a2a/"):
            return self._a2a(scope, receive, send)
        if self._front_door.handles(path):
            return self._front_door(scope, receive, send)
        if self._authzen is not None and self._authzen.handles(path):
            return self._authzen(scope, receive, send)
        return write_fixed(send, _NOT_FOUND)


@dataclass
class Worker:
    """Everything one process runs. Make it with `build`, then `start`, `stop`."""

    config: Config
    paths: Paths
    clock: SystemClock
    tasks: Tasks
    store: SQLiteStore
    marks: SharedMarks
    audit: AuditWriter
    guard: Guard
    registry: Registry
    pins: Pins
    kill_switch: KillSwitch
    identity: Identity
    mcp: MCPGateway
    data_plane: DataPlane
    bundle: policy_bundle.Bundle
    parts: dict[str, Any] = field(default_factory=dict)
    near: Neighbours | None = None
    server: Server | None = None
    on_fault: OnFault = lambda _code, _detail: None

    async def start(self) -> dict[str, int]:
        """Bind the listeners; return their ports."""
        config = self.config
        data, admin = config.listeners.data, config.listeners.admin
        several = config.workers > 1
        refusals = self.parts["refusals"]
        face = Edge(self.data_plane, rooms.edge(config, data, data.port, public=True), refusals)
        listeners = [
            Listener("data", data.host, data.port, face, rooms.tls(data), reuse_port=several, refusals=refusals)
        ]
        if "admin" in self.parts:
            listeners.append(
                Listener(
                    "admin",
                    admin.host,
                    admin.port,
                    Edge(self.parts["admin"], rooms.edge(config, admin, admin.port, public=False), refusals),
                    rooms.tls(admin),
                    reuse_port=several,
                    refusals=refusals,
                )
            )
        for part in ("egress", "admin_socket"):
            if part in self.parts:
                await self.parts[part].start()
        if self.near is not None:
            self.near.handover.use(face)
            await self.near.peers.start()
        self.server = Server(listeners, self.clock, self.tasks)
        await self.server.start()
        self.tasks.spawn(self._follow_registry(), "app.registry")
        self.tasks.spawn(self._warm(), "app.warm")
        self.tasks.spawn(self._keep_keys(), "app.keys")
        self.tasks.spawn(self._keep_envelope(), "app.envelope")
        if "signals" in self.parts:
            for run in self.parts["signals"].background:
                self.tasks.spawn(run(), "app.signals")
        if "sampler" in self.parts:
            self.tasks.spawn(self.parts["sampler"].run(), "app.sampler")
        return self.server.ports

    async def stop(self) -> None:
        """Stop listening, end children and streams, write the last checkpoint."""
        try:
            async with asyncio.timeout(STOP_S):
                await self._let_go()
        except TimeoutError:
            pass  # what is left ends with the process; the log must be whole before the parent's patience ends
        await self.parts["client"].close()
        if "opa" in self.parts:
            await self.parts["opa"].close()
        await self.parts["dialler"].close()
        self.parts["telemetry"].close()
        self.parts["refusals"].settle()
        self.parts["strangers"].settle()
        self.audit.close()
        self.store.close()
        self.parts["used"].close()
        self.marks.close()

    async def _let_go(self) -> None:
        if self.server is not None:
            await self.server.stop()
        if self.near is not None:
            await self.near.peers.stop()
        for part in ("egress", "admin_socket"):
            if part in self.parts:
                await self.parts[part].stop()
        await self.mcp.close()
        if self.near is not None:
            self.near.leases.close()
        await self.tasks.close()

    async def _warm(self) -> None:
        """Open the configured upstreams beside the first requests, so that nobody waits for a child to start."""
        for upstream, code in (await self.mcp.warm(self.config.tenant)).items():
            if code and self._tells(f"upstream_fault:{upstream}:{code}"):
                given = self.config.mcp.get(upstream)
                # One that is not of the file was registered by its URL: programs stand in the file alone.
                what, mend = upstream_words(code, remote=given is None or bool(given.url))
                self.on_fault("upstream", f"{upstream}: {what} ({code}); mend: {mend}")

    def _tells(self, what: str) -> bool:
        """Return whether this worker is the one to tell what all of them find: the first, for as long as it lives."""
        try:
            return self.near is None or self.near.leases.take(what)
        except StateUnavailable:
            return True  # better told by each than by none

    async def _follow_registry(self) -> None:
        """Serve what is registered while we run: look again whenever the node's epoch moved."""
        seen = -1
        while True:
            try:
                epoch = self.marks.epoch()
                if epoch != seen:
                    self.parts["rotation"].refresh()
                    self.refresh()
                    seen = epoch
            except (StateUnavailable, BartizanError):
                pass  # the data path refuses by itself while state does not answer
            await asyncio.sleep(0.25)

    async def _keep_keys(self) -> None:
        """Rotate the signing key when it is old enough, and let go of what was published for long enough."""
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            try:
                self.parts["rotation"].keep()
            except BartizanError as error:
                self.on_fault("keys", error.code)

    async def _keep_envelope(self) -> None:
        """Go on with a rotation of the envelope secret that was left, at once where one was cut by our end."""
        envelope, told = self.parts["envelope"], ""
        while True:
            soon = False
            try:
                soon = await asyncio.to_thread(envelope.keep)
                told = ""
            except BartizanError as error:
                if told != error.code:  # once, however long it lasts
                    self.on_fault("keys", f"{error.code} {error.detail}".strip())
                    told = error.code
            await asyncio.sleep(ENVELOPE_AGAIN_S if soon else ENVELOPE_EVERY_S)

    def refresh(self) -> None:
        """Bring the resources and gateways in line with the registry."""
        specs = mcp_specs(self.config, self.registry)
        self.mcp.serve_only(specs)
        known = front_door.credentials(self.config)
        agents = []
        for entry in self.registry.list(self.config.tenant):
            if entry.name not in known:
                self.parts["credentials"].add(entry.name, CredentialSettings())
            if entry.kind == "a2a" and entry.state != "revoked":
                title = self.config.a2a[entry.name].title if entry.name in self.config.a2a else ""
                agents.append((entry.name, title))
        self.identity.resources.replace(front_door.protected_resources(self.config, specs, agents))


def mcp_specs(config: Config, registry: Registry) -> tuple[UpstreamSpec, ...]:
    """Return every MCP server to serve: the configured ones, and those registered by URL."""
    specs = [rooms.mcp_spec(config, name, given) for name, given in config.mcp.items()]
    for entry in registry.list(config.tenant, "mcp"):
        if entry.name in config.mcp or entry.state == "revoked":
            continue
        try:
            specs.append(rooms.mcp_registered(entry))
        except ConfigFault:
            continue  # it stays visible in the registry, and is not served
    return tuple(specs)


# Told once, when every listener is bound: the worker and the ports.
Ready = Callable[[Worker, dict[str, int]], Awaitable[None]]


async def serve(worker: Worker, on_ready: Ready | None, heartbeat: Heartbeat) -> None:
    """Start a worker, say that it listens, and stop it when told to.

    on_ready: told once in the life of the parent, when all workers listen.
    """

    async def announce(ready: Ready, ports: dict[str, int]) -> None:
        await heartbeat.all_ready()
        if heartbeat.first("up"):
            await ready(worker, ports)

    try:
        ports = await worker.start()
        # What was built lives as long as the process: the collector need never walk it again.
        gc.collect()
        gc.freeze()
        trim()
        heartbeat.ready()
        until = worker.tasks.spawn(until_told(heartbeat), "app.until")
        if on_ready is not None:
            said = worker.tasks.spawn(announce(on_ready, ports), "app.ready")
            await asyncio.wait({until, said}, return_when=asyncio.FIRST_COMPLETED)
            if said.done():
                said.result()
        await until
    finally:
        await worker.stop()
