"""Random MCP on both sides of the gateway: hostile clients of both eras, and servers that answer with damage.

Whatever happens: an answer of ours is one JSON-RPC message with the id that was asked, or nothing that is one;
no request fails inside; and what belongs to one caller never stands in an answer to another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from firewall.net.runtime import SystemClock, Tasks
from firewall.net.server import Listener, Server
from tests.fuzz.mutate import mutated
from tests.sim.planted import Era, Planted
from tests.support.composed import Answer, read_answer, request_bytes
from tests.support.mcp import MODERN_META, Stack, person, running, spec

CALLERS = ("ann", "bob")
ASKS = frozenset({"sampling", "elicitation", "roots"})
ABLE = {"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {}}
IDS: tuple[Any, ...] = (0, -7, 2**53 - 1, "1", "x" * 200, "", None, True, 1.5, [1], {}, 2**53, "x" * 300)
# What a server may put where a result belongs; {id} is the id that it was asked with.
DAMAGE: tuple[str, ...] = (
    '{"jsonrpc":"2.0","id":{id},"result":{"resultType":"surprise","content":[]}}',
    '{"jsonrpc":"2.0","id":{id},"result":{"resultType":"input_required"}}',
    '{"jsonrpc":"2.0","id":{id},"result":{"resultType":"input_required","inputRequests":{"q":{"method":"tools/call"}}}}',
    '{"jsonrpc":"2.0","id":{id},"result":{"resultType":"input_required","requestState":"x","inputRequests":[]}}',
    '{"jsonrpc":"2.0","id":{id},"result":{"resultType":"task","taskId":7}}',
    '{"jsonrpc":"2.0","id":{id},"result":null}', '{"jsonrpc":"2.0","id":{id},"result":[]}', '{"jsonrpc":"2.0","id":{id}}',
    '{"jsonrpc":"2.0","id":{id},"result":{},"error":{"code":1,"message":"x"}}', '{"jsonrpc":"2.0","id":{id},"error":"no"}',
    '{"jsonrpc":"2.0","id":{id},"error":{"code":"x","message":7}}', '{"jsonrpc":"2.0","id":null,"result":{}}',
    '{"jsonrpc":"2.0","id":{id},"error":{"code":-32042,"message":"x","data":{"elicitations":[{"mode":"url","url":"javascript:x"}]}}}',
    '{"jsonrpc":"2.0","id":999999,"result":{"content":[]}}', '{"jsonrpc":"2.0","id":"{id}","result":{"content":[]}}',
    '{"jsonrpc":"2.0","id":{id},"result":{"content":[{"type":"text","text":"\\ud800"}]}}',
    '{"jsonrpc":"2.0","id":{id},"result":{"content":[{"type":"unknown"}],"tools":7,"resources":{},"contents":0,"messages":1}}',
    '{"jsonrpc":"2.0","id":{id},"result":{"content":[]},"result":{"content":[]}}', '[{"jsonrpc":"2.0","id":{id},"result":{}}]',
    '{"jsonrpc":"1.0","id":{id},"result":{}}', "", "null", "{", "\x00",
)  # fmt: skip


@dataclass
class Outcome:
    """What a run saw. findings: what was wrong, with what was sent."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    codes: Counter[int] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


class Damaging:
    """A planted server whose answers are damaged now and then, byte by byte or whole."""

    def __init__(self, inner: Planted, chance: random.Random, share: float) -> None:
        self.inner = inner
        self.chance = chance
        self.share = share

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        asked: list[bytes] = []

        async def listen() -> Any:
            message = await receive()
            asked.append(message.get("body", b""))
            return message

        hurt = self.chance.random() < self.share and scope["method"] == "POST"

        async def say(message: Any) -> None:
            body = message.get("body", b"")
            if hurt and body and message["type"] == "http.response.body" and b"supportedVersions" not in body:
                message = {**message, "body": self.damaged(body, b"".join(asked))}
            await send(message)

        await self.inner(scope, listen, say)

    def damaged(self, body: bytes, asked: bytes) -> bytes:
        """Return something else instead of a good answer."""
        chance = self.chance
        event = body.startswith(b"event:") or body.startswith(b"data:")
        if chance.random() < 0.4:
            body = mutated([body], chance)
            return body + (b"\n\n" if event else b"")
        try:
            rpc_id = json.dumps(json.loads(asked).get("id"))
        except (ValueError, AttributeError):
            rpc_id = "1"
        told = chance.choice(DAMAGE).replace("{id}", rpc_id).encode()
        if chance.random() < 0.1:
            told = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":"' + b"x" * 5_000_000 + b'"}}'
        if chance.random() < 0.1:
            told = told.replace(b'"', b'"\xff', 1)
        return b"event: message\ndata: " + told + b"\n\n" if event else told


