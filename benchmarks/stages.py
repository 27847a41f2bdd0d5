"""CPU µs of each stage of one enforced ``tools/call``, on the real objects of a running composition.

`app.build` makes the worker exactly as ``bartizan up`` does; one real call goes through its data plane
to the benchmark's upstream and shows the two Actions that the guard decides about. Each stage is then
called in a warm loop on those very objects; the figure is the minimum of several repeats, since a
neighbour can only make a loop slower. Time is this thread's CPU: the audit flusher counts in the whole
(``tools_call.*``), not here. The stages add up to less than the whole: what is left is the listener,
the event loop and the gateway's own glue, and ``stage.app.*`` holds those but for the listener.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from firewall.core.action import Action
from firewall.core.bounds import UPSTREAM_BODY_BYTES
from firewall.core.decision import EFFECT_NAMES
from firewall.core.exchange import Exchange
from firewall.core.permit import Cleared, Permit, Refusal
from firewall.core.principal import Principal
from firewall.decide.contract import parse_decision
from firewall.decide.question import encode_input
from firewall.enforce.guard import Guard
from firewall.enforce.rounds import Question
from firewall.net import asgi
from firewall.net.upstream import Target
from firewall.wire import strict_json
from firewall.worker import Worker
from mcp_gateway import incoming, message

Row = tuple[str, float, str]
Pairs = list[tuple[bytes, bytes]]


def cost_us(call: Callable[[], object], *, loops: int = 1500, repeats: int = 5) -> float:
    """Return the CPU µs of one call: minimum over repeats of the mean over loops."""
    for _ in range(min(200, loops)):
        call()
    best = float("inf")
    for _ in range(repeats):
        started = time.thread_time_ns()
        for _ in range(loops):
            call()
        best = min(best, (time.thread_time_ns() - started) / loops / 1000)
    return best


async def awaited_us(call: Callable[[], Awaitable[object]], *, loops: int = 400, repeats: int = 5) -> float:
    """As `cost_us` for a coroutine function: this thread's CPU, the event loop's share included."""
    for _ in range(50):
        await call()
    best = float("inf")
    for _ in range(repeats):
        started = time.thread_time_ns()
        for _ in range(loops):
            await call()
        best = min(best, (time.thread_time_ns() - started) / loops / 1000)
    return best


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as the listener hands it to the application."""

    path: str
    headers: Pairs
    body: bytes

    def scope(self) -> dict[str, Any]:
        """Return a fresh ASGI scope."""
        return {
            "type": "http",
            "method": "POST",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "headers": list(self.headers),
            "client": ("127.0.0.1", 1),
            "scheme": "http",
        }

    async def through(self, app: asgi.App) -> tuple[int, bytes]:
        """Send it through an application; return status and body of the answer."""
        status, parts = 0, []

        given = False

        async def receive() -> asgi.Message:
            nonlocal given
            if given:
                await asyncio.get_running_loop().create_future()  # this client never leaves
            given = True
            return {"type": "http.request", "body": self.body, "more_body": False}

        async def send(event: asgi.Message) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            else:
                parts.append(event.get("body", b""))

        await app(self.scope(), receive, send)
        return status, b"".join(parts)


class Watched(Guard):
    """A guard that remembers the Actions it was asked about."""

    seen: list[tuple[Action, Exchange]]

    async def clear(self, action: Action, exchange: Exchange) -> Cleared | Refusal:
        """Remember, then decide as ever."""
        self.seen.append((action, exchange))
        return await super().clear(action, exchange)


async def actions_of(worker: Worker, request: Request) -> tuple[tuple[Action, Exchange], tuple[Action, Exchange]]:
    """Return request and result Action of one real call. Raises RuntimeError when it was not answered."""
    guard = worker.guard
    await request.through(worker.data_plane)  # opens the upstream and reads its tools
    guard.__class__, plain = Watched, guard.__class__
    assert isinstance(guard, Watched)
    guard.seen = []
    try:
        status, body = await request.through(worker.data_plane)
    finally:
        seen = guard.seen
        guard.__class__ = plain
    if status != 200 or b'"result"' not in body or len(seen) != 2:
        raise RuntimeError(f"the call was not answered: {status} {body[:200]!r}")
    return seen[0], seen[1]


async def table(worker: Worker, requests: Mapping[str, Request], target: Target, principal: Principal) -> list[Row]:
    """Return (name, CPU µs, note) of every stage, for every size of request."""
    rows: list[Row] = []
    for size, request in requests.items():
        asked, told = await actions_of(worker, request)
        rows += _front(worker, request, principal, size)
        rows += _decision(worker, asked, f"{size}.request")
        rows += _decision(worker, told, f"{size}.result")
        rows += await _whole(worker, request, asked, target, size)
        await asyncio.sleep(0)
    return rows


