"""Random requests through the whole firewall: never an internal error, never a forwarded byte without a decision."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS
from tests.invariants.conftest import house_config
from tests.support.composed import Answer, Composed, composed, modern, read_answer, request_bytes
from tests.support.world import world

PATHS = (
    "/mcp/demo",
    "/mcp",
    "/a2a/agent",
    "/v1/chat/completions",
    "/v1/messages",
    "/token",
    "/mcp/demo/",
    "/revoke",
    "/v1/models",
    "/authorize",
)
HEADERS = {
    "content-type": ("application/json", "text/plain", "application/x-www-form-urlencoded", ""),
    "accept": ("application/json, text/event-stream", "application/json", "text/event-stream", "*/*", "x"),
    "mcp-protocol-version": ("2026-07-28", "2025-11-25", "x"),
    "mcp-method": ("tools/call", "tools/list", "x"),
    "mcp-name": ("echo", "demo__echo", "=?base64?ZWNobw==?=", "x"),
    "a2a-version": ("1.0", "0.3", ""),
    "anthropic-version": ("2023-06-01", "x"),
    "traceparent": ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-x"),
    "mcp-session-id": ("x",),
    "x-forwarded-for": ("1.2.3.4",),
}


@dataclass
class Outcome:
    """What a run saw. findings: the request and what was wrong."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    findings: list[tuple[bytes, str]] = field(default_factory=list)


def request(chance: random.Random, tokens: dict[str, str], host: str) -> bytes:
    """Return one request: mostly well framed, with a body that is good, damaged or noise."""
    path = chance.choice(PATHS)
    corpus = [good for target in TARGETS.values() for good in target.corpus]
    call, headers = modern("tools/call", {"name": "echo", "arguments": {"text": "hello"}})
    corpus += [json.dumps(call).encode()] * 12
    body = chance.choice(corpus) if chance.random() < 0.25 else mutated(corpus, chance)
    given = dict(headers) if chance.random() < 0.6 else {}
    for name, values in HEADERS.items():
        if chance.random() < 0.2:
            given[name] = chance.choice(values)
    pairs = list(given.items())
    token = tokens.get(path, tokens["/mcp/demo"])
    if chance.random() < 0.9:
        pairs.append(("authorization", f"Bearer {token}" if chance.random() < 0.9 else "Bearer x.y.z"))
    if pairs and chance.random() < 0.05:
        pairs.append(chance.choice(pairs))
    return request_bytes(path, host, pairs, body, verb=chance.choice(("POST",) * 9 + ("GET",)))


async def fuzz_whole(state: Path, *, seconds: float, seed: int, most: int = 1_000_000) -> Outcome:
    """Send requests until the time is up; check each answer, and at the end what was forwarded against the log."""
    out, chance = Outcome(), random.Random(seed)
    async with world() as upstreams:
        async with composed(house_config(upstreams, state)) as wall:
            tokens = {
                "/mcp/demo": wall.mint("/mcp/demo", "demo:read", "demo:write"),
                "/mcp": wall.mint("/mcp", "demo:read"),
                "/a2a/agent": wall.mint("/a2a/agent", "agent:send"),
                "/v1/chat/completions": wall.mint("/v1", "llm:invoke"),
                "/v1/messages": wall.mint("/v1", "llm:invoke"),
                "/v1/models": wall.mint("/v1", "llm:invoke"),
            }
            until = time.monotonic() + seconds
            while time.monotonic() < until and out.sent < most and len(out.findings) < 5:
                data = request(chance, tokens, wall.url[7:])
                out.sent += 1
                told = await judge(wall, data, out)
                if told:
                    out.findings.append((data, told))
            await asyncio.sleep(0.05)
            records = wall.records("decision")
        asked = [r for r in records if r["phase"] == "intent" and r["subject"] != "bartizan"]
        forwarded = upstreams.calls()
        if len(asked) < len(forwarded):
            told = f"{len(forwarded)} requests went upstream, {len(asked)} intents are recorded"
            out.findings.append((b"", told))
    return out


async def judge(wall: Composed, data: bytes, out: Outcome) -> str:
    """Send one request; return what was wrong with the answer, or ""."""
    wall.faults.clear()
    try:
        answer = await exchange(wall.port, data)
    except (TimeoutError, OSError, EOFError, ValueError) as error:
        return f"no answer: {type(error).__name__}"
    out.statuses[answer.status] += 1
    if answer.status == 500 or any(detail not in ("PolicyFault", "StateUnavailable") for _, detail in wall.faults):
        return f"{answer.status} {answer.body[:300]!r} {wall.faults}"
    kind = answer.header("content-type").partition(";")[0]
    if kind == "application/json" and answer.body:
        try:
            json.loads(answer.body)
        except ValueError:
            return "the answer says JSON and is none"
    if b"Traceback" in answer.body or b"could not be handled" in answer.body:
        return f"an internal error: {answer.body[:300]!r}"
    return ""


async def exchange(port: int, data: bytes) -> Answer:
    """Send bytes on a connection of their own and read one answer."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            return await read_answer(reader)
        finally:
            writer.close()