@contextlib.asynccontextmanager
async def rig(era: Era, chance: random.Random, share: float) -> AsyncIterator[tuple[Stack, Planted]]:
    """Run a gateway for two callers in front of one server that damages a share of its answers."""
    inner = Planted(era)
    tasks = Tasks()
    server = Server([Listener("damaging", "127.0.0.1", 0, Damaging(inner, chance, share))], SystemClock(), tasks)
    await server.start()
    inner.origin = f"http://127.0.0.1:{server.ports['damaging']}"
    people = {name: person("planted:read", "planted:write", subject=f"u_{name}") for name in CALLERS}
    one = spec("planted", url=inner.url, asks=ASKS, era=era, answer_s=1.0, deadline_s=2.0, idle_s=2.0, list_age_s=60.0)
    try:
        async with running(one, people=people, settings={"page": 5}) as stack:
            yield stack, inner
    finally:
        await server.stop(grace_s=0.0)
        await tasks.close()


class Client:
    """A caller that remembers what it was given, and uses it wrongly."""

    def __init__(self, stack: Stack, name: str, chance: random.Random, kept: dict[str, list[tuple[str, str]]]) -> None:
        self.stack = stack
        self.name = name
        self.chance = chance
        self.kept = kept

    def handle(self, kind: str) -> str:
        """Return a session, cursor, state or task: one's own, another's, a damaged or an invented one."""
        known = self.kept[kind]
        if not known or self.chance.random() < 0.1:
            return "x" * self.chance.choice((1, 40, 128))
        value = self.chance.choice(known)[1]
        if self.chance.random() < 0.3:
            at = self.chance.randrange(len(value))
            value = value[:at] + self.chance.choice("Aa0_-") + value[at + 1 :]
        return value

    def request(self, host: str) -> tuple[bytes, Any, str]:
        """Return (bytes, id, method) of one request."""
        chance, era = self.chance, self.chance.choice(("legacy", "modern"))
        verb = chance.choice(("POST",) * 12 + ("GET", "DELETE"))
        method, params = self.message()
        meta: dict[str, Any] = {
            "progressToken": chance.choice(("p", 1, 1.5, None, [])),
            "com.example/of": f"of-{self.name}",
        }
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if era == "modern" or method == "server/discover":
            meta |= {**MODERN_META, "io.modelcontextprotocol/clientCapabilities": ABLE}
            headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
            named = params.get("name", params.get("uri", params.get("taskId")))
            if isinstance(named, str) and named.isascii():
                headers["mcp-name"] = named
        elif method != "initialize":
            headers |= {"mcp-session-id": self.handle("session"), "mcp-protocol-version": "2025-11-25"}
        if chance.random() < 0.1:
            headers["last-event-id"] = self.handle("event")
        if chance.random() < 0.08 and headers:
            headers.pop(chance.choice(list(headers)))
        pairs = [*headers.items(), ("authorization", f"Bearer {self.name}"), ("connection", "close")]
        if chance.random() < 0.05:
            pairs.append(chance.choice(pairs))
        rpc_id = chance.choice(IDS) if chance.random() < 0.15 else chance.randrange(1, 1000)
        body: dict[str, Any] = {"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": {**params, "_meta": meta}}
        if chance.random() < 0.1:  # an answer to a question that nobody asked
            body = {"jsonrpc": "2.0", "id": chance.choice(("q1", 1, "srv-1")), "result": {"action": "accept"}}
        data = json.dumps(body).encode()
        if chance.random() < 0.15:
            data = mutated([data], chance)
        return request_bytes("/mcp/planted", host, pairs, data, verb=verb), body.get("id"), method

    def message(self) -> tuple[str, dict[str, Any]]:
        """Return a method with parameters that are right, or nearly."""
        chance = self.chance
        tools = (
            "text",
            "structured",
            "progress",
            "log",
            "ask-form",
            "ask-url",
            "ask-sampling",
            "ask-roots",
            "task",
            "error",
        )
        choices: tuple[tuple[str, dict[str, Any]], ...] = (
            ("initialize", {"protocolVersion": "2025-11-25", "capabilities": ABLE, "clientInfo": {"name": "c", "version": "1"}}),
            ("server/discover", {}),
            ("ping", {}),
            ("tools/list", {"cursor": self.handle("cursor")} if chance.random() < 0.5 else {}),
            ("tools/call", {"name": chance.choice(tools), "arguments": {"of": f"of-{self.name}"}}),
            ("tools/call", {"name": "ask-form", "arguments": {}, "requestState": self.handle("state"),
                            "inputResponses": {"q": {"action": "accept", "content": {"colour": f"of-{self.name}"}}}}),
            ("tools/call", {"name": "task", "arguments": {}, "task": {"ttl": chance.choice((60000, -1, "x", 10**15))}}),
            ("resources/list", {}), ("resources/templates/list", {}), ("prompts/list", {}),
            ("resources/read", {"uri": chance.choice(("test://one", "file:///etc/passwd", "test://of/../../x", "x" * 9000))}),
            ("prompts/get", {"name": "greet", "arguments": {"who": f"of-{self.name}"}}),
            ("completion/complete", {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "who", "value": "A"}}),
            ("logging/setLevel", {"level": chance.choice(("info", "loud", 7))}),
            ("resources/subscribe", {"uri": "test://one"}), ("resources/unsubscribe", {"uri": "test://one"}),
            (chance.choice(("tasks/get", "tasks/result", "tasks/cancel", "tasks/update")), {"taskId": self.handle("task")}),
            ("tasks/list", {}), ("notifications/cancelled", {"requestId": 1}), ("notifications/roots/list_changed", {}),
            ("notifications/progress", {"progressToken": "p", "progress": 1}), ("no/such", {}),
        )  # fmt: skip
        return chance.choice(choices)

    def learn(self, answer: Answer) -> None:
        """Keep every handle of an answer."""
        if session := answer.header("mcp-session-id"):
            self.kept["session"].append((self.name, session))
        for line in answer.body.decode("utf-8", "replace").split("\n"):
            if line.startswith("id:"):
                self.kept["event"].append((self.name, line[3:].strip()))
        for said in _messages(answer):
            result = said.get("result")
            if not isinstance(result, dict):
                continue
            task = result.get("task") if isinstance(result.get("task"), dict) else result
            for kind, value in (
                ("cursor", result.get("nextCursor")),
                ("state", result.get("requestState")),
                ("task", task.get("taskId")),
            ):
                if isinstance(value, str):
                    self.kept[kind].append((self.name, value))


