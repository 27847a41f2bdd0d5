"""What is remembered of policy answers, and what never is."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path

import orjson
import pytest

from firewall.core.action import Action
from firewall.core.exchange import Exchange
from firewall.core.finding import Finding
from firewall.core.label import Label
from firewall.core.points import Point
from firewall.decide import bundle as bundles
from firewall.decide.contract import encode_input
from firewall.decide.memo import ANSWERS, ENTRIES, KEY_BYTES, Memo, is_blind, is_steady
from firewall.decide.program import Strict
from firewall.decide.regorus import RegorusEngine
from tests.support.kit import call, principal, result

VOLATILE = b',"request_id":"x_1","time_us":7'
ACTION = b'},"action":{"name":"tools/call","properties":{"side_effect":true,"arguments":'


def digest(counted: bytes) -> bytes:
    return sha256(counted).digest()


@pytest.mark.parametrize(
    "source",
    [
        "allow if input.context.time_us > 5",
        'allow if input.context.request_id == "x"',
        "allow if some k, v in input.context",
        'allow if object.get(input.context, "time_us", 0) > 1',
        "allow if input.context[k] == 1",
        "allow if walk(input)",
        "import input.context as facts",
        "allow if input[k]",
    ],
)
def test_a_rule_that_could_see_time_or_id_is_not_steady(source: str) -> None:
    assert not is_steady(["package a\n\nx if input.point", source])


def test_named_members_of_the_context_are_steady() -> None:
    assert is_steady(['a if "secret" in input.context.labels', "b if count(input.context.findings) == 0"])


@pytest.mark.parametrize(
    "source",
    [
        "allow if input.action.properties.arguments.path",
        "allow if some k, v in input.action.properties.arguments",
        "allow if is_object(input.action.properties.arguments.x)",
        "allow if object.get(input.action, [], 0)",
        "allow if input.action.properties[k]",
        "allow if walk(input)",
        "import input.action.properties as p",
        "allow if no_secret_in_is_object(input.action.properties.arguments)",
        "allow if lib.is_object(input.action.properties.arguments)",
        "is_object(v) if v.secret\n\nallow if is_object(input.action.properties.arguments)",
        "import data.firewall.lib.is_object\n\nallow if is_object(input.action.properties.arguments)",
        "import data.firewall.lib.own as is_object\n\nallow if is_object(input.action.properties.arguments)",
    ],
)
def test_a_rule_that_could_see_an_argument_is_not_blind(source: str) -> None:
    assert not is_blind([source])


def test_what_is_true_of_every_input_reads_no_argument() -> None:
    assert is_blind(["a if is_object(input.action.properties.arguments)", "b if input.action.properties.side_effect"])


def test_the_key_of_a_program_that_reads_arguments_is_all_but_id_and_time() -> None:
    memo = Memo(blind=False)
    assert memo.key(b'{"a":1' + VOLATILE + ACTION + b'{"x":1}}}}') == digest(b'{"a":1' + ACTION + b'{"x":1}}}}')
    later = VOLATILE.replace(b"x_1", b"x_2").replace(b":7", b":8")
    assert memo.key(b'{"a":1' + later + ACTION + b'{"x":1}}}}') == digest(b'{"a":1' + ACTION + b'{"x":1}}}}')
    assert memo.key(b'{"a":"' + b"x" * KEY_BYTES + b'"' + VOLATILE + ACTION + b"{}}}}") == b""


def test_the_key_of_a_blind_program_ends_before_the_arguments() -> None:
    memo = Memo(blind=True)
    whole = b'{"a":1' + VOLATILE + ACTION
    assert memo.key(whole + b'{"x":1}}}}') == memo.key(whole + b'{"x":2}}}}') == digest(b'{"a":1' + ACTION[:-13])
    assert memo.key(whole.replace(b"true", b"false") + b'{"x":1}}}}') != memo.key(whole + b'{"x":1}}}}')
    assert memo.key(whole.replace(b"tools/call", b"tools/list") + b"{}}}}") != memo.key(whole + b"{}}}}")


@pytest.mark.parametrize(
    "document",
    [
        b'{"a":1,"request_id":"x","labels":["secret"],"time_us":7},"action":{"name":"t","arguments":{}}}',
        b'{"a":1,"request_id":"x","time_us":7,"labels":[]},"action":{"name":"t","arguments":{}}}',
        b'{"a":1,"request_id":{"labels":1},"time_us":7},"action":{"name":"t","arguments":{}}}',
        b'{"action":{"name":"t","arguments":{"a":1,"request_id":"x","time_us":7}},"context":{"labels":[]}}',
        b'{"a":1}',
    ],
)
def test_an_input_of_another_form_is_not_remembered(document: bytes) -> None:
    assert Memo(blind=True).key(document) == Memo(blind=False).key(document) == b""


def test_an_argument_that_looks_like_the_marks_hides_nothing() -> None:
    sly = b'{"x":1,"request_id":"x_9","time_us":7},"action":{"name":"n","arguments":{}}}'
    memo = Memo(blind=True)
    clean = b'{"labels":[]' + VOLATILE + ACTION + sly
    marked = b'{"labels":["secret"]' + VOLATILE + ACTION + sly
    assert memo.key(clean) != memo.key(marked)


def test_memory_is_bounded() -> None:
    memo = Memo(blind=True)
    for n in range(3 * ENTRIES):
        memo.put(str(n).encode(), b"{}")
    assert len(memo._young) + len(memo._old) <= 2 * ENTRIES
    for n in range(3 * ANSWERS):
        memo.put(b"one", str(n).encode())
    assert len(memo._answers) <= ANSWERS


def test_what_is_asked_for_again_outlives_what_is_not() -> None:
    memo = Memo(blind=True)
    memo.put(b"often", b"[1]")
    memo.put(b"once", b"[2]")
    for n in range(2 * ENTRIES):
        memo.put(str(n).encode(), b"{}")
        assert memo.get(b"often") == b"[1]"
    assert memo.get(b"once") is None


class _Counted:
    """A machine that counts how often it is asked."""

    def __init__(self, machine: object) -> None:
        self.machine, self.asked = machine, 0

    def decide(self, document: bytes) -> bytes:
        self.asked += 1
        return self.machine.decide(document)  # type: ignore[attr-defined,no-any-return]


def _engine(point: Point) -> tuple[RegorusEngine, _Counted]:
    engine = RegorusEngine(bundles.load(), "compiled")
    counted = _Counted(engine._machines[point])
    engine._machines[point] = counted  # type: ignore[assignment]
    return engine, counted


def _input(asked: Action, exchange: str, findings: tuple[Finding, ...] = ()) -> bytes:
    opened = Exchange(exchange, asked.principal, "mcp", 0)
    return encode_input(asked, findings, label=Label(0), exchange=opened, now_us=hash(exchange) % 1000, revision="r")


def test_the_same_callers_next_call_needs_no_evaluation_whatever_its_arguments() -> None:
    engine, machine = _engine(Point.MCP_TOOL_CALL)
    for n in range(5):
        answer = orjson.loads(engine.decide(Point.MCP_TOOL_CALL, _input(call({"text": f"t{n}"}), f"x_{n}")))
        assert answer["effect"] == "allow"
    assert machine.asked == 1
    path = Finding("POL-02", "path.protected", "normal_form", 50, "/params/arguments/path", "patterns")
    answer = orjson.loads(engine.decide(Point.MCP_TOOL_CALL, _input(call({"path": "/etc/shadow"}), "x_9", (path,))))
    assert (answer["effect"], machine.asked) == ("deny", 2)
    other = principal(subject="mallory", scopes=frozenset())
    answer = orjson.loads(engine.decide(Point.MCP_TOOL_CALL, _input(call({"text": "t0"}, who=other), "x_1")))
    assert (answer["effect"], machine.asked) == ("deny", 3)


def test_where_the_lists_of_paths_are_the_operators_own_rules_read_every_call(tmp_path: Path) -> None:
    copy = tmp_path / "policies"
    shutil.copytree(bundles.default_path(), copy)
    data = copy / "config" / "data.yaml"
    data.write_text(data.read_text().replace("protected_prefixes: [/proc/", "protected_prefixes: [/vault/, /proc/"))
    bundle = bundles.read(copy)
    assert bundle.data["config"]["paths_inspected"] is False  # type: ignore[index,call-overload]
    assert not is_blind(bundle.specialised(Point.MCP_TOOL_CALL).values())
    strict = Strict(bundle.modules, bundle.data_json)
    answer = orjson.loads(strict.decide(Point.MCP_TOOL_CALL, _input(call({"path": "/vault/x"}), "x_1")))
    assert answer["effect"] == "deny"
    shipped = bundles.load()
    assert shipped.data["config"]["paths_inspected"] is True  # type: ignore[index,call-overload]
    assert is_blind(shipped.specialised(Point.MCP_TOOL_CALL).values())


def test_a_result_is_evaluated_once_and_a_changed_fact_again() -> None:
    engine, machine = _engine(Point.MCP_TOOL_RESULT)
    first = engine.decide(Point.MCP_TOOL_RESULT, _input(result("one"), "x_1"))
    assert engine.decide(Point.MCP_TOOL_RESULT, _input(result("two"), "x_2")) == first
    assert machine.asked == 1
    suspended = _input(result("two"), "x_3").replace(b'"approved"', b'"suspended"')
    assert engine.decide(Point.MCP_TOOL_RESULT, suspended) != first
    assert machine.asked == 2
