"""What is remembered of policy answers, and what never is."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from firewall.core.points import Point
from firewall.decide import bundle as bundles
from firewall.decide.memo import ENTRIES, KEY_BYTES, Memo, is_steady
from firewall.decide.regorus import RegorusEngine

TAIL = b',"request_id":"x_1","time_us":7}}'


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


def test_the_key_is_the_whole_input_but_its_end() -> None:
    assert Memo.key(b'{"a":1' + TAIL) == b'{"a":1'
    assert Memo.key(b'{"a":1,"request_id":"x","labels":["secret"],"time_us":7}}') == b""
    assert Memo.key(b'{"a":1,"request_id":"x","time_us":7},"resource":{}}') == b""
    assert Memo.key(b'{"a":1}') == b""
    assert Memo.key(b'{"a":"' + b"x" * KEY_BYTES + b'"' + TAIL) == b""


def test_an_argument_that_looks_like_the_end_hides_nothing() -> None:
    one = b'{"arguments":{"x":1,"request_id":"x","time_us":7}},"labels":[]' + TAIL
    two = b'{"arguments":{"x":1,"request_id":"x","time_us":7}},"labels":["secret"]' + TAIL
    assert Memo.key(one) != Memo.key(two) != b""


def test_memory_is_bounded() -> None:
    memo = Memo()
    for n in range(3 * ENTRIES):
        memo.put(str(n).encode(), b"{}")
    assert len(memo._answers) <= ENTRIES


def _case(bundle: bundles.Bundle, point: Point) -> bytes:
    found = next(orjson.loads(c.document) for c in bundle.cases if c.point is point)
    context = found["context"]
    found["context"] = {k: v for k, v in context.items() if k not in ("request_id", "time_us")} | {
        "request_id": "x_1",
        "time_us": 1,
    }
    rest = {k: found.pop(k) for k in ("context",)}
    return orjson.dumps(found | rest)


def test_a_result_is_evaluated_once_and_a_changed_fact_again(tmp_path: Path) -> None:
    bundle = bundles.load()
    engine = RegorusEngine(bundle, "compiled")
    document = _case(bundle, Point.MCP_TOOL_RESULT)
    first = engine.decide(Point.MCP_TOOL_RESULT, document)
    later = document.replace(b'"x_1","time_us":1', b'"x_2","time_us":99')
    assert engine.decide(Point.MCP_TOOL_RESULT, later) == first
    memo = engine._memos[Point.MCP_TOOL_RESULT]
    assert memo is not None
    assert memo.hits == 1
    suspended = document.replace(b'"approved"', b'"suspended"')
    assert suspended != document
    assert engine.decide(Point.MCP_TOOL_RESULT, suspended) != first
    assert memo.hits == 1


def test_a_call_is_evaluated_each_time() -> None:
    bundle = bundles.load()
    engine = RegorusEngine(bundle, "compiled")
    document = _case(bundle, Point.MCP_TOOL_CALL)
    engine.decide(Point.MCP_TOOL_CALL, document)
    assert engine._memos[Point.MCP_TOOL_CALL] is None
