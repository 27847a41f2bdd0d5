"""The choke point: what it lets through, what it refuses, and in which order things happen."""

import orjson
import pytest

from firewall.core.finding import Finding
from firewall.core.label import MARKS, MOST_RESTRICTIVE, Label
from firewall.core.permit import Cleared, Refusal
from firewall.record.record import validate_record
from tests.support.kit import ALLOW, BrokenEngine, NoScanner, ScriptedEngine, call, kit, principal, result, tool


def decided(effect: str, *reasons: dict, obligations: list | None = None) -> dict:
    return {
        **ALLOW,
        "effect": effect,
        "decision": effect in ("allow", "transform"),
        "risk": max([r["severity"] for r in reasons], default=0),
        "reasons": list(reasons),
        "obligations": obligations or [],
    }


def reason(rule: str = "t.rule", effect: str = "deny", code: str = "because") -> dict:
    return {"rule": rule, "effect": effect, "code": code, "owasp": ["ASI02"], "severity": 70}


def secret_at(pointer: str, span: tuple[int, int] | None = None) -> Finding:
    return Finding("SCAN-04", "secret.test", "secret", 90, pointer, "patterns", "", span)


async def test_an_allowed_call_becomes_the_canonical_bytes_of_its_body_after_its_record():
    k = kit()
    x = k.guard.new_exchange(principal(), "mcp")
    cleared = await k.guard.clear(call({"b": 1, "a": "é"}), x)
    assert isinstance(cleared, Cleared)
    assert orjson.loads(cleared.payload) == cleared.body == call({"b": 1, "a": "é"}).body
    (record,) = k.audit.records
    assert (record["phase"], record["point"], record["decision"]["effect"]) == ("intent", "mcp.tool.call", "allow")
    assert record["args"]["bytes"] == len(cleared.payload)
    assert cleared.record_uid == x.intent_uid == "r1"


