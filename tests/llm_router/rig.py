"""The router on a real socket, between a real client and a provider of ours: default policies, real scanner."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from firewall.core.errors import Unauthenticated, UpstreamFault
from firewall.decide import bundle
from firewall.decide.regorus import RegorusEngine
from firewall.net.dial import Dialler
from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server
from firewall.net.upstream import PooledClient
from llm_router.choose import Model, Models
from llm_router.choose import Provider as ProviderFacts
from llm_router.meter import Budget, Meter, Price
from llm_router.relay import Relay, RelaySettings
from llm_router.serve import LLMRouter, RouterSettings, Spent
from tests.sim import messages_provider
from tests.sim.messages_provider import MessagesProvider
from tests.sim.provider import STATUS, STREAMS, WHOLES, Provider
from tests.support.gate import TableGate
from tests.support.kit import Kit, kit, principal

PUBLIC_URL = "http://127.0.0.1:8700"
ENGINE = RegorusEngine(bundle.read(), "interpreter")
PRICE = Price.of_usd(2.0, 8.0)
WAYS = {*STREAMS, *WHOLES, *STATUS}
MESSAGE_WAYS = {*messages_provider.STREAMS, *messages_provider.WHOLES, *messages_provider.STATUS}
OTHER_WAYS = {"hang", "wrong-type", "rubbish", "not-json", "huge", "duplicate", "cut", "stalls", "no-end", "half-event"}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_time", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}},
    },
    {
        "type": "function",
        "function": {"name": "read_file", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}},
    },
]


ANTHROPIC_TOOLS = [
    {
        "name": tool["function"]["name"],
        "description": "Looks.",
        "input_schema": tool["function"]["parameters"],
    }
    for tool in TOOLS
]


class Door(TableGate):
    """core.ports.ResourceServer over a table of tokens; ``seen`` keeps which resource was asked for."""

    def __init__(self, tokens) -> None:
        self.tokens = tokens
        self.seen: list[str] = []

    def authenticate(self, headers, resource, *, default_scope):
        self.seen.append(resource)
        value = headers.get(b"authorization")
        if value is None:
            raise Unauthenticated("token_missing", scope=default_scope)
        who = self.tokens.get(value.removeprefix(b"Bearer ").decode())
        if who is None or who.audience != resource:
            raise Unauthenticated("token_invalid", scope=default_scope)
        return who

    def challenge(self, resource, code, scope):
        return f'Bearer resource_metadata="{resource}/meta", scope="{scope}", error="{code}"'.encode()


class Credentials:
    """core.ports.UpstreamCredentials: one key for every provider, or none at all."""

    def __init__(self, key: str = "operator-key") -> None:
        self.key = key

    async def headers_for(self, principal, upstream):
        if not self.key:
            raise UpstreamFault("credentials")
        return ((b"authorization", f"Bearer {self.key}".encode()),)

    def key_for(self, principal, upstream):
        return "one"


@dataclass
class Answered:
    """A reply as it came: status, headers, body, and the parsed events of a stream (the last may be "[DONE]")."""

    status: int
    headers: dict[str, str]
    body: bytes
    events: list = field(default_factory=list)

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return "".join(c["delta"].get("content") or "" for e in self.chunks for c in e["choices"])

    @property
    def chunks(self) -> list[dict]:
        return [e for e in self.events if isinstance(e, dict) and "choices" in e]

    @property
    def calls(self) -> list[dict]:
        return [t for e in self.chunks for c in e["choices"] for t in c["delta"].get("tool_calls", [])]

    @property
    def finish(self) -> str | None:
        return next((c["finish_reason"] for e in self.chunks for c in e["choices"] if c["finish_reason"]), None)

    @property
    def blocks(self) -> list[dict]:
        """The content of a message, put together from its events where it was streamed."""
        if not self.events:
            return self.json["content"]
        out: list[dict] = []
        for event in self.events:
            if event["type"] == "content_block_start":
                assert event["index"] == len(out)
                out.append({**event["content_block"]})
            elif event["type"] == "content_block_delta":
                assert event["index"] == len(out) - 1
                kind, block = event["delta"]["type"], out[-1]
                if kind == "input_json_delta":
                    block["input"] = json.loads(event["delta"]["partial_json"])
                else:
                    name = kind.removesuffix("_delta")
                    block[name] = block.get(name, "") + event["delta"][name]
        return out

    @property
    def said(self) -> str:
        return "".join(block["text"] for block in self.blocks if block["type"] == "text")

    @property
    def used(self) -> list[dict]:
        return [block for block in self.blocks if block["type"] == "tool_use"]

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def error(self) -> dict:
        last = self.events[-1] if self.events else self.json
        return last["error"]


@dataclass
class Rig:
    """Everything a test wants to look at."""

    kit: Kit
    provider: Provider
    router: LLMRouter
    tasks: Tasks
    meter: Meter
    session: aiohttp.ClientSession
    url: str
    spent: list[Spent]
    principal: object

    def body(self, model="ok", text="Hello there", **more) -> dict:
        return {"model": model, "messages": [{"role": "user", "content": text}], **more}

    async def ask(self, model="ok", text="Hello there", *, token="alice", **more) -> Answered:
        return await self.post(json.dumps(self.body(model, text, **more)).encode(), token=token)

    async def message(self, model="ok", text="Hello there", *, token="alice", **more) -> Answered:
        """Ask for a message, with the token where clients of that protocol put it."""
        body = {"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": text}], **more}
        headers = {"x-api-key": token} if token else {}
        return await self.post(json.dumps(body).encode(), token="", path="/v1/messages", **headers)

    async def post(self, raw: bytes, *, token="alice", path="/v1/chat/completions", **headers) -> Answered:
        given = {"content-type": "application/json", **headers}
        if token:
            given["authorization"] = f"Bearer {token}"
        async with self.session.post(self.url + path, data=raw, headers=given) as got:
            body = await got.read()
            answered = Answered(got.status, {k.lower(): v for k, v in got.headers.items()}, body)
        await self.settled()
        if answered.headers.get("content-type") == "text/event-stream":
            for block in body.decode().split("\n\n"):
                if block:
                    name, _, data = block.rpartition("data: ")
                    assert not name or json.loads(data)["type"] == name.removeprefix("event: ").strip()
                    answered.events.append(data if data == "[DONE]" else json.loads(data))
        return answered

    async def settled(self) -> None:
        """Return when every exchange that was recorded as begun is recorded as ended."""
        async with asyncio.timeout(3):
            while len(self.tasks) > 2 or self._open():  # the two servers' own
                await asyncio.sleep(0.002)

    def _open(self) -> int:
        records = self.kit.audit.records
        begun = sum(rec["kind"] != "outcome" and rec.get("phase") == "intent" for rec in records)
        return begun - sum(rec["kind"] == "outcome" and rec["outcome"]["intent"] != "" for rec in records)

    @property
    def rules(self) -> list[str]:
        """Rules that fired in any record."""
        return [r for rec in self.kit.audit.records for r in rec.get("decision", {}).get("rules", [])]

    @property
    def points(self) -> list[str]:
        return [str(point) for point, _, _ in self.kit.telemetry.decisions]


@asynccontextmanager
async def rig(
    scanner,
    *,
    engine=None,
    app=None,
    models=(),
    budget=None,
    key="operator-key",
    who=None,
    relay=None,
    protocol="openai",
) -> AsyncIterator[Rig]:
    """Run a provider, the router before it, and a client; ``app`` takes the place of the misbehaving provider."""
    parts = kit(engine=engine or ENGINE, scanner=scanner)
    provider = MessagesProvider() if protocol == "anthropic" else Provider()
    tasks, clock = Tasks(), SystemClock()
    upstream = Server([Listener("data", "127.0.0.1", 0, app or provider)], clock, tasks)
    await upstream.start()
    facts = ProviderFacts(
        "up", f"http://127.0.0.1:{upstream.ports['data']}/v1", protocol, network="loopback", trust="trusted"
    )
    names = sorted((MESSAGE_WAYS if protocol == "anthropic" else WAYS) | OTHER_WAYS | {"demo-small"})
    configured = [Model(name, facts, name, PRICE, 64) for name in names] + [m(facts) for m in models]
    alice = who or principal(audience=f"{PUBLIC_URL}/v1")
    spent: list[Spent] = []
    dialler = Dialler(clock)
    client = PooledClient(dialler)
    meter = Meter(parts.store.collection("spend"), parts.clock, budget or Budget())
    router = LLMRouter(
        guard=parts.guard,
        resource_server=Door({"alice": alice, "for-mcp": principal()}),
        models=Models(configured),
        meter=meter,
        relay=Relay(
            client,
            Credentials(key),
            relay or RelaySettings(whole_s=3, stream_s=5, idle_s=1, answer_bytes=200_000, event_bytes=100_000),
        ),
        clock=clock,
        tasks=tasks,
        settings=RouterSettings(PUBLIC_URL, body_bytes=100_000),
        on_spent=spent.append,
    )
    front = Server([Listener("data", "127.0.0.1", 0, router)], clock, tasks)
    await front.start()
    async with aiohttp.ClientSession() as session:
        try:
            yield Rig(
                parts, provider, router, tasks, meter, session, f"http://127.0.0.1:{front.ports['data']}", spent, alice
            )
        finally:
            await front.stop(grace_s=0.1)
            await upstream.stop(grace_s=0.1)
            await client.close()
            await dialler.close()
            await tasks.close()