def _messages(answer: Answer) -> list[Any]:
    if answer.header("content-type").startswith("text/event-stream"):
        return [said for said in answer.events if isinstance(said, dict)]
    found = json.loads(answer.body) if answer.body else {}
    return [found] if isinstance(found, dict) else []


async def fuzz_mcp(era: Era, *, seconds: float, seed: int, most: int = 1_000_000, share: float = 0.4) -> Outcome:
    """Send requests until the time is up; check each answer."""
    out, chance = Outcome(), random.Random(f"{seed}/{era}")
    until = time.monotonic() + seconds
    async with rig(era, chance, share) as (stack, _):
        kept: dict[str, list[tuple[str, str]]] = {k: [] for k in ("session", "cursor", "state", "task", "event")}
        clients = [Client(stack, name, chance, kept) for name in CALLERS]
        while time.monotonic() < until and out.sent < most and len(out.findings) < 5:
            batch = [chance.choice(clients) for _ in range(4)]
            sent = [client.request(f"127.0.0.1:{stack.port}") for client in batch]
            out.sent += len(batch)
            told = await asyncio.gather(*(_judge(stack, c, *one, out) for c, one in zip(batch, sent, strict=True)))
            faults = [f for f in stack.kit.faults if type(f).__name__ not in ("PolicyFault", "StateUnavailable")]
            if faults:
                told.append(f"inside: {faults[0]!r}")
                stack.kit.faults.clear()
            out.findings += [f"{said}\n{one[0]!r}" for said, one in zip(told, [*sent, sent[-1]], strict=False) if said]
    return out


async def _judge(stack: Stack, client: Client, data: bytes, rpc_id: Any, method: str, out: Outcome) -> str:
    """Send one request; return what was wrong with the answer, or ""."""
    try:
        answer = await _exchange(stack.port, data)
    except TimeoutError:
        return "" if data.startswith(b"GET") else f"no answer to {method}"
    except (OSError, EOFError) as error:
        return f"no answer to {method}: {type(error).__name__}"
    out.statuses[answer.status] += 1
    if answer.status == 500 or b"could not be handled" in answer.body:
        return f"an internal error: {answer.status} {answer.body[:300]!r}"
    try:
        said = _messages(answer)
    except ValueError:
        return f"no JSON: {answer.body[:200]!r}"
    client.learn(answer)
    other = next(name for name in CALLERS if name != client.name)
    if f"of-{other}" in answer.text:
        return f"words of {other} in an answer to {client.name}"
    for one in said:
        if "error" in one:
            out.codes[one["error"]["code"]] += 1
        if "method" not in one and one.get("id") is not None and one["id"] != rpc_id and b'"id"' in data:
            sent = data.partition(b"\r\n\r\n")[2]
            if json.dumps(one["id"]).encode() not in sent and b"last-event-id" not in data:
                return f"an answer to {one['id']!r}, asked was {rpc_id!r}"
    return ""


async def _exchange(port: int, data: bytes) -> Answer:
    """Send bytes and read one answer. A stream that stays open is left after a moment, with what it said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 23)
    try:
        writer.write(data)
        async with asyncio.timeout(0.5 if data.startswith(b"GET") else 8):
            return await read_answer(reader)
    finally:
        writer.close()
