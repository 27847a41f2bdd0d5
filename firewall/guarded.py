"""The smallest composition: one MCP server, one local user, no listener but the one that was asked for.

    client ─ stdio lines ─ StdioFace ─┐
    client ─ loopback HTTP or unix ─ Edge ─┴─ MCPGateway ─ the server (a caged child, or a URL)
    operator ─ admin.sock (its own user, root)

The same guard, engine, scanner, pins and audit log as `firewall.app`, and the same policy as is shipped. There
is no configuration file: everything is told by `GuardedSettings`, and nothing is read from the working
directory (DESIGN §6b-7). State is shared by all runs of one name, so that what one approved counts for
the next; flow labels live as long as the run, which is what this caller's grant is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from firewall.admin.definitions import Definitions
from firewall.core.errors import ConfigFault
from firewall.detect.tool_review import review
from firewall.doors import ChildDoors
from firewall.enforce.egress import EgressGate, Hosts
from firewall.enforce.pins import Pin
from firewall.identity.local import LocalResourceServer, local_principal
from firewall.identity.upstream.credentials import CredentialSettings, StaticUpstreamCredentials
from firewall.net.dial import Dialler
from firewall.net.edge import Edge, EdgeSettings
from firewall.net.egress_proxy import EgressProxy
from firewall.net.scratch import Scratch
from firewall.net.upstream import PooledClient
from firewall.nucleus import Nucleus, OnFault, Paths
from firewall.run_state import TENANT, desk, open_state
from firewall.state.unlock import secret_places
from firewall.state.vault import Sealer
from mcp_gateway import sandbox
from mcp_gateway.serve import MCPGateway
from mcp_gateway.settings import Bounds, Settings, UpstreamSpec
from mcp_gateway.stdio_face import StdioFace

if TYPE_CHECKING:
    from firewall.admin import OperatorSocket
    from firewall.net.server import Server
    from firewall.net.unix_server import UnixServer

SESSION_S: Final = 30 * 24 * 3600  # a pipe has no session of its own that could end sooner
MEET_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class GuardedSettings:
    """What one run is told.

    user: the operating system's name of whoever started it. port: of the loopback listener (not 0), or 0 for none;
    unix: path of a socket instead. hosts: where a local program may connect, None for every public
    address that policy allows. credential: what is presented to a URL.
    """

    spec: UpstreamSpec
    paths: Paths
    user: str
    port: int = 0
    unix: str = ""
    hosts: Hosts | None = frozenset()
    credential: CredentialSettings = field(default_factory=CredentialSettings)

    @property
    def host(self) -> str:
        """The Host value of our own endpoint."""
        return f"127.0.0.1:{self.port}" if self.port else "localhost"

    @property
    def path(self) -> str:
        """The endpoint's path."""
        return f"/mcp/{self.spec.name}"

    @property
    def url(self) -> str:
        """The endpoint's URL, which is also the resource that the token is for."""
        return f"http://{self.host}{self.path}"


@dataclass(frozen=True, slots=True)
class Met:
    """What the server turned out to be. code: an upstream fault, "" when it was read.

    fresh: it was met for the first time. pins: all of its pins. missing: walls that its cage lacks.
    said: the first lines that a program wrote to stderr before it failed: its own words, untrusted, escaped.
    """

    code: str
    fresh: bool
    pins: tuple[Pin, ...]
    missing: tuple[str, ...]
    said: tuple[str, ...] = ()


