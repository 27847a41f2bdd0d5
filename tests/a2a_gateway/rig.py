"""One firewall face for A2A in this process: the real guard, policy, scanner, stores and sockets."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from joserfc.jwk import ECKey
from uvicorn.server import ServerState

from a2a_gateway.inventory import AgentSpec, CardKey, Inventory, InventorySettings
from a2a_gateway.parked import Parking, ParkingSettings
from a2a_gateway.serve import A2AGateway, ServeSettings
from a2a_gateway.tasks import COLLECTION, TaskBook
from a2a_gateway.upstream import Upstream, UpstreamSettings
from firewall.core.action import Headers
from firewall.core.errors import Unauthenticated
from firewall.core.ports import Collection
from firewall.core.principal import Principal
from firewall.decide import bundle
from firewall.decide.regorus import RegorusEngine
from firewall.detect.scan import PatternScanner
from firewall.detect.tool_review import review
from firewall.enforce.pins import Pins
from firewall.enforce.registry import Registry
from firewall.net.dial import Dialler
from firewall.net.runtime import RandomIds, SystemClock, Tasks
from firewall.net.upstream import PooledClient
from firewall.state.vault import Sealer
from tests.support.gate import TableGate
from tests.support.kit import Kit, kit, principal

# One engine for all tests of this process: making one costs more than most tests.
ENGINE = RegorusEngine(bundle.read(), "interpreter")


class Tokens(TableGate):
    """A ResourceServer over a table of tokens: the front door has its own tests."""

    def __init__(self) -> None:
        self.known: dict[bytes, Principal] = {}

    def authenticate(self, headers, resource: str, *, default_scope: str) -> Principal:
        token = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if not token:
            raise Unauthenticated("token_missing", scope=default_scope)
        found = self.known.get(token)
        if found is None or found.audience != resource:
            raise Unauthenticated("token_invalid", scope=default_scope)
        return found

    def challenge(self, resource: str, code: str, scope: str) -> bytes:
        return f'Bearer resource_metadata="{resource}", scope="{scope}"'.encode()


class OwnCredential:
    """What we present to agents."""

    def __init__(self, headers: Headers = ((b"x-agent-key", b"ours"),)) -> None:
        self.headers = headers

    async def headers_for(self, principal: Principal, upstream: str) -> Headers:
        return self.headers

    def key_for(self, principal: Principal, upstream: str) -> str:
        return upstream


@dataclass
class Rig:
    """What a flow test holds."""

    url: str
    kit: Kit
    registry: Registry
    pins: Pins
    inventory: Inventory
    book: TaskBook
    tokens: Tokens
    tasks: Tasks
    recorded: list = field(default_factory=list)

    @property
    def resource(self) -> str:
        return f"{self.url}/a2a/echo"

    def token(self, who: str = "u_alice", **changes) -> str:
        given = {"subject": who, "audience": self.resource, "scopes": frozenset({"echo:send"}), **changes}
        token = f"t-{who}-{len(self.tokens.known)}"
        self.tokens.known[token.encode()] = principal(**given)
        return token

    def points(self) -> list[tuple[str, str]]:
        return [(point.value, effect) for point, effect, _ in self.kit.telemetry.decisions]

    def rules(self) -> set[str]:
        return {rule for _, _, rules in self.kit.telemetry.decisions for rule in rules}


def free_socket() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    return listener


@asynccontextmanager
async def serving(app, listener: socket.socket) -> AsyncIterator[str]:
    """Run an ASGI application on a loopback socket with uvicorn's protocol; yields its origin.

    Not `uvicorn.Server`: its loop stops by polling, which would cost each test tenths of a second.
    """
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}), sock=listener
    )
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


@asynccontextmanager
async def firewall(
    card_url: str,
    keys,
    *,
    scanner: PatternScanner,
    network: str = "loopback",
    approve: bool = True,
    engine=None,
    serve: ServeSettings | None = None,
    upstream: UpstreamSettings | None = None,
    credential: OwnCredential | None = None,
    replay_s: int = 600,
    tasks_errors: list | None = None,
    rows: Collection | None = None,
    parking: ParkingSettings | None = None,
    **spec,
) -> AsyncIterator[Rig]:
    """Start a firewall with one registered agent called ``echo``. rows: of another one, to share or to take over."""
    listener = free_socket()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    parts = kit(engine=engine or ENGINE, scanner=scanner)
    recorded: list = []
    clock = SystemClock()
    registry = Registry(parts.store.collection("registry"), parts.marks, clock, recorded.append)
    pins = Pins(parts.store.collection("pins"), parts.marks, clock)
    dialler = Dialler(clock)
    signing = CardKey(ECKey.generate_key("P-256"), "fw-1")
    inventory = Inventory(
        registry=registry,
        pins=pins,
        dialler=dialler,
        review=review,
        clock=clock,
        signing=signing,
        settings=InventorySettings(url, card_ttl_s=0.0, card_fetch_s=2.0),
    )
    asked = AgentSpec(card_url, keys, network=network, **spec)  # type: ignore[arg-type]
    registry.register("default", "a2a", "echo", asked.to_json(), by="config")
    if approve:
        registry.approve("default", "a2a", "echo", by="config")
    client = PooledClient(dialler)
    kept = rows if rows is not None else parts.store.collection(COLLECTION)
    book = TaskBook(kept, b"s" * 32, clock, replay_s=replay_s)
    sealer = Sealer(b"e" * 32, parts.clock)
    tokens = Tokens()
    errors = tasks_errors if tasks_errors is not None else []
    tasks = Tasks(lambda name, error: errors.append((name, error)))
    gateway = A2AGateway(
        guard=parts.guard,
        resource_server=tokens,
        inventory=inventory,
        book=book,
        parking=Parking(kept, book, sealer, parts.clock, os.urandom, parking),
        upstream=Upstream(client, credential or OwnCredential(), upstream),
        tasks=tasks,
        settings=serve,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(dialler.close)
        stack.push_async_callback(client.close)
        stack.push_async_callback(tasks.close)
        await stack.enter_async_context(serving(gateway, listener))
        yield Rig(url, parts, registry, pins, inventory, book, tokens, tasks, recorded)


__all__ = ["OwnCredential", "RandomIds", "Rig", "Tokens", "firewall", "free_socket", "serving"]
