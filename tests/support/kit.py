"""A guard in one process for tests of every room: real parts, with a scripted engine or scanner on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import orjson

from firewall.core.action import Action, Protocol, Resource
from firewall.core.errors import AuditUnavailable, PolicyFault
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, JSONObject
from firewall.core.points import Point
from firewall.core.policy_input import PolicyInput, document_of
from firewall.core.ports import Receipt
from firewall.core.principal import Actor, Principal
from firewall.core.record_form import Filled
from firewall.enforce.guard import Guard, GuardSettings
from firewall.enforce.kill_switch import KillSwitch
from firewall.enforce.labels import FlowLabels
from firewall.enforce.limits import Limits, LimitSettings
from firewall.state.allowances import SharedAllowances
from firewall.state.memory import MemoryStore

ALLOW: JSONObject = {
    "contract": "1",
    "decision": True,
    "effect": "allow",
    "risk": 0,
    "reasons": [],
    "obligations": [],
    "shadow": [],
}


class FixedClock:
    """A clock that moves only when told."""

    def __init__(self, now_us: int = 1_795_000_000_000_000) -> None:
        self.now = now_us
        self.mono = 1

    def now_us(self) -> int:
        return self.now

    def monotonic_ns(self) -> int:
        self.mono += 1000
        return self.mono

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * 1_000_000)


class CountingIds:
    """Predictable ids, for tests only."""

    def __init__(self) -> None:
        self.count = 0

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}_{self.count:026d}"


class LocalMarks:
    """SharedMarks of a single worker, in a dict."""

    def __init__(self) -> None:
        self.marks: dict[bytes, int] = {}
        self.count = 0

    def read(self, key: bytes) -> int:
        return self.marks.get(key, 0)

    def raise_(self, key: bytes, marks: int) -> None:
        self.marks[key] = self.marks.get(key, 0) | marks

    def drop(self, key: bytes) -> None:
        self.marks.pop(key, None)

    def epoch(self) -> int:
        return self.count

    def bump(self) -> int:
        self.count += 1
        return self.count


@dataclass
class RecordingAudit:
    """Keeps records in a list; ``broken`` makes it refuse, as a full disk does."""

    records: list[JSONObject] = field(default_factory=list)
    broken: bool = False

    def append(self, record: JSONObject | Filled) -> Receipt:
        if self.broken:
            raise AuditUnavailable("disk_full")
        self.records.append(record.record() if isinstance(record, Filled) else record)
        return Receipt(f"r{len(self.records)}", len(self.records) - 1)

    def append_all(self, records: Sequence[JSONObject]) -> list[Receipt]:
        return [self.append(record) for record in records]

    async def durable(self, receipt: Receipt) -> None:
        if self.broken:
            raise AuditUnavailable("disk_full")

    def hmac(self, tenant: str, value: bytes) -> str:
        return "h:" + "0" * 32


class QuietTelemetry:
    """Counts nothing but remembers the last decision."""

    def __init__(self) -> None:
        self.decisions: list[tuple[Point, str, tuple[str, ...]]] = []
        self.closed: list[tuple[str, str]] = []

    def decision(self, point: Point, effect: str, rules: Sequence[str], eval_us: int, amount: int = 1) -> None:
        self.decisions += [(point, effect, tuple(rules))] * amount

    def finding(self, rule: str, point: Point) -> None:
        pass

    def exchange(self, exchange: Exchange, *, outcome: str, error: str = "") -> None:
        self.closed.append((outcome, error))


class ScriptedEngine:
    """Answers with what the script says; sees the real input. An engine for tests of the guard alone."""

    name = "scripted/1"
    revision = "sha256:test"

    def __init__(self, script: Callable[[JSONObject], JSON | bytes] = lambda _input: ALLOW) -> None:
        self.script = script
        self.inputs: list[JSONObject] = []

    def decide(self, point: Point, question: PolicyInput | bytes) -> bytes:
        asked = orjson.loads(document_of(question))
        self.inputs.append(asked)
        answer = self.script(asked)
        return answer if isinstance(answer, bytes) else orjson.dumps(answer)


class BrokenEngine(ScriptedEngine):
    """Never answers."""

    def decide(self, point: Point, question: PolicyInput | bytes) -> bytes:
        raise PolicyFault("engine_error")


@dataclass
class Kit:
    """Everything a test wants to look at."""

    guard: Guard
    audit: RecordingAudit
    store: MemoryStore
    marks: LocalMarks
    clock: FixedClock
    labels: FlowLabels
    kill_switch: KillSwitch
    telemetry: QuietTelemetry
    ids: CountingIds
    faults: list[BaseException]


def principal(**changes: object) -> Principal:
    """Return a user who may use the upstream ``demo``."""
    given: dict[str, object] = {
        "tenant": "default",
        "issuer": "http://127.0.0.1:8700",
        "subject": "u_alice",
        "client_id": "https://app.example/client.json",
        "scopes": frozenset({"demo:read", "demo:write", "demo:send", "llm:invoke"}),
        "audience": "http://127.0.0.1:8700/mcp/demo",
        "chain": (Actor("u_alice"),),
        "expires_at": 1_900_000_000,
    }
    given.update(changes)
    return Principal(**given)  # type: ignore[arg-type]


def tool(**facts: JSON) -> Resource:
    """Return an approved tool ``demo/echo``."""
    properties: dict[str, JSON] = {
        "server": "demo",
        "trust": "trusted",
        "network": "loopback",
        "state": "approved",
        "tenants": ["default"],
        "effect_class": "read",
        "pin": "approved",
        "scope": "demo:read",
        "schema": "ok",
    }
    properties.update(facts)
    return Resource("mcp_tool", "demo/echo", "demo", properties)


def call(arguments: JSONObject, *, who: Principal | None = None, resource: Resource | None = None) -> Action:
    """Return a tools/call Action."""
    body: JSON = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": arguments}}
    return Action(
        Point.MCP_TOOL_CALL,
        who or principal(),
        "tools/call",
        resource or tool(),
        Protocol("mcp", "2026-07-28", "http"),
        body,
        arguments,
    )


def result(
    text: str, *, structured: JSON = None, who: Principal | None = None, resource: Resource | None = None
) -> Action:
    """Return a tools/call result Action."""
    inner: JSONObject = {"resultType": "complete", "content": [{"type": "text", "text": text}]}
    if structured is not None:
        inner["structuredContent"] = structured
    return Action(
        Point.MCP_TOOL_RESULT,
        who or principal(),
        "tools/call",
        resource or tool(),
        Protocol("mcp", "2026-07-28", "http"),
        {"jsonrpc": "2.0", "id": 1, "result": inner},
        {"is_error": False, "structured": structured is not None},
        coupled=(("result", "content"), ("result", "structuredContent")),
    )


class NoScanner:
    """Sees what it is told to see."""

    def __init__(self, see: Callable[[JSON], list[Finding]] = lambda _body: []) -> None:
        self.see = see

    def scan(self, body: JSON, point: Point, tenant: str) -> list[Finding]:
        return self.see(body)

    def scan_all(self, bodies: Sequence[JSON], point: Point, tenant: str) -> list[list[Finding]]:
        return [self.scan(body, point, tenant) for body in bodies]

    def open_stream(self, point: Point, tenant: str):
        raise AssertionError("this test streams nothing")


def kit(*, engine=None, scanner=None, calls_per_minute: int = 100_000, durability="batch", step_up=None) -> Kit:
    """Return a guard over memory state; pass the real engine or scanner where the test is about them."""
    marks, clock, ids = LocalMarks(), FixedClock(), CountingIds()
    store = MemoryStore(clock)
    labels = FlowLabels(marks, store.collection("labels"))
    kill_switch = KillSwitch(store.collection("kill"), marks, clock)
    limits = Limits(SharedAllowances(None), LimitSettings(calls_per_minute))
    audit, telemetry, faults = RecordingAudit(), QuietTelemetry(), []
    guard = Guard(
        engine=engine or ScriptedEngine(),
        scanner=scanner or NoScanner(),
        labels=labels,
        limits=limits,
        kill_switch=kill_switch,
        audit=audit,
        telemetry=telemetry,
        clock=clock,
        ids=ids,
        settings=GuardSettings(durability, step_up or {}),
        on_internal=faults.append,
    )
    return Kit(guard, audit, store, marks, clock, labels, kill_switch, telemetry, ids, faults)