class Guarded:
    """One run. `start`, then a face, then `stop`; each once."""

    def __init__(
        self,
        settings: GuardedSettings,
        core: Nucleus,
        token: str,
        *,
        on_fault: OnFault,
        on_refused: Callable[[str, int, str], None],
    ) -> None:
        """on_refused: told host, port and class of address that the child was refused. Raises ConfigFault."""
        self.settings = settings
        self.core = core
        self._token = token
        self._on_fault = on_fault
        self._on_refused = on_refused
        self._server: Server | None = None
        self._unix: UnixServer | None = None
        self._operator: OperatorSocket | None = None
        self._told_hosts: set[tuple[str, int]] = set()
        self._scratch = Scratch("run")
        spec, clock = settings.spec, core.clock
        self._fresh = not any(True for _ in core.pins.list(TENANT, spec.name))
        core.registry.configure(TENANT, "mcp", spec.name, _record(spec))
        self._dialler = Dialler(clock)
        self._client = PooledClient(self._dialler)
        self._doors = self._open_doors()
        self.definitions = Definitions(core.store.collection("definitions"))
        scopes = frozenset({f"{spec.name}:read", f"{spec.name}:write"})
        principal = local_principal(TENANT, settings.user, settings.url, scopes)
        self.mcp = MCPGateway(
            Settings(
                public_url=f"http://{settings.host}",
                upstreams=(spec,),
                aggregated=False,
                sessions=Bounds(ttl_s=SESSION_S, idle_s=SESSION_S),
                scratch=str(settings.paths.children),
                private=(
                    *(str(path.resolve()) for path in (settings.paths.state, settings.paths.cache, self._scratch.path)),
                    *secret_places(os.environ),
                ),
                egress_socket=self._doors.pattern if self._doors else "",
            ),
            guard=core.guard,
            auth=LocalResourceServer(token.encode("ascii"), principal),
            credentials=StaticUpstreamCredentials({spec.name: settings.credential}, os.environ),
            client=self._client,
            pins=core.pins,
            registry=core.registry,
            review=self.definitions.noting(review),
            sealer=Sealer(core.keys.secret("seal"), clock),
            clock=clock,
            tasks=core.tasks,
            support=sandbox.detect(),
        )

    async def start(self) -> None:
        """Open the child's door and the asked listener. Raises ConfigFault."""
        if self._doors is not None:
            await self._doors.start()
        edge = Edge(self.mcp, EdgeSettings(frozenset(_hosts(self.settings)), frozenset()))
        # The listeners are loaded where one was asked for: a client on a pipe does not wait for them.
        if self.settings.port:
            from firewall.net.server import Listener, Server

            self._server = Server(
                [Listener("run", "127.0.0.1", self.settings.port, edge)], self.core.clock, self.core.tasks
            )
            await self._server.start()
        elif self.settings.unix:
            from firewall.net.unix_server import UnixServer

            self._unix = UnixServer(Path(self.settings.unix), edge)
            await self._unix.start()

    def face(self, lines: Any, write: Callable[[bytes], Awaitable[None]]) -> StdioFace:
        """Return the stdio face of this run."""
        return StdioFace(
            self.mcp,
            path=self.settings.path,
            host=self.settings.host,
            token=self._token,
            lines=lines,
            write=write,
            tasks=self.core.tasks,
        )

    async def meet(self) -> Met:
        """Open and read the server beside the client's first words; return what it is.

        A server that may ask belongs to one caller, so it is not started before that one comes: wait for it.
        """
        name = self.settings.spec.name
        code = ""
        if self.settings.spec.asks:
            while not any(True for _ in self.core.pins.list(TENANT, name)):  # noqa: ASYNC110
                await asyncio.sleep(MEET_EVERY_S)  # pins are made by several hands, and nobody signals them
        else:
            code = (await self.mcp.warm(TENANT)).get(name, "")
        pins = tuple(self.core.pins.list(TENANT, name))
        words = self.mcp.words.said(TENANT, name) if code and self.settings.spec.command else None
        said = words.lines if words is not None and not words.opened else ()
        return Met(code, self._fresh, pins, self.mcp.sandbox_missing.get(name, ()), said)

    async def open_desk(self) -> None:
        """Serve the operator's socket. Loaded late and in a thread: half a second that no client waits for."""
        self._operator = await asyncio.to_thread(self._desk)
        await self._operator.start()

    def _desk(self) -> OperatorSocket:
        from firewall.admin import OperatorSocket

        core, paths = self.core, self.settings.paths
        app = desk(core, paths, self.definitions, self._dialler, lambda: self.mcp.sandbox_missing, self._on_fault)
        return OperatorSocket(paths.admin_socket, app, core.tasks, background=(self.definitions.keep,))

    async def stop(self) -> None:
        """End the face, the child, the listeners; write the last checkpoint. Within two seconds."""
        for part in (self._server, self._unix, self._operator, self._doors):
            if part is not None:
                await part.stop()
        await self.mcp.close()
        await self.core.tasks.close()
        await self._client.close()
        await self._dialler.close()
        self.definitions.write()
        self.core.close()
        self._scratch.close()

    def _open_doors(self) -> ChildDoors | None:
        spec, hosts = self.settings.spec, self.settings.hosts
        if not spec.command:
            return None
        given = {} if hosts is None else {spec.name: hosts}
        gate = EgressGate(self.core.guard, self.core.clock, TENANT, {spec.name: spec.network}, given)

        async def permits(child: str, host: str, port: int, address_class: str) -> bool:
            permitted = await gate.permits(child, host, port, address_class)
            if not permitted and (host, port) not in self._told_hosts and len(self._told_hosts) < 100:
                self._told_hosts.add((host, port))
                self._on_refused(host, port, address_class)
            return permitted

        return ChildDoors(self._scratch.path, (spec.name,), EgressProxy(self._dialler, permits))


def build(
    settings: GuardedSettings,
    token: str,
    *,
    on_fault: OnFault = lambda _code, _detail: None,
    on_refused: Callable[[str, int, str], None] = lambda _host, _port, _class: None,
) -> Guarded:
    """Return a run's objects. token: what a client of our endpoint must present. Raises ConfigFault."""
    core = open_state(settings.paths, settings.spec.name, on_fault)
    try:
        return Guarded(settings, core, token, on_fault=on_fault, on_refused=on_refused)
    except ConfigFault:
        core.close()
        raise


def _record(spec: UpstreamSpec) -> dict[str, Any]:
    return {"url": spec.url, "command": list(spec.command[:1]), "network": spec.network, "trust": spec.trust}


def _hosts(settings: GuardedSettings) -> set[str]:
    names = ("127.0.0.1", "localhost", "[::1]")
    return {f"{name}:{settings.port}" for name in names} if settings.port else {"localhost"}
