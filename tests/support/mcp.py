"""The MCP gateway in one process: real guard, real listeners, real upstreams; tokens from a table."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from firewall.core.errors import Unauthenticated
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.ports import UpstreamCredentials
from firewall.core.principal import Principal
from firewall.enforce.pins import PinRules, Pins
from firewall.enforce.registry import Registry
from firewall.net.dial import Dialler
from firewall.net.edge import Edge, EdgeSettings
from firewall.net.renewing import RenewingClient
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server
from firewall.net.upstream import PooledClient
from firewall.state.vault import Sealer
from mcp_gateway.owner import Neighbours
from mcp_gateway.sandbox import Support
from mcp_gateway.serve import MCPGateway
from mcp_gateway.settings import Settings, UpstreamSpec
from tests.support.gate import TableGate
from tests.support.kit import Kit, kit, principal
from tests.support.node import Spread, begin, neighbours

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # loopback in clear: nobody reads all authorities for each request
NO_WALLS = Support(0, False, False)
WORKERS = 1  # of `running`; `tests/mcp_gateway/conftest.py` runs the suites that touch state with several
PUBLIC = "http://127.0.0.1:8700"
BIN = Path(sys.executable).parent
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


class TokenTable(TableGate):
    """A ResourceServer whose tokens are keys of a table; the audience is the resource that is asked for."""

    def __init__(self, people: Mapping[str, Principal]) -> None:
        self.people = dict(people)

    def authenticate(self, headers: Mapping[bytes, bytes], resource: str, *, default_scope: str) -> Principal:
        value = headers.get(b"authorization", b"").decode()
        if not value:
            raise Unauthenticated("token_missing", scope=default_scope)
        found = self.people.get(value.removeprefix("Bearer "))
        if found is None or (found.audience != resource and found.audience != "any"):
            raise Unauthenticated("token_invalid", scope=default_scope)
        return replace(found, audience=resource)

    def challenge(self, resource: str, code: str, scope: str) -> bytes:
        return f'Bearer resource_metadata="{PUBLIC}/.well-known", scope="{scope}", error="{code}"'.encode()


class Credentials:
    """Static credentials per upstream."""

    def __init__(self, headers: Mapping[str, tuple[tuple[bytes, bytes], ...]] | None = None) -> None:
        self.headers = dict(headers or {})

    async def headers_for(self, who: Principal, upstream: str) -> tuple[tuple[bytes, bytes], ...]:
        return self.headers.get(upstream, ())

    def key_for(self, who: Principal, upstream: str) -> str:
        return "static"


@dataclass
class Stack:
    """A running gateway; ``url`` names an endpoint, ``client`` opens the real SDK client on it."""

    gateway: MCPGateway
    kit: Kit
    pins: Pins
    registry: Registry
    tasks: Tasks
    auth: TokenTable
    port: int = 0
    sdk_errors: list[str] = field(default_factory=list)
    changes: list[JSONObject] = field(default_factory=list)
    others: list[MCPGateway] = field(default_factory=list)

    @property
    def workers(self) -> list[MCPGateway]:
        """Every gateway of the node; the first is ``gateway``, where sessions live."""
        return [self.gateway, *self.others]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @contextlib.asynccontextmanager
    async def client(
        self, path: str, *, mode: str = "auto", token: str = "alice", **options: Any
    ) -> AsyncIterator[Client]:
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=20, verify=NO_TLS) as http:
            transport = streamable_http_client(self.url(path), http_client=http)
            async with Client(transport, mode=mode, read_timeout_seconds=15, **options) as client:
                yield client

    async def post(
        self, path: str, body: JSON | bytes, *, token: str = "alice", headers: Mapping[str, str] | list | None = None
    ) -> httpx2.Response:
        """POST raw bytes or a JSON value with the headers of a careful client."""
        base = [
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            *([("authorization", f"Bearer {token}")] if token else []),
        ]
        extra = list(headers.items()) if isinstance(headers, Mapping) else list(headers or [])
        named = {name.lower() for name, _ in extra}
        async with httpx2.AsyncClient(timeout=20, verify=NO_TLS) as http:
            content = body if isinstance(body, bytes) else None
            return await http.post(
                self.url(path),
                **({"content": content} if content is not None else {"json": body}),
                headers=[*[h for h in base if h[0] not in named], *extra],
            )

    async def modern(
        self,
        path: str,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        token: str = "alice",
        rpc_id: Any = 1,
        **headers: str,
    ) -> httpx2.Response:
        """POST a correct modern request."""
        given = {**(params or {})}
        given["_meta"] = {**MODERN_META, **given.get("_meta", {})}
        body = {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": given}
        routed = {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
        if "name" in given or method == "resources/read":
            routed["mcp-name"] = given["uri" if method == "resources/read" else "name"]
        return await self.post(path, body, token=token, headers={**routed, **headers})


def spec(name: str, **changes: Any) -> UpstreamSpec:
    """Return the configuration of an upstream of a test."""
    given: dict[str, Any] = {"name": name, "tenants": ("default",), "network": "loopback", "list_age_s": 0.0}
    given.update(changes)
    return UpstreamSpec(**given)


def person(*scopes: str, **changes: Any) -> Principal:
    """Return a user for any audience."""
    return principal(scopes=frozenset(scopes), audience="any", **changes)


@contextlib.asynccontextmanager
async def running(
    *specs: UpstreamSpec,
    people: Mapping[str, Principal] | None = None,
    credentials: UpstreamCredentials | None = None,
    review: Callable[[JSON], list[Finding]] = lambda _definition: [],
    support: Support = NO_WALLS,
    scratch: str = "",
    edge: bool = True,
    origins: frozenset[str] = frozenset(),
    approved: bool = True,
    settings: Mapping[str, Any] | None = None,
    near: Neighbours | None = None,
    rules: PinRules = PinRules(),  # noqa: B008  frozen
    **guard: Any,
) -> AsyncIterator[Stack]:
    """Run a gateway in front of upstreams on a free port."""
    parts = kit(**guard)
    registry = Registry(parts.store.collection("registry"), parts.marks, parts.clock, lambda _record: None)
    tenants = {p.tenant for p in (people or {"alice": person()}).values()}
    for one in specs:
        for tenant in sorted(tenants):
            registry.register(tenant, "mcp", one.name, {}, by="test")
            if approved:
                registry.approve(tenant, "mcp", one.name, by="test")
    changes: list[JSONObject] = []
    pins = Pins(parts.store.collection("pins"), parts.marks, parts.clock, rules, changes.append)
    tasks = Tasks()
    everyone = people or {"alice": person(*(f"{s.name}:{right}" for s in specs for right in ("read", "write")))}
    client = RenewingClient(PooledClient(Dialler(SystemClock())))
    auth = TokenTable(everyone)

    def worker(beside: Neighbours | None) -> MCPGateway:
        return MCPGateway(
            Settings(PUBLIC, specs, scratch=scratch, **(settings or {})),
            guard=parts.guard,
            auth=auth,
            credentials=credentials or Credentials(),
            client=client,
            pins=pins,
            registry=registry,
            review=review,
            sealer=Sealer(b"k" * 32, SystemClock()),
            clock=SystemClock(),
            tasks=tasks,
            support=support,
            near=beside,
            burnt=parts.store.collection("mcp_request_state"),
            task_rows=parts.store.collection("mcp_tasks"),
        )

    async with contextlib.AsyncExitStack() as ends:
        ends.push_async_callback(tasks.close)
        ends.push_async_callback(client.close)
        several = await ends.enter_async_context(neighbours(WORKERS, tasks)) if WORKERS > 1 and near is None else []
        gateways = [worker(one) for one in several] or [worker(near)]
        gateway: Any = Spread(gateways) if several else gateways[0]
        await begin(several, gateways if several else [])
        app = Edge(gateway, EdgeSettings(frozenset({"127.0.0.1", "localhost"}), origins)) if edge else gateway
        server = Server([Listener("mcp", "127.0.0.1", 0, app)], SystemClock(), tasks)
        await server.start()
        try:
            port = server.ports["mcp"]
            yield Stack(gateways[0], parts, pins, registry, tasks, auth, port, changes=changes, others=gateways[1:])
        finally:
            for one in gateways:
                await one.close()
            await server.stop(grace_s=0.2)


@contextlib.asynccontextmanager
async def served(app: Any, port: int = 0, **tls: str) -> AsyncIterator[str]:
    """Serve an ASGI application of the SDK on loopback; yield its origin. port: 0 takes a free one; tls: uvicorn's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="critical", timeout_graceful_shutdown=0, **tls
        )
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await task