async def test_nothing_is_cleared_when_no_record_can_be_written():
    k = kit()
    k.audit.broken = True
    refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "audit_unavailable"
    k.audit.broken = False  # the twin: the same call with a working log is cleared
    assert isinstance(await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp")), Cleared)


async def test_disk_durability_waits_for_the_disk_and_refuses_when_it_fails():
    k = kit(durability="disk")

    class HalfBroken(type(k.audit)):
        async def durable(self, receipt):
            from firewall.core.errors import AuditUnavailable

            raise AuditUnavailable("eio")

    k.audit.__class__ = HalfBroken
    refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "audit_unavailable"


async def test_a_deny_is_recorded_and_tells_only_fixed_words():
    k = kit(engine=ScriptedEngine(lambda _i: decided("deny", reason("tools.secret_rule"))))
    refusal = await k.guard.clear(call({"x": "attacker text"}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.text == "This action is not allowed by policy."
    assert refusal.rules == ("tools.secret_rule",)
    assert k.audit.records[0]["decision"]["rules"] == ["tools.secret_rule"]
    assert "attacker text" not in orjson.dumps(k.audit.records).decode()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"{}",
        b'"<undefined>"',
        orjson.dumps({**ALLOW, "contract": "2"}),
        orjson.dumps({**ALLOW, "effect": "permit"}),
        orjson.dumps({k: v for k, v in ALLOW.items() if k != "effect"}),
        orjson.dumps(decided("transform", reason(effect="transform"))),
        orjson.dumps({**ALLOW, "obligations": [{"type": "open_sesame"}]}),
    ],
)
async def test_any_answer_that_is_not_a_decision_is_a_deny(answer: bytes):
    k = kit(engine=ScriptedEngine(lambda _i: answer))
    refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "policy_unavailable"


async def test_an_engine_that_breaks_and_an_unexpected_exception_are_denies():
    for engine in (BrokenEngine(), ScriptedEngine(lambda _i: 1 / 0)):
        k = kit(engine=engine)
        refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
        assert isinstance(refusal, Refusal)
        assert refusal.fault.code in ("policy_unavailable", "internal")
        assert k.faults, "operators are told"


async def test_a_redaction_replaces_exactly_the_found_span():
    text = "key AKIAxyz done"
    duty = [{"type": "redact", "pointer": "/result/content/0/text"}]
    seen = [secret_at("/result/content/0/text", (4, 11))]
    k = kit(
        engine=ScriptedEngine(lambda i: decided("transform", reason(effect="transform"), obligations=duty)),
        scanner=NoScanner(lambda body: seen if "AKIA" in orjson.dumps(body).decode() else []),
    )
    cleared = await k.guard.clear(result(text), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(cleared, Cleared)
    assert cleared.body["result"]["content"][0]["text"] == "key [redacted:secret.test] done"
    assert b"AKIA" not in cleared.payload


async def test_a_redaction_that_leaves_the_value_behind_is_a_deny():
    duty = [{"type": "redact", "pointer": "/result/content/0/text"}]
    seen = [secret_at("/result/content/0/text", (0, 1))]
    k = kit(
        engine=ScriptedEngine(lambda i: decided("transform", reason(effect="transform"), obligations=duty)),
        scanner=NoScanner(lambda _body: seen),
    )
    refusal = await k.guard.clear(result("AKIA"), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.rules == ("core.obligation_failed",)


@pytest.mark.parametrize("pointer", ["/nowhere", "/result", "result", "/result/content/7/text"])
async def test_an_obligation_that_cannot_be_met_is_a_deny(pointer: str):
    duty = [{"type": "replace", "pointer": pointer, "value": "x"}]
    k = kit(engine=ScriptedEngine(lambda i: decided("transform", reason(effect="transform"), obligations=duty)))
    refusal = await k.guard.clear(result("text"), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)


async def test_content_and_structured_content_change_together_or_not_at_all():
    """DESIGN §6b-9."""
    both = [
        {"type": "replace", "pointer": "/result/content/0/text", "value": "x"},
        {"type": "replace", "pointer": "/result/structuredContent/v", "value": "x"},
    ]
    for duties, passes in ((both, True), (both[:1], False), (both[1:], False)):
        k = kit(
            engine=ScriptedEngine(lambda i, d=duties: decided("transform", reason(effect="transform"), obligations=d))
        )
        verdict = await k.guard.clear(result("t", structured={"v": "t"}), k.guard.new_exchange(principal(), "mcp"))
        assert isinstance(verdict, Cleared) is passes


async def test_a_label_is_raised_before_the_bytes_are_released_and_follows_the_caller():
    """DESIGN §6b-1, §6b-2."""
    duty = [{"type": "taint", "label": "untrusted"}]
    k = kit(engine=ScriptedEngine(lambda i: decided("allow", reason(effect="allow"), obligations=duty)))
    permit = k.guard.check(result("t"), k.guard.new_exchange(principal(), "mcp"))
    assert not isinstance(permit, Refusal)
    assert k.labels.current(principal()) == Label(MARKS["untrusted"]), "raised before commit"
    assert k.labels.current(principal(audience="http://127.0.0.1:8700/v1")) == Label(MARKS["untrusted"])
    assert k.labels.current(principal(subject="u_bob")) == 0
    assert k.labels.current(principal(tenant="other")) == 0


async def test_a_label_that_cannot_be_raised_stops_the_release():
    from firewall.core.errors import StateUnavailable

    duty = [{"type": "taint", "label": "untrusted"}]
    k = kit(engine=ScriptedEngine(lambda i: decided("allow", reason(effect="allow"), obligations=duty)))

    def full(key: bytes, marks: int) -> None:
        raise StateUnavailable("full")

    k.marks.raise_ = full
    assert isinstance(await k.guard.clear(result("t"), k.guard.new_exchange(principal(), "mcp")), Refusal)


async def test_policy_is_told_the_most_restrictive_label_when_labels_cannot_be_read():
    from firewall.core.errors import StateUnavailable

    engine = ScriptedEngine()
    k = kit(engine=engine)

    def lost(key: bytes) -> int:
        raise StateUnavailable("gone")

    k.marks.read = lost
    await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert set(engine.inputs[0]["context"]["labels"]) == set(MARKS)
    assert MOST_RESTRICTIVE


async def test_the_kill_switch_is_asked_before_the_engine():
    k = kit(engine=BrokenEngine())
    k.kill_switch.pull("default", "upstream", "demo", by="op")
    refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "killed"
    k.kill_switch.release("default", "upstream", "demo")
    refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "policy_unavailable"


async def test_a_caller_over_its_rate_is_told_when_to_come_back_and_another_is_not():
    k = kit(calls_per_minute=3)
    verdicts = [await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp")) for _ in range(4)]
    assert [isinstance(v, Cleared) for v in verdicts] == [True, True, True, False]
    assert 1 <= verdicts[3].retry_after_s <= 60
    assert isinstance(
        await k.guard.clear(call({}, who=principal(subject="u_bob")), k.guard.new_exchange(principal(), "mcp")), Cleared
    )
    k.clock.advance(61)
    assert isinstance(await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp")), Cleared)


async def test_a_scope_that_would_cure_the_deny_is_named_only_when_nothing_else_denies():
    step = [{"type": "step_up", "scope": "demo:write"}]
    curable = decided("deny", reason("identity.scope_missing", code="scope_missing"), obligations=step)
    other = decided("deny", reason("identity.scope_missing", code="scope_missing"), reason("tools.x"), obligations=step)
    for answer, challenge in ((curable, ("demo:write",)), (other, ())):
        k = kit(engine=ScriptedEngine(lambda _i, a=answer: a))
        refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
        assert isinstance(refusal, Refusal)
        assert refusal.challenge == challenge


async def test_an_input_beyond_its_bound_is_a_deny_and_never_a_cut():
    """DESIGN §6b-5."""
    k = kit()
    refusal = await k.guard.clear(call({"a": "x" * 300_000}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.rules == ("core.input_invalid",)


async def test_an_exchange_is_closed_once():
    k = kit()
    x = k.guard.new_exchange(principal(), "mcp")
    await k.guard.clear(call({}), x)
    k.guard.close(x, outcome="upstream_fault", error="timeout")
    k.guard.close(x, outcome="ok")
    assert [r["kind"] for r in k.audit.records] == ["decision", "outcome"]
    assert k.audit.records[1]["outcome"]["intent"] == "r1"


def test_a_traceparent_is_read_for_shape_only():
    k = kit()
    good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    x = k.guard.new_exchange(principal(), "mcp", traceparent=good)
    assert (x.trace_id, x.parent_span, x.sampled) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)
    for bad in (b"", b"01" + good[2:], good[:-1], good.upper(), b"00-" + b"0" * 32 + good[35:], good + b"-x"):
        assert k.guard.new_exchange(principal(), "mcp", traceparent=bad).trace_id == ""


def test_a_tool_helper_has_only_known_facts():
    assert tool().properties["pin"] == "approved"


# -- what a transformation makes is judged like what came in ------------------------------------------


def hidden_at(pointer: str) -> Finding:
    return Finding("SCAN-01", "hygiene.zero_width", "hygiene", 25, pointer, "pattern", "", (0, 1))


def zero_width(body: object) -> list[Finding]:
    return [hidden_at("/params/arguments/path")] if "\u200b" in orjson.dumps(body).decode() else []


def cleaning(asked: dict) -> dict:
    """Strip what is hidden; deny a protected path, as it stands in the arguments that policy reads."""
    if "/.ssh/" in asked["action"]["properties"]["arguments"]["path"]:
        return decided("deny", reason("t.protected_path"))
    if not asked["context"]["findings"]:
        return ALLOW
    duty = [{"type": "clean", "pointer": "/params/arguments/path"}]
    return decided("transform", reason("t.hidden", effect="transform"), obligations=duty)


async def test_policy_reads_the_arguments_as_they_leave_after_a_cleaning():
    engine = ScriptedEngine(cleaning)
    k = kit(engine=engine, scanner=NoScanner(zero_width))
    refusal = await k.guard.clear(call({"path": "/home/u/.\u200bssh/id"}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.rules == ("t.protected_path",)
    assert k.audit.records[-1]["decision"]["rules"] == ["t.hidden", "t.protected_path"]
    # the twin: a path that is harmless without its hidden character leaves, clean
    cleared = await k.guard.clear(call({"path": "/home/u/.\u200bcat"}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(cleared, Cleared)
    assert cleared.body["params"]["arguments"] == {"path": "/home/u/.cat"}
    assert engine.inputs[-1]["action"]["properties"]["arguments"] == {"path": "/home/u/.cat"}
    assert k.audit.records[-1]["decision"]["effect"] == "transform"
    assert [f["rule"] for f in k.audit.records[-1]["findings"]] == ["hygiene.zero_width"]


async def test_a_value_that_a_cleaning_puts_together_is_decided_too():
    at = "/result/content/0/text"

    def see(body: object) -> list[Finding]:
        text = body["result"]["content"][0]["text"]
        return [hidden_at(at)] * ("\u200b" in text) + [secret_at(at, (0, 6))] * ("SECRET" in text)

    def script(asked: dict) -> dict:
        kinds = {f["category"] for f in asked["context"]["findings"]}
        duties = [{"type": "clean", "pointer": at}] * ("hygiene" in kinds)
        duties += [{"type": "redact", "pointer": at}] * ("secret" in kinds)
        return decided("transform", reason(effect="transform"), obligations=duties) if duties else ALLOW

    k = kit(engine=ScriptedEngine(script), scanner=NoScanner(see))
    cleared = await k.guard.clear(result("SEC\u200bRET here"), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(cleared, Cleared)
    assert cleared.body["result"]["content"][0]["text"] == "[redacted:secret.test] here"


async def test_a_transformation_that_never_comes_to_rest_is_a_deny():
    rounds = iter(range(100))

    def see(_body: object) -> list[Finding]:
        return [
            Finding("SCAN-04", f"secret.r{next(rounds)}", "secret", 90, "/params/arguments/t", "pattern", "", (0, 1))
        ]

    def script(asked: dict) -> dict:
        duty = [{"type": "redact", "pointer": "/params/arguments/t"}]
        return decided("transform", reason(effect="transform"), obligations=duty)

    k = kit(engine=ScriptedEngine(script), scanner=NoScanner(see))
    refusal = await k.guard.clear(call({"t": "xyz"}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.rules == ("core.obligation_failed",)


async def test_refusals_leave_no_receipt_behind_where_durability_is_disk():
    k = kit(engine=ScriptedEngine(lambda _i: decided("deny", reason())), durability="disk")
    for _ in range(5):
        await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert not k.guard._recorder.receipts


async def test_a_secret_that_is_the_name_of_a_member_is_not_written_into_the_record():
    from firewall.detect.scan import PatternScanner
    from tests.support.patterns import PATTERNS

    key = "AKIA" + "Z7QXRW3KPLM4TVOB"
    k = kit(
        engine=ScriptedEngine(lambda _i: decided("deny", reason())),
        scanner=PatternScanner(cache=PATTERNS),
    )
    arguments = {"note": {key: {"inner": key}}, "plain": key}
    await k.guard.clear(call(arguments), k.guard.new_exchange(principal(), "mcp"))
    assert key not in orjson.dumps(k.audit.records).decode()
    told = [f["pointer"] for f in k.audit.records[0]["findings"]]
    assert "/params/arguments/note/*" in told
    assert "/params/arguments/note/*/inner" in told
    assert "/params/arguments/plain" in told  # the twin: an ordinary name is told


# -- large bodies --------------------------------------------------------------------------------------


async def test_a_large_body_is_inspected_beside_the_loop_and_found_all_the_same():
    import asyncio
    import threading

    where: list[bool] = []

    def see(body: object) -> list[Finding]:
        where.append(threading.current_thread() is threading.main_thread())
        loop.call_soon_threadsafe(done.set)
        return [secret_at("/params/arguments/t")]

    loop, done = asyncio.get_running_loop(), asyncio.Event()
    k = kit(engine=ScriptedEngine(lambda i: decided("deny", reason()) if i["context"]["findings"] else ALLOW))
    k.guard.scanner = NoScanner(see)
    big = call({"t": ["x" * 1000] * 200})
    assert isinstance(await k.guard.clear(big, k.guard.new_exchange(principal(), "mcp")), Refusal)
    assert isinstance(await k.guard.clear(call({"t": "x"}), k.guard.new_exchange(principal(), "mcp")), Refusal)
    assert where == [False, True]  # the large one in a thread, the twin here


async def test_the_kill_switch_and_the_limits_come_before_the_inspection_of_a_large_body():
    seen: list[object] = []
    k = kit(scanner=NoScanner(lambda body: seen.append(body) or []), calls_per_minute=1)
    big = call({"t": ["x" * 1000] * 200})
    assert isinstance(await k.guard.clear(big, k.guard.new_exchange(principal(), "mcp")), Cleared)
    assert len(seen) == 1
    refusal = await k.guard.clear(big, k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "over_limit"  # one call was counted once, and this one not at all
    k.kill_switch.pull("default", "all", "*", by="test")
    refusal = await k.guard.clear(big, k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "killed"
    assert len(seen) == 1


async def test_a_kill_switch_that_is_pulled_while_a_large_body_is_read_counts():
    k = kit()

    def see(_body: object) -> list[Finding]:
        k.kill_switch.pull("default", "all", "*", by="test")
        return []

    k.guard.scanner = NoScanner(see)
    refusal = await k.guard.clear(call({"t": ["x" * 1000] * 200}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "killed"


async def test_a_scanner_that_breaks_over_a_large_body_is_a_deny():
    k = kit(scanner=NoScanner(lambda _body: 1 / 0))
    refusal = await k.guard.clear(call({"t": ["x" * 1000] * 200}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "internal"


async def test_a_stop_of_a_protocol_stops_its_whole_room():
    k = kit()
    k.kill_switch.pull("default", "upstream", "mcp", by="test")
    refusal = await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp"))
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "killed"
    k.kill_switch.release("default", "upstream", "mcp")  # the twin: a stop of another room stops nothing here
    k.kill_switch.pull("default", "upstream", "llm", by="test")
    assert isinstance(await k.guard.clear(call({}), k.guard.new_exchange(principal(), "mcp")), Cleared)


async def test_an_answer_settles_its_exchange_in_its_own_record_and_only_another_end_gets_one_more():
    for ending, kinds in (("ok", ["decision", "decision"]), ("cancelled", ["decision", "decision", "outcome"])):
        k = kit()
        x = k.guard.new_exchange(principal(), "mcp")
        x.bytes_in = 11
        await k.guard.clear(call({}), x)
        told = await k.guard.clear(result("done"), x)
        assert isinstance(told, Cleared)
        k.guard.close(x, outcome=ending)
        assert [r["kind"] for r in k.audit.records] == kinds
        settled = k.audit.records[1]["outcome"]
        assert settled["intent"] == "r1"
        assert (settled["result"], settled["bytes_in"], settled["bytes_out"]) == ("ok", 11, len(told.payload))


async def test_a_refused_answer_settles_nothing():
    answers = iter((ALLOW, decided("deny", reason())))
    k = kit(engine=ScriptedEngine(lambda _input: next(answers)))
    x = k.guard.new_exchange(principal(), "mcp")
    await k.guard.clear(call({}), x)
    assert isinstance(await k.guard.clear(result("no"), x), Refusal)
    k.guard.close(x, outcome="refused")
    assert "outcome" not in k.audit.records[1]
    assert k.audit.records[2]["outcome"]["result"] == "refused"


async def test_what_was_refused_before_any_decision_has_a_record_of_its_own():
    k = kit()
    x = k.guard.new_exchange(principal(), "mcp")
    k.guard.close(x, outcome="refused", error="json_invalid")
    (record,) = k.audit.records
    assert (record["kind"], record["exchange"]) == ("outcome", x.id)
    assert (record["outcome"]["result"], record["outcome"]["error"]) == ("refused", "json_invalid")
    validate_record(record)
    quiet = k.guard.new_exchange(principal(), "mcp")
    k.guard.close(quiet, outcome="ok")  # the twin: an answer of ours that asked nobody, such as to a notification
    assert k.audit.records == [record]


async def test_a_recorded_refusal_gets_no_second_record():
    k = kit(engine=ScriptedEngine(lambda _input: decided("deny", reason())))
    x = k.guard.new_exchange(principal(), "mcp")
    assert isinstance(await k.guard.clear(call({}), x), Refusal)
    k.guard.close(x, outcome="refused")
    assert [r["kind"] for r in k.audit.records] == ["decision"]
