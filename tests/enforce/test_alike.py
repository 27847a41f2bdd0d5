"""Messages that are there together: one question for all, and for each what `clear` would have given it."""

from dataclasses import replace

import orjson
import pytest

from firewall.core.action import Action, Protocol, Resource
from firewall.core.finding import Finding
from firewall.core.permit import Cleared, Refusal
from firewall.core.points import Point
from firewall.enforce import guard as guard_module
from firewall.record.record import validate_record
from tests.support.kit import ALLOW, BrokenEngine, NoScanner, ScriptedEngine, call, kit, principal, result

SERVER = Resource("mcp_server", "demo", "demo", {"server": "demo", "trust": "trusted", "state": "approved"})


def note(n: int = 0, text: str = "step") -> dict:
    return {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": f"{text} {n}"}}


def like(**changes) -> Action:
    given = Action(
        Point.MCP_NOTIFY_SERVER,
        principal(),
        "notifications/message",
        SERVER,
        Protocol("mcp", "2026-07-28", "sse"),
        note(),
        side_effect=False,
    )
    return replace(given, **changes)


def bad(body) -> list[Finding]:
    return (
        [Finding("SCAN-04", "secret.test", "secret", 90, "/params/data", "patterns", "", None)]
        if ("bad" in str(body))
        else []
    )


def without_ids(record: dict) -> dict:
    return {k: v for k, v in record.items() if k not in ("decision_id", "exchange", "time_us")}


async def test_each_message_has_its_own_decision_id_and_its_own_record_before_it_may_leave():
    k = kit()
    x = k.guard.new_exchange(principal(), "mcp")
    bodies = [note(n) for n in range(5)]
    cleared = k.guard.clear_alike(like(), bodies, x)
    assert [c.body for c in cleared] == bodies
    assert [orjson.loads(c.payload) for c in cleared] == bodies
    assert [c.record_uid for c in cleared] == ["r1", "r2", "r3", "r4", "r5"]
    assert [r["decision_id"] for r in k.audit.records] == [c.decision_id for c in cleared] == x.decisions
    assert len(set(x.decisions)) == 5
    assert [r["args"]["bytes"] for r in k.audit.records] == [len(c.payload) for c in cleared]
    assert [c.action.body for c in cleared] == bodies  # what is kept can be decided about again
    assert len(k.telemetry.decisions) == 5
    for record in k.audit.records:
        validate_record({**record, "uid": "a.1", "seq": 1, "log": "o", "time_us": 1, "node": "n", "ver": "1"})


async def test_they_get_the_records_that_one_by_one_would_have_given_them():
    together, apart = kit(), kit()
    bodies = [note(n) for n in range(3)]
    assert together.guard.clear_alike(like(), bodies, together.guard.new_exchange(principal(), "mcp"))
    x = apart.guard.new_exchange(principal(), "mcp")
    for body in bodies:
        assert isinstance(await apart.guard.clear(like(body=body), x), Cleared)
    assert [without_ids(r) for r in together.audit.records] == [without_ids(r) for r in apart.audit.records]
    assert together.telemetry.decisions == apart.telemetry.decisions


async def test_policy_is_asked_once_and_its_deny_clears_none():
    engine = ScriptedEngine()
    k = kit(engine=engine)
    assert len(k.guard.clear_alike(like(), [note(n) for n in range(9)], k.guard.new_exchange(principal(), "mcp"))) == 9
    assert len(engine.inputs) == 1
    reason = {"rule": "t.rule", "effect": "deny", "code": "because", "owasp": [], "severity": 70}
    engine.script = lambda _input: {**ALLOW, "decision": False, "effect": "deny", "risk": 70, "reasons": [reason]}
    x = k.guard.new_exchange(principal(), "mcp")
    k.audit.records.clear()
    assert k.guard.clear_alike(like(), [note(1), note(2)], x) is None
    assert k.audit.records == []
    assert isinstance(await k.guard.clear(like(), x), Refusal)


@pytest.mark.parametrize("at", [0, 2, 4])
async def test_a_finding_in_one_of_them_sends_each_to_its_own_decision(at):
    k = kit(scanner=NoScanner(bad))
    bodies = [note(n, "bad" if n == at else "step") for n in range(5)]
    x = k.guard.new_exchange(principal(), "mcp")
    assert k.guard.clear_alike(like(), bodies, x) is None
    assert (k.audit.records, x.decisions, k.telemetry.decisions) == ([], [], [])
    unseeing = kit()  # the twin: with the control off the same run is cleared
    assert len(unseeing.guard.clear_alike(like(), bodies, unseeing.guard.new_exchange(principal(), "mcp"))) == 5


async def test_what_was_stopped_is_refused_and_recorded_by_clear_not_let_through_together():
    k = kit()
    x = k.guard.new_exchange(principal(), "mcp")
    k.kill_switch.pull("default", "upstream", "demo", by="test", reason="")
    assert k.guard.clear_alike(like(), [note(1), note(2)], x) is None
    refusal = await k.guard.clear(like(), x)
    assert refusal.fault.code == "killed"


async def test_nothing_is_cleared_when_a_record_cannot_be_written():
    k = kit()
    k.audit.broken = True
    x = k.guard.new_exchange(principal(), "mcp")
    assert k.guard.clear_alike(like(), [note(1), note(2)], x) is None
    k.audit.broken = False  # the twin
    assert len(k.guard.clear_alike(like(), [note(1), note(2)], x)) == 2


async def test_a_body_that_cannot_be_sent_or_an_engine_that_fails_clears_none():
    k = kit()
    assert k.guard.clear_alike(like(), [note(1), {"n": 2**60}], k.guard.new_exchange(principal(), "mcp")) is None
    k = kit(engine=BrokenEngine())
    assert k.guard.clear_alike(like(), [note(1), note(2)], k.guard.new_exchange(principal(), "mcp")) is None


@pytest.mark.parametrize(
    "action",
    [call({"a": 1}), call({}), result("text"), like(arguments={"a": 1})],
    ids=["call", "bare", "result", "args"],
)
async def test_requests_answers_and_what_has_arguments_are_never_taken_together(action):
    k = kit()
    assert k.guard.clear_alike(action, [action.body, action.body], k.guard.new_exchange(principal(), "mcp")) is None


async def test_what_is_large_together_is_left_to_clear_which_reads_it_beside_the_loop(monkeypatch):
    monkeypatch.setattr(guard_module, "ASIDE_BYTES", 400)
    k = kit()
    x = k.guard.new_exchange(principal(), "mcp")
    assert k.guard.clear_alike(like(), [note(n, "x" * 100) for n in range(3)], x) is None
    assert len(k.guard.clear_alike(like(), [note(n) for n in range(3)], x)) == 3


async def test_with_records_that_must_be_on_disk_each_waits_for_its_own():
    k = kit(durability="disk")
    x = k.guard.new_exchange(principal(), "mcp")
    assert k.guard.clear_alike(like(), [note(1), note(2)], x) is None