def _front(worker: Worker, request: Request, principal: Principal, size: str) -> list[Row]:
    """What happens before the guard is asked."""
    value = strict_json.loads(request.body)
    headers, routing = incoming.split(request.headers)
    server = worker.identity.resource_server

    def exchange() -> None:
        guard = worker.guard
        opened = guard.new_exchange(principal, "mcp")
        guard.close(opened, outcome="ok")

    return [
        (f"stage.parse.{size}", cost_us(lambda: strict_json.loads(request.body)), "strict JSON"),
        (f"stage.headers.{size}", cost_us(lambda: incoming.split(request.headers)), "header maps"),
        (
            f"stage.authenticate.{size}",
            cost_us(lambda: server.authenticate(headers, principal.audience, default_scope="")),
            "verified token found in the cache",
        ),
        (f"stage.message.{size}", cost_us(lambda: message.parse(value, routing)), "MCP message and headers"),
        (f"stage.exchange.{size}", cost_us(exchange), "open, count and close an exchange"),
    ]


def _decision(worker: Worker, asked: tuple[Action, Exchange], tail: str) -> list[Row]:
    """One decision and its parts."""
    guard, (action, exchange) = worker.guard, asked
    audit, labels = worker.audit, guard._labels
    engine: Any = guard._engine
    question = guard.prepare(action, exchange)
    assert isinstance(question, Question)
    label = labels.current(action.principal)
    now = worker.clock.now_us()

    def encode() -> bytes:
        return encode_input(
            action,
            question.findings,
            label=label,
            exchange=exchange,
            now_us=now,
            revision=worker.bundle.revision,
        )

    answer = engine.decide(action.point, question)
    verdict = guard.check(action, exchange)
    assert isinstance(verdict, Permit), "the benchmark's call must be allowed"
    decision = verdict.decision
    rules = [reason.rule for reason in decision.reasons]
    telemetry = worker.parts["telemetry"]

    def commit() -> None:
        exchange.decisions.clear()
        guard.commit(verdict, exchange)

    rows = [
        (
            f"stage.kill_switch.{tail}",
            cost_us(lambda: worker.kill_switch.stopped(action.principal, action.resource.upstream)),
            "",
        ),
        (
            f"stage.scan.{tail}",
            cost_us(lambda: guard.scanner.scan(action.body, action.point, action.principal.tenant)),
            "hygiene, secrets, PII, injection in one pass",
        ),
        (f"stage.label.{tail}", cost_us(lambda: labels.current(action.principal)), "flow label from shared memory"),
        (f"stage.encode_input.{tail}", cost_us(encode), "policy input"),
        (
            f"stage.policy.{tail}",
            cost_us(lambda: engine.decide(action.point, question)),
            engine.name,
        ),
        (
            f"stage.parse_decision.{tail}",
            cost_us(lambda: parse_decision(answer, revision="", engine="")),
            "strict decision",
        ),
        (
            f"stage.metrics.{tail}",
            cost_us(lambda: telemetry.decision(action.point, EFFECT_NAMES[decision.effect], rules, 30)),
            "",
        ),
        (f"stage.dumps.{tail}", cost_us(lambda: strict_json.dumps(action.body)), "the bytes that leave"),
        (
            f"stage.digest.{tail}",
            cost_us(lambda: audit.hmac(action.principal.tenant, verdict.payload)),
            "keyed digest of the payload",
        ),
        (f"stage.record.{tail}", cost_us(commit), "record built, appended to the Merkle log, written; Cleared made"),
        (f"decide.{tail}", cost_us(lambda: guard.check(action, exchange)), "guard.check: everything but the record"),
    ]
    return rows


async def _whole(
    worker: Worker, request: Request, asked: tuple[Action, Exchange], target: Target, size: str
) -> list[Row]:
    """The upstream client alone, and the whole application without the listener."""
    action, exchange = asked
    cleared = await worker.guard.clear(action, exchange)
    assert isinstance(cleared, Cleared)
    client = worker.parts["client"]

    async def upstream() -> None:
        async with client.stream(cleared, target, deadline_s=5.0, idle_s=5.0) as stream:
            got = [chunk async for chunk in stream.chunks()]
        assert 0 < sum(map(len, got)) < UPSTREAM_BODY_BYTES

    return [
        (f"stage.upstream.{size}", await awaited_us(upstream), f"{type(client).__name__}, one call at a time"),
        (
            f"stage.app.{size}",
            await awaited_us(lambda: request.through(worker.data_plane)),
            "the whole application without the listener, one call at a time",
        ),
    ]
